//! The journal: segments that are only ever appended to, and how they are read back after a crash.

use std::collections::{BTreeMap, VecDeque};

use cutover_arbiter::planted;
use cutover_arbiter::record::{Epoch, Index, Mode, Position};

use super::disk::{Disk, DiskError};
use super::doubt;
use super::error::JournalError;
use super::identity::End;
use super::record::{self, LONGEST_BATCH, LONGEST_BODY, Record, SEGMENT_HEAD, SegmentHead};
use super::scan::{Ending, Scanned, Segment, UNSYNCED, scan};
use crate::protocol::entry::Block;

const PREFIX: &str = "journal-";

/// Why an incarnation ends whose journal is not whole.
const SYNC_FAILED: &str = "a sync of its disk failed, and not all of what it had acknowledged is there";

pub(super) fn name(number: u64) -> String {
    format!("{PREFIX}{number:012}")
}

pub(super) fn number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX).and_then(|digits| digits.parse().ok())
}

/// The writing end of a journal.
#[derive(Debug)]
pub(super) struct Segments<D: Disk> {
    disk: D,
    directory: String,
    salt: u64,
    /// Bytes after which a segment is full.
    limit: u64,
    current: Option<Current<D>>,
    /// Those before it, oldest first.
    sealed: VecDeque<Sealed>,
    /// The newest sealed one, when it is not synced yet.
    unsynced: Option<Current<D>>,
    next: u64,
    last: Position,
}

#[derive(Debug)]
struct Current<D: Disk> {
    number: u64,
    file: D::File,
    seed: u32,
    length: u64,
    highest: Index,
}

#[derive(Debug, Clone, Copy)]
struct Sealed {
    number: u64,
    /// The highest index that ever stood in it.
    highest: Index,
    length: u64,
}

/// A journal, read back.
#[derive(Debug)]
pub(super) struct Recovered<D: Disk> {
    pub(super) segments: Segments<D>,
    /// The entries after the snapshot.
    pub(super) blocks: Vec<Block>,
    /// Known to be committed when the last record was written.
    pub(super) commit: Index,
    /// Why something may be missing that was promised.
    pub(super) lost: Option<&'static str>,
    /// What was done to the files, for the log.
    pub(super) notes: Vec<String>,
}

/// How the last run ended and from where the journal goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    pub(super) ending: Ending,
    pub(super) end: Option<End>,
    pub(super) snapshot: Option<Position>,
    /// So many of the last segments may hold what was promised and never synced.
    pub(super) unsynced: usize,
}

impl<D: Disk> Segments<D> {
    /// A journal in an empty directory.
    pub(super) fn new(disk: D, directory: &str, salt: u64, limit: u64, last: Position) -> Self {
        Self {
            disk,
            directory: directory.to_owned(),
            salt,
            limit,
            current: None,
            sealed: VecDeque::new(),
            unsynced: None,
            next: 1,
            last,
        }
    }

    fn path(&self, number: u64) -> String {
        format!("{}/{}", self.directory, name(number))
    }

    /// The last entry.
    pub(super) fn last(&self) -> Position {
        self.last
    }

