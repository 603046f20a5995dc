//! Messages of the arbiter port, Raft's messages, and what Raft replicates: see `cutover_fuzz::arbiter`.
#![no_main]

use cutover_fuzz::arbiter::{check, seeds};

libfuzzer_sys::fuzz_target!(init: cutover_fuzz::plant(seeds), |data: &[u8]| check(data));
