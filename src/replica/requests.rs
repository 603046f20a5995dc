//! What clients want of a primary, and how each answer is held back.
//!
//! The reply of a logged operation waits for its own entry. Everything else (a read, a retry answered from the session
//! table, an outcome, an error about a session) waits for everything executed before it and for a round that began
//! after it arrived.

use bytes::Bytes;
use cutover_arbiter::planted;
use cutover_arbiter::record::{Index, Position};

use crate::machine::{Access, ReadEnv, ReadOutcome, StateMachine};
use crate::protocol::client::{LONGEST_REPLY, Outcome, Refusal, Sequence, SessionId, WINDOW_BYTES, WINDOW_REQUESTS};
use crate::protocol::entry::{Control, Payload, SessionMark};

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
            return Disposition::Refused(Refused::Unread);
        }
        let carried = mark.map(|mark| self.reads_before(mark)).unwrap_or_default();
        let carried_views = carried.iter().map(|(sequence, reply)| (*sequence, reply.as_deref())).collect();
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
        if in_sync >= min_in_sync || planted!("min_late") {
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
        if let Some(mark) = mark {
            // What another thread replies is kept when it comes (`answered_elsewhere`).
            let done = matches!(outcome, ReadOutcome::Done);
            let done = done.then(|| &reply[start..]).filter(|reply| reply.len() <= LONGEST_REPLY);
            self.keep_read(mark, hold, done.map(Bytes::copy_from_slice));
        }
        let at = self.position(hold.index);
        match outcome {
            ReadOutcome::Done => Disposition::Reply { hold, at },
            ReadOutcome::Deferred(work) => Disposition::Deferred { hold, at, work },
        }
    }

    fn keep_read(&mut self, mark: SessionMark, hold: Hold, reply: Option<Bytes>) {
        let (release, most) = (self.release(), self.config.limits.session_bytes);
        let Stance::Primary(primary) = &mut self.role else { return };
        let reads = &mut primary.reads;
        reads.keep(mark.session, mark.sequence, hold, reply);
        let room = if reads.bytes() > most { 0 } else { WINDOW_BYTES };
        if reads.bytes_of(mark.session) > room {
            reads.let_go(mark.session, &release, room);
        }
    }

    /// Another thread has answered a read of a session that came on this connection. Its reply is kept like that of any
    /// other read, for the next entry of the session to carry: asked again after a cut-over, it is told again. One that
    /// would fill the window alone is not kept.
    pub fn answered_elsewhere(&mut self, session: SessionId, sequence: Sequence, connection: u64, reply: &[u8]) {
        let (most, release) = (self.config.limits.session_bytes, self.release());
        let Stance::Primary(primary) = &mut self.role else { return };
        // A newer connection may have had it run again: that reply is the one that counts.
        if primary.connections.get(&session) != Some(&connection) || reply.len() > WINDOW_BYTES {
            return;
        }
        let reads = &mut primary.reads;
        reads.fill(session, sequence, Bytes::copy_from_slice(reply));
        if reads.bytes() > most {
            reads.let_go(session, &release, 0);
        }
    }

    /// A client says that the replies of its session below this have arrived.
    pub fn acknowledged(&mut self, session: SessionId, below: Sequence) {
        if let Stance::Primary(primary) = &mut self.role {
            primary.reads.acknowledge(session, below);
        }
    }

    /// An entry must fit into a frame, or no backup would ever take it: before a write, a session with very much unread
    /// waits until some of it is released.
    fn carries_too_much(&mut self, session: SessionId) -> bool {
        let release = self.release();
        let Stance::Primary(primary) = &mut self.role else { return false };
        if primary.reads.bytes_of(session) > WINDOW_BYTES {
            primary.reads.let_go(session, &release, WINDOW_BYTES);
        }
        primary.reads.bytes_of(session) > WINDOW_BYTES
    }

    /// Earlier reads of the session that may be asked again: after a cut-over they must not run behind the entry that
    /// carries them.
    fn reads_before(&mut self, mark: SessionMark) -> Vec<(Sequence, Option<Bytes>)> {
        let Stance::Primary(primary) = &mut self.role else { return Vec::new() };
        let reads = primary.reads.take(mark.session);
        if planted!("uncarried") { Vec::new() } else { reads }
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
        primary.reads.acknowledge(mark.session, mark.lowest_unanswered);
        let many = primary.reads.len_of(mark.session) >= WINDOW_REQUESTS;
        match self.state.sessions.standing(mark, self.config.limits.session_bytes) {
            Standing::New => match M::access(operation) {
                Access::Read if many => self.refused(Refusal::WindowFull),
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
        let hold = if planted!("told_free") { Hold::default() } else { self.hold_for_read() };
        Disposition::Refused(Refused::Reason { reason, hold })
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
        primary.reads.take(session);
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
            Stance::Primary(primary) => primary.reads.get(session, sequence),
            _ => None,
        };
        let known = known.or(reading.map(|reply| Outcome::Executed { reply }));
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
