//! The client ports of a replica: the production's connections (`cutover::port`) over the simulated network, and what
//! the judges must know of each reply that waits in one.

use std::collections::VecDeque;

use bytes::BytesMut;
use cutover::machine::kv::KeyValue;
use cutover::machine::{Access, StateMachine};
use cutover::port::{Answer, Desk, Direct, Executed, Library, Parting, Taken, Terms};
use cutover::protocol::SessionId;
use cutover::protocol::client::{FromClient, Outcome, Refusal, ToClient};
use cutover::replica::{Admission, Hold, Outbox, Release, decoded_outcome};
use cutover_arbiter::record::Index;

use super::canon::{Core, Machine};
use super::counters::Must;
use super::network::{ConnId, Payload};
use super::world::{Id, World};

/// Largest request that a replica takes here.
const MAX_REQUEST: usize = 1 << 20;

/// A client's connection at its replica.
#[derive(Debug)]
pub struct Door {
    port: Port,
    /// One for each part that waits in the port.
    ghosts: VecDeque<Ghost>,
    /// Nothing more is taken from it.
    closing: bool,
    /// Its client is gone; what it asked before is still done.
    pub gone: bool,
}

#[derive(Debug)]
enum Port {
    Library(Library),
    /// Every part has a number of its own, so that none is joined with another and each can be judged.
    Redis(Direct<u64>, u64),
}

/// What a part must be judged by.
#[derive(Debug, Clone, Copy)]
struct Ghost {
    hold: Hold,
    /// The last round that was sent before it was asked for; that of a word which reveals nothing is beyond all.
    round_before: u64,
    /// The last index executed before it was asked for, and after.
    executed: (Index, Index),
    /// Whether it may change the state.
    writes: bool,
    /// It says that nothing was executed.
    refusal: bool,
    /// Nobody's acknowledgement was needed when it was asked for.
    alone: bool,
    session: Option<SessionId>,
}

/// A reply that goes out.
#[derive(Debug)]
pub struct Held {
    pub hold: Hold,
    pub what: What,
    pub reply: Vec<u8>,
    pub round_before: u64,
    executed: (Index, Index),
    pub writes: bool,
    pub refusal: bool,
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
    Library(Answer, Option<SessionId>),
    Redis,
}

/// What a client's connection asks.
#[derive(Debug, Clone)]
pub enum Wanted {
    Library(FromClient),
    Redis(Vec<u8>),
}

/// What came of it.
enum Served {
    Done,
    Later(Wanted),
    /// Not before something of this connection is released.
    Behind(Wanted),
    Leave,
}

impl Door {
    pub fn new(number: Option<u64>) -> Self {
        let port =
            number.map_or_else(|| Port::Redis(Direct::default(), 0), |number| Port::Library(Library::new(number)));
        Self { port, ghosts: VecDeque::new(), closing: false, gone: false }
    }

    pub fn owes(&self) -> bool {
        !self.ghosts.is_empty()
    }

    /// What of it is covered, in order.
    pub fn covered(&mut self, release: &Release) -> Vec<Held> {
        let (mut covered, ghosts) = (Vec::new(), &mut self.ghosts);
        let mut goes = |what: What, bytes: &[u8]| {
            let ghost = ghosts.pop_front().expect("a ghost for every part");
            let Ghost { hold, round_before, executed, writes, refusal, alone, session } = ghost;
            let what = match what {
                What::Library(answer, _) => What::Library(answer, session),
                What::Redis => What::Redis,
            };
            covered.push(Held { hold, what, reply: bytes.to_vec(), round_before, executed, writes, refusal, alone });
        };
        match &mut self.port {
            Port::Library(port) => {
                port.release(release, |answer, bytes| goes(What::Library(answer.clone(), None), bytes));
            }
            Port::Redis(port, _) => port.release(release, |_, bytes| goes(What::Redis, bytes)),
        }
        covered
    }

    /// Notes what was put into the port since.
    fn note(&mut self, ghost: Ghost) {
        let parts = match &self.port {
            Port::Library(port) => port.parts(),
            Port::Redis(port, _) => port.parts(),
        };
        if parts > self.ghosts.len() {
            self.ghosts.push_back(ghost);
        }
        assert_eq!(parts, self.ghosts.len(), "a request puts one part into its port at most");
    }

