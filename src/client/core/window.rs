//! The sequences of one session that were sent and are not settled, in order and without gaps.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Connection, Moment, Ticket};
use crate::protocol::client::{Refusal, Sequence};

/// An operation whose caller waits.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) ticket: Ticket,
    pub(super) body: Bytes,
    pub(super) write: bool,
    pub(super) deadline: Moment,
    pub(super) trail: Trail,
}

/// Which connections carried an operation.
#[derive(Debug, Clone, Default)]
pub(super) struct Trail {
    /// Connections that carried it and did not say that it was not executed.
    pub(super) unaccounted: u32,
    /// The newest connection that carried it.
    pub(super) carrier: Connection,
    /// The primary's tenure in which that was.
    pub(super) tenure: u64,
    /// That connection ended with a redirect: the replica lived and gave its requests back.
    pub(super) given_back: bool,
    /// How often a primary was lost that had it.
    pub(super) cut_overs: u8,
    /// The newest refusal.
    pub(super) refusal: Option<Refusal>,
}

/// A place in the window.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// The caller's ticket; rises with the sequence.
    pub(super) ticket: Ticket,
    pub(super) state: State,
}

/// What is known of a sequence.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// Its caller waits; it is resent on every new connection.
    Live(Operation),
    /// Its caller was told that the outcome is unknown. Never sent again; asked for instead.
    GivenUp {
        /// The newest connection on which its outcome was asked for.
        asked: Option<Connection>,
    },
    /// Answered, or certain never to be executed.
    Settled,
}

/// The window: `base` is the lowest unanswered sequence, and every request announces it.
#[derive(Debug, Clone)]
pub(super) struct Window {
    base: Sequence,
    slots: VecDeque<Slot>,
}

impl Default for Window {
    fn default() -> Self {
        Self { base: 1, slots: VecDeque::new() }
    }
}

impl Window {
    /// The lowest unanswered sequence; the next new one when all are answered.
    pub(super) fn base(&self) -> Sequence {
        self.base
    }

    /// The sequence of the next operation.
    pub(super) fn next(&self) -> Sequence {
        self.base + self.slots.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Gives `operation` the next sequence.
    pub(super) fn push(&mut self, operation: Operation) -> Sequence {
        let sequence = self.next();
        debug_assert!(self.slots.back().is_none_or(|last| last.ticket < operation.ticket), "tickets rise");
        self.slots.push_back(Slot { ticket: operation.ticket, state: State::Live(operation) });
        sequence
    }

    fn position(&self, sequence: Sequence) -> Option<usize> {
        usize::try_from(sequence.checked_sub(self.base)?).ok().filter(|position| *position < self.slots.len())
    }

    pub(super) fn get_mut(&mut self, sequence: Sequence) -> Option<&mut Slot> {
        let position = self.position(sequence)?;
        self.slots.get_mut(position)
    }

    /// The sequence that belongs to `ticket`.
    pub(super) fn sequence_of(&self, ticket: Ticket) -> Option<Sequence> {
        let position = self.slots.partition_point(|slot| slot.ticket < ticket);
        self.slots.get(position).filter(|slot| slot.ticket == ticket).map(|_| self.base + position as u64)
    }

    /// Takes what was known of `sequence` and settles it; the base moves past all that is settled.
    pub(super) fn settle(&mut self, sequence: Sequence) -> Option<State> {
        let was = std::mem::replace(&mut self.get_mut(sequence)?.state, State::Settled);
        while self.slots.front().is_some_and(|slot| matches!(slot.state, State::Settled)) {
            self.slots.pop_front();
            self.base += 1;
        }
        Some(was)
    }

    /// All places with their sequences, oldest first.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Sequence, &mut Slot)> {
        (self.base..).zip(&mut self.slots)
    }

    /// Ends the session's window: everything in it, oldest first.
    pub(super) fn drain(&mut self) -> Vec<(Sequence, Slot)> {
        let base = self.base;
        let slots = std::mem::take(self).slots;
        (base..).zip(slots).collect()
    }
}
