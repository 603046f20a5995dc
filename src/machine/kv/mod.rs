//! The built-in key-value machine: Redis' data types and replies, nothing of its protocol.
//!
//! [`operation`] is how an operation stands in the log; [`command`] is the table of what there is; [`reply`] is how a
//! reply looks before a Redis connection puts it into its protocol.

pub mod command;
pub mod operation;
pub mod reply;
