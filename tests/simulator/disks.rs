//! The disk of a replica, as far as its core speaks to one: writes in order, each done after a while, or not while the
//! disk hangs. The seam for the journal: whoever brings real recovery code gives `write` the blocks to keep.

use cutover_arbiter::record::Index;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::world::Time;

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// It is done before the turn is over.
    AtOnce,
    /// It is done then.
    At(Time),
}

#[derive(Debug, Default)]
pub struct Disk {
    /// Added to the longest write while the disk is slow.
    pub slow: Time,
    /// Nothing is done before this.
    pub hung_until: Time,
    /// The last write given to it is done then.
    busy_until: Time,
}

impl Disk {
    /// Takes a write whose last entry is `last`. `longest` is how long one takes at most; 0 is a disk in memory.
    pub fn write(&mut self, now: Time, longest: Time, last: Option<Index>, random: &mut ChaCha8Rng) -> Write {
        let longest = longest + self.slow;
        let waits = now < self.hung_until || now < self.busy_until;
        if (longest == 0 || last.is_none()) && !waits {
            return Write::AtOnce;
        }
        let takes = if longest == 0 { 1 } else { random.random_range(1..=longest) };
        self.busy_until = self.busy_until.max(now).max(self.hung_until) + takes;
        Write::At(self.busy_until)
    }
}
