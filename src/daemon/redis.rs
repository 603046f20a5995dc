//! The Redis port: what a [`resp::Connection`] asks for, done with the core. Meaningful only when the machine's
//! operations are those of [`crate::machine::kv`].
//!
//! Deliberately not here: what waits in a connection and what becomes of it when the replica no longer serves, which
//! is [`Direct`]'s.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::time::Duration;

use bytes::BytesMut;
use mio::net::TcpStream;

use super::connection::{Connection, Kind, Progress, Received, Transport};
use super::slab::Key;
use super::socket;
use super::turn::{READ_PER_TURN, Shell};
use crate::machine::StateMachine;
use crate::machine::kv::{command::CommandId, operation, reply::Reply};
use crate::port::{Desk, Direct, Executed, Parting};
use crate::replica::{Admission, Disposition, Hold, Origin, Refused, Release, Request};
use crate::resp::{self, Action, ConfigRefusal, Format, Serving, StatusQuestion};

/// A Redis client's connection.
#[derive(Debug)]
pub struct Redis {
    /// The protocol.
    pub edge: resp::Connection,
    /// Replies that wait.
    pub port: Direct<Written>,
    /// An operation that the core could not take yet.
    stalled: Option<Vec<u8>>,
    /// A question that the core could not confirm yet.
    stalled_question: Option<Unconfirmed>,
    /// A WAIT that is not answered.
    wait: Option<Wait>,
}

/// How a held part's bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// As they are.
    Encoded,
    /// A neutral reply, to be put into this format.
    Neutral(Format),
}

/// A question whose answer says that this replica is primary, and so needs a round.
#[derive(Debug)]
enum Unconfirmed {
    Status(StatusQuestion),
    Wait { replicas: u64, timeout_ms: u64 },
}

/// A WAIT under way.
#[derive(Debug, Clone, Copy)]
struct Wait {
    replicas: u64,
    /// On the boot clock; `None` is for ever.
    deadline: Option<Duration>,
}

impl Redis {
    /// Bytes read from the socket that were not taken yet.
    pub fn input_bytes(&self) -> usize {
        self.edge.input_bytes() + self.stalled.as_ref().map_or(0, Vec::len)
    }

    /// True when nothing is left to answer.
    pub fn is_quiet(&self) -> bool {
        !self.port.owes() && self.wait.is_none()
    }

    /// When its WAIT ends.
    pub fn deadline(&self) -> Option<Duration> {
        self.wait.and_then(|wait| wait.deadline)
    }

    /// Moves what is covered to the output.
    pub fn release(&mut self, release: &Release, output: &mut BytesMut) {
        self.port.release(release, |written, bytes| match written {
            Written::Encoded => output.extend_from_slice(bytes),
            Written::Neutral(format) => format.encode(bytes, output),
        });
    }

    /// This replica is no longer primary: an open WAIT ends, if the connection may hear anything more.
    pub fn deposed(&mut self, output: &mut BytesMut) -> Parting {
        let parting = self.port.deposed();
        if self.wait.take().is_some() && parting == Parting::Keep {
            let mut reply = Vec::new();
            Reply(&mut reply)
                .error("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)");
            self.edge.encode_reply(&reply, output);
        }
        parting
    }

    /// Answers a WAIT whose condition holds or whose time is over; false while it goes on waiting.
    fn settle_wait(&mut self, now: Duration, backups: u64, output: &mut BytesMut) -> bool {
        let Some(wait) = self.wait else { return true };
        let over = wait.deadline.is_some_and(|deadline| deadline <= now);
        if self.port.owes() || (backups < wait.replicas && !over) {
            return false;
        }
        self.wait = None;
        let mut reply = Vec::new();
        Reply(&mut reply).integer(backups as i64);
        self.edge.encode_reply(&reply, output);
        true
    }

