//! Clients: the production core of the client library (`cutover::client::core`), and plain Redis clients without a
//! session. What they ask and hear is recorded.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use cutover::client::OperationError;
use cutover::client::core::{Config, Core, Event as ClientEvent, Input, Output, Ticket};
use cutover::machine::kv::value::{self, Value};
use cutover::protocol::client::Outcome;
use cutover_arbiter::protocol::Question;
use cutover_arbiter::record::{GroupRecord, Position};
use rand::RngExt;

use super::asking::Purpose;
use super::counters::Must;
use super::invariants::client::Exact;
use super::invariants::order::Order;
use super::network::{ConnId, Payload, Port};
use super::stubborn::Stubborn;
use super::workload::{Action, Ending, Recorded, draw};
use super::world::{Event, Id, Local, Time, World, as_told};

/// Requests that a Redis client sends without waiting.
const PIPELINE: usize = 3;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// The client library.
    Library,
    /// A Redis client.
    Redis,
    /// One that speaks the library's port by itself.
    Stubborn,
}

pub struct SimClient {
    pub group: usize,
    pub manner: Manner,
    /// What one has that speaks the port by itself.
    pub stubborn: Stubborn,
    core: Option<Core>,
    started: Time,
    inbox: VecDeque<Happened>,
    acts: u32,
    /// The library's connection, or the Redis client's, once it stands.
    conn: Option<ConnId>,
    /// Number of the newest connection that is still wanted.
    wanted: Option<u64>,
    pub dials: u64,
    tickets: Ticket,
    /// Which operation waits under which ticket.
    waiting: BTreeMap<Ticket, usize>,
    /// Whose outcome is asked for under which ticket.
    questions: BTreeMap<Ticket, usize>,
    /// What the Redis client has under way, oldest first.
    piped: VecDeque<usize>,
    record: Option<GroupRecord>,
    pub history: Vec<Recorded>,
    /// What its present session was answered, by ticket.
    order: Order,
    pub answered: u64,
    pub last_answer: Time,
}

#[derive(Debug)]
enum Happened {
    Library(Input),
    Redis(Vec<u8>, u64),
    Closed,
    Stubborn(Box<Local>),
}

impl SimClient {
    pub fn new(group: usize, manner: Manner) -> Self {
        Self {
            group,
            manner,
            stubborn: Stubborn::default(),
            core: None,
            started: 0,
            inbox: VecDeque::new(),
            acts: 0,
            conn: None,
            wanted: None,
            dials: 0,
            tickets: 0,
            waiting: BTreeMap::new(),
            questions: BTreeMap::new(),
            piped: VecDeque::new(),
            record: None,
            history: Vec::new(),
            order: Order::default(),
            answered: 0,
            last_answer: 0,
        }
    }
}

impl World {
    pub fn start_client(&mut self, number: usize) {
        let id = self.client_ids().start + number;
        self.clients[number].started = self.processes[id].clock.boot(self.now);
        self.client_asks_for_record(id);
        let life = self.processes[id].life;
        self.schedule(500_000, Event::ClientActs { client: id, life });
    }

    pub fn client_asks_for_record(&mut self, id: Id) {
        let Some(group) = self.group_of(id) else { return };
        let question = Question::Read(self.groups[group].name.clone());
        self.ask(id, Purpose::First, question);
    }

    /// A client that dies never learns what its operations did.
    pub fn client_dies(&mut self, number: usize) {
        let client = &mut self.clients[number];
        for at in std::mem::take(&mut client.waiting).into_values().chain(client.piped.drain(..)) {
            client.history[at].ending = Ending::Unknown;
        }
        client.core = None;
        client.inbox.clear();
        client.stubborn = Stubborn::default();
        client.questions.clear();
        client.order = Order::default();
        (client.conn, client.wanted, client.record) = (None, None, None);
    }

    /// It is time to ask something.
    pub fn client_acts(&mut self, id: Id) {
        let life = self.processes[id].life;
        let after = self.random.random_range(5_000..self.swarm.pace);
        self.schedule(after, Event::ClientActs { client: id, life });
        let number = id - self.client_ids().start;
        let most = self.swarm.burst.max(2);
        let more = if most > 2 && self.random.random_bool(0.3) { most } else { 1 };
        self.clients[number].acts = (self.clients[number].acts + more).min(most);
        self.wake(id);
    }

