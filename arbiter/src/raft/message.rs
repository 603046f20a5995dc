//! What goes in, what comes out, what is stored, and what arbiters say to each other: plain data only.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Identity of an arbiter, from 1.
pub type NodeId = u64;
/// A leader's reign: at most one leader per term, ever.
pub type Term = u64;
/// Position in the arbiters' log, from 1; 0 is before the first entry.
pub type LogIndex = u64;

/// Terms from here on are nonsense: no cluster counts so far, and a peer that says so must not overflow ours.
pub(super) const TERM_LIMIT: Term = 1 << 62;

/// One position of the arbiters' log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Term of the leader that made it.
    pub term: Term,
    /// Its position.
    pub index: LogIndex,
    /// The command; empty for the no-op with which a leader begins its term.
    pub data: Bytes,
}

impl Entry {
    /// Bytes that the entry is counted for in every limit: its data and what surrounds it.
    pub(super) fn cost(&self) -> usize {
        self.data.len() + 32
    }
}

/// What an arbiter must never forget besides its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term it has seen.
    pub term: Term,
    /// Whom it voted for in that term. Cleared only when the term rises.
    pub vote: Option<NodeId>,
}

/// The log position that a snapshot stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// Last index that the snapshot contains.
    pub index: LogIndex,
    /// Term of the entry there.
    pub term: Term,
}

/// The state machine at a log position.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which position.
    pub meta: SnapshotMeta,
    /// The state machine's own encoding.
    pub data: Bytes,
}

/// What the store loads at a start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Restored {
    /// Term and vote.
    pub hard_state: HardState,
    /// The newest snapshot.
    pub snapshot: Option<Snapshot>,
    /// The log after the snapshot, without gaps; it may reach beyond what is committed.
    pub entries: Vec<Entry>,
}

/// One atomic, durable write. Applied in this order: cut, append, snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PersistBatch {
    /// Number of the batch; [`Input::Persisted`] names it. Starts at 1 in each life of the process.
    pub sequence: u64,
    /// New term and vote.
    pub hard_state: Option<HardState>,
    /// Remove every entry at and after this index.
    pub truncate_from: Option<LogIndex>,
    /// Entries to add, replacing any at the same index.
    pub entries: Vec<Entry>,
    /// Replaces the stored snapshot; entries up to its index may go.
    pub snapshot: Option<Snapshot>,
}

/// Whether a vote was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ballot {
    /// The voter agrees.
    Granted,
    /// It does not.
    Refused,
}

/// Entries for a follower, or none: a heartbeat, or a probe for the place where the logs meet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Append {
    /// The leader's term.
    pub term: Term,
    /// Index of the entry before the first of `entries`.
    pub prev_index: LogIndex,
    /// Term of that entry.
    pub prev_term: Term,
    /// The entries that follow it, without gaps.
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    pub commit: LogIndex,
    /// The leader's latest read round; the reply echoes it.
    pub round: u64,
}

/// What became of an [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AppendOutcome {
    /// The follower durably holds the leader's log up to here, as verified by an append: never the end of its own.
    Accepted {
        /// The last verified index.
        matched: LogIndex,
    },
    /// The follower has another entry, or none, at the append's `prev_index`.
    Conflict {
        /// That `prev_index`: tells the leader which append this answers.
        rejected: LogIndex,
        /// The follower's last entry at or before `rejected` whose term is not above the append's `prev_term`.
        hint_index: LogIndex,
        /// Term of that entry.
        hint_term: Term,
    },
    /// The sender's term is over; `term` of the reply says which one it is.
    Stale,
}

/// What one arbiter says to another. `term` is always the sender's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// Would you vote for me in the term after mine?
    PreVote {
        /// The sender's present term; it would stand in the next.
        term: Term,
        /// Last position of the sender's log.
        last: SnapshotMeta,
    },
    /// Answer to a pre-vote: promises nothing.
    PreVoteReply {
        /// The voter's term.
        term: Term,
        /// Its answer.
        ballot: Ballot,
    },
    /// Vote for me in this term.
    Vote {
        /// The candidate's term.
        term: Term,
        /// Last position of its log.
        last: SnapshotMeta,
    },
    /// Answer to a vote request.
    VoteReply {
        /// The voter's term.
        term: Term,
        /// Its answer, final in this term.
        ballot: Ballot,
    },
    /// Entries, heartbeat or probe.
    Append(Append),
    /// Answer to an append.
    AppendReply {
        /// The follower's term.
        term: Term,
        /// What became of it.
        outcome: AppendOutcome,
        /// Round of the append that this answers.
        round: u64,
    },
    /// A snapshot for a follower whose next entry the leader no longer has.
    InstallSnapshot {
        /// The leader's term.
        term: Term,
        /// The snapshot, whole.
        snapshot: Snapshot,
        /// As in [`Append::round`].
        round: u64,
    },
    /// The follower durably holds everything up to the snapshot's index.
    InstallSnapshotReply {
        /// The follower's term.
        term: Term,
        /// The snapshot's index.
        matched: LogIndex,
        /// Round of the message that this answers.
        round: u64,
    },
}

