//! Why the store could not do what it was asked, and what a person can do about it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::Identity;

/// An error of the store. None may be retried in the same process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file open.
    #[error("{} is open in another process; stop that one, or give this arbiter its own data directory", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file holds what was never written.
    #[error(
        "{} is damaged: {what}. It is not repaired by guessing. Check the disk, move the file away, and bring this arbiter back under a new id, for it may have voted and forgotten; the other arbiters hold everything that was decided",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Another version wrote the file.
    #[error("{} has format {found}, this version knows format {known}; start the version that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The file's format.
        found: u32,
        /// This version's.
        known: u32,
    },
    /// The file is another arbiter's.
    #[error("{} belongs to {found}, not to {expected}; correct the data directory, the id or the cluster", path.display())]
    OtherOwner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: Identity,
        /// Who asked.
        expected: Identity,
    },
    /// The disk failed.
    #[error("could not {doing}: {}: {reason}; this arbiter stops, check the disk and its free space, then start it again", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What kind of error it is.
        kind: ErrorKind,
        /// What the system said.
        reason: String,
    },
    /// An earlier write failed.
    #[error("{} takes no more writes after one failed; start the arbiter again", path.display())]
    Stopped {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    pub(super) fn io(path: &Path, doing: &'static str, error: &io::Error) -> Self {
        StoreError::Io { path: path.to_owned(), doing, kind: error.kind(), reason: error.to_string() }
    }

    pub(super) fn damaged(path: &Path, what: String) -> Self {
        StoreError::Damaged { path: path.to_owned(), what }
    }

    pub(super) fn open(path: &Path, error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen | redb::DatabaseError::LockProtocolMismatch => {
                StoreError::InUse { path: path.to_owned() }
            }
            other => Self::redb(path, "open it", other.into()),
        }
    }

    pub(super) fn redb(path: &Path, doing: &'static str, error: redb::Error) -> Self {
        use redb::Error as E;
        match error {
            E::Corrupted(what) => Self::damaged(path, what),
            // A file that is not redb's at all, or one that ends too early.
            E::Io(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                Self::damaged(path, error.to_string())
            }
            E::Io(error) => Self::io(path, doing, &error),
            E::TableDoesNotExist(table) => Self::damaged(path, format!("table '{table}' is missing")),
            E::TableTypeMismatch { table, .. } => Self::damaged(path, format!("table '{table}' has another type")),
            other => Self::io(path, doing, &io::Error::other(other.to_string())),
        }
    }
}
