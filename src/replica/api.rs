//! The core's inputs and outputs: plain data, no channels, no callbacks.

use std::time::Duration;

use cutover_arbiter::planted;
use cutover_arbiter::record::{
    Addresses, Answer, Epoch, GroupId, GroupName, GroupRecord, Incarnation, Index, Mode, Position, Proposal,
    ReplicaName, RequestId,
};

use crate::machine::{DeferredRead, Garbage, StateMachine, Timestamp};
use crate::protocol::client::{Outcome, Refusal, Sequence, SessionId};
use crate::protocol::entry::Block;
use crate::protocol::peer::{PeerMessage, Round, TransferId};

use crate::journal::Later;

pub use crate::journal::Claim;

use super::event::Event;
use super::fence::FenceRefused;
use super::limits::Limits;
use super::receive::Decoding;
use super::transfers::{Encoding, Piece, TransferStatus};

/// A connection to another replica. The shell numbers accepted ones with even numbers, the core numbers the ones it
/// dials with odd numbers; a number is never given twice in one life.
pub type LinkId = u64;

/// The time, read once per turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// `CLOCK_BOOTTIME`: never goes back, counts while the machine is suspended.
    pub boot: Duration,
    /// The wall clock, in microseconds since 1970; may jump.
    pub wall: Timestamp,
}

/// What a core is told once.
#[derive(Debug, Clone)]
pub struct Config {
    /// This replica's name.
    pub name: ReplicaName,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its group.
    pub group: GroupName,
    /// Makes the group when it does not exist; only for a replica that holds no data.
    pub create: Option<CreateOptions>,
    /// Copies that the primary keeps in sync, itself among them; further followers are spares.
    pub copies: usize,
    /// Silence after which a backup suspects its primary.
    pub suspect_after: Duration,
    /// Silence after which a primary suspects a backup; shorter, so that of two healthy machines with a broken link
    /// the primary usually stays.
    pub drop_backup_after: Duration,
    /// Time between appends of an idle primary.
    pub heartbeat: Duration,
    /// A switchover that is not answered in this time is given up.
    pub switchover_timeout: Duration,
    /// Time between repetitions of an unanswered proposal.
    pub propose_again_after: Duration,
    /// First wait before a removed replica is admitted again; doubled with every removal, up to a minute.
    pub readmit_after: Duration,
    /// Entries kept for followers that come back, in bytes; entries that an in-sync member has not acknowledged are
    /// kept beyond it.
    pub log_bytes: usize,
    /// Entries a follower may have unacknowledged before new requests wait, in bytes.
    pub unacknowledged_bytes: usize,
    /// Most bytes of entries in one append.
    pub append_bytes: usize,
    /// A snapshot is taken when the journal has grown by so many bytes since the last one (or by half the state, if
    /// that is more).
    pub snapshot_bytes: u64,
    /// A disk that does not answer for so long makes a primary hand over and a backup leave.
    pub journal_stall_limit: Duration,
    /// What it lets grow, and how far.
    pub limits: Limits,
    /// Seed of the core's generator: incarnation, request ids, captured random values.
    pub seed: [u8; 32],
}

