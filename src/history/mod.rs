//! Recorded histories: what clients asked of a group, when, and what they were told, as plain data; and the checkers
//! that judge them.
//!
//! The objects are chosen so that a violation cannot hide. A *counter* answers every addition with its new value, a
//! *list* answers every append with its new length and keeps unique elements: either way an answered addition names
//! the place where it stands for ever, and a read (value, length) names how much it saw. [`check`] compares these
//! with each other, with real time, and with what stands there in the end. [`gaps`] says how long nobody was answered.
//! [`linear`] judges any history of registers, counters and lists: is there an order in which every answer holds?
//!
//! Deliberately not here: any clock, any client, any printing. A [`Stamp`] comes from the recorder, who reads one
//! clock for all clients. The simulator and `cutover torture` record the same thing.

pub mod check;
pub mod gaps;
pub mod linear;

pub use check::{Kind, Offence, Verdict, check};
pub use gaps::{Gap, Gaps};

/// A moment, in nanoseconds since the recording began, by one clock for all clients. It orders two operations only
/// when one ended strictly before the other began.
pub type Stamp = u64;

/// An element of a list, unique within its list.
pub type Element = u32;

/// What was asked of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// One more: the counter is incremented. Answered with the value after it.
    Increment,
    /// One more: this element goes to the list's end. Answered with the length after it.
    Append(Element),
    /// Reads the counter's value or the list's length.
    Look,
    /// Reads the list's last element; `seen` is that element.
    LookAtEnd,
}

impl Action {
    /// True when the action adds to the object.
    pub fn adds(self) -> bool {
        matches!(self, Action::Increment | Action::Append(_))
    }
}

/// How an operation ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was answered.
    Answered {
        /// When.
        at: Stamp,
        /// The number in the answer: a value, a length, or an element. [`Action::LookAtEnd`] of an empty list is
        /// recorded as a [`Action::Look`] that saw 0.
        seen: u32,
    },
    /// Nobody knows: it may have been executed, once, at any time after it began, and still may.
    Unknown,
}

/// One operation of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Which client.
    pub client: u16,
    /// What it asked.
    pub action: Action,
    /// When it began to ask.
    pub invoked: Stamp,
    /// How it ended.
    pub ending: Ending,
}

/// Everything that was done to one object. Operations that are known never to have been executed are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The object's name: its key.
    pub object: String,
    /// In any order.
    pub operations: Vec<Operation>,
}

impl History {
    /// Nothing was done yet.
    pub fn new(object: impl Into<String>) -> Self {
        Self { object: object.into(), operations: Vec::new() }
    }

    /// Additions that were answered.
    pub fn acknowledged(&self) -> u64 {
        self.additions().filter(|operation| operation.ending != Ending::Unknown).count() as u64
    }

    /// Additions of which nobody knows.
    pub fn unknown(&self) -> u64 {
        self.additions().filter(|operation| operation.ending == Ending::Unknown).count() as u64
    }

    fn additions(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter().filter(|operation| operation.action.adds())
    }
}

/// What stands there in the end, read when nobody adds any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadBack {
    /// The counter's value.
    Counter(u64),
    /// The list's elements; `None` is one that nobody can have written.
    List(Vec<Option<Element>>),
}
