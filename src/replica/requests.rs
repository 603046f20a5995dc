//! What clients want of a primary, and how each answer is held back.
//!
//! The reply of a logged operation waits for its own entry. Everything else (a read, a retry answered from the session
//! table, an outcome, an error about a session) waits for everything executed before it and for a round that began
//! after it arrived.

use std::collections::VecDeque;

use bytes::Bytes;
use cutover_arbiter::planted;
use cutover_arbiter::record::{Index, Position};

use crate::machine::{Access, ReadEnv, ReadOutcome, StateMachine};
use crate::protocol::client::{Outcome, Refusal, Sequence, SessionId, WINDOW_BYTES};
use crate::protocol::entry::{CARRIED_HEAD, Control, Payload, SessionMark};

use super::primary::UnreleasedRead;
use super::sessions::Standing;
use super::{Admission, Disposition, Hold, Origin, Outbox, Refused, Replica, Request, Stance};

impl<M: StateMachine> Replica<M> {
    /// Takes one request. Its reply is appended to `reply` and waits for its hold.
    pub fn request(&mut self, request: Request<'_>, reply: &mut Vec<u8>, out: &mut Outbox<M>) -> Disposition {
        match self.admission() {
            Admission::Open => {}
            Admission::Paused => return Disposition::Refused(Refused::Paused),
            Admission::Closed => return Disposition::Refused(Refused::NotPrimary),
        }
        match request {
            Request::Operation { origin: Origin::Direct, operation } => match M::access(operation) {
                Access::Read => self.read(None, operation, reply, out),
                Access::Write => self.write(None, operation, reply, out),
            },
            Request::Operation {
                origin: Origin::Session { session, sequence, lowest_unanswered, connection },
                operation,
            } => {
                let mark = SessionMark { session, sequence, lowest_unanswered };
                self.session_operation(mark, connection, operation, reply, out)
            }
            Request::OpenSession { timeout, connection } => self.open_session(timeout, connection, reply, out),
            Request::Attach { session, connection } => self.attach(session, connection),
            Request::KeepAlive { session } => self.keep_alive(session, reply, out),
            Request::Outcome { session, sequence, lowest_unanswered } => {
                // The one that is asked for is none of those that have arrived.
                let mark = SessionMark { session, sequence, lowest_unanswered: lowest_unanswered.min(sequence) };
                self.outcome(mark, reply, out)
            }
        }
    }

    fn write(
        &mut self,
        mark: Option<SessionMark>,
        operation: &[u8],
        reply: &mut Vec<u8>,
        out: &mut Outbox<M>,
    ) -> Disposition {
        if let Some(refused) = self.too_few_in_sync() {
            return refused;
        }
        if mark.is_some_and(|mark| self.carries_too_much(mark.session)) {
            return Disposition::Refused(Refused::Paused);
        }
        let carried = mark.map(|mark| self.reads_before(mark)).unwrap_or_default();
        let carried_views = carried.iter().map(|(sequence, reply)| (*sequence, &reply[..])).collect();
        let payload = Payload::Operation { mark, carried: carried_views, operation };
        let index = self.execute(&payload, reply, out);
        self.executed_at(index)
    }

    /// The reply of the entry at `index` waits for just that.
    fn executed_at(&self, index: Index) -> Disposition {
        Disposition::Reply { hold: Hold { index, round: 0 }, at: self.position(index) }
    }

    /// `index` in the present epoch.
    fn position(&self, index: Index) -> Position {
        let epoch = match &self.role {
            Stance::Primary(primary) => primary.epoch,
            _ => self.known_epoch,
        };
        Position { epoch, index }
    }

    /// Too few copies to execute anything that changes the state.
    fn too_few_in_sync(&mut self) -> Option<Disposition> {
        let record = self.record.as_ref()?;
        let (in_sync, min_in_sync) = (record.in_sync.len().min(255) as u8, record.min_in_sync);
        if in_sync >= min_in_sync {
            return None;
        }
        // Not executed, and saying so reveals nothing of the state: no hold.
        let reason = Refusal::NotEnoughReplicas { in_sync, min_in_sync };
        Some(Disposition::Refused(Refused::Reason { reason, hold: Hold::default() }))
    }

    fn read(
        &mut self,
        mark: Option<SessionMark>,
        operation: &[u8],
        reply: &mut Vec<u8>,
        out: &mut Outbox<M>,
    ) -> Disposition {
        let clock = self.clock_for_read(out);
        let hold = self.hold_for_read();
        let start = reply.len();
        let env = ReadEnv::new(clock, &mut self.random);
        let outcome = self.state.machine.read(operation, &env, reply);
        match outcome {
            ReadOutcome::Done => {
                if let Some(mark) = mark {
                    let read = UnreleasedRead {
                        sequence: mark.sequence,
                        hold,
                        reply: Bytes::copy_from_slice(&reply[start..]),
                    };
                    if let Stance::Primary(primary) = &mut self.role {
                        primary.reads.entry(mark.session).or_default().push_back(read);
                    }
                }
                Disposition::Reply { hold, at: self.position(hold.index) }
            }
            ReadOutcome::Deferred(work) => Disposition::Deferred { hold, at: self.position(hold.index), work },
        }
    }

    /// An entry must fit into a frame, or no backup would ever take it: before a write, a session with very much unread
    /// waits until some of it is released.
    fn carries_too_much(&self, session: SessionId) -> bool {
        let Stance::Primary(primary) = &self.role else { return false };
        let bytes =
            |reads: &VecDeque<UnreleasedRead>| reads.iter().map(|read| CARRIED_HEAD + read.reply.len()).sum::<usize>();
        primary.reads.get(&session).is_some_and(|reads| bytes(reads) > WINDOW_BYTES)
    }

