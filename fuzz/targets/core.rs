//! The core's own part of a snapshot: see `cutover_fuzz::core`.
#![no_main]

use cutover_fuzz::core::{check, seeds};

libfuzzer_sys::fuzz_target!(init: cutover_fuzz::plant(seeds), |data: &[u8]| check(data));
