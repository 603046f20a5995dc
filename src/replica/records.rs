//! What a group record means for this replica, and every change of role, named from → to.

use cutover_arbiter::planted;
use cutover_arbiter::record::{Change, Epoch, GroupId, GroupRecord, Member};

use crate::machine::StateMachine;
use crate::protocol::peer::{PeerControl, PeerRefusal, Purpose};

use super::follow::{Follow, Stage};
use super::primary::Primary;
use super::proposals::Grant;
use super::{Event, Input, Link, LinkId, Outbox, Output, Replica, Role, Stance, StopReason, Stopping, draw};

impl<M: StateMachine> Replica<M> {
    /// Takes in a record from wherever it comes. Lower epochs are old news and ignored: watches may run backwards.
    /// The arbiters' word that the group of this name is another one ends this replica.
    pub(super) fn learn(&mut self, record: GroupRecord, out: &mut Outbox<M>) {
        if record.group != self.config.group || matches!(self.role, Stance::Stopped) {
            return;
        }
        if let Some(ours) = self.state.group_id.filter(|ours| *ours != record.group_id) {
            return self.stop(StopReason::OtherGroup { theirs: record.group_id, ours }, out);
        }
        let old = self.record.as_ref();
        if record.epoch < self.known_epoch || old.is_some_and(|old| record.epoch <= old.epoch) {
            if planted!("uninclude_on_same_epoch") {
                self.proposal = None;
                self.forget_joint();
            }
            return;
        }
        let primary_changed = old.is_none_or(|old| {
            old.primary.replica != record.primary.replica || old.primary.incarnation != record.primary.incarnation
        });
        self.known_epoch = self.known_epoch.max(record.epoch);
        let grant = self.grant_of(&record);
        self.fence_is_over();
        if self.proposal.as_ref().is_some_and(|pending| pending.proposal.expected_epoch < record.epoch) {
            self.proposal = None;
        }
        // What expected an epoch below this one was granted by now or never will be.
        self.own_requests.retain(|_, expected| *expected >= record.epoch);
        if grant != Grant::NotMine {
            let change = record.last_change.change.name();
            self.event(out, Event::Granted { change, epoch: record.epoch });
        }
        let was_backup = self.is_backup();
        self.record = Some(record.clone());
        self.met.retain(|replica, _| record.member(replica).is_some());
        match &self.role {
            Stance::Primary(_) => self.primary_learns(&record, grant, out),
            Stance::Follow(_) => self.follower_learns(&record, grant, primary_changed, out),
            Stance::Stopped => {}
        }
        let (now, is_backup) = (self.now.boot, self.is_backup());
        if let Stance::Follow(follow) = &mut self.role
            && is_backup
            && !was_backup
        {
            // Until now it was not due often enough to know whose silence it was (H17).
            follow.be_patient(now);
        }
        self.check_waits_for_seize(out);
        for link in self.links.keys().copied().filter(|_| !planted!("H14")).collect::<Vec<_>>() {
            if !matches!(self.links[&link], Link::Accepted | Link::Probe { .. }) {
                self.send(link, PeerControl::Record(Box::new(record.clone())), out);
            }
        }
    }

    /// The arbiters' watch: one arbiter's word, who may lag, or have been set back.
    pub(super) fn watched(&mut self, record: GroupRecord, out: &mut Outbox<M>) {
        let below = record.group == self.config.group && record.epoch < self.known_epoch;
        if below && self.fenced_from().is_some() {
            // What stands below the fence only a read tells.
            self.read_record(out);
        }
        let again = self.record.as_ref() == Some(&record);
        self.learn(record, out);
        // They had forgotten the group, and are back with it. Nobody else can lead it; whether this one can, they say.
        if again && self.proposal.is_none() && self.is_elect() && self.fenced_from().is_none() {
            let now = self.now.boot;
            let Stance::Follow(follow) = &mut self.role else { return };
            follow.suspicion.get_or_insert((now, "the arbiters are back"));
            self.propose(Change::Resume, out);
        }
    }

    /// A record that another replica shows. One of another group of this name is a stranger's, who was given this address
    /// or that one by mistake, or is left of a group that was made anew: no reason for anything, least of all to stop.
    /// Which group of this name is the right one only the arbiters tell.
    pub(super) fn learn_from_peer(&mut self, record: GroupRecord, out: &mut Outbox<M>) {
        let ours = self.state.group_id.or(self.record.as_ref().map(|record| record.group_id));
        if ours != Some(record.group_id) {
            return;
        }
        let below = record.epoch < self.known_epoch && self.fenced_from().is_some();
        if below && self.shown_below_fence() != Some(record.epoch) && self.reads.is_empty() {
            // The watch tells it once, and the read that follows may have failed.
            self.read_record(out);
        }
        self.learn(record, out);
    }

