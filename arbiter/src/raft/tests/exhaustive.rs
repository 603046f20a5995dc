//! Three arbiters and every order of a few events: messages in any order or never, timers whenever the search lets them
//! fire, whatever the other clocks say. The disk is done at once; what a message promises is compared with it when it
//! leaves. Two terms, or three, begin with one leader that everybody follows.
//!
//! `STATES=5000000 cargo deep` searches as far as so many states reach.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use bytes::Bytes;

use super::cluster::{Machine, Node};
use super::invariants::Ghost;
use super::search::{BOOT, Bounds, Fold, Found, Model, Seen, search};
use crate::raft::{Config, Input, Message, NodeId, Output, Raft, Role};

/// Shortest election timeout, in nanoseconds; the longest is one more.
const TIMEOUT: u64 = 1600;

/// What may happen in a search, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    size: u64,
    proposals: u8,
    reads: u8,
    crashes: u8,
    /// Messages that arrive twice.
    duplicates: u8,
    /// Timers that fire, for each arbiter.
    timers: [u8; 3],
    snapshot_after_entries: u64,
}

const QUIET: Scenario = Scenario {
    size: 3,
    proposals: 0,
    reads: 0,
    crashes: 0,
    duplicates: 0,
    timers: [1, 1, 1],
    snapshot_after_entries: 1000,
};

/// A search, and what it must have come to.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub scenario: Scenario,
    /// Steps from the beginning that `cargo test` searches.
    pub depth: usize,
    /// States that it visits at least.
    states: usize,
    /// What it must have seen happen.
    sometimes: &'static [&'static str],
}

pub const CASES: &[Case] = &[
    Case {
        name: "terms",
        scenario: Scenario { proposals: 1, ..QUIET },
        depth: 8,
        states: 10_000,
        sometimes: &["elected", "two leaders in two terms", "tail cut"],
    },
    Case {
        name: "reads",
        scenario: Scenario { reads: 2, timers: [0, 1, 1], ..QUIET },
        depth: 9,
        states: 5_000,
        sometimes: &["elected", "read ready"],
    },
    Case {
        name: "crashes",
        scenario: Scenario { proposals: 1, crashes: 1, timers: [1, 1, 0], ..QUIET },
        depth: 8,
        states: 10_000,
        sometimes: &["restarted", "elected"],
    },
    Case {
        name: "twice",
        scenario: Scenario { proposals: 2, duplicates: 1, timers: [1, 0, 0], ..QUIET },
        depth: 7,
        states: 10_000,
        sometimes: &[],
    },
    Case {
        name: "alone",
        scenario: Scenario { size: 1, proposals: 2, reads: 1, crashes: 1, ..QUIET },
        depth: 100,
        states: 60,
        sometimes: &["restarted", "elected", "read ready"],
    },
    Case {
        name: "snapshots",
        scenario: Scenario { proposals: 2, duplicates: 1, timers: [1, 1, 0], snapshot_after_entries: 1, ..QUIET },
        depth: 6,
        states: 6_000,
        sometimes: &["snapshot installed", "tail cut"],
    },
];

