//! What an arbiter must not forget, in one redb file: term and vote, the log, the newest snapshot, and whose file it is.
//!
//! One [`PersistBatch`] is one write transaction, committed in two phases and synced: after a crash at any point the
//! file holds all of a batch or nothing of it. Every value carries a checksum of its own besides redb's, and the whole
//! file is verified when it is opened, so damage is found at the start and never at a vote.
//!
//! An error is final. The disk may or may not hold the batch, and trying again could believe a sync that already lost
//! the pages (PostgreSQL's lesson of 2018); so the store refuses every later write and the process must stop.
//!
//! Deliberately not here: what any of it means (`raft`), threads, and retries.

mod directory;
mod error;
mod seal;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};

use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde::{Deserialize, Serialize};

pub use directory::make_directory;
pub use error::StoreError;

use crate::raft::{Entry, HardState, LogIndex, NodeId, PersistBatch, Restored, Snapshot};
use seal::{seal, unseal};

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

const FORMAT: &str = "format";
const IDENTITY: &str = "identity";
const HARD_STATE: &str = "hard_state";
const SNAPSHOT: &str = "snapshot";

/// Version of the layout of the file.
const FORMAT_VERSION: u32 = 1;

/// Bytes of pages that redb may keep in memory: the core keeps log and snapshot itself.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The arbiters together: random, the same on each of them.
    pub cluster: u128,
    /// This arbiter.
    pub node: NodeId,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "arbiter {} of cluster {:032x}", self.node, self.cluster)
    }
}

/// The durable state of one arbiter, open and locked.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    database: Database,
    health: Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Good,
    /// A write failed: what the disk holds is unknown until the file is opened anew.
    Failed,
}

