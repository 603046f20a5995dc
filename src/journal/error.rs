//! What can go wrong with a data directory, and what a person should do about it.

use std::io::ErrorKind;

use super::disk::DiskError;

/// Why a data directory cannot be used, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The disk refused a call. Final: nothing is written after it.
    #[error("the data directory failed: {0}; {advice}", advice = advice(.0))]
    Disk(#[from] DiskError),
    /// A file holds what was never written to it, before the place where a crash could have torn it.
    #[error(
        "{file} is damaged at offset {offset}: {what}. Nothing is repaired by guessing. If another replica of the \
         group is in sync, move this data directory away and start the replica empty: it joins again by state \
         transfer. If this is the only copy, restore the file first"
    )]
    Damaged {
        /// Which file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The directory belongs to somebody else.
    #[error("the data directory belongs to {theirs}, but this is {ours}; each replica needs a directory of its own")]
    Foreign {
        /// Whose it is.
        theirs: String,
        /// Who asks.
        ours: String,
    },
    /// Another version of the program or the machine wrote it.
    #[error(
        "{file} was written by {found}, this is {known}; run that version, or move the directory away and join anew"
    )]
    Version {
        /// Which file.
        file: String,
        /// What wrote it.
        found: String,
        /// What this is.
        known: String,
    },
    /// A block that could never be read back.
    #[error(
        "the entries from {first} on have {bytes} bytes, and the journal holds at most {limit} in one record; nothing \
        of them was written or acknowledged. The operation captured or carried too much: see which it was, and make it \
        smaller"
    )]
    TooLong {
        /// Index of the first.
        first: u64,
        /// How many bytes they have.
        bytes: usize,
        /// How many there may be.
        limit: usize,
    },
    /// An earlier call failed.
    #[error("the data directory failed before, and nothing is written to it any more")]
    Failed,
}

impl JournalError {
    pub(super) fn damaged(file: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), offset, what: what.into() }
    }
}

fn advice(error: &DiskError) -> &'static str {
    match error.kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "make room on that disk and start the replica again"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "see that this user may write there (and that the disk was not mounted read-only after an error)"
        }
        _ => "look at the system's log for this disk; start the replica again only when it is sound",
    }
}
