//! The group clock: advances with `CLOCK_BOOTTIME`, is slewed towards the wall clock, and is never stepped.

use std::time::Duration;

use cutover_arbiter::planted;

use crate::machine::Timestamp;
use crate::replica::Now;

/// Most that the clock is slewed: one part in a hundred of the time that passed.
const SLEW: u64 = 100;
/// A difference from the wall clock worth a warning, in microseconds.
const SKEW_WARNING: i64 = 10_000_000;

#[derive(Debug, Clone, Default, Hash)]
pub(super) struct GroupClock {
    current: Timestamp,
    read_at: Duration,
    /// Time that passed and has not yet earned a whole microsecond of slew: below `SLEW` microseconds. Without it a
    /// replica under load, whose turns are short, would not be slewed at all.
    unslewed: u64,
    warned: bool,
}

impl GroupClock {
    /// Moves on to `now`. Never goes back.
    pub(super) fn advance(&mut self, now: Now) {
        let passed = now.boot.saturating_sub(self.read_at).as_micros() as u64;
        // What is less than a microsecond counts in the next turn, or short turns would lose it.
        self.read_at += Duration::from_micros(passed);
        if self.current == 0 {
            return;
        }
        let target = self.current + passed;
        self.unslewed += passed;
        let slew = (self.unslewed / SLEW) as i64;
        self.unslewed %= SLEW;
        let wanted = (now.wall as i64).saturating_sub(target as i64);
        let forward = if planted!("stepped_clock") { i64::MAX } else { slew };
        self.current = target.saturating_add_signed(wanted.clamp(-slew, forward));
    }

    /// The clock, in microseconds since 1970; 0 before it was ever set.
    pub(super) fn now(&self) -> Timestamp {
        self.current
    }

    /// Follows the primary's clock; only a replica that serves nobody may.
    pub(super) fn follow(&mut self, clock: Timestamp) {
        self.current = clock;
    }

    /// Moves forward to at least `floor`: for a new primary, which must not fall behind anything already shown.
    pub(super) fn raise(&mut self, floor: Timestamp) {
        self.current = self.current.max(floor);
    }

    /// Wall minus group clock in microseconds, the first time that they are far apart.
    pub(super) fn skew_to_warn_of(&mut self, now: Now) -> Option<i64> {
        let skew = (now.wall as i64).saturating_sub(self.current as i64);
        let far = skew.abs() > SKEW_WARNING;
        let news = far && !self.warned;
        self.warned = far;
        news.then_some(skew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_ms: u64, wall: Timestamp) -> Now {
        Now { boot: Duration::from_millis(boot_ms), wall }
    }

    #[test]
    fn a_wall_clock_an_hour_away_is_approached_by_one_percent() {
        let mut clock = GroupClock::default();
        clock.raise(10_000_000_000);
        clock.advance(at(0, 0));
        clock.advance(at(1000, 10_000_000_000 + 3_600_000_000));
        assert_eq!(clock.now(), 10_000_000_000 + 1_010_000);
        clock.advance(at(2000, 0));
        assert_eq!(clock.now(), 10_000_000_000 + 1_010_000 + 990_000);
    }

    /// Seed 6007820: each turn was rounded down by itself, and turns of less than 100 microseconds slewed by nothing.
    #[test]
    fn many_short_turns_slew_as_much_as_one_long_one() {
        for nanos in [70_000, 12_900] {
            let mut clock = GroupClock::default();
            clock.raise(5_000_000);
            for turn in 0..=1000 {
                clock.advance(Now { boot: Duration::from_nanos(turn * nanos), wall: 3_600_000_000 });
            }
            assert_eq!(clock.now(), 5_000_000 + nanos + nanos / 100);
        }
    }

    #[test]
    fn the_clock_never_goes_back() {
        let mut clock = GroupClock::default();
        clock.raise(5_000_000);
        let mut last = clock.now();
        for (boot, wall) in [(10, 0), (5, 9_000_000), (5, 0), (600, 0)] {
            clock.advance(at(boot, wall));
            assert!(clock.now() >= last);
            last = clock.now();
        }
    }
}
