//! How a segment's head and its records stand in a file. All numbers are little-endian.
//!
//! A segment begins with `[magic: 8] [version: u32] [0: u32] [number: u64] [salt: u64] [base: u64] [epoch: u64]
//! [index: u64] [crc32c: u32]`; `epoch` and `index` name the entry with which the log ended when it was begun.
//! The salt is random and seeds every other checksum of the segment: bytes of another segment, or of a client's value,
//! never pass for a record.
//!
//! A record is everything that one write made durable: a *batch* of blocks or a *cut*.
//! `[magic: u32] [length of the body: u32] [checksum of the body: u32] [kind: u32] [epoch: u64] [first: u64] [last: u64]
//! [commit: u64] [checksum of this head: u32] [body]`. The body of a batch is `[epoch: u64] [first: u64] [count: u32]
//! [length: u32] [entries]` for each block; of a cut there is none, and `epoch`, `last` name the entry that is kept.

use bytes::{Buf, BufMut, Bytes};
use cutover_arbiter::record::{Epoch, Index, Position};

use crate::protocol::entry::Block;

/// Bytes of a segment's head.
pub(super) const SEGMENT_HEAD: usize = 8 + 4 + 4 + 5 * 8 + 4;
/// Bytes of a record's head.
pub(super) const RECORD_HEAD: usize = 4 * 4 + 8 * 4 + 4;
const BLOCK_HEAD: usize = 8 + 8 + 4 + 4;
/// Blocks that together have more go into several records. One block may be larger by itself.
pub(super) const LONGEST_BATCH: usize = 8 << 20;
/// Longest body that is believed, and so the longest that is written: twice what a frame between replicas can carry.
pub(super) const LONGEST_BODY: usize = 128 << 20;

const SEGMENT_MAGIC: &[u8; 8] = b"CUTOVERJ";
const SEGMENT_VERSION: u32 = 3;
/// Bytes of the heads of versions 1 and 2, which end before `epoch`.
const EARLIER_HEAD: usize = 8 + 4 + 4 + 3 * 8 + 4;
pub(super) const RECORD_MAGIC: [u8; 4] = *b"rec1";
const BATCH: u32 = 1;
const CUT: u32 = 2;

/// The head of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub(super) number: u64,
    pub(super) salt: u64,
    /// The highest index that ever stood in the one before.
    pub(super) base: Index,
    /// The last entry of the log when it was begun: what its records go on from.
    pub(super) after: Position,
}

/// Why bytes are no segment's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BadHead {
    Damaged,
    Version(u32),
}

impl SegmentHead {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEAD);
        out.put_slice(SEGMENT_MAGIC);
        out.put_u32_le(SEGMENT_VERSION);
        out.put_u32_le(0);
        out.put_u64_le(self.number);
        out.put_u64_le(self.salt);
        out.put_u64_le(self.base);
        out.put_u64_le(self.after.epoch.0);
        out.put_u64_le(self.after.index);
        let checksum = crc32c::crc32c(&out);
        out.put_u32_le(checksum);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadHead> {
        // A head of another version is whole and no crash has torn it, whatever its length.
        let earlier = checked(bytes, EARLIER_HEAD).filter(|fields| (&fields[8..]).get_u32_le() < SEGMENT_VERSION);
        let mut fields = checked(bytes, SEGMENT_HEAD).or(earlier).ok_or(BadHead::Damaged)?;
        fields.advance(8);
        let version = fields.get_u32_le();
        if version != SEGMENT_VERSION {
            return Err(BadHead::Version(version));
        }
        fields.advance(4);
        let (number, salt, base) = (fields.get_u64_le(), fields.get_u64_le(), fields.get_u64_le());
        let after = Position { epoch: Epoch(fields.get_u64_le()), index: fields.get_u64_le() };
        Ok(Self { number, salt, base, after })
    }

    /// What every checksum of the segment begins with.
    pub(super) fn seed(&self) -> u32 {
        crc32c::crc32c(&self.salt.to_le_bytes())
    }
}

/// The fields of a head of this length, if they have their magic and checksum.
fn checked(bytes: &[u8], length: usize) -> Option<&[u8]> {
    let (fields, checksum) = bytes.get(..length)?.split_at(length - 4);
    (&fields[..8] == SEGMENT_MAGIC && crc32c::crc32c(fields).to_le_bytes() == checksum).then_some(fields)
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// These entries follow; the writer knew so much to be committed.
    Batch { blocks: Vec<Block>, commit: Index },
    /// Everything beyond this entry is gone.
    Cut { keep: Position },
}

/// A record ready to be written: its head, and for each block what stands before its entries.
#[derive(Debug)]
pub(super) struct Encoded<'a> {
    head: Vec<u8>,
    heads: Vec<[u8; BLOCK_HEAD]>,
    blocks: &'a [Block],
    pub(super) length: usize,
}

impl Encoded<'_> {
    /// The pieces, in order; the entries themselves are not copied.
    pub(super) fn parts(&self) -> Vec<&[u8]> {
        let blocks = self.heads.iter().zip(self.blocks);
        std::iter::once(&self.head[..]).chain(blocks.flat_map(|(head, block)| [&head[..], &block.bytes[..]])).collect()
    }
}

/// Bytes of the body of a batch.
pub(super) fn body(blocks: &[Block]) -> usize {
    blocks.iter().map(|block| BLOCK_HEAD + block.bytes.len()).sum()
}

