//! Real arbiters over loopback, in one process.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that cannot set its stage fails there and then")]

mod cluster;
mod faults;
mod strangers;
mod three;
