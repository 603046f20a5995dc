//! The one place where a replica's time and randomness come from. Read once per turn.

use std::time::Duration;

use cutover_arbiter::alarm::Alarm;
use rustix::time::{ClockId, clock_gettime};

use crate::replica::Now;

/// The time, now.
pub fn now() -> Now {
    let wall = clock_gettime(ClockId::Realtime);
    let micros = wall.tv_sec.saturating_mul(1_000_000).saturating_add(wall.tv_nsec / 1_000);
    // The alarm's, by which the loop is woken.
    Now { boot: boot(), wall: u64::try_from(micros).unwrap_or_default() }
}

/// The clock of [`Now::boot`] alone.
pub fn boot() -> Duration {
    Alarm::clock()
}

/// A clock for intervals of some milliseconds, read without asking the hardware.
pub fn coarse() -> Duration {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// A seed from the operating system for the core's generator.
pub fn seed() -> [u8; 32] {
    rand::random()
}
