//! The group record, what may be asked of it, and what the arbiter answers.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{GroupId, GroupName, Incarnation, ReplicaName, RequestId};

/// The number of a group record: one more at every granted test-and-set; the fencing token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position in a group's log, from 1, without gaps; 0 is before the first entry.
pub type Index = u64;

/// An entry's epoch and index. Ordered by epoch first: of two logs of one group, the one whose last position is
/// the greater holds every entry that was released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Epoch of the entry.
    pub epoch: Epoch,
    /// Index of the entry.
    pub index: Index,
}

/// Where a replica is reached; each is `host:port`, or empty when it has no such port.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Addresses {
    /// For other replicas.
    pub peer: String,
    /// For the client library.
    pub client: String,
    /// For Redis clients.
    pub redis: String,
    /// For health, metrics and administration.
    pub http: String,
}

/// A replica as the record names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub replica: ReplicaName,
    /// The life of its state that was admitted; a later life of the same replica is not a member.
    pub incarnation: Incarnation,
    /// Where it is reached.
    pub addresses: Addresses,
}

/// What an acknowledgement of a group's replicas means (design section 5). By default the least of promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the memory of every in-sync replica.
    #[default]
    Memory,
    /// Also written to each journal file.
    Buffered,
    /// Also synced to disk on each.
    Sync,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Memory => "memory",
            Mode::Buffered => "buffered",
            Mode::Sync => "sync",
        })
    }
}

/// What the arbiters store for a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupRecord {
    /// The group's name.
    pub group: GroupName,
    /// The group's identity.
    pub group_id: GroupId,
    /// Number of this record.
    pub epoch: Epoch,
    /// Durability of the group.
    pub mode: Mode,
    /// Fewest in-sync replicas, the primary among them, with which an operation is executed; at least 1.
    pub min_in_sync: u8,
    /// Who executes operations.
    pub primary: Member,
    /// Whose acknowledgement the output rule needs; the primary is among them, each replica at most once.
    pub in_sync: Vec<Member>,
    /// How the record came to be.
    pub last_change: LastChange,
}

impl Member {
    /// Which life of which replica.
    pub fn life(&self) -> (ReplicaName, Incarnation) {
        (self.replica.clone(), self.incarnation)
    }
}

impl GroupRecord {
    /// The in-sync member called `replica`, if any.
    pub fn member(&self, replica: &ReplicaName) -> Option<&Member> {
        self.in_sync.iter().find(|member| &member.replica == replica)
    }

    /// True when exactly this life of `replica` is in sync.
    pub fn has(&self, replica: &ReplicaName, incarnation: Incarnation) -> bool {
        if planted!("P1") {
            return self.member(replica).is_some();
        }
        // The number first: it nearly always tells, and is compared in no time.
        self.in_sync.iter().any(|member| member.incarnation == incarnation && &member.replica == replica)
    }

    /// True when exactly this life of `replica` is the primary.
    pub fn is_primary(&self, replica: &ReplicaName, incarnation: Incarnation) -> bool {
        (self.primary.incarnation == incarnation || planted!("P1")) && &self.primary.replica == replica
    }
}

/// The change that made a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LastChange {
    /// What was changed.
    pub change: Change,
    /// Who asked for it: a replica and its life, or `None` for an operator.
    pub proposer: Option<(ReplicaName, Incarnation)>,
    /// The request that was granted.
    pub request: RequestId,
    /// The highest committed position that any proposer has told; never falls (except by `Seize` and `Adopt`).
    pub commit: Position,
}

