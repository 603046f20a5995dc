//! The operator: in a group whose every in-sync member came back in another life it seizes the best copy; when the
//! arbiters have lost their data, it lets them adopt it.

use cutover_arbiter::protocol::Question;
use cutover_arbiter::record::{Change, Epoch, Incarnation, Member, Position, Proposal, RequestId};
use rand::RngExt;

use super::asking::Purpose;
use super::canon::{Core, Group};
use super::counters::Must;
use super::world::{Event, Id, Time, Verdict, World};

/// How often the operator looks.
const LOOKS: Time = 700_000;

impl World {
    pub fn operator_looks(&mut self) {
        self.schedule(LOOKS, Event::Operator);
        for group in 0..self.groups.len() {
            if self.groups[group].lost || self.groups[group].operating || self.random.random_bool(0.4) {
                continue;
            }
            let proposal = if self.groups[group].forgotten { self.adoption(group) } else { self.seizure(group) };
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
            return None;
        }
        let record = self.groups[group].record()?.clone();
        let request = RequestId(self.random.random());
        let (_, core) = self.best_copy(group)?;
        let status = core.status();
        let member = member(core);
        if status.epoch > record.epoch || status.record.as_ref().is_none_or(|known| known.epoch < record.epoch) {
            return None;
        }
        Some(Proposal {
            group: record.group.clone(),
            expected_epoch: record.epoch,
            request,
            proposer: None,
            change: Change::Seize { member },
            commit: Position { epoch: status.epoch.min(record.epoch), index: status.committed },
            held: Position { epoch: status.epoch, index: status.index },
        })
    }

    /// Who may be adopted without losing anything: it is in sync by the newest record that anybody knows. Every replica
    /// was looked at, or a newer record might be known to one of them.
    fn adoption(&mut self, group: usize) -> Option<Proposal> {
        let request = RequestId(self.random.random());
        let ids: Vec<Id> = self.replica_ids().filter(|id| self.replica(*id).group == group).collect();
        let cores: Option<Vec<&Core>> = ids.iter().map(|id| self.replica(*id).core.as_ref()).collect();
        let cores = cores?;
        let newest = cores.iter().filter_map(|core| core.record()).max_by_key(|record| record.epoch);
        let epoch = cores.iter().map(|core| core.status().epoch).max()?;
        // One that was restarted since knows its epoch and no record.
        let knows = |core: &&&Core| core.status().epoch == epoch;
        let in_sync = |core: &&&Core| newest.is_some_and(|record| record.has(&core.status().name, core.incarnation()));
        let last = |core: &&&Core| core.status().index;
        let safe = cores.iter().filter(knows).filter(in_sync).max_by_key(last);
        let core = safe.or_else(|| cores.iter().filter(knows).max_by_key(last))?;
        let status = core.status();
        let commit = Position { epoch: status.epoch, index: status.committed };
        Some(Proposal {
            group: self.groups[group].name.clone(),
            expected_epoch: Epoch(0),
            request,
            proposer: None,
            change: Change::Adopt {
                group_id: core.claim().group_id?,
                member: member(core),
                epoch: status.epoch,
                mode: core.mode(),
                min_in_sync: newest.map_or(1, |record| record.min_in_sync),
                commit,
            },
            commit,
            held: Position { epoch: status.epoch, index: status.index },
        })
    }

    /// The arbiters answered the operator, or did not.
    pub fn operated(&mut self, group: usize) {
        self.groups[group].operating = false;
    }
}

fn member(core: &Core) -> Member {
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
        if held == self.end() {
            // Nothing was lost, and everything that holds goes on to hold.
            return Ok(());
        }
        self.reign += 1;
        let mut kept = std::mem::take(&mut self.canon);
        // Whoever has what is lost now goes on to have it, and may be seized next.
        for (index, entry) in (held + 1..).zip(kept.drain(held as usize..)) {
            let lives = self.lives.values_mut().chain(self.resting.values_mut()).chain(self.replaced.values_mut());
            for life in lives.filter(|life| life.verified >= index) {
                life.written.entry(index).or_insert_with(|| (entry.epoch, entry.bytes.clone()));
            }
        }
        self.forget_canon();
        for (index, entry) in (1..).zip(kept) {
            self.push(index, entry.epoch, entry.bytes)?;
        }
        for life in self.lives.values_mut() {
            life.verified = life.verified.min(held);
        }
        self.answered = self.answered.min(held);
        (self.clock_told, self.stale) = (0, true);
        self.inherited.retain(|life: &Incarnation, _| *life == core.incarnation());
        Ok(())
    }
}

impl World {
    /// Counts what an operator did.
    pub fn notice_operation(&mut self, group: usize, change: &Change) {
        match change {
            Change::Seize { .. } => self.report.saw(Must::Seized),
            Change::Adopt { .. } => self.report.saw(Must::Adopted),
            _ => return,
        }
        self.groups[group].seized = Some(Epoch(self.groups[group].newest_epoch()));
    }
}
