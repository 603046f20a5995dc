//! What is done with everything that a core wants durable: in order, one thing after the other, and what has gathered
//! while the disk was busy is one write and, in `sync`, one sync: group commit.
//!
//! Deliberately not here: the thread and its queue (the daemon; the simulator has its own), what is asked for and what
//! waits for it (the core), and when a snapshot's next piece is written.

use bytes::Bytes;
use cutover_arbiter::record::{Index, Position};

use super::directory::{Claim, Directory, Fate, Write};
use super::disk::{Disk, DiskError};
use super::error::JournalError;
use super::reader::{LogReader, Older, Wanted};
use super::snapshot::{SnapshotPart, SnapshotWriter};
use crate::machine::Snapshot;
use crate::protocol::entry::Block;

/// Bytes that are made by whoever has time for it.
pub struct Later(Box<dyn FnOnce() -> Bytes + Send>);

impl Later {
    /// They come of this.
    pub fn new(make: impl FnOnce() -> Bytes + Send + 'static) -> Self {
        Self(Box::new(make))
    }

    /// Makes them.
    pub fn make(self) -> Bytes {
        (self.0)()
    }
}

impl std::fmt::Debug for Later {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Later")
    }
}

/// What the disk is asked for; numbers are the core's.
#[derive(Debug)]
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
    /// A snapshot beside what is there, written piece by piece while other work goes on.
    Snapshot {
        /// Told when it is written.
        ticket: u64,
        /// The last entry in it.
        position: Position,
        /// The core's own state.
        core: Later,
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
    /// Entries from the journal, while other work goes on.
    Read {
        /// Told with what was read.
        ticket: u64,
        /// Which.
        wanted: Wanted,
    },
    /// What an older state can be made of, for whoever has time to make it.
    GoBack {
        /// Told with what there is.
        ticket: u64,
        /// Up to where.
        wanted: Wanted,
    },
    /// A snapshot is not wanted any more.
    Abandon(Index),
    /// Leave the clean-shutdown mark and end.
    Close,
}

impl<S> Work<S> {
    /// Bytes of the entries that are to be written.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Write { write, .. } => write.bytes(),
            _ => 0,
        }
    }
}

/// What is done at once.
#[derive(Debug)]
pub enum Job<S> {
    /// Entries that had gathered.
    Entries {
        /// Of the last of them.
        sequence: u64,
        /// In order.
        writes: Vec<Write>,
        /// Known to be committed.
        commit: Index,
    },
    /// Anything else is by itself.
    One(Work<S>),
}

impl<S> Job<S> {
    /// Bytes of the entries that are written.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Entries { writes, .. } => writes.iter().map(Write::bytes).sum(),
            Self::One(work) => work.bytes(),
        }
    }

    /// Takes `first` and all entries that wait right behind it; returns what came after them, too.
    pub fn gather(first: Work<S>, mut next: impl FnMut() -> Option<Work<S>>) -> (Self, Option<Work<S>>) {
        let Work::Write { mut sequence, write, mut commit } = first else { return (Self::One(first), None) };
        let mut writes = vec![write];
        let mut after = None;
        while let Some(work) = next() {
            match work {
                Work::Write { sequence: later, write, commit: known } => {
                    // The newest knowledge: less than before only when a seizure has made it less.
                    (sequence, commit) = (later, known);
                    writes.push(write);
                }
                other => {
                    after = Some(other);
                    break;
                }
            }
        }
        (Self::Entries { sequence, writes, commit }, after)
    }
}

/// What came of a job.
#[derive(Debug)]
pub enum Done<D: Disk, S> {
    /// This and everything before it is durable.
    Persisted(u64),
    /// A snapshot was begun, for whoever has time to write it.
    Begun(Writing<D, S>),
    /// Entries are to be read, by whoever has time for it: they were written before.
    Reading(Reading<D>),
    /// An older state is to be made, by whoever has time for it, of what was written before.
    Older(Older<D>),
    /// The snapshot of this index is not wanted: whoever writes it stops.
    Abandoned(Index),
    /// The mark is there, and nothing may follow it.
    Closed,
}

/// Does what the disk is asked for.
#[derive(Debug)]
pub struct Keeper<D: Disk>(Option<Directory<D>>);

impl<D: Disk> Keeper<D> {
    /// For a directory that was claimed for this life.
    pub fn new(directory: Directory<D>) -> Self {
        Self(Some(directory))
    }

