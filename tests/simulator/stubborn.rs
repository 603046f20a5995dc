//! A client that speaks the client port by itself and takes every liberty that the port gives: it sends a request again
//! although it was answered, on this connection or on another; it leaves sequences out and comes back to them; it asks
//! what became of a request that it has not sent, and sends it then; it keeps several connections of one session; it
//! opens sessions that it does not need, and comes back to those it had before, even when it was told that they are gone.
//!
//! Whatever it does, each of its sequences is executed once at most, and answered alike each time, and a session that has
//! expired is never there again (S7).

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use bytes::Bytes;
use cutover::machine::kv;
use cutover::protocol::SessionId;
use cutover::protocol::client::{FromClient, Outcome, Receipt, Refusal, ToClient};
use rand::RngExt;

use super::counters::Must;
use super::network::{ConnId, Payload, Port};
use super::world::{Id, Local, Time, Verdict, World, as_told};

/// Sequences that it keeps asking about at most.
const KEEPS: u64 = 12;
const CONNECTIONS: usize = 3;

/// Sessions that it may come back to.
const REMEMBERS: usize = 12;

#[derive(Debug, Default)]
pub struct Stubborn {
    session: Session,
    /// Those it had before.
    former: Vec<Session>,
    /// Of which it was told that they are gone.
    expired: BTreeSet<SessionId>,
    connections: Vec<ConnId>,
    /// Those that it began with a session of which it knew that it is gone.
    vain: BTreeSet<ConnId>,
    /// A dial is under way.
    dialling: bool,
    /// It has asked for so many other sessions on this connection, and waits.
    opening: Option<(ConnId, u8)>,
    /// How often its group had lost data by an operator's word when it heard anything last.
    reign: u32,
}

/// What it knows of one session.
#[derive(Debug)]
struct Session {
    id: Option<SessionId>,
    next: u64,
    oldest: u64,
    asked: BTreeMap<u64, Vec<u8>>,
    /// What it was told of each sequence; `None` is that it never will be executed.
    told: BTreeMap<u64, Option<Bytes>>,
}

impl Default for Session {
    fn default() -> Self {
        Self { id: None, next: 1, oldest: 1, asked: BTreeMap::new(), told: BTreeMap::new() }
    }
}

impl Session {
    /// What it is told of a sequence must be what it was told before.
    fn hears(&mut self, sequence: u64, outcome: Option<Bytes>) -> Verdict {
        match self.told.insert(sequence, outcome.clone()) {
            Some(before) if before != outcome && sequence >= self.oldest => {
                Err(format!("S7: a client was told {before:?} of sequence {sequence}, and now {outcome:?}"))
            }
            _ => Ok(()),
        }
    }
}

impl Stubborn {
    /// It goes on with another session, and may come back to this one.
    fn turns_to(&mut self, session: Session) {
        let before = mem::replace(&mut self.session, session);
        if before.id.is_some() {
            self.former.push(before);
        }
        if self.former.len() > REMEMBERS {
            self.former.remove(0);
        }
    }

    /// An operator took the group, and what was told before may be lost.
    fn forgets(&mut self) {
        self.expired.clear();
        self.vain.clear();
        for session in self.former.iter_mut().chain([&mut self.session]) {
            session.told.clear();
        }
    }

    fn expires(&mut self) {
        self.expired.extend(self.session.id);
        self.turns_to(Session::default());
    }
}

impl World {
    pub fn stubborn_takes(&mut self, id: Id, number: usize, local: Local) {
        let client = &mut self.clients[number].stubborn;
        match local {
            Local::Dialled { conn, .. } => {
                client.dialling = false;
                if let Some(conn) = conn {
                    client.connections.push(conn);
                    let (session, oldest_unanswered) = (client.session.id, client.session.oldest);
                    if session.is_some_and(|session| client.expired.contains(&session)) {
                        client.vain.insert(conn);
                    }
                    let group = self.groups[self.clients[number].group].name.clone();
                    let name = self.processes[id].name.clone();
                    let hello =
                        FromClient::Hello { group, name, machine: None, session, oldest_unanswered, record: None };
                    self.send(conn, id, Payload::Ask(hello));
                }
            }
            Local::Ended { conn, .. } => {
                client.connections.retain(|known| *known != conn);
                client.vain.remove(&conn);
                client.opening = client.opening.filter(|(opening, _)| *opening != conn);
            }
            Local::Client { conn, payload, .. } if client.connections.contains(&conn) => {
                if let Some(told) = as_told(payload) {
                    self.stubborn_hears(id, number, conn, told);
                }
            }
            _ => {}
        }
    }

