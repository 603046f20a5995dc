//! A connection of the client library: its handshake, its session, and the order of what it is refused.
//!
//! Its first message is `Hello`; nothing else is taken before. A replica that refuses one request refuses all later
//! ones of the connection, so that nothing overtakes it: the library connects again and resends from its oldest
//! unanswered sequence. A newer connection of a session fences the older ones, which the core sees by their numbers.

use bytes::Bytes;
use cutover_arbiter::record::{GroupName, GroupRecord, Position};

use super::Desk;
use super::held::Held;
use crate::machine::{DeferredRead, Identity, StateMachine};
use crate::protocol::SessionId;
use crate::protocol::client::{FromClient, LONGEST_REPLY, Outcome, Receipt, Refusal, Sequence, ToClient};
use crate::replica::{
    Admission, Disposition, Hold, Origin, Refused, Release, Replica, Request, decoded_outcome, opened_session,
};

/// What is known of one connection.
#[derive(Debug)]
pub struct Library {
    /// Replies that wait.
    held: Held<Answer>,
    /// Number of the connection; newer ones of a session fence older ones.
    number: u64,
    introduced: bool,
    session: Option<SessionId>,
    /// Replies below this have arrived.
    acknowledged: Sequence,
    /// One request was refused, so all later ones are.
    fenced: bool,
    /// A read that another thread answers is not released yet: nothing after it is taken. No entry could carry its
    /// reply before it is there, and after a cut-over it would be run again behind what came after it.
    deferred: bool,
    tickets: u64,
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

/// What a client must agree with.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The group that this replica belongs to.
    pub group: &'a GroupName,
    /// Largest request body accepted, in bytes.
    pub max_request: usize,
}

/// What came of one message.
pub enum Taken {
    /// Nothing is to be done now.
    Done,
    /// The handshake is over: tell this, and take requests of the size that it names.
    Welcomed(ToClient),
    /// Tell this at once: nothing before it waits.
    Tell(ToClient),
    /// Executed; its reply waits for this hold.
    Executed(Hold),
    /// Executed as far as it was to be here; the reply waits for this hold and for [`Library::fill`].
    Elsewhere {
        /// When it may be released.
        hold: Hold,
        /// The slot.
        ticket: u64,
        /// Run it on another thread.
        work: DeferredRead,
    },
    /// Not executed; the words wait for this hold.
    Refused(Hold),
    /// Not now: here it is again.
    Later(FromClient),
    /// Not before something of this connection is released; nobody else need wait. Here it is again.
    Behind(FromClient),
    /// The client means another group or machine: the connection ends.
    Stranger {
        /// Who it says it is.
        name: String,
        /// The group that it means.
        group: GroupName,
        /// The machine that it means.
        machine: Option<Identity>,
    },
    /// The connection ends after this word, if there is one, and after what is told already.
    Leave(Option<ToClient>),
}

impl Library {
    /// A connection before its first message. Numbers rise with every connection that a replica accepts.
    pub fn new(number: u64) -> Self {
        Self {
            held: Held::default(),
            number,
            introduced: false,
            session: None,
            acknowledged: 0,
            fenced: false,
            deferred: false,
            tickets: 0,
        }
    }

    /// True once it has said who it is.
    pub fn introduced(&self) -> bool {
        self.introduced
    }

    /// The session that it goes on with.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// True when something was asked and is not answered.
    pub fn owes(&self) -> bool {
        !self.held.is_empty()
    }

    /// True while nothing more is taken from the connection, since a read of it is answered elsewhere.
    pub fn is_blocked(&self) -> bool {
        self.deferred
    }

    /// How many parts wait.
    pub fn parts(&self) -> usize {
        self.held.parts()
    }

    /// What the last part answers.
    pub fn newest(&self) -> Option<&Answer> {
        self.held.newest()
    }

    /// Bytes that wait, and something for every part.
    pub fn weight(&self) -> usize {
        self.held.weight()
    }

