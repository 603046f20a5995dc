//! Operations of the key-value machine, on a primary and on a backup: see `cutover_fuzz::operations`.
#![no_main]

use cutover_fuzz::operations::{check, seeds};

libfuzzer_sys::fuzz_target!(init: cutover_fuzz::plant(seeds), |data: &[u8]| check(data));