    /// Replies to earlier reads of the session that are not released yet: after a cut-over they must not be run again
    /// behind the entry that carries them.
    fn reads_before(&mut self, mark: SessionMark) -> Vec<(Sequence, Bytes)> {
        let Stance::Primary(primary) = &mut self.role else { return Vec::new() };
        let Some(reads) = primary.reads.get_mut(&mark.session) else { return Vec::new() };
        std::mem::take(reads).into_iter().map(|read| (read.sequence, read.reply)).collect()
    }

    fn session_operation(
        &mut self,
        mark: SessionMark,
        connection: u64,
        operation: &[u8],
        reply: &mut Vec<u8>,
        out: &mut Outbox<M>,
    ) -> Disposition {
        let Stance::Primary(primary) = &mut self.role else { return Disposition::Refused(Refused::NotPrimary) };
        let newest = primary.connections.entry(mark.session).or_insert(connection);
        if *newest > connection {
            return Disposition::Refused(Refused::Reason { reason: Refusal::Fenced, hold: Hold::default() });
        }
        *newest = connection;
        match self.state.sessions.standing(mark, self.config.limits.session_bytes) {
            Standing::New => match M::access(operation) {
                Access::Read => self.read(Some(mark), operation, reply, out),
                Access::Write => self.write(Some(mark), operation, reply, out),
            },
            Standing::Known(first, at) => {
                reply.extend_from_slice(&first);
                let hold = if planted!("H3b") { Hold::default() } else { self.hold_for_read() };
                Disposition::Reply { hold, at }
            }
            Standing::Cancelled => self.refused(Refusal::Cancelled),
            Standing::Acknowledged => self.refused(Refusal::Acknowledged),
            Standing::NoSession => {
                if let Stance::Primary(primary) = &mut self.role {
                    primary.connections.remove(&mark.session);
                }
                self.refused(Refusal::SessionExpired)
            }
            Standing::WindowFull => self.refused(Refusal::WindowFull),
        }
    }

    /// A refusal that says something of the state waits like a read.
    fn refused(&mut self, reason: Refusal) -> Disposition {
        Disposition::Refused(Refused::Reason { reason, hold: self.hold_for_read() })
    }

    fn open_session(&mut self, timeout: u64, connection: u64, reply: &mut Vec<u8>, out: &mut Outbox<M>) -> Disposition {
        if let Some(refused) = self.too_few_in_sync() {
            return refused;
        }
        let limits = self.config.limits;
        if u128::from(timeout) > limits.session_timeout.as_micros() {
            // What this replica was told, and nothing of the state: no hold.
            let longest_ms = limits.session_timeout.as_millis() as u64;
            let reason = Refusal::TimeoutTooLong { asked_ms: timeout / 1000, longest_ms };
            return Disposition::Refused(Refused::Reason { reason, hold: Hold::default() });
        }
        if self.state.sessions.len() >= limits.sessions {
            return self.refused(Refusal::TooManySessions { limit: limits.sessions as u64 });
        }
        let index = self.execute(&Payload::Control(Control::OpenSession { timeout }), reply, out);
        if let Stance::Primary(primary) = &mut self.role {
            primary.connections.insert(SessionId { epoch: primary.epoch, index }, connection);
        }
        self.executed_at(index)
    }

    fn attach(&mut self, session: SessionId, connection: u64) -> Disposition {
        if !self.state.sessions.contains(session) {
            return self.refused(Refusal::SessionExpired);
        }
        let hold = Hold::default();
        let Stance::Primary(primary) = &mut self.role else { return Disposition::Refused(Refused::NotPrimary) };
        let newest = primary.connections.entry(session).or_insert(connection);
        if *newest > connection {
            return Disposition::Refused(Refused::Reason { reason: Refusal::Fenced, hold });
        }
        *newest = connection;
        // The older connection's reads go with it: they will be asked again, on this one, in order.
        primary.reads.remove(&session);
        Disposition::Reply { hold, at: Position::default() }
    }

    fn keep_alive(&mut self, session: SessionId, reply: &mut Vec<u8>, out: &mut Outbox<M>) -> Disposition {
        if !self.state.sessions.contains(session) {
            return self.refused(Refusal::SessionExpired);
        }
        let index = self.execute(&Payload::Control(Control::KeepAlive { session }), reply, out);
        self.executed_at(index)
    }

    fn outcome(&mut self, mark: SessionMark, reply: &mut Vec<u8>, out: &mut Outbox<M>) -> Disposition {
        let SessionMark { session, sequence, lowest_unanswered } = mark;
        let known = self.state.sessions.outcome(session, sequence);
        // A read on its way was executed, whatever its place in the table.
        let reading = match &self.role {
            Stance::Primary(primary) => primary
                .reads
                .get(&session)
                .and_then(|reads| reads.iter().find(|read| read.sequence == sequence).map(|read| read.reply.clone())),
            _ => None,
        };
        let known = known.or(reading.map(|reply| Outcome::Executed { reply: Some(reply) }));
        if let Some(outcome) = known {
            let bytes = postcard::to_allocvec(&outcome).expect("an outcome is plain data");
            reply.extend_from_slice(&bytes);
            let hold = self.hold_for_read();
            return Disposition::Reply { hold, at: self.position(hold.index) };
        }
        if self.state.sessions.is_beyond_window(mark) {
            return self.refused(Refusal::WindowFull);
        }
        let close = Control::CloseSequence { session, sequence, lowest_unanswered };
        let index: Index = self.execute(&Payload::Control(close), reply, out);
        self.executed_at(index)
    }
}
