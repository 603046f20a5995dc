//! Between the client library and a replica, on the client port.
//!
//! The dialer says [`FromClient::Hello`] and nothing else until [`ToClient::Welcome`] or [`ToClient::Redirect`] has
//! come; after `Redirect` the replica closes. Requests on one connection are executed in the order in which they
//! arrive. A replica that refuses one request of a session refuses all later ones on that connection, so that
//! nothing overtakes it; the library reconnects and resends from its oldest unanswered sequence.
//!
//! | message | from | means |
//! |---|---|---|
//! | `Hello` | client | who I am, which session I go on with, my oldest unanswered sequence |
//! | `Welcome` | primary | go on; newer connections of a session fence older ones |
//! | `Redirect` | not the primary | ask there, under the same sequences: of what is not answered some may have been executed |
//! | `Open` → `Opened` | client → primary | a new session, by a logged operation |
//! | `Request` → `Reply` | client → primary | one operation of the session, exactly once |
//! | `Outcome` → `OutcomeIs` | client → primary | what became of a sequence; closes an undecided one for ever |
//! | `Request` → `OutcomeIs` | client → primary | executed, but the reply is too long for a frame |
//! | `KeepAlive` | client | renews the session by a logged operation; `Alive` answers |
//! | `Acknowledge` | client | replies below this sequence have arrived and need not be kept |
//! | `Refused` | primary | the request was **not executed** and why |

use bytes::Bytes;
use cutover_arbiter::record::{Epoch, GroupName, GroupRecord, Index, Mode};
use cutover_arbiter::wire::DEFAULT_LIMIT;
use serde::{Deserialize, Serialize};

use crate::machine::Identity;

/// A session's identity: the position of the entry that opened it, so it cannot be born twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId {
    /// Epoch of the opening entry.
    pub epoch: Epoch,
    /// Index of the opening entry.
    pub index: Index,
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.index)
    }
}

/// Number of a request within its session, from 1.
pub type Sequence = u64;

/// Most requests of one session that may be unanswered at a time.
pub const WINDOW_REQUESTS: usize = 4096;
/// Most bytes of kept replies of one session.
pub const WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// Longest reply that fits into a frame of the client port. Of a longer one only `OutcomeIs` is told, with
/// [`Outcome::Executed`] and no reply; none is kept.
pub const LONGEST_REPLY: usize = DEFAULT_LIMIT - 1024;

/// From the library to a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromClient {
    /// First message of a connection.
    Hello {
        /// The group the client means.
        group: GroupName,
        /// Name of the client, for logs and lists; at most 64 characters are kept.
        name: String,
        /// The machine the client was built for; `None` if it does not care.
        machine: Option<Identity>,
        /// The session to go on with, if there is one already.
        session: Option<SessionId>,
        /// The oldest sequence without an answer; the client resends all from there in order.
        oldest_unanswered: Sequence,
        /// The newest record the client knows; a replica behind it learns from it.
        record: Option<Box<GroupRecord>>,
    },
    /// Opens a session; the connection goes on with it.
    Open {
        /// The session ends after this long without a sign of life, in milliseconds of the group clock.
        timeout_ms: u64,
    },
    /// One operation.
    Request {
        /// Its number.
        sequence: Sequence,
        /// The lowest sequence still unanswered at the client.
        lowest_unanswered: Sequence,
        /// True when the operation may change the state; the machine has the last word.
        write: bool,
        /// The operation, in the machine's own encoding.
        operation: Bytes,
    },
    /// What became of `sequence`? If it was never executed, it never will be.
    Outcome {
        /// Chosen by the client, echoed by the answer.
        ticket: u64,
        /// Which request.
        sequence: Sequence,
    },
    /// Renews the session.
    KeepAlive,
    /// Replies below `below` have arrived.
    Acknowledge {
        /// First sequence whose reply is still wanted.
        below: Sequence,
    },
}

