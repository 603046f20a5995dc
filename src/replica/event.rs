//! What is worth a line in the log and a number in the metrics: plain data; the shell finds the words.

use cutover_arbiter::record::{Epoch, Incarnation, Index, ReplicaName};

use crate::protocol::peer::TransferReason;

use super::{Role, TransferStatus};

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The role changed.
    Role {
        /// From.
        from: Role,
        /// To.
        to: Role,
        /// In which epoch.
        epoch: Epoch,
    },
    /// A proposal of ours was granted.
    Granted {
        /// Name of the change.
        change: &'static str,
        /// The new epoch.
        epoch: Epoch,
    },
    /// A proposal of ours was refused.
    Refused {
        /// Name of the change.
        change: &'static str,
        /// Why.
        reason: String,
    },
    /// Another replica is suspected.
    Suspected {
        /// Who.
        replica: ReplicaName,
        /// Why.
        why: &'static str,
    },
    /// This replica became primary and serves.
    CutOver {
        /// The epoch.
        epoch: Epoch,
        /// From the suspicion (or the request) to serving, in microseconds.
        took_us: u64,
        /// Entries drained from the log.
        drained: u64,
    },
    /// This replica is no longer primary.
    Deposed {
        /// The epoch that ended it.
        epoch: Epoch,
    },
    /// A backup left the in-sync set.
    Removed {
        /// Who.
        replica: ReplicaName,
        /// The epoch.
        epoch: Epoch,
    },
    /// A replica joined the in-sync set.
    Admitted {
        /// Who.
        replica: ReplicaName,
        /// The epoch.
        epoch: Epoch,
    },
    /// What this replica holds cannot be joined to its primary's log: it needs a state transfer, unless it can go back by
    /// itself.
    NeedsTransfer {
        /// Its primary.
        primary: ReplicaName,
        /// Why.
        reason: TransferReason,
    },
    /// A state transfer began (on the primary: to a replica; on a joiner: to itself).
    TransferStarted {
        /// To whom.
        replica: ReplicaName,
        /// Why a snapshot is needed.
        reason: TransferReason,
    },
    /// A state transfer went on.
    TransferProgress {
        /// To whom.
        replica: ReplicaName,
        /// How it goes.
        status: TransferStatus,
    },
    /// A state transfer whose link had broken goes on.
    TransferResumed {
        /// To whom.
        replica: ReplicaName,
        /// From which chunk on.
        chunk: u64,
        /// Bytes before the break.
        bytes: u64,
    },
    /// An operator's fence: this replica does nothing of any lower epoch any more.
    FencedByOperator {
        /// The highest epoch known.
        known: Epoch,
        /// The fence.
        epoch: Epoch,
    },
    /// The arbiters show less than an operator's fence: this replica stays away until the adoption is gone on with.
    FenceStands {
        /// The fence.
        fence: Epoch,
        /// The epoch they show; 0 for no group at all.
        shown: Epoch,
    },
    /// Too much of the log would have to be kept for a replica that is not in sync; it is given up for a while.
    FellBehind {
        /// Who.
        replica: ReplicaName,
        /// The limit.
        log_bytes: u64,
    },
    /// A state transfer is complete.
    TransferDone {
        /// To whom.
        replica: ReplicaName,
        /// How it went.
        status: TransferStatus,
        /// Index of the snapshot.
        index: Index,
    },
    /// A follower came back and needs only the entries after `common`.
    DeltaRejoin {
        /// Who.
        replica: ReplicaName,
        /// The common point.
        common: Index,
        /// Entries that follow.
        entries: u64,
    },
    /// A tail that lost a cut-over was cut.
    TailCut {
        /// Last index kept.
        keep: Index,
        /// Entries cut.
        entries: u64,
    },
    /// This replica computed another result than the primary; it comes back by state transfer.
    Diverged {
        /// First index that differs.
        index: Index,
        /// What was executed there.
        operation: String,
    },
    /// An operation panicked; the panic became its reply.
    Poisonous {
        /// At which index.
        index: Index,
        /// What was executed.
        operation: String,
        /// What the panic said.
        panic: String,
    },
    /// A new incarnation was taken.
    NewIncarnation {
        /// Which.
        incarnation: Incarnation,
        /// Why.
        why: &'static str,
    },
    /// The wall clock and the group clock are far apart.
    ClockSkew {
        /// Wall minus group clock, in microseconds.
        skew_us: i64,
    },
    /// A peer was refused or refused us.
    PeerRefused {
        /// Who, as far as known.
        replica: String,
        /// Why.
        reason: String,
    },
    /// The arbiters show less than they once granted: they lost their data.
    ArbitersForgot {
        /// The epoch this replica knows of.
        known: Epoch,
        /// The epoch they show; 0 for no group at all.
        shown: Epoch,
    },
    /// Every in-sync member came back in another life: the group waits for an operator.
    WaitsForSeize {
        /// The last entry that this replica holds; 0 for none.
        holds: Index,
    },
    /// This replica goes on from what it had on disk.
    Restarted {
        /// Index of the snapshot it began with; 0 for none.
        snapshot: Index,
        /// The last entry of its journal.
        last: Index,
        /// The highest epoch it knew.
        epoch: Epoch,
        /// Why it may have lost something, and took a new incarnation.
        lost: Option<&'static str>,
    },
    /// This replica follows again, from what it holds.
    Rejoined {
        /// The last entry that it has in common with the primary.
        common: Index,
        /// Where the entries up to there came from.
        from: &'static str,
    },
    /// This replica executed what lost a cut-over, and makes its state anew from its own disk.
    GoesBack {
        /// The last entry that it has in common with the primary.
        common: Index,
        /// How far it has executed.
        applied: Index,
    },
    /// It has done so, and needs only the entries after the common point.
    WentBack {
        /// The snapshot that it began with; 0 for the beginning of its journal.
        snapshot: Index,
        /// How far it has executed now.
        applied: Index,
    },
    /// The primary has no use for its state, which it keeps, since it counts as a copy, until it has been removed.
    KeepsState {
        /// The primary.
        primary: ReplicaName,
    },
    /// Its own disk does not give what it needs to make its state anew.
    CannotGoBack {
        /// Why not.
        why: String,
    },
    /// A snapshot is in its place on disk.
    SnapshotInstalled {
        /// The last entry in it.
        index: Index,
    },
    /// The disk failed.
    JournalFailed {
        /// What happened, and what a person should do.
        reason: String,
    },
    /// The disk does not answer.
    JournalStalled {
        /// For how long.
        age_ms: u32,
    },
}
