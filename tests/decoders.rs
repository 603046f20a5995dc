//! Every message that travels is written and read again the same, for any value of its type; and no part of one passes
//! for a whole. Values are drawn by serde itself (`support/drawn.rs`), so a new message is covered the day it is added.
//!
//! The same decoders meet coverage-guided fuzzers in `fuzz/`.

#[path = "support/drawn.rs"]
mod drawn;

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use cutover::protocol::SessionId;
use cutover::protocol::client::{FromClient, Outcome, ToClient};
use cutover::protocol::entry::{self, Block, Control, Entry, Payload, SessionMark};
use cutover::protocol::peer::{self, Ack, Append, AppendHead, Chunk, ChunkHead, PeerControl, PeerMessage};
use cutover_arbiter::protocol::{FromArbiter, ToArbiter};
use cutover_arbiter::raft::Message;
use cutover_arbiter::record::{Command, Epoch, Registers};
use cutover_arbiter::wire::{FrameDecoder, Port, decode_body, encode_frame};
use drawn::{drawn, drawn_from};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

fn dice() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

/// The body of the only frame in these bytes.
fn only_body(port: Port, mut framed: BytesMut) -> Bytes {
    let length = framed.len();
    let body = FrameDecoder::new(port, length).decode(&mut framed).expect("our own frame").expect("a whole one");
    assert!(framed.is_empty());
    body
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(port: Port, dice: &[u8]) {
    let Some(message) = drawn::<T>(dice) else { return };
    let mut framed = BytesMut::new();
    encode_frame(&mut framed, port, &message);
    let body = only_body(port, framed);
    assert_eq!(decode_body::<T>(&body).expect("what was written is read"), message);
    for end in 0..body.len() {
        assert!(decode_body::<T>(&body[..end]).is_err(), "{end} of {} bytes of {message:?}", body.len());
    }
    assert!(decode_body::<T>(&[&body[..], &[0]].concat()).is_err(), "a byte too many behind {message:?}");
}

/// So many messages of a type are drawn that a type which cannot be drawn at all is noticed.
#[test]
fn every_type_of_message_can_be_drawn() {
    fn some<T: DeserializeOwned>() -> usize {
        (0..=255u8).filter(|first| drawn::<T>(&[*first; 64]).is_some()).count()
    }
    let counts = [
        ("FromClient", some::<FromClient>()),
        ("ToClient", some::<ToClient>()),
        ("PeerControl", some::<PeerControl>()),
        ("ToArbiter", some::<ToArbiter>()),
        ("FromArbiter", some::<FromArbiter>()),
        ("Message", some::<Message>()),
        ("Command", some::<Command>()),
    ];
    for (name, count) in counts {
        assert!(count > 60, "{name} was drawn {count} times of 256");
    }
}

proptest! {
    #[test]
    fn the_client_port(dice in dice()) {
        survives::<FromClient>(Port::Client, &dice);
        survives::<ToClient>(Port::Client, &dice);
        survives::<Outcome>(Port::Client, &dice);
    }

    #[test]
    fn the_arbiter_port(dice in dice()) {
        survives::<ToArbiter>(Port::Arbiter, &dice);
        survives::<FromArbiter>(Port::Arbiter, &dice);
    }

    #[test]
    fn among_arbiters(dice in dice()) {
        survives::<Message>(Port::Raft, &dice);
    }

    #[test]
    fn what_arbiters_keep(stories in prop::collection::vec(dice(), 1..20)) {
        let mut registers = Registers::default();
        for command in stories.iter().filter_map(|dice| drawn::<Command>(dice)) {
            let written = command.encode();
            prop_assert_eq!(&Command::decode(&written).expect("what was written is read"), &command);
            prop_assert!(Command::decode(&written[..written.len() - 1]).is_err());
            registers.apply(command);
        }
        let written = registers.encode();
        let mut back = Registers::decode(&written).expect("what was written is read");
        prop_assert_eq!(back.encode(), written);
        // They go on alike.
        if let Some(command) = stories.first().and_then(|dice| drawn::<Command>(dice)) {
            prop_assert_eq!(back.apply(command.clone()), registers.apply(command));
        }
    }

    #[test]
    fn the_peer_port(dice in dice()) {
        let Some(message) = message(&dice) else { return Ok(()) };
        let mut framed = BytesMut::new();
        peer::encode(&message, &mut framed);
        let body = only_body(Port::Peer, framed);
        prop_assert_eq!(&peer::decode(&body).expect("what was written is read"), &message);
        for end in 0..body.len() {
            let part = peer::decode(&body.slice(..end));
            prop_assert_eq!(&part, &peer::decode_copied(&body[..end]));
            // A piece of a snapshot is bytes to its end: only its frame knows where that is.
            let is_piece = matches!(message, PeerMessage::Chunk(_));
            prop_assert!(is_piece || part.is_err(), "{} of {} bytes of {:?}", end, body.len(), message);
        }
    }

    #[test]
    fn entries_in_blocks(dice in dice(), cut in 0u64..8) {
        let Some((block, written)) = block(&dice, 5) else { return Ok(()) };
        block.validate().expect("our own block");
        let read: Vec<Entry<'_>> = block.entries().collect::<Result<_, _>>().expect("what was written is read");
        prop_assert_eq!(read.len(), written.len());
        for (entry, part) in read.iter().zip(&written) {
            prop_assert_eq!((entry.time, entry.check, entry.captured), (part.time, part.check, &part.captured[..]));
            prop_assert_eq!(&entry.payload, &part.payload());
        }
        let at = block.first + cut;
        let parts = [block.upto(at), at.checked_add(1).and_then(|next| block.from(next))];
        let joined: Vec<_> = parts.iter().flatten().flat_map(Block::entries).collect::<Result<_, _>>().expect("parts");
        prop_assert_eq!(joined, read);
    }
}

/// What an entry is made of.
struct Part {
    time: u64,
    check: u64,
    captured: Bytes,
    operation: Bytes,
    carried: Vec<(u64, Option<Bytes>)>,
    mark: Option<SessionMark>,
    control: Option<Control>,
}

impl Part {
    fn drawn(dice: &mut &[u8]) -> Option<Self> {
        let (time, check, captured): (u64, u64, Bytes) = drawn_from(dice)?;
        let operation = drawn_from(dice)?;
        let carried = drawn_from(dice)?;
        let (session, sequence, lowest_unanswered): (Option<SessionId>, u64, u64) = drawn_from(dice)?;
        let mark = session.map(|session| SessionMark { session, sequence, lowest_unanswered });
        let control = drawn_from(dice)?;
        Some(Self { time, check, captured, operation, carried, mark, control })
    }

    fn payload(&self) -> Payload<'_> {
        if let Some(control) = &self.control {
            return Payload::Control(control.clone());
        }
        // Only what has a session carries earlier replies of it.
        let carried = self.carried.iter().filter(|_| self.mark.is_some());
        let carried = carried.map(|(sequence, reply)| (*sequence, reply.as_deref())).collect();
        Payload::Operation { mark: self.mark, carried, operation: &self.operation }
    }
}

