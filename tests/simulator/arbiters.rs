//! The shell of one arbiter: the production core (`cutover_arbiter::server::core`, Raft and registers in it) over a
//! store that holds what was synced, and loses or keeps what was not when the process dies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cutover_arbiter::protocol::{Question, Reply};
use cutover_arbiter::raft::{Config, Entry, HardState, LogIndex, PersistBatch, Restored, Snapshot};
use cutover_arbiter::record::{Answer, Proposal};
use cutover_arbiter::server::core::{Arbiter, Event as ArbiterEvent, Input, Now, Output};
use rand::RngExt;

use super::counters::Must;
use super::network::Packet;
use super::world::{Event, Id, Local, Time, World};

const MS: u64 = 1_000_000;

/// What an arbiter's disk holds after a batch: each is there in whole or not at all, as the real store promises.
#[derive(Debug, Clone, Default)]
pub struct Store {
    pub hard: HardState,
    pub snapshot: Option<Snapshot>,
    pub entries: BTreeMap<LogIndex, Entry>,
}

impl Store {
    fn write(&mut self, batch: PersistBatch) {
        if let Some(hard) = batch.hard_state {
            self.hard = hard;
        }
        if let Some(from) = batch.truncate_from {
            self.entries.retain(|&index, _| index < from);
        }
        self.entries.extend(batch.entries.into_iter().map(|entry| (entry.index, entry)));
        if let Some(snapshot) = batch.snapshot {
            self.entries.retain(|&index, _| index > snapshot.meta.index);
            self.snapshot = Some(snapshot);
        }
    }

    fn load(&self) -> Restored {
        Restored {
            hard_state: self.hard,
            snapshot: self.snapshot.clone(),
            entries: self.entries.values().cloned().collect(),
        }
    }

    /// True when it holds the entry of `term` at `index`, or a snapshot of it.
    pub fn holds(&self, index: LogIndex, term: u64) -> bool {
        index == 0
            || self.snapshot.as_ref().is_some_and(|snapshot| snapshot.meta.index >= index)
            || self.entries.get(&index).is_some_and(|entry| entry.term == term)
    }
}

#[derive(Debug, Default)]
pub struct SimArbiter {
    pub core: Option<Arbiter>,
    pub store: Store,
    /// Written, not synced.
    pub pending: Option<PersistBatch>,
    pub inbox: VecDeque<(Id, Packet)>,
    done: VecDeque<u64>,
    pub watchers: BTreeSet<Id>,
    /// What it was asked to decide and has not answered, by the number of the question; for the counters only.
    asked: BTreeMap<u64, Box<Proposal>>,
    /// Added to the longest write while the disk is slow.
    pub slow: Time,
    /// The next write fails.
    pub fails: bool,
}

impl World {
    fn arbiter_now(&self, id: Id) -> Now {
        let clock = &self.processes[id].clock;
        Now { clock: clock.boot(self.now) * 1_000, wall_ms: clock.wall(self.now) / 1_000 }
    }

    pub fn start_arbiter(&mut self, id: Id) {
        let now = self.arbiter_now(id);
        let config = Config {
            id: World::node_of(id),
            members: self.arbiter_ids().map(World::node_of).collect(),
            election_timeout: (300 * MS, 600 * MS),
            heartbeat: 100 * MS,
            max_append_bytes: self.swarm.raft_append,
            snapshot_after_entries: self.swarm.snapshot_after,
            max_uncommitted_bytes: 64 * 1024,
            seed: self.random.random(),
        };
        let arbiter = &mut self.arbiters[id];
        arbiter.core = Some(Arbiter::new(now, config, arbiter.store.load()));
        self.raft.restarts(id);
    }

    pub fn arbiter_dies(&mut self, id: Id) {
        let survives = self.random.random_bool(0.5);
        let arbiter = &mut self.arbiters[id];
        arbiter.core = None;
        // Who had just begun to watch finds the connection broken, too.
        let begun = arbiter.inbox.drain(..).filter(|(_, packet)| matches!(packet, Packet::Watch));
        let begun: Vec<_> = begun.map(|(from, _)| from).collect();
        arbiter.watchers.extend(begun);
        arbiter.done.clear();
        arbiter.asked.clear();
        arbiter.fails = false;
        if let Some(batch) = arbiter.pending.take().filter(|_| survives) {
            arbiter.store.write(batch);
        }
        for watcher in std::mem::take(&mut self.arbiters[id].watchers) {
            let life = self.processes[watcher].life;
            let after = self.random.random_range(50_000..1_000_000);
            self.schedule(after, Event::Watch { from: watcher, life, arbiter: id });
        }
    }

    pub fn arbiter_takes(&mut self, id: Id, local: Local) {
        let Local::Stored { upto } = local else { return };
        if std::mem::take(&mut self.arbiters[id].fails) {
            // An error of the disk ends the process; whether the write got there, nobody knows.
            self.report.saw(Must::ArbiterDiskFailed);
            self.kill(id, false);
            let after = self.random.random_range(100_000..2_000_000);
            return self.schedule(after, Event::Restart(id));
        }
        let arbiter = &mut self.arbiters[id];
        if let Some(batch) = arbiter.pending.take() {
            let verdict = self.raft.r11_vote_cleared_only_with_the_term(id, &arbiter.store.hard, &batch);
            arbiter.store.write(batch);
            arbiter.done.push_back(upto);
            self.check(verdict);
        }
    }

