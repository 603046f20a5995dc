//! Entries as they stand in the log, in frames and in the journal.
//!
//! Entries travel and are kept in *blocks*: the entries that one turn of the primary's loop appended, encoded once,
//! shared by the log, every backup's frame and the journal. All entries of a block have the block's epoch; their
//! indexes follow from the block's first. An entry is
//!
//! `[length of the rest: u32 LE] [check: u64 LE] [time: u64 LE] [kind: u8] ...`
//!
//! and after kind 0 (an operation without a session) `[captured: bytes] [operation]`; after kind 1 (with a session)
//! `[session epoch, session index, sequence, lowest unanswered: 4 × u64 LE] [carried: u32 LE ([sequence: u64 LE]
//! [reply: bytes])*] [captured: bytes] [operation]`; after kind 2 a postcard-encoded [`Control`], preceded by
//! `[captured: bytes]`. `bytes` is a u32 LE length and so many bytes.

use bytes::{BufMut, Bytes};
use cutover_arbiter::record::{Epoch, GroupId, Index};
use cutover_arbiter::wire::DEFAULT_LIMIT;
use serde::{Deserialize, Serialize};

use super::client::{Sequence, SessionId, WINDOW_BYTES};
use crate::machine::Timestamp;

/// An operation's place in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionMark {
    /// Which session.
    pub session: SessionId,
    /// Which request of it.
    pub sequence: Sequence,
    /// Replies below this are no longer needed.
    pub lowest_unanswered: Sequence,
}

/// What an entry asks for, apart from a machine's operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// First entry of an epoch: fences, renews all sessions, sets the clock.
    EpochStart {
        /// The group's identity.
        group_id: GroupId,
        /// True for the very first entry of a group.
        genesis: bool,
    },
    /// Opens the session named by this entry's position.
    OpenSession {
        /// Ends after so many microseconds of the group clock without a sign of life.
        timeout: u64,
    },
    /// Renews a session.
    KeepAlive {
        /// Which.
        session: SessionId,
    },
    /// Closes an undecided sequence: it is not executed and never will be.
    CloseSequence {
        /// Of which session.
        session: SessionId,
        /// Which request.
        sequence: Sequence,
        /// Replies below this are no longer needed; not above `sequence`.
        lowest_unanswered: Sequence,
    },
    /// Removes what is past the entry's time: keys (at most `budget`) and sessions.
    Expire {
        /// Most removals.
        budget: u32,
    },
    /// Reads may show the clock up to here.
    Ceiling {
        /// The new ceiling.
        until: Timestamp,
    },
    /// Every replica computes its digest at this index.
    Mark {
        /// Chosen by the asker.
        ticket: u64,
    },
}

/// What an entry asks for, borrowed from its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload<'a> {
    /// A machine's operation.
    Operation {
        /// Its place in its session; `None` for a direct Redis connection.
        mark: Option<SessionMark>,
        /// Earlier reads of the session that its client had not acknowledged when this was appended, and what they
        /// replied; `None` where the reply is not kept.
        carried: Vec<(Sequence, Option<&'a [u8]>)>,
        /// The operation.
        operation: &'a [u8],
    },
    /// Anything else.
    Control(Control),
}

/// One entry, borrowed from its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Epoch of the primary that appended it.
    pub epoch: Epoch,
    /// Its index.
    pub index: Index,
    /// The primary's running hash after executing it.
    pub check: u64,
    /// The group clock.
    pub time: Timestamp,
    /// What it asks for.
    pub payload: Payload<'a>,
    /// The captured values.
    pub captured: &'a [u8],
}

/// Bytes that are not a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {index} of epoch {epoch} cannot be read: {what}")]
pub struct MalformedEntry {
    /// Epoch of the block.
    pub epoch: Epoch,
    /// Which entry.
    pub index: Index,
    /// What is wrong.
    pub what: &'static str,
}

/// Consecutive entries of one epoch, encoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Block {
    /// Epoch of all entries.
    pub epoch: Epoch,
    /// Index of the first.
    pub first: Index,
    /// How many; at least 1.
    pub count: u32,
    /// The entries.
    pub bytes: Bytes,
}

impl Block {
    /// Index of the last entry.
    pub fn last(&self) -> Index {
        self.first + u64::from(self.count) - 1
    }