#[derive(Debug, Clone)]
#[expect(dead_code, reason = "read when the way to a violation is shown")]
pub enum Step {
    Deliver { at: usize, to: NodeId, what: &'static str },
    Twice { at: usize, to: NodeId, what: &'static str },
    Timer(NodeId),
    Propose(NodeId),
    Read(NodeId),
    Crash(NodeId),
}

#[derive(Debug, Clone, Copy, Hash)]
struct Left {
    proposals: u8,
    reads: u8,
    crashes: u8,
    duplicates: u8,
}

#[derive(Clone)]
pub struct State {
    nodes: BTreeMap<NodeId, Node>,
    now: BTreeMap<NodeId, u64>,
    wire: Vec<(NodeId, NodeId, Message)>,
    ghost: Ghost,
    left: Left,
    timers: BTreeMap<NodeId, u8>,
}

fn what(message: &Message) -> &'static str {
    match message {
        Message::PreVote { .. } => "pre-vote",
        Message::PreVoteReply { .. } => "pre-vote reply",
        Message::Vote { .. } => "vote",
        Message::VoteReply { .. } => "vote reply",
        Message::Append(append) if append.entries.is_empty() => "heartbeat",
        Message::Append(_) => "append",
        Message::AppendReply { .. } => "append reply",
        Message::InstallSnapshot { .. } => "snapshot",
        Message::InstallSnapshotReply { .. } => "snapshot reply",
    }
}

impl State {
    fn step(&mut self, id: NodeId, input: Input) {
        let mut out = Vec::new();
        let now = self.now[&id];
        let Some(raft) = self.nodes.get_mut(&id).and_then(|node| node.raft.as_mut()) else { return };
        raft.step(now, input, &mut out);
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
                self.ghost.r11_a_vote_lasts_its_term(&node.disk.hard, batch.hard_state.as_ref());
                node.disk.write(&batch);
                self.step(id, Input::Persisted { upto: batch.sequence });
            }
            Output::Send { to, message } => self.wire.push((id, to, message)),
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
            Output::TakeSnapshot { .. } => {
                let taken = Input::SnapshotTaken { index: node.machine.applied, data: node.machine.encode() };
                self.step(id, taken);
            }
            _ => {}
        }
    }

    fn note(&self, before: &State, seen: &mut Seen) {
        let (old, new) = (&before.ghost.seen, &self.ghost.seen);
        let counters = [
            ("elected", old.elections, new.elections),
            ("restarted", old.restarts, new.restarts),
            ("tail cut", old.tails_cut, new.tails_cut),
            ("snapshot installed", old.snapshots_installed, new.snapshots_installed),
            ("read ready", old.reads_ready, new.reads_ready),
            ("read cancelled", old.reads_cancelled, new.reads_cancelled),
            ("old term committed", old.old_terms_committed, new.old_terms_committed),
        ];
        counters.iter().filter(|(_, old, new)| new > old).for_each(|(what, ..)| seen.note(what));
        let leads = |node: &&Node| node.raft.as_ref().is_some_and(|raft| raft.role() == Role::Leader);
        if self.nodes.values().filter(leads).count() > 1 {
            seen.note("two leaders in two terms");
        }
    }
}

impl Model for Scenario {
    type State = State;
    type Step = Step;

    /// Arbiter 1 leads in term 1, and everybody knows.
    fn initial(&self) -> State {
        let node = |id| {
            let config = Config {
                id,
                members: (1..=self.size).collect(),
                election_timeout: (TIMEOUT, TIMEOUT + 1),
                heartbeat: TIMEOUT / 10,
                max_append_bytes: 300,
                snapshot_after_entries: self.snapshot_after_entries,
                max_uncommitted_bytes: 4096,
                seed: 1,
            };
            (id, Node::new(BOOT, config))
        };
        let Scenario { proposals, reads, crashes, duplicates, .. } = *self;
        let mut state = State {
            nodes: (1..=self.size).map(node).collect(),
            now: (1..=self.size).map(|id| (id, BOOT)).collect(),
            wire: Vec::new(),
            ghost: Ghost::default(),
            left: Left { proposals, reads, crashes, duplicates },
            timers: (1..=self.size).map(|id| (id, 2)).collect(),
        };
        let mut seen = Seen::default();
        let mut next = |state: &State, step| self.take(state, &step, &mut seen).ok().flatten().expect("it happens");
        let leads = |state: &State| state.nodes[&1].raft.as_ref().is_some_and(|raft| raft.commit() == 1);
        while !leads(&state) || !state.wire.is_empty() {
            let step = match state.wire.first() {
                Some((_, to, message)) => Step::Deliver { at: 0, to: *to, what: what(message) },
                None => Step::Timer(1),
            };
            state = next(&state, step);
        }
        state.timers = (1..=self.size).map(|id| (id, self.timers[id as usize - 1])).collect();
        state
    }

