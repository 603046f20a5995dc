//! The client port: sessions of the client library.
//!
//! Deliberately not here: exactly-once itself; the core's session table knows what was executed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cutover_arbiter::record::Position;
use cutover_arbiter::wire::{FrameDecoder, FrameError, HANDSHAKE_LIMIT, Port, decode_body, encode_frame};
use tokio::net::TcpStream;

use super::connection::{Connection, Kind, Progress, Received, Transport};
use super::held::Held;
use super::ready::Key;
use super::side::Errand;
use super::socket;
use super::turn::{READ_PER_TURN, Shell};
use crate::machine::StateMachine;
use crate::protocol::SessionId;
use crate::protocol::client::{FromClient, LONGEST_REPLY, Outcome, Receipt, Refusal, Sequence, ToClient};
use crate::replica::{
    Admission, Disposition, Hold, Origin, Refused, Release, Request, decoded_outcome, opened_session,
};

/// Room made in the input buffer before each read, in bytes.
const READ: usize = 16 << 10;
/// Clients' word of a newer record is looked into this often.
const HINTS: Duration = Duration::from_millis(250);
/// No ticket of the core's: it learns the record and owes nobody an answer.
const NO_TICKET: u64 = 0;
/// What a frame has besides a request's operation, in bytes, generously.
const FRAME_ROOM: usize = 1024;

/// A connection of the client library.
#[derive(Debug)]
pub struct Library {
    /// Replies that wait.
    pub held: Held<Answer>,
    input: BytesMut,
    decoder: FrameDecoder,
    /// Number of the connection; newer ones of a session fence older ones.
    number: u64,
    introduced: bool,
    session: Option<SessionId>,
    /// Replies below this have arrived.
    acknowledged: Sequence,
    /// One request was refused, so all later ones are.
    fenced: bool,
    /// A message that the core could not take yet.
    stalled: Option<FromClient>,
    /// A read that another thread answers is not released yet: nothing after it is taken. No entry could carry its
    /// reply, and after a cut-over it would be run again behind what came after it.
    deferred: bool,
}

/// What a held part answers; its bytes are the machine's or the core's reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A request.
    Reply {
        /// Which.
        sequence: Sequence,
        /// Where it stands.
        at: Position,
    },
    /// `Open`.
    Opened {
        /// The session.
        session: SessionId,
        /// Where it stands.
        at: Position,
    },
    /// `Outcome`.
    Outcome {
        /// Of the question.
        ticket: u64,
        /// Which request.
        sequence: Sequence,
    },
    /// `KeepAlive`.
    Alive,
    /// Not executed.
    Refused {
        /// Which request; 0 for none.
        sequence: Sequence,
        /// Why.
        reason: Refusal,
    },
}

impl Library {
    /// True once it has said who it is.
    pub fn introduced(&self) -> bool {
        self.introduced
    }

    /// Bytes read from the socket that are no whole message yet.
    pub fn input_bytes(&self) -> usize {
        self.input.len()
    }

    /// Moves what is covered to the output.
    pub fn release(&mut self, release: &Release, output: &mut BytesMut) {
        self.held.release(release, |answer, bytes| encode_frame(output, Port::Client, &answer.message(bytes, release)));
        self.deferred &= !self.held.is_empty();
    }

    /// Fills the slot of a read that another thread answered.
    pub fn fill(&mut self, ticket: u64, reply: Vec<u8>) {
        self.held.fill(ticket, reply);
    }

    fn refuse(&mut self, transport: &mut Transport, hold: Option<Hold>, sequence: Sequence, reason: Refusal) {
        self.fenced = true;
        match hold {
            None if self.held.is_empty() => {
                encode_frame(&mut transport.output, Port::Client, &ToClient::Refused { sequence, reason });
            }
            None => self.held.push(self.held.last_hold(), Answer::Refused { sequence, reason }, |_| ()),
            Some(hold) => self.held.push(hold, Answer::Refused { sequence, reason }, |_| ()),
        }
    }
}

