//! S2, O1, O4, S5: the instant of a release.

use cutover::port::Answer;
use cutover::protocol::client::Outcome;
use cutover::replica::{EntryAt, Hold, Release, decoded_outcome};
use cutover_arbiter::record::{Change, Incarnation, Index, Member, Proposal};

use crate::canon::{Core, Group};
use crate::doors::{Held, What};
use crate::replicas::SimReplica;
use crate::world::{Id, Verdict};

impl Group {
    /// A reply goes out.
    pub fn releases(
        &mut self,
        id: Id,
        core: &Core,
        release: &Release,
        held: &Held,
        replicas: &[SimReplica],
        first: Id,
    ) -> Verdict {
        if held.round_before == u64::MAX || (held.refusal && held.hold == Hold::default()) {
            // A refusal that says nothing of the state.
            return Ok(());
        }
        self.releases += 1;
        let upto = held.hold.index;
        self.s12_fail_stop(id, core)?;
        self.s2_one_releaser(core, release, upto)?;
        self.s8_one_life_in_an_epoch(id, core, release.epoch)?;
        self.released_durably(id, core, release.epoch)?;
        self.o1_enough_in_sync(id, core, upto)?;
        self.o1_output_rule(id, core, release, upto, (replicas, first))?;
        let own = held.is_own();
        if !own {
            self.o4_reads_are_outputs(id, core, held)?;
        }
        self.grow(id, core, upto)?;
        self.promises(id, release.epoch);
        self.released_epoch = self.released_epoch.max(release.epoch);
        self.judge_content(held, own)
    }

    /// S2: who releases at an epoch is that epoch's primary, and after a release in a later epoch only what was
    /// released before.
    fn s2_one_releaser(&mut self, core: &Core, release: &Release, upto: Index) -> Verdict {
        self.s8_made_by_its_primary(core, release.epoch, "releases").map_err(|why| format!("S2: {why}"))?;
        if release.epoch < self.released_epoch && upto > self.end() {
            return Err(format!(
                "S2: {} releases {upto} in epoch {}, after a release in epoch {} up to {}",
                core.status().name,
                release.epoch,
                self.released_epoch,
                self.end()
            ));
        }
        Ok(())
    }

    /// Whose acknowledgement a release needs: the in-sync set that the releaser knows, joint with what it asked to
    /// admit and has no answer to (S5), whatever it believes itself. A joiner that has come back in another life binds
    /// nobody: the old one can never lead.
    pub fn required(&self, id: Id, core: &Core) -> Vec<Member> {
        let Some(record) = core.record() else { return Vec::new() };
        let mut members: Vec<Member> = record.in_sync.clone();
        let open = self.proposals.iter().filter(|(by, life, proposal)| {
            (*by, *life) == (id, core.incarnation())
                && proposal.expected_epoch == record.epoch
                && !self.refused.contains(&proposal.request)
        });
        members.extend(open.filter_map(|(_, _, proposal)| match &proposal.change {
            Change::Admit { member } if !self.came_back(member) => Some(member.clone()),
            _ => None,
        }));
        members.retain(|member| member.incarnation != core.incarnation());
        members
    }

    fn came_back(&self, member: &Member) -> bool {
        let life = |life: &Incarnation| *life != member.incarnation;
        self.living.get(&member.replica).is_some_and(life)
    }

    /// O1: while fewer than `min_in_sync` are in sync nothing more is released than was before.
    fn o1_enough_in_sync(&self, id: Id, core: &Core, upto: Index) -> Verdict {
        let Some(record) = core.record() else { return Ok(()) };
        let enough = record.in_sync.len() >= usize::from(record.min_in_sync);
        let before = self.lives.get(&id).map_or(0, |life| life.enough).max(self.end());
        if !enough && upto > before {
            return Err(format!(
                "O1: {} releases {upto} with {} in sync, {} are wanted",
                core.status().name,
                record.in_sync.len(),
                record.min_in_sync
            ));
        }
        Ok(())
    }

