//! The operator: in a group whose every in-sync member came back in another life it seizes the best copy; when the
//! arbiters have lost their data, it lets them adopt it.

use std::collections::BTreeSet;
use std::time::Duration;

use cutover::replica::{FenceRefused, Input, fence_epoch};
use cutover_arbiter::protocol::Question;
use cutover_arbiter::record::{Change, Epoch, GroupRecord, Incarnation, Member, Proposal, RequestId};
use rand::RngExt;

use super::asking::Purpose;
use super::canon::{Core, Group};
use super::counters::Must;
use super::faults::Undo;
use super::world::{Event, Id, Local, Time, Verdict, World};

/// How often the operator looks.
const LOOKS: Time = 700_000;
/// How long a promise is waited for.
const FENCE_PATIENCE: Time = 4_000_000;

/// An adoption that is being prepared.
#[derive(Debug)]
pub struct Fencing {
    chosen: Id,
    incarnation: Incarnation,
    /// Whoever is chosen was in sync by the newest record that anybody knew.
    lossless: bool,
    /// Below it nothing is done by anybody else.
    epoch: Epoch,
    /// The highest epoch that anybody knew without a fence.
    newest: Epoch,
    waits: BTreeSet<Id>,
    until: Time,
}

/// The highest epoch that a replica knows without a fence.
fn known(core: &Core) -> Epoch {
    let status = core.status();
    status.fenced_from.unwrap_or(status.epoch)
}

impl World {
    pub fn operator_looks(&mut self) {
        self.schedule(LOOKS, Event::Operator);
        for group in 0..self.groups.len() {
            if let Some((primary, _)) = self.groups[group].taken_for_dead {
                // Until an answer has come, or the record shows what it was.
                let leads = self.groups[group].record().is_some_and(|record| {
                    self.id_of(&record.primary.addresses.peer) == primary && record.in_sync.len() == 1
                });
                if leads {
                    self.stop(primary, 2 * LOOKS);
                } else {
                    self.groups[group].taken_for_dead = None;
                }
            }
            if self.groups[group].lost || self.groups[group].operating || self.random.random_bool(0.4) {
                continue;
            }
            let proposal = match (self.groups[group].forgotten, &self.groups[group].taken_for_dead) {
                (true, _) => self.adoption(group),
                // It asks the same until it has an answer.
                (false, Some((_, again))) => Some(again.clone()),
                (false, None) => self.raise(group).or_else(|| self.seizure(group)),
            };
            let Some(proposal) = proposal else { continue };
            self.groups[group].operating = true;
            // From somewhere in the network.
            let asker = self.client_ids().start + self.random.random_range(0..self.clients.len());
            self.say(|| format!("the operator proposes {} at {}", proposal.change.name(), proposal.expected_epoch));
            self.ask(asker, Purpose::Operate(group), Question::TestAndSet(Box::new(proposal)));
        }
    }

    /// The living replica of a group with the most in its log, as `status` of each of them shows it.
    fn best_copy(&self, group: usize) -> Option<(Id, &Core)> {
        let living = self.replica_ids().filter(|id| self.replica(*id).group == group && !self.replica(*id).stopping);
        let cores = living.filter_map(|id| self.replica(id).core.as_ref().map(|core| (id, core)));
        cores.max_by_key(|(id, core)| (core.status().index, *id))
    }

    /// Whether a group waits for a seizure: everyone in sync is up, in another life than the record's.
    pub fn waits_for_seize(&self, group: usize) -> bool {
        let Some(record) = self.groups[group].record() else { return false };
        record.in_sync.iter().all(|member| {
            let core = self.replica(self.id_of(&member.addresses.peer)).core.as_ref();
            core.is_some_and(|core| core.incarnation() != member.incarnation)
        })
    }

    fn seizure(&mut self, group: usize) -> Option<Proposal> {
        let told = self
            .replica_ids()
            .filter(|id| self.replica(*id).group == group)
            .any(|id| self.replica(id).core.as_ref().is_some_and(|core| core.status().waits_for_seize));
        if !told || !self.waits_for_seize(group) {
            return self.mistaken_seizure(group);
        }
        let record = self.groups[group].record()?.clone();
        let request = RequestId(self.random.random());
        let (_, core) = self.best_copy(group)?;
        let status = core.status();
        if status.epoch > record.epoch || status.record.as_ref().is_none_or(|known| known.epoch < record.epoch) {
            return None;
        }
        Some(seize(&record, request, core))
    }

