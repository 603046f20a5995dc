//! Messages, frames and entries of the peer port: see `cutover_fuzz::peer`.
#![no_main]

use cutover_fuzz::peer::{check, seeds};

libfuzzer_sys::fuzz_target!(init: cutover_fuzz::plant(seeds), |data: &[u8]| check(data));