    pub fn client_takes(&mut self, number: usize, local: Local) {
        let id = self.client_ids().start + number;
        let client = &mut self.clients[number];
        let library = client.manner == Manner::Library;
        match local {
            local if client.manner == Manner::Stubborn => client.inbox.push_back(Happened::Stubborn(Box::new(local))),
            Local::Record(record) => self.client_learns(id, number, *record),
            Local::Dialled { port: Port::Library(connection) | Port::Redis(connection), conn, .. } => {
                let wanted = client.wanted == Some(connection);
                match conn {
                    Some(conn) if wanted => {
                        client.conn = Some(conn);
                        if library {
                            client.inbox.push_back(Happened::Library(Input::Connected(connection)));
                        }
                    }
                    Some(conn) => self.close(conn, id),
                    None if wanted => {
                        let problem = "no connection".to_owned();
                        client.wanted = None;
                        client.inbox.push_back(if library {
                            Happened::Library(Input::Lost { connection, problem })
                        } else {
                            Happened::Closed
                        });
                    }
                    None => {}
                }
            }
            Local::Ended { conn, link: connection, .. } if client.conn == Some(conn) => {
                client.conn = None;
                let problem = "the connection ended".to_owned();
                client.inbox.push_back(if library {
                    Happened::Library(Input::Lost { connection, problem })
                } else {
                    Happened::Closed
                });
            }
            Local::Client { conn, port, payload } if client.conn == Some(conn) => match (port, payload) {
                (Port::Library(connection), payload) => {
                    let told = as_told(payload).map(|message| Input::Received(connection, message));
                    client.inbox.extend(told.map(Happened::Library));
                }
                (_, Payload::RedisReply(reply, index)) => client.inbox.push_back(Happened::Redis(reply, index)),
                _ => {}
            },
            _ => {}
        }
    }

    fn client_learns(&mut self, id: Id, number: usize, record: GroupRecord) {
        let client = &mut self.clients[number];
        if client.record.as_ref().is_none_or(|known| known.epoch < record.epoch) {
            client.record = Some(record.clone());
        }
        if client.manner != Manner::Library {
            return;
        }
        if client.core.is_some() {
            return client.inbox.push_back(Happened::Library(Input::Record(Box::new(record))));
        }
        let config = Config {
            name: self.processes[id].name.clone(),
            machine: None,
            session_timeout: Duration::from_micros(self.swarm.session_timeout),
            connect_timeout: Duration::from_millis(1000),
            window: 64,
        };
        client.core = Some(Core::new(config, record));
        client.inbox.push_back(Happened::Library(Input::Tick));
    }

    fn moment(&self, id: Id, number: usize) -> Duration {
        let boot = self.processes[id].clock.boot(self.now);
        Duration::from_micros(boot.saturating_sub(self.clients[number].started))
    }

    pub fn client_turn(&mut self, number: usize) {
        let id = self.client_ids().start + number;
        while let Some(happened) = self.clients[number].inbox.pop_front() {
            match happened {
                Happened::Library(input) => self.library_step(id, number, input),
                Happened::Redis(reply, index) => self.redis_hears(number, &reply, index),
                Happened::Closed => self.redis_lost(number),
                Happened::Stubborn(local) => self.stubborn_takes(id, number, *local),
            }
        }
        for _ in 0..std::mem::take(&mut self.clients[number].acts) {
            match self.clients[number].manner {
                Manner::Library => self.library_asks(id, number),
                Manner::Redis => self.redis_asks(id, number),
                Manner::Stubborn => self.stubborn_acts(id, number),
            }
        }
        if self.clients[number].manner == Manner::Library {
            self.library_rearm(id, number);
        }
    }

    fn record_operation(&mut self, number: usize, id: Id) -> (usize, Action, Vec<u8>) {
        let unique = self.report.asked + 1;
        let (key, action, operation) = draw(&mut self.random, self.swarm.reads, unique);
        self.report.asked += 1;
        let group = &self.groups[self.clients[number].group];
        let recorded = Recorded {
            client: id,
            key,
            action,
            invoked: self.now,
            ending: Ending::Open,
            operation: operation.clone(),
            floor: group.answered,
            clock_floor: group.clock_told,
            reign: group.reign,
            answered_in: group.reign,
        };
        self.clients[number].history.push(recorded);
        (self.clients[number].history.len() - 1, action, operation)
    }

