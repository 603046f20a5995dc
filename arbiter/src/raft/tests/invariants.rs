//! The invariants of the arbiter (faults.md, R1 to R11), run as things happen.
//!
//! | invariant | function | when |
//! |---|---|---|
//! | R1 one leader per term | `r1_one_leader_per_term` | after every step of a core |
//! | R2 log matching | `r2_log_matching` | every 16 ms |
//! | R3 committed prefixes never conflict | `r3_committed_prefixes_agree`, `r3_applied_is_what_was_committed` | after every step; at every application |
//! | R4 leader completeness | `r4_leader_completeness` | after every step of a leader |
//! | R6 durable before it is sent | `r6_durable_before_send`, `r6_a_quorum_of_disks_holds_it`, `r6_the_disk_holds_the_log` | at every message; at every commit; every 16 ms |
//! | R7 commit by counting only for the own term, never falling | `r7_commit` | after every step |
//! | R8 a snapshot lowers nothing and leaves no conflict | `r8_applied_never_falls`, `r8_no_conflicting_entry_behind` | after every step; at every installation |
//! | R9 one membership change at a time | none: membership does not change yet | |
//! | R10 linearisable reads | `r10_read` | at every read that is ready |
//! | R11 the vote is cleared only when the term rises | `r11_a_vote_lasts_its_term` | at every write to a disk |
//!
//! (faults.md has no R5.) That "leader changed" wins over "read ready" is checked too: a read that was rejected is no
//! longer known to `r10_read`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use super::cluster::{Disk, Machine, Node};
use crate::raft::core::State;
use crate::raft::{AppendOutcome, Ballot, Entry, HardState, LogIndex, Message, NodeId, Output, Role, Snapshot, Term};

/// What must have happened at least once in a batch of seeds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub restarts: u64,
    pub elections: u64,
    pub tails_cut: u64,
    pub snapshots_installed: u64,
    pub reads_ready: u64,
    pub reads_cancelled: u64,
    pub old_terms_committed: u64,
}

/// What an observer of everything knows.
#[derive(Clone, Default)]
pub struct Ghost {
    leaders: BTreeMap<Term, NodeId>,
    /// Everything that was ever committed.
    canon: Vec<Entry>,
    digests: BTreeMap<LogIndex, Machine>,
    commits: BTreeMap<NodeId, LogIndex>,
    applied: BTreeMap<NodeId, LogIndex>,
    reads: BTreeMap<(NodeId, u64), LogIndex>,
    /// By leader, term and follower.
    matched: BTreeMap<(NodeId, Term, NodeId), LogIndex>,
    pub seen: Seen,
}

impl Hash for Ghost {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.leaders, &self.canon, &self.commits, &self.applied, &self.reads, &self.matched).hash(hasher);
    }
}

impl Ghost {
    /// After every step of a core, before its outputs are carried out.
    pub fn stepped(&mut self, id: NodeId, nodes: &BTreeMap<NodeId, Node>) {
        let raft = nodes[&id].raft.as_ref().expect("it was just stepped");
        if raft.role() == Role::Leader {
            self.r1_one_leader_per_term(id, raft.term());
            self.r4_leader_completeness(id, nodes);
            self.match_never_falls(id, nodes);
        }
        let before = self.commits.get(&id).copied().unwrap_or(0);
        self.r7_commit(id, before, nodes);
        self.r3_committed_prefixes_agree(id, before, nodes);
        self.r8_applied_never_falls(id, nodes);
    }

    fn r8_applied_never_falls(&mut self, id: NodeId, nodes: &BTreeMap<NodeId, Node>) {
        let now = nodes[&id].raft.as_ref().expect("it was just stepped").applied();
        let applied = self.applied.entry(id).or_default();
        assert!(now >= *applied, "R8: arbiter {id} went back from {applied} to {now}");
        *applied = now;
    }

