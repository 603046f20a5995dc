//! Raft, sans-IO.
mod config;
mod core;
mod election;
mod follower;
mod log;
mod members;
mod message;
mod outbox;
mod progress;
mod read_index;
mod replication;
mod snapshot;

pub use self::config::{Config, ConfigError, MAX_ENTRY_BYTES, MAX_SNAPSHOT_BYTES, Nanos};
pub use self::core::{Raft, Role};
pub use self::members::Members;
pub use self::message::{
    Append, AppendOutcome, Ballot, Entry, HardState, Input, LogIndex, Message, NodeId, Output, PersistBatch, Restored,
    Snapshot, SnapshotMeta, Term,
};

#[cfg(test)]
mod tests;
