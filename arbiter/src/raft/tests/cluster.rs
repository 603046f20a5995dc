//! A cluster in memory: cores, disks that are late, a network that loses, repeats and reorders, one random source.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::invariants::Ghost;
use crate::raft::{
    Config, Entry, HardState, Input, LogIndex, Message, NodeId, Output, PersistBatch, Raft, Restored, Role, Snapshot,
};

pub const MS: u64 = 1_000_000;

/// What can go wrong, each as a probability per chance or a range in milliseconds.
#[derive(Clone, Debug)]
pub struct Faults {
    pub loss: f64,
    pub duplicate: f64,
    pub delay_ms: u64,
    pub disk_ms: u64,
    pub crash: f64,
    pub cut: f64,
    pub pause: f64,
}

impl Faults {
    pub const NONE: Faults =
        Faults { loss: 0.0, duplicate: 0.0, delay_ms: 1, disk_ms: 1, crash: 0.0, cut: 0.0, pause: 0.0 };
}

/// What a store holds after each batch.
#[derive(Clone, Debug, Default, Hash)]
pub struct Disk {
    pub hard: HardState,
    pub snapshot: Option<Snapshot>,
    pub entries: BTreeMap<LogIndex, Entry>,
}

impl Disk {
    pub fn write(&mut self, batch: &PersistBatch) {
        if let Some(hard) = batch.hard_state {
            self.hard = hard;
        }
        if let Some(from) = batch.truncate_from {
            self.entries.retain(|&index, _| index < from);
        }
        self.entries.extend(batch.entries.iter().map(|entry| (entry.index, entry.clone())));
        if let Some(snapshot) = &batch.snapshot {
            self.entries.retain(|&index, _| index > snapshot.meta.index);
            self.snapshot = Some(snapshot.clone());
        }
    }

    pub fn load(&self) -> Restored {
        Restored {
            hard_state: self.hard,
            snapshot: self.snapshot.clone(),
            entries: self.entries.values().cloned().collect(),
        }
    }
}

/// The replicated state: how far, and a hash over everything applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Machine {
    pub applied: LogIndex,
    pub digest: u64,
}

impl Machine {
    pub fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.applied + 1, "entries are applied in order, once");
        self.applied = entry.index;
        let data = entry.data.iter().fold(entry.term, |sum, &byte| sum.wrapping_mul(31) + u64::from(byte));
        self.digest = self.digest.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(data + 1);
    }

    pub fn encode(self) -> Bytes {
        [self.applied.to_le_bytes(), self.digest.to_le_bytes()].concat().into()
    }

    pub fn decode(data: &[u8]) -> Self {
        let number = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().expect("own encoding"));
        Self { applied: number(0), digest: number(8) }
    }
}

#[derive(Clone)]
pub struct Node {
    pub raft: Option<Raft>,
    pub config: Config,
    pub disk: Disk,
    pub machine: Machine,
    writes: VecDeque<(u64, PersistBatch)>,
    back_at: u64,
    paused_until: u64,
}

impl Node {
    pub fn new(now: u64, config: Config) -> Self {
        let raft = Some(Raft::new(now, config.clone(), Restored::default()));
        let (disk, machine) = (Disk::default(), Machine::default());
        Self { raft, config, disk, machine, writes: VecDeque::new(), back_at: 0, paused_until: 0 }
    }

    /// Whether no write is on its way.
    pub fn is_quiet(&self) -> bool {
        self.writes.is_empty()
    }
}

pub struct Cluster {
    pub now: u64,
    pub nodes: BTreeMap<NodeId, Node>,
    pub faults: Faults,
    pub random: ChaCha8Rng,
    pub ghost: Ghost,
    /// Links that carry nothing, by (from, to).
    pub cut: BTreeSet<(NodeId, NodeId)>,
    wire: Vec<(u64, NodeId, NodeId, Message)>,
    tickets: u64,
}

pub fn config(id: NodeId, size: u64, seed: u64) -> Config {
    Config {
        id,
        members: (1..=size).collect(),
        election_timeout: (50 * MS, 100 * MS),
        heartbeat: 10 * MS,
        max_append_bytes: 300,
        snapshot_after_entries: 24,
        max_uncommitted_bytes: 4096,
        seed,
    }
}

