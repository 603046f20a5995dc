//! S1, S8 (who makes entries), S10: what the arbiters grant, and who acts on it.

use cutover_arbiter::protocol::{Question, Reply};
use cutover_arbiter::record::{Answer, Change, Epoch, GroupRecord, Incarnation, Proposal, ReplicaName};

use crate::canon::{Core, Group};
use crate::counters::Must;
use crate::world::{Id, Time, Verdict, World};

/// Who asks: a life of a replica, or an operator.
type Proposer = Option<(ReplicaName, Incarnation)>;

impl Group {
    /// S1: at most one record is ever committed for an epoch; epochs rise by exactly one, but for an operator's word; a repeated request gets its
    /// first answer. True when this is the first arbiter to apply it.
    pub fn s1_one_grant_per_epoch(&mut self, now: Time, record: &GroupRecord) -> Result<bool, String> {
        let epoch = record.epoch;
        if self.forgotten && matches!(record.last_change.change, Change::Adopt { .. }) {
            // Arbiters that know nothing go on from what the operator says.
            self.forgotten = false;
            self.records.truncate(epoch.0 as usize - 1);
            self.requests.retain(|_, granted| *granted < epoch);
            self.reigns.retain(|begun, _| *begun < epoch);
        }
        // Above whatever anybody may still hear of, or is fenced at: the epochs between were granted to nobody.
        while matches!(record.last_change.change, Change::Adopt { .. } | Change::Seize { .. })
            && self.newest_epoch() + 1 < epoch.0
            && let Some(last) = self.record().cloned()
        {
            self.records.push(last);
        }
        if let Some(known) = self.granted(epoch) {
            return if known == record { Ok(false) } else { Err(format!("S1: two records of epoch {epoch}")) };
        }
        if epoch.0 != self.newest_epoch() + 1 {
            return Err(format!("S1: epoch {epoch} was granted after epoch {}", self.newest_epoch()));
        }
        if let Some(first) = self.requests.insert(record.last_change.request, epoch) {
            return Err(format!("S1: a request that was granted in epoch {first} was granted again in {epoch}"));
        }
        self.records.push(record.clone());
        self.record_at = now;
        self.stale = true;
        Ok(true)
    }

    /// S1: what was granted is never refused when it is asked again. (The register remembers 128 grants.)
    pub fn s1_first_answer(&self, question: &Question, reply: &Reply) -> Verdict {
        let (Question::TestAndSet(proposal), Reply::Answer(Answer::Refused { reason, .. })) = (question, reply) else {
            return Ok(());
        };
        match self.requests.get(&proposal.request) {
            Some(epoch) if epoch.0 + 100 > self.newest_epoch() => {
                Err(format!("S1: a request that was granted in epoch {epoch} is refused when it comes again: {reason}"))
            }
            _ => Ok(()),
        }
    }

    /// S8: (epoch, index) always names one entry, so one life of one process appends and releases in an epoch.
    pub fn s8_one_life_in_an_epoch(&mut self, id: Id, core: &Core, epoch: Epoch) -> Verdict {
        let Some(birth) = self.lives.get(&id).map(|life| life.birth) else { return Ok(()) };
        if *self.reigns.entry(epoch).or_insert(birth) != birth {
            return Err(format!("S8: a second life of {} acts as primary in epoch {epoch}", core.status().name));
        }
        Ok(())
    }

    /// S8 and S10: an epoch's entries and state come from the very life of the replica that the epoch was granted to.
    pub fn s8_made_by_its_primary(&self, core: &Core, epoch: Epoch, does: &str) -> Verdict {
        let name = core.status().name;
        match self.granted(epoch) {
            Some(record) if record.is_primary(&name, core.incarnation()) => Ok(()),
            Some(record) => Err(format!("S8: {name} {does} in epoch {epoch}, granted to {}", record.primary.replica)),
            None => Err(format!("S8: {name} {does} in epoch {epoch}, which nobody granted")),
        }
    }
}

impl World {
    /// Counts what a new grant shows.
    pub fn notice_grant(&mut self, group: usize, record: &GroupRecord) {
        let before = record.epoch.0 - 1;
        let change = &record.last_change.change;
        self.notice_operation(group, change);
        let mut proposals = std::mem::take(&mut self.groups[group].proposals);
        proposals.retain(|(_, _, proposal)| proposal.expected_epoch.0 == before);
        let Some(old) = self.groups[group].granted(Epoch(before)).cloned() else { return };
        self.notice_race(&old, record, &proposals);
        let old = old.primary;
        if matches!(change, Change::TakeOver) {
            let last = |member: &cutover_arbiter::record::Member| {
                let core = self.replica(self.id_of(&member.addresses.peer)).core.as_ref()?;
                (core.incarnation() == member.incarnation).then(|| core.vitals().last)
            };
            if last(&old).unwrap_or_default() > last(&record.primary).unwrap_or(u64::MAX) {
                self.report.saw(Must::UnacknowledgedAtOld);
            }
        }
    }

    /// Counts a race for one epoch between the primary of the epoch before and a backup that would take over from it.
    /// (Two backups race, too, and so do two lives of one replica: those are other stories.)
    fn notice_race(&mut self, old: &GroupRecord, new: &GroupRecord, proposals: &[(Id, Incarnation, Proposal)]) {
        let of_primary = |proposer: &Proposer| proposer.iter().any(|(name, life)| old.is_primary(name, *life));
        let of_backup = |proposer: &Proposer, change: &Change| {
            let is_backup = proposer.iter().any(|(name, life)| old.has(name, *life) && !of_primary(proposer));
            is_backup && matches!(change, Change::TakeOver)
        };
        let (winner, change) = (&new.last_change.proposer, &new.last_change.change);
        let mut rivals = proposals.iter().map(|(_, _, proposal)| proposal);
        if of_primary(winner) && rivals.any(|rival| of_backup(&rival.proposer, &rival.change)) {
            self.report.saw(Must::RaceWonByPrimary);
        } else if of_backup(winner, change) && rivals.any(|rival| of_primary(&rival.proposer)) {
            self.report.saw(Must::RaceWonByBackup);
        }
    }
}