/// From a replica to the library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToClient {
    /// This replica is primary and the connection may be used.
    Welcome {
        /// The record under which it serves.
        record: Box<GroupRecord>,
        /// Largest request body accepted, in bytes.
        max_request: u64,
    },
    /// This replica is not primary (or not any more). It closes after this.
    Redirect {
        /// The newest record it knows.
        record: Option<Box<GroupRecord>>,
    },
    /// The session is open.
    Opened {
        /// Its identity.
        session: SessionId,
        /// Its receipt.
        receipt: Receipt,
    },
    /// The operation was executed (this once).
    Reply {
        /// Which request.
        sequence: Sequence,
        /// The machine's reply.
        reply: Bytes,
        /// Where it stands.
        receipt: Receipt,
    },
    /// The operation was not executed, and the later ones on this connection will not be.
    Refused {
        /// Which request; 0 for one without a sequence (`Open`, `KeepAlive`).
        sequence: Sequence,
        /// Why.
        reason: Refusal,
    },
    /// Answer to [`FromClient::Outcome`]; and to a request whose reply is over [`LONGEST_REPLY`].
    OutcomeIs {
        /// The ticket of the question; 0 for a request.
        ticket: u64,
        /// Which request.
        sequence: Sequence,
        /// What became of it.
        outcome: Outcome,
    },
    /// Answer to [`FromClient::KeepAlive`].
    Alive,
}

/// Proof of an answer: where it stands and on how many replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Epoch of the entry (of a read: of the primary that answered).
    pub epoch: Epoch,
    /// Index of the entry (of a read: of the last entry it saw).
    pub index: Index,
    /// In-sync replicas that held it when it was released.
    pub copies: u8,
    /// How durably each of them held it.
    pub mode: Mode,
}

/// Why a request was not executed. Final for this request unless it says to come again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The session is gone: it expired, or never was.
    #[error("the session expired; open a new one, and ask yourself what its unanswered operations did")]
    SessionExpired,
    /// `outcome` closed this sequence before the request arrived.
    #[error("the request was cancelled by an outcome query before it arrived")]
    Cancelled,
    /// Too few replicas are in sync; may be tried again.
    #[error("{in_sync} replicas are in sync, the group asks for {min_in_sync}; the operation was not executed")]
    NotEnoughReplicas {
        /// How many are in sync.
        in_sync: u8,
        /// How many the record asks for.
        min_in_sync: u8,
    },
    /// The session's window is full; may be tried again when answers have arrived.
    #[error(
        "the session has {WINDOW_REQUESTS} unanswered requests or {WINDOW_BYTES} bytes of unread replies; receive some first"
    )]
    WindowFull,
    /// There are as many sessions as the primary takes; may be tried again when some have ended.
    #[error("{limit} sessions are open, and this replica takes no more; close some, or raise max-sessions")]
    TooManySessions {
        /// How many it takes.
        limit: u64,
    },
    /// A session may not live as long as that without a sign.
    #[error("a session of {asked_ms} ms is asked for, but the longest is {longest_ms} ms (max-session-timeout)")]
    TimeoutTooLong {
        /// What was asked for.
        asked_ms: u64,
        /// The longest.
        longest_ms: u64,
    },
    /// A newer connection of the session took over, or an earlier request of this connection was refused.
    #[error("this connection of the session is fenced by a newer one or by an earlier refusal")]
    Fenced,
    /// The reply was announced as received, so it is no longer kept.
    #[error("the request's reply was acknowledged before and is no longer kept")]
    Acknowledged,
    /// A `Request` before `Open` or a `Hello` with a session.
    #[error("no session on this connection; send Open first")]
    NoSession,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was executed; this is its reply, unless the reply is no longer kept.
    Executed {
        /// The first and only reply, if still kept.
        reply: Option<Bytes>,
    },
    /// It was not and never will be.
    NotExecuted,
    /// The session is gone, and with it the knowledge.
    Expired,
}
