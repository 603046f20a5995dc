//! The core against a model of a group, under faults drawn from a seed: connections cut with what is in flight, cut-
//! overs that keep or lose what was not committed, silent primaries, watches that run backwards, refusals, sessions
//! that expire. The model keeps the replicas' side of the bargain (exactly once per sequence, nothing released before
//! it is committed); the check is that the core keeps the client's.
//!
//! Checked: the operations in the final log stand there once each and in the order of submission; a reply means
//! executed, [`OperationError::has_no_side_effects`] means not executed, an outcome is true for ever; and after all
//! faults heal everybody has an answer.

use std::collections::BTreeSet;

use cutover_arbiter::record::{Change, Epoch, Mode};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::tests::{config, record};
use super::*;
use crate::protocol::client::{Receipt, Refusal};

const OPERATIONS: u64 = 60;
const NAMES: [&str; 2] = ["r1", "r2"];

#[derive(Debug, Clone, Default)]
struct SessionModel {
    replies: BTreeMap<Sequence, u64>,
    closed: BTreeSet<Sequence>,
    lowest: Sequence,
}

/// What the replicas agree on.
#[derive(Debug, Clone, Default)]
struct Log {
    index: u64,
    sessions: BTreeMap<SessionId, SessionModel>,
    executed: Vec<u64>,
}

struct Wire {
    connection: Connection,
    replica: usize,
    up: VecDeque<FromClient>,
    down: VecDeque<ToClient>,
    session: Option<SessionId>,
    refused: bool,
    /// Its replica was primary and is no longer: it never serves on this connection again, whatever it becomes.
    deposed: bool,
}

