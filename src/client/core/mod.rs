//! The decisions of one client: its session, its sequences, whom to dial, what to resend, what to tell whom.
//!
//! Sans-IO: [`Core::step`] takes what happened and when, appends what is to be done, and
//! [`Core::next_deadline`] says when to step again with [`Input::Tick`] if nothing happens before. One connection is
//! wanted at a time; whatever comes from an older one is ignored.
//!
//! ```text
//!            record, pause over            Connected              Welcome                 Opened
//!   Down ───────────────────▶ Dialing ───────────────▶ Greeting ───────────▶ Opening ───────────────▶ Serving
//!    ▲                           │                        │   └─── Welcome with a session ────────────▲  │
//!    └──── Lost, Redirect, Refused, a record that names another primary, too late ◀────────────────────────┘
//! ```
//!
//! On reaching `Serving` everything in the window is sent again in order: the operation when its caller still waits,
//! a question for its outcome when not. An operation gets its sequence when it is first sent, so one whose deadline
//! passes before has certainly not been executed, and outlives a session that ended before it was sent.
//!
//! Deliberately not here: sockets, framing, the clock (`driver`); backpressure towards callers (`handle`).

mod answers;
mod link;
mod route;
mod settled;
mod window;

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use cutover_arbiter::record::GroupRecord;
use cutover_arbiter::wire::DEFAULT_LIMIT;

use super::api::{OperationError, Reply, RequestRef};
use crate::machine::Identity;
use crate::protocol::client::{FromClient, Outcome, Sequence, SessionId, ToClient};

use self::link::Link;
use self::route::Route;
use self::settled::Settled;
use self::window::{Operation, State, Trail, Window};

/// Time since the core was made.
pub type Moment = Duration;
/// The caller's name for an operation or a question; each new one is greater than all before.
pub type Ticket = u64;
/// Number of a connection, from 1; each new one is greater than all before.
pub type Connection = u64;

/// An announcement of received replies waits so long for a request to travel with.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(100);
/// More bytes of unannounced replies than this are announced at once: the primary keeps them until then.
const ANNOUNCE_BYTES: usize = 1024 * 1024;
/// Most bytes that a request needs besides its operation.
const REQUEST_OVERHEAD: usize = 64;

/// What a core is made with.
#[derive(Debug, Clone)]
pub struct Config {
    /// See [`ClientOptions::name`](super::ClientOptions::name).
    pub name: String,
    /// See [`ClientOptions::machine`](super::ClientOptions::machine).
    pub machine: Option<Identity>,
    /// See [`ClientOptions::session_timeout`](super::ClientOptions::session_timeout).
    pub session_timeout: Duration,
    /// See [`ClientOptions::connect_timeout`](super::ClientOptions::connect_timeout).
    pub connect_timeout: Duration,
    /// Most sequences sent and not settled.
    pub window: usize,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A caller hands an operation over.
    Submit {
        /// Comes back with the answer.
        ticket: Ticket,
        /// The operation.
        operation: Bytes,
        /// Whether it may change the state.
        write: bool,
        /// When the caller is to be told that there is no answer.
        deadline: Moment,
    },
    /// A caller asks what became of a request.
    Ask {
        /// Comes back with the answer.
        ticket: Ticket,
        /// Which request.
        request: RequestRef,
        /// When the caller is to be told that there is no answer.
        deadline: Moment,
    },
    /// The arbiters told a record, not necessarily a newer one.
    Record(Box<GroupRecord>),
    /// A dialled connection stands.
    Connected(Connection),
    /// A message came.
    Received(Connection, ToClient),
    /// A connection was lost, or could not be made.
    Lost {
        /// Which.
        connection: Connection,
        /// What was seen.
        problem: String,
    },
    /// Only time passed.
    Tick,
    /// The client is closed: answer everybody.
    Close,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Connect to an advertised address.
    Dial {
        /// The connection's number.
        connection: Connection,
        /// `host:port` as the record has it.
        address: String,
    },
    /// Send a message.
    Send(Connection, FromClient),
    /// Close, or stop dialling. Nothing of this connection is of interest any more.
    HangUp(Connection),
    /// Answer an operation.
    Answer(Ticket, Result<Reply, OperationError>),
    /// Answer a question for an outcome.
    Told(Ticket, Result<Outcome, OperationError>),
    /// A newer record is known.
    Record(Box<GroupRecord>),
    /// Something worth a line in the log.
    Event(Event),
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A primary serves us.
    Serving {
        /// Its address as advertised.
        address: String,
        /// Sequences sent again.
        resent: usize,
    },
    /// It does not any more, or an attempt failed.
    Down {
        /// Why.
        problem: String,
    },
    /// A session was opened.
    SessionOpened(SessionId),
    /// The session is gone.
    SessionExpired {
        /// Which.
        session: SessionId,
        /// Operations whose outcome cannot be known any more.
        unknown: usize,
    },
}