    fn follower_learns(&mut self, record: &GroupRecord, grant: Grant, primary_changed: bool, out: &mut Outbox<M>) {
        if record.is_primary(&self.config.name, self.incarnation) {
            // Once it has begun that epoch, an operator's word has made it primary already: after a restart it resumes,
            // since a follower may hold what its former life sent in this epoch and its own journal has lost.
            let by_operator = matches!(record.last_change.change, Change::Seize { .. } | Change::Adopt { .. })
                && self.log.last().epoch < record.epoch
                // What the operator saw must still be here, or it is asked again: `Resume` is refused then.
                && self.log.last().index >= record.last_change.commit.index;
            if grant != Grant::NotMine || by_operator || planted!("P10") {
                self.follower_to_primary(record, grant, out);
            } else {
                // Made primary by another's request: a new epoch of one's own first, so that two lives of a primary
                // never share one.
                self.drop_upstream(out);
                if let Stance::Follow(follow) = &mut self.role {
                    follow.suspicion = Some((self.now.boot, "handed over"));
                }
                self.propose(Change::Resume, out);
            }
            return;
        }
        let now = self.now.boot;
        let in_sync = record.has(&self.config.name, self.incarnation);
        if primary_changed {
            self.drop_upstream(out);
        }
        let Stance::Follow(follow) = &mut self.role else { return };
        follow.was_in_sync |= in_sync;
        if primary_changed {
            follow.retarget(now);
        } else if matches!(follow.stage, Stage::Idle) {
            follow.dial_now(now);
        }
    }

    fn primary_learns(&mut self, record: &GroupRecord, grant: Grant, out: &mut Outbox<M>) {
        let next = matches!(&self.role, Stance::Primary(primary) if record.epoch == Epoch(primary.epoch.0 + 1));
        if record.is_primary(&self.config.name, self.incarnation) && grant != Grant::NotMine && next {
            return self.membership_changed(record, grant, out);
        }
        self.primary_to_follower(record.epoch, out);
        if record.is_primary(&self.config.name, self.incarnation) {
            self.propose(Change::Resume, out);
        }
    }

    /// Backup (or founder, or the one an operator chose) → primary. Every entry held is applied first; what was
    /// drained is not committed until every member of the new in-sync set has acknowledged it.
    fn follower_to_primary(&mut self, record: &GroupRecord, grant: Grant, out: &mut Outbox<M>) {
        let Stance::Follow(follow) = &mut self.role else { return };
        let from = if follow.was_in_sync { Role::Backup } else { Role::Starting };
        let since = follow.suspicion.map_or(self.now.boot, |(since, _)| since);
        let link = follow.stage.link();
        let commit = follow.commit().min(self.log.last().index);
        follow.idle();
        if let Some(link) = link {
            self.links.remove(&link);
            self.close(link, out);
        }
        self.forget_kept();
        let before = self.state.applied.index;
        let last = self.log.last().index;
        while !planted!("P21") && self.apply_upto(last, usize::MAX, out) {}
        if planted!("P17") {
            self.state.sessions = Default::default();
        }
        if self.state.applied.index != last && !planted!("P21") && !planted!("drain_differs") {
            let differed = out.outputs.iter().rev().find_map(|output| match output {
                Output::Event(Event::Diverged { index, operation }) => Some(format!("{operation} at index {index}")),
                _ => None,
            });
            let reason = format!(
                "while draining its log in a cut-over, it executed {} otherwise than the old primary recorded; this copy \
                 cannot be trusted. Start it with an empty data directory to join again",
                differed.unwrap_or_else(|| "an entry".to_owned())
            );
            return self.stop(StopReason::Untrusted(reason), out);
        }
        let genesis = last == 0;
        let group_id = record.group_id;
        self.clock.raise(self.state.clock_floor(self.restarted));
        if genesis {
            self.clock.raise(self.now.wall.max(1));
        }
        self.event(out, Event::Role { from, to: Role::Primary, epoch: record.epoch });
        let mut primary = Primary::new(self.now.boot, record.epoch, since, last - before, commit, last + 1);
        primary.granted(record, grant);
        self.role = Stance::Primary(Box::new(primary));
        self.start_epoch(group_id, genesis, out);
    }

