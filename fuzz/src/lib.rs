//! What the fuzzers try, a module for each target: `check` takes any bytes and panics where a decoder breaks its word,
//! `seeds` makes first inputs from real encodings.
//!
//! A decoder's word: it refuses or reads whatever comes, without a panic and without more memory than came; and what
//! it has read is written and read again the same.

pub mod arbiter;
pub mod client;
pub mod core;
pub mod journal;
mod message;
pub mod operations;
pub mod peer;
pub mod redis;
pub mod restore;
mod scratch;
pub mod snapshot;

#[path = "../../tests/support/drawn.rs"]
mod drawn;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Writes the first inputs into the directory that `SEEDS_INTO` names, before the fuzzer reads it.
pub fn plant(seeds: fn() -> Vec<Vec<u8>>) {
    let Ok(directory) = std::env::var("SEEDS_INTO") else { return };
    for (number, seed) in seeds().into_iter().enumerate() {
        let path = format!("{directory}/seed-{number:04}");
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// Bytes to draw values from, the same in every run.
fn dice(count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    (0..count).map(move |_| (0..random.random_range(0..200)).map(|_| random.random::<u8>()).collect())
}
