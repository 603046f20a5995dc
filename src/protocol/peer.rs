//! Between replicas, on the peer port. The follower dials the primary; anyone may probe anyone.
//!
//! | message | from → to | means |
//! |---|---|---|
//! | `Hello` | dialer → listener | who I am, what I hold, what I want |
//! | `Welcome` | primary → follower | a fresh handshake: this is the common point, or a transfer follows |
//! | `Alive` | listener → prober | who lives here |
//! | `Refuse` | listener → dialer | why not, and the newest record I know |
//! | `Append` | primary → follower | entries (or none: a heartbeat), the commit index, a round |
//! | `Ack` | follower → primary | the highest index verified and as durable as the mode says, and the round |
//! | `Chunk` | primary → joiner | a piece of a snapshot |
//! | `Taken` | joiner → primary | every chunk below this is in my machine: the next ones may come |
//! | `Record` | any → any | the newest group record I know |
//!
//! A body begins with a tag byte. What passes with every operation, an append and its acknowledgement, stands in fixed
//! places (`super::hot`), everything else is postcard; entries and chunks follow as raw bytes, which the decoder can
//! share with the frame ([`decode`]) or take out of it in one piece ([`decode_copied`]).

use bytes::{Bytes, BytesMut};
use cutover_arbiter::record::{Epoch, GroupId, GroupName, GroupRecord, Incarnation, Index, Member, ReplicaName};
use cutover_arbiter::wire::{FrameError, Port, begin_frame, end_frame};
use serde::{Deserialize, Serialize};

use super::entry::Block;
use super::hot;
use crate::machine::{Identity, Progress, Timestamp};

/// Number that a primary gives to each accepted follower connection; acknowledgements of another are stale.
pub type Handshake = u64;

/// Names a state transfer; drawn at random, so that no two primaries or lives give the same one.
pub type TransferId = u64;

/// Number of a message from the primary to all its followers; an acknowledgement carries the highest one seen.
pub type Round = u64;

/// Anything that replicas say to each other.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerMessage {
    /// Handshakes and rare messages.
    Control(PeerControl),
    /// Entries or a heartbeat.
    Append(Append),
    /// Acknowledgement.
    Ack(Ack),
    /// A piece of a snapshot.
    Chunk(Chunk),
}

/// Handshakes and rare messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PeerControl {
    /// First message of the dialer.
    Hello(Box<Hello>),
    /// The primary takes the follower.
    Welcome(Box<Welcome>),
    /// Answer to a probe.
    Alive {
        /// Who lives at this address.
        replica: ReplicaName,
        /// Which life of it.
        incarnation: Incarnation,
        /// The newest record it knows.
        record: Option<Box<GroupRecord>>,
    },
    /// The listener does not take the dialer.
    Refuse {
        /// Who refuses.
        replica: ReplicaName,
        /// Which life of it.
        incarnation: Incarnation,
        /// Why.
        reason: PeerRefusal,
        /// The newest record it knows.
        record: Option<Box<GroupRecord>>,
    },
    /// The newest record the sender knows.
    Record(Box<GroupRecord>),
    /// A joiner has these chunks in its machine.
    Taken {
        /// Which connection.
        handshake: Handshake,
        /// Number of the first chunk that it does not have yet.
        next: u64,
    },
}

/// First message of a dialer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Machine name and version: replicas of different versions do not replay the same log.
    pub machine: Identity,
    /// Which group.
    pub group: GroupName,
    /// Which group exactly, once known.
    pub group_id: Option<GroupId>,
    /// Who dials, with its present life and addresses.
    pub from: Member,
    /// The highest epoch it knows of.
    pub epoch: Epoch,
    /// The newest record it knows.
    pub record: Option<Box<GroupRecord>>,
    /// What it wants.
    pub purpose: Purpose,
}

/// What a dialer wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Purpose {
    /// To know who lives here.
    Probe,
    /// To follow the primary.
    Follow {
        /// What its log holds.
        held: Held,
        /// The transfer it would go on with: one that broke, and of which it kept what had come.
        resume: Option<Resume>,
    },
}

/// Where a broken state transfer may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Which one.
    pub transfer: TransferId,
    /// Number of the first chunk that has not come.
    pub next: u64,
}

