//! Real arbiters over loopback, in one process.
#![cfg(feature = "server")]

mod cluster;
mod faults;
mod strangers;
mod three;
