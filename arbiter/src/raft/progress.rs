//! What a leader knows of one follower's log, and how fast it may send.
//!
//! ```text
//!             accepted                        accepted at or above the log's first index
//!   Probe ----------------> Replicate        <------------------------------- Snapshot
//!     ^  <---------------- conflict                                               ^
//!     |                                                                           |
//!     +---- the entry to send is compacted away (from Probe and Replicate) -------+
//! ```
//!
//! Probe: one append at a time, repeated by heartbeats. Replicate: optimistic, within a window. Snapshot: the snapshot
//! is on its way; heartbeats go on but ask nothing of the follower's log.

use std::collections::VecDeque;

use super::config::MAX_INFLIGHT_MESSAGES;
use super::{LogIndex, Nanos};

/// How a follower is being sent to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pace {
    /// Looking for the place where the logs meet.
    Probe(Probe),
    /// Sending ahead of the acknowledgements.
    Replicate(Window),
    /// Waiting for a snapshot to arrive.
    Snapshot {
        /// Of the snapshot.
        index: LogIndex,
        /// When to send it again.
        resend_at: Nanos,
    },
}

/// Whether the one append of a probe is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Probe {
    /// Nothing is out.
    Ready,
    /// Wait for its answer or the next heartbeat.
    Sent,
}

/// Appends that are out, oldest first: last index and bytes of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Window {
    out: VecDeque<(LogIndex, usize)>,
    bytes: usize,
}

impl Window {
    /// Whether one more append may go out.
    pub(super) fn is_open(&self, most_bytes: usize) -> bool {
        self.out.len() < MAX_INFLIGHT_MESSAGES && self.bytes < most_bytes
    }

    /// An append went out.
    fn add(&mut self, last: LogIndex, bytes: usize) {
        self.out.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn free_to(&mut self, matched: LogIndex) {
        while let Some(&(last, bytes)) = self.out.front()
            && last <= matched
        {
            self.out.pop_front();
            self.bytes -= bytes;
        }
    }
}

/// One follower, as its leader sees it.
#[derive(Clone, Debug, Hash)]
pub(super) struct Progress {
    /// Durably equal up to here; never moves back.
    pub(super) matched: LogIndex,
    /// What to send next; always above `matched`.
    pub(super) next: LogIndex,
    /// How to send.
    pub(super) pace: Pace,
    /// When it last answered in this term; when the term began, if never.
    pub(super) contact: Nanos,
    /// The latest read round it answered.
    pub(super) round: u64,
}

impl Progress {
    /// A follower of which nothing is known yet.
    pub(super) fn unknown(next: LogIndex, now: Nanos) -> Self {
        Self { matched: 0, next, pace: Pace::Probe(Probe::Ready), contact: now, round: 0 }
    }

    /// An append went out, with entries up to `last` of so many bytes, or empty.
    pub(super) fn sent(&mut self, last: Option<LogIndex>, bytes: usize) {
        match (&mut self.pace, last) {
            (Pace::Probe(probe), _) => *probe = Probe::Sent,
            (Pace::Replicate(window), Some(last)) => {
                window.add(last, bytes);
                self.next = last + 1;
            }
            (Pace::Replicate(_), None) | (Pace::Snapshot { .. }, _) => {}
        }
    }

    /// The follower answered, whatever it said.
    pub(super) fn heard(&mut self, now: Nanos, round: u64) {
        self.contact = now;
        self.round = self.round.max(round);
    }

    /// The follower verified and holds everything up to `matched`. `first` is the first index the leader still has.
    pub(super) fn accepted(&mut self, matched: LogIndex, first: LogIndex) {
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched + 1);
        match &mut self.pace {
            // Only an answer that reaches the probed place tells that the logs meet there; an older one does not.
            Pace::Probe(_) if matched + 1 >= self.next => self.pace = Pace::Replicate(Window::default()),
            Pace::Probe(_) => {}
            Pace::Replicate(window) => window.free_to(matched),
            Pace::Snapshot { index, .. } => {
                if self.matched >= *index || self.matched + 1 >= first && self.matched > 0 {
                    self.next = self.matched + 1;
                    self.pace = Pace::Replicate(Window::default());
                }
            }
        }
    }

    /// Whether a conflict at `rejected` answers something current; an answer to an older append changes nothing.
    pub(super) fn conflict_is_current(&self, rejected: LogIndex) -> bool {
        rejected > self.matched
            && match self.pace {
                Pace::Probe(_) => rejected == self.next - 1,
                Pace::Replicate(_) => rejected < self.next,
                Pace::Snapshot { .. } => false,
            }
    }

    /// The logs differ at `rejected`; they may meet at `meet`.
    pub(super) fn conflict(&mut self, rejected: LogIndex, meet: LogIndex) {
        self.next = rejected.min(meet + 1).max(self.matched + 1);
        self.pace = Pace::Probe(Probe::Ready);
    }

    /// A snapshot up to `index` goes out.
    pub(super) fn snapshot_sent(&mut self, index: LogIndex, resend_at: Nanos) {
        self.next = self.next.max(index + 1);
        self.pace = Pace::Snapshot { index, resend_at };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_answer_never_moves_match_back() {
        let mut peer = Progress::unknown(11, 0);
        peer.accepted(10, 1);
        peer.accepted(4, 1);
        assert_eq!((peer.matched, peer.next), (10, 11));
        assert!(!peer.conflict_is_current(7), "below what is matched");
    }

    #[test]
    fn a_repeated_conflict_changes_nothing() {
        let mut peer = Progress::unknown(11, 0);
        assert!(peer.conflict_is_current(10));
        peer.conflict(10, 3);
        assert_eq!(peer.next, 4);
        assert!(!peer.conflict_is_current(10));
    }

    #[test]
    fn the_window_bounds_what_is_out() {
        let mut window = Window::default();
        window.add(1, 50);
        assert!(window.is_open(51) && !window.is_open(50));
        window.free_to(1);
        assert!(window.is_open(50));
        (0..MAX_INFLIGHT_MESSAGES as u64).for_each(|index| window.add(index, 0));
        assert!(!window.is_open(50));
    }
}