    fn stubborn_hears(&mut self, id: Id, number: usize, conn: ConnId, told: ToClient) {
        let reign = self.groups[self.clients[number].group].reign;
        let client = &mut self.clients[number].stubborn;
        if mem::replace(&mut client.reign, reign) != reign {
            client.forgets();
        }
        let vain = client.vain.contains(&conn);
        let verdict = match told {
            ToClient::Welcome { .. } if client.session.id.is_none() => return self.stubborn_opens(id, number, conn),
            ToClient::Opened { session, .. } => {
                client.turns_to(Session { id: Some(session), ..Session::default() });
                client.vain.remove(&conn);
                client.opening = client.opening.and_then(|(on, left)| (left > 1).then_some((on, left - 1)));
                // The others are of no session, or of another one.
                for other in mem::replace(&mut client.connections, vec![conn]) {
                    if other != conn {
                        self.close(other, id);
                    }
                }
                Ok(())
            }
            ToClient::OutcomeIs { outcome: Outcome::Expired, .. } => Ok(()),
            ToClient::Reply { .. } | ToClient::OutcomeIs { .. } if vain => {
                Err(format!("S7: session {:?} had expired, and is there again", client.session.id))
            }
            ToClient::Reply { sequence, reply, receipt } => {
                let (Receipt { epoch, index, .. }, asked) = (receipt, client.session.asked.get(&sequence).cloned());
                let group = &self.groups[self.clients[number].group];
                let client = &mut self.clients[number].stubborn;
                let there = group.at(index).is_some_and(|entry| entry.epoch == epoch);
                // What an operator's word lost may still have been on its way.
                let lost = !there && epoch < group.reign_began;
                let verdict = if lost { Ok(()) } else { client.session.hears(sequence, Some(reply)) };
                verdict.and(asked.map_or(Ok(()), |operation| group.s7_own_operation(there, index, &operation)))
            }
            ToClient::OutcomeIs { sequence, outcome, .. } => match outcome {
                Outcome::Executed { reply: Some(reply) } => client.session.hears(sequence, Some(reply)),
                Outcome::NotExecuted => client.session.hears(sequence, None),
                Outcome::Executed { reply: None } | Outcome::Expired => Ok(()),
            },
            ToClient::Refused { reason: Refusal::SessionExpired, .. } => {
                client.expires();
                return self.stubborn_hangs_up(id, number, conn);
            }
            ToClient::Refused { reason, sequence } => {
                self.report.saw_if(reason == Refusal::Cancelled && sequence > 0, Must::CancelledLate);
                if self.random.random_bool(0.7) {
                    self.stubborn_hangs_up(id, number, conn);
                }
                Ok(())
            }
            ToClient::Redirect { .. } => return self.stubborn_hangs_up(id, number, conn),
            ToClient::Welcome { .. } | ToClient::Alive => Ok(()),
        };
        self.check(verdict);
        let client = &mut self.clients[number].stubborn.session;
        while client.told.contains_key(&client.oldest) && client.next > client.oldest + KEEPS {
            client.asked.remove(&client.oldest);
            client.told.remove(&client.oldest);
            client.oldest += 1;
        }
    }

    fn stubborn_hangs_up(&mut self, id: Id, number: usize, conn: ConnId) {
        let client = &mut self.clients[number].stubborn;
        client.connections.retain(|known| *known != conn);
        client.vain.remove(&conn);
        client.opening = client.opening.filter(|(opening, _)| *opening != conn);
        self.close(conn, id);
    }

    /// Asks for another session, and sends nothing more on this connection before it has it.
    fn stubborn_opens(&mut self, id: Id, number: usize, conn: ConnId) {
        let timeout_ms = self.swarm.session_timeout / 1000;
        let times = if self.random.random_bool(0.3) { 2 } else { 1 };
        for _ in 0..times {
            self.send(conn, id, Payload::Ask(FromClient::Open { timeout_ms }));
        }
        self.clients[number].stubborn.opening = Some((conn, times));
    }

