//! A connection without a session, as a Redis client has it: each operation is executed once per arrival.
//!
//! `T` says how the bytes of a part are to be written; the caller encodes them.

use bytes::BytesMut;
use cutover_arbiter::planted;

use super::Desk;
use super::held::Held;
use crate::machine::kv::reply::Reply;
use crate::machine::{DeferredRead, StateMachine};
use crate::protocol::client::Refusal;
use crate::replica::{Disposition, Hold, Origin, Refused, Release, Request};

/// What waits in a connection.
#[derive(Debug)]
pub struct Direct<T> {
    held: Held<T>,
    /// A read that another thread answers: nothing after it is taken.
    deferred: bool,
    tickets: u64,
}

/// What came of an operation.
pub enum Executed {
    /// Executed. Its reply waits; for this hold, unless it shares a part with the one before it.
    Held(Option<Hold>),
    /// Executed as far as it was to be here; the reply waits for this hold and for [`Direct::fill`].
    Elsewhere {
        /// When it may be released.
        hold: Hold,
        /// The slot.
        ticket: u64,
        /// Run it on another thread.
        work: DeferredRead,
    },
    /// Not executed; the words wait, for this hold unless they need none of their own.
    Refused(Option<Hold>),
    /// Not executed: this replica does not serve. The client was told.
    NotServing,
    /// Not now: it must be asked again.
    Later,
}

/// What becomes of a connection whose replica no longer serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// It has an executed, unreleased operation: it is closed without another byte.
    Close,
    /// It may go on.
    Keep,
}

impl<T> Default for Direct<T> {
    fn default() -> Self {
        Self { held: Held::default(), deferred: false, tickets: 0 }
    }
}

impl<T: PartialEq> Direct<T> {
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

    /// Bytes that wait, and something for every part.
    pub fn weight(&self) -> usize {
        self.held.weight()
    }

    /// Hands an operation to the core. `kind` is that of a part which `encode` wrote; `deferred` that of a neutral
    /// reply which another thread writes.
    pub fn execute<M: StateMachine>(
        &mut self,
        operation: &[u8],
        desk: Desk<'_, M>,
        (kind, deferred): (T, T),
        output: &mut BytesMut,
        encode: impl FnOnce(&[u8], &mut BytesMut),
    ) -> Executed {
        desk.reply.clear();
        let request = Request::Operation { origin: Origin::Direct, operation };
        match desk.core.request(request, desk.reply, desk.outbox) {
            Disposition::Reply { hold, .. } => {
                let own = self.held.join(hold, kind, |out| encode(desk.reply, out));
                Executed::Held(own.then_some(hold))
            }
            Disposition::Deferred { hold, work, .. } => {
                self.tickets += 1;
                self.deferred = true;
                self.held.defer(hold, deferred, self.tickets);
                Executed::Elsewhere { hold, ticket: self.tickets, work }
            }
            // Nobody without a session has anything unread.
            Disposition::Refused(Refused::Paused | Refused::Unread) => Executed::Later,
            Disposition::Refused(Refused::NotPrimary) => {
                desk.reply.clear();
                Reply(desk.reply).error("READONLY You can't write against a read only replica.");
                self.say(kind, output, |out| encode(desk.reply, out));
                Executed::NotServing
            }
            Disposition::Refused(Refused::Reason { reason, hold }) => {
                desk.reply.clear();
                match reason {
                    Refusal::NotEnoughReplicas { .. } => {
                        Reply(desk.reply).error("NOREPLICAS Not enough good replicas to write.");
                    }
                    other => Reply(desk.reply).error(&format!("ERR {other}")),
                }
                if hold == Hold::default() {
                    self.say(kind, output, |out| encode(desk.reply, out));
                    return Executed::Refused(None);
                }
                let own = self.held.join(hold, kind, |out| encode(desk.reply, out));
                Executed::Refused(own.then_some(hold))
            }
        }
    }

    /// Tells something that says nothing of the state: at once, unless something is still to be told before it.
    pub fn say(&mut self, kind: T, output: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
        if self.held.is_empty() { write(output) } else { self.held.follow(kind, write) }
    }

    /// Nothing after this moment is told before `hold` is covered.
    pub fn wait_for(&mut self, hold: Hold, kind: T) {
        self.held.push(hold, kind, |_| ());
    }

    /// Fills the slot of a read that another thread answered.
    pub fn fill(&mut self, ticket: u64, reply: Vec<u8>) {
        self.deferred = false;
        self.held.fill(ticket, reply);
    }

    /// Gives what is covered to `sink`, part by part.
    pub fn release(&mut self, release: &Release, sink: impl FnMut(&T, &[u8])) {
        self.held.release(release, sink);
    }

    /// The replica is no longer primary: what is held is never sent. Whether it was executed in the group's history
    /// nobody knows here, so a connection that is owed something hears nothing more; any word after it would say
    /// that it was not.
    pub fn deposed(&mut self) -> Parting {
        if self.owes() {
            self.held.clear();
            return if planted!("H7") { Parting::Keep } else { Parting::Close };
        }
        Parting::Keep
    }
}
