//! Pauses between attempts: doubling up to a limit, with jitter so that many callers do not come back at once.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Doubles from `first` to `most`; each pause is drawn from the upper half of its length.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
    random: ChaCha8Rng,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first, random: rand::make_rng() }
    }

    /// Begins again with the shortest pause.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait now; the next one is longer.
    pub(crate) fn draw(&mut self) -> Duration {
        let pause = self.next.mul_f64(self.random.random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.most);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_begin_again() {
        let (first, most) = (Duration::from_millis(50), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, most);
        let pauses: Vec<_> = (0..10).map(|_| backoff.draw()).collect();
        assert!(pauses[0] <= first && pauses.iter().all(|pause| *pause <= most) && pauses[9] >= most / 2);
        backoff.reset();
        assert!(backoff.draw() <= first);
    }
}
