//! The data directory of a replica, before its loop begins: the lock, what an earlier run left, and the core made of it.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use cutover_arbiter::store::make_directory;

use crate::journal::{BootId, Directory, DiskError, JournalError, Opening};
use crate::machine::StateMachine;
use crate::replica::{BeginError, Config, Now, Outbox, Replica, Restored};

use super::file_disk::FileDisk;
use super::options::Options;

/// Bytes after which a new segment of the journal begins.
const SEGMENT_BYTES: u64 = 16 << 20;
const LOCK: &str = "replica.lock";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another process has it.
    #[error("another replica uses the data directory {directory}{holder}; each needs its own --data")]
    Taken {
        /// Which directory.
        directory: String,
        /// Its process, if it could be read.
        holder: String,
    },
    /// What is in it.
    #[error("data directory {directory}: {error}")]
    Journal {
        /// Which directory.
        directory: String,
        /// What is wrong; files are named with their whole path.
        error: JournalError,
    },
    /// A snapshot that the machine cannot read.
    #[error(
        "the snapshot in {directory} cannot be read: {what}; run the version that wrote it, or move the directory away and join anew"
    )]
    Unreadable {
        /// Which directory.
        directory: String,
        /// What the machine said.
        what: String,
    },
}

/// An open data directory and what was found in it.
pub struct Data<M> {
    directory: Directory<FileDisk>,
    restored: Option<Restored<M>>,
    lock: File,
}

/// What of it the disk thread owns.
pub struct Owned {
    /// The directory, claimed for this life.
    pub directory: Directory<FileDisk>,
    /// Held until the process ends, or the thread.
    pub lock: File,
}

impl<M: StateMachine> Data<M> {
    /// Takes the directory for this process, making it if need be, and reads what is in it.
    ///
    /// # Errors
    /// Another process has it, it is damaged, or the disk fails.
    pub fn open(path: &Path, options: &Options) -> Result<Self, DataError> {
        let lock = lock(path)?;
        let opening = Opening {
            group: options.group.clone(),
            replica: options.name.clone(),
            machine: M::identity(),
            boot: boot_id(),
            salt: rand::random(),
            segment_bytes: SEGMENT_BYTES,
        };
        let (directory, found) =
            Directory::open(FileDisk::new(path), opening).map_err(|error| in_directory(path, error))?;
        for note in found.iter().flat_map(|found| &found.notes) {
            tracing::warn!("journal.mended {note}");
        }
        let restored = found.map(Restored::read).transpose().map_err(|error| unusable(path, error))?;
        Ok(Self { directory, restored, lock })
    }

    /// Makes the core of it. What it is, is durable when this returns.
    ///
    /// # Errors
    /// The disk fails, or the snapshot does not fit this version.
    pub fn begin(
        self,
        path: &Path,
        now: Now,
        config: Config,
        make: fn() -> M,
        out: &mut Outbox<M>,
    ) -> Result<(Replica<M>, Owned), DataError> {
        let Self { mut directory, restored, lock } = self;
        let core = Replica::begin_on(&mut directory, restored, (now, config, make), out)
            .map_err(|error| unusable(path, error))?;
        Ok((core, Owned { directory, lock }))
    }
}

fn unusable(path: &Path, error: BeginError) -> DataError {
    match error {
        BeginError::Journal(error) => in_directory(path, error),
        BeginError::Unreadable(what) => DataError::Unreadable { directory: path.display().to_string(), what },
    }
}

/// The journal knows files by their names in the directory; a person looks for them from anywhere.
fn in_directory(path: &Path, mut error: JournalError) -> DataError {
    match &mut error {
        JournalError::Damaged { file, .. } | JournalError::Version { file, .. } => {
            *file = path.join(&*file).display().to_string();
        }
        // A disk names whole paths, and the rest name no file.
        JournalError::Disk(_) | JournalError::Foreign { .. } | JournalError::TooLong { .. } | JournalError::Failed => {}
    }
    DataError::Journal { directory: path.display().to_string(), error }
}

/// Makes the directory and takes it for this process, until the file is dropped or the process ends in whatever way.
fn lock(path: &Path) -> Result<File, DataError> {
    let shown = path.display().to_string();
    let failed = |doing: &'static str, file: &str| {
        let file = file.to_owned();
        move |error: std::io::Error| in_directory(path, DiskError::new(doing, &file, &error).into())
    };
    make_directory(path).map_err(failed("make directory", &shown))?;
    let name = path.join(LOCK).display().to_string();
    let mut lock =
        File::options().create(true).read(true).append(true).open(path.join(LOCK)).map_err(failed("open", &name))?;
    match lock.try_lock() {
        Ok(()) => {
            lock.set_len(0)
                .and_then(|()| writeln!(lock, "{}", std::process::id()))
                .map_err(failed("write to", &name))?;
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = lock.rewind().and_then(|()| lock.read_to_string(&mut holder));
            let pid = read.ok().and_then(|_| holder.trim().parse::<u32>().ok());
            let holder = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            Err(DataError::Taken { directory: shown, holder })
        }
        Err(TryLockError::Error(error)) => Err(failed("lock", &name)(error)),
    }
}

/// The present run of the kernel: what it holds in its cache survives a process, but not this.
fn boot_id() -> BootId {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    BootId::from_str_radix(&digits, 16).unwrap_or_else(|_| {
        tracing::warn!("boot.unknown the kernel does not tell its boot id: after every crash in mode buffered this replica begins a new incarnation");
        rand::random()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_with_the_whole_path_the_offset_and_the_directory() {
        let error = |file: &str| JournalError::Damaged { file: file.into(), offset: 77, what: "no record".into() };
        let told = in_directory(Path::new("/srv/r1"), error("life-000001/journal-000002")).to_string();
        assert!(told.starts_with("data directory /srv/r1: /srv/r1/life-000001/journal-000002 is damaged"), "{told}");
        assert!(told.contains("at offset 77: no record"), "{told}");
        let version = JournalError::Version { file: "identity".into(), found: "2".into(), known: "1".into() };
        let told = in_directory(Path::new("/srv/r1"), version).to_string();
        assert!(told.contains(" /srv/r1/identity was written by 2"), "{told}");
    }
}
