//! The client ports of a replica, as `src/daemon/library.rs` and `src/daemon/redis.rs` keep them over sockets: what a
//! connection may ask, what waits in it, and what becomes of it when the replica no longer serves.

use std::collections::VecDeque;

use cutover::machine::kv::KeyValue;
use cutover::machine::{Access, StateMachine};
use cutover::protocol::SessionId;
use cutover::protocol::client::{FromClient, Outcome, Receipt, Refusal, ToClient};
use cutover::replica::{
    Admission, Disposition, Hold, Origin, Outbox, Refused, Release, Request, decoded_outcome, opened_session,
};
use cutover_arbiter::record::{Index, Position};

use super::canon::{Core, Machine};
use super::counters::Must;
use super::network::{ConnId, Payload};
use super::world::{Id, World};

/// A client's connection at its replica.
#[derive(Debug)]
pub struct Door {
    pub library: Option<Library>,
    held: VecDeque<Held>,
    /// Nothing more is taken from it.
    closing: bool,
    /// Its client is gone; what it asked before is still done.
    pub gone: bool,
}

#[derive(Debug)]
pub struct Library {
    number: u64,
    introduced: bool,
    session: Option<SessionId>,
    acknowledged: u64,
    fenced: bool,
}

/// A reply that waits.
#[derive(Debug)]
pub struct Held {
    pub hold: Hold,
    pub what: What,
    pub reply: Vec<u8>,
    /// The last round that was sent before it was asked for.
    pub round_before: u64,
    /// The last index executed before it was asked for, and after.
    pub executed: (Index, Index),
    /// Whether it may change the state.
    pub writes: bool,
    /// Nobody's acknowledgement was needed when it was asked for.
    pub alone: bool,
}

impl Held {
    /// True for the reply of an entry that was made for it. A read may make an entry too, but not of its own.
    pub fn is_own(&self) -> bool {
        let (before, after) = self.executed;
        self.writes && self.hold.round == 0 && after == self.hold.index && after > before
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    Reply { session: SessionId, sequence: u64, at: Position },
    Opened { session: SessionId, at: Position },
    Outcome { session: SessionId, ticket: u64, sequence: u64 },
    Alive,
    Refused { sequence: u64, reason: Refusal },
    Redis,
    RedisRefused,
}

/// What a client's connection asks.
#[derive(Debug, Clone)]
pub enum Wanted {
    Library(FromClient),
    Redis(Vec<u8>),
}

enum Taken {
    Done,
    Later,
    Leave,
}

impl Door {
    pub fn new(number: Option<u64>) -> Self {
        let library =
            number.map(|number| Library { number, introduced: false, session: None, acknowledged: 0, fenced: false });
        Self { library, held: VecDeque::new(), closing: false, gone: false }
    }

    fn last_hold(&self) -> Hold {
        self.held.back().map_or_else(Hold::default, |held| held.hold)
    }

    pub fn owes(&self) -> bool {
        !self.held.is_empty()
    }