/// What a log holds, in few words: enough to find the common point with another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// First index of each epoch in the log or below its base, ascending.
    pub starts: Vec<(Epoch, Index)>,
    /// The last index; 0 for an empty log.
    pub last: Index,
    /// The last index applied (by a deposed primary: executed): state that cannot be undone.
    pub applied: Index,
}

/// A primary takes a follower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The primary.
    pub from: ReplicaName,
    /// Its life.
    pub incarnation: Incarnation,
    /// The group's identity.
    pub group_id: GroupId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Names this connection in every later message.
    pub handshake: Handshake,
    /// The record of that epoch.
    pub record: Box<GroupRecord>,
    /// How the follower gets what it misses.
    pub plan: Plan,
}

/// How a follower gets what it misses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Plan {
    /// Logs agree up to `common`; what follows there is cut, the rest is streamed.
    Delta {
        /// The highest index at which both logs hold the same entry.
        common: Index,
    },
    /// A snapshot comes in chunks, then the log after it.
    Transfer {
        /// Why a delta will not do.
        reason: TransferReason,
        /// Its name, should it break.
        transfer: TransferId,
    },
    /// The transfer that the follower asked to go on with does so, from the chunk it named.
    Resume(Resume),
}

/// Why a follower gets a snapshot rather than the entries it misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TransferReason {
    /// It holds nothing.
    #[error("the replica holds nothing")]
    Empty,
    /// It executed entries that the group does not have.
    #[error("the replica executed entries that lost a cut-over; it has those up to {common} in common")]
    Diverged {
        /// The highest index at which both logs hold the same entry: with a snapshot at or below it on its disk it goes
        /// back by itself, and needs only what follows.
        common: Index,
    },
    /// The primary's log begins later than the common point.
    #[error("the primary's log no longer reaches back to the common point")]
    LogTooShort,
}

/// Why a listener refuses a dialer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum PeerRefusal {
    /// Not the primary; the record says who is, as far as known.
    #[error("this replica is not the primary")]
    NotPrimary,
    /// Another group.
    #[error("this replica belongs to group '{0}'")]
    WrongGroup(GroupName),
    /// Another group of the same name.
    #[error("this replica belongs to another group of the same name ({0}); one of the two was made anew")]
    WrongGroupId(GroupId),
    /// Another machine or version of it.
    #[error("this replica runs machine '{}' version {}", .0.name, .0.version)]
    WrongMachine(Identity),
    /// The dialer kept its incarnation but shows less than it had acknowledged.
    #[error("the replica acknowledged up to index {acknowledged} but shows only {shown}: take a new incarnation")]
    LostState {
        /// What it had acknowledged.
        acknowledged: Index,
        /// What it shows.
        shown: Index,
    },
    /// The record names another life of the dialer's name, or the dialer's name is the listener's own.
    #[error("another replica of that name is known here")]
    NameTaken,
    /// The log that was kept for the dialer grew too long; it must wait before it gets a snapshot again.
    #[error(
        "the log kept for this replica grew beyond {log_bytes} bytes before it caught up; it may come again in {wait_ms} ms"
    )]
    FellBehind {
        /// The limit.
        log_bytes: u64,
        /// How long to wait.
        wait_ms: u64,
    },
    /// Too many followers.
    #[error("this replica has as many followers as it takes")]
    TooMany,
}

/// From the primary to a follower.
#[derive(Debug, Clone, PartialEq)]
pub struct Append {
    /// Everything but the entries.
    pub head: AppendHead,
    /// The entries; `None` is a heartbeat.
    pub block: Option<Block>,
}

/// Everything of an append but its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendHead {
    /// The group's identity.
    pub group_id: GroupId,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// Which connection.
    pub handshake: Handshake,
    /// Number of this message.
    pub round: Round,
    /// Everything up to here is committed.
    pub commit: Index,
    /// The group clock when it was sent.
    pub clock: Timestamp,
    /// Age of the oldest journal write that the primary still waits for, in milliseconds.
    pub journal_age_ms: u32,
    /// Age of the oldest output that the primary still holds back, in milliseconds.
    pub output_age_ms: u32,
    /// What that output waits for.
    pub output_waits_for: WaitsFor,
}

/// What a primary's oldest output waits for, as one of its followers is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WaitsFor {
    /// The primary's own journal, or nothing.
    Primary,
    /// The acknowledgement of the follower that is told.
    Receiver,
    /// Somebody else's.
    Another,
}