/// For a replica that may make its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateOptions {
    /// Durability of the group.
    pub mode: Mode,
    /// Fewest in-sync replicas with which operations are executed.
    pub min_in_sync: u8,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Another replica dialled this one.
    Accepted(LinkId),
    /// A dial that the core asked for succeeded; the core's `Hello` goes first.
    Dialled(LinkId),
    /// A dial failed.
    DialFailed {
        /// Which.
        link: LinkId,
        /// True when the other machine said that nobody listens: the process is dead.
        refused: bool,
    },
    /// A message, already decoded and checked.
    Peer(LinkId, PeerMessage),
    /// More of a message has come, and it is not whole yet: the largest takes longer than silence may.
    PeerPart(LinkId),
    /// The connection is gone: closed by the other side, broken, or after an [`Output::Close`].
    LinkClosed(LinkId),
    /// A group record, from the arbiters' watch.
    Record(GroupRecord),
    /// The arbiters answered a proposal.
    Answer {
        /// Which proposal.
        request: RequestId,
        /// The answer.
        answer: Answer,
    },
    /// A proposal was given up without an answer; the core decides whether to repeat it.
    Unanswered(RequestId),
    /// The arbiters answered a linearisable read.
    Read {
        /// Of [`Output::Read`].
        ticket: u64,
        /// The record, or `None` when the group does not exist.
        record: Option<GroupRecord>,
    },
    /// A read was given up without an answer.
    ReadFailed {
        /// Of [`Output::Read`].
        ticket: u64,
    },
    /// What the disk was asked for is done, this and everything asked before it.
    Persisted {
        /// Of [`Output::Persist`], [`Output::Claim`] or [`Output::InstallSnapshot`].
        sequence: u64,
    },
    /// What of the entries that [`Output::ReadLog`] asked for was read, from the first one on; nothing when they are
    /// gone.
    LogRead {
        /// Echoed.
        ticket: u64,
        /// Without a gap.
        blocks: Vec<Block>,
    },
    /// A snapshot is written beside what is there, and durable.
    SnapshotWritten {
        /// Of [`Output::Snapshot`].
        ticket: u64,
    },
    /// The disk failed. Final.
    JournalFailed {
        /// What happened, and what a person should do.
        reason: String,
    },
    /// The next piece of the snapshot that [`Output::Transfer`] handed out.
    Snapshot {
        /// Which transfer.
        transfer: TransferId,
        /// The piece.
        piece: Piece,
    },
    /// No more comes of that snapshot: whoever reads it failed.
    TransferFailed {
        /// As in [`Output::Transfer`].
        transfer: TransferId,
    },
    /// An operator asks for a planned cut-over.
    Switchover {
        /// To whom; `None` lets the primary choose.
        to: Option<ReplicaName>,
        /// Echoed by [`Output::SwitchoverEnded`].
        ticket: u64,
    },
    /// An operator asks for digests at one index; answered by [`Output::MarkPlaced`] on the primary.
    Mark {
        /// Chosen by the asker.
        ticket: u64,
    },
    /// An operator makes forgetful arbiters know the group anew, and asks that nothing of any epoch below this one is
    /// done any more; answered by [`Output::Fenced`].
    Fence {
        /// Higher by two at least than any epoch known here, and by [`super::FURTHEST`] at most.
        epoch: Epoch,
        /// Not after this, by the boot clock: then its operator has given it up.
        until: Duration,
        /// Echoed.
        ticket: u64,
    },
    /// Stop: hand over if primary and possible, then [`Output::Stop`].
    Shutdown,
}

