//! The outside world as a state machine sees it: captured on the primary, replayed everywhere else.

use std::any::Any;
use std::hash::Hasher;

use bytes::BufMut;
use cutover_arbiter::planted;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Serialize, de::DeserializeOwned};

/// The group clock, in microseconds since 1970; it never goes back along the log or for any client.
pub type Timestamp = u64;

/// Something large to be dropped on another thread.
pub type Garbage = Box<dyn Any + Send>;

/// The captured values of one entry, as they stand in the log.
pub type Captured = Vec<u8>;

/// A replica asked for a captured value that the entry does not carry: the machine's execution here differs from
/// the primary's. The divergence hash reports it; this names the first cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("execution asked for a captured value ({what}) that the primary's execution did not record")]
pub struct CaptureFailed {
    /// Which kind of value.
    pub what: &'static str,
}

/// What an entry carries, alone, when its operation was refused for want of memory. No other captured value has the
/// length of one byte, so that an operation that is not refused, which is the rule, carries nothing for it.
const OUT_OF_MEMORY: u8 = b'M';

enum Source<'a> {
    Capture { random: &'a mut ChaCha8Rng, values: &'a mut Captured, memory_limit: Option<u64> },
    Replay { values: &'a [u8] },
}

/// Everything outside the state that an operation may use. On the primary values are made and recorded, on a
/// backup and in replay the recorded ones are handed out in the same order.
pub struct Env<'a> {
    now: Timestamp,
    index: u64,
    source: Source<'a>,
    changes: &'a mut Changes,
    garbage: &'a mut Vec<Garbage>,
    failed: Option<CaptureFailed>,
}

impl<'a> Env<'a> {
    /// For the primary: values come from `random` and closures, and are appended to `values`.
    pub fn capture_into(
        now: Timestamp,
        index: u64,
        random: &'a mut ChaCha8Rng,
        values: &'a mut Captured,
        changes: &'a mut Changes,
        garbage: &'a mut Vec<Garbage>,
    ) -> Self {
        Self {
            now,
            index,
            source: Source::Capture { random, values, memory_limit: None },
            changes,
            garbage,
            failed: None,
        }
    }

    /// On the primary: the bytes that the machine may hold before [`Self::out_of_memory`] says so; no limit until
    /// this is called. Elsewhere it is without effect.
    #[must_use]
    pub fn with_memory_limit(mut self, limit: Option<u64>) -> Self {
        if let Source::Capture { memory_limit, .. } = &mut self.source {
            *memory_limit = limit;
        }
        self
    }

    /// For backups and replay: values come from the entry.
    pub fn replay(
        now: Timestamp,
        index: u64,
        values: &'a [u8],
        changes: &'a mut Changes,
        garbage: &'a mut Vec<Garbage>,
    ) -> Self {
        Self { now, index, source: Source::Replay { values }, changes, garbage, failed: None }
    }

    /// The group clock at this entry, in microseconds since 1970.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Index of the entry that is being applied: unique, rising, the same everywhere.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// A random number, uniform over all of `u64`, the same on every replica.
    pub fn random(&mut self) -> u64 {
        match &mut self.source {
            Source::Capture { random, values, .. } => {
                let value = random.next_u64();
                values.put_u64_le(if planted!("P23") { !value } else { value });
                value
            }
            Source::Replay { values } => match values.split_first_chunk::<8>() {
                Some((value, rest)) => {
                    *values = rest;
                    u64::from_le_bytes(*value)
                }
                None => {
                    self.fail("random");
                    0
                }
            },
        }
    }

    /// A random (version 4) UUID, the same on every replica.
    pub fn uuid(&mut self) -> u128 {
        let value = (u128::from(self.random()) << 64) | u128::from(self.random());
        (value & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62)
    }

    /// The result of `make`, which runs on the primary only; everywhere else the recorded result is returned and
    /// `make` never runs. A value that cannot be read back gives `T::default()` and is reported as divergence.
    pub fn capture<T: Serialize + DeserializeOwned + Default>(&mut self, make: impl FnOnce() -> T) -> T {
        match &mut self.source {
            Source::Capture { values, .. } => {
                let value = make();
                match postcard::to_allocvec(&value) {
                    Ok(bytes) => {
                        values.put_u32_le(bytes.len() as u32);
                        values.extend_from_slice(&bytes);
                        value
                    }
                    Err(_) => {
                        self.fail("a value that cannot be serialised");
                        T::default()
                    }
                }
            }
            Source::Replay { values } => {
                let taken = (|| {
                    let (length, rest) = values.split_first_chunk::<4>()?;
                    let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                    *values = rest;
                    postcard::from_bytes(bytes).ok()
                })();
                taken.unwrap_or_else(|| {
                    self.fail("capture");
                    T::default()
                })
            }
        }
    }