    /// An answer came: `index` is where it stands or what it was computed from.
    fn answered(&mut self, number: usize, at: usize, reply: &[u8], index: Option<u64>) {
        let (now, group) = (self.now, self.clients[number].group);
        let Ok(answer) = value::parse(reply) else {
            return self.check(Err(format!("an answer cannot be read: {}", String::from_utf8_lossy(reply))));
        };
        let reign = self.groups[group].reign;
        let asked = &mut self.clients[number].history[at];
        asked.ending = Ending::Answered { at: now, answer: answer.clone() };
        asked.answered_in = reign;
        let asked = asked.clone();
        self.clients[number].answered += 1;
        self.clients[number].last_answer = now;
        self.report.answered += 1;
        if asked.reign != reign {
            // What stood before it may be lost, by an operator's word.
            return;
        }
        if let Some(index) = index {
            let exact = if self.clients[number].manner == Manner::Library { Exact::No } else { Exact::Yes };
            let verdict = self.groups[group].s13_real_time(&asked, index, reply, exact);
            self.check(verdict);
            let verdict = self.groups[group].s7_own_operation(asked.action.writes(), index, &asked.operation);
            self.check(verdict);
        }
        if asked.action == Action::Clock {
            let verdict = self.groups[group].s11_clock(&asked, &answer);
            self.check(verdict);
        }
    }

    fn ends(&mut self, number: usize, at: usize, ending: Ending) {
        if ending == Ending::Unknown {
            self.report.saw(Must::Unknown);
        }
        let reign = self.groups[self.clients[number].group].reign;
        let asked = &mut self.clients[number].history[at];
        (asked.ending, asked.answered_in) = (ending, reign);
    }

    // The library.

    fn library_asks(&mut self, id: Id, number: usize) {
        if self.clients[number].core.is_none() || self.clients[number].waiting.len() >= self.swarm.window {
            return;
        }
        let (at, action, operation) = self.record_operation(number, id);
        let deadline = self.moment(id, number) + Duration::from_micros(self.swarm.deadline);
        let client = &mut self.clients[number];
        client.tickets += 1;
        let ticket = client.tickets;
        client.waiting.insert(ticket, at);
        let write = action.writes();
        self.library_step(id, number, Input::Submit { ticket, operation: operation.into(), write, deadline });
    }

    fn library_step(&mut self, id: Id, number: usize, input: Input) {
        let moment = self.moment(id, number);
        let mut out = Vec::new();
        let Some(core) = &mut self.clients[number].core else { return };
        core.step(moment, input, &mut out);
        for output in out {
            self.library_output(id, number, output);
        }
    }

    fn library_rearm(&mut self, id: Id, number: usize) {
        let moment = self.moment(id, number);
        let Some(core) = &self.clients[number].core else { return };
        let Some(deadline) = core.next_deadline() else { return };
        if deadline <= moment {
            self.library_step(id, number, Input::Tick);
        }
        let Some(deadline) = self.clients[number].core.as_ref().and_then(Core::next_deadline) else { return };
        let boot = self.clients[number].started + deadline.as_micros() as Time + 1;
        let at = self.processes[id].clock.when(self.now, boot);
        self.wake_at(id, at);
    }

    fn library_output(&mut self, id: Id, number: usize, output: Output) {
        match output {
            Output::Dial { connection, address } => {
                let to = self.id_of(&address);
                self.clients[number].wanted = Some(connection);
                self.dial(id, Port::Library(connection), to);
            }
            Output::Send(connection, message) => {
                let client = &self.clients[number];
                if let Some(conn) = client.conn.filter(|_| client.wanted == Some(connection)) {
                    self.send(conn, id, Payload::Ask(message));
                }
            }
            Output::HangUp(connection) => {
                let client = &mut self.clients[number];
                if client.wanted == Some(connection) {
                    client.wanted = None;
                    if let Some(conn) = client.conn.take() {
                        self.close(conn, id);
                    }
                }
            }
            Output::Answer(ticket, result) => self.library_answer(id, number, ticket, result),
            Output::Told(ticket, result) => self.library_told(number, ticket, result),
            Output::Event(event) => {
                if let ClientEvent::SessionExpired { .. } = event {
                    self.report.saw(Must::SessionExpired);
                }
                if let ClientEvent::SessionExpired { .. } | ClientEvent::SessionOpened(_) = event {
                    self.clients[number].order = Order::default();
                }
                let name = self.name(id);
                self.say(|| format!("{name} {event:?}"));
            }
            Output::Record(_) => {}
        }
    }

