//! Messages and frames of the client port, both ways: see `cutover_fuzz::client`.
#![no_main]

use cutover_fuzz::client::{check, seeds};

libfuzzer_sys::fuzz_target!(init: cutover_fuzz::plant(seeds), |data: &[u8]| check(data));
