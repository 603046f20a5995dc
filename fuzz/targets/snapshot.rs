//! Snapshot and identity files, read back by a whole start: see `cutover_fuzz::snapshot`.
#![no_main]

use cutover_fuzz::snapshot::{check, seeds};

libfuzzer_sys::fuzz_target!(init: cutover_fuzz::plant(seeds), |data: &[u8]| check(data));