    /// A journal that holds nothing goes on after a snapshot. What was cut in it to the very beginning goes.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn begins_after(&mut self, position: Position) -> Result<(), DiskError> {
        if self.last != Position::default() {
            return Ok(());
        }
        self.last = position;
        self.unsynced = None;
        let current = self.current.take().map(|current| current.number);
        let numbers: Vec<u64> = self.sealed.drain(..).map(|sealed| sealed.number).chain(current).collect();
        if numbers.is_empty() { Ok(()) } else { self.drop_from(&numbers).map(drop) }
    }

    /// Appends blocks; in `sync` they are on the device when this returns.
    ///
    /// # Errors
    /// The disk refused, or a block is longer than [`Self::recover`] would believe: nothing of it is written then, for
    /// what is written and cannot be read back would be called damage, or cut, after it was acknowledged.
    pub(super) fn append(&mut self, mode: Mode, blocks: &[Block], commit: Index) -> Result<(), JournalError> {
        let mut rest = blocks;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|block| {
                bytes += block.bytes.len();
                bytes <= LONGEST_BATCH
            });
            let (batch, later) = rest.split_at(fits.count().max(1));
            self.append_batch(mode, batch, commit)?;
            rest = later;
        }
        Ok(())
    }

    fn append_batch(&mut self, mode: Mode, batch: &[Block], commit: Index) -> Result<(), JournalError> {
        let bytes = record::body(batch);
        if bytes > LONGEST_BODY {
            let first = batch.first().map_or(0, |block| block.first);
            return Err(JournalError::TooLong { first, bytes, limit: LONGEST_BODY });
        }
        let after = self.last;
        for block in batch {
            assert!(
                block.first == self.last.index + 1 && block.epoch >= self.last.epoch,
                "a journal has no gap and no falling epoch"
            );
            self.last = Position { epoch: block.epoch, index: block.last() };
        }
        let highest = self.last.index;
        let current = self.ready(mode, after)?;
        let encoded = record::batch(current.seed, batch, commit);
        current.length += encoded.length as u64;
        current.highest = current.highest.max(highest);
        Ok(self.write(mode, &encoded)?)
    }

    /// Everything beyond `keep` is gone, as durably as an append.
    pub(super) fn cut(&mut self, mode: Mode, keep: Position) -> Result<(), DiskError> {
        if keep.index >= self.last.index {
            return Ok(());
        }
        let after = std::mem::replace(&mut self.last, keep);
        let current = self.ready(mode, after)?;
        let encoded = record::cut(current.seed, keep);
        current.length += encoded.length as u64;
        self.write(mode, &encoded)
    }

    fn write(&mut self, mode: Mode, encoded: &record::Encoded<'_>) -> Result<(), DiskError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let appended = self.disk.append(&mut current.file, &encoded.parts());
        if !planted!("D7") {
            appended?;
        }
        if mode != Mode::Sync || planted!("D6") {
            return Ok(());
        }
        let synced = self.disk.sync(&current.file);
        if planted!("D1") { synced.or_else(|_| self.disk.sync(&current.file)) } else { synced }
    }

    /// The segment to write to; a full one is sealed first. What is written next goes on from `after`.
    fn ready(&mut self, mode: Mode, after: Position) -> Result<&mut Current<D>, DiskError> {
        if let Some(full) = self.current.take_if(|current| current.length >= self.limit) {
            // So that at most two segments are ever unsynced.
            if let Some(before) = self.unsynced.take() {
                self.sync_promised(&before)?;
            }
            self.sealed.push_back(Sealed { number: full.number, highest: full.highest, length: full.length });
            self.unsynced = (mode != Mode::Sync).then_some(full);
        }
        match &mut self.current {
            Some(current) => Ok(current),
            empty => {
                let number = self.next;
                let path = format!("{}/{}", self.directory, name(number));
                let salt = (self.salt ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let base = self.sealed.back().map_or(0, |sealed| sealed.highest);
                let head = SegmentHead { number, salt, base, after };
                let mut file = self.disk.create(&path)?;
                self.disk.reserve(&file, self.limit)?;
                self.disk.append(&mut file, &[&head.encode()])?;
                self.disk.sync(&file)?;
                self.disk.sync_directory(&self.directory)?;
                self.next += 1;
                let length = SEGMENT_HEAD as u64;
                Ok(empty.insert(Current { number, file, seed: head.seed(), length, highest: 0 }))
            }
        }
    }

    /// Syncs what was acknowledged before: a failure is not to be overlooked by the next start.
    fn sync_promised(&self, segment: &Current<D>) -> Result<(), DiskError> {
        doubt::sync(&self.disk, &self.directory, &segment.file, (segment.number, segment.length))
    }

    /// Removes the oldest segments as far as a snapshot at `covered` contains all that is in them.
    pub(super) fn prune(&mut self, covered: Index) -> Result<(), DiskError> {
        let mut removed = false;
        while let Some(oldest) = self.sealed.front().filter(|sealed| sealed.highest <= covered) {
            if self.sealed.len() == 1 {
                // It may be the one that is not synced yet, and need not be any more.
                self.unsynced = None;
            }
            self.disk.remove(&self.path(oldest.number))?;
            self.sealed.pop_front();
            removed = true;
        }
        if removed { self.disk.sync_directory(&self.directory) } else { Ok(()) }
    }

    /// Syncs everything and says where the journal ends.
    pub(super) fn close(&mut self) -> Result<End, DiskError> {
        if let Some(before) = self.unsynced.take() {
            self.sync_promised(&before)?;
        }
        let newest = self.sealed.back().map_or((0, 0), |sealed| (sealed.number, sealed.length));
        let (segment, length) = match &self.current {
            Some(current) => {
                self.sync_promised(current)?;
                (current.number, current.length)
            }
            None => newest,
        };
        Ok(End { segment, length, last: self.last })
    }

    /// Reads back the journal in `directory`, whose files are `names`. Cuts what a crash has torn; anything else that
    /// does not fit is damage.
    pub(super) fn recover(
        disk: &D,
        directory: &str,
        names: &[String],
        (salt, limit): (u64, u64),
        before: Before,
    ) -> Result<Recovered<D>, JournalError> {
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        let mut segments = Self::new(disk.clone(), directory, salt, limit, Position::default());
        let marks = doubt::marks(names);
        settle(&segments, &numbers, before.unsynced, &marks)?;
        let mut assembly = Assembly::new(before.snapshot);
        let mut notes = Vec::new();
        // A marked segment that is not there any more was no good at an earlier start.
        let oldest = numbers.first().copied().unwrap_or_default();
        let gone = marks.keys().any(|marked| *marked >= oldest && !numbers.contains(marked));
        let mut lost = gone.then_some(SYNC_FAILED);
        for (at, &number) in numbers.iter().enumerate() {
            let later = numbers.len() - at - 1;
            let file = segments.path(number);
            if at > 0 && numbers[at - 1] + 1 != number {
                let missing = segments.path(numbers[at - 1] + 1);
                return Err(JournalError::damaged(&missing, 0, "the segment is missing, and later ones exist"));
            }
            let good = marks.get(&number);
            let lenient = before.ending.forgives(later) || good.is_some();
            let mut scanned = match scan(disk, &file, (later, lenient), before.ending)? {
                Segment::Good(scanned) => scanned,
                Segment::Unborn => {
                    let had_begun = good.filter(|good| **good >= SEGMENT_HEAD as u64);
                    lost = lost.or(had_begun.map(|_| SYNC_FAILED));
                    notes.push(segments.drop_from(&numbers[at..])?);
                    break;
                }
            };
            if scanned.head.number != number {
                return Err(JournalError::damaged(&file, 0, format!("it is segment {}", scanned.head.number)));
            }
            let Some(highest) = assembly.take(&file, &scanned, lenient)? else {
                lost = lost.or(good.map(|_| SYNC_FAILED));
                notes.push(segments.drop_from(&numbers[at..])?);
                break;
            };
            if good.is_some_and(|good| scanned.good < *good || (scanned.torn.is_some() && later > 0)) {
                // The journal ends here, even if the file is short by whole records.
                scanned.torn = scanned.torn.or(Some(UNSYNCED));
                lost = Some(SYNC_FAILED);
            }
            lost = lost.or(scanned.unproven);
            if scanned.unproven.is_some() && good.is_none() {
                // What told of it is cut below: the next start must still know, should this one end before its claim.
                disk.create(&format!("{directory}/{}", doubt::name(number, scanned.length)))?;
                disk.sync_directory(directory)?;
            }
            segments.sealed.push_back(Sealed { number, highest, length: scanned.good });
            if let Some(what) = scanned.torn {
                if later > 0 {
                    notes.push(segments.drop_from(&numbers[at + 1..])?);
                }
                segments.truncate(&file, &scanned)?;
                let gone = scanned.length - scanned.good;
                notes.push(format!("{file}: the last {gone} bytes were cut at {}: {what}", scanned.good));
                break;
            }
        }
        segments.next = segments.sealed.back().map_or(1, |sealed| sealed.number + 1);
        segments.check_end(before.end, assembly.last.or(before.snapshot).unwrap_or_default())?;
        let forgives = before.ending == Ending::Unsynced || lost.is_some();
        let blocks = segments.join(assembly, before.snapshot, forgives)?;
        Ok(Recovered { commit: blocks.1, blocks: blocks.0, segments, lost, notes })
    }

    /// Removes segments that hold nothing that anybody may count on: they were never begun, or fit nothing after a loss that
    /// has ended the incarnation. The newest first.
    fn drop_from(&self, numbers: &[u64]) -> Result<String, DiskError> {
        for number in numbers.iter().rev() {
            self.disk.remove(&self.path(*number))?;
        }
        self.disk.sync_directory(&self.directory)?;
        let names: Vec<String> = numbers.iter().map(|number| self.path(*number)).collect();
        Ok(format!("{} removed: behind where the crash has ended the journal", names.join(", ")))
    }

    fn truncate(&self, path: &str, scanned: &Scanned) -> Result<(), DiskError> {
        let mut file = self.disk.open(path)?;
        self.disk.truncate(&mut file, scanned.good)?;
        self.disk.sync(&file)
    }

    fn check_end(&self, end: Option<End>, last: Position) -> Result<(), JournalError> {
        let Some(end) = end else { return Ok(()) };
        let (number, length) = self.sealed.back().map_or((0, 0), |sealed| (sealed.number, sealed.length));
        if (number, length) == (end.segment, end.length) && (number == 0 || last == end.last) {
            return Ok(());
        }
        let what = format!(
            "the journal was closed at {} bytes of segment {}, entry {}, and now ends at {length} bytes of segment {number}, entry {}",
            end.length, end.segment, end.last.index, last.index
        );
        Err(JournalError::damaged(&self.path(end.segment), end.length, what))
    }

    /// Joins what the journal holds to the snapshot: the entries after it. Where what was written may be missing, that
    /// may be a cut: then the tail that it cut is here still, of another epoch than the snapshot's.
    fn join(
        &mut self,
        assembly: Assembly,
        snapshot: Option<Position>,
        forgives: bool,
    ) -> Result<(Vec<Block>, Index), JournalError> {
        let base = snapshot.unwrap_or_default();
        let last = assembly.last();
        let another = assembly.at_snapshot.as_ref().filter(|(epoch, ..)| *epoch != base.epoch);
        if let Some((_, file, offset)) = another.filter(|_| !forgives) {
            let what = format!("entry {} is not the one that the snapshot ends with", base.index);
            return Err(JournalError::damaged(file, *offset, what));
        }
        if last.index < base.index && last.epoch > base.epoch && !forgives {
            let what =
                format!("it ends with entry {} of a later epoch than the snapshot of {}", last.index, base.index);
            let newest = self.sealed.back().map_or(0, |sealed| sealed.number);
            return Err(JournalError::damaged(&self.path(newest), SEGMENT_HEAD as u64, what));
        }
        if last.index < base.index || last == Position::default() || assembly.empty || another.is_some() {
            // The snapshot reaches beyond the journal, or beside it, which is of no more use and would leave a gap; or nothing
            // is left in it, and what comes may go on from a snapshot.
            // The newest first: should this end here, what is left is still the beginning of what was read.
            while let Some(sealed) = self.sealed.back() {
                self.disk.remove(&self.path(sealed.number))?;
                self.sealed.pop_back();
            }
            self.disk.sync_directory(&self.directory)?;
            self.last = base;
            return Ok((Vec::new(), base.index));
        }
        self.last = last;
        let mut blocks: Vec<Block> = assembly.blocks.into();
        if let Some(first) = blocks.first_mut()
            && let Some(rest) = first.from(base.index + 1)
        {
            *first = rest;
        }
        Ok((blocks, assembly.commit.clamp(base.index, last.index)))
    }
}

