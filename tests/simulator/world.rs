//! One run: replicas, arbiters as their register, links, clients, faults, and the ghost of what was released.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use cutover::machine::kv::{self, KeyValue, value::Value};
use cutover::machine::{Changes, Snapshot, StateMachine};
use cutover::protocol::peer::PeerMessage;
use cutover::replica::{
    Admission, Config, CreateOptions, Disposition, EntryAt, Event, Hold, Input, Limits, LinkId, Now, Origin, Outbox,
    Output, Replica, Request, Role, StopReason,
};
use cutover_arbiter::record::{
    Addresses, Answer, Command, GroupName, GroupRecord, Mode, Position, Proposal, Registers,
};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::tellers::{Heard, Said, Teller};

const GROUP: &str = "sim";
/// Wall clock at virtual time 0, in microseconds.
const EPOCH_US: u64 = 1_700_000_000_000_000;

pub type Time = u64;
pub type NodeId = usize;
type End = (NodeId, LinkId);

/// Which faults a run draws, and how often; probabilities per millisecond of virtual time, in millionths.
#[derive(Debug, Clone)]
pub struct Faults {
    replicas: usize,
    crash: u32,
    pause: u32,
    cut: u32,
    arbiters_away: u32,
    lose_answers: u32,
    switchovers: u32,
    isolate: u32,
    copies: usize,
    min_in_sync: u8,
    /// Longest time that a write to the disk takes.
    disk: Time,
    latency: (Time, Time),
    clients: usize,
    tellers: usize,
    /// Longest pause of a client between two questions.
    pace: Time,
    /// Of twenty questions, how many do not change a list.
    reads: u32,
}

impl Faults {
    pub fn drawn(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0xFA17);
        let mut some = |most: u32| if random.random_bool(0.6) { random.random_range(0..most) } else { 0 };
        let (crash, pause, cut, arbiters_away, lose_answers) = (some(400), some(300), some(500), some(200), some(500));
        let (switchovers, disk, isolate) = (some(200), u64::from(some(3_000)), some(100));
        let mut drawn = Faults {
            replicas: random.random_range(2..=4),
            crash,
            pause,
            cut,
            arbiters_away,
            lose_answers,
            switchovers,
            isolate,
            copies: random.random_range(2..=3),
            min_in_sync: random.random_range(1..=2),
            disk,
            latency: (50, random.random_range(100..5_000)),
            clients: random.random_range(1..=4),
            tellers: random.random_range(0..=2),
            reads: [8, 12, 17][random.random_range(0..3)],
            pace: [30_000, 100_000, 500_000, 1_500_000][random.random_range(0..4)],
        };
        if random.random_bool(0.2) {
            // Hardly anything is written: a primary that is no longer one has nothing to wait for, and only a round
            // keeps it from answering a read.
            (drawn.clients, drawn.tellers, drawn.reads, drawn.pace, drawn.isolate) = (2, 0, 18, 100_000, 100);
        }
        drawn
    }
}

#[derive(Debug, Default, Clone)]
pub struct Report {
    pub cut_overs: u64,
    pub released: u64,
    pub unknown: u64,
    pub transfers: u64,
    pub deltas: u64,
    pub told: u64,
    pub switchovers: u64,
}

pub struct Node {
    core: Option<Replica<KeyValue>>,
    pub life: u64,
    paused_until: Time,
    inbox: VecDeque<Input>,
    pub held: VecDeque<Held>,
    next_accepted: LinkId,
    wake_at: Time,
    requests: VecDeque<Ask>,
    /// Connections of tellers on which a request was refused.
    pub refusing: BTreeSet<u64>,
    /// Connections of tellers that asked something.
    met: BTreeSet<(usize, u64)>,
    /// When the last write to the disk is done.
    disk_at: Time,
}

/// A request that lies at a replica.
#[derive(Debug, Clone)]
pub enum Ask {
    Client(usize),
    Teller { teller: usize, connection: u64, said: Said },
}

/// A reply that lies at a replica.
pub struct Held {
    pub whom: Whom,
    pub hold: Hold,
    pub reply: Vec<u8>,
}

/// Who gets it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Whom {
    Client(usize),
    /// It gave up.
    Nobody,
    Teller {
        teller: usize,
        connection: u64,
        sequence: u64,
        at: Position,
    },
    Refused {
        teller: usize,
        connection: u64,
        fatal: bool,
    },
}

#[derive(Debug, Clone)]
enum Doing {
    Push(u64),
    Read {
        must_see: BTreeSet<u64>,
        at_least: u64,
    },
    /// The clock: never before what was told to anyone before the question.
    Time {
        not_before: u64,
    },
    /// Something with captured values; its reply is not judged.
    Other(Vec<u8>),
}

impl Report {
    pub fn add(&mut self, other: &Report) {
        self.cut_overs += other.cut_overs;
        self.released += other.released;
        self.unknown += other.unknown;
        self.transfers += other.transfers;
        self.deltas += other.deltas;
        self.told += other.told;
        self.switchovers += other.switchovers;
    }
}