    /// Takes one message.
    pub fn take<M: StateMachine>(&mut self, message: FromClient, terms: Terms<'_>, desk: Desk<'_, M>) -> Taken {
        match desk.admission {
            Admission::Paused => return Taken::Later(message),
            Admission::Closed => return Taken::Leave(Some(redirect(desk.core))),
            Admission::Open => {}
        }
        match message {
            FromClient::Hello { .. } if self.introduced => Taken::Leave(None),
            FromClient::Hello { .. } => self.hello(message, terms, desk),
            _ if !self.introduced => Taken::Leave(None),
            FromClient::Acknowledge { below } => {
                self.acknowledged = self.acknowledged.max(below);
                if let Some(session) = self.session {
                    desk.core.acknowledged(session, below);
                }
                Taken::Done
            }
            FromClient::Open { .. }
            | FromClient::KeepAlive
            | FromClient::Outcome { .. }
            | FromClient::Request { .. } => self.request(message, desk),
        }
    }

    /// Fills the slot of a read that another thread answered. A session's reply is kept like that of any other read.
    pub fn fill<M: StateMachine>(&mut self, ticket: u64, reply: Vec<u8>, core: &mut Replica<M>) {
        if let (Some(Answer::Reply { sequence, .. }), Some(session)) = (self.held.slot(ticket), self.session) {
            core.answered_elsewhere(session, *sequence, self.number, &reply);
        }
        self.held.fill(ticket, reply);
    }

    /// Gives what is covered to `sink`, part by part; [`Answer::message`] makes a message of it.
    pub fn release(&mut self, release: &Release, sink: impl FnMut(&Answer, &[u8])) {
        self.held.release(release, sink);
        self.deferred &= !self.held.is_empty();
    }

    /// The replica is no longer primary: what is held is never sent. The client asks again elsewhere, under its
    /// sequence; the connection ends after this word.
    pub fn deposed<M: StateMachine>(&mut self, core: &Replica<M>) -> ToClient {
        self.held.clear();
        redirect(core)
    }

    fn hello<M: StateMachine>(&mut self, message: FromClient, terms: Terms<'_>, desk: Desk<'_, M>) -> Taken {
        let (session, oldest_unanswered) = match &message {
            FromClient::Hello { group, machine, session, oldest_unanswered, .. }
                if group == terms.group && machine.as_ref().is_none_or(|machine| *machine == M::identity()) =>
            {
                (*session, *oldest_unanswered)
            }
            FromClient::Hello { group, machine, name, .. } => {
                let name = name.chars().take(64).collect();
                return Taken::Stranger { name, group: group.clone(), machine: machine.clone() };
            }
            _ => return Taken::Leave(None),
        };
        if session.is_some() && is_of_an_earlier_group(&message, desk.core.record()) {
            // Its name may be another's here. What this replica was told says nothing of the state: no hold.
            self.introduced = true;
            return self.refuse(Hold::default(), 0, Refusal::SessionExpired);
        }
        if let Some(session) = session {
            desk.reply.clear();
            let request = Request::Attach { session, connection: self.number };
            match desk.core.request(request, desk.reply, desk.outbox) {
                Disposition::Reply { .. } | Disposition::Deferred { .. } => self.session = Some(session),
                Disposition::Refused(Refused::Paused | Refused::Unread) => return Taken::Later(message),
                Disposition::Refused(Refused::NotPrimary) => return Taken::Leave(Some(redirect(desk.core))),
                Disposition::Refused(Refused::Reason { reason, hold }) => {
                    self.introduced = true;
                    return self.refuse(hold, 0, reason);
                }
            }
        }
        let Some(record) = desk.core.record().cloned() else { return Taken::Leave(None) };
        self.introduced = true;
        self.acknowledged = oldest_unanswered;
        let max_request = terms.max_request as u64;
        Taken::Welcomed(ToClient::Welcome { record: Box::new(record), max_request })
    }

