//! What one replica lets grow, and how far. No limit here is part of the replicated state: replicas with different
//! limits stay equal, for what a limit decides stands in the log as the primary decided it.

/// Bounds on memory. [`Default`] gives what the command line gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that the machine may hold before operations that need memory are refused, while this replica is primary;
    /// `None` for as many as there are.
    pub memory: Option<u64>,
}
