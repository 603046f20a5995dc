//! Crate `raft` 0.7, driven by the same acts: pre-vote and check-quorum on, as they always are in ours.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{Entry, Message};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

use crate::{Cuts, Id, Shown, Side, joined};

/// In ticks of ten milliseconds.
const ELECTION: usize = 10;

struct Node {
    raw: RawNode<MemStorage>,
    /// Ticks since a leader was heard.
    silent: usize,
}

pub struct Cluster {
    nodes: BTreeMap<Id, Node>,
    wire: VecDeque<Message>,
    cuts: Cuts,
}

fn config(id: Id) -> Config {
    Config {
        id,
        election_tick: ELECTION,
        heartbeat_tick: 1,
        // Nobody stands but who is told to.
        min_election_tick: 1_000_000_000,
        max_election_tick: 2_000_000_000,
        pre_vote: true,
        check_quorum: true,
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 256,
        ..Config::default()
    }
}

fn node(id: Id, storage: MemStorage) -> Node {
    let quiet = slog::Logger::root(slog::Discard, slog::o!());
    let raw = RawNode::new(&config(id), storage, &quiet).expect("a valid configuration");
    Node { raw, silent: ELECTION }
}

impl Cluster {
    pub fn new(size: Id) -> Self {
        let voters: Vec<Id> = (1..=size).collect();
        let storage = || MemStorage::new_with_conf_state((voters.clone(), vec![]));
        let nodes = (1..=size).map(|id| (id, node(id, storage()))).collect();
        Self { nodes, wire: VecDeque::new(), cuts: Cuts::new() }
    }

    /// Writes at once what the node wants written, and sends what it wants sent.
    fn settle(&mut self, id: Id) {
        let raw = &mut self.nodes.get_mut(&id).expect("a member").raw;
        while raw.has_ready() {
            let mut ready = raw.ready();
            self.wire.extend(ready.take_messages());
            let storage = raw.raft.raft_log.store.clone();
            if !ready.entries().is_empty() {
                storage.wl().append(ready.entries()).expect("what follows the log");
            }
            if let Some(hard) = ready.hs() {
                storage.wl().set_hardstate(hard.clone());
            }
            self.wire.extend(ready.take_persisted_messages());
            let mut light = raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                storage.wl().mut_hard_state().commit = commit;
            }
            self.wire.extend(light.take_messages());
            raw.advance_apply();
        }
    }

    fn deliver(&mut self) {
        let ids: Vec<Id> = self.nodes.keys().copied().collect();
        ids.iter().for_each(|id| self.settle(*id));
        while let Some(message) = self.wire.pop_front() {
            let (from, to) = (message.from, message.to);
            if joined(&self.cuts, from, to) {
                let node = self.nodes.get_mut(&to).expect("a member");
                // A message of another time is refused with an error; it is lost like any other.
                let _ = node.raw.step(message);
                if node.raw.raft.leader_id == from {
                    node.silent = 0;
                }
                self.settle(to);
            }
        }
    }

    fn hears_leader(node: &Node) -> bool {
        let raft = &node.raw.raft;
        raft.state == StateRole::Leader || raft.leader_id != 0 && node.silent < ELECTION
    }
}

impl Side for Cluster {
    fn propose(&mut self, id: Id, command: u64) -> bool {
        let raw = &mut self.nodes.get_mut(&id).expect("a member").raw;
        // A follower of theirs would forward it; ours never does.
        let taken = raw.raft.state == StateRole::Leader && raw.propose(vec![], command.to_le_bytes().to_vec()).is_ok();
        self.deliver();
        taken
    }

    fn stand(&mut self, id: Id) -> bool {
        let node = self.nodes.get_mut(&id).expect("a member");
        if Self::hears_leader(node) {
            return false;
        }
        node.raw.campaign().expect("a campaign can begin at any time");
        self.deliver();
        true
    }

    fn restart(&mut self, id: Id) {
        let storage = self.nodes[&id].raw.raft.raft_log.store.clone();
        self.nodes.insert(id, node(id, storage));
    }

    fn cut(&mut self, cuts: &Cuts) {
        self.cuts = cuts.clone();
    }

    fn pass(&mut self) {
        for _ in 0..3 * ELECTION {
            for node in self.nodes.values_mut() {
                node.silent += 1;
                node.raw.tick();
            }
            self.deliver();
        }
    }

    fn show(&self, id: Id) -> Shown {
        let node = &self.nodes[&id];
        let raft = &node.raw.raft;
        let leads = raft.state == StateRole::Leader;
        let entries: Vec<Entry> = raft.raft_log.all_entries();
        Shown {
            leads,
            leader: Self::hears_leader(node).then_some(raft.leader_id),
            term: raft.term,
            commit: raft.raft_log.committed,
            log: entries
                .iter()
                .map(|entry| (entry.term, entry.data.as_ref().try_into().ok().map(u64::from_le_bytes)))
                .collect(),
        }
    }
}
