//! The core under a simulated network and disk, and the paper's rules one by one.

mod cluster;
mod invariants;
mod nonsense;
mod paper;
#[cfg(feature = "planted")]
mod planted;
mod storm;