/// A session and its signs of life.
#[derive(Debug, Clone)]
struct Session {
    id: SessionId,
    /// When to renew it. Not put off by requests: whether one of them was logged is for the machine to say.
    renew_at: Moment,
    /// The newest connection that carried a renewal.
    renewing: Option<Connection>,
}

/// The client core; see the module.
#[derive(Debug, Clone)]
pub struct Core {
    config: Config,
    route: Route,
    link: Link,
    /// Number of the newest connection.
    connection: Connection,
    session: Option<Session>,
    window: Window,
    /// Operations that no connection of the present session carried, oldest first.
    queue: VecDeque<Operation>,
    /// Questions for outcomes that callers wait for.
    questions: BTreeMap<Ticket, (RequestRef, Moment)>,
    /// Deadlines of operations and questions.
    deadlines: BTreeSet<(Moment, Ticket)>,
    settled: Settled,
    max_request: usize,
    /// The lowest unanswered sequence that the present connection was told.
    announced: Sequence,
    announce_at: Option<Moment>,
    unannounced_bytes: usize,
    /// What last stood in the way.
    problem: String,
    closed: bool,
}

impl Core {
    /// A core that knows `record` and dials its primary at the first step.
    pub fn new(config: Config, record: GroupRecord) -> Self {
        Self {
            config,
            route: Route::new(record),
            link: Link::Down { retry_at: Some(Moment::ZERO) },
            connection: 0,
            session: None,
            window: Window::default(),
            queue: VecDeque::new(),
            questions: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            settled: Settled::default(),
            max_request: DEFAULT_LIMIT,
            announced: 1,
            announce_at: None,
            unannounced_bytes: 0,
            problem: String::from("the primary has not answered yet"),
            closed: false,
        }
    }