impl Answer {
    /// As it goes to the client.
    fn message(&self, bytes: &[u8], release: &Release) -> ToClient {
        let receipt =
            |at: &Position| Receipt { epoch: at.epoch, index: at.index, copies: release.copies, mode: release.mode };
        match self {
            // A frame that the client would not take is sent again for ever.
            Answer::Reply { sequence, .. } if bytes.len() > LONGEST_REPLY => {
                ToClient::OutcomeIs { ticket: 0, sequence: *sequence, outcome: Outcome::Executed { reply: None } }
            }
            Answer::Reply { sequence, at } => {
                ToClient::Reply { sequence: *sequence, reply: Bytes::copy_from_slice(bytes), receipt: receipt(at) }
            }
            Answer::Opened { session, at } => ToClient::Opened { session: *session, receipt: receipt(at) },
            Answer::Outcome { ticket, sequence } => ToClient::OutcomeIs {
                ticket: *ticket,
                sequence: *sequence,
                outcome: match decoded_outcome(bytes) {
                    Some(Outcome::Executed { .. }) if bytes.len() > LONGEST_REPLY => Outcome::Executed { reply: None },
                    // The core writes no other reply to this question; what cannot be read is not known.
                    decoded => decoded.unwrap_or(Outcome::Expired),
                },
            },
            Answer::Alive => ToClient::Alive,
            Answer::Refused { sequence, reason } => ToClient::Refused { sequence: *sequence, reason: reason.clone() },
        }
    }
}

/// What came of one message.
enum Taken {
    Done,
    /// Admission is paused; here it is again.
    Later(FromClient),
    /// The connection ends after what is in its output.
    Leave,
}

impl<M: StateMachine> Shell<M> {
    /// A client library connected.
    pub(super) fn accept_library(&mut self, stream: TcpStream) {
        socket::tune(&stream);
        if self.clients >= self.options.max_clients {
            self.counters.rejected += 1;
            return;
        }
        let number = self.next_ticket();
        let (ready, now) = (&self.ready, self.now.boot);
        let key = self.connections.insert(|key| {
            let library = Library {
                held: Held::default(),
                input: BytesMut::new(),
                decoder: FrameDecoder::new(Port::Client, HANDSHAKE_LIMIT),
                number,
                introduced: false,
                session: None,
                acknowledged: 0,
                fenced: false,
                stalled: None,
                deferred: false,
            };
            let transport = Transport::new(stream, key, ready, now);
            Box::new(Connection { transport, kind: Kind::Library(Box::new(library)) })
        });
        self.clients += 1;
        self.counters.connections += 1;
        self.handshakes.push_back((now + self.options.handshake_deadline, key));
        self.keys.push_back(key);
    }

    /// Reads a connection and does what it asks, as far as the turn allows.
    pub(super) fn drive_library(&mut self, key: Key, transport: &mut Transport, library: &mut Library) -> Progress {
        let mut read = 0;
        loop {
            let progress = self.library_requests(key, transport, library);
            if progress != Progress::Hungry || transport.closing {
                return progress;
            }
            if read >= READ_PER_TURN {
                return Progress::Again;
            }
            library.input.reserve(READ);
            match transport.receive(&mut library.input) {
                Received::Bytes(bytes) => {
                    read += bytes;
                    self.counters.input_bytes += bytes as u64;
                    transport.heard = self.now.boot;
                }
                Received::Nothing => return Progress::Hungry,
                Received::End | Received::Broken(_) => return Progress::Drop,
            }
        }
    }