struct Client {
    list: String,
    next_value: u64,
    acked: Vec<u64>,
    unknown: BTreeSet<u64>,
    doing: Option<(Doing, Time)>,
}

struct Link {
    ends: [End; 2],
    open: bool,
    /// When the last message of each direction arrives: one connection keeps its order.
    last: [Time; 2],
}

pub enum Happening {
    Turn(NodeId),
    Deliver { to: End, life: u64, input: Input },
    DialArrives { from: End, life: u64, to: NodeId },
    Arbiter { from: NodeId, life: u64, proposal: Proposal },
    ArbiterRead { from: NodeId, life: u64, ticket: u64 },
    ToNode { to: NodeId, life: u64, input: Input },
    Restart(NodeId),
    Asked { to: NodeId, life: u64, ask: Ask },
    TellerActs(usize),
    Told { teller: usize, connection: u64, heard: Heard },
    ClientActs(usize),
    ClientGivesUp(usize, Time),
    Fault,
    Heal(NodeId, NodeId),
    ArbitersBack(NodeId),
}

pub struct World {
    pub now: Time,
    pub random: ChaCha8Rng,
    faults: Faults,
    stormy: bool,
    queue: BTreeMap<(Time, u64), Happening>,
    pub counter: u64,
    pub nodes: Vec<Node>,
    pub tellers: Vec<Teller>,
    /// The ghost: every entry of which something was released, with everything before it.
    canon: BTreeMap<u64, EntryAt>,
    clock_told: u64,
    links: BTreeMap<u64, Link>,
    by_end: BTreeMap<End, u64>,
    cut: BTreeSet<(NodeId, NodeId)>,
    away: BTreeSet<NodeId>,
    registers: Registers,
    clients: Vec<Client>,
    pub report: Report,
    trace: bool,
    traced: Changes,
    digests: BTreeMap<(u64, u64), Vec<(NodeId, u64)>>,
    marked: Option<u64>,
    failure: Option<String>,
}

impl World {
    pub fn new(seed: u64, faults: Faults, trace: bool) -> Self {
        let mut world = World {
            now: 1_000_000,
            random: ChaCha8Rng::seed_from_u64(seed),
            stormy: true,
            queue: BTreeMap::new(),
            counter: 0,
            nodes: Vec::new(),
            tellers: (0..faults.tellers).map(Teller::new).collect(),
            canon: BTreeMap::new(),
            clock_told: 0,
            links: BTreeMap::new(),
            by_end: BTreeMap::new(),
            cut: BTreeSet::new(),
            away: BTreeSet::new(),
            registers: Registers::default(),
            clients: Vec::new(),
            report: Report::default(),
            trace,
            traced: Changes::default(),
            digests: BTreeMap::new(),
            marked: None,
            failure: None,
            faults,
        };
        for node in 0..world.faults.replicas {
            world.nodes.push(Node {
                core: None,
                life: 0,
                paused_until: 0,
                inbox: VecDeque::new(),
                held: VecDeque::new(),
                next_accepted: 0,
                wake_at: 0,
                requests: VecDeque::new(),
                refusing: BTreeSet::new(),
                met: BTreeSet::new(),
                disk_at: 0,
            });
            world.start(node);
        }
        for client in 0..world.faults.clients {
            world.clients.push(Client {
                list: format!("list{client}"),
                next_value: 1,
                acked: Vec::new(),
                unknown: BTreeSet::new(),
                doing: None,
            });
            world.schedule(500_000, Happening::ClientActs(client));
        }
        for teller in 0..world.tellers.len() {
            world.schedule(700_000, Happening::TellerActs(teller));
        }
        world.schedule(1_000_000, Happening::Fault);
        world
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        let text = text();
        self.traced.write(text.as_bytes());
        if self.trace {
            println!("{:>12.6} {text}", self.now as f64 / 1e6);
        }
    }

    pub fn digest_of_trace(&self) -> u64 {
        self.traced.state()
    }

    pub fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    pub fn schedule(&mut self, after: Time, happening: Happening) {
        self.counter += 1;
        self.queue.insert((self.now + after, self.counter), happening);
    }

    pub fn latency(&mut self) -> Time {
        let (least, most) = self.faults.latency;
        self.random.random_range(least..=most)
    }

    fn name(node: NodeId) -> String {
        format!("r{node}")
    }

    fn node_of(address: &str) -> NodeId {
        address.trim_start_matches("r").parse().expect("an address of ours")
    }