    fn last_hold(&self) -> Hold {
        self.ghosts.back().map_or_else(Hold::default, |ghost| ghost.hold)
    }
}

/// Whether a refusal says something of the state.
fn reveals(reason: &Refusal) -> bool {
    matches!(
        reason,
        Refusal::SessionExpired
            | Refusal::Cancelled
            | Refusal::Acknowledged
            | Refusal::WindowFull
            | Refusal::TooManySessions { .. }
    )
}

/// As it goes out.
pub fn message(held: &Held, release: &Release) -> Payload {
    match &held.what {
        What::Library(answer, _) => Payload::Tell(answer.message(&held.reply, release)),
        What::Redis => Payload::RedisReply(held.reply.clone(), held.hold.index),
    }
}

impl World {
    /// Takes what clients ask, as far as the core admits it.
    pub fn serve(&mut self, id: Id, core: &mut Core, out: &mut Outbox<Machine>) {
        let mut behind: Vec<(ConnId, Wanted)> = Vec::new();
        while let Some((conn, wanted)) = self.replica_mut(id).requests.pop_front() {
            if core.admission() == Admission::Paused {
                self.replica_mut(id).requests.push_front((conn, wanted));
                break;
            }
            if behind.iter().any(|(other, _)| *other == conn) {
                behind.push((conn, wanted));
                continue;
            }
            let Some(mut door) = self.replica_mut(id).doors.remove(&conn) else { continue };
            if door.closing {
                self.replica_mut(id).doors.insert(conn, door);
                continue;
            }
            let served = match wanted {
                Wanted::Redis(operation) => self.serve_redis(id, core, out, (conn, &mut door), operation),
                Wanted::Library(message) => self.serve_library(id, core, out, (conn, &mut door), message),
            };
            if matches!(served, Served::Leave) {
                door.closing = true;
                self.close(conn, id);
            }
            let waits = self.replica(id).requests.iter().any(|(other, _)| *other == conn);
            if !door.gone || waits || matches!(served, Served::Later(_) | Served::Behind(_)) {
                self.replica_mut(id).doors.insert(conn, door);
            }
            match served {
                Served::Later(wanted) => {
                    self.replica_mut(id).requests.push_front((conn, wanted));
                    break;
                }
                Served::Behind(wanted) => behind.push((conn, wanted)),
                Served::Done | Served::Leave => {}
            }
        }
        for waits in behind.into_iter().rev() {
            self.replica_mut(id).requests.push_front(waits);
        }
    }

    fn serve_redis(
        &mut self,
        id: Id,
        core: &mut Core,
        out: &mut Outbox<Machine>,
        (conn, door): (ConnId, &mut Door),
        operation: Vec<u8>,
    ) -> Served {
        let (before, last_hold, alone) = (core.vitals(), door.last_hold(), self.is_alone(id, core));
        let Port::Redis(port, parts) = &mut door.port else { return Served::Leave };
        let (admission, mut reply, mut told) = (core.admission(), Vec::new(), BytesMut::new());
        let desk = Desk { core, admission: &admission, reply: &mut reply, outbox: out };
        *parts += 1;
        let copy = |neutral: &[u8], out: &mut BytesMut| out.extend_from_slice(neutral);
        let executed = port.execute(&operation, desk, (*parts, *parts), &mut told, copy);
        let refusal = matches!(executed, Executed::Refused(_) | Executed::NotServing);
        let (hold, round_before) = match executed {
            Executed::Held(hold) => (hold.unwrap_or(last_hold), before.round),
            Executed::Elsewhere { hold, ticket, work } => {
                let mut reply = Vec::new();
                work(&mut reply);
                port.fill(ticket, reply);
                (hold, before.round)
            }
            Executed::Refused(Some(hold)) => (hold, before.round),
            Executed::Refused(None) | Executed::NotServing => (last_hold, u64::MAX),
            Executed::Later => return Served::Later(Wanted::Redis(operation)),
        };
        if !told.is_empty() {
            self.send(conn, id, Payload::RedisReply(told.to_vec(), 0));
        }
        let executed = (before.last, core.vitals().last);
        let writes = KeyValue::access(&operation) == Access::Write;
        if writes {
            self.executed_with_enough(id, core, executed);
        }
        door.note(Ghost { hold, round_before, executed, writes, refusal, alone, session: None });
        Served::Done
    }

