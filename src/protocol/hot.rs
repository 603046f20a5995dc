//! The two messages that pass with every operation, an append and its acknowledgement, in fixed places: they are made
//! and read while a client waits. All numbers are little-endian.
//!
//! | message | in order |
//! |---|---|
//! | append | group id u128, epoch u64, handshake u64, round u64, commit u64, clock u64, journal age u32, output age u32, what that waits for u8 |
//! | its block, if any | epoch u64, first u64, count u32, then the entries |
//! | acknowledgement | group id u128, epoch u64, incarnation u128, handshake u64, verified u64, round u64, applied u64, journal age u32 |

use bytes::{Buf as _, BufMut as _, Bytes, TryGetError};
use cutover_arbiter::record::{Epoch, GroupId, Incarnation};

use super::entry::Block;
use super::peer::{Ack, Append, AppendHead, WaitsFor};

/// Longest of what is put together here, in bytes, with its tag.
const ROOM: usize = 96;

/// What one of the messages consists of, without its entries.
pub(super) struct Head {
    bytes: [u8; ROOM],
    length: usize,
}

impl Head {
    /// Puts it together: the tag, and what `put` writes after it.
    fn new(tag: u8, put: impl FnOnce(&mut &mut [u8])) -> Self {
        let mut bytes = [0; ROOM];
        let mut rest = &mut bytes[..];
        rest.put_u8(tag);
        put(&mut rest);
        let length = ROOM - rest.len();
        Self { bytes, length }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// An append up to its entries.
pub(super) fn append(tag: u8, append: &Append) -> Head {
    let head = &append.head;
    Head::new(tag, |out| {
        out.put_u128_le(head.group_id.0);
        out.put_u64_le(head.epoch.0);
        out.put_u64_le(head.handshake);
        out.put_u64_le(head.round);
        out.put_u64_le(head.commit);
        out.put_u64_le(head.clock);
        out.put_u32_le(head.journal_age_ms);
        out.put_u32_le(head.output_age_ms);
        out.put_u8(match head.output_waits_for {
            WaitsFor::Primary => 0,
            WaitsFor::Receiver => 1,
            WaitsFor::Another => 2,
        });
        if let Some(block) = &append.block {
            out.put_u64_le(block.epoch.0);
            out.put_u64_le(block.first);
            out.put_u32_le(block.count);
        }
    })
}

/// An acknowledgement.
pub(super) fn ack(tag: u8, ack: &Ack) -> Head {
    Head::new(tag, |out| {
        out.put_u128_le(ack.group_id.0);
        out.put_u64_le(ack.epoch.0);
        out.put_u128_le(ack.incarnation.0);
        out.put_u64_le(ack.handshake);
        out.put_u64_le(ack.verified);
        out.put_u64_le(ack.round);
        out.put_u64_le(ack.applied);
        out.put_u32_le(ack.journal_age_ms);
    })
}

/// What is wrong with a message that cannot be read.
fn short(error: TryGetError) -> String {
    format!("{} bytes where there should be {} more", error.available, error.requested)
}

/// Takes the head of an append off `bytes`.
pub(super) fn take_append_head(bytes: &mut &[u8]) -> Result<AppendHead, String> {
    Ok(AppendHead {
        group_id: GroupId(bytes.try_get_u128_le().map_err(short)?),
        epoch: Epoch(bytes.try_get_u64_le().map_err(short)?),
        handshake: bytes.try_get_u64_le().map_err(short)?,
        round: bytes.try_get_u64_le().map_err(short)?,
        commit: bytes.try_get_u64_le().map_err(short)?,
        clock: bytes.try_get_u64_le().map_err(short)?,
        journal_age_ms: bytes.try_get_u32_le().map_err(short)?,
        output_age_ms: bytes.try_get_u32_le().map_err(short)?,
        output_waits_for: match bytes.try_get_u8().map_err(short)? {
            0 => WaitsFor::Primary,
            1 => WaitsFor::Receiver,
            2 => WaitsFor::Another,
            unknown => return Err(format!("an output that waits for {unknown}")),
        },
    })
}

/// Takes the block off `bytes`, which end with its entries; those are kept by `keep`.
pub(super) fn take_block(bytes: &mut &[u8], keep: impl FnOnce(&[u8]) -> Bytes) -> Result<Block, String> {
    let mut numbers = || Ok((bytes.try_get_u64_le()?, bytes.try_get_u64_le()?, bytes.try_get_u32_le()?));
    let (epoch, first, count) = numbers().map_err(short)?;
    Ok(Block { epoch: Epoch(epoch), first, count, bytes: keep(bytes) })
}

/// Takes an acknowledgement off `bytes`.
pub(super) fn take_ack(bytes: &mut &[u8]) -> Result<Ack, String> {
    let mut ack = || {
        Ok(Ack {
            group_id: GroupId(bytes.try_get_u128_le()?),
            epoch: Epoch(bytes.try_get_u64_le()?),
            incarnation: Incarnation(bytes.try_get_u128_le()?),
            handshake: bytes.try_get_u64_le()?,
            verified: bytes.try_get_u64_le()?,
            round: bytes.try_get_u64_le()?,
            applied: bytes.try_get_u64_le()?,
            journal_age_ms: bytes.try_get_u32_le()?,
        })
    };
    ack().map_err(short)
}