    /// Does it.
    ///
    /// # Errors
    /// The disk failed. Final: nothing is done any more.
    pub fn run<S>(&mut self, job: Job<S>) -> Result<Done<D, S>, JournalError> {
        let directory = self.0.as_mut().ok_or(JournalError::Failed)?;
        match job {
            Job::Entries { sequence, writes, commit } => {
                directory.write(writes, commit)?;
                Ok(Done::Persisted(sequence))
            }
            Job::One(Work::Write { sequence, write, commit }) => {
                directory.write(vec![write], commit)?;
                Ok(Done::Persisted(sequence))
            }
            Job::One(Work::Claim { sequence, claim, fate }) => {
                directory.claim(claim, fate)?;
                Ok(Done::Persisted(sequence))
            }
            Job::One(Work::Snapshot { ticket, position, core, snapshot }) => {
                let writer = directory.begin_snapshot(position)?;
                Ok(Done::Begun(Writing {
                    ticket,
                    index: position.index,
                    writer,
                    core: Some(core),
                    rest: Bytes::new(),
                    snapshot,
                }))
            }
            Job::One(Work::Read { ticket, wanted }) => {
                Ok(Done::Reading(Reading { ticket, reader: directory.reader(), wanted }))
            }
            Job::One(Work::GoBack { ticket, wanted }) => Ok(Done::Older(directory.older(ticket, wanted))),
            Job::One(Work::Install { sequence, position, keep }) => {
                directory.install_snapshot(position, keep)?;
                Ok(Done::Persisted(sequence))
            }
            Job::One(Work::Abandon(index)) => {
                directory.abandon_snapshot(index)?;
                Ok(Done::Abandoned(index))
            }
            Job::One(Work::Close) => {
                self.0.take().ok_or(JournalError::Failed)?.close()?;
                Ok(Done::Closed)
            }
        }
    }
}

/// Entries on their way back from the journal.
#[derive(Debug)]
pub struct Reading<D: Disk> {
    /// Of the core's question.
    pub ticket: u64,
    reader: LogReader<D>,
    wanted: Wanted,
}

impl<D: Disk> Reading<D> {
    /// Reads them, as far as one segment has them; nothing when they are gone.
    ///
    /// # Errors
    /// The disk failed.
    pub fn run(&self) -> Result<Vec<Block>, DiskError> {
        self.reader.read(&self.wanted)
    }
}

/// A snapshot on its way to the disk.
#[derive(Debug)]
pub struct Writing<D: Disk, S> {
    /// Of the core's question.
    pub ticket: u64,
    /// The last entry in it.
    pub index: Index,
    writer: SnapshotWriter<D>,
    core: Option<Later>,
    /// What of the core's state is not written yet.
    rest: Bytes,
    snapshot: S,
}

impl<D: Disk, S: Snapshot> Writing<D, S> {
    /// Writes a piece of about `target` bytes; false when there was none left.
    ///
    /// # Errors
    /// The disk failed; the snapshot is worth nothing.
    pub fn step(&mut self, target: usize) -> Result<bool, DiskError> {
        if let Some(core) = self.core.take() {
            self.rest = core.make();
        }
        // In pieces: the kept replies of many sessions may be longer than any piece that is believed.
        let part = if self.rest.is_empty() {
            match self.snapshot.next_chunk(target) {
                Some(chunk) => SnapshotPart::Machine(chunk.into()),
                None => return Ok(false),
            }
        } else {
            SnapshotPart::Core(self.rest.split_to(self.rest.len().min(target.max(1))))
        };
        self.writer.part(&part).map(|()| true)
    }

    /// Completes it, beside what is there; returns its length in bytes.
    ///
    /// # Errors
    /// The disk failed; the snapshot is worth nothing.
    pub fn finish(self) -> Result<u64, DiskError> {
        self.writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::memory_disk::MemoryDisk;
    use crate::journal::{Kept, Opening};
    use crate::protocol::entry::{Block, Payload, begin, finish, put};
    use cutover_arbiter::record::{Epoch, GroupId, Incarnation, Mode};

    fn open(disk: &MemoryDisk) -> (Directory<MemoryDisk>, Option<crate::journal::Found<MemoryDisk>>) {
        let machine = crate::machine::Identity { name: "test".into(), version: 1 };
        let (group, replica) = ("g".parse().unwrap(), "r1".parse().unwrap());
        let opening = Opening { group, replica, machine, boot: 1, salt: 7, segment_bytes: 2000 };
        Directory::open(disk.clone(), opening).unwrap()
    }

    #[test]
    fn who_restarts_before_it_knows_its_group_keeps_its_journal_where_it_belongs() {
        let disk = MemoryDisk::default();
        let unknown =
            Claim { incarnation: Incarnation(1), group_id: None, mode: None, epoch: Epoch(0), fenced_from: None };
        open(&disk).0.claim(unknown, Fate::Kept).unwrap();
        let mut directory = open(&disk).0;
        let known = Claim { group_id: Some(GroupId(9)), mode: Some(Mode::Sync), epoch: Epoch(1), ..unknown };
        directory.claim(known, Fate::Kept).unwrap();
        let mut bytes = Vec::new();
        let start = begin(&mut bytes);
        put(&mut bytes, 1, &Payload::Operation { mark: None, carried: vec![], operation: b"x" }, b"");
        finish(&mut bytes, start, 0);
        let block = Block { epoch: Epoch(1), first: 1, count: 1, bytes: bytes.into() };
        directory.write(vec![Write { cut: None, blocks: vec![block] }], 0).unwrap();
        drop(directory);
        let found = open(&disk).1.unwrap();
        assert_eq!((found.kept, found.blocks.len()), (Kept::Yes, 1));
        assert!(disk.files().iter().all(|file| !file.starts_with("journal-")));
    }
}