struct World {
    rng: ChaCha8Rng,
    core: Core,
    now: Moment,
    tickets: Ticket,
    submitted: u64,
    /// Operation by ticket; tickets of questions have none.
    operations: BTreeMap<Ticket, u64>,
    answers: BTreeMap<u64, Result<Reply, OperationError>>,
    questions: BTreeMap<Ticket, RequestRef>,
    outcomes: BTreeMap<RequestRef, Outcome>,
    epoch: u64,
    primary: usize,
    committed: Log,
    speculative: Log,
    held: Vec<ToClient>,
    wire: Option<Wire>,
    /// A connection that the client left, of which the replica has not read everything.
    ghost: Option<Wire>,
    dialled: Option<(Connection, usize)>,
    news: Vec<GroupRecord>,
    too_few: bool,
    trace: Vec<Output>,
    /// How often something that must be reached was reached.
    reached: BTreeMap<&'static str, u32>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            core: Core::new(config(16), record(1, "r1", Change::TakeOver)),
            now: Moment::ZERO,
            tickets: 0,
            submitted: 0,
            operations: BTreeMap::new(),
            answers: BTreeMap::new(),
            questions: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            epoch: 1,
            primary: 0,
            committed: Log::default(),
            speculative: Log::default(),
            held: Vec::new(),
            wire: None,
            ghost: None,
            dialled: None,
            news: Vec::new(),
            too_few: false,
            trace: Vec::new(),
            reached: BTreeMap::new(),
        }
    }

    fn reach(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    fn record(&self) -> GroupRecord {
        record(self.epoch, NAMES[self.primary], Change::TakeOver)
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.core.step(self.now, input, &mut out);
        for output in &out {
            self.run(output.clone());
        }
        self.trace.extend(out);
    }

    fn run(&mut self, output: Output) {
        match output {
            Output::Dial { connection, address } => {
                let replica = NAMES.iter().position(|name| address == format!("{name}:1")).expect("a known address");
                self.dialled = Some((connection, replica));
            }
            Output::Send(connection, message) => {
                if let Some(wire) = self.wire.as_mut().filter(|wire| wire.connection == connection) {
                    wire.up.push_back(message);
                }
            }
            Output::HangUp(connection) => {
                // What was sent before may still arrive: drawn when the connection is replaced.
                self.dialled = self.dialled.filter(|(dialled, _)| *dialled != connection);
                if self.wire.as_ref().is_some_and(|wire| wire.connection == connection) {
                    self.drop_wire();
                }
            }
            Output::Answer(ticket, result) => {
                let operation = self.operations[&ticket];
                match &result {
                    Err(OperationError::Unknown { .. }) => self.reach("unknown"),
                    Err(OperationError::NotSent { .. }) => self.reach("not sent"),
                    Err(OperationError::SessionExpired { .. }) => self.reach("session expired"),
                    Err(OperationError::Poisonous { .. }) => self.reach("poisonous"),
                    Err(OperationError::Refused(reason)) => {
                        assert_ne!(*reason, Refusal::Acknowledged, "an unanswered sequence was announced as answered");
                        self.reach("refused to the end");
                    }
                    _ => {}
                }
                assert!(self.answers.insert(operation, result).is_none(), "operation {operation} answered twice");
            }
            Output::Told(ticket, result) => {
                let request = self.questions.remove(&ticket).expect("a question that was asked");
                if let Ok(outcome) = result {
                    self.reach(match outcome {
                        Outcome::Executed { .. } => "outcome executed",
                        Outcome::NotExecuted => "outcome not executed",
                        Outcome::Expired => "outcome expired",
                    });
                    let known = self.outcomes.entry(request).or_insert_with(|| outcome.clone());
                    assert_eq!(*known, outcome, "two outcomes of {request}");
                }
            }
            Output::Record(_) | Output::Event(_) => {}
        }
    }

    /// The client's end is gone: the replica may still read some of what was sent.
    fn drop_wire(&mut self) {
        if let Some(wire) = &self.wire {
            let arrive = self.rng.random_range(0..=wire.up.len());
            for _ in 0..arrive {
                self.serve_one();
            }
        }
        self.ghost = self.wire.take().filter(|wire| !wire.deposed && !wire.up.is_empty());
        self.held.clear();
    }

    /// The replica reads on from the connection that the client left, unless a newer one fenced it.
    fn serve_ghost(&mut self) {
        if let Some(ghost) = self.ghost.take() {
            let wire = self.wire.replace(ghost);
            let (held, executed) = (self.held.len(), self.speculative.executed.len());
            self.serve_one();
            self.held.truncate(held);
            if self.speculative.executed.len() > executed {
                self.reach("executed from a connection that the client had left");
            }
            self.ghost = std::mem::replace(&mut self.wire, wire);
        }
    }

    fn cut(&mut self) {
        if let Some(connection) = self.wire.as_ref().map(|wire| wire.connection) {
            self.drop_wire();
            self.step(Input::Lost { connection, problem: "cut".into() });
        }
    }

    fn connect(&mut self) {
        if let Some((connection, replica)) = self.dialled.take() {
            let (up, down) = (VecDeque::new(), VecDeque::new());
            self.wire = Some(Wire { connection, replica, up, down, session: None, refused: false, deposed: false });
            self.step(Input::Connected(connection));
        }
    }

    fn commit(&mut self) {
        self.committed = self.speculative.clone();
        let held = std::mem::take(&mut self.held);
        if let Some(wire) = &mut self.wire {
            wire.down.extend(held);
        }
    }

    fn cut_over(&mut self) {
        if self.rng.random_bool(0.5) {
            self.committed = self.speculative.clone();
            self.reach("cut-over that keeps what was not committed");
        } else {
            if self.speculative.executed.len() > self.committed.executed.len() {
                self.reach("cut-over that loses what was executed");
            }
            self.speculative = self.committed.clone();
        }
        self.held.clear();
        self.ghost = None;
        self.epoch += 1;
        self.primary = 1 - self.primary;
        let record = self.record();
        self.news.push(record);
        // The old primary is silent, or dies with its connections.
        if let Some(wire) = &mut self.wire {
            wire.deposed |= wire.replica != self.primary;
            wire.up.clear();
        }
        if self.rng.random_bool(0.5) {
            self.cut();
        }
    }

    fn expire_sessions(&mut self) {
        self.commit();
        self.committed.sessions.clear();
        self.speculative.sessions.clear();
    }

    /// The replica at the other end takes the next message.
    fn serve_one(&mut self) {
        let (epoch, primary, record) = (self.epoch, self.primary, Box::new(self.record()));
        let Some(wire) = self.wire.as_mut() else { return };
        let Some(message) = wire.up.pop_front() else { return };
        if wire.deposed || wire.replica != primary {
            // A deposed primary executes nothing; a backup sends elsewhere.
            if let FromClient::Hello { .. } = message {
                wire.down.push_back(ToClient::Redirect { record: Some(record) });
            }
            return;
        }
        let log = &mut self.speculative;
        let receipt = Receipt { epoch: Epoch(epoch), index: log.index, copies: 2, mode: Mode::Memory };
        match message {
            FromClient::Hello { session, .. } => {
                wire.session = session;
                self.ghost = None;
                wire.down.push_back(ToClient::Welcome { record, max_request: 1 << 20 });
            }
            FromClient::Open { .. } => {
                log.index += 1;
                let session = SessionId { epoch: Epoch(epoch), index: log.index };
                log.sessions.insert(session, SessionModel::default());
                wire.session = Some(session);
                self.held.push(ToClient::Opened { session, receipt });
            }
            FromClient::Request { sequence, lowest_unanswered, operation, .. } => {
                let id = u64::from_le_bytes(operation[..].try_into().expect("eight bytes"));
                let held = if wire.refused {
                    Err(Refusal::Fenced)
                } else {
                    log.execute(wire.session, sequence, lowest_unanswered, id, self.too_few)
                };
                match held {
                    Ok(again) => {
                        self.held.push(ToClient::Reply { sequence, reply: operation, receipt });
                        if again {
                            self.reach("retry answered from the session table");
                        }
                    }
                    Err(reason) => {
                        wire.refused = true;
                        self.held.push(ToClient::Refused { sequence, reason });
                    }
                }
            }
            FromClient::Outcome { ticket, sequence } => {
                let outcome = log.outcome(wire.session, sequence);
                self.held.push(ToClient::OutcomeIs { ticket, sequence, outcome });
            }
            FromClient::KeepAlive => self.held.push(ToClient::Alive),
            FromClient::Acknowledge { below } => log.acknowledge(wire.session, below),
        }
    }

    fn hear_one(&mut self) {
        if let Some(wire) = &mut self.wire
            && let Some(message) = wire.down.pop_front()
        {
            let connection = wire.connection;
            self.step(Input::Received(connection, message));
        }
    }

    fn submit(&mut self) {
        self.submitted += 1;
        self.tickets += 1;
        let (ticket, operation) = (self.tickets, self.submitted);
        self.operations.insert(ticket, operation);
        let deadline = self.now + Duration::from_millis(self.rng.random_range(1..400));
        let operation = Bytes::copy_from_slice(&operation.to_le_bytes());
        self.step(Input::Submit { ticket, operation, write: true, deadline });
    }

    fn ask(&mut self, request: RequestRef) {
        self.tickets += 1;
        let ticket = self.tickets;
        self.questions.insert(ticket, request);
        self.step(Input::Ask { ticket, request, deadline: self.now + Duration::from_millis(200) });
    }

    fn unknown(&self) -> Vec<RequestRef> {
        self.answers.values().filter_map(|answer| answer.as_ref().err()?.request()).collect()
    }

    fn wait(&mut self, longest: Duration) {
        let due = self.core.next_deadline().unwrap_or(self.now + longest);
        self.now = due.clamp(self.now, self.now + longest);
        self.step(Input::Tick);
    }

    fn storm(&mut self, strength: u32) {
        match self.rng.random_range(0..1000) {
            0..200 if self.submitted < OPERATIONS => self.submit(),
            0..370 => self.serve_one(),
            370..400 => self.serve_ghost(),
            400..600 => self.hear_one(),
            600..700 => self.commit(),
            700..800 => self.connect(),
            800..900 => {
                let longest = Duration::from_millis(self.rng.random_range(0..20));
                self.wait(longest);
            }
            900..930 => {
                if let Some(news) = (!self.news.is_empty()).then(|| self.rng.random_range(0..self.news.len())) {
                    // Any record of the past may come, and come again.
                    let record = Box::new(self.news[news].clone());
                    self.step(Input::Record(record));
                }
            }
            930..950 => {
                let unknown = self.unknown();
                if !unknown.is_empty() {
                    let request = unknown[self.rng.random_range(0..unknown.len())];
                    self.ask(request);
                }
            }
            fault if fault < 950 + 10 * strength => match self.rng.random_range(0..20) {
                0..8 => self.cut(),
                8..14 => self.cut_over(),
                14..19 => self.too_few = !self.too_few,
                _ => self.expire_sessions(),
            },
            _ => {}
        }
    }

    /// No more faults: everybody gets an answer, and every outcome can be learnt.
    fn heal(&mut self) {
        self.too_few = false;
        let record = Box::new(self.record());
        self.step(Input::Record(record));
        let mut asked = BTreeSet::new();
        for _ in 0..20_000 {
            self.connect();
            for _ in 0..40 {
                self.serve_one();
            }
            self.commit();
            for _ in 0..40 {
                self.hear_one();
            }
            for request in self.unknown() {
                if !self.outcomes.contains_key(&request) && asked.insert((request, self.now)) {
                    self.ask(request);
                }
            }
            let answered = self.answers.len() as u64 == self.submitted && self.questions.is_empty();
            if answered && self.unknown().iter().all(|request| self.outcomes.contains_key(request)) {
                return;
            }
            self.wait(Duration::from_millis(5));
        }
        panic!("stuck: {:?}, unanswered questions {:?}", self.core, self.questions);
    }

    fn check(&self) {
        let log = &self.committed.executed;
        assert!(log.is_sorted_by(|one, next| one < next), "executed twice or out of order: {log:?}");
        for (operation, answer) in &self.answers {
            let executed = log.contains(operation);
            match answer {
                Ok(reply) => {
                    assert!(executed, "operation {operation} was answered and not executed");
                    assert_eq!(reply.bytes[..], operation.to_le_bytes(), "a reply of another operation");
                }
                Err(error) if error.has_no_side_effects() => {
                    assert!(!executed, "operation {operation} was executed, but: {error}");
                }
                Err(error) => match error.request().and_then(|request| self.outcomes.get(&request)) {
                    Some(Outcome::Executed { .. }) => assert!(executed, "operation {operation}: {error}"),
                    Some(Outcome::NotExecuted) => assert!(!executed, "operation {operation}: {error}"),
                    Some(Outcome::Expired) | None => {}
                },
            }
        }
    }
}

