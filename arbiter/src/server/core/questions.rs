//! The questions that have no reply yet, and where each of them is.

use std::collections::BTreeMap;

use super::ConnectionId;
use crate::protocol::Question;
use crate::raft::{LogIndex, Nanos, NodeId, Term};

/// Questions open at once on one arbiter; further ones are told to retry.
const LIMIT: usize = 16 * 1024;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// A caller of this arbiter.
    Caller { connection: ConnectionId, id: u64 },
    /// Another arbiter, for a caller of its own; never passed on again.
    Peer { from: NodeId, ticket: u64 },
}

/// Where a question is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: nobody leads. It moves when somebody does.
    Parked,
    /// In this arbiter's Raft.
    Raft,
    /// With the leader.
    Forwarded,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) asker: Asker,
    pub(super) question: Question,
    pub(super) place: Place,
    /// How often it was sent somewhere, so that it cannot go round for ever.
    pub(super) moves: u32,
    pub(super) deadline: Nanos,
}

#[derive(Debug)]
pub(super) struct Questions {
    /// By ticket. Tickets rise and all questions have the same time, so the first one's deadline is the earliest.
    open: BTreeMap<u64, Open>,
    /// Proposals in the log of this arbiter: what is applied there tells their fate.
    proposed: BTreeMap<LogIndex, (Term, u64)>,
    last_ticket: u64,
}

impl Questions {
    /// No questions yet. `seed` is a random number of this life: tickets begin there, since the leader's reply to a
    /// question of an earlier life may arrive in this one, and must not be taken for the reply to another.
    pub(super) fn new(seed: u64) -> Self {
        // Half of the numbers are left to rise in.
        Self { open: BTreeMap::new(), proposed: BTreeMap::new(), last_ticket: seed >> 1 }
    }

    /// Takes a question in; `None` when there are too many.
    pub(super) fn add(&mut self, asker: Asker, question: Question, deadline: Nanos) -> Option<u64> {
        if self.open.len() >= LIMIT {
            return None;
        }
        self.last_ticket += 1;
        self.open.insert(self.last_ticket, Open { asker, question, place: Place::Parked, moves: 0, deadline });
        Some(self.last_ticket)
    }

    pub(super) fn get_mut(&mut self, ticket: u64) -> Option<&mut Open> {
        self.open.get_mut(&ticket)
    }

    /// True when the question is with the leader at present: only then is a reply to it of interest.
    pub(super) fn is_forwarded(&self, ticket: u64) -> bool {
        self.open.get(&ticket).is_some_and(|open| open.place == Place::Forwarded)
    }

    pub(super) fn remove(&mut self, ticket: u64) -> Option<Open> {
        self.open.remove(&ticket)
    }

    /// Notes where a proposal stands in the log.
    pub(super) fn proposed(&mut self, ticket: u64, index: LogIndex, term: Term) {
        self.proposed.insert(index, (term, ticket));
    }

    /// The proposal that stood at `index`, now that it is applied: with its term it is done, otherwise it never will.
    pub(super) fn applied(&mut self, index: LogIndex) -> Option<(Term, u64)> {
        self.proposed.remove(&index)
    }

    /// A snapshot was installed up to `index`: what happened to proposals at or below is unknown here.
    pub(super) fn jumped(&mut self, index: LogIndex) {
        self.proposed.retain(|at, _| *at > index);
    }

    pub(super) fn tickets(&self) -> Vec<u64> {
        self.open.keys().copied().collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        self.open.first_key_value().map(|(_, open)| open.deadline)
    }

    /// The ticket of a question whose time is over, if there is one.
    pub(super) fn overdue(&self, now: Nanos) -> Option<u64> {
        self.open.first_key_value().filter(|(_, open)| open.deadline <= now).map(|(ticket, _)| *ticket)
    }
}