/// From a follower to the primary; one per turn at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The group's identity.
    pub group_id: GroupId,
    /// The epoch in which it is given.
    pub epoch: Epoch,
    /// The follower's life.
    pub incarnation: Incarnation,
    /// Which connection.
    pub handshake: Handshake,
    /// Everything up to here was verified against this primary in this epoch and is as durable as the mode says.
    pub verified: Index,
    /// The highest round seen.
    pub round: Round,
    /// The last index applied; for `status` only.
    pub applied: Index,
    /// Age of the oldest journal write that the follower still waits for, in milliseconds.
    pub journal_age_ms: u32,
}

/// A piece of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Everything but the bytes.
    pub head: ChunkHead,
    /// The piece: of the core's own state first, then of the machine's.
    pub bytes: Bytes,
}

/// Everything of a chunk but its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkHead {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// Which connection.
    pub handshake: Handshake,
    /// Number of the chunk, from 0.
    pub number: u64,
    /// Whose state it is a piece of; the core's own comes first.
    pub part: Part,
    /// Index of the last entry that the snapshot contains.
    pub index: Index,
    /// True for the last chunk.
    pub last: bool,
    /// Bytes that all chunks together will have, roughly.
    pub estimated_bytes: u64,
    /// How much of the machine the chunks up to and with this one contain.
    pub progress: Progress,
}

/// What a chunk is a piece of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Part {
    /// The core's own state: sessions, clock, epoch starts, running hash.
    Core,
    /// The machine's state.
    Machine,
}

const TAG_CONTROL: u8 = 0;
const TAG_HEARTBEAT: u8 = 1;
const TAG_APPEND: u8 = 2;
const TAG_ACK: u8 = 3;
const TAG_CHUNK: u8 = 4;

/// Appends `message` to `out` as one frame of the peer port.
pub fn encode(message: &PeerMessage, out: &mut BytesMut) {
    let start = begin_frame(out, Port::Peer);
    match message {
        PeerMessage::Control(control) => put(out, TAG_CONTROL, control),
        PeerMessage::Append(append) => {
            let tag = if append.block.is_some() { TAG_APPEND } else { TAG_HEARTBEAT };
            out.extend_from_slice(hot::append(tag, append).as_bytes());
            if let Some(block) = &append.block {
                out.extend_from_slice(&block.bytes);
            }
        }
        PeerMessage::Ack(ack) => out.extend_from_slice(hot::ack(TAG_ACK, ack).as_bytes()),
        PeerMessage::Chunk(chunk) => {
            put(out, TAG_CHUNK, &chunk.head);
            out.extend_from_slice(&chunk.bytes);
        }
    }
    end_frame(out, start);
}

fn put<T: Serialize>(out: &mut BytesMut, tag: u8, head: &T) {
    out.extend_from_slice(&[tag]);
    let mut small = [0u8; 256];
    match postcard::to_slice(head, &mut small) {
        Ok(bytes) => out.extend_from_slice(bytes),
        Err(_) => {
            let bytes = postcard::to_allocvec(head).expect("peer messages hold no sequence of unknown length");
            out.extend_from_slice(&bytes);
        }
    }
}

/// Reads the body of a frame of the peer port. Blocks are checked for their outer shape; their entries, and the bytes of
/// chunks, go on sharing the body's memory.
///
/// # Errors
/// The body is no message of this version.
pub fn decode(body: &Bytes) -> Result<PeerMessage, FrameError> {
    read(body, |part| body.slice_ref(part))
}

/// The same, keeping nothing of the body's memory.
///
/// # Errors
/// As those of [`decode`].
pub fn decode_copied(body: &[u8]) -> Result<PeerMessage, FrameError> {
    read(body, Bytes::copy_from_slice)
}

