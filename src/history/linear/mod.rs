//! Is a recorded history linearisable? That is: is there one order of its operations, each at a moment between its
//! beginning and its answer, in which every answer is what the object would have said?
//!
//! The search is just-in-time linearisation (Lowe, *Testing for linearizability*, 2017, section 4) over the depth-first
//! search with memory of Wing and Gong (1993) as Lowe amended it: walk along the answers in the order in which they
//! came, and put operations into the order only when the next answer asks for it. Objects are judged one by one, which
//! loses nothing (Herlihy and Wing 1990, theorem 1; Horn and Kroening 2015, *P-compositionality*).
//!
//! An operation whose outcome is unknown stays open for ever: it may take effect at any moment after it began, however
//! late, or never. Many unknown operations make a naive search explode; four observations keep it small, each of them
//! exact:
//!
//! - a configuration that has spent fewer unknown operations can do whatever one that has spent more of them can, so
//!   only the smallest are remembered;
//! - unknown operations that ask the same are interchangeable, so they are counted, not named;
//! - values that no answer names are interchangeable (`timeline`);
//! - whatever only looks is put into the order as soon as its answer fits, for that hinders nothing.
//!
//! | file | what |
//! |---|---|
//! | `object` | what an object does, one operation after the other |
//! | `timeline` | a history as the search walks along it |
//! | `search` | the search, with a bound on what it remembers, without recursion |
//! | `window` | the few operations that show that there is no such order |
//!
//! [`check`] is deterministic: no clock, no randomness, no unordered map. Deliberately not here: reading histories from
//! files, and transactions over several objects.

mod object;
mod search;
mod timeline;
mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Stamp;
pub use window::Window;

/// What registers, counters and lists hold.
pub type Value = i64;

/// The bound for whoever has no other: some hundred megabytes and seconds per object at the very worst. A history whose
/// answers tell the state (counters, lists with lengths) needs next to nothing of it.
pub const BOUND: u64 = 1_000_000;

/// What a client asked of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Reads a register: [`Answer::Value`].
    Read,
    /// Sets a register, whatever was there: [`Answer::Done`].
    Write(Value),
    /// Sets a register if it holds what is expected (`None`: nothing): [`Answer::Swapped`].
    CompareAndSet {
        /// What must be there.
        expected: Option<Value>,
        /// What is there afterwards.
        new: Value,
    },
    /// Removes the object, whatever its kind: [`Answer::Count`], 1 if there was one.
    Remove,
    /// Adds to a counter: [`Answer::Count`], the value after it.
    Add(Value),
    /// Reads a counter, 0 if there is none: [`Answer::Count`].
    Total,
    /// Puts an element at a list's end: [`Answer::Count`], the length after it.
    Append(Value),
    /// Puts an element at a list's front: [`Answer::Count`], the length after it.
    Prepend(Value),
    /// Takes a list's first element: [`Answer::Value`].
    PopFirst,
    /// Takes a list's last element: [`Answer::Value`].
    PopLast,
    /// Reads a whole list: [`Answer::Elements`].
    ReadAll,
    /// Reads a list's length: [`Answer::Count`].
    Length,
    /// Reads a list's last element: [`Answer::Value`].
    Last,
}

impl Ask {
    /// True when it changes nothing in any state.
    pub fn looks(self) -> bool {
        matches!(self, Ask::Read | Ask::Total | Ask::ReadAll | Ask::Length | Ask::Last)
    }
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// A value, or that there is none.
    Value(Option<Value>),
    /// A number of things, or a counter's value.
    Count(Value),
    /// Whether the comparison held and the value was set.
    Swapped(bool),
    /// The elements of a list, first to last.
    Elements(Vec<Value>),
}

/// How an operation ended for its client. Operations that are known never to have been executed have no place in a
/// history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered {
        /// When.
        at: Stamp,
        /// With what.
        answer: Answer,
    },
    /// Its client learnt that it was executed, but not what came of it.
    Executed {
        /// When the client learnt it.
        at: Stamp,
    },
    /// Nobody knows: it may have taken effect at any moment after it began, may still, or never will.
    Unknown,
}

impl Outcome {
    /// When the operation had certainly taken effect.
    pub fn at(&self) -> Option<Stamp> {
        match self {
            Outcome::Answered { at, .. } | Outcome::Executed { at } => Some(*at),
            Outcome::Unknown => None,
        }
    }

    /// What was told.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Outcome::Answered { answer, .. } => Some(answer),
            Outcome::Executed { .. } | Outcome::Unknown => None,
        }
    }
}

/// One operation of one client.
///
/// Of two operations one stands before the other in every order only if it ended *strictly* before the other began. A
/// recorder whose clock stands still between an answer and the next request therefore loses that order: number the
/// events rather than stamp them with a coarse clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Whose.
    pub client: u64,
    /// Of which object.
    pub object: Arc<str>,
    /// What it asked.
    pub ask: Ask,
    /// When it began.
    pub invoked: Stamp,
    /// How it ended. One that ended before it began is taken to have ended as it began.
    pub outcome: Outcome,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { client, object, ask, invoked, outcome } = self;
        write!(f, "client {client}: {object}: {ask:?}, asked at {invoked}, ")?;
        match outcome {
            Outcome::Answered { at, answer } => write!(f, "answered {answer:?} at {at}"),
            Outcome::Executed { at } => write!(f, "known at {at} to be executed"),
            Outcome::Unknown => write!(f, "outcome unknown"),
        }
    }
}

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order for every object.
    Yes,
    /// For one object there is none.
    No(Window),
    /// The bound was reached before there was an answer for this object; for no other was it *no*.
    Undecided {
        /// Which object.
        object: Arc<str>,
        /// The bound that was reached.
        bound: u64,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Yes => write!(f, "yes"),
            Verdict::No(window) => write!(f, "no: {window}"),
            Verdict::Undecided { object, bound } => {
                write!(f, "undecided: {object}: no answer within {bound} remembered configurations")
            }
        }
    }
}

/// Judges a history: calls on any number of objects, in any order.
///
/// `bound` limits what the search of one object may remember, in configurations (a position in the history, a state,
/// and the open operations that are in the order already), beyond a few for each call; and its time along with it. Of several objects without a
/// linearisation, the one at which the search stopped first is shown.
pub fn check(calls: &[Call], bound: u64) -> Verdict {
    let mut objects: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        objects.entry(&call.object).or_default().push(call);
    }
    let mut undecided = None;
    let mut first: Option<(Stamp, &Vec<&Call>, search::Blocked)> = None;
    for calls in objects.values() {
        match search::search(&timeline::Timeline::of(calls), bound).0 {
            search::Found::Order => {}
            search::Found::None(blocked) => {
                let at = calls[blocked.call].outcome.at().unwrap_or(Stamp::MAX);
                if first.as_ref().is_none_or(|(earliest, ..)| at < *earliest) {
                    first = Some((at, calls, blocked));
                }
            }
            search::Found::TooMuch => {
                undecided.get_or_insert_with(|| Verdict::Undecided { object: Arc::clone(&calls[0].object), bound });
            }
        }
    }
    match first {
        Some((_, calls, blocked)) => Verdict::No(window::shortest(calls, blocked, bound)),
        None => undecided.unwrap_or(Verdict::Yes),
    }
}
