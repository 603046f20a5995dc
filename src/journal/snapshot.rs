//! A snapshot file: written beside, checksummed piece by piece, renamed into place once it may be believed.
//!
//! `[magic: 8] [version: u32] [0: u32]`, then pieces `[kind: u8] [length: u32] [crc32c: u32] [bytes]`: first the head,
//! then the core's own state, the machine's chunks, and an end that says how many pieces there were.

use bytes::Bytes;
use cutover_arbiter::record::{Index, Position};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, DiskError};
use super::error::JournalError;
use crate::machine;

const PREFIX: &str = "snapshot-";
/// Of a file that is not in place yet.
const UNFINISHED: &str = ".new";
/// Of a file that turned out to be damaged.
pub(super) const DAMAGED: &str = ".damaged";

const MAGIC: &[u8; 8] = b"CUTOVERS";
const VERSION: u32 = 2;
const FILE_HEAD: usize = 16;
const PIECE_HEAD: usize = 9;
/// Longest piece that is believed.
const LONGEST_PIECE: usize = 128 << 20;
/// Bytes after which what is written is synced, so that no single sync takes long.
const SYNC_EVERY: usize = 16 << 20;

const HEAD: u8 = 1;
const CORE: u8 = 2;
const MACHINE: u8 = 3;
const END: u8 = 4;

pub(super) fn name(index: Index) -> String {
    format!("{PREFIX}{index:020}")
}

/// The index of a snapshot file that is in place.
pub(super) fn index(name: &str) -> Option<Index> {
    name.strip_prefix(PREFIX).and_then(|digits| digits.parse().ok())
}

pub(super) fn is_leftover(name: &str) -> bool {
    name.ends_with(UNFINISHED) || name.ends_with(DAMAGED)
}

pub(super) fn unfinished(index: Index) -> String {
    name(index) + UNFINISHED
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHead {
    /// The last entry in it.
    pub position: Position,
    /// Whose state it is.
    pub machine: machine::Identity,
}

/// A piece of a snapshot, in the order in which they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotPart {
    /// Of the core's own state.
    Core(Bytes),
    /// Of the machine's.
    Machine(Bytes),
}

/// Writes a snapshot beside what is there; nothing believes it before it is renamed.
#[derive(Debug)]
pub struct SnapshotWriter<D: Disk> {
    disk: D,
    file: D::File,
    pieces: u64,
    unsynced: usize,
    bytes: u64,
}

impl<D: Disk> SnapshotWriter<D> {
    pub(super) fn create(disk: D, path: &str, head: &SnapshotHead) -> Result<Self, DiskError> {
        let mut file = disk.create(path)?;
        let mut start = MAGIC.to_vec();
        start.extend_from_slice(&VERSION.to_le_bytes());
        start.extend_from_slice(&[0; 4]);
        disk.append(&mut file, &[&start])?;
        let mut writer = Self { disk, file, pieces: 0, unsynced: 0, bytes: FILE_HEAD as u64 };
        let head = postcard::to_allocvec(head).expect("a snapshot's head is plain data");
        writer.piece(HEAD, &head)?;
        Ok(writer)
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// The disk failed; the snapshot is worth nothing.
    pub fn part(&mut self, part: &SnapshotPart) -> Result<(), DiskError> {
        match part {
            SnapshotPart::Core(bytes) => self.piece(CORE, bytes),
            SnapshotPart::Machine(bytes) => self.piece(MACHINE, bytes),
        }
    }

    fn piece(&mut self, kind: u8, bytes: &[u8]) -> Result<(), DiskError> {
        let mut head = [kind; PIECE_HEAD];
        head[1..5].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        head[5..9].copy_from_slice(&checksum(kind, bytes).to_le_bytes());
        self.disk.append(&mut self.file, &[&head, bytes])?;
        self.pieces += 1;
        self.unsynced += head.len() + bytes.len();
        self.bytes += (head.len() + bytes.len()) as u64;
        if self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            self.disk.sync(&self.file)?;
        }
        Ok(())
    }

