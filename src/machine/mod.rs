//! What is replicated: the [`StateMachine`] trait, the [`Env`] through which a machine sees the outside world, and
//! [`kv`], the built-in key-value machine.
//!
//! A machine is deterministic: the same operations with the same captured values give the same replies, the same
//! reported changes and the same snapshot on every replica. It owns no clock, no randomness, no socket, no thread.

mod env;
#[cfg(feature = "server")]
pub mod kv;

pub use env::{CaptureFailed, Captured, Changes, Env, Garbage, ReadEnv, Timestamp, seeded};

/// What a handshake compares: replicas of different machine versions do not replay the same log.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Name of the machine.
    pub name: String,
    /// Raised with every change that could make one log give two states.
    pub version: u32,
}

/// Whether an operation may change the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Answered from the state as it is, not logged.
    Read,
    /// Logged, replicated, executed on every replica.
    Write,
}

/// A read's work, to be done on another thread: it holds a consistent view of its own and writes the reply.
pub type DeferredRead = Box<dyn FnOnce(&mut Vec<u8>) + Send>;

/// How a read was answered.
pub enum ReadOutcome {
    /// The reply is in the buffer.
    Done,
    /// The answer is too large for the loop: run this elsewhere (it holds a consistent view of its own) and send
    /// what it writes.
    Deferred(DeferredRead),
}

impl std::fmt::Debug for ReadOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ReadOutcome::Done => "Done",
            ReadOutcome::Deferred(_) => "Deferred",
        })
    }
}

/// A deterministic service, kept alive on two machines.
///
/// Operations and replies are bytes, so that the hot path copies nothing: a machine chooses its own encoding.
/// Nothing that arrives in an operation may panic; if something does, the panic is caught, named, and becomes the
/// operation's reply on every replica alike.
pub trait StateMachine: Sized + Send + 'static {
    /// A consistent view of the whole state, cheap to take and readable from another thread.
    type Snapshot: Snapshot;
    /// A machine in the making, fed with the chunks of a snapshot.
    type Restore: Restore<Machine = Self>;

    /// Name and version, compared in handshakes.
    fn identity() -> Identity;

    /// Called once, while the group's very first entry is applied: draw here what all replicas must share, a hash
    /// seed for one.
    fn genesis(&mut self, env: &mut Env<'_>) {
        let _ = env;
    }

    /// Whether `operation` may change the state. Of an operation that makes no sense either answer will do.
    fn access(operation: &[u8]) -> Access;

    /// A short name of `operation` for logs and errors.
    fn name(operation: &[u8]) -> String {
        format!("an operation of {} bytes", operation.len())
    }

    /// Executes `operation` and appends its reply to `reply`. The outside world is reached through `env` only;
    /// what the operation changed is reported to [`Env::changed`].
    fn apply(&mut self, operation: &[u8], env: &mut Env<'_>, reply: &mut Vec<u8>);

    /// Operations that are about to be applied, in this order: a machine whose state is much larger than a processor's
    /// caches may read for all of them at once what each would otherwise wait for. Nothing may depend on it.
    fn approach(&self, operations: &[&[u8]]) {
        let _ = operations;
    }

    /// Answers `operation` without changing anything; hides what is past [`ReadEnv::now`].
    fn read(&self, operation: &[u8], env: &ReadEnv<'_>, reply: &mut Vec<u8>) -> ReadOutcome;

    /// The group clock at which [`Self::expire`] next has something to do.
    fn next_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// Removes at most `budget` things whose deadline is at or before [`Env::now`]. Called while applying an
    /// `Expire` entry, and never otherwise.
    fn expire(&mut self, env: &mut Env<'_>, budget: usize) {
        let _ = (env, budget);
    }

    /// Takes a consistent view of the state. Must be quick whatever the size: clone a root, not the data.
    fn snapshot(&self) -> Self::Snapshot;

    /// A machine to be filled from a snapshot's chunks.
    fn restore() -> Self::Restore;

    /// Bytes of memory that the state takes, roughly; 0 when the machine does not count them.
    fn memory(&self) -> u64 {
        0
    }

    /// How many entries the state has, for people; nothing when the machine does not count them.
    fn entries(&self) -> Entries {
        Entries::default()
    }
}

/// What [`StateMachine::entries`] counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entries {
    /// All of them.
    pub all: u64,
    /// Those with a deadline.
    pub expiring: u64,
}

/// The consistent view behind a state transfer, a snapshot on disk, or a digest.
pub trait Snapshot: Send + 'static {
    /// The next chunk, of about `target` bytes, or `None` at the end. The chunks of equal states, read with equal
    /// targets, are equal byte for byte.
    fn next_chunk(&mut self, target: usize) -> Option<Vec<u8>>;

    /// How much of it the chunks read so far contain; for progress.
    fn progress(&self) -> Progress {
        Progress::default()
    }

    /// Bytes that all chunks together will have, roughly; for progress.
    fn estimated_bytes(&self) -> u64 {
        0
    }
}

/// How far the reading of a snapshot has got, in the machine's own entries; 0 of 0 for a machine that does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Entries read.
    pub entries: u64,
    /// Entries in all.
    pub of_entries: u64,
}

/// A machine in the making. It may move from thread to thread between chunks.
pub trait Restore: Send + 'static {
    /// What it becomes.
    type Machine;

    /// Takes the next chunk, in the order in which the snapshot gave them.
    ///
    /// # Errors
    /// Says what is wrong with the chunk. The restore cannot go on.
    fn chunk(&mut self, chunk: &[u8]) -> Result<(), String>;

    /// The machine, after the last chunk. Must be quick whatever the size: `chunk` is where the work is done.
    ///
    /// # Errors
    /// Says what is missing.
    fn finish(self) -> Result<Self::Machine, String>;
}
