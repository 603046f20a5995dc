//! The world of one run: processes, the queue of what happens next, and virtual time. One thread, one source of
//! randomness; nothing here reads a clock.
//!
//! Deliberately not here: what a process does in its turn (`arbiters`, `replicas`, `clients`), how messages travel
//! (`network`), what goes wrong (`faults`), what must hold (`canon`, `invariants`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use cutover::journal::memory_disk::MemoryDisk;
use cutover::protocol::client::{FromClient, ToClient};
use cutover::replica::{Input, LinkId};
use cutover_arbiter::raft::NodeId;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::arbiters::SimArbiter;
use super::asking::{Ask, Purpose};
use super::canon::Group;
use super::clients::SimClient;
use super::clocks::Clock;
use super::comeback::{self, Kept};
use super::counters::Report;
use super::faults::Undo;
use super::invariants::raft::RaftGhost;
use super::network::{ConnId, Network, Packet, Payload, Port};
use super::replicas::SimReplica;
use super::swarm::Swarm;
use super::trace::{Show, Trace};

/// Virtual time, in microseconds.
pub type Time = u64;
/// Silence after which a backup suspects its primary.
pub const SUSPECT_AFTER: Time = 500_000;
/// A primary that hands over waits no longer.
pub const SWITCHOVER_TIMEOUT: Time = 3_000_000;
/// A process: first the arbiters, then the replicas, then the clients.
pub type Id = usize;

/// What something means for the run.
pub type Verdict = Result<(), String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Arbiter(usize),
    Replica(usize),
    Client(usize),
}

/// What every process has.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    pub alive: bool,
    pub life: u64,
    pub clock: Clock,
    /// It does nothing before this.
    pub stopped_until: Time,
    /// Its boot clock does not count before this.
    pub suspended_until: Time,
    /// What reaches its machine before this is taken by it then.
    pub frozen_until: Time,
    /// How long it stood still altogether, counting only stops that are longer than a suspicion takes.
    stood: Time,
    stood_until: Time,
    /// What it sends leaves no earlier: it was stopped between deciding and sending.
    pub holds_until: Time,
    /// It will be stopped for so long in the middle of its next turn.
    pub stop_mid_turn: Option<Time>,
    /// Its turns come so late.
    pub starved: Time,
    turn_at: Option<Time>,
    /// It died with its machine: nobody says so.
    pub silent: bool,
    /// Part of the core that heals in the liveness phase; what is not stays broken.
    pub in_core: bool,
    /// It does not come back.
    pub gone: bool,
}

/// What happens next.
#[derive(Debug)]
pub enum Event {
    Turn(Id),
    Arrive {
        conn: ConnId,
        side: usize,
        payload: Payload,
    },
    Packet {
        from: Id,
        to: Id,
        packet: Packet,
    },
    Dial {
        from: Id,
        life: u64,
        port: Port,
        to: Id,
    },
    Local {
        to: Id,
        life: u64,
        local: Local,
    },
    AskStep(u64, u64),
    Watch {
        from: Id,
        life: u64,
        arbiter: Id,
    },
    Restart(Id),
    ClientActs {
        client: Id,
        life: u64,
    },
    Fault,
    Weather,
    ResetIfCut(Vec<(Id, Id)>),
    Undo(Undo),
    /// The operator looks at the groups.
    Operator,
}

/// What reaches a process.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "most of what happens is the largest one")]
pub enum Local {
    /// For a replica's core.
    Input(Input),
    /// A dial ended.
    Dialled { port: Port, conn: Option<ConnId>, refused: bool },
    /// Somebody dialled.
    Accepted { conn: ConnId, port: Port, accepted: LinkId },
    /// A connection is over.
    Ended { conn: ConnId, link: LinkId, port: Port },
    /// A message of a client's connection.
    Client { conn: ConnId, port: Port, payload: Payload },
    /// An arbiter's disk is done with a batch.
    Stored { upto: u64 },
    /// A replica's disk is through with what it was doing.
    DiskDone,
    /// Its next piece of a snapshot is due.
    SnapshotPiece { ticket: u64 },
    /// An older state of what is on its disk has been made.
    Older { ticket: u64 },
    /// A client hears of a record.
    Record(Box<cutover_arbiter::record::GroupRecord>),
}

struct Queued(Time, u64, Event);

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// How the weather is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Quiet,
    Stormy,
    /// No new faults: the liveness phase.
    Over,
}