/// What the shell must do, in order.
pub enum Output<M: StateMachine> {
    /// Connect to a replica and report `Dialled` or `DialFailed`.
    Dial {
        /// Number of the new link.
        link: LinkId,
        /// `host:port`.
        address: String,
    },
    /// Send a message; dropped silently if the link is gone.
    Send(LinkId, PeerMessage),
    /// Close a connection after what was sent; report `LinkClosed`.
    Close(LinkId),
    /// Ask the arbiters, until they answer or a bounded time has passed.
    Propose(Box<Proposal>),
    /// Read the record linearisably.
    Read {
        /// Echoed.
        ticket: u64,
    },
    /// Make blocks durable as the mode says, after cutting everything beyond `keep`; answer with `Persisted`. In mode
    /// `memory` it comes only behind something else that was asked for, and there is nothing to do but to answer.
    Persist {
        /// Echoed; rises.
        sequence: u64,
        /// Cut the journal beyond this entry first, if given.
        cut: Option<Position>,
        /// Then append these.
        blocks: Vec<Block>,
        /// Known to be committed; a restart executes so far at once.
        commit: Index,
    },
    /// Make what this replica is durable; answer with `Persisted`. In the order of [`Output::Persist`].
    Claim {
        /// Echoed; rises together with those of `Persist`.
        sequence: u64,
        /// What it is.
        claim: Claim,
        /// The state on disk is set aside, in the same step: this life begins with nothing.
        anew: bool,
    },
    /// Write a snapshot beside what is there, on another thread; answer with [`Input::SnapshotWritten`].
    Snapshot {
        /// Echoed.
        ticket: u64,
        /// The last entry in it.
        position: Position,
        /// The core's own state, encoded there.
        core: Later,
        /// The machine's.
        snapshot: M::Snapshot,
    },
    /// Put a written snapshot into place, and remove what it makes superfluous; answer with `Persisted`.
    InstallSnapshot {
        /// Echoed; rises together with those of `Persist`.
        sequence: u64,
        /// The last entry in it.
        position: Position,
        /// Entries beyond this one stay in the journal: somebody is still to be sent them.
        keep: Index,
    },
    /// Read entries back from the journal on another thread, after what was asked of the disk before; answer with
    /// [`Input::LogRead`]. As many of them as are at hand, at least one.
    ReadLog {
        /// Echoed.
        ticket: u64,
        /// The first.
        from: Index,
        /// The last.
        upto: Index,
        /// Where each epoch of the log begins.
        starts: Vec<(Epoch, Index)>,
    },
    /// Make the state anew from the newest snapshot in place at or below `upto` and the journal after it, on another
    /// thread, after what was asked of the disk before: [`super::Rebuilt::run`] does it. What comes of it is handed to
    /// [`super::Replica::rebuilt`].
    GoBack {
        /// Echoed.
        ticket: u64,
        /// The last entry to be executed.
        upto: Index,
        /// Where each epoch of the log begins.
        starts: Vec<(Epoch, Index)>,
    },
    /// Remove a snapshot that is beside, or being written there.
    AbandonSnapshot {
        /// Of the last entry in it.
        index: Index,
    },
    /// Stream a snapshot to a joiner: read it on another thread, feed the pieces back as [`Input::Snapshot`] while
    /// [`super::Replica::transfer_room`] says so.
    Transfer {
        /// Its name.
        transfer: TransferId,
        /// What is to be read.
        encoding: Encoding<M::Snapshot>,
    },
    /// Run this on another thread, and hand what comes of it to [`super::Replica::decoded`].
    Decode(Decoding<M::Restore>),
    /// Compute a digest of the state at `index` on another thread and keep it for `verify`.
    Digest {
        /// At which index.
        index: Index,
        /// The core's own part: sessions, clock, running hash. To be called there.
        core: Box<dyn FnOnce() -> u64 + Send>,
        /// The machine's part.
        snapshot: M::Snapshot,
    },
    /// The mark with this ticket stands at this index (or could not be placed here).
    MarkPlaced {
        /// Of [`Input::Mark`].
        ticket: u64,
        /// Where; `None` when this replica is not a serving primary.
        index: Option<Index>,
    },
    /// A switchover ended.
    SwitchoverEnded {
        /// Of [`Input::Switchover`].
        ticket: u64,
        /// The new record, or why not.
        result: Result<Box<GroupRecord>, String>,
    },
    /// The fence with this ticket is durable; or was refused.
    Fenced {
        /// Of [`Input::Fence`].
        ticket: u64,
        /// The highest epoch known without a fence; or why there is none.
        result: Result<Epoch, FenceRefused>,
    },
    /// Drop these on another thread.
    Discard(Vec<Garbage>),
    /// This replica is no longer primary: drop what is held. A connection with an executed, unreleased operation is
    /// closed without another byte; operations never executed get a redirect or `-READONLY`.
    Deposed,
    /// Tell people; one line per event.
    Event(Event),
    /// Stop the process.
    Stop(StopReason),
}

impl<M: StateMachine> std::fmt::Debug for Output<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Output::Dial { link, address } => write!(f, "Dial({link}, {address})"),
            Output::Send(link, message) => write!(f, "Send({link}, {message:?})"),
            Output::Close(link) => write!(f, "Close({link})"),
            Output::Propose(proposal) => write!(f, "Propose({proposal:?})"),
            Output::Read { ticket } => write!(f, "Read({ticket})"),
            Output::Persist { sequence, cut, blocks, .. } => {
                write!(f, "Persist({sequence}, cut {cut:?}, {} blocks)", blocks.len())
            }
            Output::Transfer { transfer, .. } => write!(f, "Transfer({transfer:x})"),
            Output::Decode(decoding) => write!(f, "{decoding:?}"),
            Output::Claim { sequence, claim, anew } => write!(f, "Claim({sequence}, {claim:?}, anew {anew})"),
            Output::Snapshot { ticket, position, .. } => write!(f, "Snapshot({ticket}, {position:?})"),
            Output::InstallSnapshot { sequence, position, keep } => {
                write!(f, "InstallSnapshot({sequence}, {position:?}, keep {keep})")
            }
            Output::ReadLog { ticket, from, upto, .. } => write!(f, "ReadLog({ticket}, {from} to {upto})"),
            Output::GoBack { ticket, upto, .. } => write!(f, "GoBack({ticket}, up to {upto})"),
            Output::AbandonSnapshot { index } => write!(f, "AbandonSnapshot({index})"),
            Output::Digest { index, .. } => write!(f, "Digest({index})"),
            Output::MarkPlaced { ticket, index } => write!(f, "MarkPlaced({ticket}, {index:?})"),
            Output::SwitchoverEnded { ticket, result } => write!(f, "SwitchoverEnded({ticket}, {result:?})"),
            Output::Fenced { ticket, result } => write!(f, "Fenced({ticket}, {result:?})"),
            Output::Discard(garbage) => write!(f, "Discard({})", garbage.len()),
            Output::Deposed => f.write_str("Deposed"),
            Output::Event(event) => write!(f, "Event({event:?})"),
            Output::Stop(reason) => write!(f, "Stop({reason:?})"),
        }
    }
}

