//! Clients of the library's protocol: a session each, several requests in flight, retried in order on another primary.
//! A teller has a counter of its own, so that every answer is known beforehand: an increment executed twice, one that
//! was lost, or a read that ran behind a later increment, shows at once.

use std::collections::BTreeMap;

use cutover::machine::kv::{self, KeyValue, value::Value};
use cutover::protocol::SessionId;
use cutover::replica::{Disposition, Hold, Origin, Outbox, Refused, Replica, Request, opened_session};
use cutover_arbiter::record::Position;
use rand::RngExt;

use super::world::{Ask, Happening, Held, NodeId, Time, Whom, World};

/// Requests that a teller has unanswered at most.
const WINDOW: usize = 5;
/// A connection on which nothing was heard so long is left; what was sent on it may still arrive.
const PATIENCE: Time = 700_000;

pub struct Teller {
    key: String,
    session: Option<SessionId>,
    connection: Option<Connection>,
    next: u64,
    increments: i64,
    pending: BTreeMap<u64, Asked>,
    answered: BTreeMap<u64, (Vec<u8>, Position)>,
}

#[derive(Clone, Copy)]
struct Connection {
    number: u64,
    node: NodeId,
    life: u64,
    heard: Time,
    latency: Time,
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    Increment(i64),
    Read(i64),
}

/// What a teller says to a replica.
#[derive(Debug, Clone)]
pub enum Said {
    Open,
    Attach(SessionId),
    Request { session: SessionId, sequence: u64, lowest: u64, operation: Vec<u8> },
}

/// What a teller hears.
pub enum Heard {
    Opened(SessionId),
    Reply { sequence: u64, reply: Vec<u8>, at: Position },
    Closed,
    Failed(String),
}

impl Teller {
    pub fn new(number: usize) -> Self {
        Self {
            key: format!("counter{number}"),
            session: None,
            connection: None,
            next: 1,
            increments: 0,
            pending: BTreeMap::new(),
            answered: BTreeMap::new(),
        }
    }

    fn operation(&self, asked: Asked) -> Vec<u8> {
        let name = if matches!(asked, Asked::Increment(_)) { "INCR" } else { "GET" };
        kv::request(name, &[self.key.as_bytes()])
    }
}

impl World {
    pub fn teller_acts(&mut self, number: usize) {
        let after = self.random.random_range(1_000..60_000);
        self.schedule(after, Happening::TellerActs(number));
        match self.tellers[number].connection {
            None => self.teller_connects(number),
            Some(connection) if self.now >= connection.heard + PATIENCE => {
                let teller = &mut self.tellers[number];
                if teller.pending.is_empty() && teller.session.is_some() {
                    teller.connection = Some(Connection { heard: self.now, ..connection });
                } else {
                    teller.connection = None;
                }
            }
            Some(_) => {
                let more = self.random.random_range(0..3);
                for _ in 0..more {
                    self.teller_asks(number);
                }
            }
        }
    }

    fn teller_connects(&mut self, number: usize) {
        let Some(node) = self.choose_node() else { return };
        let latency = self.latency();
        self.counter += 1;
        let connection =
            Connection { number: self.counter, node, life: self.nodes[node].life, heard: self.now, latency };
        let teller = &mut self.tellers[number];
        teller.connection = Some(connection);
        let Some(session) = teller.session else { return self.say_to(number, Said::Open) };
        let pending: Vec<_> = teller.pending.iter().map(|(sequence, asked)| (*sequence, *asked)).collect();
        self.say_to(number, Said::Attach(session));
        for (sequence, asked) in pending {
            self.teller_sends(number, session, sequence, asked);
        }
    }

    fn teller_asks(&mut self, number: usize) {
        let read = self.random.random_bool(0.4);
        let teller = &mut self.tellers[number];
        let Some(session) = teller.session.filter(|_| teller.pending.len() < WINDOW) else { return };
        let sequence = teller.next;
        teller.next += 1;
        let asked = if read {
            Asked::Read(teller.increments)
        } else {
            teller.increments += 1;
            Asked::Increment(teller.increments)
        };
        if teller.pending.is_empty()
            && let Some(connection) = &mut teller.connection
        {
            connection.heard = self.now;
        }
        let teller = &mut self.tellers[number];
        teller.pending.insert(sequence, asked);
        self.teller_sends(number, session, sequence, asked);
    }

    fn teller_sends(&mut self, number: usize, session: SessionId, sequence: u64, asked: Asked) {
        let teller = &self.tellers[number];
        let lowest = teller.pending.keys().next().copied().unwrap_or(teller.next);
        let operation = teller.operation(asked);
        self.say_to(number, Said::Request { session, sequence, lowest, operation });
    }

    fn say_to(&mut self, teller: usize, said: Said) {
        let Some(Connection { number, node, life, latency, .. }) = self.tellers[teller].connection else { return };
        let ask = Ask::Teller { teller, connection: number, said };
        self.schedule(latency, Happening::Asked { to: node, life, ask });
    }

