//! Arbiters that had lost everything come back with what they had, after the operator has begun an adoption: it is broken
//! off, and whoever was fenced for it stands above the record. The operator raises the group above the fence.
//!
//! Nothing in here draws a random number of a run in which that does not happen.

use std::collections::BTreeMap;

use cutover_arbiter::record::{Change, Epoch, Incarnation, Proposal, RequestId};
use rand::RngExt;

use super::arbiters::Store;
use super::canon::Core;
use super::counters::Must;
use super::invariants::raft::RaftGhost;
use super::operator::{member, seize};
use super::world::{Event, Id, World};

type Proposals = Vec<(Id, Incarnation, Proposal)>;

/// What the arbiters had, and what was known of it.
#[derive(Debug, Default)]
pub struct Kept {
    stores: Vec<Store>,
    raft: RaftGhost,
    groups: Vec<(BTreeMap<RequestId, Epoch>, Proposals)>,
}

/// Whether the arbiters of a seed's run come back. Not in the seeds that found why an adoption begins with a fence.
pub fn is_expected(seed: u64) -> bool {
    seed % 5 == 2
}

impl World {
    /// The arbiters are about to lose everything.
    pub fn keep_what_arbiters_have(&mut self) {
        if !self.may_come_back {
            return;
        }
        self.arbiter_ids().for_each(|id| self.kill(id, false));
        self.kept = Some(Kept {
            stores: self.arbiters.iter().map(|arbiter| arbiter.store.clone()).collect(),
            raft: std::mem::take(&mut self.raft),
            groups: self.groups.iter().map(|group| (group.requests.clone(), group.proposals.clone())).collect(),
        });
    }

    /// Instead of an adoption: true when the arbiters come back with what they had. Not once they were told of a group anew.
    pub fn arbiters_come_back(&mut self) -> bool {
        let Some(kept) = self.kept.take().filter(|_| self.groups.iter().all(|group| group.forgotten)) else {
            return false;
        };
        self.say(|| String::from("the arbiters come back with what they had, and the adoption is broken off"));
        for (id, store) in self.arbiter_ids().zip(kept.stores) {
            self.kill(id, false);
            self.arbiters[id].store = store;
            let after = self.random.random_range(100_000..1_500_000);
            self.schedule(after, Event::Restart(id));
        }
        self.forget_packets();
        self.raft = kept.raft;
        for (group, (requests, proposals)) in self.groups.iter_mut().zip(kept.groups) {
            (group.forgotten, group.fencing, group.raising) = (false, None, true);
            group.requests = requests;
            group.proposals.extend(proposals);
        }
        true
    }

    /// Somebody says that he stays away behind a fence: the group is raised above it, for a replica in sync, as
    /// `cutover adopt` does, and nothing may be lost; or seized above it, if everyone in sync came back in another life.
    pub fn raise(&mut self, group: usize) -> Option<Proposal> {
        let record = self.groups[group].record()?.clone();
        let ids: Vec<Id> = self.replica_ids().filter(|id| self.replica(*id).group == group).collect();
        let cores: Vec<&Core> = ids.iter().filter_map(|id| self.replica(*id).core.as_ref()).collect();
        if !cores.iter().any(|core| core.status().shown_below_fence == Some(record.epoch)) {
            return None;
        }
        let highest = cores.iter().map(|core| core.status().epoch).max()?;
        let last = |core: &&&Core| core.status().index;
        let commit = record.last_change.commit;
        let may = |core: &&&Core| record.has(&core.status().name, core.incarnation()) && core.status().held >= commit;
        let (chosen, lossless) = match cores.iter().filter(may).max_by_key(last) {
            Some(chosen) => (Some(chosen), true),
            None => (cores.iter().max_by_key(last).filter(|_| self.waits_for_seize(group)), false),
        };
        let status = chosen?.status();
        let mut proposal = seize(&record, RequestId(0), chosen?);
        if lossless {
            proposal.change = Change::Adopt {
                group_id: record.group_id,
                member: member(chosen?),
                epoch: highest,
                mode: record.mode,
                min_in_sync: record.min_in_sync,
                commit: status.commit,
            };
        } else {
            proposal.floor = Epoch(highest.0 + 1);
        }
        proposal.request = RequestId(self.random.random());
        self.groups[group].raising = true;
        Some(proposal)
    }

    /// Counts a group that was raised above a fence; true when that lost nothing, by its operator's word.
    pub fn notice_raise(&mut self, group: usize, change: &Change) -> bool {
        let raised = std::mem::take(&mut self.groups[group].raising);
        self.report.saw_if(raised, Must::Raised);
        raised && matches!(change, Change::Adopt { .. })
    }
}