/// Where the core puts its outputs.
#[derive(Debug)]
pub struct Outbox<M: StateMachine> {
    /// In the order in which they must be run.
    pub outputs: Vec<Output<M>>,
}

impl<M: StateMachine> Default for Outbox<M> {
    fn default() -> Self {
        Self { outputs: Vec::new() }
    }
}

/// Whether requests may be handed to the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Open,
    /// Not now (a hand-over in flight, an epoch to be confirmed, a backup too far behind): leave them unread.
    Paused,
    /// This replica does not serve. The record it knows says who may.
    Closed,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A Redis connection: no session, executed once per arrival.
    Direct,
    /// A session of the client library.
    Session {
        /// Which.
        session: SessionId,
        /// Which request of it.
        sequence: Sequence,
        /// Replies below this have arrived.
        lowest_unanswered: Sequence,
        /// The connection; a newer one fences older ones. Numbers rise.
        connection: u64,
    },
}

/// Something a client wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Request<'a> {
    /// A machine's operation; whether it is logged is for [`StateMachine::access`] to say.
    Operation {
        /// Who asks.
        origin: Origin,
        /// The operation.
        operation: &'a [u8],
    },
    /// Opens a session; the reply is its [`SessionId`] in postcard.
    OpenSession {
        /// Life without a sign, in microseconds of the group clock.
        timeout: Timestamp,
        /// The connection it is opened on.
        connection: u64,
    },
    /// A connection goes on with a session; fences its older connections. Not logged, no reply is held.
    Attach {
        /// Which session.
        session: SessionId,
        /// The connection.
        connection: u64,
    },
    /// Renews a session.
    KeepAlive {
        /// Which.
        session: SessionId,
    },
    /// What became of a sequence; the reply is an [`Outcome`] in postcard.
    Outcome {
        /// Which session.
        session: SessionId,
        /// Which request.
        sequence: Sequence,
        /// Replies below this have arrived.
        lowest_unanswered: Sequence,
    },
}

/// When a reply may be released: once `index` is committed and `round` confirmed ([`Release::covers`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Hold {
    /// The log position that the reply was computed from.
    pub index: Index,
    /// The round that must be confirmed; 0 for the reply of its own entry.
    pub round: Round,
}

/// How far replies may be released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Release {
    /// Committed in the current epoch.
    pub commit: Index,
    /// Confirmed by every required member.
    pub round: Round,
    /// The epoch in which both hold.
    pub epoch: Epoch,
    /// In-sync replicas that hold it.
    pub copies: u8,
    /// How durably each of them holds it.
    pub mode: Mode,
    /// False when too few replicas are in sync: nothing is released.
    pub open: bool,
}

impl Release {
    /// True when a reply with this hold may go to its client.
    pub fn covers(&self, hold: Hold) -> bool {
        self.open && (hold.index <= self.commit || planted!("P20")) && hold.round <= self.round
    }
}

/// What became of a request.
pub enum Disposition {
    /// Executed (or known from before): the reply is in the buffer and waits for its hold.
    Reply {
        /// When it may be released.
        hold: Hold,
        /// Where it stands, for the receipt: of a retry the entry that was executed, whoever made it.
        at: Position,
    },
    /// A read that is answered on another thread; what it writes waits for its hold all the same.
    Deferred {
        /// When it may be released.
        hold: Hold,
        /// What the reply saw, for the receipt.
        at: Position,
        /// Run it elsewhere.
        work: DeferredRead,
    },
    /// Not executed.
    Refused(Refused),
}

impl std::fmt::Debug for Disposition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Disposition::Reply { hold, at } => write!(f, "Reply({hold:?}, {at:?})"),
            Disposition::Deferred { hold, at, .. } => write!(f, "Deferred({hold:?}, {at:?})"),
            Disposition::Refused(refused) => write!(f, "Refused({refused:?})"),
        }
    }
}