    fn library_requests(&mut self, key: Key, transport: &mut Transport, library: &mut Library) -> Progress {
        loop {
            if transport.closing {
                return Progress::Hungry;
            }
            if library.deferred || library.held.weight() > self.options.max_in_flight {
                return Progress::Blocked;
            }
            if self.over_budget() {
                return Progress::Again;
            }
            let message = match library.stalled.take() {
                Some(message) => message,
                None => match next_message(library) {
                    Ok(Some(message)) => message,
                    Ok(None) => return Progress::Hungry,
                    Err(error) => {
                        tracing::warn!(client = transport.peer(), %error, "client.nonsense the connection is closed");
                        return Progress::Drop;
                    }
                },
            };
            match self.library_message(key, transport, library, message) {
                Taken::Done => {}
                Taken::Later(message) => {
                    library.stalled = Some(message);
                    return Progress::Parked;
                }
                Taken::Leave => transport.closing = true,
            }
        }
    }

    fn library_message(
        &mut self,
        key: Key,
        transport: &mut Transport,
        library: &mut Library,
        message: FromClient,
    ) -> Taken {
        if let FromClient::Hello { record: Some(record), .. } = &message {
            self.learn_from_client(record);
        }
        match self.admission {
            Admission::Paused => return Taken::Later(message),
            Admission::Closed => {
                self.redirect(transport);
                return Taken::Leave;
            }
            Admission::Open => {}
        }
        match message {
            FromClient::Hello { .. } if library.introduced => Taken::Leave,
            FromClient::Hello { .. } => self.library_hello(key, transport, library, message),
            _ if !library.introduced => Taken::Leave,
            FromClient::Acknowledge { below } => {
                library.acknowledged = library.acknowledged.max(below);
                Taken::Done
            }
            FromClient::Open { .. }
            | FromClient::KeepAlive
            | FromClient::Outcome { .. }
            | FromClient::Request { .. } => self.library_request(key, transport, library, message),
        }
    }

    fn library_hello(
        &mut self,
        key: Key,
        transport: &mut Transport,
        library: &mut Library,
        message: FromClient,
    ) -> Taken {
        let FromClient::Hello { group, name, machine, session, oldest_unanswered, .. } = &message else {
            return Taken::Leave;
        };
        if *group != self.options.group || machine.as_ref().is_some_and(|machine| *machine != M::identity()) {
            tracing::warn!(
                client = transport.peer(),
                name = name.chars().take(64).collect::<String>(),
                %group,
                ?machine,
                "client.refused it means another group or machine; check its configuration"
            );
            return Taken::Leave;
        }
        if let Some(session) = *session {
            self.reply.clear();
            match self.core.request(
                Request::Attach { session, connection: library.number },
                &mut self.reply,
                &mut self.outbox,
            ) {
                Disposition::Reply { .. } | Disposition::Deferred { .. } => library.session = Some(session),
                Disposition::Refused(Refused::Paused) => return Taken::Later(message),
                Disposition::Refused(Refused::NotPrimary) => {
                    self.redirect(transport);
                    return Taken::Leave;
                }
                Disposition::Refused(Refused::Reason { reason, hold }) => {
                    library.introduced = true;
                    library.refuse(transport, Some(hold), 0, reason);
                    self.waiting.push_back((hold, key));
                    return Taken::Done;
                }
            }
        }
        let Some(record) = self.core.record().cloned() else { return Taken::Leave };
        library.introduced = true;
        library.acknowledged = *oldest_unanswered;
        library.decoder.set_limit(self.options.max_request + FRAME_ROOM);
        let welcome = ToClient::Welcome { record: Box::new(record), max_request: self.options.max_request as u64 };
        encode_frame(&mut transport.output, Port::Client, &welcome);
        Taken::Done
    }