/// "On start every segment is synced first": what is read and believed is on the device, and stays there.
fn settle<D: Disk>(
    segments: &Segments<D>,
    numbers: &[u64],
    unsynced: usize,
    marks: &BTreeMap<u64, u64>,
) -> Result<(), DiskError> {
    let disk = &segments.disk;
    for (at, number) in numbers.iter().enumerate() {
        let path = segments.path(*number);
        let file = disk.open(&path)?;
        if at + unsynced >= numbers.len() && !marks.contains_key(number) {
            doubt::sync(disk, &segments.directory, &file, (*number, doubt::good(disk, &path)?))?;
        } else {
            disk.sync(&file)?;
        }
        disk.uncache(&file)?;
    }
    segments.disk.sync_directory(&segments.directory)
}

/// The log as the records tell it, one after the other.
struct Assembly {
    blocks: VecDeque<Block>,
    last: Option<Position>,
    commit: Index,
    snapshot: Option<Position>,
    /// Of which epoch the entry is that stands where the snapshot ends, and where it was read.
    at_snapshot: Option<(Epoch, String, u64)>,
    /// The segment before may have lost what stood at its end.
    before_lenient: bool,
    /// No segment holds a record.
    empty: bool,
    /// What is wrong with a segment without records before all others: nothing, if there are none behind it either.
    misfit: Option<JournalError>,
}

