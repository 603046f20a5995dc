//! Why there is no order, in as few operations as possible.
//!
//! Leaving operations out of a history proves nothing: without its write, every read is of a value that nobody wrote.
//! So an operation is not left out, it is *disbelieved*: its outcome is taken to be unknown, which allows everything
//! that the history itself allows and more. A set of answers that is impossible whatever became of all other operations
//! is a proof. [`shortest`] looks for the shortest one in time: up to the first answer that has no explanation, as late
//! as possible from the front, and within these two without any answer that is not needed.

use std::fmt;
use std::sync::Arc;

use super::search::{Blocked, Found, search};
use super::timeline::Timeline;
use super::{Call, Stamp};

/// Operations of one object whose answers fit into no order, whatever became of all its other operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Of which object.
    pub object: Arc<str>,
    /// The operations, in the order in which they began.
    pub calls: Vec<Call>,
    /// True when each of them is needed: without any one of these answers there is an order.
    pub minimal: bool,
    /// When the first of them began.
    pub from: Stamp,
    /// When the last of them was answered.
    pub until: Stamp,
    /// Other operations of that object that had begun by then.
    pub others: usize,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Window { object, calls, from, until, others, minimal } = self;
        let minimal = if *minimal { "" } else { " (perhaps not all of them are needed)" };
        write!(
            f,
            "{object}: the answers of {} operations between {from} and {until}{minimal} fit into no order, whatever \
             became of {others} others",
            calls.len()
        )?;
        calls.iter().try_for_each(|call| write!(f, "\n  {call}"))
    }
}

/// Of the bound given, the part that one attempt may spend: most are cheap, and one that is not proves nothing.
const ATTEMPTS: u64 = 50;

/// The shortest window of a history that has no order. `blocked` is where the search stopped: as a rule the window's end.
pub(super) fn shortest(calls: &[&Call], blocked: Blocked, bound: u64) -> Window {
    let mut believed: Vec<usize> = (0..calls.len()).filter(|number| calls[*number].outcome.at().is_some()).collect();
    believed.sort_by_key(|number| (ended(calls[*number]), *number));
    let mut proof = Proof { calls, believed, bound, left: bound, exhausted: false };
    proof.end_early(blocked);
    proof.begin_late();
    proof.thin_out();
    proof.window()
}

fn ended(call: &Call) -> Stamp {
    call.outcome.at().unwrap_or(Stamp::MAX).max(call.invoked)
}

struct Proof<'a> {
    calls: &'a [&'a Call],
    /// Those whose answers are believed, by the time of the answer. They alone have no order.
    believed: Vec<usize>,
    bound: u64,
    left: u64,
    exhausted: bool,
}

impl Proof<'_> {
    /// True when believing only these is a proof.
    fn stands_with(&mut self, believed: Vec<usize>) -> bool {
        if self.left == 0 {
            self.exhausted = true;
            return false;
        }
        let mut sorted = believed;
        sorted.sort_unstable();
        // What began after the last of these answers has no bearing on them.
        let end = sorted.iter().map(|number| ended(self.calls[*number])).max().unwrap_or(0);
        let begun: Vec<usize> = (0..self.calls.len()).filter(|number| self.calls[*number].invoked <= end).collect();
        let calls: Vec<&Call> = begun.iter().map(|number| self.calls[*number]).collect();
        let timeline = Timeline::believing(&calls, |at| sorted.binary_search(&begun[at]).is_ok());
        let (found, cost) = search(&timeline, (self.bound / ATTEMPTS).min(self.left));
        self.left = self.left.saturating_sub(cost);
        self.exhausted |= found == Found::TooMuch;
        matches!(found, Found::None(_))
    }

    /// Disbelieves all answers after the first that has no explanation. The search stops there, unless what it knew of
    /// a growing list let it stop earlier.
    fn end_early(&mut self, blocked: Blocked) {
        let stop = self.believed.iter().position(|number| *number == blocked.call).expect("it was answered") + 1;
        let (mut falls, mut stands) = (stop - 1, self.believed.len());
        if self.stands_with(self.believed[..stop].to_vec()) {
            stands = stop;
        }
        while stands - falls > 1 {
            let middle = falls + (stands - falls) / 2;
            if self.stands_with(self.believed[..middle].to_vec()) {
                stands = middle;
            } else {
                falls = middle;
            }
        }
        self.believed.truncate(stands);
    }

    /// Disbelieves as many of the earliest answers as possible. Disbelieving more never makes a proof, so the place is
    /// found by doubling from the end and then halving; few answers are soon judged, many beside many unknown ones not.
    fn begin_late(&mut self) {
        let all = self.believed.len();
        let (mut falls, mut stands) = (0, all);
        let mut last = 1;
        while last < all {
            if self.stands_with(self.believed[all - last..].to_vec()) {
                stands = last;
                break;
            }
            falls = last;
            last *= 2;
        }
        while stands - falls > 1 {
            let middle = falls + (stands - falls) / 2;
            if self.stands_with(self.believed[all - middle..].to_vec()) {
                stands = middle;
            } else {
                falls = middle;
            }
        }
        self.believed.drain(..all - stands);
    }

    /// Disbelieves every answer that is not needed: many at once while that works, one by one in the end.
    fn thin_out(&mut self) {
        let mut part = self.believed.len() / 2;
        while part > 0 {
            // The last round tries each answer that is left by itself. It alone shows whether all are needed.
            self.exhausted = false;
            let mut from = 0;
            while from < self.believed.len() {
                let until = (from + part).min(self.believed.len());
                let mut fewer = self.believed[..from].to_vec();
                fewer.extend_from_slice(&self.believed[until..]);
                if self.stands_with(fewer.clone()) {
                    self.believed = fewer;
                } else {
                    from = until;
                }
            }
            part /= 2;
        }
    }

    fn window(self) -> Window {
        let mut calls: Vec<Call> = self.believed.iter().map(|number| self.calls[*number].clone()).collect();
        calls.sort_by_key(|call| (call.invoked, ended(call)));
        let until = calls.iter().map(ended).max().unwrap_or(0);
        Window {
            object: Arc::clone(&self.calls[0].object),
            from: calls.iter().map(|call| call.invoked).min().unwrap_or(0),
            until,
            others: self.calls.iter().filter(|call| call.invoked <= until).count() - calls.len(),
            minimal: !self.exhausted,
            calls,
        }
    }
}