/// What can be asked of a group record (the table of design section 3).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Change {
    /// A replica that holds no data makes the group; it becomes primary, alone in sync.
    Create {
        /// Identity of the new group, drawn by the proposer.
        group_id: GroupId,
        /// The proposer itself.
        member: Member,
        /// Durability of the group.
        mode: Mode,
        /// See [`GroupRecord::min_in_sync`].
        min_in_sync: u8,
    },
    /// A backup in sync becomes primary; the old primary leaves the in-sync set.
    TakeOver,
    /// The primary's new life, or one made primary by another's request, takes a new epoch.
    Resume,
    /// The member leaves the in-sync set.
    Remove {
        /// Who leaves.
        replica: ReplicaName,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// The member joins the in-sync set.
    Admit {
        /// Who joins.
        member: Member,
    },
    /// The in-sync member becomes primary; the proposer stays in sync.
    HandOver {
        /// Who becomes primary.
        to: ReplicaName,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// An operator makes `member` primary, alone in sync, and data may be lost.
    Seize {
        /// Who becomes primary.
        member: Member,
    },
    /// An operator brings the record of a group back to arbiters that lost it, or above everything that its replicas
    /// know or are fenced at: to arbiters that were set back, or that came back after the fence.
    Adopt {
        /// Identity of the group, as its replicas hold it.
        group_id: GroupId,
        /// Who becomes primary, alone in sync.
        member: Member,
        /// The new record's is one more.
        epoch: Epoch,
        /// Durability of the group; a record that exists goes on with its own.
        mode: Mode,
        /// See [`GroupRecord::min_in_sync`]; a record that exists goes on with its own.
        min_in_sync: u8,
        /// The replica's commit position.
        commit: Position,
    },
}

impl Change {
    /// The change's name, as logs, metrics and `history` show it.
    pub fn name(&self) -> &'static str {
        match self {
            Change::Create { .. } => "create",
            Change::TakeOver => "take_over",
            Change::Resume => "resume",
            Change::Remove { .. } => "remove",
            Change::Admit { .. } => "admit",
            Change::HandOver { .. } => "hand_over",
            Change::Seize { .. } => "seize",
            Change::Adopt { .. } => "adopt",
        }
    }
}

/// One test-and-set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Proposal {
    /// Whose record.
    pub group: GroupName,
    /// Granted only when the record's epoch is this one (`Epoch(0)`: no record exists; `Create` asks for nothing else,
    /// and so does the `Adopt` of who was shown none).
    pub expected_epoch: Epoch,
    /// Random, fresh for each proposal and life.
    pub request: RequestId,
    /// Who asks: a replica and its life, or `None` for an operator.
    pub proposer: Option<(ReplicaName, Incarnation)>,
    /// What is asked.
    pub change: Change,
    /// The proposer's commit position.
    pub commit: Position,
    /// The last position that the proposer's log holds; `TakeOver` and `Resume` with a lower one than the
    /// record's commit come from a restored old image and are refused.
    pub held: Position,
    /// `Seize` only: the new record is of no lower epoch. Replicas that were fenced above the record would not follow it
    /// otherwise. 0 for everything else.
    pub floor: Epoch,
}

/// What the arbiters answered to a proposal. Nothing else is an answer: not a time-out, not "no leader", not a
/// reading of the record at the same epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// The change is made; this is the record it made.
    Granted(GroupRecord),
    /// The change was not made and this request never will be.
    Refused {
        /// The record as it stood, if the group exists.
        record: Option<GroupRecord>,
        /// Why.
        reason: RefusalReason,
    },
}

/// Why a proposal was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum RefusalReason {
    /// The record moved on, or never was at that epoch.
    #[error("the record is at epoch {actual}, the proposal expected {expected}")]
    Epoch {
        /// What the proposal expected.
        expected: Epoch,
        /// What the record says.
        actual: Epoch,
    },
    /// `Create` of a group that has a record, or `Adopt` by an operator who was shown none.
    #[error("the group exists")]
    Exists,
    /// Anything else for a group that has none.
    #[error("no such group; start one replica with --create, or use `cutover adopt` if the arbiters lost their data")]
    NoSuchGroup,
    /// The proposer may not ask for this.
    #[error("{0}")]
    NotAllowed(String),
    /// The proposer's log is older than what the group committed: a restored old image.
    #[error("the proposer holds {held:?}, but the group committed {commit:?}: its data is an older image")]
    OldImage {
        /// What the proposer holds.
        held: Position,
        /// What the record knows to be committed.
        commit: Position,
    },
}

/// One granted change, as the arbiters remember it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HistoryItem {
    /// Wall clock of the arbiters' leader when it was proposed, in milliseconds since 1970.
    pub at_ms: u64,
    /// The record as the change made it.
    pub record: GroupRecord,
}
