//! What one replica lets grow, and how far. No limit here is part of the replicated state: replicas with different
//! limits stay equal, for what a limit decides stands in the log as the primary decided it.

use std::time::Duration;

/// Bounds on memory, and of the journal for others. [`Default`] gives what the command line gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that the machine may hold before operations that need memory are refused, while this replica is primary;
    /// `None` for as many as there are.
    pub memory: Option<u64>,
    /// Bytes of log kept in memory for a joiner, from its snapshot on, and for a spare that lags: one that is further
    /// behind is sent what the journal holds. Without a journal it is given up and comes again for a fresh snapshot,
    /// after a wait that grows.
    pub transfer_log_bytes: usize,
    /// Bytes of journal kept on disk for the same, roughly (to a snapshot's distance): a disk that is full ends the
    /// primary, and one that lags is not worth that.
    pub transfer_journal_bytes: u64,
    /// Bytes per second of all state transfers together; `None` for as many as go.
    pub transfer_rate: Option<u64>,
    /// Sessions open at once; a further one is refused.
    pub sessions: usize,
    /// Longest life of a session without a sign; a longer one is refused.
    pub session_timeout: Duration,
    /// Bytes of replies kept for all sessions together, beyond which a session keeps one reply at a time.
    pub session_bytes: usize,
    /// How long a transfer whose connection broke is kept for its joiner to go on with.
    pub transfer_keep: Duration,
}

/// A transfer is work for a processor on either side, and the faster it goes, the more of it clients feel: on two
/// processors and no limit their p99 was ten times what it is in quiet, with this one it is up to one and a half times
/// (`deploy/transfer.sh`).
const TRANSFER_RATE: u64 = 60 << 20;

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: None,
            transfer_log_bytes: 256 << 20,
            transfer_journal_bytes: 8 << 30,
            transfer_rate: Some(TRANSFER_RATE),
            sessions: 100_000,
            session_timeout: Duration::from_secs(24 * 60 * 60),
            session_bytes: 1 << 30,
            transfer_keep: Duration::from_secs(30),
        }
    }
}