    /// The operator takes a primary for dead that is alone and only stands still, and seizes the group for a replica that
    /// was removed: what the primary acknowledged alone is lost by the operator's word, and when it wakes it must answer
    /// nothing more.
    fn mistaken_seizure(&mut self, group: usize) -> Option<Proposal> {
        let record = self.groups[group].record()?.clone();
        let primary = self.id_of(&record.primary.addresses.peer);
        let process = &self.processes[primary];
        // Whose boot clock stands still, too, cannot know of it: that is outside the guarantee.
        let stands = process.alive && process.stopped_until > self.now && process.suspended_until < self.now;
        if record.in_sync.len() > 1 || !stands {
            return None;
        }
        let request = RequestId(self.random.random());
        let others = self.replica_ids().filter(|id| *id != primary && self.replica(*id).group == group);
        let cores = others.filter_map(|id| self.replica(id).core.as_ref());
        // Not one whose state is still coming.
        let knows = |core: &&Core| {
            core.record().is_some_and(|known| known.epoch == record.epoch) && core.status().committed > 0
        };
        let core = cores.filter(knows).max_by_key(|core| core.status().index)?;
        let proposal = seize(&record, request, core);
        self.set_apart(primary);
        self.groups[group].taken_for_dead = Some((primary, proposal.clone()));
        self.report.saw(Must::Mistaken);
        Some(proposal)
    }

    /// It stands still until the operator has an answer, and for a while only clients reach it.
    fn set_apart(&mut self, primary: Id) {
        self.stop(primary, 2 * LOOKS);
        let others = self.arbiter_ids().chain(self.replica_ids()).filter(|id| *id != primary);
        let links: Vec<_> = others.flat_map(|other| [(primary, other), (other, primary)]).collect();
        self.cut(&links);
        let (length, era) = (self.random.random_range(LOOKS..8 * LOOKS), self.era);
        self.schedule(length, Event::Undo(Undo::Heal { links, era }));
    }

    /// Chooses whom to adopt, and has every other replica fenced, as `cutover adopt` does; the proposal once all have
    /// promised. Every replica must be up: nobody is asserted to be stopped here.
    fn adoption(&mut self, group: usize) -> Option<Proposal> {
        match self.groups[group].fencing.take() {
            None => {
                self.begin_fencing(group);
                None
            }
            Some(fencing) if fencing.waits.is_empty() && self.arbiters_come_back() => None,
            Some(fencing) if fencing.waits.is_empty() => self.adopt(group, &fencing),
            Some(fencing) => {
                // Asked again with a higher one once its patience is over.
                self.groups[group].fencing = Some(fencing).filter(|fencing| self.now < fencing.until);
                None
            }
        }
    }

    fn begin_fencing(&mut self, group: usize) -> Option<()> {
        let ids: Vec<Id> = self.replica_ids().filter(|id| self.replica(*id).group == group).collect();
        let cores: Option<Vec<(Id, &Core)>> =
            ids.iter().map(|id| self.replica(*id).core.as_ref().map(|core| (*id, core))).collect();
        let cores = cores?;
        let newest = cores.iter().map(|(_, core)| known(core)).max()?;
        let last = |(_, core): &&(Id, &Core)| core.status().index;
        let safe = cores.iter().filter(|(_, core)| self.held_everything(&ids, core, newest)).max_by_key(last);
        let lossless = safe.is_some();
        // One that was restarted since knows its epoch and no record.
        let chosen = safe.or_else(|| cores.iter().filter(|(_, core)| known(core) == newest).max_by_key(last))?;
        let (chosen, incarnation) = (chosen.0, chosen.1.incarnation());
        let waits: BTreeSet<Id> = ids.iter().copied().filter(|id| *id != chosen).collect();
        let shown = cores.iter().map(|(_, core)| core.status());
        let epoch = fence_epoch(shown.map(|status| (status.epoch, status.fenced_from)));
        let until = self.now + FENCE_PATIENCE;
        self.say(|| format!("the operator fences {waits:?} below {epoch}, and means to adopt {chosen}"));
        for id in &waits {
            let after = self.random.random_range(100..50_000);
            self.local(after, *id, Local::Input(Input::Fence { epoch, until: Duration::MAX, ticket: epoch.0 }));
        }
        let fencing = Fencing { chosen, incarnation, lossless, epoch, newest, waits, until };
        self.groups[group].fencing = Some(fencing);
        Some(())
    }

    /// Whether a replica is in sync by the record of the newest epoch that anybody knows.
    fn held_everything(&self, ids: &[Id], core: &Core, newest: Epoch) -> bool {
        let mut records = ids.iter().filter_map(|id| self.replica(*id).core.as_ref()?.record());
        let newest = records.find(|record| record.epoch == newest);
        newest.is_some_and(|record| record.has(&core.status().name, core.incarnation()))
    }