    /// What of it is covered, in order.
    pub fn covered(&mut self, release: &Release) -> Vec<Held> {
        let count = self.held.iter().take_while(|held| release.covers(held.hold)).count();
        self.held.drain(..count).collect()
    }
}

/// As it goes out.
pub fn message(held: &Held, release: &Release) -> Payload {
    let receipt =
        |at: &Position| Receipt { epoch: at.epoch, index: at.index, copies: release.copies, mode: release.mode };
    Payload::Tell(match &held.what {
        What::Reply { sequence, at, .. } => {
            ToClient::Reply { sequence: *sequence, reply: held.reply.clone().into(), receipt: receipt(at) }
        }
        What::Opened { session, at } => ToClient::Opened { session: *session, receipt: receipt(at) },
        What::Outcome { ticket, sequence, .. } => ToClient::OutcomeIs {
            ticket: *ticket,
            sequence: *sequence,
            outcome: decoded_outcome(&held.reply).unwrap_or(Outcome::Expired),
        },
        What::Alive => ToClient::Alive,
        What::Refused { sequence, reason } => ToClient::Refused { sequence: *sequence, reason: reason.clone() },
        What::Redis | What::RedisRefused => return Payload::RedisReply(held.reply.clone(), held.hold.index),
    })
}

impl World {
    /// Takes what clients ask, as far as the core admits it.
    pub fn serve(&mut self, id: Id, core: &mut Core, out: &mut Outbox<Machine>) {
        while let Some((conn, wanted)) = self.replica_mut(id).requests.pop_front() {
            let taken = match self.replica_mut(id).doors.remove(&conn) {
                None => Taken::Done,
                Some(door) if door.closing => {
                    self.replica_mut(id).doors.insert(conn, door);
                    Taken::Done
                }
                Some(mut door) => {
                    let taken = self.serve_one(id, core, out, (conn, &mut door), &wanted);
                    if matches!(taken, Taken::Leave) {
                        door.closing = true;
                        self.close(conn, id);
                    }
                    let waits = self.replica(id).requests.iter().any(|(other, _)| *other == conn);
                    if !door.gone || waits || matches!(taken, Taken::Later) {
                        self.replica_mut(id).doors.insert(conn, door);
                    }
                    taken
                }
            };
            if matches!(taken, Taken::Later) {
                return self.replica_mut(id).requests.push_front((conn, wanted));
            }
        }
    }

    fn serve_one(
        &mut self,
        id: Id,
        core: &mut Core,
        out: &mut Outbox<Machine>,
        (conn, door): (ConnId, &mut Door),
        wanted: &Wanted,
    ) -> Taken {
        match (core.admission(), wanted) {
            (Admission::Paused, _) => Taken::Later,
            (Admission::Closed, Wanted::Library(_)) => {
                self.redirect(id, core, conn);
                Taken::Leave
            }
            (Admission::Closed, Wanted::Redis(_)) => {
                let reply = b"-READONLY You can't write against a read only replica.\r\n".to_vec();
                self.redis_refuses(id, (conn, door), reply);
                Taken::Done
            }
            (Admission::Open, Wanted::Redis(operation)) => self.serve_redis(id, core, out, (conn, door), operation),
            (Admission::Open, Wanted::Library(message)) => self.serve_library(id, core, out, (conn, door), message),
        }
    }

    fn redis_refuses(&mut self, id: Id, (conn, door): (ConnId, &mut Door), reply: Vec<u8>) {
        let hold = door.last_hold();
        if door.held.is_empty() {
            return self.send(conn, id, Payload::RedisReply(reply, 0));
        }
        let what = What::RedisRefused;
        door.held.push_back(Held {
            hold,
            what,
            reply,
            round_before: u64::MAX,
            executed: (0, 0),
            writes: false,
            alone: false,
        });
    }

    fn serve_redis(
        &mut self,
        id: Id,
        core: &mut Core,
        out: &mut Outbox<Machine>,
        (conn, door): (ConnId, &mut Door),
        operation: &[u8],
    ) -> Taken {
        let (before, mut reply) = (core.vitals(), Vec::new());
        let alone = self.is_alone(id, core);
        let request = Request::Operation { origin: Origin::Direct, operation };
        let hold = match core.request(request, &mut reply, out) {
            Disposition::Reply { hold, .. } => hold,
            Disposition::Deferred { hold, work, .. } => {
                work(&mut reply);
                hold
            }
            Disposition::Refused(Refused::Paused) => return Taken::Later,
            Disposition::Refused(Refused::NotPrimary) => {
                self.redis_refuses(id, (conn, door), b"-READONLY not the primary\r\n".to_vec());
                return Taken::Done;
            }
            Disposition::Refused(Refused::Reason { reason, .. }) => {
                self.redis_refuses(id, (conn, door), format!("-NOREPLICAS {reason}\r\n").into_bytes());
                return Taken::Done;
            }
        };
        let executed = (before.last, core.vitals().last);
        let writes = KeyValue::access(operation) == Access::Write;
        door.held.push_back(Held {
            hold,
            what: What::Redis,
            reply,
            round_before: before.round,
            executed,
            writes,
            alone,
        });
        Taken::Done
    }