    /// Without a connection it may go on with a session that it had before.
    fn stubborn_comes_back(&mut self, number: usize) {
        let client = &mut self.clients[number].stubborn;
        let count = client.former.len();
        if client.connections.is_empty() && count > 0 && self.random.random_bool(0.3) {
            let former = client.former.remove(self.random.random_range(0..count));
            client.turns_to(former);
        }
    }

    fn stubborn_dials(&mut self, id: Id, number: usize) {
        self.stubborn_comes_back(number);
        let group = self.clients[number].group;
        let primary = self.groups[group].record().map(|record| self.id_of(&record.primary.addresses.client));
        let replicas: Vec<Id> = self.replica_ids().filter(|id| self.replica(*id).group == group).collect();
        let random = replicas[self.random.random_range(0..replicas.len())];
        let to = primary.filter(|_| self.random.random_bool(0.8)).unwrap_or(random);
        let client = &mut self.clients[number];
        client.dials += 1;
        client.stubborn.dialling = true;
        let connection = client.dials;
        self.dial(id, Port::Library(connection), to);
    }

    /// It is time to do something.
    pub fn stubborn_acts(&mut self, id: Id, number: usize) {
        let dice = self.random.random_range(0..20);
        let client = &mut self.clients[number].stubborn;
        let count = client.connections.len();
        if (count == 0 || (dice == 19 && count < CONNECTIONS && client.session.id.is_some())) && !client.dialling {
            return self.stubborn_dials(id, number);
        }
        if count == 0 {
            return;
        }
        let newest = self.random.random_bool(0.85);
        let conn = client.connections[if newest { count - 1 } else { self.random.random_range(0..count) }];
        if dice == 18 {
            return self.stubborn_hangs_up(id, number, conn);
        }
        if client.session.id.is_none() || client.opening.is_some_and(|(opening, _)| opening == conn) {
            return;
        }
        let Session { next, oldest, .. } = client.session;
        match dice {
            0..=6 if next < oldest + KEEPS * 3 => {
                let gap = if dice == 0 { 2 } else { 0 };
                let sequence = next + gap;
                self.stubborn_asks(id, number, conn, sequence);
            }
            7..=11 => {
                let among = next - oldest + 1;
                let sequence = oldest + self.random.random_range(0..among);
                self.stubborn_asks(id, number, conn, sequence);
            }
            12 => self.send(conn, id, Payload::Ask(FromClient::KeepAlive)),
            17 if client.opening.is_none() => self.stubborn_opens(id, number, conn),
            _ => {
                let (first, end) = (oldest, next + 1);
                let sequence = if dice < 15 { first } else { self.random.random_range(first..=end) };
                let session = &mut self.clients[number].stubborn.session;
                session.next = session.next.max(sequence + 1);
                let ticket = self.now;
                self.send(conn, id, Payload::Ask(FromClient::Outcome { ticket, sequence }));
                if self.random.random_bool(0.3) {
                    self.stubborn_asks(id, number, conn, sequence);
                }
            }
        }
    }

    /// Sends a sequence, with the operation that it had before if it had one.
    fn stubborn_asks(&mut self, id: Id, number: usize, conn: ConnId, sequence: u64) {
        let value = (self.now as Time).to_string();
        let operation = match self.random.random_range(0..4) {
            0 => kv::request("INCR", &[b"stubborn"]),
            1 => kv::request("SPOP", &[b"obstinate"]),
            2 => kv::request("SADD", &[b"obstinate", value.as_bytes()]),
            _ => kv::request("SET", &[b"headstrong", value.as_bytes(), b"GET"]),
        };
        let client = &mut self.clients[number].stubborn.session;
        client.next = client.next.max(sequence + 1);
        let lowest_unanswered = client.oldest;
        let operation = client.asked.entry(sequence).or_insert(operation).clone().into();
        let request = FromClient::Request { sequence, lowest_unanswered, write: true, operation };
        self.send(conn, id, Payload::Ask(request));
    }
}