    /// O1: at the instant of a release every required member holds all entries up to it with equal content, and has
    /// acknowledged so to this primary, by acknowledgements of the epoch in which they arrived; so has the releaser's
    /// own disk, or in mode `memory` its log. (A commit outlives the primary's own changes of membership: whoever is required after one was required
    /// before it.)
    fn o1_output_rule(
        &mut self,
        id: Id,
        core: &Core,
        release: &Release,
        upto: Index,
        (replicas, first): (&[SimReplica], Id),
    ) -> Verdict {
        let name = core.status().name;
        let own = self.has_durably(id, core);
        if own < upto {
            return Err(format!("O1: {name} releases {upto}, it has durably {own}"));
        }
        // A joiner that was found in another life binds nobody, also once its old one was admitted all the same: a life
        // that is over never leads.
        let over = |member: &Member| {
            let admitted = core.record().map(|record| &record.last_change.change);
            self.came_back(member) && matches!(admitted, Some(Change::Admit { member: other }) if other == member)
        };
        let required: Vec<Member> = self.required(id, core).into_iter().filter(|member| !over(member)).collect();
        for member in required {
            let heard = self.heard.get(&(id, member.incarnation)).copied().unwrap_or_default();
            if heard.verified < upto {
                return Err(format!(
                    "O1: {name} releases {upto} in epoch {}, {} has acknowledged {} in epoch {}",
                    release.epoch, member.replica, heard.verified, heard.epoch
                ));
            }
            let holder = first + member.addresses.peer[1..].parse::<usize>().unwrap_or_default();
            let Some(other) = replicas.get(holder - first).and_then(|replica| replica.core.as_ref()) else { continue };
            // What it acknowledged before its data was set back was true when it said so.
            let set_back = self.lives.get(&holder).is_some_and(|life| life.exempt);
            if other.incarnation() == member.incarnation && !set_back {
                self.o1_holds((id, core), (holder, other), upto, member.incarnation)?;
            }
        }
        Ok(())
    }

    fn o1_holds(
        &mut self,
        (id, core): (Id, &Core),
        (holder, other): (Id, &Core),
        upto: Index,
        incarnation: Incarnation,
    ) -> Verdict {
        let verified = self.verify(holder, other)?;
        let from = self.end() + 1;
        let known = self.lives.get(&holder).is_some_and(|life| life.incarnation == incarnation);
        let mut equal = known && verified >= upto.min(self.end());
        for index in from..=upto {
            // What came by a snapshot is compared by its running hash.
            let theirs = self.holds(holder, other, index);
            equal &= theirs == EntryAt::Below || theirs == self.holds(id, core, index);
        }
        if equal {
            return Ok(());
        }
        Err(format!(
            "O1: {} releases {upto}, which {} does not hold: equal up to {verified}, the canon ends at {}, it has {:?}",
            core.status().name,
            other.status().name,
            self.end(),
            other.vitals(),
        ))
    }

    /// O4: what is not the reply of its own entry waits for a round that every required member confirmed by an
    /// acknowledgement of a message sent after it was asked for.
    fn o4_reads_are_outputs(&self, id: Id, core: &Core, held: &Held) -> Verdict {
        let name = core.status().name;
        // Its round was confirmed by everybody who could lead before this turn asked to admit somebody.
        let joins = |member: &Member| {
            let admits =
                |proposal: &Proposal| matches!(&proposal.change, Change::Admit { member: other } if other == member);
            let mut open = self.proposals.iter().filter(|(_, _, proposal)| admits(proposal)).peekable();
            open.peek().is_some() && open.all(|(_, _, proposal)| self.fresh.contains(&proposal.request))
        };
        let in_sync =
            |member: &Member| core.record().is_some_and(|record| record.has(&member.replica, member.incarnation));
        for member in self.required(id, core) {
            if joins(&member) && !in_sync(&member) {
                continue;
            }
            let heard = self.heard.get(&(id, member.incarnation)).copied().unwrap_or_default();
            if self.came_back(&member) {
                // The life that the record names is over, and never leads.
                continue;
            }
            if held.hold.round == 0 && held.alone {
                // Asked for when it was alone in sync. Who joined since holds what was released then.
                continue;
            }
            if held.hold.round <= held.round_before {
                return Err(format!("O4: {name} answers a read by round {}, sent before it", held.hold.round));
            }
            if heard.round < held.hold.round {
                return Err(format!(
                    "O4: {name} answers a read of round {}, {} has confirmed {}",
                    held.hold.round, member.replica, heard.round
                ));
            }
        }
        Ok(())
    }

    /// What the reply says, against what the canon says.
    fn judge_content(&mut self, held: &Held, own: bool) -> Verdict {
        let upto = held.hold.index;
        match &held.what {
            What::Library(Answer::Reply { sequence, at }, Some(session)) => {
                self.s7_same_reply(*session, *sequence, *at, held, own)
            }
            What::Library(Answer::Outcome { sequence, .. }, Some(session)) => match decoded_outcome(&held.reply) {
                Some(Outcome::NotExecuted) if self.sessions.contains_key(&(*session, *sequence)) => {
                    Err(format!("S7: {sequence} of {session} is told not executed, and was"))
                }
                _ => Ok(()),
            },
            What::Redis if own => match self.at(upto) {
                Some(entry) if entry.reply != held.reply => Err(format!("S13: the entry at {upto} replied otherwise")),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
