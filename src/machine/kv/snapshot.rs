//! How the state is written down, chunk by chunk, from a consistent view.
//!
//! A chunk is a sequence of whole records; records stand in the order of the trees, so equal states give equal bytes.
//! Numbers are LEB128 varints unless said otherwise.
//!
//! | record | bytes after its tag |
//! |---|---|
//! | `HEAD` | format version, hash seed (2 × u64 LE), number of keys |
//! | `STRING` | deadline, key, *tail*: the value |
//! | `LIST` `SET` `HASH` `ZSET` | deadline, key; the elements follow as records of their own |
//! | `ELEMENT` | of a hash the field, of a sorted set the score (8 bytes, IEEE 754, LE), then *tail*: the value or member |
//! | `PIECE` | length and bytes that continue the tail of the record before |
//! | `END` | nothing; the last record |
//!
//! A key or field is a length and bytes; a deadline is in milliseconds, 0 for none. A tail is its whole length, the
//! length of the first piece, and that piece: long values are spread over many chunks.

use super::collection::Value;
use super::keyspace::{Body, Keyspace, Placed as _, Slot};
use super::packed::Millis;
use super::tree::ABREAST;
use super::varint;
use crate::machine::Progress;

pub(super) const VERSION: u64 = 1;
pub(super) const HEAD: u8 = b'V';
pub(super) const STRING: u8 = b's';
pub(super) const LIST: u8 = b'L';
pub(super) const SET: u8 = b'S';
pub(super) const HASH: u8 = b'H';
pub(super) const ZSET: u8 = b'Z';
pub(super) const ELEMENT: u8 = b'e';
pub(super) const PIECE: u8 = b'p';
pub(super) const END: u8 = b'.';

/// Longest piece of a value in one record.
pub(super) const LONGEST_PIECE: usize = 64 << 10;

/// Where the next chunk begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Head,
    /// Before the key of this rank.
    Key(usize),
    /// Inside the collection at this key, before the element of this rank.
    Element(usize, usize),
    /// Inside the long string at this key, or the long tail of an element: that many bytes are written.
    Tail {
        key: usize,
        element: Option<usize>,
        written: usize,
    },
    Done,
}

/// A consistent view of a [`super::KeyValue`], to be read in chunks on any thread.
pub struct Snapshot {
    space: Keyspace,
    at: At,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("keys", &self.space.keys.len()).field("at", &self.at).finish()
    }
}

/// A chunk being filled.
struct Chunk {
    bytes: Vec<u8>,
    target: usize,
}

impl Chunk {
    fn full(&self) -> bool {
        self.bytes.len() >= self.target
    }

    fn varint(&mut self, value: u64) {
        varint::put(value, &mut self.bytes);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn open(&mut self, tag: u8, deadline: Millis, key: &[u8]) {
        self.bytes.push(tag);
        self.varint(deadline);
        self.bytes(key);
    }

    /// The whole length and the first piece; returns how much of it was written.
    fn tail(&mut self, tail: &[u8]) -> usize {
        let piece = &tail[..tail.len().min(LONGEST_PIECE)];
        self.varint(tail.len() as u64);
        self.bytes(piece);
        piece.len()
    }

    /// One more piece; returns how much is written then.
    fn piece(&mut self, tail: &[u8], written: usize) -> usize {
        let end = tail.len().min(written + LONGEST_PIECE);
        self.bytes.push(PIECE);
        self.bytes(&tail[written..end]);
        end
    }
}

impl Snapshot {
    pub(super) fn new(space: Keyspace) -> Self {
        Self { space, at: At::Head }
    }

    /// Writes keys from rank `from` on, until the chunk is full or a collection or a long string is in the way.
    fn keys(space: &Keyspace, from: usize, chunk: &mut Chunk) -> At {
        let mut slots = (from..).zip(space.keys.iter_from(from));
        let mut group = [None; ABREAST];
        loop {
            let count = come_by(&mut slots, &mut group);
            for (rank, slot) in group[..count].iter().flatten().copied() {
                if chunk.full() {
                    return At::Key(rank);
                }
                if let Some(value) = slot.string() {
                    chunk.open(STRING, slot.deadline(), slot.key());
                    let written = chunk.tail(value);
                    if written < value.len() {
                        return At::Tail { key: rank, element: None, written };
                    }
                } else if let Body::Object(object) = &slot.body {
                    let tag = match object.value {
                        Value::Bytes(_) => STRING,
                        Value::List(_) => LIST,
                        Value::Set(_) => SET,
                        Value::Hash(_) => HASH,
                        Value::Zset(_) => ZSET,
                    };
                    chunk.open(tag, slot.deadline(), slot.key());
                    return At::Element(rank, 0);
                }
            }
            if count == 0 {
                chunk.bytes.push(END);
                return At::Done;
            }
        }
    }