pub struct World {
    pub now: Time,
    pub random: ChaCha8Rng,
    pub swarm: Swarm,
    queue: BinaryHeap<Reverse<Queued>>,
    scheduled: u64,
    pub net: Network,
    pub processes: Vec<Process>,
    pub arbiters: Vec<SimArbiter>,
    pub replicas: Vec<SimReplica>,
    pub clients: Vec<SimClient>,
    pub groups: Vec<Group>,
    pub raft: RaftGhost,
    /// What the arbiters had before they lost everything, if they are to come back with it, and whether they are.
    pub kept: Option<Kept>,
    pub may_come_back: bool,
    pub asks: BTreeMap<u64, Ask>,
    pub next_ask: u64,
    pub weather: Weather,
    /// Of a hundred replies of the arbiters, how many are lost at present.
    pub lost_replies: u32,
    /// Counts the times that everything was healed by hand.
    pub era: u32,
    /// A link between two replicas flaps for as long as the phase lasts: nobody can promise redundancy.
    pub flapping: bool,
    pub report: Report,
    pub trace: Trace,
    failure: Option<String>,
}

impl World {
    pub fn new(seed: u64, show: Show) -> Self {
        let swarm = Swarm::drawn(seed);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let replicas: usize = swarm.groups.iter().sum();
        let per_group = swarm.library + swarm.redis + swarm.stubborn;
        let clients = per_group * swarm.groups.len();
        let size = swarm.arbiters + replicas + clients;
        let process = |id: Id, random: &mut ChaCha8Rng| {
            let name = if id < swarm.arbiters {
                format!("a{}", id + 1)
            } else if id < swarm.arbiters + replicas {
                format!("r{}", id - swarm.arbiters)
            } else {
                format!("c{}", id - swarm.arbiters - replicas)
            };
            Process {
                name,
                alive: false,
                life: 0,
                clock: Clock::drawn(random),
                stopped_until: 0,
                suspended_until: 0,
                frozen_until: 0,
                stood: 0,
                stood_until: 0,
                holds_until: 0,
                stop_mid_turn: None,
                starved: 0,
                turn_at: None,
                silent: false,
                in_core: true,
                gone: false,
            }
        };
        let processes = (0..size).map(|id| process(id, &mut random)).collect();
        let groups = swarm.groups.iter().enumerate().map(|(number, _)| Group::new(number)).collect();
        let of_replica = swarm.groups.iter().enumerate().flat_map(|(group, count)| vec![group; *count]);
        let mut world = Self {
            now: 1_000_000,
            queue: BinaryHeap::new(),
            scheduled: 0,
            net: Network::new(size, swarm.one_way),
            processes,
            arbiters: (0..swarm.arbiters).map(|_| SimArbiter::default()).collect(),
            replicas: of_replica
                .map(|group| SimReplica::new(group, swarm.has_disk[group].then(MemoryDisk::nameless)))
                .collect(),
            clients: (0..clients)
                .map(|number| SimClient::new(number / per_group, swarm.manner(number % per_group)))
                .collect(),
            groups,
            raft: RaftGhost::default(),
            kept: None,
            may_come_back: comeback::is_expected(seed),
            asks: BTreeMap::new(),
            next_ask: 0,
            weather: Weather::Quiet,
            lost_replies: 0,
            era: 0,
            flapping: false,
            report: Report::default(),
            trace: Trace::new(show),
            failure: None,
            swarm,
            random,
        };
        for id in 0..size {
            world.start(id);
        }
        world
    }

    // Who is who.

    pub fn kind(&self, id: Id) -> Kind {
        let (arbiters, replicas) = (self.arbiters.len(), self.replicas.len());
        if id < arbiters {
            Kind::Arbiter(id)
        } else if id < arbiters + replicas {
            Kind::Replica(id - arbiters)
        } else {
            Kind::Client(id - arbiters - replicas)
        }
    }

    pub fn arbiter_ids(&self) -> std::ops::Range<Id> {
        0..self.arbiters.len()
    }

    pub fn replica_ids(&self) -> std::ops::Range<Id> {
        self.arbiters.len()..self.arbiters.len() + self.replicas.len()
    }

    pub fn client_ids(&self) -> std::ops::Range<Id> {
        self.replica_ids().end..self.processes.len()
    }

    pub fn replica(&self, id: Id) -> &SimReplica {
        &self.replicas[id - self.arbiters.len()]
    }

    pub fn replica_mut(&mut self, id: Id) -> &mut SimReplica {
        let arbiters = self.arbiters.len();
        &mut self.replicas[id - arbiters]
    }

    /// The replica that is reached at an address of ours.
    pub fn id_of(&self, address: &str) -> Id {
        let number: usize = address.trim_start_matches('r').parse().expect("an address of ours");
        self.arbiters.len() + number
    }

    pub fn node_of(id: Id) -> NodeId {
        id as NodeId + 1
    }

