//! How long no client got an answer.

use super::Stamp;

/// An interval without an answer to anyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last answer before it.
    pub start: Stamp,
    /// Its length in nanoseconds.
    pub length: u64,
}

impl Gap {
    /// Its length in milliseconds, rounded up.
    pub fn milliseconds(&self) -> u64 {
        self.length.div_ceil(1_000_000)
    }
}

/// Collects the intervals between answers: the long ones one by one, all of them in a histogram.
#[derive(Debug, Clone)]
pub struct Gaps {
    last: Stamp,
    worth_telling: u64,
    longest: u64,
    long: Vec<Gap>,
    buckets: [u64; Self::BUCKETS],
}

impl Gaps {
    const BUCKETS: usize = 18;

    /// Starts at `start`; gaps of `worth_telling` nanoseconds or more are kept one by one.
    pub fn new(start: Stamp, worth_telling: u64) -> Self {
        Self { last: start, worth_telling, longest: 0, long: Vec::new(), buckets: [0; Self::BUCKETS] }
    }

    /// Some client got an answer. Stamps do not fall.
    pub fn answered(&mut self, at: Stamp) {
        let length = at.saturating_sub(self.last);
        self.longest = self.longest.max(length);
        let milliseconds = length / 1_000_000;
        let bucket = (u64::BITS - milliseconds.leading_zeros()) as usize;
        self.buckets[bucket.min(Self::BUCKETS - 1)] += 1;
        if length >= self.worth_telling {
            self.long.push(Gap { start: self.last, length });
        }
        self.last = self.last.max(at);
    }

    /// The recording ends: what has gone by since the last answer is a gap like any other.
    pub fn end(&mut self, at: Stamp) {
        self.answered(at);
    }

    /// The gaps worth telling, in the order of their start.
    pub fn long(&self) -> &[Gap] {
        &self.long
    }

    /// The longest of all, in milliseconds, rounded up.
    pub fn longest_ms(&self) -> u64 {
        self.longest.div_ceil(1_000_000)
    }

    /// `(below, count)`: how many gaps were shorter than `below` milliseconds and not shorter than the bound before.
    /// The bounds double; empty buckets at the end are left out. The last possible bucket has no upper bound.
    pub fn histogram(&self) -> Vec<(u64, u64)> {
        let used = self.buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        self.buckets[..used].iter().enumerate().map(|(bucket, count)| (1 << bucket, *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn long_gaps_are_told_in_order_and_all_are_counted() {
        let mut gaps = Gaps::new(0, 20 * MS);
        for at in [MS / 2, MS, 25 * MS, 44 * MS, 64 * MS] {
            gaps.answered(at);
        }
        gaps.end(164 * MS + 1);
        let long: Vec<u64> = gaps.long().iter().map(Gap::milliseconds).collect();
        assert_eq!(long, [24, 20, 101]);
        assert_eq!(gaps.long()[0].start, MS);
        assert_eq!(gaps.longest_ms(), 101);
        assert_eq!(gaps.histogram(), [(1, 2), (2, 0), (4, 0), (8, 0), (16, 0), (32, 3), (64, 0), (128, 1)]);
    }

    #[test]
    fn an_interval_of_hours_still_has_a_bucket() {
        let mut gaps = Gaps::new(0, u64::MAX);
        gaps.end(u64::MAX);
        assert_eq!(gaps.histogram().iter().map(|(_, count)| count).sum::<u64>(), 1);
    }
}
