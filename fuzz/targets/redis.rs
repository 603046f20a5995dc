//! Redis requests, and the parser beside that of crate `redis-protocol`: see `cutover_fuzz::redis`.
#![no_main]

use cutover_fuzz::redis::{check, seeds};

libfuzzer_sys::fuzz_target!(init: cutover_fuzz::plant(seeds), |data: &[u8]| check(data));
