//! How a subcommand ends when it does not end well: a message for a person and an exit code for a script.

use std::fmt;
use std::io::ErrorKind;

/// Exit codes of every subcommand; 0 is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The check that the command makes failed (`verify`, `torture`).
    CheckFailed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong (`config check`, too), or the data directory that it names cannot be used before a
    /// person has seen to it: damaged, another replica's, of another version, not to be written.
    /// A service manager does not start it again.
    Configuration = 3,
    /// The group's state refuses what was asked; of a daemon also everything that may be otherwise the next time: a disk
    /// that failed or is full, a data directory or an address in use.
    StateRefuses = 4,
    /// Nobody answered.
    Unreachable = 5,
    /// The deadline passed.
    TimedOut = 6,
}

impl ExitCode {
    /// What a daemon ends with when its data directory fails it so. [`Self::Configuration`]: to start again fails the same
    /// way until somebody changes something. A disk that is full or fails is none of that: it may have room, or answer,
    /// the next time.
    pub fn of_data(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::AlreadyExists
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename => Self::Configuration,
            _ => Self::StateRefuses,
        }
    }
}

/// Why a subcommand failed: what happened, to which thing, what to do next.
#[derive(Debug)]
pub struct Failure {
    /// What the process exits with.
    pub code: ExitCode,
    /// What is printed on standard error.
    pub message: String,
}

impl Failure {
    /// A failure with this code and message.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
