//! Chunks of the key-value machine's state: see `cutover_fuzz::restore`.
#![no_main]

use cutover_fuzz::restore::{check, seeds};

libfuzzer_sys::fuzz_target!(init: cutover_fuzz::plant(seeds), |data: &[u8]| check(data));