    /// Whether an operation that would take memory is to be refused, for a machine that holds `used` bytes. Decided on
    /// the primary, by its own limit and its own measure; what every other replica sees is the decision, so that none
    /// of them refuses or accepts by a limit of its own.
    ///
    /// Ask before anything else is captured; where the answer is true, capture nothing and change nothing.
    pub fn out_of_memory(&mut self, used: u64) -> bool {
        match &mut self.source {
            Source::Capture { values, memory_limit, .. } => {
                let over = memory_limit.is_some_and(|limit| used > limit);
                if over {
                    values.push(OUT_OF_MEMORY);
                }
                over
            }
            Source::Replay { values } => {
                let over = *values == [OUT_OF_MEMORY];
                if over {
                    *values = &[];
                }
                over
            }
        }
    }

    /// Reports what the operation changed, for the divergence hash: the key and the new value, or a digest of it.
    pub fn changed(&mut self, what: &[u8]) {
        self.changes.write(what);
    }

    /// Hands over something large to be dropped on another thread, so that the loop never waits for it.
    pub fn discard(&mut self, garbage: impl Any + Send) {
        self.garbage.push(Box::new(garbage));
    }

    /// The first captured value that was asked for and not there, and whether recorded values are left over.
    ///
    /// # Errors
    /// What was missing.
    pub fn finish(self) -> Result<(), CaptureFailed> {
        match (self.failed, self.source) {
            (Some(failed), _) => Err(failed),
            (None, Source::Replay { values }) if !values.is_empty() => Err(CaptureFailed { what: "values left over" }),
            _ => Ok(()),
        }
    }

    fn fail(&mut self, what: &'static str) {
        self.failed.get_or_insert(CaptureFailed { what });
    }
}

/// The running hash over replies and reported changes, compared between replicas at the same applied index.
///
/// FNV-like folding over 8-byte words with a multiply-rotate step: not secret, but the same on every machine and in
/// every version of every library, which is what a value in the log must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    state: u64,
}

impl Changes {
    /// Goes on from the hash of the entry before.
    pub fn resume(state: u64) -> Self {
        Self { state }
    }

    /// Folds `bytes` and their length in.
    pub fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.word(u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
    }

    /// Folds one number in.
    pub fn word(&mut self, word: u64) {
        let mixed = (self.state.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.state = mixed ^ (mixed >> 32);
    }

    /// The hash so far.
    pub fn state(&self) -> u64 {
        self.state
    }
}

impl Hasher for Changes {
    fn finish(&self) -> u64 {
        self.state
    }
    fn write(&mut self, bytes: &[u8]) {
        Changes::write(self, bytes);
    }
}

/// What a read may see of the outside world: the clock, and randomness that nobody records.
pub struct ReadEnv<'a> {
    now: Timestamp,
    random: std::cell::RefCell<&'a mut ChaCha8Rng>,
}

impl<'a> ReadEnv<'a> {
    /// A view at `now`; `random` is the replica's own generator.
    pub fn new(now: Timestamp, random: &'a mut ChaCha8Rng) -> Self {
        Self { now, random: std::cell::RefCell::new(random) }
    }

    /// The group clock, in microseconds since 1970, below the ceiling.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// A random number, uniform over all of `u64`.
    pub fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }
}

/// A generator for tests and tools.
pub fn seeded(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_primary_captured_is_what_a_backup_sees() {
        let (mut random, mut values, mut changes, mut garbage) =
            (seeded(1), Vec::new(), Changes::default(), Vec::new());
        let mut primary = Env::capture_into(7, 1, &mut random, &mut values, &mut changes, &mut garbage);
        let made = (primary.random(), primary.uuid(), primary.capture(|| String::from("pid 42")));
        primary.finish().unwrap();
        let mut backup = Env::replay(7, 1, &values, &mut changes, &mut garbage);
        let seen =
            (backup.random(), backup.uuid(), backup.capture::<String>(|| unreachable!("a backup never captures")));
        assert_eq!(made, seen);
        backup.finish().unwrap();
    }

    #[test]
    fn a_refusal_for_want_of_memory_is_the_primarys_and_costs_nothing_where_there_is_none() {
        let (mut random, mut changes, mut garbage) = (seeded(1), Changes::default(), Vec::new());
        for (limit, used, refused) in [(None, u64::MAX, false), (Some(100), 100, false), (Some(100), 101, true)] {
            let mut values = Vec::new();
            let mut primary =
                Env::capture_into(7, 1, &mut random, &mut values, &mut changes, &mut garbage).with_memory_limit(limit);
            assert_eq!(primary.out_of_memory(used), refused);
            primary.finish().unwrap();
            assert_eq!(values.len(), usize::from(refused));
            let mut backup = Env::replay(7, 1, &values, &mut changes, &mut garbage).with_memory_limit(Some(0));
            assert_eq!(backup.out_of_memory(u64::MAX), refused, "the backup's own limit is not asked");
            backup.finish().unwrap();
        }
        let values = 77u64.to_le_bytes();
        let mut other = Env::replay(7, 1, &values, &mut changes, &mut garbage);
        assert!(!other.out_of_memory(0), "another captured value is not taken for a refusal");
        assert_eq!(other.random(), 77);
    }

    #[test]
    fn a_value_nobody_captured_is_named() {
        let (mut changes, mut garbage) = (Changes::default(), Vec::new());
        let mut backup = Env::replay(7, 1, &[], &mut changes, &mut garbage);
        backup.random();
        assert_eq!(backup.finish(), Err(CaptureFailed { what: "random" }));
    }
}
