//! What callers of the client library see: options, replies, errors.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use cutover_arbiter::client::Unanswered;
use cutover_arbiter::record::{GroupName, NameError};

use crate::machine::Identity;
use crate::protocol::client::{LONGEST_REPLY, Receipt, Refusal, Sequence, SessionId, WINDOW_REQUESTS};

/// How a [`Client`](super::Client) behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Who this is, for the replicas' logs and lists; at most 64 characters are kept.
    pub name: String,
    /// The machine the client was built for; a replica of another one is not used. `None`: any.
    pub machine: Option<Identity>,
    /// How long one operation may take unless its [`RequestOptions`] say otherwise, and how long `connect` asks the
    /// arbiters.
    pub deadline: Duration,
    /// The session ends after this long without a sign of life. Longer than any interruption that the outcome of an
    /// operation should survive.
    pub session_timeout: Duration,
    /// A replica that accepts no connection, or then does not answer the handshake, within this time is tried again.
    pub connect_timeout: Duration,
    /// An idle connection is probed by the kernel this often.
    pub keepalive: Duration,
    /// Pairs of an advertised address and the one to dial instead (a tunnel, a fault proxy), replicas and arbiters
    /// alike.
    pub routes: Vec<(String, String)>,
    /// Most operations in flight; at most [`WINDOW_REQUESTS`].
    pub window: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            name: String::from("unnamed"),
            machine: None,
            deadline: Duration::from_secs(10),
            session_timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(1),
            keepalive: Duration::from_secs(5),
            routes: Vec::new(),
            window: WINDOW_REQUESTS / 4,
        }
    }
}

/// How one operation is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestOptions {
    /// How long it may take; `None`: as [`ClientOptions::deadline`] says.
    pub deadline: Option<Duration>,
    /// True when it may change the state; the machine has the last word.
    pub write: bool,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self { deadline: None, write: true }
    }
}

/// The answer to an operation that was executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What the machine replied.
    pub bytes: Bytes,
    /// Where the operation stands in the log, and on how many replicas.
    pub receipt: Receipt,
}

/// Names one request of one session for ever, so that its outcome can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestRef {
    /// Its session.
    pub session: SessionId,
    /// Its number in the session.
    pub sequence: Sequence,
}

impl fmt::Display for RequestRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.session, self.sequence)
    }
}

/// Why there is no reply.
///
/// Two questions that are not the same: [`is_retryable`](Self::is_retryable), whether handing the operation over
/// again may help, and [`has_no_side_effects`](Self::has_no_side_effects), whether it is certain that this attempt
/// did nothing and never will.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// The deadline passed after the operation had been sent: it may have been executed, or may be yet.
    #[error("no answer to {request} within its deadline, so its outcome is unknown (last: {last_problem}); ask for it")]
    Unknown {
        /// To ask for its outcome.
        request: RequestRef,
        /// What last stood in the way.
        last_problem: String,
    },
    /// The deadline passed before any connection carried the operation: it was not executed.
    #[error("not executed: the deadline passed before the operation could be sent (last: {last_problem})")]
    NotSent {
        /// What stood in the way.
        last_problem: String,
    },
    /// The primary refused, and the deadline passed or another try is of no use.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The session ended while the operation was under way. Whether it was executed cannot be known any more.
    #[error("the session ended before {request} was answered; its outcome cannot be known any more")]
    SessionExpired {
        /// Which request; its outcome is [`Expired`](super::Outcome::Expired).
        request: RequestRef,
    },
    /// Two primaries were lost while they had this operation. It is not sent to a third: it may be what killed them.
    #[error(
        "the primary was lost twice while it had {request}, which is not tried a third time (last: {last_problem}); look for a panic in the replicas' logs before it is repeated"
    )]
    Poisonous {
        /// To ask for its outcome.
        request: RequestRef,
        /// What was seen of the second loss.
        last_problem: String,
    },
    /// The operation was executed, once; its reply is longer than a frame of the client port and was not sent.
    #[error(
        "{request} was executed, but its reply is over {LONGEST_REPLY} bytes and was not sent; ask for less at a time"
    )]
    ReplyTooLong {
        /// Which request; its outcome is executed, without a reply.
        request: RequestRef,
    },
    /// This client was closed before the operation was sent: it was not executed.
    #[error("the client is closed; the operation was not executed")]
    Closed,
    /// The operation is over the primary's limit.
    #[error("the operation has {size} bytes, the limit is {limit}; it was not executed")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The outcome was asked of a request that is not this client's, or was settled too long ago.
    #[error("this client does not remember {request}; ask the client that sent it, and ask early")]
    Forgotten {
        /// Which request.
        request: RequestRef,
    },
}

impl OperationError {
    /// True when the same operation, handed over again, may succeed. With an error that
    /// [`has_no_side_effects`](Self::has_no_side_effects) that is safe; with another one it may be executed twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unknown { .. } | Self::NotSent { .. } | Self::SessionExpired { .. } => true,
            Self::Refused(reason) => !matches!(reason, Refusal::Cancelled | Refusal::Acknowledged),
            Self::Poisonous { .. }
            | Self::ReplyTooLong { .. }
            | Self::Closed
            | Self::TooLarge { .. }
            | Self::Forgotten { .. } => false,
        }
    }

    /// True when it is certain that the operation was not executed and never will be.
    pub fn has_no_side_effects(&self) -> bool {
        match self {
            Self::NotSent { .. } | Self::Closed | Self::TooLarge { .. } => true,
            Self::Refused(reason) => !matches!(reason, Refusal::Acknowledged),
            Self::Unknown { .. }
            | Self::SessionExpired { .. }
            | Self::Poisonous { .. }
            | Self::ReplyTooLong { .. }
            | Self::Forgotten { .. } => false,
        }
    }

    /// The request whose [`outcome`](super::Client::outcome) can be asked for, if there is one.
    pub fn request(&self) -> Option<RequestRef> {
        match self {
            Self::Unknown { request, .. } | Self::SessionExpired { request } | Self::Poisonous { request, .. } => {
                Some(*request)
            }
            _ => None,
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No arbiter was named.
    #[error("no arbiter's address was given; name all of them as host:port")]
    NoArbiters,
    /// The group's name is no name.
    #[error(transparent)]
    Group(#[from] NameError),
    /// The arbiters did not answer.
    #[error(transparent)]
    Arbiters(#[from] Unanswered),
    /// They answered that there is no such group.
    #[error("the arbiters know no group '{group}'; start one replica of it with --create, or check the name")]
    NoSuchGroup {
        /// The name asked for.
        group: GroupName,
    },
}
