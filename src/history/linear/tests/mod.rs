//! The checker against histories whose verdict is known, against a checker that tries everything, and against
//! histories that are linearisable by the way they were made.

mod brute;
mod good;
mod known;
mod model;
mod random;

use super::*;

/// A history being written down: each line is an operation with the interval it took.
#[derive(Default)]
pub(super) struct Script {
    pub(super) calls: Vec<Call>,
}

impl Script {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Client `client` asked at `from` and was answered at `to`.
    pub(super) fn told(self, client: u64, from: Stamp, to: Stamp, ask: Ask, answer: Answer) -> Self {
        self.call(client, from, ask, Outcome::Answered { at: to, answer })
    }

    /// Client `client` asked at `from` and never learnt what became of it.
    pub(super) fn unknown(self, client: u64, from: Stamp, ask: Ask) -> Self {
        self.call(client, from, ask, Outcome::Unknown)
    }

    pub(super) fn call(mut self, client: u64, invoked: Stamp, ask: Ask, outcome: Outcome) -> Self {
        self.calls.push(Call { client, object: Arc::from("x"), ask, invoked, outcome });
        self
    }

    pub(super) fn is_linearisable(&self) -> bool {
        match check(&self.calls, BOUND) {
            Verdict::Yes => true,
            Verdict::No(window) => {
                assert!(window.minimal && !window.calls.is_empty(), "{window}");
                false
            }
            undecided @ Verdict::Undecided { .. } => panic!("{undecided}"),
        }
    }

    /// The clients of the operations in the shortest offending window.
    pub(super) fn offenders(&self) -> Vec<u64> {
        match check(&self.calls, BOUND) {
            Verdict::No(window) => window.calls.iter().map(|call| call.client).collect(),
            other => panic!("{other}"),
        }
    }
}