    fn request<M: StateMachine>(&mut self, message: FromClient, desk: Desk<'_, M>) -> Taken {
        let sequence = match &message {
            FromClient::Request { sequence, .. } => *sequence,
            _ => 0,
        };
        if self.fenced {
            return self.refuse(Hold::default(), sequence, Refusal::Fenced);
        }
        let request = match (&message, self.session) {
            (FromClient::Open { timeout_ms }, _) => {
                Request::OpenSession { timeout: timeout_ms.saturating_mul(1000), connection: self.number }
            }
            (_, None) => return self.refuse(Hold::default(), sequence, Refusal::NoSession),
            (FromClient::KeepAlive, Some(session)) => Request::KeepAlive { session },
            (FromClient::Outcome { sequence, .. }, Some(session)) => {
                Request::Outcome { session, sequence: *sequence, lowest_unanswered: self.acknowledged }
            }
            (FromClient::Request { sequence, lowest_unanswered, operation, .. }, Some(session)) => {
                self.acknowledged = self.acknowledged.max(*lowest_unanswered);
                Request::Operation {
                    origin: Origin::Session {
                        session,
                        sequence: *sequence,
                        lowest_unanswered: self.acknowledged,
                        connection: self.number,
                    },
                    operation,
                }
            }
            (FromClient::Hello { .. } | FromClient::Acknowledge { .. }, _) => return Taken::Leave(None),
        };
        desk.reply.clear();
        match desk.core.request(request, desk.reply, desk.outbox) {
            Disposition::Reply { hold, at } => {
                let Some(answer) = self.answer_to(&message, at, desk.reply) else { return Taken::Leave(None) };
                self.held.push(hold, answer, |out| out.extend_from_slice(desk.reply));
                Taken::Executed(hold)
            }
            Disposition::Deferred { hold, at, work } => {
                self.tickets += 1;
                self.deferred = true;
                self.held.defer(hold, Answer::Reply { sequence, at }, self.tickets);
                Taken::Elsewhere { hold, ticket: self.tickets, work }
            }
            Disposition::Refused(Refused::Paused) => Taken::Later(message),
            // What was read on an older connection was forgotten when this one came: the unread is of this one.
            Disposition::Refused(Refused::Unread) if self.owes() => Taken::Behind(message),
            Disposition::Refused(Refused::Unread) => Taken::Later(message),
            Disposition::Refused(Refused::NotPrimary) => Taken::Leave(Some(self.deposed(desk.core))),
            Disposition::Refused(Refused::Reason { reason, hold }) => self.refuse(hold, sequence, reason),
        }
    }

    /// Nothing passes an earlier part of the connection. A refusal that says nothing of the state waits for nothing
    /// else: least of all for the release of what others asked.
    fn refuse(&mut self, hold: Hold, sequence: Sequence, reason: Refusal) -> Taken {
        self.fenced = true;
        if hold != Hold::default() {
            self.held.push(hold, Answer::Refused { sequence, reason }, |_| ());
            return Taken::Refused(hold);
        }
        if self.held.is_empty() {
            return Taken::Tell(ToClient::Refused { sequence, reason });
        }
        self.held.push(self.held.last_hold(), Answer::Refused { sequence, reason }, |_| ());
        Taken::Done
    }

    /// What answers `message`, whose reply is `reply`.
    fn answer_to(&mut self, message: &FromClient, at: Position, reply: &[u8]) -> Option<Answer> {
        Some(match message {
            FromClient::Open { .. } => {
                let session = opened_session(reply)?;
                self.session = Some(session);
                Answer::Opened { session, at }
            }
            FromClient::KeepAlive => Answer::Alive,
            FromClient::Outcome { ticket, sequence } => Answer::Outcome { ticket: *ticket, sequence: *sequence },
            FromClient::Request { sequence, .. } => Answer::Reply { sequence: *sequence, at },
            FromClient::Hello { .. } | FromClient::Acknowledge { .. } => return None,
        })
    }
}

impl Answer {
    /// As it goes to the client.
    pub fn message(&self, bytes: &[u8], release: &Release) -> ToClient {
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

/// True when the client that says `hello` knows a group of this name with another identity: all that it has was made
/// there, its session among it.
fn is_of_an_earlier_group(hello: &FromClient, known: Option<&GroupRecord>) -> bool {
    let FromClient::Hello { record: Some(told), .. } = hello else { return false };
    known.is_some_and(|known| known.group_id != told.group_id)
}

/// Says who serves; the connection closes after it.
fn redirect<M: StateMachine>(core: &Replica<M>) -> ToClient {
    ToClient::Redirect { record: core.record().cloned().map(Box::new) }
}

/// True when a client tells of a newer record of this very group than the replica knows. It may say so in error, and
/// an epoch that was never granted would fence the replica for ever: it is a reason to ask the arbiters, no more.
pub fn is_news(known: Option<&GroupRecord>, told: &GroupRecord) -> bool {
    known.is_some_and(|known| known.group == told.group && known.group_id == told.group_id && known.epoch < told.epoch)
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