    pub fn group_of(&self, id: Id) -> Option<usize> {
        match self.kind(id) {
            Kind::Arbiter(_) => None,
            Kind::Replica(number) => Some(self.replicas[number].group),
            Kind::Client(number) => Some(self.clients[number].group),
        }
    }

    pub fn say(&mut self, text: impl FnOnce() -> String) {
        self.trace.line(self.now, text);
    }

    pub fn name(&self, id: Id) -> String {
        self.processes[id].name.clone()
    }

    // What must hold.

    pub fn check(&mut self, verdict: Verdict) {
        if let Err(why) = verdict {
            self.failure.get_or_insert(why);
        }
    }

    pub fn failed(&self) -> bool {
        self.failure.is_some()
    }

    // Time.

    pub fn schedule_at(&mut self, at: Time, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse(Queued(at.max(self.now), self.scheduled, event)));
    }

    pub fn schedule(&mut self, after: Time, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    /// Something reaches a process of its own making (its disk, its dial) after a while.
    pub fn local(&mut self, after: Time, to: Id, local: Local) {
        let life = self.processes[to].life;
        self.schedule(after, Event::Local { to, life, local });
    }

    /// What arbiters had sent to each other before they lost their data does not reach the next ones.
    pub fn forget_packets(&mut self) {
        self.net.forget_packets();
        let arbiters = self.arbiters.len();
        let among = |event: &Event| matches!(event, Event::Packet { from, to, .. } if *from.max(to) < arbiters);
        self.queue.retain(|Reverse(Queued(_, _, event))| !among(event));
    }

    /// The process gets a turn at `at`, or earlier if one is due earlier.
    pub fn wake_at(&mut self, id: Id, at: Time) {
        let process = &mut self.processes[id];
        let at = at.max(process.stopped_until).max(self.now);
        if process.turn_at.is_none_or(|due| at < due) {
            process.turn_at = Some(at);
            self.schedule_at(at, Event::Turn(id));
        }
    }

    /// Something reached the process.
    pub fn wake(&mut self, id: Id) {
        let starved = self.processes[id].starved;
        let late = if starved > 0 { self.random.random_range(0..starved) } else { 20 };
        self.wake_at(id, self.now + late);
    }

    /// Runs what happens until `end`.
    pub fn run_until(&mut self, end: Time) -> Verdict {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.0 > end {
                break;
            }
            let Some(Reverse(Queued(at, _, event))) = self.queue.pop() else { break };
            self.now = at;
            self.report.steps += 1;
            self.happen(event);
            if let Some(why) = self.failure.take() {
                return Err(format!("at {:.6}: {why}", self.now as f64 / 1e6));
            }
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(id) => self.turn(id),
            Event::Arrive { conn, side, payload } => self.arrives(conn, side, payload),
            Event::Packet { from, to, packet } => self.packet_arrives(from, to, packet),
            Event::Dial { from, life, port, to } => self.dial_arrives(from, life, port, to),
            Event::Local { to, life, local } => {
                if self.processes[to].life == life && self.processes[to].alive {
                    self.take(to, local);
                }
            }
            Event::AskStep(ask, step) => self.ask_step(ask, step),
            Event::Watch { from, life, arbiter } => self.watch_again(from, life, arbiter),
            Event::Restart(id) => {
                if !self.processes[id].alive && !self.processes[id].gone {
                    self.start(id);
                }
            }
            Event::ClientActs { client, life } => {
                if self.processes[client].life == life {
                    self.client_acts(client);
                }
            }
            Event::Fault => self.fault(),
            Event::Weather => self.change_weather(),
            Event::ResetIfCut(links) => self.reset_if_cut(&links),
            Event::Undo(undo) => self.undo(undo),
            Event::Operator => self.operator_looks(),
        }
    }

    fn turn(&mut self, id: Id) {
        let process = &mut self.processes[id];
        if process.turn_at != Some(self.now) {
            return;
        }
        process.turn_at = None;
        if !process.alive {
            return;
        }
        if process.stopped_until > self.now {
            let until = process.stopped_until;
            return self.wake_at(id, until);
        }
        if let Some(length) = self.processes[id].stop_mid_turn.take() {
            let until = self.now + length;
            self.say(|| format!("process {id} is stopped in mid-turn for {length} us"));
            self.processes[id].holds_until = until;
            self.stands_still(id, until);
        }
        self.trace.step(self.now, id as u64);
        match self.kind(id) {
            Kind::Arbiter(number) => self.arbiter_turn(number),
            Kind::Replica(number) => self.replica_turn(number),
            Kind::Client(number) => self.client_turn(number),
        }
    }

    /// Something is at a process's door.
    pub fn take(&mut self, id: Id, local: Local) {
        let disk = matches!(local, Local::DiskDone);
        match self.kind(id) {
            Kind::Arbiter(number) => self.arbiter_takes(number, local),
            Kind::Replica(number) => self.replica_takes(number, local),
            Kind::Client(number) => self.client_takes(number, local),
        }
        if !disk || !self.sleeps_on(id) {
            self.wake(id);
        }
    }

    fn packet_arrives(&mut self, from: Id, to: Id, packet: Packet) {
        if !self.processes[to].alive {
            if matches!(packet, Packet::Watch) {
                let (after, life) = (self.random.random_range(50_000..1_000_000), self.processes[from].life);
                self.schedule(after, Event::Watch { from, life, arbiter: to });
            }
            return;
        }
        if let Some(thaw) = self.thaws(to) {
            return self.schedule_at(thaw, Event::Packet { from, to, packet });
        }
        match packet {
            Packet::Reply { ask, leader, reply } => self.reply_arrives(ask, from, leader, reply),
            Packet::Record(record) => {
                let local = match self.kind(to) {
                    Kind::Replica(_) => Local::Input(Input::Record(record)),
                    _ => Local::Record(Box::new(record)),
                };
                self.take(to, local);
            }
            packet => {
                if let Kind::Arbiter(number) = self.kind(to) {
                    self.arbiters[number].inbox.push_back((from, packet));
                    self.wake(to);
                }
            }
        }
    }

    // Life and death.

    pub fn start(&mut self, id: Id) {
        let process = &mut self.processes[id];
        process.alive = true;
        process.life += 1;
        process.stopped_until = self.now;
        process.stood_until = process.stood_until.min(self.now);
        process.frozen_until = self.now;
        process.holds_until = self.now;
        process.stop_mid_turn = None;
        process.turn_at = None;
        process.silent = false;
        let life = process.life;
        self.say(|| format!("process {id} starts, life {life}"));
        match self.kind(id) {
            Kind::Arbiter(number) => self.start_arbiter(number),
            Kind::Replica(number) => self.start_replica(number),
            Kind::Client(number) => self.start_client(number),
        }
        if !matches!(self.kind(id), Kind::Arbiter(_)) {
            for arbiter in self.arbiter_ids() {
                self.schedule(100, Event::Watch { from: id, life, arbiter });
            }
        }
        self.wake_at(id, self.now + 10);
    }

    /// A process dies; `silent` with its machine.
    pub fn kill(&mut self, id: Id, silent: bool) {
        if !self.processes[id].alive {
            return;
        }
        let name = self.name(id);
        self.say(|| format!("{name} dies{}", if silent { " with its machine" } else { "" }));
        self.processes[id].silent = silent;
        match self.kind(id) {
            Kind::Arbiter(number) => self.arbiter_dies(number),
            Kind::Replica(number) => self.replica_dies(number),
            Kind::Client(number) => self.client_dies(number),
        }
        self.end_connections(id);
        self.processes[id].alive = false;
        let mine = |(_, ask): &(&u64, &Ask)| ask.asker == id;
        let given_up: Vec<_> = self.asks.iter().filter(mine).map(|(_, ask)| ask.purpose).collect();
        self.asks.retain(|_, ask| ask.asker != id);
        for purpose in given_up {
            if let Purpose::Operate(group) = purpose {
                self.operated(group, false);
            }
        }
    }

    /// Stops a process: it runs on when the time is over.
    pub fn stop(&mut self, id: Id, length: Time) {
        let until = self.now + length;
        self.stands_still(id, until);
        self.processes[id].turn_at = None;
        self.wake_at(id, until);
    }

    fn stands_still(&mut self, id: Id, until: Time) {
        let now = self.now;
        let process = &mut self.processes[id];
        let more = until.saturating_sub(process.stopped_until.max(now));
        if until >= now + SUSPECT_AFTER {
            process.stood += more;
            process.stood_until = process.stood_until.max(until);
        }
        process.stopped_until = process.stopped_until.max(until);
    }

    /// How long a process has stood still by now, counting only stops that are longer than a suspicion takes.
    pub fn stood_still(&self, id: Id) -> Time {
        let process = &self.processes[id];
        process.stood - process.stood_until.saturating_sub(self.now).min(process.stood)
    }
}

/// A message of a client's connection, as its replica or its client takes it.
pub fn as_ask(payload: Payload) -> Option<FromClient> {
    match payload {
        Payload::Ask(message) => Some(message),
        _ => None,
    }
}

/// A message of a replica's, as a client of the library takes it.
pub fn as_told(payload: Payload) -> Option<ToClient> {
    match payload {
        Payload::Tell(message) => Some(message),
        _ => None,
    }
}