impl Message {
    /// The sender's term.
    pub fn term(&self) -> Term {
        match self {
            Message::Append(append) => append.term,
            Message::PreVote { term, .. }
            | Message::PreVoteReply { term, .. }
            | Message::Vote { term, .. }
            | Message::VoteReply { term, .. }
            | Message::AppendReply { term, .. }
            | Message::InstallSnapshot { term, .. }
            | Message::InstallSnapshotReply { term, .. } => *term,
        }
    }

    /// Whether the message can be what an arbiter says at all; what can not is dropped where it enters.
    pub(super) fn is_sound(&self) -> bool {
        if self.term() >= TERM_LIMIT {
            return false;
        }
        match self {
            Message::Append(append) => append.is_sound(),
            Message::InstallSnapshot { term, snapshot, .. } => {
                let SnapshotMeta { index, term: at } = snapshot.meta;
                index > 0 && index < LogIndex::MAX / 2 && at > 0 && at <= *term
            }
            _ => true,
        }
    }
}

impl Append {
    fn is_sound(&self) -> bool {
        let mut before = (self.prev_index, self.prev_term);
        if self.prev_index > LogIndex::MAX / 2 || self.prev_term > self.term {
            return false;
        }
        for entry in &self.entries {
            if entry.index != before.0 + 1 || entry.term < before.1 || entry.term > self.term || entry.term == 0 {
                return false;
            }
            before = (entry.index, entry.term);
        }
        true
    }
}

/// What happens to an arbiter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Time has passed: look at the deadlines.
    Tick,
    /// Another arbiter said something.
    Message {
        /// Who; as the connection was authenticated, not as the message claims.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// Someone wants a command in the log.
    Propose {
        /// Comes back in the answer.
        ticket: u64,
        /// The command.
        data: Bytes,
    },
    /// Someone wants to read the state machine, linearisably.
    Read {
        /// Comes back in the answer.
        ticket: u64,
    },
    /// Every [`PersistBatch`] up to this sequence is durable.
    Persisted {
        /// The last durable batch.
        upto: u64,
    },
    /// Answer to [`Output::TakeSnapshot`].
    SnapshotTaken {
        /// The applied index at which it was taken.
        index: LogIndex,
        /// The state machine there.
        data: Bytes,
    },
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// Make this durable, then say [`Input::Persisted`]. Any error is final: stop the process.
    Persist(PersistBatch),
    /// Send now; whatever the message promises is already durable. It may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Apply these entries, which follow the last applied one; a no-op only moves the index.
    Apply {
        /// Committed entries in order.
        entries: Vec<Entry>,
    },
    /// Replace the state machine by this snapshot.
    Restore {
        /// The snapshot.
        snapshot: Snapshot,
    },
    /// Take a snapshot once `index` is applied and answer with [`Input::SnapshotTaken`].
    TakeSnapshot {
        /// At or after which index.
        index: LogIndex,
    },
    /// The snapshot that was taken is over [`super::MAX_SNAPSHOT_BYTES`] and was not kept. Until a smaller one is
    /// taken every proposal is rejected, for the log can no longer be shortened.
    SnapshotRefused {
        /// Where it was taken.
        index: LogIndex,
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The proposal stands in the log. Its fate is known when that index is applied: with this term it is done, with
    /// another it never will be. If a `Restore` jumps over the index, its fate stays unknown here.
    Proposed {
        /// Of the proposal.
        ticket: u64,
        /// Where it stands.
        index: LogIndex,
        /// In which term.
        term: Term,
    },
    /// Nothing happened with the proposal and nothing will: this arbiter does not lead, or too much waits already.
    Rejected {
        /// Of the proposal.
        ticket: u64,
        /// Who leads; this arbiter itself when too much waits.
        leader: Option<NodeId>,
    },
    /// The read may be answered from a state machine that has applied `index`. Every `Apply` up to it came before.
    ReadReady {
        /// Of the read.
        ticket: u64,
        /// What must be applied.
        index: LogIndex,
    },
    /// The read must not be answered here.
    ReadRejected {
        /// Of the read.
        ticket: u64,
        /// Who leads, as far as this arbiter knows.
        leader: Option<NodeId>,
    },
    /// Another leader, or none, or the same in another term.
    Leadership {
        /// Who leads.
        leader: Option<NodeId>,
        /// This arbiter's term.
        term: Term,
    },
}
