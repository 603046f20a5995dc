//! The journal read while it is being written: entries that the log in memory holds no longer, for a follower that is
//! behind.
//!
//! Or everything that an older state can be made of: [`Older`].
//!
//! What stands for an index is told by its epoch: (epoch, index) names one entry for ever, so cuts and what was cut need
//! no second thought here. A segment may go, or grow, at any time meanwhile: what is not found is gone.

use std::io::ErrorKind;

use cutover_arbiter::record::{Epoch, Index};

use super::disk::{Disk, DiskError};
use super::error::JournalError;
use super::record::{At, Record, SEGMENT_HEAD, SegmentHead, read};
use super::scan::contents;
use super::segments::{name, number};
use super::snapshot::{self, SnapshotReader};
use crate::protocol::entry::Block;

/// Which entries are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The first.
    pub from: Index,
    /// The last.
    pub upto: Index,
    /// Where each epoch of the log begins, as far as it matters for these.
    pub starts: Vec<(Epoch, Index)>,
}

impl Wanted {
    /// The epoch of the entry at `index`, and the last index that is certainly of it.
    fn epoch_at(&self, index: Index) -> Option<(Epoch, Index)> {
        let after = self.starts.partition_point(|(_, first)| *first <= index);
        let end = self.starts.get(after).map_or(self.upto, |(_, first)| (first - 1).min(self.upto));
        Some((self.starts.get(after.checked_sub(1)?)?.0, end))
    }
}

/// The reading end of a journal.
#[derive(Debug)]
pub struct LogReader<D: Disk> {
    disk: D,
    directory: String,
}

impl<D: Disk> LogReader<D> {
    pub(super) fn new(disk: D, directory: String) -> Self {
        Self { disk, directory }
    }

    /// What of the wanted entries stands in the first segment that holds any, without a gap from the first one on;
    /// nothing when that one is gone.
    ///
    /// # Errors
    /// The disk failed.
    pub fn read(&self, wanted: &Wanted) -> Result<Vec<Block>, DiskError> {
        let Some(names) = there(self.disk.list(&self.directory))? else { return Ok(Vec::new()) };
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        let mut bases = Vec::with_capacity(numbers.len());
        for number in &numbers {
            bases.push(self.base(*number)?);
        }
        for (at, number) in numbers.iter().enumerate() {
            // A segment's base is the highest index that ever stood in the one before.
            if bases.get(at + 1).copied().flatten().is_some_and(|highest| highest < wanted.from) {
                continue;
            }
            let found = self.segment(*number, wanted)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    fn path(&self, number: u64) -> String {
        format!("{}/{}", self.directory, name(number))
    }

    fn base(&self, number: u64) -> Result<Option<Index>, DiskError> {
        let Some(file) = there(self.disk.open(&self.path(number)))? else { return Ok(None) };
        let mut head = [0; SEGMENT_HEAD];
        let length = self.disk.read(&file, 0, &mut head)?;
        Ok(SegmentHead::decode(&head[..length]).ok().map(|head| head.base))
    }

    fn segment(&self, number: u64, wanted: &Wanted) -> Result<Vec<Block>, DiskError> {
        let Some(bytes) = there(contents(&self.disk, &self.path(number)))? else { return Ok(Vec::new()) };
        let Ok(head) = SegmentHead::decode(&bytes) else { return Ok(Vec::new()) };
        let (mut at, mut next, mut found) = (SEGMENT_HEAD, wanted.from, Vec::new());
        // The last record may be half written; what is wanted stands before it.
        while next <= wanted.upto
            && at < bytes.len()
            && let At::Record(record, length) = read(head.seed(), &bytes.slice(at..))
        {
            at += length;
            let Record::Batch { blocks, .. } = record else { continue };
            for block in blocks {
                let Some((epoch, end)) = wanted.epoch_at(next).filter(|_| next <= wanted.upto) else { break };
                let fits = block.epoch == epoch && block.first <= next;
                if let Some(block) = block.from(next).and_then(|rest| rest.upto(end)).filter(|_| fits) {
                    next = block.last() + 1;
                    found.push(block);
                }
            }
        }
        Ok(found)
    }
}

/// The snapshots of this life at or below an index, and the journal after each: an older state can be made of them.
#[derive(Debug)]
pub struct Older<D: Disk> {
    /// Of the core's question.
    pub ticket: u64,
    /// Newest first.
    snapshots: Vec<Index>,
    reader: LogReader<D>,
    wanted: Wanted,
}

impl<D: Disk> Older<D> {
    pub(super) fn new(ticket: u64, snapshots: Vec<Index>, reader: LogReader<D>, wanted: Wanted) -> Self {
        Self { ticket, snapshots, reader, wanted }
    }

    /// The last entry of the state that is wanted.
    pub fn upto(&self) -> Index {
        self.wanted.upto
    }

    /// Snapshots that may serve, newest first.
    pub fn snapshots(&self) -> &[Index] {
        &self.snapshots
    }

    /// Opens one of them.
    ///
    /// # Errors
    /// It is gone or damaged, the disk failed, or its last entry is not the one that the log has there.
    pub fn snapshot(&self, index: Index) -> Result<SnapshotReader<D>, JournalError> {
        let path = format!("{}/{}", self.reader.directory, snapshot::name(index));
        let reader = SnapshotReader::open(self.reader.disk.clone(), &path)?;
        let position = reader.head().position;
        let ours = self.wanted.epoch_at(index).map(|(epoch, _)| epoch);
        if position.index != index || Some(position.epoch) != ours {
            let what =
                format!("it ends with entry {} of epoch {}, which the log lacks", position.index, position.epoch);
            return Err(JournalError::damaged(&path, 0, what));
        }
        Ok(reader)
    }

    /// Entries of the log from `from` on, as far as they are at hand; nothing when they are gone.
    ///
    /// # Errors
    /// The disk failed.
    pub fn entries(&self, from: Index) -> Result<Vec<Block>, DiskError> {
        self.reader.read(&Wanted { from, ..self.wanted.clone() })
    }
}

/// A file or directory that is not there is no failure of the disk.
fn there<T>(result: Result<T, DiskError>) -> Result<Option<T>, DiskError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
