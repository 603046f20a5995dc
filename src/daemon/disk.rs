//! The disk's own thread: everything that the core wants durable goes through its queue, in order, and the loop never
//! waits. What has gathered while the disk was busy is one write and, in `sync`, one sync: group commit.
//!
//! Deliberately not here: what is written (`journal`), and what must wait for it (the core).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as blocking;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cutover_arbiter::record::{Index, Position};
use tokio::sync::mpsc;

use crate::journal::{DiskError, Fate, JournalError, SnapshotPart, SnapshotWriter, Wanted, Write};
use crate::machine::Snapshot;
use crate::replica::Claim;

use super::data::{Owned, on_disk};
use super::file_disk::FileDisk;
use super::side::Message;
use super::workers::give_way;

/// How long a process that stops waits for its disk.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one piece of a snapshot, roughly.
const SNAPSHOT_CHUNK: usize = 64 << 10;

/// What the disk is asked for; numbers are the core's.
pub enum Work<S> {
    /// Entries, after a cut.
    Write {
        /// Told when it is done.
        sequence: u64,
        /// What to write.
        write: Write,
        /// Known to be committed.
        commit: Index,
    },
    /// What this replica is.
    Claim {
        /// Told when it is done.
        sequence: u64,
        /// What it is.
        claim: Claim,
        /// What becomes of the state.
        fate: Fate,
    },
    /// A snapshot beside what is there, on a thread of its own.
    Snapshot {
        /// Told when it is written.
        ticket: u64,
        /// The last entry in it.
        position: Position,
        /// The core's own state.
        core: Bytes,
        /// The machine's.
        snapshot: S,
    },
    /// A written snapshot into its place.
    Install {
        /// Told when it is done.
        sequence: u64,
        /// The last entry in it.
        position: Position,
        /// Entries beyond this one stay.
        keep: Index,
    },
    /// Entries from the journal, on a thread of their own.
    Read {
        /// Told with what was read.
        ticket: u64,
        /// Which.
        wanted: Wanted,
    },
    /// A snapshot is not wanted any more.
    Abandon(Index),
    /// Leave the clean-shutdown mark and end.
    Close,
}

/// The loop's end of the queue.
pub struct Queue<S>(blocking::Sender<Work<S>>);

impl<S> Clone for Queue<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Queue<S> {
    /// Asks for something. What is unacknowledged bounds how much may wait.
    pub fn push(&self, work: Work<S>) {
        // A thread that has ended has told why.
        let _ = self.0.send(work);
    }
}

/// The thread, for whoever waits for its end.
pub struct DiskThread<S> {
    queue: Queue<S>,
    /// Closes when the thread has ended.
    alive: blocking::Receiver<()>,
}

impl<S: Snapshot> DiskThread<S> {
    /// Starts it; what it does goes to `messages`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(owned: Owned, messages: mpsc::Sender<Message>) -> std::io::Result<Self> {
        let (queue, works) = blocking::channel();
        let (living, alive) = blocking::channel();
        thread::Builder::new().name("cutover-disk".into()).spawn(move || {
            let _living = living;
            let worker = Worker { owned, messages: messages.clone(), writing: None };
            // A defect here is told like a failed disk: nothing more is promised.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run(&works)));
            let reason = match done {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => String::from("the disk's thread ended on a defect of its own; please report it"),
            };
            tracing::error!(reason, "journal.failed");
            // Without a loop nobody is waiting.
            let _ = messages.blocking_send(Message::DiskFailed(reason));
        })?;
        Ok(Self { queue: Queue(queue), alive })
    }

    /// For the loop.
    pub fn queue(&self) -> Queue<S> {
        self.queue.clone()
    }

    /// After the loop has ended in order: leaves the mark that says so.
    pub fn close(self) {
        self.queue.push(Work::Close);
        self.end();
    }

    /// After the loop has ended otherwise: what it asked for is still done. A disk that hangs is not waited for.
    pub fn end(self) {
        drop(self.queue);
        if self.alive.recv_timeout(PATIENCE) == Err(blocking::RecvTimeoutError::Timeout) {
            tracing::warn!("disk.hangs the process ends without the mark of an orderly end");
        }
    }
}

struct Worker {
    owned: Owned,
    messages: mpsc::Sender<Message>,
    /// The snapshot being written, and how to stop it.
    writing: Option<(Index, Arc<AtomicBool>)>,
}

