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
    /// Log kept for a replica that gets a state transfer, or for a spare that lags; one that would need more is given
    /// up for a while. [default: 256MiB]
    #[arg(long, env = "CUTOVER_TRANSFER_LOG_BYTES", value_name = "SIZE")]
    pub transfer_log_bytes: Option<Size>,
    /// Bytes per second of all state transfers together; 0 for as many as go. [default: 0]
    #[arg(long, env = "CUTOVER_TRANSFER_RATE", value_name = "SIZE")]
    pub transfer_rate: Option<Size>,
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
            transfer_rate: Some(Size(limits.transfer_rate.unwrap_or_default() as usize)),
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
            transfer_rate: above_zero(self.transfer_rate),
            transfer_keep: self.transfer_keep.map_or(defaults.transfer_keep, |span| span.0),
        }
    }
}
