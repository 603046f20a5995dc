//! Linearisable reads without a log entry: read-index (Raft thesis 6.4).
//!
//! A read waits for a round: the leader asks everyone once, after the read arrived, whether it still leads. One round
//! serves every read that waited when it began; while it is under way the next ones gather.

use super::LogIndex;
use super::config::MAX_WAITING_READS;

/// Reads of one leader's term.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Reads {
    /// The last round begun; every append carries it.
    round: u64,
    /// Waits for `round`, with the commit index at its beginning.
    asked: Option<(LogIndex, Vec<u64>)>,
    /// Arrived since.
    gathered: Vec<u64>,
}

impl Reads {
    /// The round that appends carry.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// Takes a read in; false when too many wait.
    pub(super) fn add(&mut self, ticket: u64) -> bool {
        let room = self.gathered.len() < MAX_WAITING_READS;
        if room {
            self.gathered.push(ticket);
        }
        room
    }

    /// Begins a round for what gathered, if none is under way. The caller has committed an entry of its term and tells
    /// everyone of the round at once.
    pub(super) fn begin(&mut self, commit: LogIndex) -> bool {
        if self.asked.is_some() || self.gathered.is_empty() {
            return false;
        }
        self.round += 1;
        self.asked = Some((commit, std::mem::take(&mut self.gathered)));
        true
    }

    /// A quorum has answered round `confirmed`: the reads that it serves, with the index each must see.
    pub(super) fn confirmed(&mut self, confirmed: u64) -> Option<(LogIndex, Vec<u64>)> {
        if confirmed >= self.round || planted!("R-h-round") { self.asked.take() } else { None }
    }

    /// Every read that waits, when this arbiter ceases to lead.
    pub(super) fn cancel(self) -> impl Iterator<Item = u64> {
        self.asked.into_iter().flat_map(|(_, tickets)| tickets).chain(self.gathered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_serves_only_reads_that_arrived_before_it() {
        let mut reads = Reads::default();
        reads.add(1);
        assert!(reads.begin(5));
        reads.add(2);
        assert!(!reads.begin(6), "one round at a time");
        assert_eq!(reads.confirmed(0), None);
        assert_eq!(reads.confirmed(1), Some((5, vec![1])));
        assert!(reads.begin(7));
        assert_eq!(reads.confirmed(1), None, "the first round says nothing about the second read");
        assert_eq!(reads.cancel().collect::<Vec<_>>(), [2]);
    }
}