impl Cluster {
    pub fn new(size: u64, seed: u64, faults: Faults) -> Self {
        let nodes = (1..=size)
            .map(|id| {
                let snapshot_after_entries = [24, 4, 8][seed as usize % 3];
                (id, Node::new(0, Config { snapshot_after_entries, ..config(id, size, seed) }))
            })
            .collect();
        Self {
            now: 0,
            nodes,
            faults,
            random: ChaCha8Rng::seed_from_u64(seed),
            ghost: Ghost::default(),
            cut: BTreeSet::new(),
            wire: Vec::new(),
            tickets: 0,
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.random_bool(probability)
    }

    fn member(&mut self) -> NodeId {
        self.random.random_range(1..=self.nodes.len() as u64)
    }

    /// One millisecond: faults, clients, disks, network, timers.
    pub fn advance(&mut self) {
        self.now += MS;
        self.inject();
        self.disks();
        self.deliver();
        let due: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.paused_until <= self.now)
            .filter(|(_, node)| node.raft.as_ref().is_some_and(|raft| raft.next_deadline() <= self.now))
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            self.step(id, Input::Tick);
        }
        if (self.now / MS).is_multiple_of(16) {
            self.ghost.r2_log_matching(&self.nodes);
            self.ghost.r6_the_disk_holds_the_log(&self.nodes);
        }
    }

    pub fn run(&mut self, milliseconds: u64) {
        (0..milliseconds).for_each(|_| self.advance());
    }

    /// A client asks some arbiter, whoever it is.
    pub fn client(&mut self) {
        let id = self.member();
        self.tickets += 1;
        let ticket = self.tickets;
        if self.random.random_bool(0.5) {
            self.propose(id);
        } else if self.nodes[&id].raft.is_some() {
            self.ghost.read_begins(id, ticket);
            self.step(id, Input::Read { ticket });
        }
    }

    pub fn propose(&mut self, id: NodeId) {
        self.tickets += 1;
        let data = Bytes::from(vec![self.tickets as u8; self.random.random_range(1..80)]);
        self.step(id, Input::Propose { ticket: self.tickets, data });
    }

    fn inject(&mut self) {
        for id in 1..=self.nodes.len() as u64 {
            if self.chance(self.faults.crash) {
                self.crash(id);
            }
            if self.chance(self.faults.pause) {
                let until = self.now + self.random.random_range(1..300) * MS;
                self.nodes.get_mut(&id).expect("a member").paused_until = until;
            }
            let node = self.nodes.get_mut(&id).expect("a member");
            if node.raft.is_none() && node.back_at <= self.now {
                self.restart(id);
            }
        }
        if self.chance(self.faults.cut) {
            self.cut.clear();
            let lonely = self.member();
            let shape = self.random.random_range(0..4);
            for other in (1..=self.nodes.len() as u64).filter(|&other| other != lonely) {
                if shape != 1 {
                    self.cut.insert((lonely, other));
                }
                if shape != 2 {
                    self.cut.insert((other, lonely));
                }
                if shape == 3 && self.random.random_bool(0.7) {
                    self.cut.clear();
                }
            }
        }
    }

    pub fn crash(&mut self, id: NodeId) {
        let away = self.random.random_range(1..200) * MS;
        let node = self.nodes.get_mut(&id).expect("a member");
        node.raft = None;
        node.back_at = self.now + away;
        // The disk may or may not have completed what it was given.
        let done = self.random.random_range(0..=node.writes.len());
        for (_, batch) in node.writes.drain(..).take(done) {
            self.ghost.r11_a_vote_lasts_its_term(&node.disk.hard, batch.hard_state.as_ref());
            node.disk.write(&batch);
        }
        self.ghost.node_restarts(id);
    }

    pub fn restart(&mut self, id: NodeId) {
        self.ghost.seen.restarts += 1;
        let node = self.nodes.get_mut(&id).expect("a member");
        let seed = self.random.random();
        node.raft = Some(Raft::new(self.now, Config { seed, ..node.config.clone() }, node.disk.load()));
        node.machine = Machine::default();
        node.paused_until = 0;
    }

    /// Everything works again, except one arbiter that stays away for ever, if one is named.
    pub fn heal(&mut self, except: Option<NodeId>) {
        self.faults = Faults::NONE;
        self.cut.clear();
        if let Some(id) = except {
            self.crash(id);
            self.nodes.get_mut(&id).expect("a member").back_at = u64::MAX;
        }
        for id in (1..=self.nodes.len() as u64).filter(|&id| Some(id) != except) {
            self.nodes.get_mut(&id).expect("a member").paused_until = 0;
            if self.nodes[&id].raft.is_none() {
                self.restart(id);
            }
        }
    }

    fn disks(&mut self) {
        for id in 1..=self.nodes.len() as u64 {
            let node = self.nodes.get_mut(&id).expect("a member");
            let mut upto = None;
            while node.writes.front().is_some_and(|(due, _)| *due <= self.now) {
                let (_, batch) = node.writes.pop_front().expect("just seen");
                self.ghost.r11_a_vote_lasts_its_term(&node.disk.hard, batch.hard_state.as_ref());
                node.disk.write(&batch);
                upto = Some(batch.sequence);
            }
            if let Some(upto) = upto {
                self.step(id, Input::Persisted { upto });
            }
        }
    }

    fn deliver(&mut self) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.wire)
            .into_iter()
            .partition(|(at, _, to, _)| *at <= self.now && self.nodes[to].paused_until <= self.now);
        self.wire = later;
        for (_, from, to, message) in due {
            self.step(to, Input::Message { from, message });
        }
    }

    /// Steps one core, checks what it did, and carries its outputs out.
    pub fn step(&mut self, id: NodeId, input: Input) {
        let mut out = Vec::new();
        let node = self.nodes.get_mut(&id).expect("a member");
        let Some(raft) = node.raft.as_mut() else { return };
        raft.step(self.now, input, &mut out);
        self.ghost.stepped(id, &self.nodes);
        for output in out {
            self.carry_out(id, output);
        }
    }

    fn carry_out(&mut self, id: NodeId, output: Output) {
        self.ghost.output(id, &output, &self.nodes);
        let node = self.nodes.get_mut(&id).expect("a member");
        match output {
            Output::Persist(batch) => {
                let delay = self.random.random_range(0..=self.faults.disk_ms);
                node.writes.push_back((self.now + delay * MS, batch));
            }
            Output::Send { to, message } => self.send(id, to, message),
            Output::Apply { entries } => {
                for entry in &entries {
                    node.machine.apply(entry);
                    self.ghost.r3_applied_is_what_was_committed(entry, &node.machine);
                }
            }
            Output::Restore { snapshot } => {
                node.machine = Machine::decode(&snapshot.data);
                self.ghost.restored(&snapshot, &node.machine);
            }
            Output::TakeSnapshot { index } => {
                assert!(node.machine.applied >= index, "what a snapshot needs was given out before");
                let taken = Input::SnapshotTaken { index: node.machine.applied, data: node.machine.encode() };
                self.step(id, taken);
            }
            _ => {}
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if self.cut.contains(&(from, to)) || self.chance(self.faults.loss) {
            return;
        }
        let copies = if self.chance(self.faults.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            // A clogged link delivers at last what everyone has forgotten.
            let clog = if self.chance(self.faults.duplicate / 8.0) { 500 } else { 0 };
            let delay = self.random.random_range(0..=self.faults.delay_ms + clog);
            self.wire.push((self.now + delay * MS, from, to, message.clone()));
        }
    }

    pub fn raft(&self, id: NodeId) -> &Raft {
        self.nodes[&id].raft.as_ref().expect("it runs")
    }

    /// The leader of the highest term.
    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.nodes.iter().filter_map(|(&id, node)| node.raft.as_ref().map(|raft| (id, raft)));
        leaders.filter(|(_, raft)| raft.role() == Role::Leader).max_by_key(|(_, raft)| raft.term()).map(|(id, _)| id)
    }

    /// Why the cluster has not settled, or `None` when it has. An arbiter that its leader cannot talk with is not waited
    /// for.
    pub fn pending(&self) -> Option<String> {
        let Some(leader) = self.leader() else { return Some("no leader".into()) };
        let commit = self.raft(leader).commit();
        if self.raft(leader).log.last().index != commit {
            return Some(format!("leader {leader} has uncommitted entries"));
        }
        let reached = |id: NodeId| !self.cut.contains(&(leader, id)) && !self.cut.contains(&(id, leader));
        let running = self.nodes.iter().filter(|(id, node)| node.raft.is_some() && reached(**id));
        running.into_iter().find_map(|(id, node)| {
            (node.machine.applied != commit)
                .then(|| format!("arbiter {id} applied {} of {commit}", node.machine.applied))
        })
    }
}
