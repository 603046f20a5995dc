//! The peer port, and entries as they stand in blocks.

use bytes::{Bytes, BytesMut};
use cutover::protocol::SessionId;
use cutover::protocol::entry::{self, Block, Control, Payload, SessionMark};
use cutover::protocol::peer::{self, Ack, Append, AppendHead, Chunk, ChunkHead, PeerControl, PeerMessage};
use cutover_arbiter::record::Epoch;
use cutover_arbiter::wire::{FrameDecoder, Port};

use crate::drawn::drawn_from;
use crate::message;

/// The first byte chooses: a message, a stream of frames, or a block.
pub fn check(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 3 {
        0 => read(&Bytes::copy_from_slice(body)),
        1 => message::stream(Port::Peer, body, |body| read(&Bytes::copy_from_slice(body))),
        _ => {
            let Some((count, bytes)) = body.split_first() else { return };
            let first = 1 + u64::from(*count >> 4);
            let bytes = Bytes::copy_from_slice(bytes);
            block(&Block { epoch: Epoch(1), first, count: u32::from(count & 15), bytes });
        }
    }
}

fn read(body: &Bytes) {
    let message = peer::decode(body);
    assert_eq!(message, peer::decode_copied(body), "shared or copied, it is the same");
    let Ok(message) = message else { return };
    let mut written = BytesMut::new();
    peer::encode(&message, &mut written);
    let frame = written.clone();
    let again = FrameDecoder::new(Port::Peer, frame.len()).decode(&mut written).expect("our own frame").expect("whole");
    let back = peer::decode(&again).expect("what was written is read");
    assert_eq!(back, message);
    let mut twice = BytesMut::new();
    peer::encode(&back, &mut twice);
    assert_eq!(twice, frame);
    if let PeerMessage::Append(Append { block: Some(entries), .. }) = &message {
        block(entries);
    }
}

/// A block that is whole is the same in two parts; entries that can be read are written the same.
fn block(block: &Block) {
    let whole = block.validate().is_ok();
    let entries: Vec<_> = block.entries().collect();
    assert_eq!(entries.len(), block.count as usize);
    if !whole {
        return;
    }
    for index in block.first..=block.last() {
        let (before, after) = (block.upto(index).expect("not empty"), block.from(index).expect("not empty"));
        assert_eq!(before.entries().chain(after.entries().skip(1)).collect::<Vec<_>>(), entries);
        before.validate().expect("a part of a whole block");
        after.validate().expect("a part of a whole block");
    }
    for entry in entries.into_iter().flatten() {
        let mut bytes = Vec::new();
        write(&mut bytes, entry.time, &entry.payload, entry.captured, entry.check);
        let again = Block { epoch: entry.epoch, first: entry.index, count: 1, bytes: bytes.into() };
        assert_eq!(again.entries().next().expect("one entry").expect("what was written is read"), entry);
    }
}

fn write(out: &mut Vec<u8>, time: u64, payload: &Payload<'_>, captured: &[u8], check: u64) {
    let start = entry::begin(out);
    entry::put(out, time, payload, captured);
    entry::finish(out, start, check);
}

/// A block of drawn entries.
pub fn drawn_block(mut dice: &[u8], first: u64) -> Option<Block> {
    let (mut bytes, mut count) = (Vec::new(), 0);
    while count == 0 || (!dice.is_empty() && count < 4) {
        let (time, captured, check): (u64, Bytes, u64) = drawn_from(&mut dice)?;
        let operation: Bytes = drawn_from(&mut dice)?;
        let carried: Vec<(u64, Option<Bytes>)> = drawn_from(&mut dice)?;
        let payload = match drawn_from::<u8>(&mut dice)? % 3 {
            0 => Payload::Operation { mark: None, carried: Vec::new(), operation: &operation },
            1 => {
                let (session, sequence, lowest_unanswered): (SessionId, u64, u64) = drawn_from(&mut dice)?;
                let mark = Some(SessionMark { session, sequence, lowest_unanswered });
                let carried = carried.iter().map(|(sequence, reply)| (*sequence, reply.as_deref())).collect();
                Payload::Operation { mark, carried, operation: &operation }
            }
            _ => Payload::Control(drawn_from::<Control>(&mut dice)?),
        };
        write(&mut bytes, time, &payload, &captured, check);
        count += 1;
    }
    Some(Block { epoch: Epoch(1), first, count, bytes: bytes.into() })
}

fn drawn_message(mut dice: &[u8]) -> Option<PeerMessage> {
    Some(match drawn_from::<u8>(&mut dice)? % 5 {
        0 | 1 => PeerMessage::Control(drawn_from::<PeerControl>(&mut dice)?),
        2 => PeerMessage::Ack(drawn_from::<Ack>(&mut dice)?),
        3 => {
            let head = drawn_from::<ChunkHead>(&mut dice)?;
            PeerMessage::Chunk(Chunk { head, bytes: Bytes::copy_from_slice(dice) })
        }
        _ => {
            let head = drawn_from::<AppendHead>(&mut dice)?;
            PeerMessage::Append(Append { head, block: drawn_block(dice, 9) })
        }
    })
}

/// See the crate.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for message in crate::dice(120).filter_map(|dice| drawn_message(&dice)) {
        let mut frame = BytesMut::new();
        peer::encode(&message, &mut frame);
        seeds.push([&[1], &frame[..]].concat());
        let body = FrameDecoder::new(Port::Peer, 1 << 20).decode(&mut frame).expect("our own frame").expect("whole");
        seeds.push([&[0], &body[..]].concat());
    }
    for block in crate::dice(40).filter_map(|dice| drawn_block(&dice, 1)) {
        seeds.push([&[2, block.count as u8], &block.bytes[..]].concat());
    }
    seeds
}