    /// Primary → follower, on any evidence of a higher epoch. Held replies are dropped; they were never sent.
    pub(super) fn primary_to_follower(&mut self, epoch: Epoch, out: &mut Outbox<M>) {
        self.seal_block();
        let Stance::Primary(primary) = &mut self.role else { return };
        let commit = primary.commit;
        let (handover, led) = (primary.handover.take(), primary.epoch);
        let links: Vec<LinkId> = primary.followers.keys().copied().collect();
        for link in links {
            self.links.remove(&link);
            self.close(link, out);
        }
        let mut follow = Follow::new(self.now.boot);
        follow.was_in_sync = true;
        follow.set_commit(commit);
        self.role = Stance::Follow(Box::new(follow));
        self.proposal = None;
        out.outputs.push(Output::Deposed);
        self.event(out, Event::Deposed { epoch });
        self.event(out, Event::Role { from: Role::Primary, to: Role::Fenced, epoch });
        if let Some((to, ticket)) = handover.and_then(|handover| Some((handover.to, handover.ticket?))) {
            let result = self.what_ended_a_switchover(&to, led).map(Box::new);
            out.outputs.push(Output::SwitchoverEnded { ticket, result });
        }
    }

    /// A primary that is no longer one has handed over only if the record says so.
    fn what_ended_a_switchover(&self, to: &Member, led: Epoch) -> Result<GroupRecord, String> {
        let name = &to.replica;
        match self.record.as_ref().filter(|record| record.epoch > led) {
            Some(record) if record.is_primary(name, to.incarnation) => Ok(record.clone()),
            Some(record) => Err(format!(
                "{} became primary in epoch {} by another change ({}), before {name} was handed the group; look at \
                 `cutover status`",
                record.primary.replica,
                record.epoch,
                record.last_change.change.name()
            )),
            None if self.fenced_from().is_some() => Err(format!(
                "an operator's fence (epoch {}) ended it: this replica serves no longer, and {name} was not handed the \
                 group; `cutover adopt` must be gone on with",
                self.known_epoch
            )),
            None => Err(format!(
                "the arbiters lost their data, so this replica serves no longer, and {name} was not handed the group; \
                 restore the arbiters, or see `cutover adopt`"
            )),
        }
    }

    /// Any role → stopped.
    pub(super) fn stop(&mut self, reason: StopReason, out: &mut Outbox<M>) {
        if matches!(self.role, Stance::Primary(_)) {
            out.outputs.push(Output::Deposed);
        }
        self.role = Stance::Stopped;
        for link in std::mem::take(&mut self.links).into_keys() {
            self.close(link, out);
        }
        out.outputs.push(Output::Stop(reason));
    }

    /// A proposal was refused: what it was for goes on without it.
    pub(super) fn change_refused(&mut self, change: &Change, news: bool, out: &mut Outbox<M>) {
        let now = self.now.boot;
        match &mut self.role {
            Stance::Primary(_) => self.primary_refused(change, out),
            Stance::Follow(follow) => {
                // Still named and the primary still silent: it will be suspected again, at the epoch now known; not
                // at once when nothing is new, since the answer would be the same.
                if follow.suspicion.take().is_some() {
                    // It may have dialled already whom the record names now.
                    let idle = follow.stage.link().is_none();
                    if news && idle {
                        follow.dial_now(now);
                    } else if !news {
                        if idle {
                            // A dial that is refused is a suspicion at once: it waits longer each time.
                            follow.dial_later(now);
                        }
                        follow.be_patient(now);
                    }
                }
            }
            Stance::Stopped => {}
        }
    }

    pub(super) fn read_answered(&mut self, ticket: u64, record: Option<GroupRecord>, out: &mut Outbox<M>) {
        let shown = record.as_ref().filter(|record| record.group == self.config.group).map(|record| record.epoch);
        self.read_shows(ticket, record, out);
        self.fence_after_read(ticket, shown, out);
    }

