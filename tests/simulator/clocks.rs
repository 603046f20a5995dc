//! What time it is for one process: a boot clock that drifts and can stop with its machine, a wall clock that is wrong
//! by hours and jumps.

use std::time::Duration;

use cutover::replica::Now;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::world::Time;

/// Wall clock at virtual time 0, in microseconds.
const EPOCH_US: u64 = 1_700_000_000_000_000;

#[derive(Debug, Clone)]
pub struct Clock {
    /// Boot time at virtual time 0.
    offset: Time,
    /// Millionths that the boot clock runs fast.
    drift: i64,
    /// What the wall clock is wrong by.
    wall: i64,
    /// Time that the machine was suspended.
    stood: Time,
}

impl Clock {
    pub fn drawn(random: &mut ChaCha8Rng) -> Self {
        let drift = if random.random_bool(0.3) { random.random_range(-500..=500) } else { 0 };
        Self {
            offset: random.random_range(1_000_000..1_000_000_000),
            drift,
            wall: random.random_range(-3_600_000_000..=3_600_000_000),
            stood: 0,
        }
    }

    /// The boot clock, in microseconds.
    pub fn boot(&self, now: Time) -> Time {
        let ran = now - self.stood;
        self.offset + ran.saturating_add_signed(ran as i64 / 1_000 * self.drift / 1_000)
    }

    pub fn now(&self, now: Time) -> Now {
        Now { boot: Duration::from_micros(self.boot(now)), wall: self.wall(now) }
    }

    pub fn wall(&self, now: Time) -> u64 {
        (EPOCH_US + now).saturating_add_signed(self.wall)
    }

    /// The virtual time at which the boot clock will show `boot`, or a little after.
    pub fn when(&self, now: Time, boot: Time) -> Time {
        let left = boot.saturating_sub(self.boot(now));
        now + left + left / 1_000 + 1
    }

    /// The wall clock is set.
    pub fn jump(&mut self, by: i64) {
        self.wall += by;
    }

    /// The machine was suspended for so long: its boot clock did not count it.
    pub fn suspended(&mut self, length: Time) {
        self.stood += length;
    }
}