impl Log {
    fn acknowledge(&mut self, session: Option<SessionId>, below: Sequence) {
        if let Some(session) = session.and_then(|session| self.sessions.get_mut(&session)) {
            session.lowest = session.lowest.max(below);
            session.replies = session.replies.split_off(&session.lowest);
            session.closed = session.closed.split_off(&session.lowest);
        }
    }

    /// Says whether it had been executed before.
    fn execute(
        &mut self,
        session: Option<SessionId>,
        sequence: Sequence,
        lowest_unanswered: Sequence,
        operation: u64,
        too_few: bool,
    ) -> Result<bool, Refusal> {
        self.acknowledge(session, lowest_unanswered);
        let model = session.and_then(|session| self.sessions.get_mut(&session)).ok_or(Refusal::SessionExpired)?;
        if let Some(known) = model.replies.get(&sequence) {
            assert_eq!(*known, operation, "one sequence, two operations");
            return Ok(true);
        }
        if sequence < model.lowest {
            return Err(Refusal::Acknowledged);
        }
        if model.closed.contains(&sequence) {
            return Err(Refusal::Cancelled);
        }
        if too_few {
            return Err(Refusal::NotEnoughReplicas { in_sync: 1, min_in_sync: 2 });
        }
        model.replies.insert(sequence, operation);
        self.index += 1;
        self.executed.push(operation);
        Ok(false)
    }