    fn serve_library(
        &mut self,
        id: Id,
        core: &mut Core,
        out: &mut Outbox<Machine>,
        (conn, door): (ConnId, &mut Door),
        message: &FromClient,
    ) -> Taken {
        let Some(library) = &mut door.library else { return Taken::Leave };
        match message {
            FromClient::Hello { .. } if library.introduced => Taken::Leave,
            FromClient::Hello { session, oldest_unanswered, .. } => {
                self.library_hello(id, core, out, (conn, door), (*session, *oldest_unanswered))
            }
            _ if !library.introduced => Taken::Leave,
            FromClient::Acknowledge { below } => {
                library.acknowledged = library.acknowledged.max(*below);
                Taken::Done
            }
            message => self.library_request(id, core, out, (conn, door), message),
        }
    }

    fn library_hello(
        &mut self,
        id: Id,
        core: &mut Core,
        out: &mut Outbox<Machine>,
        (conn, door): (ConnId, &mut Door),
        (session, oldest_unanswered): (Option<SessionId>, u64),
    ) -> Taken {
        let Some(library) = &mut door.library else { return Taken::Leave };
        if let Some(session) = session {
            let (round_before, alone) = (core.vitals().round, self.is_alone(id, core));
            match core.request(Request::Attach { session, connection: library.number }, &mut Vec::new(), out) {
                Disposition::Reply { .. } | Disposition::Deferred { .. } => library.session = Some(session),
                Disposition::Refused(Refused::Paused) => return Taken::Later,
                Disposition::Refused(Refused::NotPrimary) => {
                    self.redirect(id, core, conn);
                    return Taken::Leave;
                }
                Disposition::Refused(Refused::Reason { reason, hold }) => {
                    library.introduced = true;
                    refuse(door, hold, 0, reason, (round_before, alone));
                    return Taken::Done;
                }
            }
        }
        let Some(record) = core.record().cloned() else { return Taken::Leave };
        library.introduced = true;
        library.acknowledged = oldest_unanswered;
        let welcome = ToClient::Welcome { record: Box::new(record), max_request: 1 << 20 };
        self.send(conn, id, Payload::Tell(welcome));
        Taken::Done
    }