/// Why a request was not executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// This replica does not serve; redirect.
    NotPrimary,
    /// Not now; the shell should not have asked while admission was `Paused`. Ask again.
    Paused,
    /// Not now, for this session alone: too much that it has read is not released. Ask again when some of it is.
    Unread,
    /// The client's own fault or the group's state. The words are an output like any other: they wait for the hold.
    Reason {
        /// Why.
        reason: Refusal,
        /// When it may be told.
        hold: Hold,
    },
}

/// What a replica is, as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks for its group or its primary.
    Starting,
    /// Gets a state transfer, or the log after it.
    Joining,
    /// Holds everything, is not in sync.
    Spare,
    /// In sync.
    Backup,
    /// In sync, asks to become primary.
    TakingOver,
    /// Executes operations.
    Primary,
    /// Was primary or in sync, and is no longer.
    Fenced,
    /// Stopped for good.
    Stopped,
}

/// Why a replica stops.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StopReason {
    /// It was asked to.
    #[error("asked to stop")]
    Asked,
    /// Its own state cannot be trusted.
    #[error("{0}")]
    Untrusted(String),
    /// Its disk failed, or cannot be used.
    #[error("{0}")]
    Journal(String),
    /// The arbiters know another group of this name.
    #[error(
        "the arbiters hold group {theirs}, this replica holds data of {ours} under the same name; one was made anew. Start with an empty data directory to join the new one"
    )]
    OtherGroup {
        /// Theirs.
        theirs: GroupId,
        /// Ours.
        ours: GroupId,
    },
}

/// A picture of the core for `status`, INFO, metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// This replica.
    pub name: ReplicaName,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its role.
    pub role: Role,
    /// The highest epoch it knows.
    pub epoch: Epoch,
    /// The newest record it knows.
    pub record: Option<GroupRecord>,
    /// Last index of its log.
    pub index: Index,
    /// Committed, as far as it knows.
    pub committed: Index,
    /// The last entry of its log.
    pub held: Position,
    /// The last entry of its log that it knows to be committed. Of the epoch in which it was written, not of the present
    /// one: epochs change without an entry.
    pub commit: Position,
    /// Applied (on the primary: executed).
    pub applied: Index,
    /// Index before the first entry its log still holds.
    pub log_base: Index,
    /// Bytes of its log.
    pub log_bytes: u64,
    /// Bytes of the machine's state, roughly.
    pub machine_bytes: u64,
    /// Open sessions.
    pub sessions: usize,
    /// The group clock.
    pub clock: Timestamp,
    /// Time since the primary was last heard, for a follower.
    pub silence: Option<Duration>,
    /// On a joiner: the state transfer it gets.
    pub receiving: Option<TransferStatus>,
    /// On the primary: who follows.
    pub followers: Vec<FollowerStatus>,
    /// Its own journal holds everything up to here, as durably as the mode says.
    pub persisted: Index,
    /// Age of the oldest thing that its disk was asked for and has not done.
    pub journal_age_ms: u32,
    /// The last entry of its newest snapshot on disk; 0 for none.
    pub snapshot_index: Index,
    /// Every in-sync member came back in another life: an operator must decide.
    pub waits_for_seize: bool,
    /// A change in flight, by name.
    pub proposing: Option<&'static str>,
    /// While an operator's fence is in force: the highest epoch known without it.
    pub fenced_from: Option<Epoch>,
    /// And the epoch of the record that the arbiters show below it, once they have; 0 for none.
    pub shown_below_fence: Option<Epoch>,
    /// The group's identity, also when only the disk knows of it.
    pub group_id: Option<GroupId>,
    /// The group's durability, likewise.
    pub mode: Option<Mode>,
}

/// A follower as its primary sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct FollowerStatus {
    /// Who.
    pub name: ReplicaName,
    /// Which life.
    pub incarnation: Incarnation,
    /// Its addresses.
    pub addresses: Addresses,
    /// Its role.
    pub role: Role,
    /// Acknowledged.
    pub acknowledged: Index,
    /// Applied.
    pub applied: Index,
    /// Time since its last acknowledgement.
    pub silence: Duration,
    /// The state transfer it gets.
    pub transfer: Option<TransferStatus>,
}

/// Decodes the reply of [`Request::OpenSession`].
pub fn opened_session(reply: &[u8]) -> Option<SessionId> {
    postcard::from_bytes(reply).ok()
}

/// Decodes the reply of [`Request::Outcome`].
pub fn decoded_outcome(reply: &[u8]) -> Option<Outcome> {
    postcard::from_bytes(reply).ok()
}
