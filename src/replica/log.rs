//! The log in memory: consecutive blocks after a base, and where each epoch began.
//!
//! What must hold: indexes have no gap; epochs never fall along the log; `starts` names the newest [`MOST_STARTS`]
//! epochs that ever stood in the log, the ones below the base too, so that the common point of two logs can be found
//! however short they are. With older ones forgotten on either side, the point found is the right one or none at all,
//! never a wrong one: what is forgotten is older than everything that is known.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use cutover_arbiter::planted;
use cutover_arbiter::record::{Epoch, Index, Position};

use crate::protocol::entry::Block;
use crate::protocol::peer::Held;

/// Epoch starts that are kept. They travel in every `Hello`; a follower that was away for more than that many epochs
/// costs a state transfer.
const MOST_STARTS: usize = 1024;

/// Blocks that go at once, at least: each costs the loop some 100 ns.
const TRIMMED: usize = 256;
/// And this part of all: a follower that catches up is sent many in a turn, and its log must shrink all the same.
const TRIMMED_PART: usize = 16;

#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Log {
    /// The position before the first entry held.
    base: Position,
    blocks: VecDeque<Placed>,
    starts: Vec<(Epoch, Index)>,
    bytes: usize,
}

/// A block and where it stands, so that the bytes between two of them are known without looking at those between.
#[derive(Debug, Clone)]
struct Placed {
    block: Block,
    /// Bytes of everything up to its end, counted from when this log began.
    end: u64,
}

impl Placed {
    /// Bytes of everything before it.
    fn start(&self) -> u64 {
        self.end - self.block.bytes.len() as u64
    }
}

/// Logs that hold the same are the same, wherever they began.
impl Hash for Placed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.block.hash(state);
    }
}

impl Log {
    /// A log that begins after a snapshot at `base`.
    pub(super) fn after(base: Position, starts: Vec<(Epoch, Index)>) -> Self {
        let mut log = Self { base, blocks: VecDeque::new(), starts, bytes: 0 };
        log.forget_starts();
        log
    }

    /// The last position, or the base when nothing follows it.
    pub(super) fn last(&self) -> Position {
        self.blocks.back().map_or(self.base, |it| Position { epoch: it.block.epoch, index: it.block.last() })
    }

    /// Index before the first entry held.
    pub(super) fn base(&self) -> Index {
        self.base.index
    }