    fn outcome(&mut self, session: Option<SessionId>, sequence: Sequence) -> Outcome {
        let Some(model) = session.and_then(|session| self.sessions.get_mut(&session)) else { return Outcome::Expired };
        match model.replies.get(&sequence) {
            Some(reply) => Outcome::Executed { reply: Some(Bytes::copy_from_slice(&reply.to_le_bytes())) },
            None => {
                assert!(sequence >= model.lowest, "asked for a sequence that was announced as answered");
                model.closed.insert(sequence);
                Outcome::NotExecuted
            }
        }
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    world.step(Input::Tick);
    let strength = world.rng.random_range(0..6);
    for _ in 0..4_000 {
        world.storm(strength);
    }
    while world.submitted < OPERATIONS {
        world.submit();
    }
    world.heal();
    world.check();
    world
}

#[test]
fn every_operation_is_executed_once_or_not_at_all_and_nobody_is_told_otherwise() {
    let mut reached = BTreeMap::new();
    for seed in 0..300 {
        let world = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| panic!("seed {seed} failed, see above"));
        for (what, times) in world.reached {
            *reached.entry(what).or_insert(0) += times;
        }
    }
    for what in [
        "unknown",
        "not sent",
        "session expired",
        "poisonous",
        "refused to the end",
        "outcome executed",
        "outcome not executed",
        "outcome expired",
        "cut-over that keeps what was not committed",
        "cut-over that loses what was executed",
        "retry answered from the session table",
        "executed from a connection that the client had left",
    ] {
        assert!(reached.contains_key(what), "never reached: {what}; the rest: {reached:?}");
    }
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    assert_eq!(run(7).trace, run(7).trace);
}

/// Bugs planted in this room (`tests/planted.md`).
#[cfg(feature = "planted")]
mod planted {
    use cutover_arbiter::planted::{Row, rows, with};

    fn finds(row: &Row, seed: u64) -> bool {
        std::panic::catch_unwind(|| with(row.name, || super::run(seed))).is_err()
    }

    fn mine() -> impl Iterator<Item = Row> {
        rows().into_iter().filter(|row| row.random == Some("client"))
    }

    #[test]
    fn the_seed_of_each_planted_bug_finds_it() {
        let missed: Vec<_> = mine().filter(|row| !finds(row, row.seed)).map(|row| row.name).collect();
        assert!(missed.is_empty(), "not found by the seeds of tests/planted.md: {missed:?}; derive them anew");
    }

    #[test]
    #[ignore = "derives the table: `cargo planted`"]
    fn seeds_until_found() {
        for row in mine() {
            let seed = (1..=row.budget).find(|seed| finds(&row, *seed));
            let seed = seed.expect("a bug that is not found means a simulation that is too weak");
            println!("client     {:<24} {seed} of {}", row.name, row.budget);
        }
    }
}
