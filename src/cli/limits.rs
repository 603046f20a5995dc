//! The limits of a replica as the command line, the environment and the file give them.

use serde::{Deserialize, Serialize};

use super::config_value::{Size, Span};
use crate::replica::Limits;

/// Options that bound what a replica holds; part of [`super::replica::ReplicaSettings`].
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct LimitSettings {
    /// Memory that the keys may take before commands that need more are answered with -OOM, while this replica is
    /// primary; 0 for no limit. Give every replica the same. [default: 0]
    #[arg(long, env = "CUTOVER_MAXMEMORY", value_name = "SIZE")]
    pub maxmemory: Option<Size>,
    /// Log kept in memory for a replica that gets a state transfer, or for a spare that lags; one that needs more is
    /// sent it from the journal, or in mode `memory` given up for a while. [default: 256MiB]
    #[arg(long, env = "CUTOVER_TRANSFER_LOG_BYTES", value_name = "SIZE")]
    pub transfer_log_bytes: Option<Size>,
    /// Journal kept on disk for the same; one that needs more is given up for a while. [default: 8GiB]
    #[arg(long, env = "CUTOVER_TRANSFER_JOURNAL_BYTES", value_name = "SIZE")]
    pub transfer_journal_bytes: Option<Size>,
    /// Bytes per second of all state transfers together, so that clients hardly notice them; 0 for as many as go.
    /// [default: 60MiB]
    #[arg(long, env = "CUTOVER_TRANSFER_RATE", value_name = "SIZE")]
    pub transfer_rate: Option<Size>,
    /// Sessions of the client library open at once; a further one is refused. [default: 100000]
    #[arg(long, env = "CUTOVER_MAX_SESSIONS", value_name = "N")]
    pub max_sessions: Option<usize>,
    /// Longest timeout of a session; a longer one is refused. [default: 1day]
    #[arg(long, env = "CUTOVER_MAX_SESSION_TIMEOUT", value_name = "TIME")]
    pub max_session_timeout: Option<Span>,
    /// Replies kept for retries of all sessions together; beyond it each session keeps one at a time. [default: 1GiB]
    #[arg(long, env = "CUTOVER_SESSION_BYTES", value_name = "SIZE")]
    pub session_bytes: Option<Size>,
    /// How long a state transfer whose connection broke can be gone on with. [default: 30s]
    #[arg(long, env = "CUTOVER_TRANSFER_KEEP", value_name = "TIME")]
    pub transfer_keep: Option<Span>,
}

impl LimitSettings {
    /// Every option at its default.
    pub fn defaults() -> Self {
        let limits = Limits::default();
        Self {
            maxmemory: Some(Size(limits.memory.unwrap_or_default() as usize)),
            transfer_log_bytes: Some(Size(limits.transfer_log_bytes)),
            transfer_journal_bytes: Some(Size(limits.transfer_journal_bytes as usize)),
            transfer_rate: Some(Size(limits.transfer_rate.unwrap_or_default() as usize)),
            max_sessions: Some(limits.sessions),
            max_session_timeout: Some(Span(limits.session_timeout)),
            session_bytes: Some(Size(limits.session_bytes)),
            transfer_keep: Some(Span(limits.transfer_keep)),
        }
    }

    /// The limits as the core takes them; an option that nobody set has its default.
    pub fn limits(&self) -> Limits {
        let defaults = Limits::default();
        let above_zero = |size: Option<Size>| size.map(|size| size.0 as u64).filter(|size| *size > 0);
        Limits {
            memory: above_zero(self.maxmemory),
            transfer_log_bytes: self.transfer_log_bytes.map_or(defaults.transfer_log_bytes, |size| size.0),
            transfer_journal_bytes: self
                .transfer_journal_bytes
                .map_or(defaults.transfer_journal_bytes, |size| size.0 as u64),
            transfer_rate: self.transfer_rate.map_or(defaults.transfer_rate, |size| above_zero(Some(size))),
            sessions: self.max_sessions.unwrap_or(defaults.sessions),
            session_timeout: self.max_session_timeout.map_or(defaults.session_timeout, |span| span.0),
            session_bytes: self.session_bytes.map_or(defaults.session_bytes, |size| size.0),
            transfer_keep: self.transfer_keep.map_or(defaults.transfer_keep, |span| span.0),
        }
    }
}