    /// Checks the block's outer shape: so many entries and nothing behind them.
    ///
    /// # Errors
    /// Names the first entry that does not fit.
    pub fn validate(&self) -> Result<(), MalformedEntry> {
        let mut rest = &self.bytes[..];
        for number in 0..u64::from(self.count) {
            let malformed = |what| MalformedEntry { epoch: self.epoch, index: self.first + number, what };
            take_bytes(&mut rest).ok_or(malformed("it is longer than its block"))?;
        }
        let end = MalformedEntry { epoch: self.epoch, index: self.last(), what: "bytes follow the last entry" };
        if self.count == 0 || !rest.is_empty() { Err(end) } else { Ok(()) }
    }

    /// The entries, in order.
    pub fn entries(&self) -> Entries<'_> {
        Entries { epoch: self.epoch, next: self.first, left: self.count, rest: &self.bytes }
    }

    /// The block without the entries before `index`, or `None` if none are left.
    pub fn from(&self, index: Index) -> Option<Block> {
        if index <= self.first {
            return Some(self.clone());
        }
        if index > self.last() {
            return None;
        }
        let skip = self.offset(index);
        Some(Block {
            epoch: self.epoch,
            first: index,
            count: (self.last() - index + 1) as u32,
            bytes: self.bytes.slice(skip..),
        })
    }

    /// The block without the entries beyond `index`, or `None` if none are left.
    pub fn upto(&self, index: Index) -> Option<Block> {
        if index >= self.last() {
            return Some(self.clone());
        }
        if index < self.first {
            return None;
        }
        let keep = self.offset(index + 1);
        Some(Block {
            epoch: self.epoch,
            first: self.first,
            count: (index - self.first + 1) as u32,
            bytes: self.bytes.slice(..keep),
        })
    }

    fn offset(&self, index: Index) -> usize {
        let mut rest = &self.bytes[..];
        for _ in self.first..index {
            if take_bytes(&mut rest).is_none() {
                break;
            }
        }
        self.bytes.len() - rest.len()
    }
}

/// Iterator over a block's entries.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    epoch: Epoch,
    next: Index,
    left: u32,
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, MalformedEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (epoch, index) = (self.epoch, self.next);
        self.next += 1;
        let malformed = |what| MalformedEntry { epoch, index, what };
        Some(match take_bytes(&mut self.rest) {
            None => Err(malformed("it is longer than its block")),
            Some(bytes) => decode(epoch, index, bytes).ok_or(malformed("its fields do not fit")),
        })
    }
}

/// Begins an entry at the end of `out`; `check` is filled in by [`finish`] once the entry has been executed.
/// Returns where it began.
pub fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 12]);
    start
}

/// Writes time, kind and payload of the entry begun at the end of `out`.
pub fn put(out: &mut Vec<u8>, time: Timestamp, payload: &Payload<'_>, captured: &[u8]) {
    out.put_u64_le(time);
    match payload {
        Payload::Operation { mark: None, operation, .. } => {
            out.push(0);
            put_bytes(out, captured);
            out.extend_from_slice(operation);
        }
        Payload::Operation { mark: Some(mark), carried, operation } => {
            out.push(1);
            out.put_u64_le(mark.session.epoch.0);
            out.put_u64_le(mark.session.index);
            out.put_u64_le(mark.sequence);
            out.put_u64_le(mark.lowest_unanswered);
            out.put_u32_le(carried.len() as u32);
            for (sequence, reply) in carried {
                out.put_u64_le(*sequence);
                match reply {
                    Some(reply) => put_bytes(out, reply),
                    None => out.put_u32_le(NOT_KEPT),
                }
            }
            put_bytes(out, captured);
            out.extend_from_slice(operation);
        }
        Payload::Control(control) => {
            out.push(2);
            put_bytes(out, captured);
            let bytes = postcard::to_allocvec(control).expect("a control entry is plain numbers");
            out.extend_from_slice(&bytes);
        }
    }
}

/// Bytes of a carried reply beside the reply.
pub const CARRIED_HEAD: usize = 8 + 4;
/// Length of a carried reply that is not kept: longer than any frame.
const NOT_KEPT: u32 = u32::MAX;

/// How many bytes the entry will have, without its captured values; generous by a few.
pub fn size(payload: &Payload<'_>) -> usize {
    /// Head, time, kind, a session's mark, both lengths, and the longest [`Control`].
    const FIXED: usize = 128;
    match payload {
        Payload::Operation { carried, operation, .. } => {
            let carried: usize = carried.iter().map(|(_, reply)| CARRIED_HEAD + reply.map_or(0, <[u8]>::len)).sum();
            FIXED + carried + operation.len()
        }
        Payload::Control(_) => FIXED,
    }
}

