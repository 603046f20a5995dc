//! The log in memory, and how much of it the disk has.
//!
//! Four marks, never out of order: `base` (what came before is compacted away), `stable` (durable), `handed` (given to
//! the disk; only one batch is on its way at a time), and the end. A cut pulls `stable` and `handed` back, so a write
//! that completes late can never vouch for an entry that was replaced meanwhile.

use std::collections::VecDeque;

use super::{Entry, LogIndex, SnapshotMeta, Term};

/// The log after its base.
#[derive(Clone, Debug, Hash)]
pub(super) struct Log {
    base: SnapshotMeta,
    entries: VecDeque<Entry>,
    stable: LogIndex,
    handed: LogIndex,
    /// The disk holds entries at and after this index that are no longer in the log.
    cut: Option<LogIndex>,
}

impl Log {
    /// The log as it was loaded: all of it durable.
    pub(super) fn restored(base: SnapshotMeta, entries: Vec<Entry>) -> Self {
        let entries: VecDeque<Entry> = entries.into_iter().filter(|entry| entry.index > base.index).collect();
        for (entry, index) in entries.iter().zip(base.index + 1..) {
            assert_eq!(entry.index, index, "the store loads a log without gaps that follows its snapshot");
        }
        let end = base.index + entries.len() as u64;
        Self { base, entries, stable: end, handed: end, cut: None }
    }

    pub(super) fn first_index(&self) -> LogIndex {
        self.base.index + 1
    }

    pub(super) fn last(&self) -> SnapshotMeta {
        self.entries.back().map_or(self.base, |entry| SnapshotMeta { index: entry.index, term: entry.term })
    }

    /// Up to where the log is durable.
    pub(super) fn stable(&self) -> LogIndex {
        self.stable
    }

    /// Up to where the log was given to the disk.
    pub(super) fn handed(&self) -> LogIndex {
        self.handed
    }