impl Assembly {
    fn new(snapshot: Option<Position>) -> Self {
        Self {
            blocks: VecDeque::new(),
            last: None,
            commit: 0,
            snapshot,
            at_snapshot: None,
            before_lenient: false,
            empty: true,
            misfit: None,
        }
    }

    fn last(&self) -> Position {
        self.last.unwrap_or_default()
    }

    /// Takes a segment's records; returns the highest index that stands in it. Nothing where it does not go on from what
    /// was read: the journal ends before it.
    ///
    /// # Errors
    /// It fits nothing, and no loss explains that.
    fn take(&mut self, file: &str, scanned: &Scanned, lenient: bool) -> Result<Option<Index>, JournalError> {
        let may_lack = std::mem::replace(&mut self.before_lenient, lenient) && lenient;
        if let Some(misfit) = self.misfit.take_if(|_| !scanned.records.is_empty()) {
            return Err(misfit);
        }
        match self.goes_on(file, scanned.head.after, may_lack) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(misfit) if scanned.records.is_empty() && self.empty => _ = self.misfit.get_or_insert(misfit),
            Err(misfit) => return Err(misfit),
        }
        self.empty &= scanned.records.is_empty();
        let mut highest = 0;
        for (offset, record) in &scanned.records {
            match record {
                Record::Batch { blocks, commit } => {
                    for block in blocks {
                        self.push(file, *offset, block)?;
                        highest = highest.max(block.last());
                    }
                    self.commit = self.commit.max(*commit);
                }
                Record::Cut { keep } if !self.holds(*keep) => {
                    let what = format!(
                        "everything beyond entry {} of epoch {} is cut, and that is not in it",
                        keep.index, keep.epoch
                    );
                    return Err(JournalError::damaged(file, *offset, what));
                }
                Record::Cut { keep } => self.cut(*keep),
            }
        }
        // What the snapshot contains need not be held while the rest is read.
        let covered = self.snapshot.unwrap_or_default().index;
        while self.blocks.front().is_some_and(|block| block.last() <= covered) {
            self.blocks.pop_front();
        }
        Ok(Some(highest))
    }

    /// True when a segment that was begun `after` this entry goes on from what was read. What fits by its index alone may
    /// follow other entries in its place: those that were cut by a record that is lost.
    ///
    /// # Errors
    /// It does not, and the segment before cannot have lost anything.
    fn goes_on(&mut self, file: &str, after: Position, may_lack: bool) -> Result<bool, JournalError> {
        let snapshot = self.snapshot.unwrap_or_default();
        let fits = self.last.map_or(after.index <= snapshot.index, |last| last == after);
        if !fits {
            if !may_lack {
                let (index, epoch) = (after.index, after.epoch);
                let what = match self.last {
                    Some(Position { index: last, epoch: of }) => {
                        format!("it goes on from entry {index} of epoch {epoch}, and behind entry {last} of epoch {of}")
                    }
                    None => format!(
                        "it begins behind entry {index}, but there is no good snapshot that reaches so far; the newest is of {}",
                        snapshot.index
                    ),
                };
                return Err(JournalError::damaged(file, 0, what));
            }
            return Ok(false);
        }
        if after.index == snapshot.index {
            self.at_snapshot = Some((after.epoch, file.to_owned(), 0));
        }
        self.last = Some(after);
        Ok(true)
    }

    /// True when an entry stands in what was read, as far as that is still known: what the snapshot contains is not held.
    fn holds(&self, entry: Position) -> bool {
        let last = self.last();
        let held = self.blocks.iter().rev().find(|block| (block.first..=block.last()).contains(&entry.index));
        let at_snapshot = self.at_snapshot.as_ref().filter(|_| self.snapshot.is_some_and(|at| at.index == entry.index));
        let epoch = match held {
            _ if entry.index == last.index => Some(last.epoch),
            Some(block) => Some(block.epoch),
            None if entry.index == 0 => Some(Epoch(0)),
            None => at_snapshot.map(|(epoch, ..)| *epoch),
        };
        entry.index <= last.index && epoch.map_or(entry.epoch <= last.epoch, |epoch| epoch == entry.epoch)
    }

    fn push(&mut self, file: &str, offset: u64, block: &Block) -> Result<(), JournalError> {
        let damaged = |what: String| Err(JournalError::damaged(file, offset, what));
        if let Some(last) = self.last
            && (block.first != last.index + 1 || block.epoch < last.epoch)
        {
            return damaged(format!(
                "entry {} of epoch {} follows entry {} of epoch {}",
                block.first, block.epoch, last.index, last.epoch
            ));
        }
        if let Some(snapshot) = self.snapshot
            && (block.first..=block.last()).contains(&snapshot.index)
        {
            // It may yet be cut: only what stands there in the end counts.
            self.at_snapshot = Some((block.epoch, file.to_owned(), offset));
        }
        self.last = Some(Position { epoch: block.epoch, index: block.last() });
        self.blocks.push_back(block.clone());
        Ok(())
    }

    fn cut(&mut self, keep: Position) {
        while let Some(block) = self.blocks.back().filter(|block| block.last() > keep.index) {
            let kept = block.upto(keep.index);
            self.blocks.pop_back();
            if let Some(kept) = kept {
                self.blocks.push_back(kept);
                break;
            }
        }
        self.last = Some(keep);
        self.commit = self.commit.min(keep.index);
        if self.snapshot.is_some_and(|snapshot| snapshot.index > keep.index) {
            self.at_snapshot = None;
        }
    }
}
