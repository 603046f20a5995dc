//! What is asked of a disk: one directory, with files and one level of directories in it.

use std::io;

/// A call that the disk refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {doing} {file}: {what}")]
pub struct DiskError {
    /// What was asked for, as a verb.
    pub doing: &'static str,
    /// Of which file.
    pub file: String,
    /// What kind of refusal it was.
    pub kind: io::ErrorKind,
    /// The system's own words.
    pub what: String,
}

impl DiskError {
    /// Names what was asked for and of which file.
    pub fn new(doing: &'static str, file: &str, error: &io::Error) -> Self {
        Self { doing, file: file.to_owned(), kind: error.kind(), what: error.to_string() }
    }
}

/// A disk, or what stands for one. Paths are relative to its directory and have at most one `/`.
///
/// Whatever fails may have happened in part; the caller believes nothing of the file after that.
pub trait Disk: Clone + std::fmt::Debug + Send + 'static {
    /// An open file, appended to at its end and read anywhere.
    type File: std::fmt::Debug + Send + 'static;

    /// Names in a directory, sorted; `""` is the disk's own.
    ///
    /// # Errors
    /// The disk failed, or there is no such directory.
    fn list(&self, directory: &str) -> Result<Vec<String>, DiskError>;

    /// Makes a directory.
    ///
    /// # Errors
    /// The disk failed, or it exists.
    fn make_directory(&self, path: &str) -> Result<(), DiskError>;

    /// Makes an empty file, in place of whatever has that name.
    ///
    /// # Errors
    /// The disk failed.
    fn create(&self, path: &str) -> Result<Self::File, DiskError>;

    /// Opens a file that exists.
    ///
    /// # Errors
    /// The disk failed, or there is no such file.
    fn open(&self, path: &str) -> Result<Self::File, DiskError>;

    /// Length of a file, in bytes.
    ///
    /// # Errors
    /// The disk failed.
    fn length(&self, file: &Self::File) -> Result<u64, DiskError>;

    /// Reads from `at` on until the buffer is full or the file ends; says how many bytes it was.
    ///
    /// # Errors
    /// The disk failed.
    fn read(&self, file: &Self::File, at: u64, buffer: &mut [u8]) -> Result<usize, DiskError>;

    /// Appends all parts, in order, in as few writes as the system allows.
    ///
    /// # Errors
    /// The disk failed or is full; some of it may have been written.
    fn append(&self, file: &mut Self::File, parts: &[&[u8]]) -> Result<(), DiskError>;

    /// Shortens a file.
    ///
    /// # Errors
    /// The disk failed.
    fn truncate(&self, file: &mut Self::File, length: u64) -> Result<(), DiskError>;

    /// Asks for room beyond the file's end without changing its length, so that a full disk is noticed early and the
    /// file lies in one piece. A system that cannot do it does nothing.
    ///
    /// # Errors
    /// The disk is full or failed.
    fn reserve(&self, file: &Self::File, bytes: u64) -> Result<(), DiskError>;

    /// Returns once content and length are on the device. After an error nobody knows what is: never asked again.
    ///
    /// # Errors
    /// The disk failed.
    fn sync(&self, file: &Self::File) -> Result<(), DiskError>;

    /// What is read from now on comes from the device, not from pages that a failed sync may have left behind. Only
    /// after a sync.
    ///
    /// # Errors
    /// The disk failed.
    fn uncache(&self, file: &Self::File) -> Result<(), DiskError>;

    /// Renames a file or a directory, over whatever file has the new name.
    ///
    /// # Errors
    /// The disk failed.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file.
    ///
    /// # Errors
    /// The disk failed.
    fn remove(&self, path: &str) -> Result<(), DiskError>;

    /// Removes a directory and the files in it.
    ///
    /// # Errors
    /// The disk failed.
    fn remove_directory(&self, path: &str) -> Result<(), DiskError>;

    /// Makes what was created, renamed and removed in a directory durable.
    ///
    /// # Errors
    /// The disk failed.
    fn sync_directory(&self, path: &str) -> Result<(), DiskError>;
}