    /// One of them has promised; or knows too much already for this fence.
    pub fn fenced(&mut self, id: Id, ticket: u64, result: Result<Epoch, FenceRefused>) {
        let group = self.replica(id).group;
        let Some(fencing) = self.groups[group].fencing.as_mut().filter(|fencing| fencing.epoch.0 == ticket) else {
            return;
        };
        match result {
            Ok(before) => {
                fencing.waits.remove(&id);
                fencing.newest = fencing.newest.max(before);
            }
            Err(_) => self.groups[group].fencing = None,
        }
    }

    fn adopt(&mut self, group: usize, fencing: &Fencing) -> Option<Proposal> {
        let request = RequestId(self.random.random());
        let ids: Vec<Id> = self.replica_ids().filter(|id| self.replica(*id).group == group).collect();
        let core = self.replica(fencing.chosen).core.as_ref()?;
        let newest = fencing.newest.max(known(core));
        let safe = !fencing.lossless || self.held_everything(&ids, core, newest);
        if core.incarnation() != fencing.incarnation || core.status().epoch > fencing.epoch || !safe {
            return None;
        }
        let (status, commit) = (core.status(), core.status().commit);
        let record = ids.iter().filter_map(|id| self.replica(*id).core.as_ref()?.record());
        let min_in_sync = record.max_by_key(|record| record.epoch).map_or(1, |record| record.min_in_sync);
        Some(Proposal {
            group: self.groups[group].name.clone(),
            expected_epoch: Epoch(0),
            request,
            proposer: None,
            change: Change::Adopt {
                group_id: core.claim().group_id?,
                member: member(core),
                epoch: Epoch(fencing.epoch.0 - 1),
                mode: core.mode(),
                min_in_sync,
                commit,
            },
            commit,
            held: status.held,
            floor: Epoch(0),
        })
    }

    /// The arbiters answered the operator, or did not.
    pub fn operated(&mut self, group: usize, answered: bool) {
        self.groups[group].operating = false;
        if answered {
            self.groups[group].taken_for_dead = None;
        }
    }
}

/// A seizure for this replica, as its status shows it.
pub fn seize(record: &GroupRecord, request: RequestId, core: &Core) -> Proposal {
    let status = core.status();
    Proposal {
        group: record.group.clone(),
        expected_epoch: record.epoch,
        request,
        proposer: None,
        change: Change::Seize { member: member(core) },
        commit: status.commit,
        held: status.held,
        floor: Epoch(0),
    }
}

pub fn member(core: &Core) -> Member {
    let name = core.status().name;
    let address = name.to_string();
    let addresses = cutover_arbiter::record::Addresses {
        peer: address.clone(),
        client: address.clone(),
        redis: address,
        http: String::new(),
    };
    Member { replica: name, incarnation: core.incarnation(), addresses }
}

impl Group {
    /// Who was seized or adopted becomes primary: what it does not hold is lost, by its operator's word, and the canon
    /// begins anew from what it does.
    pub fn reign_begins(&mut self, id: Id, core: &Core, epoch: Epoch) -> Verdict {
        if self.seized.take_if(|seized| *seized <= epoch).is_none() {
            return Ok(());
        }
        let held = self.verify(id, core)?;
        // Whoever was removed, and served alone, told the time to anybody and had nobody to tell that it did.
        self.clock_told = 0;
        if held == self.end() {
            // Nothing was lost, and everything that holds goes on to hold.
            return Ok(());
        }
        (self.reign, self.reign_began) = (self.reign + 1, epoch);
        let mut before: Vec<_> = self.canon.drain(..).map(|entry| (entry.epoch, entry.bytes)).collect();
        self.former
            .extend((held + 1..).zip(before.drain(held as usize..)).map(|(at, (epoch, bytes))| ((epoch, at), bytes)));
        // What an earlier reign had lost comes back with who holds it.
        let back =
            (held + 1..=core.vitals().last).map_while(|index| self.was_canonical(core, index)).collect::<Vec<_>>();
        self.forget_canon();
        for (index, (epoch, bytes)) in (1..).zip(before.into_iter().chain(back)) {
            self.push(index, epoch, bytes)?;
        }
        for life in self.lives.values_mut() {
            life.verified = life.verified.min(held);
        }
        self.answered = self.answered.min(held);
        self.stale = true;
        self.inherited.retain(|life: &Incarnation, _| *life == core.incarnation());
        Ok(())
    }
}

impl World {
    /// Counts what an operator did.
    pub fn notice_operation(&mut self, group: usize, change: &Change) {
        let by_operator = matches!(change, Change::Seize { .. } | Change::Adopt { .. });
        if by_operator && self.notice_raise(group, change) {
            return;
        }
        match change {
            Change::Seize { .. } => self.report.saw(Must::Seized),
            Change::Adopt { .. } => self.report.saw(Must::Adopted),
            _ => return,
        }
        self.groups[group].seized = Some(Epoch(self.groups[group].newest_epoch()));
    }
}