    /// A replica takes what a teller said. False when it must be asked again later.
    pub fn serve_teller(
        &mut self,
        node: NodeId,
        core: &mut Replica<KeyValue>,
        (teller, connection): (usize, u64),
        said: &Said,
        out: &mut Outbox<KeyValue>,
    ) -> bool {
        if self.nodes[node].refusing.contains(&connection) {
            return true;
        }
        let mut reply = Vec::new();
        let (request, sequence) = match said {
            Said::Open => (Request::OpenSession { timeout: 3_600_000_000, connection }, 0),
            Said::Attach(session) => (Request::Attach { session: *session, connection }, 0),
            Said::Request { session, sequence, lowest, operation } => {
                let origin =
                    Origin::Session { session: *session, sequence: *sequence, lowest_unanswered: *lowest, connection };
                (Request::Operation { origin, operation }, *sequence)
            }
        };
        let whom = |at| Whom::Teller { teller, connection, sequence, at };
        let (hold, whom) = match core.request(request, &mut reply, out) {
            Disposition::Reply { .. } if matches!(said, Said::Attach(_)) => return true,
            Disposition::Reply { hold, at } => (hold, whom(at)),
            Disposition::Deferred { hold, at, work } => {
                work(&mut reply);
                (hold, whom(at))
            }
            Disposition::Refused(Refused::Paused) => return false,
            Disposition::Refused(Refused::NotPrimary) => {
                self.nodes[node].refusing.insert(connection);
                self.tell(teller, connection, Heard::Closed);
                return true;
            }
            Disposition::Refused(Refused::Reason { reason, hold }) => {
                self.nodes[node].refusing.insert(connection);
                reply = reason.to_string().into_bytes();
                let last = self.nodes[node].held.back().map_or_else(Hold::default, |held| held.hold);
                let hold = Hold { index: hold.index.max(last.index), round: hold.round.max(last.round) };
                (
                    hold,
                    Whom::Refused {
                        teller,
                        connection,
                        fatal: !matches!(
                            reason,
                            cutover::protocol::client::Refusal::Fenced
                                | cutover::protocol::client::Refusal::NotEnoughReplicas { .. }
                        ),
                    },
                )
            }
        };
        self.nodes[node].held.push_back(Held { whom, hold, reply });
        true
    }

    /// A replica releases an answer to a teller.
    pub fn release_to_teller(&mut self, held: Held) {
        match held.whom {
            Whom::Teller { teller, connection, sequence: 0, .. } => {
                let heard = opened_session(&held.reply).map_or(Heard::Closed, Heard::Opened);
                self.tell(teller, connection, heard);
            }
            Whom::Teller { teller, connection, sequence, at } => {
                self.tell(teller, connection, Heard::Reply { sequence, reply: held.reply, at });
            }
            Whom::Refused { teller, connection, fatal } => {
                let why = String::from_utf8_lossy(&held.reply).into_owned();
                self.tell(teller, connection, if fatal { Heard::Failed(why) } else { Heard::Closed });
            }
            Whom::Client(_) | Whom::Nobody => {}
        }
    }

    pub fn tell(&mut self, teller: usize, connection: u64, heard: Heard) {
        // Connections that were left deliver as well: what was released must be right, whoever listens.
        let latency =
            self.tellers[teller].connection.filter(|own| own.number == connection).map_or(1_000, |own| own.latency);
        self.schedule(latency, Happening::Told { teller, connection, heard });
    }

    pub fn told(&mut self, number: usize, connection: u64, heard: Heard) {
        let now = self.now;
        let teller = &mut self.tellers[number];
        let current = teller.connection.as_mut().filter(|own| own.number == connection);
        let is_current = current.is_some();
        if let Some(own) = current {
            own.heard = now;
        }
        match heard {
            Heard::Closed if is_current => teller.connection = None,
            Heard::Closed => {}
            Heard::Opened(session) if is_current && teller.session.is_none() => teller.session = Some(session),
            Heard::Opened(_) => {}
            Heard::Failed(why) => self.fail(format!("teller {number} was refused: {why}")),
            Heard::Reply { sequence, reply, at } => self.teller_hears(number, sequence, reply, at),
        }
    }

    fn teller_hears(&mut self, number: usize, sequence: u64, reply: Vec<u8>, at: Position) {
        let teller = &mut self.tellers[number];
        if let Some((first, where_to)) = teller.answered.get(&sequence) {
            if (first, where_to) != (&reply, &at) {
                let why =
                    format!("S7: {sequence} of teller {number}: {first:?} at {where_to:?}, then {reply:?} at {at:?}");
                self.fail(why);
            }
            return;
        }
        let Some(asked) = teller.pending.remove(&sequence) else { return };
        let expected = match asked {
            Asked::Increment(value) => Value::Integer(value),
            Asked::Read(0) => Value::Null,
            Asked::Read(value) => Value::Bulk(value.to_string().into_bytes()),
        };
        let found = kv::value::parse(&reply);
        if found.as_ref().ok() != Some(&expected) {
            self.fail(format!("S7: {sequence} of teller {number} at {at:?}: {asked:?} was answered {found:?}"));
        } else if matches!(asked, Asked::Increment(_)) {
            teller.answered.insert(sequence, (reply, at));
        }
        self.report.told += 1;
    }
}
