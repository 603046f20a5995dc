//! Segments of a journal, read back by a whole start: see `cutover_fuzz::journal`.
#![no_main]

use cutover_fuzz::journal::{check, seeds};

libfuzzer_sys::fuzz_target!(init: cutover_fuzz::plant(seeds), |data: &[u8]| check(data));