    pub fn arbiter_turn(&mut self, id: Id) {
        while let Some(upto) = self.arbiters[id].done.pop_front() {
            self.arbiter_step(id, Input::Persisted { upto });
        }
        while let Some((from, packet)) = self.arbiters[id].inbox.pop_front() {
            let input = match packet {
                Packet::Raft(message) => Input::Raft { from: World::node_of(from), message },
                Packet::Forward { ticket, question } => Input::Forward { from: World::node_of(from), ticket, question },
                Packet::Forwarded { ticket, reply } => Input::Forwarded { ticket, reply: Box::new(reply) },
                Packet::Ask { ask, question } => {
                    if let Question::TestAndSet(proposal) = &question {
                        self.arbiters[id].asked.insert(ask, proposal.clone());
                    }
                    Input::Ask { connection: from as u64, id: ask, question }
                }
                Packet::Watch => {
                    self.begin_watch(id, from);
                    continue;
                }
                Packet::Reply { .. } | Packet::Record(_) => continue,
            };
            self.arbiter_step(id, input);
            if self.failed() {
                return;
            }
        }
        let now = self.arbiter_now(id);
        if self.arbiters[id].core.as_ref().is_some_and(|core| core.next_deadline() <= now.clock) {
            self.arbiter_step(id, Input::Tick);
        }
        let Some(core) = &self.arbiters[id].core else { return };
        let at = self.processes[id].clock.when(self.now, core.next_deadline() / 1_000 + 1);
        self.wake_at(id, at);
    }

    fn begin_watch(&mut self, id: Id, watcher: Id) {
        self.arbiters[id].watchers.insert(watcher);
        let Some(group) = self.group_of(watcher).map(|group| self.groups[group].name.clone()) else { return };
        let record = self.arbiters[id].core.as_ref().and_then(|core| core.registers().get(&group).cloned());
        if let Some(record) = record {
            self.tell_watcher(id, watcher, record);
        }
    }

    fn arbiter_step(&mut self, id: Id, input: Input) {
        let now = self.arbiter_now(id);
        let mut out = Vec::new();
        let Some(core) = &mut self.arbiters[id].core else { return };
        let applied = core.raft_core().applied();
        if let Err(error) = core.step(now, input, &mut out) {
            return self.check(Err(format!("a{} cannot go on: {error}", id + 1)));
        }
        let verdict = self.raft.stepped(id, &self.arbiters);
        self.check(verdict);
        let verdict = self.raft.r8_restored(id, applied, &out);
        self.check(verdict);
        for output in out {
            self.arbiter_output(id, output);
        }
    }

    fn arbiter_output(&mut self, id: Id, output: Output) {
        match output {
            Output::Persist(batch) => {
                let most = self.swarm.arbiter_disk + self.arbiters[id].slow;
                let takes = self.random.random_range(50..=most);
                let upto = batch.sequence;
                let verdict = self.raft.handed(id, &batch);
                self.arbiters[id].pending = Some(batch);
                self.check(verdict);
                self.local(takes, id, Local::Stored { upto });
            }
            Output::Raft { to, message } => {
                let verdict = self.raft.r6_durable_before_send(id, to as Id - 1, &message, &self.arbiters);
                self.check(verdict);
                self.packet(id, to as Id - 1, Packet::Raft(message));
            }
            Output::Forward { to, ticket, question } => {
                let to = to as Id - 1;
                if self.net.is_open(id, to) {
                    self.packet(id, to, Packet::Forward { ticket, question });
                } else {
                    self.arbiter_step(id, Input::NotForwarded { ticket });
                }
            }
            Output::Forwarded { to, ticket, reply } => {
                self.packet(id, to as Id - 1, Packet::Forwarded { ticket, reply });
            }
            Output::Reply { connection, id: ask, reply } => {
                self.notice_refusal(id, ask, &reply);
                let leader = self.arbiters[id].core.as_ref().and_then(|core| core.raft_core().leader());
                self.packet(id, connection as Id, Packet::Reply { ask, leader, reply });
            }
            Output::Record(record) => {
                self.granted(id, &record);
                for watcher in self.arbiters[id].watchers.clone() {
                    if self.group_of(watcher).is_some_and(|group| self.groups[group].name == record.group) {
                        self.tell_watcher(id, watcher, record.clone());
                    }
                }
            }
            Output::Event(event) => self.arbiter_event(id, event),
        }
    }

    /// Counts a refusal of what a life asked that is over: its process has died since and came back as somebody else, or
    /// it threw its state away.
    fn notice_refusal(&mut self, id: Id, ask: u64, reply: &Reply) {
        let Some(proposal) = self.arbiters[id].asked.remove(&ask) else { return };
        let (Some((name, life)), Reply::Answer(Answer::Refused { .. })) = (&proposal.proposer, reply) else { return };
        let ghost = self.groups.iter().find(|group| group.name == proposal.group);
        let newest = ghost.and_then(|ghost| ghost.living.get(name));
        self.report.saw_if(newest.is_some_and(|newest| newest != life), Must::OldLifeRefused);
    }

    fn arbiter_event(&mut self, id: Id, event: ArbiterEvent) {
        self.say(|| format!("a{} {event:?}", id + 1));
        if let ArbiterEvent::Restored { index, .. } = event {
            let news = self.arbiters[id].store.snapshot.as_ref().is_none_or(|kept| kept.meta.index < index);
            self.report.saw_if(news, Must::ArbiterSnapshot);
        }
    }
}
