//! What a replica keeps on disk: its identity, its journal, its snapshots, and how all of it is read back.
//!
//! Everything goes through a [`Disk`], so that the daemon drives it over real files and the simulator over a disk that
//! loses, tears and refuses writes. Nothing in here knows a clock, a thread, a socket or a source of randomness.
//!
//! | file | concern |
//! |---|---|
//! | `directory` | the whole data directory: what is kept across a restart, lives, setting aside |
//! | `identity` | the small file that says who this is and what was promised |
//! | `segments` | the journal: append, roll, cut, prune, and reading it back |
//! | `record` | how a record and a segment's head stand in a file |
//! | `reader` | the journal read while it is written, for a follower that is behind |
//! | `scan` | one segment read back; what is a torn tail and what is damage |
//! | `doubt` | marks of syncs that were begun, for the start after one that failed |
//! | `snapshot` | a snapshot file, written beside and renamed into place |
//! | `work` | what a core asks for, done in order; group commit |
//! | `disk`, `error` | what a disk must do; what can go wrong, and what to do then |
//! | `memory_disk` | a disk for tests, with every fault a disk can have |
//!
//! What must hold:
//! - an error of the disk is final: nothing is written after it, and a failed sync is never asked for again;
//! - a record is one write: in `sync` at most one record is not yet synced, in `buffered` at most the last two segments;
//! - a cut is a record too, so it is as atomic as any other;
//! - on disk a snapshot stands before the journal that goes on from it.
//!
//! Deliberately not here: when to persist, to cut, to take a snapshot or a new incarnation (that is
//! [`crate::replica`]), threads (the daemon), and what the entries mean.

mod directory;
mod disk;
mod doubt;
mod error;
mod identity;
#[doc(hidden)]
pub mod memory_disk;
mod reader;
mod record;
mod scan;
mod segments;
mod snapshot;
#[cfg(test)]
mod tests;
mod work;

pub use directory::{Claim, Directory, Fate, Found, Kept, Opening, Write};
pub use disk::{Disk, DiskError};
pub use error::JournalError;
pub use identity::{BootId, Identity};
pub use reader::{LogReader, Older, Wanted};
pub use snapshot::{SnapshotHead, SnapshotPart, SnapshotReader, SnapshotWriter};
pub use work::{Done, Job, Keeper, Later, Reading, Work, Writing};