    fn r1_one_leader_per_term(&mut self, id: NodeId, term: Term) {
        if !self.leaders.contains_key(&term) {
            self.seen.elections += 1;
        }
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "R1: two leaders in term {term}");
    }

    /// Every pair of logs: where they hold an entry of one term, everything before is equal, too.
    pub fn r2_log_matching(&self, nodes: &BTreeMap<NodeId, Node>) {
        let logs: Vec<_> = nodes.values().filter_map(|node| node.raft.as_ref()).map(|raft| &raft.log).collect();
        for (at, one) in logs.iter().enumerate() {
            for other in &logs[at + 1..] {
                let first = one.first_index().max(other.first_index());
                let last = one.last().index.min(other.last().index);
                let meet = (first..=last).rev().find(|&index| one.term_at(index) == other.term_at(index));
                let Some(meet) = meet else { continue };
                assert!(one.range(first, meet).eq(other.range(first, meet)), "R2: logs that meet at {meet} differ");
            }
        }
    }

    /// R6, from the other side: when no write is wanting, the disk holds the log, all of it and nothing else.
    pub fn r6_the_disk_holds_the_log(&self, nodes: &BTreeMap<NodeId, Node>) {
        for (id, node) in nodes.iter().filter(|(_, node)| node.is_quiet()) {
            let Some(raft) = node.raft.as_ref().filter(|raft| !raft.log.has_unhanded()) else { continue };
            let stored = node.disk.entries.values();
            let first = raft.snapshot_index() + 1;
            assert!(stored.eq(raft.log.range(first, raft.last_index())), "R6: the disk of arbiter {id} differs");
        }
    }

    fn match_never_falls(&mut self, id: NodeId, nodes: &BTreeMap<NodeId, Node>) {
        let raft = nodes[&id].raft.as_ref().expect("it was just stepped");
        let State::Leader(leader) = &raft.state else { return };
        for (&peer, progress) in &leader.peers {
            let before = self.matched.entry((id, raft.term(), peer)).or_default();
            assert!(progress.matched >= *before, "match of {peer} at {id} fell from {before} to {}", progress.matched);
            assert!(progress.next > progress.matched);
            *before = progress.matched;
        }
    }

    fn r4_leader_completeness(&self, id: NodeId, nodes: &BTreeMap<NodeId, Node>) {
        let raft = nodes[&id].raft.as_ref().expect("it was just stepped");
        if self.leaders.keys().next_back() != Some(&raft.term()) {
            return;
        }
        let log = &raft.log;
        assert!(log.last().index >= self.canon.len() as u64, "R4: leader {id} lacks committed entries");
        for entry in self.canon.iter().skip(log.first_index() as usize - 1) {
            assert_eq!(log.term_at(entry.index), Some(entry.term), "R4: leader {id} lacks committed entry");
        }
    }

    /// What this core newly calls committed is what everyone calls committed there.
    fn r3_committed_prefixes_agree(&mut self, id: NodeId, before: LogIndex, nodes: &BTreeMap<NodeId, Node>) {
        let raft = nodes[&id].raft.as_ref().expect("it was just stepped");
        for entry in raft.log.range(before + 1, raft.commit()) {
            match self.canon.get(entry.index as usize - 1) {
                Some(known) => assert_eq!(known, entry, "R3: committed prefixes conflict"),
                None => {
                    assert_eq!(raft.role(), Role::Leader, "only a leader commits first");
                    self.seen.old_terms_committed += u64::from(entry.term < raft.term());
                    self.canon.push(entry.clone());
                    assert_eq!(self.canon.len() as u64, entry.index);
                }
            }
        }
    }

    fn r7_commit(&mut self, id: NodeId, before: LogIndex, nodes: &BTreeMap<NodeId, Node>) {
        let raft = nodes[&id].raft.as_ref().expect("it was just stepped");
        assert!(raft.commit() >= before, "R7: commit of arbiter {id} fell from {before} to {}", raft.commit());
        self.commits.insert(id, raft.commit());
        if raft.role() == Role::Leader && raft.commit() > before {
            let term = raft.log.term_at(raft.commit());
            assert_eq!(term, Some(raft.term()), "R7: committed by counting an entry of an old term");
            r6_a_quorum_of_disks_holds_it(raft.commit(), raft.term(), nodes);
        }
    }

    pub fn output(&mut self, id: NodeId, output: &Output, nodes: &BTreeMap<NodeId, Node>) {
        match output {
            Output::Send { to, message } => self.r6_durable_before_send(id, *to, message, nodes),
            Output::Persist(batch) => {
                self.seen.tails_cut += u64::from(batch.truncate_from.is_some());
            }
            Output::Restore { snapshot } => {
                let kept = nodes[&id].disk.snapshot.as_ref() == Some(snapshot);
                self.seen.snapshots_installed += u64::from(!kept);
                r8_no_conflicting_entry_behind(id, nodes);
            }
            Output::ReadReady { ticket, index } => self.r10_read(id, *ticket, *index, nodes),
            Output::ReadRejected { ticket, .. } => {
                self.seen.reads_cancelled += u64::from(self.reads.remove(&(id, *ticket)).is_some());
            }
            _ => {}
        }
    }

    fn r6_durable_before_send(&self, id: NodeId, to: NodeId, message: &Message, nodes: &BTreeMap<NodeId, Node>) {
        let disk = &nodes[&id].disk;
        assert!(disk.hard.term >= message.term(), "R6: arbiter {id} speaks in a term its disk does not know");
        match message {
            Message::Vote { term, .. } => {
                assert_eq!(disk.hard, HardState { term: *term, vote: Some(id) }, "R6: stands before it voted");
            }
            Message::VoteReply { term, ballot: Ballot::Granted } => {
                assert_eq!(disk.hard, HardState { term: *term, vote: Some(to) }, "R6: vote of {id} is not durable");
            }
            Message::AppendReply { term, outcome: AppendOutcome::Accepted { matched }, .. }
            | Message::InstallSnapshotReply { term, matched, .. } => {
                let Some(leader) = nodes[&to].raft.as_ref().filter(|raft| raft.term() == *term) else { return };
                let Some(at) = leader.log.term_at(*matched) else { return };
                assert!(holds(disk, *matched, at), "R6: {id} acknowledges {matched} of {to} and does not hold it");
            }
            _ => {}
        }
    }

    /// R11: term and vote on a disk only ever go forward.
    pub fn r11_a_vote_lasts_its_term(&self, old: &HardState, new: Option<&HardState>) {
        let Some(new) = new else { return };
        assert!(new.term >= old.term, "R11: a term fell");
        assert!(new.term > old.term || old.vote.is_none() || old.vote == new.vote, "R11: a vote changed in its term");
    }

    pub fn read_begins(&mut self, id: NodeId, ticket: u64) {
        self.reads.insert((id, ticket), self.canon.len() as u64);
    }

    fn r10_read(&mut self, id: NodeId, ticket: u64, index: LogIndex, nodes: &BTreeMap<NodeId, Node>) {
        self.seen.reads_ready += 1;
        let required = self.reads.remove(&(id, ticket)).expect("R10: a read that was asked, answered once");
        assert!(index >= required, "R10: a read at {index} began when {required} was committed");
        assert!(nodes[&id].machine.applied >= index, "R10: ready before it was applied");
    }

    pub fn r3_applied_is_what_was_committed(&mut self, entry: &Entry, machine: &Machine) {
        assert_eq!(self.canon.get(entry.index as usize - 1), Some(entry), "R3: applied what was not committed");
        let known = self.digests.entry(machine.applied).or_insert(*machine);
        assert_eq!(known, machine, "R3: machines differ");
    }

    pub fn restored(&mut self, snapshot: &Snapshot, machine: &Machine) {
        assert_eq!(snapshot.meta.index, machine.applied);
        assert_eq!(self.digests.get(&machine.applied), Some(machine), "R8: a snapshot of something else");
    }

    pub fn node_restarts(&mut self, id: NodeId) {
        self.commits.remove(&id);
        self.applied.remove(&id);
        self.reads.retain(|(owner, _), _| *owner != id);
    }

    pub fn committed(&self) -> BTreeSet<LogIndex> {
        self.canon.iter().map(|entry| entry.index).collect()
    }
}

fn r6_a_quorum_of_disks_holds_it(index: LogIndex, term: Term, nodes: &BTreeMap<NodeId, Node>) {
    let holders = nodes.values().filter(|node| holds(&node.disk, index, term)).count();
    assert!(holds_quorum(holders, nodes.len()), "R6: {holders} disks hold what was called committed");
}

/// R8: terms never fall along a log, from the snapshot's on: what lay behind it in a log that conflicts is gone.
fn r8_no_conflicting_entry_behind(id: NodeId, nodes: &BTreeMap<NodeId, Node>) {
    let log = &nodes[&id].raft.as_ref().expect("it was just stepped").log;
    let terms: Vec<_> = (log.first_index() - 1..=log.last().index).map(|index| log.term_at(index)).collect();
    assert!(terms.is_sorted(), "R8: arbiter {id} kept a conflicting log behind a snapshot: {terms:?}");
}

fn holds(disk: &Disk, index: LogIndex, term: Term) -> bool {
    index == 0
        || disk.snapshot.as_ref().is_some_and(|snapshot| snapshot.meta.index >= index)
        || disk.entries.get(&index).is_some_and(|entry| entry.term == term)
}

fn holds_quorum(count: usize, size: usize) -> bool {
    count * 2 > size
}
