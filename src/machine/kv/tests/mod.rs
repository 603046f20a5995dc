//! Tests of the machine as a whole. Replies are compared with those of a real Redis in `tests/redis_oracle.rs`; here
//! is what that cannot show: time, chance, snapshots, replay, garbage.

mod chance;
mod harness;
mod memory;
mod replay;
mod snapshots;
mod speed;
mod time;