    fn library_answer(
        &mut self,
        id: Id,
        number: usize,
        ticket: Ticket,
        result: Result<cutover::client::Reply, OperationError>,
    ) {
        let Some(at) = self.clients[number].waiting.remove(&ticket) else { return };
        match result {
            Ok(reply) => {
                let client = &mut self.clients[number];
                let (writes, group) = (client.history[at].action.writes(), &self.groups[client.group]);
                let position = Position { epoch: reply.receipt.epoch, index: reply.receipt.index };
                let verdict = client.order.s7_in_order(group, ticket, position, writes, &reply.bytes);
                self.check(verdict);
                self.answered(number, at, &reply.bytes, Some(reply.receipt.index));
            }
            Err(error) if error.has_no_side_effects() => self.ends(number, at, Ending::NotExecuted),
            Err(error) => {
                self.ends(number, at, Ending::Unknown);
                if let OperationError::Unknown { request, .. } | OperationError::Poisonous { request, .. } = error
                    && self.random.random_bool(0.6)
                {
                    let deadline = self.moment(id, number) + Duration::from_secs(4);
                    let client = &mut self.clients[number];
                    client.tickets += 1;
                    let ticket = client.tickets;
                    client.questions.insert(ticket, at);
                    self.library_step(id, number, Input::Ask { ticket, request, deadline });
                }
            }
        }
    }

    /// What became of an operation that was unknown: from here on it is known, as of now.
    fn library_told(&mut self, number: usize, ticket: Ticket, result: Result<Outcome, OperationError>) {
        let Some(at) = self.clients[number].questions.remove(&ticket) else { return };
        match result {
            Ok(Outcome::Executed { reply: Some(reply) }) => self.answered(number, at, &reply, None),
            Ok(Outcome::NotExecuted) => self.ends(number, at, Ending::NotExecuted),
            Ok(Outcome::Executed { reply: None } | Outcome::Expired) | Err(_) => {}
        }
    }

    // Redis.

    fn redis_asks(&mut self, id: Id, number: usize) {
        let client = &self.clients[number];
        let oldest = client.piped.front().map(|at| client.history[*at].invoked);
        if oldest.is_some_and(|invoked| self.now > invoked + self.swarm.deadline) {
            // Patience is over: it hangs up and asks elsewhere.
            if let Some(conn) = self.clients[number].conn.take() {
                self.close(conn, id);
            }
            return self.redis_lost(number);
        }
        let Some(conn) = client.conn else {
            if client.wanted.is_none() {
                self.redis_dials(id, number);
            }
            return;
        };
        if client.piped.len() >= PIPELINE {
            return;
        }
        let (at, _, operation) = self.record_operation(number, id);
        self.clients[number].piped.push_back(at);
        self.send(conn, id, Payload::Redis(operation));
    }

    fn redis_dials(&mut self, id: Id, number: usize) {
        let group = self.clients[number].group;
        let anyone = self.random.random_bool(0.25);
        let named = self.clients[number].record.as_ref().map(|record| self.id_of(&record.primary.addresses.redis));
        let replicas: Vec<Id> = self.replica_ids().filter(|id| self.replica(*id).group == group).collect();
        let random = replicas[self.random.random_range(0..replicas.len())];
        let to = named.filter(|_| !anyone).unwrap_or(random);
        let client = &mut self.clients[number];
        client.dials += 1;
        let connection = client.dials;
        client.wanted = Some(connection);
        self.dial(id, Port::Redis(connection), to);
    }

    fn redis_hears(&mut self, number: usize, reply: &[u8], index: u64) {
        let Some(at) = self.clients[number].piped.pop_front() else { return };
        match value::parse(reply) {
            Ok(Value::Error(text)) if text.starts_with("READONLY") || text.starts_with("NOREPLICAS") => {
                self.ends(number, at, Ending::NotExecuted);
                if self.clients[number].piped.is_empty() && text.starts_with("READONLY") {
                    let id = self.client_ids().start + number;
                    if let Some(conn) = self.clients[number].conn.take() {
                        self.close(conn, id);
                    }
                    self.clients[number].wanted = None;
                }
            }
            _ => self.answered(number, at, reply, Some(index)),
        }
    }

    fn redis_lost(&mut self, number: usize) {
        self.clients[number].wanted = None;
        for at in std::mem::take(&mut self.clients[number].piped) {
            self.ends(number, at, Ending::Unknown);
        }
    }
}