    fn library_request(
        &mut self,
        key: Key,
        transport: &mut Transport,
        library: &mut Library,
        message: FromClient,
    ) -> Taken {
        let sequence = match &message {
            FromClient::Request { sequence, .. } => *sequence,
            _ => 0,
        };
        if library.fenced {
            library.refuse(transport, None, sequence, Refusal::Fenced);
            return Taken::Done;
        }
        let request = match (&message, library.session) {
            (FromClient::Open { timeout_ms }, _) => {
                Request::OpenSession { timeout: timeout_ms.saturating_mul(1000), connection: library.number }
            }
            (_, None) => {
                library.refuse(transport, None, sequence, Refusal::NoSession);
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
        self.reply.clear();
        let disposition = self.core.request(request, &mut self.reply, &mut self.outbox);
        match disposition {
            Disposition::Reply { hold, at } => {
                self.counters.operations += 1;
                let Some(answer) = answer_to(&message, library, at, &self.reply) else { return Taken::Leave };
                library.held.push(hold, answer, |out| out.extend_from_slice(&self.reply));
                self.waiting.push_back((hold, key));
            }
            Disposition::Deferred { hold, at, work } => {
                self.counters.operations += 1;
                let ticket = self.next_ticket();
                library.held.defer(hold, Answer::Reply { sequence, at }, ticket);
                library.deferred = true;
                self.waiting.push_back((hold, key));
                self.workers.read(key, ticket, work);
            }
            Disposition::Refused(Refused::Paused) => {
                self.admission = Admission::Paused;
                return Taken::Later(message);
            }
            Disposition::Refused(Refused::NotPrimary) => {
                self.refresh_serving();
                library.held.clear();
                self.redirect(transport);
                return Taken::Leave;
            }
            Disposition::Refused(Refused::Reason { reason, hold }) => {
                library.refuse(transport, Some(hold), sequence, reason);
                self.waiting.push_back((hold, key));
            }
        }
        Taken::Done
    }

    /// Says who serves; the connection closes after it.
    pub(super) fn redirect(&self, transport: &mut Transport) {
        let record = self.core.record().cloned().map(Box::new);
        encode_frame(&mut transport.output, Port::Client, &ToClient::Redirect { record });
    }

    /// A client may know a newer record of this very group. It may also say so in error, and an epoch that was never
    /// granted would fence this replica for ever: the arbiters are asked, now and then.
    fn learn_from_client(&mut self, record: &cutover_arbiter::record::GroupRecord) {
        let news = self.core.record().is_some_and(|known| {
            known.group == record.group && known.group_id == record.group_id && known.epoch < record.epoch
        });
        if news && self.now.boot >= self.hinted_until {
            self.hinted_until = self.now.boot + HINTS;
            self.errand(Errand::Read(NO_TICKET));
        }
    }
}

/// What answers `message`, whose reply is `reply`.
fn answer_to(message: &FromClient, library: &mut Library, at: Position, reply: &[u8]) -> Option<Answer> {
    Some(match message {
        FromClient::Open { .. } => {
            let session = opened_session(reply)?;
            library.session = Some(session);
            Answer::Opened { session, at }
        }
        FromClient::KeepAlive => Answer::Alive,
        FromClient::Outcome { ticket, sequence } => Answer::Outcome { ticket: *ticket, sequence: *sequence },
        FromClient::Request { sequence, .. } => Answer::Reply { sequence: *sequence, at },
        FromClient::Hello { .. } | FromClient::Acknowledge { .. } => return None,
    })
}

fn next_message(library: &mut Library) -> Result<Option<FromClient>, FrameError> {
    match library.decoder.decode(&mut library.input)? {
        Some(body) => decode_body(&body).map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::Release;

    #[test]
    fn a_reply_that_no_frame_can_carry_is_told_as_executed() {
        let told = Outcome::Executed { reply: None };
        let reply = Answer::Reply { sequence: 7, at: Position::default() };
        let long = vec![b'x'; LONGEST_REPLY + 1];
        let expected = ToClient::OutcomeIs { ticket: 0, sequence: 7, outcome: told.clone() };
        assert_eq!(reply.message(&long, &Release::default()), expected);
        assert!(matches!(reply.message(&long[1..], &Release::default()), ToClient::Reply { .. }));
        let outcome = Answer::Outcome { ticket: 3, sequence: 7 };
        let kept = postcard::to_allocvec(&Outcome::Executed { reply: Some(long.into()) }).unwrap();
        let expected = ToClient::OutcomeIs { ticket: 3, sequence: 7, outcome: told };
        assert_eq!(outcome.message(&kept, &Release::default()), expected);
    }
}