impl Store {
    /// Opens the file at `path`, or makes it, and locks it for this process.
    ///
    /// # Errors
    /// Another process has it open, it is damaged, a newer version wrote it, or the disk fails.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let io = |doing, error: std::io::Error| StoreError::io(path, doing, &error);
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        make_directory(directory).map_err(|error| io("make its directory", error))?;
        if !path.try_exists().map_err(|error| io("look for it", error))? {
            Self::make(path, directory)?;
        }
        let database = builder().create(path).map_err(|error| StoreError::open(path, error))?;
        // Without this a power loss could take the directory entry of a file that promises were made on.
        File::open(directory).and_then(|it| it.sync_all()).map_err(|error| io("sync its directory", error))?;
        Self::with_database(path, database)
    }

    /// Makes an empty file, under another name until it is whole: a process that dies while it makes one leaves nothing
    /// that looks like a damaged store, on which promises may have been made.
    fn make(path: &Path, directory: &Path) -> Result<(), StoreError> {
        let io = |doing, error: std::io::Error| StoreError::io(path, doing, &error);
        let held = File::open(directory).map_err(|error| io("open its directory", error))?;
        // Nobody else makes it meanwhile. The lock ends with `held`.
        held.lock().map_err(|error| io("lock its directory", error))?;
        if path.exists() {
            return Ok(());
        }
        let half = path.with_extension("new");
        match std::fs::remove_file(&half) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("remove a half-made one", error));
            }
            _ => {}
        }
        let database = builder().create(&half).map_err(|error| StoreError::open(&half, error))?;
        drop(Self::with_database(path, database)?);
        std::fs::rename(&half, path).map_err(|error| io("give it its name", error))?;
        held.sync_all().map_err(|error| io("sync its directory", error))
    }

    /// As [`open`](Self::open), over a backend of the caller's, which then has to do the locking; `path` is only for
    /// messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with_backend(path: &Path, backend: impl StorageBackend) -> Result<Store, StoreError> {
        let database = builder().create_with_backend(backend).map_err(|error| StoreError::open(path, error))?;
        Self::with_database(path, database)
    }

    fn with_database(path: &Path, database: Database) -> Result<Store, StoreError> {
        let mut store = Store { path: path.to_owned(), database, health: Health::Good };
        store.write("write its format", |store, transaction| {
            let mut meta = transaction.open_table(META)?;
            transaction.open_table(LOG)?;
            let found = meta.get(FORMAT)?.map(|value| value.value().to_vec());
            match found {
                Some(sealed) => match unseal::<u32>(FORMAT, &sealed) {
                    Ok(FORMAT_VERSION) => Ok(()),
                    Ok(found) => {
                        Err(StoreError::Format { path: store.path.clone(), found, known: FORMAT_VERSION }.into())
                    }
                    Err(what) => Err(StoreError::damaged(&store.path, what).into()),
                },
                None => {
                    meta.insert(FORMAT, seal(FORMAT, &FORMAT_VERSION).as_slice())?;
                    Ok(())
                }
            }
        })?;
        Ok(store)
    }

    /// Everything Raft needs to go on.
    ///
    /// # Errors
    /// The file is damaged, or holds what Raft never writes; or the disk fails.
    pub fn load(&self) -> Result<Restored, StoreError> {
        let read = || -> Result<Restored, Fault> {
            let transaction = self.database.begin_read()?;
            let meta = transaction.open_table(META)?;
            let hard_state: HardState = self.value(&meta, HARD_STATE)?.unwrap_or_default();
            let snapshot: Option<Snapshot> = self.value(&meta, SNAPSHOT)?;
            let mut entries = Vec::new();
            for item in transaction.open_table(LOG)?.iter()? {
                let (key, value) = item?;
                let name = entry_name(key.value());
                entries.push(unseal::<Entry>(&name, value.value()).map_err(|it| StoreError::damaged(&self.path, it))?);
            }
            Ok(Restored { hard_state, snapshot, entries })
        };
        let restored = read().map_err(|fault| fault.named(&self.path, "read it"))?;
        check(&restored).map_err(|what| StoreError::damaged(&self.path, what))?;
        Ok(restored)
    }

    /// Makes one batch durable; it is when this returns.
    ///
    /// # Errors
    /// Any error is final: whether the disk holds the batch is unknown. The caller promises nothing more and stops.
    pub fn persist(&mut self, batch: &PersistBatch) -> Result<(), StoreError> {
        self.write("write a batch", |_, transaction| {
            let mut meta = transaction.open_table(META)?;
            let mut log = transaction.open_table(LOG)?;
            if let Some(hard_state) = &batch.hard_state {
                meta.insert(HARD_STATE, seal(HARD_STATE, hard_state).as_slice())?;
            }
            if let Some(from) = batch.truncate_from {
                log.retain_in(from.., |_, _| false)?;
            }
            for entry in &batch.entries {
                log.insert(entry.index, seal(&entry_name(entry.index), entry).as_slice())?;
            }
            if let Some(snapshot) = &batch.snapshot {
                meta.insert(SNAPSHOT, seal(SNAPSHOT, snapshot).as_slice())?;
                log.retain_in(..=snapshot.meta.index, |_, _| false)?;
            }
            Ok(())
        })
    }

    /// Whose file it is; `None` in a new one.
    ///
    /// # Errors
    /// The file is damaged or the disk fails.
    pub fn identity(&self) -> Result<Option<Identity>, StoreError> {
        let read = || -> Result<Option<Identity>, Fault> {
            let transaction = self.database.begin_read()?;
            self.value(&transaction.open_table(META)?, IDENTITY)
        };
        read().map_err(|fault| fault.named(&self.path, "read its identity"))
    }

    /// Makes the file `identity`'s for ever, or confirms that it is.
    ///
    /// # Errors
    /// It is another's, which is named, or the write fails.
    pub fn set_identity(&mut self, identity: Identity) -> Result<(), StoreError> {
        match self.identity()? {
            Some(found) if found == identity => Ok(()),
            Some(found) => Err(StoreError::OtherOwner { path: self.path.clone(), found, expected: identity }),
            None => self.write("write its identity", |_, transaction| {
                transaction.open_table(META)?.insert(IDENTITY, seal(IDENTITY, &identity).as_slice())?;
                Ok(())
            }),
        }
    }

    fn value<T: serde::de::DeserializeOwned>(
        &self,
        meta: &redb::ReadOnlyTable<&'static str, &'static [u8]>,
        key: &'static str,
    ) -> Result<Option<T>, Fault> {
        match meta.get(key)? {
            Some(sealed) => {
                Ok(Some(unseal(key, sealed.value()).map_err(|what| StoreError::damaged(&self.path, what))?))
            }
            None => Ok(None),
        }
    }

    /// One transaction, durable when this returns; after an error the store writes nothing more.
    fn write(
        &mut self,
        doing: &'static str,
        body: impl FnOnce(&Store, &redb::WriteTransaction) -> Result<(), Fault>,
    ) -> Result<(), StoreError> {
        if self.health == Health::Failed {
            return Err(StoreError::Stopped { path: self.path.clone() });
        }
        let run = || -> Result<(), Fault> {
            let mut transaction = self.database.begin_write()?;
            // The log is written by what other machines send: with one phase a crash in the middle of a sync could be
            // taken for a whole commit if they chose its bytes. Quick repair stays off: it makes every commit write
            // more, and this file is verified in whole at each open anyway.
            transaction.set_two_phase_commit(true);
            body(self, &transaction)?;
            transaction.commit()?;
            Ok(())
        };
        let result = run().map_err(|fault| fault.named(&self.path, doing));
        if result.is_err() {
            self.health = Health::Failed;
        }
        result
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn entry_name(index: LogIndex) -> String {
    format!("entry {index}")
}

/// What Raft never writes, it must not be given: a gap or a term out of order would be taken for the truth.
fn check(restored: &Restored) -> Result<(), String> {
    let base = restored.snapshot.as_ref().map(|snapshot| snapshot.meta).unwrap_or_default();
    let mut before = (base.index, base.term);
    for entry in &restored.entries {
        if entry.index != before.0 + 1 {
            return Err(format!("entry {} follows entry {}", entry.index, before.0));
        }
        if entry.term < before.1 {
            return Err(format!(
                "entry {} is of term {}, the one before of term {}",
                entry.index, entry.term, before.1
            ));
        }
        before = (entry.index, entry.term);
    }
    match restored.hard_state.term {
        term if before.1 > term => Err(format!("the log reaches term {}, but the stored term is {term}", before.1)),
        _ => Ok(()),
    }
}

/// An error inside a transaction: redb's, or one that already has its name.
enum Fault {
    Redb(redb::Error),
    Named(StoreError),
}

impl Fault {
    fn named(self, path: &Path, doing: &'static str) -> StoreError {
        match self {
            Fault::Redb(error) => StoreError::redb(path, doing, error),
            Fault::Named(error) => error,
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Fault::Named(error)
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Fault::Redb(error.into())
            }
        }
    )*};
}

from_redb!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError);