impl Worker {
    fn run<S: Snapshot>(mut self, works: &blocking::Receiver<Work<S>>) -> Result<(), JournalError> {
        let mut next = works.recv().ok();
        while let Some(work) = next.take() {
            match work {
                Work::Write { sequence, write, commit } => next = self.write(works, sequence, write, commit)?,
                Work::Claim { sequence, claim, fate } => {
                    self.owned.directory.claim(on_disk(claim), fate)?;
                    self.done(sequence);
                }
                Work::Snapshot { ticket, position, core, snapshot } => {
                    let writer = self.owned.directory.begin_snapshot(position)?;
                    self.write_snapshot(writer, position.index, ticket, core, snapshot);
                }
                Work::Read { ticket, wanted } => self.read_back(ticket, wanted),
                Work::Install { sequence, position, keep } => {
                    self.owned.directory.install_snapshot(position, keep)?;
                    self.done(sequence);
                }
                Work::Abandon(index) => {
                    if let Some((_, stop)) = self.writing.take_if(|(writing, _)| *writing == index) {
                        stop.store(true, Ordering::Relaxed);
                    }
                    self.owned.directory.abandon_snapshot(index)?;
                }
                Work::Close => return self.owned.directory.close(),
            }
            if next.is_none() {
                next = works.recv().ok();
            }
        }
        Ok(())
    }

    /// Writes this and all writes that are waiting behind it; returns what came after them.
    fn write<S: Snapshot>(
        &mut self,
        works: &blocking::Receiver<Work<S>>,
        first: u64,
        write: Write,
        commit: Index,
    ) -> Result<Option<Work<S>>, JournalError> {
        let (mut last, mut highest, mut writes) = (first, commit, vec![write]);
        let mut after = None;
        while let Ok(work) = works.try_recv() {
            match work {
                Work::Write { sequence, write, commit } => {
                    (last, highest) = (sequence, highest.max(commit));
                    writes.push(write);
                }
                other => {
                    after = Some(other);
                    break;
                }
            }
        }
        let began = Instant::now();
        self.owned.directory.write(writes, highest)?;
        self.tell(Message::Persisted { sequence: last, took: Some(began.elapsed()) });
        Ok(after)
    }

    /// What is read was written before: the disk's own thread need not wait for it.
    fn read_back(&self, ticket: u64, wanted: Wanted) {
        let (reader, messages) = (self.owned.directory.reader(), self.messages.clone());
        let spawned = thread::Builder::new().name("cutover-log".into()).spawn(move || {
            let message = match reader.read(&wanted) {
                Ok(blocks) => Message::LogRead { ticket, blocks },
                Err(error) => Message::DiskFailed(JournalError::from(error).to_string()),
            };
            // Without a loop nobody is waiting.
            let _ = messages.blocking_send(message);
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "log.unread no thread for it");
            self.tell(Message::LogRead { ticket, blocks: Vec::new() });
        }
    }

    fn done(&self, sequence: u64) {
        self.tell(Message::Persisted { sequence, took: None });
    }

    fn tell(&self, message: Message) {
        if let Err(mpsc::error::TrySendError::Full(message)) = self.messages.try_send(message) {
            // Without a loop nobody is waiting.
            let _ = self.messages.blocking_send(message);
        }
    }

    fn write_snapshot<S: Snapshot>(
        &mut self,
        writer: SnapshotWriter<FileDisk>,
        index: Index,
        ticket: u64,
        core: Bytes,
        snapshot: S,
    ) {
        let stop = Arc::new(AtomicBool::new(false));
        self.writing = Some((index, Arc::clone(&stop)));
        let messages = self.messages.clone();
        let spawned = thread::Builder::new().name("cutover-snapshot".into()).spawn(move || {
            let began = Instant::now();
            let message = match write_parts(writer, core, snapshot, &stop) {
                Ok(None) => return,
                Ok(Some(bytes)) => {
                    let took_ms = began.elapsed().as_millis() as u64;
                    tracing::info!(index, bytes, took_ms, "snapshot.written");
                    Message::SnapshotWritten(ticket)
                }
                Err(error) => Message::DiskFailed(JournalError::from(error).to_string()),
            };
            let _ = messages.blocking_send(message);
        });
        if let Err(error) = spawned {
            self.tell(Message::DiskFailed(format!("the system has no thread for a snapshot: {error}")));
        }
    }
}

/// Writes all parts; returns the length in bytes, or `None` when it was told to stop.
fn write_parts(
    mut writer: SnapshotWriter<FileDisk>,
    core: Bytes,
    mut snapshot: impl Snapshot,
    stop: &AtomicBool,
) -> Result<Option<u64>, DiskError> {
    writer.part(&SnapshotPart::Core(core))?;
    while let Some(chunk) = snapshot.next_chunk(SNAPSHOT_CHUNK) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        writer.part(&SnapshotPart::Machine(chunk.into()))?;
        give_way();
    }
    writer.finish().map(Some)
}