    fn library_request(
        &mut self,
        id: Id,
        core: &mut Core,
        out: &mut Outbox<Machine>,
        (conn, door): (ConnId, &mut Door),
        message: &FromClient,
    ) -> Taken {
        let last_hold = door.last_hold();
        let Some(library) = &mut door.library else { return Taken::Leave };
        let asked = match message {
            FromClient::Request { sequence, .. } => *sequence,
            _ => 0,
        };
        let (before, alone) = (core.vitals(), self.is_alone(id, core));
        if library.fenced {
            refuse(door, last_hold, asked, Refusal::Fenced, NOT_COMPUTED);
            return Taken::Done;
        }
        let request = match (message, library.session) {
            (FromClient::Open { timeout_ms }, _) => {
                Request::OpenSession { timeout: timeout_ms * 1000, connection: library.number }
            }
            (_, None) => {
                refuse(door, last_hold, asked, Refusal::NoSession, NOT_COMPUTED);
                return Taken::Done;
            }
            (FromClient::KeepAlive, Some(session)) => Request::KeepAlive { session },
            (FromClient::Outcome { sequence, .. }, Some(session)) => Request::Outcome { session, sequence: *sequence },
            (FromClient::Request { sequence, lowest_unanswered, operation, .. }, Some(session)) => Request::Operation {
                origin: Origin::Session {
                    session,
                    sequence: *sequence,
                    lowest_unanswered: library.acknowledged.max(*lowest_unanswered),
                    connection: library.number,
                },
                operation,
            },
            (FromClient::Hello { .. } | FromClient::Acknowledge { .. }, _) => return Taken::Leave,
        };
        let mut reply = Vec::new();
        let (hold, at) = match core.request(request, &mut reply, out) {
            Disposition::Reply { hold, at } => (hold, at),
            Disposition::Deferred { hold, at, work } => {
                work(&mut reply);
                (hold, at)
            }
            Disposition::Refused(Refused::Paused) => return Taken::Later,
            Disposition::Refused(Refused::NotPrimary) => {
                door.held.clear();
                self.redirect(id, core, conn);
                return Taken::Leave;
            }
            Disposition::Refused(Refused::Reason { reason, hold }) => {
                refuse(door, hold, asked, reason, (before.round, alone));
                return Taken::Done;
            }
        };
        let Some(what) = answer_to(message, library, at, &reply) else { return Taken::Leave };
        let executed = (before.last, core.vitals().last);
        if matches!(what, What::Reply { .. }) && at.epoch < core.release().epoch && at.index < hold.index {
            self.report.saw(Must::RetryAfterCutOver);
        }
        if matches!((&what, decoded_outcome(&reply)), (What::Outcome { .. }, Some(Outcome::NotExecuted))) {
            self.report.saw(Must::OutcomeClosed);
        }
        let writes = match message {
            FromClient::Request { operation, .. } => KeyValue::access(operation) == Access::Write,
            _ => true,
        };
        door.held.push_back(Held { hold, what, reply, round_before: before.round, executed, writes, alone });
        Taken::Done
    }

    fn is_alone(&self, id: Id, core: &Core) -> bool {
        self.groups[self.replica(id).group].required(id, core).is_empty()
    }

    /// Says who serves; the connection closes after it.
    fn redirect(&mut self, id: Id, core: &Core, conn: ConnId) {
        let record = core.record().cloned().map(Box::new);
        self.send(conn, id, Payload::Tell(ToClient::Redirect { record }));
    }

    /// The replica is no longer primary: what is held is never sent.
    pub fn drop_held(&mut self, id: Id, core: &Core) {
        for conn in self.replica(id).doors.keys().copied().collect::<Vec<_>>() {
            let Some(door) = self.replica_mut(id).doors.get_mut(&conn) else { continue };
            let owed = door.owes();
            door.held.clear();
            if door.library.is_some() {
                door.closing = true;
                self.redirect(id, core, conn);
                self.close(conn, id);
            } else if owed {
                door.closing = true;
                self.close(conn, id);
            }
        }
    }
}

/// Of a reply that says nothing of the state: what was so when it was asked for is of no concern.
const NOT_COMPUTED: (u64, bool) = (u64::MAX, true);

/// `before` is the last round sent before the request, and whether nobody's acknowledgement was needed then.
fn refuse(door: &mut Door, hold: Hold, sequence: u64, reason: Refusal, before: (u64, bool)) {
    if let Some(library) = &mut door.library {
        library.fenced = true;
    }
    // Nothing passes an earlier part of the connection, so a refusal without a hold has that of the part before it.
    let what = What::Refused { sequence, reason };
    let ((round_before, alone), reply) = (before, Vec::new());
    door.held.push_back(Held { hold, what, reply, round_before, executed: (0, 0), writes: false, alone });
}

fn answer_to(message: &FromClient, library: &mut Library, at: Position, reply: &[u8]) -> Option<What> {
    Some(match message {
        FromClient::Open { .. } => {
            let session = opened_session(reply)?;
            library.session = Some(session);
            What::Opened { session, at }
        }
        FromClient::KeepAlive => What::Alive,
        FromClient::Outcome { ticket, sequence } => {
            What::Outcome { session: library.session?, ticket: *ticket, sequence: *sequence }
        }
        FromClient::Request { sequence, .. } => What::Reply { session: library.session?, sequence: *sequence, at },
        FromClient::Hello { .. } | FromClient::Acknowledge { .. } => return None,
    })
}