    /// Writes elements from rank `from` on of the collection at the key of rank `key`.
    fn elements(space: &Keyspace, key: usize, from: usize, chunk: &mut Chunk) -> At {
        for (rank, element) in (from..).zip(elements_from(space, key, from)) {
            if chunk.full() {
                return At::Element(key, rank);
            }
            chunk.bytes.push(ELEMENT);
            match element.head {
                Head::None => {}
                Head::Field(field) => chunk.bytes(field),
                Head::Score(score) => chunk.bytes.extend_from_slice(&score.to_bits().to_le_bytes()),
            }
            let written = chunk.tail(element.tail);
            if written < element.tail.len() {
                return At::Tail { key, element: Some(rank), written };
            }
        }
        At::Key(key + 1)
    }

    /// Writes one more piece of a long tail.
    fn tail(space: &Keyspace, key: usize, element: Option<usize>, written: usize, chunk: &mut Chunk) -> At {
        let tail = match element {
            None => space.keys.at(key).and_then(Slot::string),
            Some(rank) => elements_from(space, key, rank).next().map(|element| element.tail),
        };
        let tail = tail.unwrap_or_default();
        let written = chunk.piece(tail, written);
        match element {
            _ if written < tail.len() => At::Tail { key, element, written },
            None => At::Key(key + 1),
            Some(rank) => At::Element(key, rank + 1),
        }
    }
}

/// Takes the next slots, no further than the first that is not a short string, and touches each: the values lie all over
/// the memory, and the processor waits once for a group of them instead of once for each. Returns how many there are.
fn come_by<'a>(
    slots: &mut impl Iterator<Item = (usize, &'a Slot)>,
    group: &mut [Option<(usize, &'a Slot)>; ABREAST],
) -> usize {
    let (mut count, mut touched) = (0, 0u8);
    for place in group {
        let Some((rank, slot)) = slots.next() else { break };
        *place = Some((rank, slot));
        count += 1;
        match &slot.body {
            Body::Packed(packed) => touched ^= packed.touch(),
            Body::Object(_) => break,
        }
    }
    std::hint::black_box(touched);
    count
}

/// What stands before an element's tail.
enum Head<'a> {
    None,
    Field(&'a [u8]),
    Score(f64),
}

struct Element<'a> {
    head: Head<'a>,
    tail: &'a [u8],
}

fn elements_from(space: &Keyspace, key: usize, from: usize) -> Box<dyn Iterator<Item = Element<'_>> + '_> {
    let Some(Slot { body: Body::Object(object), .. }) = space.keys.at(key) else {
        return Box::new(std::iter::empty());
    };
    match &object.value {
        Value::Bytes(_) => Box::new(std::iter::empty()),
        Value::List(list) => {
            Box::new(list.elements().iter_from(from).map(|element| Element { head: Head::None, tail: element }))
        }
        Value::Set(members) => Box::new(
            members.0.entries().iter_from(from).map(|field| Element { head: Head::None, tail: field.packed.key() }),
        ),
        Value::Hash(fields) => Box::new(fields.entries().iter_from(from).map(|field| {
            let parts = field.packed.parts();
            Element { head: Head::Field(parts.key), tail: parts.value }
        })),
        Value::Zset(zset) => Box::new(
            zset.by_score()
                .iter_from(from)
                .map(|scored| Element { head: Head::Score(scored.score), tail: &scored.member }),
        ),
    }
}

impl crate::machine::Snapshot for Snapshot {
    fn next_chunk(&mut self, target: usize) -> Option<Vec<u8>> {
        if self.at == At::Done {
            return None;
        }
        // A reservation is no promise: a caller that asks for everything in one chunk gets it, as it grows.
        let mut chunk = Chunk { bytes: Vec::with_capacity(target.saturating_add(1024).min(4 << 20)), target };
        loop {
            self.at = match self.at {
                At::Head => {
                    chunk.bytes.push(HEAD);
                    chunk.varint(VERSION);
                    chunk.bytes.extend_from_slice(&self.space.seed.0.to_le_bytes());
                    chunk.bytes.extend_from_slice(&self.space.seed.1.to_le_bytes());
                    chunk.varint(self.space.keys.len() as u64);
                    At::Key(0)
                }
                At::Key(rank) => Self::keys(&self.space, rank, &mut chunk),
                At::Element(key, from) => Self::elements(&self.space, key, from, &mut chunk),
                At::Tail { key, element, written } => Self::tail(&self.space, key, element, written, &mut chunk),
                At::Done => return Some(chunk.bytes),
            };
            if chunk.full() && self.at != At::Done {
                return Some(chunk.bytes);
            }
        }
    }

    fn progress(&self) -> Progress {
        let of_entries = self.space.keys.len();
        let entries = match self.at {
            At::Head => 0,
            At::Key(rank) | At::Element(rank, _) | At::Tail { key: rank, .. } => rank,
            At::Done => of_entries,
        };
        Progress { entries: entries as u64, of_entries: of_entries as u64 }
    }

    fn estimated_bytes(&self) -> u64 {
        self.space.memory
    }
}