    fn read_shows(&mut self, ticket: u64, record: Option<GroupRecord>, out: &mut Outbox<M>) {
        let known = self.reads.remove(&ticket).unwrap_or_default();
        if record.as_ref().is_some_and(|record| record.group != self.config.group) {
            // Not what was asked for.
            return self.primary_read_failed(ticket, out);
        }
        let shown = record.as_ref().map_or(Epoch::default(), |record| record.epoch);
        if shown < known && known < self.known_epoch && !planted!("H10") {
            // Forgotten when this was read, and granted since: by an operator's `Adopt`, or before. Only what they show
            // now tells.
            self.read_record(out);
            return self.primary_read_failed(ticket, out);
        }
        if shown < known && !planted!("H10") {
            return self.arbiters_forgot(known, shown, out);
        }
        if let Some(record) = record {
            self.learn(record, out);
        } else if self.record.is_none() && self.log.is_empty() {
            self.create(out);
        }
        self.primary_read_answered(ticket, out);
    }

    /// The arbiters lost what they had granted, and may grant it to another: this replica serves no longer. Its state
    /// may be the last copy, so it keeps it for an operator to `Adopt`.
    pub(super) fn arbiters_forgot(&mut self, known: Epoch, shown: Epoch, out: &mut Outbox<M>) {
        if self.fenced_from().is_some() {
            return self.fence_stands(shown, out);
        }
        self.event(out, Event::ArbitersForgot { known, shown });
        self.primary_to_follower(known, out);
    }

    pub(super) fn read_failed(&mut self, ticket: u64, out: &mut Outbox<M>) {
        self.reads.remove(&ticket);
        self.primary_read_failed(ticket, out);
        self.fence_after_read(ticket, None, out);
    }

    /// Makes the group: only a replica that was told to, and that holds nothing.
    fn create(&mut self, out: &mut Outbox<M>) {
        let Some(options) = self.config.create else { return };
        let group_id = GroupId(draw(&mut self.random));
        let member = self.myself();
        let change = Change::Create { group_id, member, mode: options.mode, min_in_sync: options.min_in_sync };
        self.propose(change, out);
    }

    pub(super) fn shutdown(&mut self, out: &mut Outbox<M>) {
        if self.stopping.is_some() {
            return;
        }
        let deadline = self.now.boot + self.config.switchover_timeout * 2;
        self.stopping = Some(Stopping { deadline, reason: StopReason::Asked });
        self.end_a_hopeless_handover(out);
        let can_hand_over = match &self.role {
            Stance::Primary(_) => self.record.as_ref().is_some_and(|record| record.in_sync.len() > 1),
            _ => false,
        };
        if let Stance::Primary(primary) = &mut self.role
            && let Some(handover) = &mut primary.handover
        {
            // One is under way, and has all the time that one of its own would have.
            handover.deadline = self.now.boot + self.config.switchover_timeout;
        } else if can_hand_over {
            self.step(Input::Switchover { to: None, ticket: 0 }, out);
        } else {
            self.stop(StopReason::Asked, out);
        }
    }

    /// A replica that was asked to stop does so once its successor lives, or when its time is up.
    pub(super) fn stop_if_due(&mut self, out: &mut Outbox<M>) {
        let Some(stopping) = self.stopping.clone() else { return };
        let successor_lives = matches!(&self.role, Stance::Follow(follow) if matches!(follow.stage, Stage::Following(_) | Stage::Receiving(_)));
        let given_up = matches!(&self.role, Stance::Primary(primary) if primary.handover.is_none());
        if successor_lives || given_up || self.now.boot >= stopping.deadline {
            self.stop(stopping.reason, out);
        }
    }

    /// A dial of ours succeeded.
    pub(super) fn dialled(&mut self, link: LinkId, out: &mut Outbox<M>) {
        match self.links.get_mut(&link) {
            // One that was given up meanwhile would show what this replica is before its disk knows of that.
            Some(Link::Upstream) if !matches!(&self.role, Stance::Follow(follow) if follow.dials(link)) => {
                self.links.remove(&link);
                self.close(link, out);
            }
            Some(Link::Upstream) => {
                let held = self.log.held(self.state.applied.index);
                let mut resume = None;
                if let Stance::Follow(follow) = &mut self.role {
                    follow.stage = Stage::Greeting(link);
                    resume = follow.kept.as_ref().map(|kept| kept.resume());
                }
                self.greet(link, Purpose::Follow { held, resume }, out);
            }
            Some(Link::Probe { .. }) if !self.disk.knows(self.incarnation) => self.close(link, out),
            Some(Link::Probe { accepted, .. }) => {
                *accepted = true;
                self.greet(link, Purpose::Probe, out);
            }
            _ => self.close(link, out),
        }
    }