    fn start(&mut self, node: NodeId) {
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        let millis = Duration::from_millis;
        let config = Config {
            name: Self::name(node).parse().expect("a good name"),
            addresses: Addresses { peer: Self::name(node), ..Addresses::default() },
            group: GROUP.parse().expect("a good name"),
            create: (node == 0 && self.nodes[node].life == 0)
                .then_some(CreateOptions { mode: Mode::Memory, min_in_sync: self.faults.min_in_sync }),
            copies: self.faults.copies.min(self.faults.replicas),
            suspect_after: millis(500),
            drop_backup_after: millis(350),
            heartbeat: millis(125),
            switchover_timeout: millis(3000),
            propose_again_after: millis(200),
            readmit_after: millis(100),
            log_bytes: self.random.random_range(200..20_000),
            unacknowledged_bytes: 1 << 20,
            append_bytes: self.random.random_range(100..5_000),
            snapshot_bytes: u64::MAX,
            journal_stall_limit: millis(60_000),
            limits: Limits::default(),
            seed,
        };
        let now = self.clock(node);
        self.nodes[node].life += 1;
        self.nodes[node].core = Some(Replica::new(now, config, KeyValue::default));
        let life = self.nodes[node].life;
        if let Some(record) = self.record().cloned() {
            self.schedule(1000, Happening::ToNode { to: node, life, input: Input::Record(record) });
        }
        self.say(|| format!("r{node} starts, life {life}"));
        self.schedule(10, Happening::Turn(node));
    }

    fn clock(&self, node: NodeId) -> Now {
        // Wall clocks an hour apart.
        let wall = EPOCH_US + self.now + node as u64 * 3_600_000_000;
        Now { boot: Duration::from_micros(self.now + node as u64 * 77), wall }
    }

    fn record(&self) -> Option<&GroupRecord> {
        self.registers.get(&GROUP.parse::<GroupName>().expect("a good name"))
    }

    fn crash(&mut self, node: NodeId) {
        if self.nodes[node].core.take().is_none() {
            return;
        }
        self.say(|| format!("r{node} dies"));
        self.drop_held(node);
        self.nodes[node].inbox.clear();
        let requests: Vec<_> = self.nodes[node].requests.drain(..).collect();
        for ask in requests {
            if let Ask::Client(client) = ask {
                self.client_unknown(client);
            }
        }
        let dead: Vec<u64> = self.by_end.range((node, 0)..(node + 1, 0)).map(|(_, link)| *link).collect();
        for link in dead {
            self.break_link(link, node);
        }
        let after = self.random.random_range(10_000..3_000_000);
        self.schedule(after, Happening::Restart(node));
    }

    /// The last copy of released data is not destroyed: with memory durability a pair has two.
    fn may_crash(&self, node: NodeId) -> bool {
        let Some(record) = self.record() else { return false };
        // A removal on its way to the arbiters would leave nobody behind.
        let proposes = |core: &Replica<KeyValue>| core.status().proposing.is_some();
        if self.nodes[node].core.as_ref().is_some_and(proposes) {
            return false;
        }
        let alive = |member: &cutover_arbiter::record::Member| {
            let holder = Self::node_of(&member.addresses.peer);
            holder != node
                && self.nodes[holder].core.as_ref().is_some_and(|core| core.incarnation() == member.incarnation)
        };
        record.in_sync.iter().any(alive)
    }

    fn break_link(&mut self, id: u64, by: NodeId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.open {
            return;
        }
        link.open = false;
        let ends = link.ends;
        for end in ends {
            self.by_end.remove(&end);
            if end.0 != by && self.nodes[end.0].core.is_some() && !self.is_cut(by, end.0) {
                let (latency, life) = (self.latency(), self.nodes[end.0].life);
                let to = end;
                let at = self.links[&id].last[usize::from(ends[1] == end)].max(self.now + latency);
                let input = Input::LinkClosed(end.1);
                self.schedule(at - self.now, Happening::Deliver { to, life, input });
            }
        }
        self.links.remove(&id);
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
    }

    fn drop_held(&mut self, node: NodeId) {
        let held: Vec<_> = self.nodes[node].held.drain(..).collect();
        for held in held {
            if let Whom::Client(client) = held.whom {
                self.client_unknown(client);
            }
        }
        for (teller, connection) in std::mem::take(&mut self.nodes[node].met) {
            self.nodes[node].refusing.insert(connection);
            self.tell(teller, connection, Heard::Closed);
        }
    }

    fn client_unknown(&mut self, client: usize) {
        if let Some((Doing::Push(value), _)) = self.clients[client].doing.take() {
            self.clients[client].unknown.insert(value);
            self.report.unknown += 1;
        }
        self.schedule(50_000, Happening::ClientActs(client));
    }

    /// Faults for so long.
    pub fn storm(&mut self, length: Time) -> Result<(), String> {
        self.run_until(self.now + length)
    }

    /// Everything heals, and so long the group has to become whole.
    pub fn calm(&mut self, length: Time) -> Result<(), String> {
        self.stormy = false;
        self.cut.clear();
        self.away.clear();
        self.say(|| "calm".to_owned());
        for node in 0..self.nodes.len() {
            self.nodes[node].paused_until = self.now;
            self.schedule(1, Happening::Turn(node));
            if self.nodes[node].core.is_none() {
                self.schedule(1, Happening::Restart(node));
            }
            self.tell_record(node);
        }
        self.run_until(self.now + length)
    }