fn read(body: &[u8], keep: impl FnOnce(&[u8]) -> Bytes) -> Result<PeerMessage, FrameError> {
    let malformed = |reason: String| FrameError::Malformed { length: body.len(), reason };
    let (&tag, rest) = body.split_first().ok_or_else(|| malformed("it is empty".into()))?;
    let nothing_follows = |rest: &[u8]| match rest {
        [] => Ok(()),
        more => Err(malformed(format!("{} bytes follow it", more.len()))),
    };
    let mut rest = rest;
    Ok(match tag {
        TAG_CONTROL => {
            let (control, rest) = postcard::take_from_bytes(rest).map_err(|error| malformed(error.to_string()))?;
            nothing_follows(rest)?;
            PeerMessage::Control(control)
        }
        TAG_HEARTBEAT => {
            let head = hot::take_append_head(&mut rest).map_err(malformed)?;
            nothing_follows(rest)?;
            PeerMessage::Append(Append { head, block: None })
        }
        TAG_APPEND => {
            let head = hot::take_append_head(&mut rest).map_err(malformed)?;
            let block = hot::take_block(&mut rest, keep).map_err(malformed)?;
            if block.first == 0 || block.first.checked_add(u64::from(block.count)).is_none() {
                return Err(malformed("an impossible index".into()));
            }
            block.validate().map_err(|error| malformed(error.to_string()))?;
            PeerMessage::Append(Append { head, block: Some(block) })
        }
        TAG_ACK => {
            let ack = hot::take_ack(&mut rest).map_err(malformed)?;
            nothing_follows(rest)?;
            PeerMessage::Ack(ack)
        }
        TAG_CHUNK => {
            let (head, bytes) = postcard::take_from_bytes(rest).map_err(|error| malformed(error.to_string()))?;
            PeerMessage::Chunk(Chunk { head, bytes: keep(bytes) })
        }
        unknown => return Err(malformed(format!("its tag is {unknown}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_arbiter::wire::FrameDecoder;
    use proptest::prelude::*;

    fn round_trip(message: &PeerMessage) {
        let mut out = BytesMut::new();
        encode(message, &mut out);
        let body = FrameDecoder::new(Port::Peer, 1 << 20).decode(&mut out).unwrap().unwrap();
        assert_eq!(&decode(&body).unwrap(), message);
        assert_eq!(&decode_copied(&body).unwrap(), message);
    }

    fn head() -> AppendHead {
        AppendHead {
            group_id: GroupId(u128::MAX),
            epoch: Epoch(u64::MAX),
            handshake: 3,
            round: 4,
            commit: 5,
            clock: 6,
            journal_age_ms: 7,
            output_age_ms: 8,
            output_waits_for: WaitsFor::Another,
        }
    }

    fn ack() -> Ack {
        Ack {
            group_id: GroupId(1),
            epoch: Epoch(2),
            incarnation: Incarnation(u128::MAX),
            handshake: 3,
            verified: 4,
            round: u64::MAX,
            applied: 6,
            journal_age_ms: u32::MAX,
        }
    }

    #[test]
    fn what_is_cut_short_or_goes_on_is_refused() {
        for message in [PeerMessage::Append(Append { head: head(), block: None }), PeerMessage::Ack(ack())] {
            let mut out = BytesMut::new();
            encode(&message, &mut out);
            let body = FrameDecoder::new(Port::Peer, 1 << 20).decode(&mut out).unwrap().unwrap();
            for length in 0..body.len() {
                decode_copied(&body[..length]).unwrap_err();
            }
            let longer = [&body[..], b"x"].concat();
            decode_copied(&longer).unwrap_err();
            let unknown = [&body[..body.len() - 1], &[3]].concat();
            assert_eq!(
                decode_copied(&unknown).is_err(),
                matches!(message, PeerMessage::Append(_)),
                "waits for nobody known"
            );
        }
    }

    #[test]
    fn the_hot_path_reads_back() {
        let mut bytes = Vec::new();
        let start = super::super::entry::begin(&mut bytes);
        let payload = super::super::entry::Payload::Operation { mark: None, carried: vec![], operation: b"set" };
        super::super::entry::put(&mut bytes, 1, &payload, b"");
        super::super::entry::finish(&mut bytes, start, 2);
        let block = Block { epoch: Epoch(2), first: 9, count: 1, bytes: bytes.into() };
        round_trip(&PeerMessage::Append(Append { head: head(), block: Some(block) }));
        round_trip(&PeerMessage::Append(Append { head: head(), block: None }));
        round_trip(&PeerMessage::Ack(ack()));
        let chunk = ChunkHead {
            epoch: Epoch(1),
            handshake: 2,
            number: 3,
            part: Part::Machine,
            index: 4,
            last: true,
            estimated_bytes: 5,
            progress: Progress { entries: 6, of_entries: 7 },
        };
        round_trip(&PeerMessage::Chunk(Chunk { head: chunk, bytes: Bytes::from_static(b"piece") }));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let copied = decode_copied(&bytes);
            prop_assert_eq!(decode(&bytes.into()), copied);
        }
    }
}
