//! The arbiters' own core, driven by acts.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use cutover_arbiter::raft::{Config, Entry, HardState, Input, LogIndex, Message, Output, Raft, Restored, Role};

use crate::{Cuts, Id, Shown, Side, joined};

const MS: u64 = 1_000_000;

#[derive(Default)]
struct Disk {
    hard: HardState,
    entries: BTreeMap<LogIndex, Entry>,
}

struct Node {
    raft: Raft,
    disk: Disk,
}

pub struct Cluster {
    now: u64,
    nodes: BTreeMap<Id, Node>,
    wire: VecDeque<(Id, Id, Message)>,
    cuts: Cuts,
    size: Id,
}

fn config(id: Id, size: Id) -> Config {
    Config {
        id,
        members: (1..=size).collect(),
        election_timeout: (50 * MS, 100 * MS),
        heartbeat: 10 * MS,
        max_append_bytes: 1 << 20,
        snapshot_after_entries: 1 << 40,
        max_uncommitted_bytes: 1 << 30,
        seed: 1,
    }
}

impl Cluster {
    pub fn new(size: Id) -> Self {
        let node = |id| Node { raft: Raft::new(0, config(id, size), Restored::default()), disk: Disk::default() };
        let nodes = (1..=size).map(|id| (id, node(id))).collect();
        Self { now: 0, nodes, wire: VecDeque::new(), cuts: Cuts::new(), size }
    }

    /// Steps one core, and writes what it gives out at once. True if a proposal was taken.
    fn step(&mut self, id: Id, input: Input) -> bool {
        let mut taken = false;
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let node = self.nodes.get_mut(&id).expect("a member");
            let mut out = Vec::new();
            node.raft.step(self.now, input, &mut out);
            for output in out {
                match output {
                    Output::Persist(batch) => {
                        node.disk.hard = batch.hard_state.unwrap_or(node.disk.hard);
                        if let Some(from) = batch.truncate_from {
                            node.disk.entries.retain(|index, _| *index < from);
                        }
                        node.disk.entries.extend(batch.entries.into_iter().map(|entry| (entry.index, entry)));
                        inputs.push_back(Input::Persisted { upto: batch.sequence });
                    }
                    Output::Send { to, message } => self.wire.push_back((id, to, message)),
                    Output::Proposed { .. } => taken = true,
                    _ => {}
                }
            }
        }
        taken
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.wire.pop_front() {
            if joined(&self.cuts, from, to) {
                self.step(to, Input::Message { from, message });
            }
        }
    }
}

impl Side for Cluster {
    fn propose(&mut self, id: Id, command: u64) -> bool {
        let data = Bytes::copy_from_slice(&command.to_le_bytes());
        let taken = self.step(id, Input::Propose { ticket: command, data });
        self.deliver();
        taken
    }

    fn stand(&mut self, id: Id) -> bool {
        let raft = &self.nodes[&id].raft;
        if raft.leader().is_some() && raft.next_deadline() > self.now {
            return false;
        }
        self.now = self.now.max(raft.next_deadline());
        self.step(id, Input::Tick);
        self.deliver();
        true
    }

    fn restart(&mut self, id: Id) {
        let config = config(id, self.size);
        let node = self.nodes.get_mut(&id).expect("a member");
        let entries = node.disk.entries.values().cloned().collect();
        let restored = Restored { hard_state: node.disk.hard, snapshot: None, entries };
        node.raft = Raft::new(self.now, config, restored);
    }

    fn cut(&mut self, cuts: &Cuts) {
        self.cuts = cuts.clone();
    }

    fn pass(&mut self) {
        for _ in 0..30 {
            self.now += 10 * MS;
            for id in 1..=self.size {
                if self.nodes[&id].raft.role() == Role::Leader {
                    self.step(id, Input::Tick);
                }
            }
            self.deliver();
        }
    }

    fn show(&self, id: Id) -> Shown {
        let Node { raft, disk } = &self.nodes[&id];
        // A follower that has not heard its leader for longer than any election timeout has none.
        let silent = raft.role() == Role::Follower && raft.next_deadline() <= self.now;
        let command = |data: &Bytes| data.as_ref().try_into().ok().map(u64::from_le_bytes);
        Shown {
            leads: raft.role() == Role::Leader,
            leader: raft.leader().filter(|_| !silent),
            term: raft.term(),
            commit: raft.commit(),
            log: disk.entries.values().map(|entry| (entry.term, command(&entry.data))).collect(),
        }
    }
}