    /// Takes `input` at `now` and appends what is to be done.
    pub fn step(&mut self, now: Moment, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Submit { ticket, operation, write, deadline } => {
                let operation = Operation { ticket, body: operation, write, deadline, trail: Trail::default() };
                self.submit(now, operation, out);
            }
            Input::Ask { ticket, request, deadline } => self.ask(ticket, request, deadline, out),
            Input::Record(record) => self.on_record(now, &record, out),
            Input::Connected(connection) => self.on_connected(now, connection, out),
            Input::Received(connection, message) => {
                if self.link.connection() == Some(connection) {
                    self.on_message(now, connection, message, out);
                }
            }
            Input::Lost { connection, problem } => {
                if self.link.connection() == Some(connection) {
                    self.down(now, problem, out);
                }
            }
            Input::Tick => {}
            Input::Close => self.close(out),
        }
        self.run_timers(now, out);
        self.send_new(out);
        self.announce(now, out);
    }

    /// When to step again at the latest.
    pub fn next_deadline(&self) -> Option<Moment> {
        let serving = self.link.serving();
        let renewal = self.session.as_ref().filter(|session| serving.is_some() && session.renewing != serving);
        [
            self.deadlines.first().map(|(moment, _)| *moment),
            self.link.deadline(),
            self.announce_at.filter(|_| serving.is_some()),
            renewal.map(|session| session.renew_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// True when nobody waits for an answer.
    pub fn is_idle(&self) -> bool {
        self.deadlines.is_empty()
    }

    fn submit(&mut self, now: Moment, operation: Operation, out: &mut Vec<Output>) {
        let size = operation.body.len();
        let limit = self.max_request.saturating_sub(REQUEST_OVERHEAD);
        if self.closed {
            out.push(Output::Answer(operation.ticket, Err(OperationError::Closed)));
        } else if size > limit {
            out.push(Output::Answer(operation.ticket, Err(OperationError::TooLarge { size, limit })));
        } else {
            self.deadlines.insert((operation.deadline, operation.ticket));
            self.queue.push_back(operation);
            self.link.hasten(now + route::BUSY_PAUSE);
        }
    }

    fn ask(&mut self, ticket: Ticket, request: RequestRef, deadline: Moment, out: &mut Vec<Output>) {
        if let Some(outcome) = self.settled.get(request) {
            out.push(Output::Told(ticket, Ok(outcome)));
            return;
        }
        let serving = self.link.serving();
        let session = self.session.as_ref().filter(|session| session.id == request.session && !self.closed);
        match session.and_then(|_| self.window.get_mut(request.sequence)).map(|slot| &mut slot.state) {
            Some(State::GivenUp { asked }) => {
                if let Some(connection) = serving.filter(|serving| *asked != Some(*serving)) {
                    *asked = Some(connection);
                    let question = FromClient::Outcome { ticket: request.sequence, sequence: request.sequence };
                    out.push(Output::Send(connection, question));
                }
                self.questions.insert(ticket, (request, deadline));
                self.deadlines.insert((deadline, ticket));
            }
            _ => {
                let error = if self.closed { OperationError::Closed } else { OperationError::Forgotten { request } };
                out.push(Output::Told(ticket, Err(error)));
            }
        }
    }

    fn run_timers(&mut self, now: Moment, out: &mut Vec<Output>) {
        while let Some(&(moment, ticket)) = self.deadlines.first() {
            if moment > now {
                break;
            }
            self.deadlines.pop_first();
            self.too_late(ticket, out);
        }
        if self.link.deadline().is_some_and(|deadline| deadline <= now) {
            self.on_link_deadline(now, out);
        }
        let serving = self.link.serving();
        if let (Some(connection), Some(session)) = (serving, &mut self.session)
            && session.renew_at <= now
            && session.renewing != serving
        {
            session.renewing = serving;
            out.push(Output::Send(connection, FromClient::KeepAlive));
        }
    }

    /// Sends what no connection carried yet, as far as the window goes.
    fn send_new(&mut self, out: &mut Vec<Output>) {
        let Some(connection) = self.link.serving() else { return };
        while self.window.len() < self.config.window {
            let Some(mut operation) = self.queue.pop_front() else { return };
            let (size, limit) = (operation.body.len(), self.max_request.saturating_sub(REQUEST_OVERHEAD));
            if size > limit {
                self.answer(operation.ticket, operation.deadline, Err(OperationError::TooLarge { size, limit }), out);
                continue;
            }
            operation.trail.carried_by(connection, self.route.tenure());
            self.announced = self.window.base();
            self.announce_at = None;
            self.unannounced_bytes = 0;
            let request = FromClient::Request {
                sequence: self.window.next(),
                lowest_unanswered: self.announced,
                write: operation.write,
                operation: operation.body.clone(),
            };
            self.window.push(operation);
            out.push(Output::Send(connection, request));
        }
    }

    /// Tells the primary which replies have arrived, when no request does so.
    fn announce(&mut self, now: Moment, out: &mut Vec<Output>) {
        let Some(connection) = self.link.serving() else { return };
        if self.window.base() == self.announced {
            self.announce_at = None;
            return;
        }
        let due = *self.announce_at.get_or_insert(now + ANNOUNCE_AFTER) <= now;
        if due || self.unannounced_bytes >= ANNOUNCE_BYTES {
            self.announced = self.window.base();
            self.announce_at = None;
            self.unannounced_bytes = 0;
            out.push(Output::Send(connection, FromClient::Acknowledge { below: self.announced }));
        }
    }

    fn answer(
        &mut self,
        ticket: Ticket,
        deadline: Moment,
        result: Result<Reply, OperationError>,
        out: &mut Vec<Output>,
    ) {
        self.deadlines.remove(&(deadline, ticket));
        out.push(Output::Answer(ticket, result));
    }

    fn close(&mut self, out: &mut Vec<Output>) {
        self.closed = true;
        self.problem = String::from("the client was closed");
        for operation in std::mem::take(&mut self.queue) {
            out.push(Output::Answer(operation.ticket, Err(OperationError::Closed)));
        }
        for (ticket, _) in std::mem::take(&mut self.questions) {
            out.push(Output::Told(ticket, Err(OperationError::Closed)));
        }
        let session = self.session.take();
        for (sequence, slot) in self.window.drain() {
            if let (State::Live(operation), Some(session)) = (slot.state, &session) {
                let request = RequestRef { session: session.id, sequence };
                let error = match operation.trail.unaccounted {
                    0 => OperationError::Closed,
                    _ => OperationError::Unknown { request, last_problem: self.problem.clone() },
                };
                out.push(Output::Answer(slot.ticket, Err(error)));
            }
        }
        self.deadlines.clear();
        self.hang_up(out);
        self.link = Link::Down { retry_at: None };
    }
}