    fn write(&mut self, transport: &mut Transport, bytes: &[u8]) {
        self.port.say(Written::Encoded, &mut transport.output, |out| out.extend_from_slice(bytes));
    }
}

/// Connections with an open WAIT.
pub type Waits = VecDeque<Key>;

impl<M: StateMachine> Shell<M> {
    /// A Redis client connected.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(super) fn accept_redis(&mut self, mut stream: TcpStream) -> io::Result<()> {
        socket::tune(&stream);
        if self.clients >= self.options.max_clients {
            self.counters.rejected += 1;
            // The socket's buffer is empty, so it takes a line at once or never.
            let _ = stream.write(b"-ERR max number of clients reached\r\n");
            return Ok(());
        }
        let (reactor, now, limits) = (&self.reactor, self.now.boot, self.options.redis_limits());
        self.connections.insert(|key| {
            let transport = Transport::new(stream, key, reactor, now)?;
            let edge = resp::Connection::new(key.number(), transport.peer(), limits, now.as_millis() as u64);
            let redis = Redis { edge, port: Direct::default(), stalled: None, stalled_question: None, wait: None };
            io::Result::Ok(Box::new(Connection { transport, kind: Kind::Redis(Box::new(redis)) }))
        })?;
        self.clients += 1;
        self.counters.connections += 1;
        Ok(())
    }

    /// Reads a connection and does what it asks, as far as the turn allows.
    pub(super) fn drive_redis(&mut self, key: Key, transport: &mut Transport, redis: &mut Redis) -> Progress {
        let mut read = 0;
        loop {
            let progress = self.redis_requests(key, transport, redis);
            // A client in WAIT is listened to, so that one that is gone is noticed.
            let listens = progress == Progress::Blocked && redis.wait.is_some() && !redis.edge.has_input();
            if (progress != Progress::Hungry && !listens) || transport.closing {
                return progress;
            }
            if read >= READ_PER_TURN {
                return Progress::Again;
            }
            match transport.receive(redis.edge.buffer(), &mut self.scratch) {
                Received::Bytes(bytes) => {
                    read += bytes;
                    self.counters.input_bytes += bytes as u64;
                    transport.heard = self.now.boot;
                    redis.edge.touch(self.now.boot.as_millis() as u64);
                }
                Received::Nothing => return progress,
                Received::End if redis.wait.is_some() => return Progress::Drop,
                Received::End => {
                    // What was asked is still answered; a client that is gone altogether does not hear it.
                    transport.closing = true;
                    return Progress::Hungry;
                }
                Received::Broken(_) => return Progress::Drop,
            }
        }
    }

    fn redis_requests(&mut self, key: Key, transport: &mut Transport, redis: &mut Redis) -> Progress {
        loop {
            if transport.closing {
                return Progress::Hungry;
            }
            if redis.wait.is_some() || redis.port.is_blocked() || redis.port.weight() > self.options.max_in_flight {
                return Progress::Blocked;
            }
            let stalls = redis.stalled.is_some() || redis.stalled_question.is_some();
            if !stalls && !redis.edge.has_input() {
                return Progress::Hungry;
            }
            if self.over_budget() {
                return Progress::Again;
            }
            if let Some(stalled) = redis.stalled.take() {
                self.operation = stalled;
                if !self.redis_execute(key, transport, redis) {
                    return Progress::Parked;
                }
                continue;
            }
            if let Some(question) = redis.stalled_question.take() {
                if !self.redis_ask(key, transport, redis, question) {
                    return Progress::Parked;
                }
                continue;
            }
            if self.admission == Admission::Paused && redis.edge.has_input() {
                return Progress::Parked;
            }
            let Some(action) = redis.edge.next(&self.serving, &mut self.operation) else { return Progress::Hungry };
            match action {
                Action::Execute(_) => {
                    if !self.redis_execute(key, transport, redis) {
                        return Progress::Parked;
                    }
                }
                Action::Write(bytes) => {
                    self.counters.replied(&bytes);
                    redis.write(transport, &bytes);
                }
                Action::Wait { replicas, timeout_ms } => {
                    if !self.redis_ask(key, transport, redis, Unconfirmed::Wait { replicas, timeout_ms }) {
                        return Progress::Parked;
                    }
                }
                Action::Status(question) => {
                    if !self.redis_ask(key, transport, redis, Unconfirmed::Status(question)) {
                        return Progress::Parked;
                    }
                }
                Action::Close { after } => {
                    self.counters.replied(&after);
                    redis.write(transport, &after);
                    transport.closing = true;
                }
            }
        }
    }

    /// Hands `self.operation` to the core; false when it must wait.
    fn redis_execute(&mut self, key: Key, transport: &mut Transport, redis: &mut Redis) -> bool {
        let desk =
            Desk { core: &mut self.core, admission: &self.admission, reply: &mut self.reply, outbox: &mut self.outbox };
        let Redis { edge, port, .. } = redis;
        let kinds = (Written::Encoded, Written::Neutral(edge.format()));
        let encode = |neutral: &[u8], out: &mut BytesMut| edge.encode_reply(neutral, out);
        match port.execute(&self.operation, desk, kinds, &mut transport.output, encode) {
            Executed::Held(hold) => {
                self.counters.operations += 1;
                self.counters.called(&self.operation, &self.reply);
                hold.into_iter().for_each(|hold| self.await_release(hold, key));
            }
            Executed::Elsewhere { hold, ticket, work } => {
                self.counters.operations += 1;
                self.counters.called(&self.operation, &[]);
                self.await_release(hold, key);
                self.workers.read(key, ticket, work);
            }
            Executed::Refused(hold) => {
                self.counters.replied(&self.reply);
                hold.into_iter().for_each(|hold| self.await_release(hold, key));
            }
            Executed::NotServing => {
                self.counters.replied(&self.reply);
                self.refresh_serving();
            }
            Executed::Later => {
                redis.stalled = Some(std::mem::take(&mut self.operation));
                self.admission = Admission::Paused;
                return false;
            }
        }
        true
    }

    /// It has just turned out that this replica is not primary: what was asked was not executed.
    fn redis_read_only(&mut self, transport: &mut Transport, redis: &mut Redis) {
        self.refresh_serving();
        let mut neutral = Vec::new();
        Reply(&mut neutral).error("READONLY You can't write against a read only replica.");
        let Redis { edge, port, .. } = redis;
        port.say(Written::Encoded, &mut transport.output, |out| edge.encode_reply(&neutral, out));
    }

    /// A hold that is covered once everything so far is committed and a round after this moment is confirmed: that
    /// of a read whose answer nobody wants.
    fn barrier(&mut self) -> Result<Hold, Refused> {
        self.operation.clear();
        operation::encode(CommandId::DbSize, std::iter::empty(), &mut self.operation);
        self.reply.clear();
        let request = Request::Operation { origin: Origin::Direct, operation: &self.operation };
        match self.core.request(request, &mut self.reply, &mut self.outbox) {
            Disposition::Reply { hold, .. } | Disposition::Deferred { hold, .. } => Ok(hold),
            Disposition::Refused(refused) => Err(refused),
        }
    }

    /// Answers a question about this replica; false when it must wait. "master", and what only a primary can know, is
    /// told only by a primary whose epoch was confirmed after the question came.
    fn redis_ask(&mut self, key: Key, transport: &mut Transport, redis: &mut Redis, question: Unconfirmed) -> bool {
        let confirm = match &question {
            Unconfirmed::Wait { .. } => true,
            Unconfirmed::Status(StatusQuestion::Role | StatusQuestion::Info(_) | StatusQuestion::Hello) => {
                self.serving == Serving::Primary
            }
            Unconfirmed::Status(_) => false,
        };
        if confirm {
            match (self.barrier(), &question) {
                (Ok(hold), _) => {
                    redis.port.wait_for(hold, Written::Encoded);
                    self.await_release(hold, key);
                }
                (Err(Refused::Paused | Refused::Unread), _) => {
                    redis.stalled_question = Some(question);
                    self.admission = Admission::Paused;
                    return false;
                }
                (Err(_), Unconfirmed::Wait { .. }) => {
                    self.redis_read_only(transport, redis);
                    return true;
                }
                // It is none any more, and says so.
                (Err(_), Unconfirmed::Status(_)) => self.refresh_serving(),
            }
        }
        match question {
            Unconfirmed::Status(question) => self.redis_status(transport, redis, &question),
            Unconfirmed::Wait { replicas, timeout_ms } => self.redis_wait(key, redis, replicas, timeout_ms),
        }
        true
    }

    fn redis_wait(&mut self, key: Key, redis: &mut Redis, replicas: u64, timeout_ms: u64) {
        // A deadline beyond all times is none.
        let timeout = (timeout_ms != 0).then(|| Duration::from_millis(timeout_ms));
        redis.wait = Some(Wait { replicas, deadline: timeout.and_then(|after| self.now.boot.checked_add(after)) });
        self.waits.push_back(key);
    }

    fn redis_status(&mut self, transport: &mut Transport, redis: &mut Redis, question: &StatusQuestion) {
        let mut status = self.redis_view();
        match question {
            StatusQuestion::ClientList(_) => {
                status.clients = self
                    .connections
                    .iter()
                    .filter_map(|(_, other)| match &other.kind {
                        Kind::Redis(client) => {
                            let mut client = client.edge.client();
                            client.output_bytes = other.transport.output.len();
                            Some(client)
                        }
                        Kind::Library(_) | Kind::Peer(_) => None,
                    })
                    .chain(std::iter::once(redis.edge.client()))
                    .collect();
            }
            StatusQuestion::ConfigSet(settings) => {
                status.config_refusal = self.config_set(settings).err();
            }
            StatusQuestion::ConfigResetStat => self.counters.reset_redis(),
            _ => {}
        }
        let mut answer = BytesMut::new();
        redis.edge.answer(question, &status, &mut answer);
        redis.write(transport, &answer);
    }

    /// CONFIG SET: all of the settings, or none.
    fn config_set(&mut self, settings: &[(String, String)]) -> Result<(), ConfigRefusal> {
        let mut memory_limit = self.core.memory_limit();
        for (name, value) in settings {
            let invalid = |reason: &str| ConfigRefusal::Invalid { name: name.clone(), reason: reason.to_owned() };
            match name.as_str() {
                "maxmemory" => {
                    let bytes = resp::memory_value(value).ok_or_else(|| invalid("argument must be a memory value"))?;
                    memory_limit = Some(bytes).filter(|bytes| *bytes > 0);
                }
                "maxmemory-policy" if value.eq_ignore_ascii_case("noeviction") => {}
                "maxmemory-policy" => {
                    return Err(invalid("argument must be 'noeviction': no key is ever given up for another"));
                }
                // The edge has refused what is no setting at all.
                _ => return Err(ConfigRefusal::Immutable { name: name.clone() }),
            }
        }
        self.core.set_memory_limit(memory_limit);
        Ok(())
    }

    /// Answers the WAITs that can be answered.
    pub(super) fn settle_waits(&mut self) {
        let backups = u64::from(self.release.copies.saturating_sub(1));
        for _ in 0..self.waits.len() {
            let Some(key) = self.waits.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(key) else { continue };
            let Kind::Redis(redis) = &mut connection.kind else { continue };
            if redis.settle_wait(self.now.boot, backups, &mut connection.transport.output) {
                connection.transport.again(&mut self.listed);
                self.mark_dirty(key);
            } else {
                self.waits.push_back(key);
            }
        }
    }
}