    /// A link is gone, or a dial failed.
    pub(super) fn link_lost(&mut self, link: LinkId, refused: bool, out: &mut Outbox<M>) {
        match self.links.remove(&link) {
            Some(Link::Upstream) => self.upstream_lost(link, refused, out),
            Some(Link::Follower) => self.follower_lost(link, out),
            Some(Link::Probe { member, accepted }) => self.probe_lost(&member, refused, accepted, out),
            Some(Link::Accepted) | None => {}
        }
    }

    /// Answers a dialer that is not taken.
    pub(super) fn refuse(&mut self, link: LinkId, reason: PeerRefusal, out: &mut Outbox<M>) {
        let refuse = PeerControl::Refuse {
            replica: self.config.name.clone(),
            incarnation: self.incarnation,
            reason,
            record: self.shown_record(),
        };
        self.send(link, refuse, out);
        self.close(link, out);
        self.links.remove(&link);
    }

    /// The newest record, as it is shown to whoever dials or is dialled.
    pub(super) fn shown_record(&self) -> Option<Box<GroupRecord>> {
        self.record.clone().filter(|_| !planted!("H14")).map(Box::new)
    }

    /// True when `member` is this replica, in this life.
    pub(super) fn is_me(&self, member: &Member) -> bool {
        // The number first: it is compared in no time, and nearly always tells.
        member.incarnation == self.incarnation && member.replica == self.config.name
    }
}

#[cfg(test)]
mod tests {
    use super::super::two::{JOINER, Two, turn};
    use super::super::{Input, Limits};
    use super::*;
    use crate::protocol::peer::PeerMessage;

    /// One that is left of a group which was made anew shows its record to whoever has its addresses now.
    #[test]
    fn who_holds_nothing_learns_only_from_its_arbiters_which_group_is_its_own() {
        let mut two = Two::new(Limits::default());
        let (now, ours) = (two.now, two.record().unwrap());
        let mut theirs = GroupRecord { group_id: GroupId(ours.group_id.0 + 1), ..ours.clone() };
        theirs.epoch = Epoch(40);
        let fresh = &mut two.cores[JOINER];
        let link: LinkId = 77;
        turn(fresh, now, Input::Accepted(link));
        let shown = PeerMessage::Control(PeerControl::Record(Box::new(theirs)));
        turn(fresh, now, Input::Peer(link, shown));
        assert_eq!((fresh.vitals().known_epoch, fresh.record()), (Epoch(0), None));
        two.turn(JOINER, None);
        two.until("in sync", Two::in_sync);
        assert_eq!(two.cores[JOINER].record().map(|record| record.group_id), Some(ours.group_id));
    }

    /// Seed 8102392: the watch had told it once, the read that followed failed, and nobody heard of the fence.
    #[test]
    fn who_is_fenced_asks_again_what_stands_below_when_another_replica_shows_it() {
        fn asks(outputs: Vec<Output<crate::machine::kv::KeyValue>>) -> Option<u64> {
            let read = |output| if let Output::Read { ticket } = output { Some(ticket) } else { None };
            outputs.into_iter().find_map(read)
        }
        let mut two = Two::new(Limits::default());
        two.turn(JOINER, None);
        two.until("in sync", Two::in_sync);
        let (now, record, link) = (two.now, two.record().unwrap(), 77);
        let core = &mut two.cores[JOINER];
        let (epoch, until) = (Epoch(record.epoch.0 + 16), now.boot + std::time::Duration::from_secs(1));
        let ticket =
            asks(turn(core, now, Input::Fence { epoch, until, ticket: 5 })).expect("the arbiters are asked first");
        turn(core, now, Input::ReadFailed { ticket });
        assert!(core.fenced_from().is_some());
        turn(core, now, Input::Accepted(link));
        let shown = || Input::Peer(link, PeerMessage::Control(PeerControl::Record(Box::new(record.clone()))));
        for _ in 0..2 {
            let ticket = asks(turn(core, now, shown())).expect("it asks");
            assert_eq!(asks(turn(core, now, shown())), None, "one question at a time");
            turn(core, now, Input::ReadFailed { ticket });
        }
        let ticket = asks(turn(core, now, shown())).expect("it asks");
        turn(core, now, Input::Read { ticket, record: Some(record.clone()) });
        assert_eq!(core.shown_below_fence(), Some(record.epoch));
        assert_eq!(asks(turn(core, now, shown())), None, "it knows");
    }
}
