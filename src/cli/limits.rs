//! The limits of a replica as the command line, the environment and the file give them.

use serde::{Deserialize, Serialize};

use super::config_value::Size;
use crate::replica::Limits;

/// Options that bound what a replica holds; part of [`super::replica::ReplicaSettings`].
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct LimitSettings {
    /// Memory that the keys may take before commands that need more are answered with -OOM, while this replica is
    /// primary; 0 for no limit. Give every replica the same. [default: 0]
    #[arg(long, env = "CUTOVER_MAXMEMORY", value_name = "SIZE")]
    pub maxmemory: Option<Size>,
}

impl LimitSettings {
    /// Every option at its default.
    pub fn defaults() -> Self {
        Self { maxmemory: Some(Size(0)) }
    }

    /// The limits as the core takes them. An option that nobody set, not even by default, is without effect.
    pub fn limits(&self) -> Limits {
        Limits { memory: self.maxmemory.map(|size| size.0 as u64).filter(|bytes| *bytes > 0) }
    }
}
