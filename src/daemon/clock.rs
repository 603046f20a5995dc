//! The one place where a replica's time and randomness come from. Read once per turn.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cutover_arbiter::alarm::Alarm;
use rustix::time::{ClockId, clock_gettime};

use crate::replica::Now;

/// The time, now.
pub fn now() -> Now {
    // By way of the C library, unlike the other clocks: whoever runs a replica under another time (`faketime`) means this one.
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The alarm's, by which the loop is woken.
    Now { boot: boot(), wall: wall.as_micros() as u64 }
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