/// Encodes a batch of at least one block, whose body is not longer than [`LONGEST_BODY`].
pub(super) fn batch(seed: u32, blocks: &[Block], commit: Index) -> Encoded<'_> {
    let mut heads = Vec::with_capacity(blocks.len());
    let (mut length, mut checksum) = (0, seed);
    for block in blocks {
        let mut head = [0; BLOCK_HEAD];
        let mut fields = &mut head[..];
        fields.put_u64_le(block.epoch.0);
        fields.put_u64_le(block.first);
        fields.put_u32_le(block.count);
        fields.put_u32_le(block.bytes.len() as u32);
        checksum = crc32c::crc32c_append(crc32c::crc32c_append(checksum, &head), &block.bytes);
        length += BLOCK_HEAD + block.bytes.len();
        heads.push(head);
    }
    let first = blocks.first().map_or(0, |block| block.first);
    let last = blocks.last().map_or(Position::default(), |block| Position { epoch: block.epoch, index: block.last() });
    let head = head(seed, BATCH, (length, checksum), (last.epoch, first, last.index), commit);
    Encoded { head, heads, blocks, length: RECORD_HEAD + length }
}

/// Encodes a cut.
pub(super) fn cut(seed: u32, keep: Position) -> Encoded<'static> {
    let head = head(seed, CUT, (0, seed), (keep.epoch, 0, keep.index), 0);
    Encoded { head, heads: Vec::new(), blocks: &[], length: RECORD_HEAD }
}

fn head(seed: u32, kind: u32, body: (usize, u32), at: (Epoch, Index, Index), commit: Index) -> Vec<u8> {
    let mut out = Vec::with_capacity(RECORD_HEAD);
    out.put_slice(&RECORD_MAGIC);
    out.put_u32_le(body.0 as u32);
    out.put_u32_le(body.1);
    out.put_u32_le(kind);
    out.put_u64_le(at.0.0);
    out.put_u64_le(at.1);
    out.put_u64_le(at.2);
    out.put_u64_le(commit);
    let checksum = crc32c::crc32c_append(seed, &out);
    out.put_u32_le(checksum);
    out
}

/// What stands at some place of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum At {
    /// A good record, and how long it is.
    Record(Record, usize),
    /// The file ends in the middle of it.
    Short,
    /// Something else; what is wrong with it.
    Bad(&'static str),
}

/// A record's head with a good checksum, and whether the body would follow.
pub(super) fn is_head(seed: u32, bytes: &[u8]) -> bool {
    bytes.get(..RECORD_HEAD).is_some_and(|head| {
        let (fields, checksum) = head.split_at(RECORD_HEAD - 4);
        fields[..4] == RECORD_MAGIC && crc32c::crc32c_append(seed, fields).to_le_bytes() == checksum
    })
}

/// Reads what stands at the beginning of `bytes`, which reach to the end of the file.
pub(super) fn read(seed: u32, bytes: &Bytes) -> At {
    if bytes.len() < RECORD_HEAD {
        return At::Short;
    }
    if !is_head(seed, bytes) {
        return At::Bad("the checksum of a record's head does not fit");
    }
    let mut fields = &bytes[4..RECORD_HEAD];
    let (length, checksum, kind) = (fields.get_u32_le(), fields.get_u32_le(), fields.get_u32_le());
    let (epoch, first, last) = (Epoch(fields.get_u64_le()), fields.get_u64_le(), fields.get_u64_le());
    let commit = fields.get_u64_le();
    if length as usize > LONGEST_BODY {
        return At::Bad("a record is longer than any can be");
    }
    let end = RECORD_HEAD + length as usize;
    if bytes.len() < end {
        return At::Short;
    }
    let body = bytes.slice(RECORD_HEAD..end);
    if crc32c::crc32c_append(seed, &body) != checksum {
        return At::Bad("the checksum of a record does not fit");
    }
    let record = match kind {
        CUT => Some(Record::Cut { keep: Position { epoch, index: last } }),
        BATCH => {
            blocks(&body).filter(|blocks| spans(blocks, first, last)).map(|blocks| Record::Batch { blocks, commit })
        }
        _ => None,
    };
    record.map_or(At::Bad("a record does not say what its head says"), |record| At::Record(record, end))
}

fn spans(blocks: &[Block], first: Index, last: Index) -> bool {
    blocks.first().is_some_and(|block| block.first == first) && blocks.last().is_some_and(|block| block.last() == last)
}

fn blocks(body: &Bytes) -> Option<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut rest = body.clone();
    while rest.has_remaining() {
        let head = split(&mut rest, BLOCK_HEAD)?;
        let mut fields = &head[..];
        let (epoch, first) = (Epoch(fields.get_u64_le()), fields.get_u64_le());
        let (count, length) = (fields.get_u32_le(), fields.get_u32_le() as usize);
        let bytes = split(&mut rest, length)?;
        first.checked_add(u64::from(count)).filter(|_| first > 0)?;
        let block = Block { epoch, first, count, bytes };
        block.validate().ok()?;
        blocks.push(block);
    }
    Some(blocks)
}

fn split(bytes: &mut Bytes, at: usize) -> Option<Bytes> {
    (at <= bytes.len()).then(|| bytes.split_to(at))
}
