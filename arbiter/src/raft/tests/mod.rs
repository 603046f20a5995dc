//! The core under a simulated network and disk, and the paper's rules one by one.

mod bench;
mod cluster;
mod exhaustive;
mod figure2;
mod invariants;
mod nonsense;
mod paper;
#[cfg(feature = "planted")]
mod planted;
#[path = "../../../../tests/exhaustive/search.rs"]
mod search;
mod storm;