    fn steps(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, (_, to, message)) in state.wire.iter().enumerate() {
            let (to, what) = (*to, what(message));
            steps.push(Step::Deliver { at, to, what });
            if state.left.duplicates > 0 {
                steps.push(Step::Twice { at, to, what });
            }
        }
        for (&id, node) in &state.nodes {
            let Some(raft) = &node.raft else { continue };
            if state.timers[&id] > 0 {
                steps.push(Step::Timer(id));
            }
            if raft.role() == Role::Leader && state.left.proposals > 0 {
                steps.push(Step::Propose(id));
            }
            if raft.role() == Role::Leader && state.left.reads > 0 {
                steps.push(Step::Read(id));
            }
            if state.left.crashes > 0 {
                steps.push(Step::Crash(id));
            }
        }
        steps
    }

    fn take(&self, before: &State, step: &Step, seen: &mut Seen) -> Result<Option<State>, String> {
        let mut state = before.clone();
        match *step {
            Step::Deliver { at, .. } => {
                let (from, to, message) = state.wire.remove(at);
                state.step(to, Input::Message { from, message });
            }
            Step::Twice { at, .. } => {
                state.left.duplicates -= 1;
                let (from, to, message) = state.wire[at].clone();
                state.step(to, Input::Message { from, message });
            }
            Step::Timer(id) => {
                *state.timers.get_mut(&id).expect("a member") -= 1;
                let due = state.nodes[&id].raft.as_ref().map_or(0, Raft::next_deadline);
                let now = state.now.get_mut(&id).expect("a member");
                *now = due.max(*now);
                state.step(id, Input::Tick);
            }
            Step::Propose(id) => {
                state.left.proposals -= 1;
                let data = Bytes::from(vec![b'x'; usize::from(state.left.proposals) + 1]);
                state.step(id, Input::Propose { ticket: 0, data });
            }
            Step::Read(id) => {
                state.left.reads -= 1;
                let ticket = u64::from(state.left.reads);
                state.ghost.read_begins(id, ticket);
                state.step(id, Input::Read { ticket });
            }
            Step::Crash(id) => {
                state.left.crashes -= 1;
                state.ghost.seen.restarts += 1;
                state.ghost.node_restarts(id);
                let now = state.now[&id];
                let node = state.nodes.get_mut(&id).expect("a member");
                node.raft = Some(Raft::new(now, node.config.clone(), node.disk.load()));
                node.machine = Machine::default();
                state.step(id, Input::Tick);
            }
        }
        state.ghost.r2_log_matching(&state.nodes);
        state.ghost.r6_the_disk_holds_the_log(&state.nodes);
        state.note(before, seen);
        Ok(Some(state))
    }

    fn digest(&self, state: &State) -> u64 {
        let mut whole = Fold::since(0, TIMEOUT / 20);
        for (id, node) in &state.nodes {
            let mut fold = Fold::since(u128::from(state.now[id]), TIMEOUT / 20);
            if let Some(raft) = &node.raft {
                raft.hash_state(&mut fold);
            }
            (&node.disk, node.machine).hash(&mut fold);
            fold.finish().hash(&mut whole);
        }
        // Messages under way have no order.
        let wire = state.wire.iter().map(Fold::of).fold(0u64, u64::wrapping_add);
        (wire, &state.ghost, state.left, &state.timers).hash(&mut whole);
        whole.finish()
    }
}

fn clean(case: &Case, bounds: Bounds) -> Found {
    let since = std::time::Instant::now();
    let found = search(&case.scenario, bounds);
    let name = case.name;
    if let Some((why, way)) = &found.violation {
        panic!("{name}: {why}\n  {}", way.join("\n  "));
    }
    let took = since.elapsed();
    println!("raft {name}: {} states to depth {} in {took:.1?}, seen {:?}", found.states, found.depth, found.seen);
    found
}

#[test]
fn every_order_of_a_few_events() {
    for case in CASES {
        let found = clean(case, Bounds { depth: case.depth, states: usize::MAX });
        assert!(found.states >= case.states, "{} visits only {} states", case.name, found.states);
        let missing = found.seen.missing(case.sometimes);
        assert!(missing.is_empty(), "{} never sees {missing:?} in {} states", case.name, found.states);
    }
}

#[test]
#[ignore = "deep: `STATES=5000000 cargo deep`"]
fn deep() {
    let states = std::env::var("STATES").map_or(1_000_000, |text| text.parse().expect("STATES is a number"));
    for case in CASES {
        clean(case, Bounds { depth: usize::MAX, states });
    }
}
