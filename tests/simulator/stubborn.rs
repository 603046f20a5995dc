//! A client that speaks the client port by itself and takes every liberty that the port gives: it sends a request again
//! although it was answered, on this connection or on another; it leaves sequences out and comes back to them; it asks
//! what became of a request that it has not sent, and sends it then; it keeps several connections of one session.
//!
//! Whatever it does, each of its sequences is executed once at most, and answered alike each time (S7).

use std::collections::BTreeMap;

use bytes::Bytes;
use cutover::machine::kv;
use cutover::protocol::SessionId;
use cutover::protocol::client::{FromClient, Outcome, Refusal, ToClient};
use rand::RngExt;

use super::counters::Must;
use super::network::{ConnId, Payload, Port};
use super::world::{Id, Local, Time, World, as_told};

/// Sequences that it keeps asking about at most.
const KEEPS: u64 = 12;
const CONNECTIONS: usize = 3;

#[derive(Debug)]
pub struct Stubborn {
    session: Option<SessionId>,
    connections: Vec<ConnId>,
    /// A dial is under way.
    dialling: bool,
    next: u64,
    oldest: u64,
    asked: BTreeMap<u64, Vec<u8>>,
    /// How often its group had lost data by an operator's word when it heard anything last.
    reign: u32,
    /// What it was told of each sequence; `None` is that it never will be executed.
    told: BTreeMap<u64, Option<Bytes>>,
}

impl Default for Stubborn {
    fn default() -> Self {
        Self {
            session: None,
            connections: Vec::new(),
            dialling: false,
            next: 1,
            oldest: 1,
            asked: BTreeMap::new(),
            told: BTreeMap::new(),
            reign: 0,
        }
    }
}

impl Stubborn {
    fn begins_anew(&mut self) {
        (self.session, self.next, self.oldest) = (None, 1, 1);
        self.asked.clear();
        self.told.clear();
    }

    /// What it is told of a sequence must be what it was told before.
    fn hears(&mut self, sequence: u64, outcome: Option<Bytes>) -> Result<(), String> {
        match self.told.insert(sequence, outcome.clone()) {
            Some(before) if before != outcome && sequence >= self.oldest => {
                Err(format!("S7: a client was told {before:?} of sequence {sequence}, and now {outcome:?}"))
            }
            _ => Ok(()),
        }
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
                    let (session, oldest_unanswered) = (client.session, client.oldest);
                    let group = self.groups[self.clients[number].group].name.clone();
                    let name = self.processes[id].name.clone();
                    let hello =
                        FromClient::Hello { group, name, machine: None, session, oldest_unanswered, record: None };
                    self.send(conn, id, Payload::Ask(hello));
                }
            }
            Local::Ended { conn, .. } => client.connections.retain(|known| *known != conn),
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
        if std::mem::replace(&mut client.reign, reign) != reign {
            // What it was told before may be lost.
            client.told.clear();
        }
        let verdict = match told {
            ToClient::Welcome { .. } if client.session.is_none() => {
                let timeout_ms = self.swarm.session_timeout / 1000;
                return self.send(conn, id, Payload::Ask(FromClient::Open { timeout_ms }));
            }
            ToClient::Opened { session, .. } => {
                client.begins_anew();
                client.session = Some(session);
                // The others are of no session, or of another one.
                for other in std::mem::replace(&mut client.connections, vec![conn]) {
                    if other != conn {
                        self.close(other, id);
                    }
                }
                Ok(())
            }
            ToClient::Reply { sequence, reply, .. } => client.hears(sequence, Some(reply)),
            ToClient::OutcomeIs { sequence, outcome, .. } => match outcome {
                Outcome::Executed { reply: Some(reply) } => client.hears(sequence, Some(reply)),
                Outcome::NotExecuted => client.hears(sequence, None),
                Outcome::Executed { reply: None } | Outcome::Expired => Ok(()),
            },
            ToClient::Refused { reason: Refusal::SessionExpired, .. } => {
                client.begins_anew();
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
        let client = &mut self.clients[number].stubborn;
        while client.told.contains_key(&client.oldest) && client.next > client.oldest + KEEPS {
            client.asked.remove(&client.oldest);
            client.told.remove(&client.oldest);
            client.oldest += 1;
        }
    }

    fn stubborn_hangs_up(&mut self, id: Id, number: usize, conn: ConnId) {
        self.clients[number].stubborn.connections.retain(|known| *known != conn);
        self.close(conn, id);
    }

    fn stubborn_dials(&mut self, id: Id, number: usize) {
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
        if (count == 0 || (dice == 19 && count < CONNECTIONS && client.session.is_some())) && !client.dialling {
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
        if client.session.is_none() {
            return;
        }
        match dice {
            0..=6 if client.next < client.oldest + KEEPS * 3 => {
                let gap = if dice == 0 { 2 } else { 0 };
                let sequence = client.next + gap;
                self.stubborn_asks(id, number, conn, sequence);
            }
            7..=11 => {
                let among = client.next - client.oldest + 1;
                let sequence = client.oldest + self.random.random_range(0..among);
                self.stubborn_asks(id, number, conn, sequence);
            }
            12 => self.send(conn, id, Payload::Ask(FromClient::KeepAlive)),
            _ => {
                let (first, end) = (client.oldest, client.next + 1);
                let sequence = if dice < 15 { first } else { self.random.random_range(first..=end) };
                let client = &mut self.clients[number].stubborn;
                client.next = client.next.max(sequence + 1);
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
        let client = &mut self.clients[number].stubborn;
        client.next = client.next.max(sequence + 1);
        let lowest_unanswered = client.oldest;
        let operation = client.asked.entry(sequence).or_insert(operation).clone().into();
        let request = FromClient::Request { sequence, lowest_unanswered, write: true, operation };
        self.send(conn, id, Payload::Ask(request));
    }
}