    /// Bytes of all entries held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn starts(&self) -> &[(Epoch, Index)] {
        &self.starts
    }

    /// True for a log that never held anything.
    pub(super) fn is_empty(&self) -> bool {
        self.last().index == 0
    }

    /// Appends a block that begins right after the last entry, in the same or a later epoch.
    pub(super) fn push(&mut self, block: Block) {
        let last = self.last();
        assert!(block.first == last.index + 1 && block.epoch >= last.epoch, "a log has no gap and no falling epoch");
        if self.starts.last().is_none_or(|(epoch, _)| *epoch < block.epoch) {
            self.starts.push((block.epoch, block.first));
            self.forget_starts();
        }
        self.place_last(block);
    }

    fn place_last(&mut self, block: Block) {
        self.bytes += block.bytes.len();
        let end = self.blocks.back().map_or(0, |before| before.end) + block.bytes.len() as u64;
        self.blocks.push_back(Placed { block, end });
    }

    fn forget_starts(&mut self) {
        self.starts.drain(..self.starts.len().saturating_sub(MOST_STARTS));
    }

    /// Drops everything beyond `keep`, which is not below the base. Returns how many entries went.
    pub(super) fn cut(&mut self, keep: Index) -> u64 {
        assert!(keep >= self.base.index, "what stands below the base is state and cannot be cut");
        let gone = self.last().index.saturating_sub(keep);
        while self.blocks.back().is_some_and(|it| it.block.last() > keep) {
            let Some(Placed { block, .. }) = self.blocks.pop_back() else { break };
            self.bytes -= block.bytes.len();
            if let Some(kept) = block.upto(keep) {
                self.place_last(kept);
            }
        }
        self.starts.retain(|(_, first)| *first <= keep);
        gone
    }

    /// Drops whole blocks at the front while more than `limit` bytes are held, none that reaches beyond `floor`, and no
    /// more of them at once than a turn has time for: what held back a long log (a joiner) lets go of all of it at once.
    pub(super) fn trim(&mut self, limit: usize, floor: Index) {
        for _ in 0..TRIMMED.max(self.blocks.len() / TRIMMED_PART) {
            if !self.drop_first(limit, floor) {
                break;
            }
        }
    }

    /// The same, all at once: for a replica that begins, and has no turns yet.
    pub(super) fn trim_all(&mut self, limit: usize, floor: Index) {
        while self.drop_first(limit, floor) {}
    }

    fn drop_first(&mut self, limit: usize, floor: Index) -> bool {
        let goes = |it: &Placed| self.bytes > limit && it.block.last() <= floor;
        if !self.blocks.front().is_some_and(goes) {
            return false;
        }
        let Some(Placed { block, .. }) = self.blocks.pop_front() else { return false };
        self.bytes -= block.bytes.len();
        self.base = Position { epoch: block.epoch, index: block.last() };
        true
    }

    /// The blocks that hold `index` and everything after it; the first may begin earlier. `None` when the log no
    /// longer reaches back so far.
    pub(super) fn from(&self, index: Index) -> Option<impl Iterator<Item = &Block>> {
        if index <= self.base.index {
            return None;
        }
        Some(self.blocks.range(self.place(index)..).map(|it| &it.block))
    }

    /// The place of the first block that ends at or beyond `index`. Nearly always one near the end is asked for, and a
    /// binary search through all of a long log costs more cache misses than everything else of a turn: so the search
    /// first doubles its steps backwards from the end (Bentley and Yao 1976, unbounded searching).
    fn place(&self, index: Index) -> usize {
        let below = |place: usize| self.blocks.get(place).is_none_or(|it| it.block.last() < index);
        let (mut high, mut step) = (self.blocks.len(), 1);
        while high > 0 && !below(high - step.min(high)) {
            high -= step.min(high);
            step *= 2;
        }
        let mut low = high.saturating_sub(step);
        while low < high {
            let middle = low + (high - low) / 2;
            if below(middle) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// True when everything beyond `index` is held here, in blocks of at most `limit` bytes.
    pub(super) fn is_near(&self, index: Index, limit: usize) -> bool {
        index >= self.base.index && self.bytes_beyond(index) <= limit as u64
    }

    /// Bytes of the blocks that reach beyond `index`.
    fn bytes_beyond(&self, index: Index) -> u64 {
        let start = self.blocks.get(self.place(index.saturating_add(1))).map(Placed::start);
        start.map_or(0, |start| self.blocks.back().map_or(0, |last| last.end - start))
    }

    /// The highest index up to which the blocks beyond `after` have at most `limit` bytes together; always one block.
    pub(super) fn within(&self, after: Index, limit: usize) -> Index {
        if self.is_near(after, limit) {
            return self.last().index;
        }
        let first = self.place(after.saturating_add(1));
        let Some(start) = self.blocks.get(first).map(Placed::start) else { return after };
        let beyond = self.blocks.partition_point(|it| it.end <= start.saturating_add(limit as u64));
        self.blocks.get(beyond.saturating_sub(1).max(first)).map_or(after, |it| it.block.last())
    }

    /// The epoch of the entry at `index`, as far as `starts` tells.
    pub(super) fn epoch_at(&self, index: Index) -> Epoch {
        let after = self.starts.partition_point(|(_, first)| *first <= index);
        if after == 0 { Epoch::default() } else { self.starts[after - 1].0 }
    }

    /// This log in few words.
    pub(super) fn held(&self, applied: Index) -> Held {
        Held { starts: self.starts.clone(), last: self.last().index, applied }
    }

    /// The highest index at which this log and `other` certainly hold the same entry: both lists of epoch starts are
    /// compared, never indexes alone (Kafka KIP-279 is the story of a system that did).
    pub(super) fn common(&self, other: &Held) -> Index {
        if planted!("P7") {
            return other.last.min(self.last().index);
        }
        common((&self.starts, self.last().index), (&other.starts, other.last))
    }
}

fn common(a: (&[(Epoch, Index)], Index), b: (&[(Epoch, Index)], Index)) -> Index {
    let end = |starts: &[(Epoch, Index)], last: Index, at: usize| {
        starts.get(at + 1).map_or(last, |(_, first)| first.saturating_sub(1)).min(last)
    };
    for (at, start) in a.0.iter().enumerate().rev() {
        if let Some(bt) = b.0.iter().position(|other| other == start) {
            return end(a.0, a.1, at).min(end(b.0, b.1, bt));
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::entry::{Payload, begin, finish, put};

    fn block(epoch: u64, first: Index, count: u32) -> Block {
        let mut bytes = Vec::new();
        for number in 0..count {
            let start = begin(&mut bytes);
            let operation = [epoch as u8, number as u8];
            put(&mut bytes, 1, &Payload::Operation { mark: None, carried: vec![], operation: &operation }, b"");
            finish(&mut bytes, start, 0);
        }
        Block { epoch: Epoch(epoch), first, count, bytes: bytes.into() }
    }

    fn log(blocks: &[(u64, Index, u32)]) -> Log {
        let mut log = Log::default();
        for &(epoch, first, count) in blocks {
            log.push(block(epoch, first, count));
        }
        log
    }

    #[test]
    fn cutting_inside_a_block_keeps_its_head() {
        let mut log = log(&[(1, 1, 3), (2, 4, 3)]);
        assert_eq!(log.cut(5), 1);
        assert_eq!(log.last(), Position { epoch: Epoch(2), index: 5 });
        assert_eq!(log.cut(3), 2);
        assert_eq!(log.starts(), &[(Epoch(1), 1)]);
        assert_eq!(log.last(), Position { epoch: Epoch(1), index: 3 });
    }

    #[test]
    fn a_block_is_found_wherever_it_stands() {
        for blocks in 0..20 {
            let log = log(&(0..blocks).map(|at| (1, 1 + at * 3, 3)).collect::<Vec<_>>());
            for index in 1..=blocks * 3 + 2 {
                let first = log.from(index).unwrap().next().map(|block| block.first);
                assert_eq!(
                    first,
                    (index <= blocks * 3).then_some((index - 1) / 3 * 3 + 1),
                    "{index} of {blocks} blocks"
                );
            }
        }
    }

    #[test]
    fn trimming_spares_what_a_follower_needs() {
        let mut log = log(&[(1, 1, 3), (1, 4, 3), (1, 7, 3)]);
        log.trim(0, 5);
        assert_eq!(log.base(), 3);
        assert!(log.from(3).is_none());
        assert_eq!(log.from(5).unwrap().map(|block| block.first).collect::<Vec<_>>(), [4, 7]);
        assert_eq!(log.last().index, 9);
    }

    #[test]
    fn a_long_log_is_let_go_of_step_by_step() {
        let mut log = log(&(0..1000).map(|at| (1, 1 + at, 1)).collect::<Vec<_>>());
        let mut base = 0;
        while log.bytes() > 0 {
            log.trim(0, 1000);
            assert!((1..=TRIMMED as u64).contains(&(log.base() - base)));
            base = log.base();
        }
        assert_eq!(base, 1000);
    }

    #[test]
    fn the_common_point_goes_by_epoch_starts_not_by_index_alone() {
        // A -> B -> A with different tails (KIP-279): both logs end at 5, only 2 entries agree.
        let a = log(&[(1, 1, 3), (3, 4, 2)]);
        let b = log(&[(1, 1, 2), (2, 3, 3)]);
        assert_eq!(a.common(&b.held(0)), 2);
        // A prefix of the same epoch.
        let c = log(&[(1, 1, 1)]);
        assert_eq!(a.common(&c.held(0)), 1);
        assert_eq!(a.common(&Held::default()), 0);
        // Starts survive trimming.
        let mut d = a.clone();
        d.trim(0, 3);
        assert_eq!(d.common(&c.held(0)), 1);
    }

    #[test]
    fn the_list_of_epoch_starts_is_bounded_and_what_it_forgot_is_never_taken_for_a_common_point() {
        let epochs = MOST_STARTS as u64 * 2;
        let blocks: Vec<_> = (1..=epochs).map(|epoch| (epoch, epoch, 1)).collect();
        let a = log(&blocks);
        assert_eq!(a.starts().len(), MOST_STARTS);
        let all = blocks.iter().map(|block| (Epoch(block.0), block.1)).collect();
        assert_eq!(Log::after(a.last(), all).starts(), a.starts());
        // Was away since before the oldest start that is known: nothing in common is found, which is safe.
        assert_eq!(a.common(&log(&blocks[..10]).held(0)), 0);
        // Was away for less: found as ever, from either side.
        let near = log(&blocks[..MOST_STARTS + 10]);
        assert_eq!(a.common(&near.held(0)), MOST_STARTS as u64 + 10);
        assert_eq!(near.common(&a.held(0)), MOST_STARTS as u64 + 10);
        // A tail of its own, after an epoch that both know.
        let mut tail = near.clone();
        tail.push(block(epochs + 1, MOST_STARTS as u64 + 11, 5));
        assert_eq!(a.common(&tail.held(0)), MOST_STARTS as u64 + 10);
    }

    #[test]
    fn the_bytes_between_two_blocks_are_known_wherever_the_log_was_cut_or_trimmed() {
        let mut log = log(&(0..40).map(|at| (1 + at / 7, 1 + at * 3, 3)).collect::<Vec<_>>());
        let mut next = 121;
        for (keep, floor) in [(118, 7), (100, 7), (99, 30), (40, 38), (39, 39), (39, 39)] {
            log.cut(keep);
            log.trim(0, floor);
            for index in log.base()..=next {
                let there = log.from(index + 1).unwrap();
                let bytes = there.map(|block| block.bytes.len()).sum::<usize>();
                assert!(log.is_near(index, bytes), "{index} after {keep}");
                assert!(bytes == 0 || !log.is_near(index, bytes - 1), "{index} after {keep}");
                for limit in 0..=bytes {
                    let reached = log.within(index, limit);
                    let mut left = limit;
                    let block = log.from(index + 1).unwrap().enumerate().take_while(|(at, block)| {
                        let fits = left >= block.bytes.len() || *at == 0;
                        left = left.saturating_sub(block.bytes.len());
                        fits
                    });
                    assert_eq!(reached, block.last().map_or(log.last().index, |(_, block)| block.last()));
                }
            }
            next = log.last().index + 1;
            log.push(block(9, next, 2));
            log.cut(next);
        }
        assert!(!log.is_near(log.base() - 1, usize::MAX));
        assert!(log.is_near(Index::MAX, 0));
    }

    #[test]
    fn an_acknowledgement_reaches_no_further_than_the_limit_but_always_one_block() {
        let log = log(&[(1, 1, 3), (1, 4, 3), (1, 7, 3)]);
        let one = log.bytes() / 3;
        assert_eq!(log.within(0, log.bytes()), 9);
        assert_eq!(log.within(0, one * 2), 6);
        assert_eq!(log.within(0, 0), 3);
        assert_eq!(log.within(5, one), 6);
        assert_eq!(log.within(9, 0), 9);
    }
}