    /// Completes it; returns its length in bytes. It is on the device, and still beside.
    ///
    /// # Errors
    /// The disk failed.
    pub fn finish(mut self) -> Result<u64, DiskError> {
        let pieces = self.pieces;
        self.piece(END, &pieces.to_le_bytes())?;
        self.disk.sync(&self.file)?;
        Ok(self.bytes)
    }
}

fn checksum(kind: u8, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[kind]), bytes)
}

/// Reads a snapshot from beginning to end.
#[derive(Debug)]
pub struct SnapshotReader<D: Disk> {
    disk: D,
    file: D::File,
    path: String,
    /// Bytes of the file.
    length: u64,
    head: SnapshotHead,
    at: u64,
    pieces: u64,
}

impl<D: Disk> SnapshotReader<D> {
    /// Opens it and reads its head.
    pub(super) fn open(disk: D, path: &str) -> Result<Self, JournalError> {
        let file = disk.open(path)?;
        let length = disk.length(&file)?;
        let mut start = [0; FILE_HEAD];
        let read = disk.read(&file, 0, &mut start)?;
        if read < FILE_HEAD || &start[..8] != MAGIC {
            return Err(JournalError::damaged(path, 0, "it is no snapshot"));
        }
        let version = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
        if version != VERSION {
            return Err(JournalError::Version {
                file: path.to_owned(),
                found: format!("snapshot format {version}"),
                known: format!("snapshot format {VERSION}"),
            });
        }
        let head = SnapshotHead {
            position: Position::default(),
            machine: machine::Identity { name: String::new(), version: 0 },
        };
        let mut reader = Self { disk, file, path: path.to_owned(), length, head, at: FILE_HEAD as u64, pieces: 0 };
        match reader.piece()? {
            (HEAD, bytes) => {
                let head = postcard::from_bytes(&bytes);
                reader.head = head.map_err(|error| reader.damaged(error.to_string()))?;
                Ok(reader)
            }
            _ => Err(reader.damaged("it does not begin with its head")),
        }
    }

    /// What it is of.
    pub fn head(&self) -> &SnapshotHead {
        &self.head
    }

    fn damaged(&self, what: impl Into<String>) -> JournalError {
        JournalError::damaged(&self.path, self.at, what)
    }

    fn piece(&mut self) -> Result<(u8, Bytes), JournalError> {
        let mut head = [0; PIECE_HEAD];
        if self.disk.read(&self.file, self.at, &mut head)? < PIECE_HEAD {
            return Err(self.damaged("it ends in the middle"));
        }
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let expected = u32::from_le_bytes([head[5], head[6], head[7], head[8]]);
        if length > LONGEST_PIECE {
            return Err(self.damaged("a piece is longer than any can be"));
        }
        // Believed only as far as the file reaches: a damaged length must not ask for memory.
        if length as u64 > self.length.saturating_sub(self.at + PIECE_HEAD as u64) {
            return Err(self.damaged("it ends in the middle"));
        }
        let mut bytes = vec![0; length];
        if self.disk.read(&self.file, self.at + PIECE_HEAD as u64, &mut bytes)? < length {
            return Err(self.damaged("it ends in the middle"));
        }
        if checksum(head[0], &bytes) != expected {
            return Err(self.damaged("the checksum of a piece does not fit"));
        }
        self.at += (PIECE_HEAD + length) as u64;
        self.pieces += 1;
        Ok((head[0], bytes.into()))
    }

    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// The file is damaged or cannot be read.
    pub fn part(&mut self) -> Result<Option<SnapshotPart>, JournalError> {
        let before = self.pieces;
        match self.piece()? {
            (CORE, bytes) => Ok(Some(SnapshotPart::Core(bytes))),
            (MACHINE, bytes) => Ok(Some(SnapshotPart::Machine(bytes))),
            (END, bytes) if bytes[..] == before.to_le_bytes() => Ok(None),
            (kind, _) => Err(self.damaged(format!("a piece of kind {kind} is out of place"))),
        }
    }

    /// Reads it to its end, so that what is told of it later is true.
    pub(super) fn verify(mut self) -> Result<SnapshotHead, JournalError> {
        while self.part()?.is_some() {}
        Ok(self.head)
    }
}