    fn run_until(&mut self, end: Time) -> Result<(), String> {
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            if at > end {
                self.queue.insert((at, 0), happening);
                break;
            }
            self.now = self.now.max(at);
            self.happen(happening);
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Turn(node) => self.turn(node),
            Happening::Deliver { to, life, input } => {
                if self.nodes[to.0].life == life {
                    self.nodes[to.0].inbox.push_back(input);
                    self.turn(to.0);
                }
            }
            Happening::ToNode { to, life, input } => {
                if self.nodes[to].life == life && !self.away.contains(&to) {
                    self.nodes[to].inbox.push_back(input);
                    self.turn(to);
                }
            }
            Happening::DialArrives { from, life, to } => self.dial_arrives(from, life, to),
            Happening::Arbiter { from, life, proposal } => self.arbiter(from, life, proposal),
            Happening::ArbiterRead { from, life, ticket } => {
                let latency = self.latency();
                let input = if self.away.contains(&from) {
                    Input::ReadFailed { ticket }
                } else {
                    Input::Read { ticket, record: self.record().cloned() }
                };
                if self.nodes[from].life == life {
                    self.schedule(latency, Happening::Deliver { to: (from, 0), life, input });
                }
            }
            Happening::Restart(node) => {
                if self.nodes[node].core.is_none() {
                    self.start(node);
                }
            }
            Happening::Asked { to, life, ask } => {
                if self.nodes[to].life == life && self.nodes[to].core.is_some() {
                    self.nodes[to].requests.push_back(ask);
                    self.turn(to);
                } else if let Ask::Teller { teller, connection, .. } = ask {
                    self.tell(teller, connection, Heard::Closed);
                }
            }
            Happening::TellerActs(teller) => self.teller_acts(teller),
            Happening::Told { teller, connection, heard } => self.told(teller, connection, heard),
            Happening::ClientActs(client) => self.client_acts(client),
            Happening::ClientGivesUp(client, since) => {
                if self.clients[client].doing.as_ref().is_some_and(|(_, at)| *at == since) {
                    for node in &mut self.nodes {
                        node.requests.retain(|waiting| !matches!(waiting, Ask::Client(other) if *other == client));
                        for held in &mut node.held {
                            if held.whom == Whom::Client(client) {
                                held.whom = Whom::Nobody;
                            }
                        }
                    }
                    self.client_unknown(client);
                }
            }
            Happening::Fault => self.fault(),
            Happening::Heal(a, b) => {
                self.cut.remove(&(a, b));
                self.cut.remove(&(b, a));
            }
            Happening::ArbitersBack(node) => {
                self.away.remove(&node);
                self.tell_record(node);
            }
        }
    }

    fn tell_record(&mut self, node: NodeId) {
        let life = self.nodes[node].life;
        if let Some(record) = self.record().cloned() {
            self.schedule(100, Happening::ToNode { to: node, life, input: Input::Record(record) });
        }
    }

    fn fault(&mut self) {
        if !self.stormy {
            return;
        }
        self.schedule(1000, Happening::Fault);
        let node = self.random.random_range(0..self.nodes.len());
        let other = self.random.random_range(0..self.nodes.len());
        let length = self.random.random_range(1_000..2_000_000);
        let faults = self.faults.clone();
        let mut chance = |per_million: u32| self.random.random_range(0..1_000_000) < per_million * 3;
        let (switchover, mark, alone) = (chance(faults.switchovers), chance(500), chance(faults.isolate));
        let (crash, pause, cut, one_way, away) = (
            chance(faults.crash),
            chance(faults.pause),
            chance(faults.cut),
            chance(50_000),
            chance(faults.arbiters_away),
        );
        if switchover || mark {
            let input = if mark { Input::Mark { ticket: 2 } } else { Input::Switchover { to: None, ticket: 1 } };
            self.nodes[node].inbox.push_back(input);
            self.turn(node);
        }
        if crash && self.may_crash(node) {
            self.crash(node);
        }
        if pause {
            self.say(|| format!("r{node} stops for {length} us"));
            self.nodes[node].paused_until = self.now + length;
            self.schedule(length, Happening::Turn(node));
        }
        if alone {
            // Extra weight to isolating exactly one process, clients excepted: mostly the primary.
            let named = self.record().map(|record| Self::node_of(&record.primary.addresses.peer));
            let node = named.filter(|_| length % 4 > 0).unwrap_or(node);
            self.say(|| format!("r{node} is alone for {length} us"));
            for other in (0..self.nodes.len()).filter(|other| *other != node) {
                self.cut.extend([(node, other), (other, node)]);
                self.schedule(length, Happening::Heal(node, other));
            }
            self.away.insert(node);
            self.schedule(length, Happening::ArbitersBack(node));
        }
        if cut && node != other {
            self.say(|| format!("r{node} and r{other} cut for {length} us, one way: {one_way}"));
            self.cut.insert((node, other));
            if !one_way {
                self.cut.insert((other, node));
            }
            self.schedule(length, Happening::Heal(node, other));
        }
        if away {
            self.say(|| format!("the arbiters are away from r{node} for {length} us"));
            self.away.insert(node);
            self.schedule(length, Happening::ArbitersBack(node));
        }
    }

    fn dial_arrives(&mut self, from: End, life: u64, to: NodeId) {
        if self.nodes[from.0].life != life {
            return;
        }
        let latency = self.latency();
        if self.is_cut(from.0, to) || self.is_cut(to, from.0) {
            let input = Input::DialFailed { link: from.1, refused: false };
            self.schedule(500_000, Happening::Deliver { to: from, life, input });
        } else if self.nodes[to].core.is_none() {
            let input = Input::DialFailed { link: from.1, refused: true };
            self.schedule(latency, Happening::Deliver { to: from, life, input });
        } else {
            self.nodes[to].next_accepted += 2;
            let accepted = (to, self.nodes[to].next_accepted);
            self.counter += 1;
            let id = self.counter;
            self.links.insert(id, Link { ends: [from, accepted], open: true, last: [self.now + latency; 2] });
            self.by_end.insert(from, id);
            self.by_end.insert(accepted, id);
            let to_life = self.nodes[to].life;
            self.schedule(0, Happening::Deliver { to: accepted, life: to_life, input: Input::Accepted(accepted.1) });
            self.schedule(latency, Happening::Deliver { to: from, life, input: Input::Dialled(from.1) });
        }
    }

    fn arbiter(&mut self, from: NodeId, life: u64, proposal: Proposal) {
        let latency = self.latency();
        let request = proposal.request;
        if self.away.contains(&from) {
            if self.nodes[from].life == life {
                let input = Input::Unanswered(request);
                self.schedule(200_000, Happening::Deliver { to: (from, 0), life, input });
            }
            return;
        }
        let before = self.record().map(|record| record.epoch);
        let change = proposal.change.name();
        let answer = self.registers.apply(Command { proposal, at_ms: self.now / 1000 });
        let granted = matches!(answer, Answer::Granted(_));
        self.say(|| format!("arbiters: {change} of r{from}: {}", if granted { "granted" } else { "refused" }));
        let lost = self.random.random_range(0..1000) < self.faults.lose_answers && self.stormy;
        let input = if lost { Input::Unanswered(request) } else { Input::Answer { request, answer } };
        if self.nodes[from].life == life {
            self.schedule(latency, Happening::Deliver { to: (from, 0), life, input });
        }
        if self.record().map(|record| record.epoch) != before {
            for node in 0..self.nodes.len() {
                let (latency, life) = (self.latency(), self.nodes[node].life);
                if let Some(record) = self.record().cloned() {
                    self.schedule(latency, Happening::ToNode { to: node, life, input: Input::Record(record) });
                }
            }
        }
    }

    fn turn(&mut self, node: NodeId) {
        if self.nodes[node].paused_until > self.now {
            return;
        }
        let now = self.clock(node);
        let Some(mut core) = self.nodes[node].core.take() else { return };
        core.begin(now);
        let mut out = Outbox::default();
        let mut stopped = None;
        while let Some(input) = self.nodes[node].inbox.pop_front() {
            core.step(input, &mut out);
            self.run_outputs(node, &mut core, &mut out, &mut stopped);
        }
        self.serve(node, &mut core, &mut out);
        core.end(&mut out);
        self.run_outputs(node, &mut core, &mut out, &mut stopped);
        while core.apply(&mut out) {}
        self.run_outputs(node, &mut core, &mut out, &mut stopped);
        self.release(node, &core);
        let deadline = core.next_deadline();
        if core.admission() == Admission::Closed {
            let requests: Vec<_> = self.nodes[node].requests.drain(..).collect();
            for ask in requests {
                let client = match ask {
                    Ask::Client(client) => client,
                    Ask::Teller { teller, connection, .. } => {
                        self.nodes[node].refusing.insert(connection);
                        self.tell(teller, connection, Heard::Closed);
                        continue;
                    }
                };
                // Not executed: the client asks elsewhere.
                self.clients[client].doing = None;
                self.schedule(20_000, Happening::ClientActs(client));
            }
        }
        self.nodes[node].core = Some(core);
        if let Some(reason) = stopped {
            match reason {
                StopReason::Asked => self.crash(node),
                other => self.failure = Some(format!("r{node} stopped: {other}")),
            }
            return;
        }
        if let Some(deadline) = deadline.filter(|deadline| *deadline < Duration::from_secs(100_000)) {
            let at = (deadline.as_micros() as u64).saturating_sub(node as u64 * 77).max(self.now + 1);
            if self.nodes[node].wake_at <= self.now || at < self.nodes[node].wake_at {
                self.nodes[node].wake_at = at;
                self.schedule(at - self.now, Happening::Turn(node));
            }
        }
    }

    fn serve(&mut self, node: NodeId, core: &mut Replica<KeyValue>, out: &mut Outbox<KeyValue>) {
        while core.admission() == Admission::Open {
            let client = match self.nodes[node].requests.pop_front() {
                None => break,
                Some(Ask::Client(client)) => client,
                Some(Ask::Teller { teller, connection, said }) => {
                    self.nodes[node].met.insert((teller, connection));
                    if !self.serve_teller(node, core, (teller, connection), &said, out) {
                        self.nodes[node].requests.push_front(Ask::Teller { teller, connection, said });
                        break;
                    }
                    continue;
                }
            };
            let Some((doing, _)) = &self.clients[client].doing else { continue };
            let list = self.clients[client].list.clone();
            let operation = match doing {
                Doing::Push(value) => kv::request("RPUSH", &[list.as_bytes(), value.to_string().as_bytes()]),
                Doing::Read { .. } => kv::request("LRANGE", &[list.as_bytes(), b"0", b"-1"]),
                Doing::Time { .. } => kv::request("TIME", &[]),
                Doing::Other(operation) => operation.clone(),
            };
            let mut reply = Vec::new();
            let request = Request::Operation { origin: Origin::Direct, operation: &operation };
            let whom = Whom::Client(client);
            match core.request(request, &mut reply, out) {
                Disposition::Reply { hold, .. } => self.nodes[node].held.push_back(Held { whom, hold, reply }),
                Disposition::Deferred { hold, work, .. } => {
                    work(&mut reply);
                    self.nodes[node].held.push_back(Held { whom, hold, reply });
                }
                Disposition::Refused(_) => {
                    self.clients[client].doing = None;
                    self.schedule(20_000, Happening::ClientActs(client));
                }
            }
        }
    }

    fn release(&mut self, node: NodeId, core: &Replica<KeyValue>) {
        let release = core.release();
        let mut kept = VecDeque::new();
        let mut waits = BTreeSet::new();
        while let Some(held) = self.nodes[node].held.pop_front() {
            let connection = match held.whom {
                Whom::Teller { connection, .. } | Whom::Refused { connection, .. } => Some(connection),
                Whom::Client(_) | Whom::Nobody => None,
            };
            if !release.covers(held.hold) || connection.is_some_and(|number| waits.contains(&number)) {
                waits.extend(connection);
                kept.push_back(held);
                continue;
            }
            self.check_release(node, core, held.hold.index);
            match held.whom {
                Whom::Client(client) => self.client_hears(node, client, held.reply),
                Whom::Nobody => {}
                Whom::Teller { .. } | Whom::Refused { .. } => self.release_to_teller(held),
            }
        }
        self.nodes[node].held = kept;
    }

    /// S2, S3, S4 at the instant of a release: what is released is what was released before, and every replica that
    /// the newest record allows to take over holds it.
    fn check_release(&mut self, node: NodeId, core: &Replica<KeyValue>, upto: u64) {
        let from = self.canon.last_key_value().map_or(1, |(index, _)| index + 1);
        for index in from..=upto {
            match core.entry_at(index) {
                EntryAt::Missing => self.fail(format!("r{node} releases {index}, which it does not hold")),
                entry => _ = self.canon.insert(index, entry),
            }
        }
        if let (Some(canon @ EntryAt::Is(..)), own @ EntryAt::Is(..)) = (self.canon.get(&upto), core.entry_at(upto))
            && *canon != own
        {
            let why = format!("S3: r{node} releases another entry at {upto}: {own:?} instead of {canon:?}");
            self.fail(why);
        }
        let Some(record) = self.record().cloned() else { return };
        for member in &record.in_sync {
            let holder = Self::node_of(&member.addresses.peer);
            if holder == node {
                continue;
            }
            let Some(other) = &self.nodes[holder].core else { continue };
            if other.incarnation() != member.incarnation {
                continue;
            }
            for index in from.min(upto)..=upto {
                let (theirs, canon) = (other.entry_at(index), self.canon.get(&index));
                let differs =
                    matches!((&theirs, canon), (EntryAt::Is(..), Some(canon @ EntryAt::Is(..))) if *canon != theirs);
                if theirs == EntryAt::Missing || differs {
                    let why = format!(
                        "S4: r{node} releases {upto} in {:?} while r{holder}, in sync in {:?}, does not hold {index}",
                        core.release().epoch,
                        record.epoch
                    );
                    return self.fail(why);
                }
            }
        }
    }

    fn client_hears(&mut self, node: NodeId, number: usize, reply: Vec<u8>) {
        let client = &mut self.clients[number];
        let Some((doing, _)) = client.doing.take() else { return };
        self.report.released += 1;
        match doing {
            Doing::Push(value) => client.acked.push(value),
            Doing::Other(_) => {}
            Doing::Time { not_before } => {
                let [seconds, micros] = values(&reply)[..] else {
                    return self.fail("TIME was not answered with two numbers".to_owned());
                };
                let told = seconds * 1_000_000 + micros;
                if told < not_before {
                    self.fail(format!("S11: r{node} told {told} after somebody had been told {not_before}"));
                }
                self.clock_told = self.clock_told.max(told);
            }
            Doing::Read { must_see, at_least } => {
                let seen = values(&reply);
                let missing: Vec<_> = must_see.iter().filter(|value| !seen.contains(value)).collect();
                if !missing.is_empty() || (seen.len() as u64) < at_least {
                    let list = client.list.clone();
                    self.failure = Some(format!("r{node} answered a stale read of {list}: {missing:?} are missing"));
                }
            }
        }
        let after = self.random.random_range(1_000..self.faults.pace);
        self.schedule(after, Happening::ClientActs(number));
    }

    /// Mostly whom the record names; sometimes anyone who believes to be primary.
    pub fn choose_node(&mut self) -> Option<NodeId> {
        let named = self.record().map(|record| Self::node_of(&record.primary.addresses.peer));
        let anyone = (0..self.nodes.len()).find(|node| {
            self.nodes[*node].core.as_ref().is_some_and(|core| core.status().role == Role::Primary)
                && Some(*node) != named
        });
        let stale = self.random.random_bool(0.3);
        let node = if stale { anyone.or(named) } else { named };
        node.filter(|node| self.nodes[*node].core.is_some())
    }

    fn client_acts(&mut self, client: usize) {
        if self.clients[client].doing.is_some() {
            return;
        }
        let Some(node) = self.choose_node() else {
            return self.schedule(50_000, Happening::ClientActs(client));
        };
        let clock_told = self.clock_told;
        let (dice, member) = (self.random.random_range(0..20), self.random.random_range(0..50u32).to_string());
        let state = &mut self.clients[client];
        let doing = if dice < 2 {
            Doing::Time { not_before: clock_told }
        } else if dice < 5 && self.faults.reads < 18 {
            let member = member.as_bytes();
            Doing::Other(match dice {
                2 => kv::request("SADD", &[b"set", member]),
                3 => kv::request("SPOP", &[b"set"]),
                _ => kv::request("SET", &[b"fleeting", member, b"PX", b"300"]),
            })
        } else if dice < self.faults.reads {
            let must_see: BTreeSet<u64> = state.acked.iter().copied().collect();
            Doing::Read { at_least: must_see.len() as u64, must_see }
        } else {
            state.next_value += 1;
            Doing::Push(state.next_value)
        };
        state.doing = Some((doing, self.now));
        self.nodes[node].requests.push_back(Ask::Client(client));
        self.schedule(1_500_000, Happening::ClientGivesUp(client, self.now));
        self.turn(node);
    }

    fn run_outputs(
        &mut self,
        node: NodeId,
        core: &mut Replica<KeyValue>,
        out: &mut Outbox<KeyValue>,
        stopped: &mut Option<StopReason>,
    ) {
        let life = self.nodes[node].life;
        let mut outputs: VecDeque<_> = std::mem::take(&mut out.outputs).into();
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Dial { link, address } => {
                    let latency = self.latency();
                    let to = Self::node_of(&address);
                    self.schedule(latency, Happening::DialArrives { from: (node, link), life, to });
                }
                Output::Send(link, message) => self.send((node, link), message),
                Output::Close(link) => {
                    if let Some(id) = self.by_end.get(&(node, link)).copied() {
                        self.break_link(id, node);
                    }
                }
                Output::Propose(proposal) => {
                    let latency = self.latency();
                    self.schedule(latency, Happening::Arbiter { from: node, life, proposal });
                }
                Output::Read { ticket } => {
                    let latency = self.latency();
                    self.schedule(latency, Happening::ArbiterRead { from: node, life, ticket });
                }
                Output::Persist { sequence, .. } | Output::Claim { sequence, .. } if self.faults.disk == 0 => {
                    core.step(Input::Persisted { sequence }, out);
                }
                Output::Persist { sequence, .. } | Output::Claim { sequence, .. } => {
                    let takes = self.random.random_range(0..self.faults.disk);
                    let at = self.nodes[node].disk_at.max(self.now + takes);
                    self.nodes[node].disk_at = at;
                    let input = Input::Persisted { sequence };
                    self.schedule(at - self.now, Happening::Deliver { to: (node, 0), life, input });
                }
                Output::Transfer { transfer, mut snapshot } => {
                    let mut at = 100;
                    let mut chunk = snapshot.next_chunk(500);
                    while let Some(bytes) = chunk {
                        chunk = snapshot.next_chunk(500);
                        let (progress, last) = (snapshot.progress(), chunk.is_none());
                        let input = Input::Snapshot { transfer, bytes: bytes.into(), progress, last };
                        self.schedule(at, Happening::Deliver { to: (node, 0), life, input });
                        at += 200;
                    }
                }
                Output::Decode(decoding) => core.decoded(decoding.run(), out),
                Output::Digest { index, core: own, mut snapshot } => {
                    let mut changes = Changes::default();
                    changes.word(own);
                    while let Some(chunk) = snapshot.next_chunk(4096) {
                        changes.write(&chunk);
                    }
                    // On the primary the entry is not in the log yet; its epoch is the record's.
                    let epoch = match core.entry_at(index) {
                        EntryAt::Is(epoch, _) => epoch,
                        _ => core.release().epoch,
                    };
                    let digests = self.digests.entry((epoch.0, index)).or_default();
                    digests.push((node, changes.state()));
                    if digests.iter().any(|(_, digest)| *digest != digests[0].1) {
                        let why = format!("S6: digests at {index} of {epoch}: {digests:?}");
                        self.fail(why);
                    }
                }
                Output::MarkPlaced { index, .. } => self.marked = index,
                Output::Deposed => self.drop_held(node),
                Output::Event(event) => self.note(node, &event),
                Output::Stop(reason) => *stopped = Some(reason),
                Output::Snapshot { .. } | Output::InstallSnapshot { .. } | Output::AbandonSnapshot { .. } => {
                    self.fail("mode memory takes no snapshots".to_owned());
                }
                Output::SwitchoverEnded { .. } | Output::Discard(_) => {}
            }
            outputs.extend(std::mem::take(&mut out.outputs));
        }
    }

    fn note(&mut self, node: NodeId, event: &Event) {
        self.say(|| format!("r{node} {event:?}"));
        match event {
            Event::CutOver { .. } => self.report.cut_overs += 1,
            Event::Granted { change: "hand_over", .. } => self.report.switchovers += 1,
            Event::TransferDone { replica, .. } if replica.as_str() == Self::name(node) => self.report.transfers += 1,
            Event::DeltaRejoin { .. } => self.report.deltas += 1,
            Event::Diverged { index, operation } => {
                self.failure = Some(format!("r{node} diverged at {index}: {operation}"));
            }
            _ => {}
        }
    }

    fn send(&mut self, from: End, message: PeerMessage) {
        let Some(id) = self.by_end.get(&from).copied() else { return };
        let latency = self.latency();
        let now = self.now;
        let Some(link) = self.links.get_mut(&id) else { return };
        let direction = usize::from(link.ends[0] == from);
        let to = link.ends[direction];
        let at = (now + latency).max(link.last[direction] + 1);
        link.last[direction] = at;
        if self.is_cut(from.0, to.0) {
            // The segment is lost; TCP will not deliver anything after it either, so the connection is as good as gone.
            self.schedule(
                2_000_000,
                Happening::Deliver { to: from, life: self.nodes[from.0].life, input: Input::LinkClosed(from.1) },
            );
            self.links.remove(&id);
            self.by_end.remove(&from);
            self.by_end.remove(&to);
            let life = self.nodes[to.0].life;
            self.schedule(2_000_000, Happening::Deliver { to, life, input: Input::LinkClosed(to.1) });
            return;
        }
        let life = self.nodes[to.0].life;
        self.schedule(at - now, Happening::Deliver { to, life, input: Input::Peer(to.1, message) });
    }

    /// After the calm: two in sync, equal digests, and everything released is there, once, in order.
    pub fn judge(&mut self) -> Result<Report, String> {
        let Some(record) = self.record().cloned() else { return Err("the group was never made".to_owned()) };
        if record.in_sync.len() < 2 {
            let roles: Vec<_> = self.nodes.iter().map(|node| node.core.as_ref().map(|core| core.status())).collect();
            return Err(format!("only {} in sync after the calm: {record:?}\n{roles:#?}", record.in_sync.len()));
        }
        let primary = Self::node_of(&record.primary.addresses.peer);
        self.nodes[primary].inbox.push_back(Input::Mark { ticket: 1 });
        self.turn(primary);
        self.run_until(self.now + 2_000_000)?;
        let index = self.marked.ok_or("the primary did not place a mark")?;
        let digests = self.digests.range((0, index)..).rev().find(|((_, at), _)| *at == index);
        let digests = digests.map(|(_, digests)| digests.clone()).unwrap_or_default();
        if digests.len() < 2 || digests.iter().any(|(_, digest)| *digest != digests[0].1) {
            return Err(format!("digests at {index}: {digests:?}"));
        }
        for client in 0..self.clients.len() {
            self.judge_client(client, primary)?;
        }
        Ok(self.report.clone())
    }

    fn judge_client(&mut self, client: usize, primary: NodeId) -> Result<(), String> {
        let client = &self.clients[client];
        let Some(core) = &self.nodes[primary].core else { return Err("the primary died in the calm".to_owned()) };
        let mut reply = Vec::new();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let env = cutover::machine::ReadEnv::new(core.status().clock, &mut random);
        let operation = kv::request("LRANGE", &[client.list.as_bytes(), b"0", b"-1"]);
        if let cutover::machine::ReadOutcome::Deferred(work) = core.machine().read(&operation, &env, &mut reply) {
            work(&mut reply);
        }
        let seen = values(&reply);
        let unique: BTreeSet<_> = seen.iter().collect();
        if unique.len() != seen.len() {
            return Err(format!("{}: a value stands twice", client.list));
        }
        let in_flight = client.doing.as_ref().and_then(|(doing, _)| match doing {
            Doing::Push(value) => Some(*value),
            _ => None,
        });
        if let Some(lost) = client.acked.iter().find(|value| !unique.contains(value)) {
            return Err(format!("{}: {lost} was acknowledged and is lost", client.list));
        }
        if let Some(phantom) = seen.iter().find(|value| {
            !client.acked.contains(value) && !client.unknown.contains(value) && in_flight != Some(**value)
        }) {
            return Err(format!("{}: {phantom} is there and was never asked for", client.list));
        }
        let order: Vec<_> = seen.iter().filter(|value| client.acked.contains(value)).collect();
        if !order.is_sorted() {
            return Err(format!("{}: acknowledged values stand in another order", client.list));
        }
        Ok(())
    }
}

fn values(reply: &[u8]) -> Vec<u64> {
    match kv::value::parse(reply) {
        Ok(Value::Array(items)) => items
            .iter()
            .filter_map(|item| match item {
                Value::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}