    /// Term of the entry at `index`; `None` when it is compacted away or not there yet.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.position(index).map(|at| self.entries[at].term)
    }

    fn position(&self, index: LogIndex) -> Option<usize> {
        let at = usize::try_from(index.checked_sub(self.first_index())?).ok()?;
        (at < self.entries.len()).then_some(at)
    }

    /// The entries from `from` to `to`, both included, as far as they are there.
    pub(super) fn range(&self, from: LogIndex, to: LogIndex) -> impl Iterator<Item = &Entry> {
        let start = from.max(self.first_index()) - self.first_index();
        let end = (to.min(self.last().index) + 1).saturating_sub(self.first_index());
        self.entries.range(start.min(end) as usize..end as usize)
    }

    /// Entries from `from` on, at least one if there is any, at most `bytes` of them.
    pub(super) fn slice(&self, from: LogIndex, bytes: usize) -> Vec<Entry> {
        let mut taken = 0usize;
        self.range(from, LogIndex::MAX - 1)
            .take_while(|entry| {
                let fits = taken == 0 || taken + entry.cost() <= bytes;
                taken += entry.cost();
                fits
            })
            .cloned()
            .collect()
    }

    /// The last entry at or before `index` whose term is not above `term`; the base when there is none after it.
    ///
    /// Both sides of a conflict use it to skip a whole term per round trip (Raft 5.3, as etcd's raft refined it).
    pub(super) fn last_not_above(&self, index: LogIndex, term: Term) -> SnapshotMeta {
        let end = (index.min(self.last().index) + 1).saturating_sub(self.first_index()) as usize;
        // Terms never fall along a log, so the entries to skip are a suffix.
        let keep = self.entries.partition_point(|entry| entry.term <= term).min(end);
        match keep.checked_sub(1) {
            Some(at) => SnapshotMeta { index: self.entries[at].index, term: self.entries[at].term },
            None => self.base,
        }
    }

    /// Adds an entry after the last.
    pub(super) fn push(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last().index + 1, "entries follow each other");
        assert!(entry.term >= self.last().term, "terms never fall along a log");
        self.entries.push_back(entry);
    }

    /// Removes every entry at and after `from`.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.base.index, "what is compacted was committed and is never cut");
        self.entries.truncate((from - self.first_index()) as usize);
        self.forget_durable(from);
    }

    fn forget_durable(&mut self, from: LogIndex) {
        if from <= self.handed {
            self.cut = Some(self.cut.map_or(from, |cut| cut.min(from)));
            self.handed = from - 1;
            self.stable = self.stable.min(from - 1);
        }
    }

    /// Drops the entries up to `index` from memory.
    pub(super) fn compact(&mut self, index: LogIndex) {
        if let Some(at) = self.position(index) {
            let term = self.entries[at].term;
            self.entries.drain(..=at);
            self.base = SnapshotMeta { index, term };
        }
    }

    /// Replaces the whole log by a snapshot's position. `commit` is how far the old log is known to be right.
    pub(super) fn reset(&mut self, base: SnapshotMeta, commit: LogIndex) {
        assert!(base.index > commit, "a snapshot never takes back what is committed");
        if planted!("R-k-log") {
            self.entries.retain(|entry| entry.index > base.index);
        } else {
            self.entries.clear();
        }
        self.base = base;
        self.forget_durable(commit + 1);
    }

    /// What the disk does not have: where to cut, and the entries after `snapshot` that were not handed over.
    pub(super) fn take_unhanded(&mut self, snapshot: LogIndex) -> (Option<LogIndex>, Vec<Entry>) {
        let entries = self.range(self.handed.max(snapshot) + 1, LogIndex::MAX - 1).cloned().collect();
        self.handed = self.last().index;
        (self.cut.take(), entries)
    }

    /// Whether the disk lacks anything.
    pub(super) fn has_unhanded(&self) -> bool {
        self.cut.is_some() || self.handed < self.last().index
    }

    /// What was handed over is durable.
    pub(super) fn persisted(&mut self) {
        self.stable = self.handed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn log(terms: &[Term]) -> Log {
        let mut log = Log::restored(SnapshotMeta::default(), Vec::new());
        for (&term, index) in terms.iter().zip(1..) {
            log.push(Entry { term, index, data: Bytes::from_static(b"x") });
        }
        log
    }

    #[test]
    fn a_late_write_never_vouches_for_a_replaced_entry() {
        let mut log = log(&[1, 1, 1]);
        log.take_unhanded(0);
        log.truncate(2);
        log.push(Entry { term: 2, index: 2, data: Bytes::new() });
        log.persisted();
        assert_eq!(log.stable(), 1, "the write of the old entry 2 says nothing about the new one");
        let (cut, entries) = log.take_unhanded(0);
        assert_eq!((cut, entries.len()), (Some(2), 1));
        log.persisted();
        assert_eq!(log.stable(), 2);
    }

    #[test]
    fn hints_skip_whole_terms() {
        let log = log(&[1, 1, 4, 4, 4, 5]);
        assert_eq!(log.last_not_above(6, 3).index, 2);
        assert_eq!(log.last_not_above(4, 4).index, 4);
        assert_eq!(log.last_not_above(9, 9).index, 6);
        assert_eq!(log.last_not_above(3, 0).index, 0);
    }

    #[test]
    fn slices_hold_at_least_one_entry_and_stay_within_bytes() {
        let log = log(&[1, 1, 1]);
        assert_eq!(log.slice(1, 1).len(), 1);
        assert_eq!(log.slice(2, 66).len(), 2);
        assert_eq!(log.slice(4, 66).len(), 0);
        assert_eq!(log.slice(9, 66).len(), 0);
    }

    #[test]
    fn compaction_keeps_what_follows() {
        let mut log = log(&[1, 2, 3]);
        log.compact(2);
        assert_eq!((log.first_index(), log.term_at(1), log.term_at(2), log.term_at(3)), (3, None, Some(2), Some(3)));
        assert_eq!(log.range(0, 99).count(), 1);
    }
}