    fn serve_library(
        &mut self,
        id: Id,
        core: &mut Core,
        out: &mut Outbox<Machine>,
        (conn, door): (ConnId, &mut Door),
        message: FromClient,
    ) -> Served {
        let (before, last_hold, alone) = (core.vitals(), door.last_hold(), self.is_alone(id, core));
        let group = self.replica(id).group;
        let terms = Terms { group: &self.groups[group].name, max_request: MAX_REQUEST };
        let writes = match &message {
            FromClient::Request { operation, .. } => KeyValue::access(operation) == Access::Write,
            _ => true,
        };
        let asks_outcome = matches!(message, FromClient::Outcome { .. });
        let executes = writes && matches!(message, FromClient::Request { .. } | FromClient::Open { .. });
        let Port::Library(port) = &mut door.port else { return Served::Leave };
        let (admission, mut reply) = (core.admission(), Vec::new());
        let desk = Desk { core, admission: &admission, reply: &mut reply, outbox: out };
        let parts = port.parts();
        let taken = port.take(message, terms, desk);
        let refusal = matches!(taken, Taken::Refused(_));
        let free = match &taken {
            Taken::Tell(ToClient::Refused { reason, .. }) => Some(reason),
            Taken::Done if port.parts() > parts => match port.newest() {
                Some(Answer::Refused { reason, .. }) => Some(reason),
                _ => None,
            },
            _ => None,
        };
        if let Some(reason) = free.filter(|reason| reveals(reason)) {
            let why = format!("O4: {} tells without a hold that {reason}", self.processes[id].name);
            self.check(Err(why));
        }
        let (hold, round_before) = match taken {
            Taken::Done => (last_hold, u64::MAX),
            Taken::Welcomed(word) | Taken::Tell(word) => {
                self.send(conn, id, Payload::Tell(word));
                return Served::Done;
            }
            Taken::Executed(hold) => (hold, before.round),
            Taken::Elsewhere { hold, ticket, work } => {
                let mut reply = Vec::new();
                work(&mut reply);
                port.fill(ticket, reply, core);
                (hold, before.round)
            }
            Taken::Refused(hold) => (hold, before.round),
            Taken::Later(message) => return Served::Later(Wanted::Library(message)),
            Taken::Behind(message) => return Served::Behind(Wanted::Library(message)),
            Taken::Stranger { .. } => return Served::Leave,
            Taken::Leave(word) => {
                door.ghosts.clear();
                if let Some(word) = word {
                    self.send(conn, id, Payload::Tell(word));
                }
                return Served::Leave;
            }
        };
        let session = port.session();
        let retried = matches!(port.newest(), Some(Answer::Reply { at, .. })
            if at.epoch < core.release().epoch && at.index < hold.index);
        self.report.saw_if(retried && round_before != u64::MAX, Must::RetryAfterCutOver);
        if asks_outcome && matches!(decoded_outcome(&reply), Some(Outcome::NotExecuted)) {
            self.report.saw(Must::OutcomeClosed);
        }
        let executed = (before.last, core.vitals().last);
        if executes {
            self.executed_with_enough(id, core, executed);
        }
        door.note(Ghost { hold, round_before, executed, writes, refusal, alone, session });
        Served::Done
    }

    fn is_alone(&self, id: Id, core: &Core) -> bool {
        self.groups[self.replica(id).group].required(id, core).is_empty()
    }

    /// The replica is no longer primary: what is held is never sent.
    pub fn drop_held(&mut self, id: Id, core: &Core) {
        for conn in self.replica(id).doors.keys().copied().collect::<Vec<_>>() {
            let Some(door) = self.replica_mut(id).doors.get_mut(&conn) else { continue };
            door.ghosts.clear();
            let (word, parting) = match &mut door.port {
                Port::Library(port) => (Some(port.deposed(core)), Parting::Close),
                Port::Redis(port, _) => (None::<ToClient>, port.deposed()),
            };
            if parting == Parting::Keep {
                continue;
            }
            door.closing = true;
            if let Some(word) = word {
                self.send(conn, id, Payload::Tell(word));
            }
            self.close(conn, id);
        }
    }
}