/// The longest request that replicas with appends of so many bytes can take: a block is one frame of the peer port, and
/// may hold the replies that the entry carries and what stood in it before.
pub fn longest_request(append_bytes: usize) -> usize {
    /// What a frame and a block have besides, captured values of any command of the built-in machine among them.
    const ROOM: usize = 64 << 10;
    DEFAULT_LIMIT.saturating_sub(WINDOW_BYTES + ROOM).saturating_sub(append_bytes)
}

/// Completes the entry begun at `start`.
pub fn finish(out: &mut [u8], start: usize, check: u64) {
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 12].copy_from_slice(&check.to_le_bytes());
}

fn decode(epoch: Epoch, index: Index, mut bytes: &[u8]) -> Option<Entry<'_>> {
    let check = take_u64(&mut bytes)?;
    let time = take_u64(&mut bytes)?;
    let (&kind, rest) = bytes.split_first()?;
    bytes = rest;
    let (payload, captured) = match kind {
        0 => {
            let captured = take_bytes(&mut bytes)?;
            (Payload::Operation { mark: None, carried: Vec::new(), operation: bytes }, captured)
        }
        1 => {
            let session = SessionId { epoch: Epoch(take_u64(&mut bytes)?), index: take_u64(&mut bytes)? };
            let mark =
                SessionMark { session, sequence: take_u64(&mut bytes)?, lowest_unanswered: take_u64(&mut bytes)? };
            let count = take_u32(&mut bytes)? as usize;
            if count > bytes.len() / 12 {
                return None;
            }
            let mut carried = Vec::with_capacity(count);
            for _ in 0..count {
                carried.push((take_u64(&mut bytes)?, take_carried(&mut bytes)?));
            }
            let captured = take_bytes(&mut bytes)?;
            (Payload::Operation { mark: Some(mark), carried, operation: bytes }, captured)
        }
        2 => {
            let captured = take_bytes(&mut bytes)?;
            let (control, []) = postcard::take_from_bytes(bytes).ok()? else { return None };
            (Payload::Control(control), captured)
        }
        _ => return None,
    };
    Some(Entry { epoch, index, check, time, payload, captured })
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.extend_from_slice(bytes);
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*head))
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*head))
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_u32(bytes)? as usize;
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

fn take_carried<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    if let Some((head, rest)) = bytes.split_first_chunk::<4>()
        && u32::from_le_bytes(*head) == NOT_KEPT
    {
        *bytes = rest;
        return Some(None);
    }
    take_bytes(bytes).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(entries: &[(u64, Payload<'_>, &[u8])]) -> Block {
        let mut bytes = Vec::new();
        for (time, payload, captured) in entries {
            let start = begin(&mut bytes);
            put(&mut bytes, *time, payload, captured);
            finish(&mut bytes, start, *time ^ 1);
        }
        Block { epoch: Epoch(3), first: 10, count: entries.len() as u32, bytes: bytes.into() }
    }

    #[test]
    fn every_kind_reads_back() {
        let mark = SessionMark { session: SessionId { epoch: Epoch(1), index: 2 }, sequence: 3, lowest_unanswered: 2 };
        let carried = vec![(1, None), (2, Some(&b"r"[..])), (2, Some(b""))];
        let all = [
            (1, Payload::Operation { mark: None, carried: vec![], operation: b"op" }, &b"cap"[..]),
            (2, Payload::Operation { mark: Some(mark), carried, operation: b"" }, b""),
            (3, Payload::Control(Control::Expire { budget: 7 }), b""),
        ];
        let block = block(&all);
        block.validate().unwrap();
        let read: Vec<_> = block.entries().map(Result::unwrap).collect();
        for (entry, (time, payload, captured)) in read.iter().zip(&all) {
            assert_eq!((entry.time, &entry.payload, entry.captured), (*time, payload, *captured));
        }
        assert_eq!(read[2].index, 12);
        assert_eq!(block.from(12).unwrap().entries().next().unwrap().unwrap(), read[2]);
        assert_eq!(block.upto(10).unwrap().entries().last().unwrap().unwrap(), read[0]);
        assert!(block.from(13).is_none() && block.upto(9).is_none());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0u32..10) {
            let block = Block { epoch: Epoch(1), first: 1, count, bytes: bytes.into() };
            let _ = block.validate();
            for entry in block.entries() {
                let _ = entry;
            }
        }
    }
}