fn block(mut dice: &[u8], first: u64) -> Option<(Block, Vec<Part>)> {
    let (mut bytes, mut parts) = (Vec::new(), Vec::new());
    while parts.is_empty() || (!dice.is_empty() && parts.len() < 6) {
        let part = Part::drawn(&mut dice)?;
        let start = entry::begin(&mut bytes);
        entry::put(&mut bytes, part.time, &part.payload(), &part.captured);
        entry::finish(&mut bytes, start, part.check);
        parts.push(part);
    }
    Some((Block { epoch: Epoch(3), first, count: parts.len() as u32, bytes: bytes.into() }, parts))
}

fn message(mut dice: &[u8]) -> Option<PeerMessage> {
    Some(match drawn_from::<u8>(&mut dice)? % 5 {
        0 => PeerMessage::Control(drawn_from::<PeerControl>(&mut dice)?),
        1 => PeerMessage::Ack(drawn_from::<Ack>(&mut dice)?),
        2 => {
            let head = drawn_from::<ChunkHead>(&mut dice)?;
            PeerMessage::Chunk(Chunk { head, bytes: Bytes::copy_from_slice(dice) })
        }
        3 => PeerMessage::Append(Append { head: drawn_from::<AppendHead>(&mut dice)?, block: None }),
        _ => {
            let head = drawn_from::<AppendHead>(&mut dice)?;
            PeerMessage::Append(Append { head, block: Some(block(dice, 9)?.0) })
        }
    })
}
