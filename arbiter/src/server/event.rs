//! What happens to an arbiter from outside its loop.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::core::ConnectionId;
use super::outbox::Outbox;
use crate::protocol::{ArbiterStatus, Question, Reply};
use crate::raft::{Message, NodeId};
use crate::record::GroupName;

/// From a connection or the http port to the loop.
pub(super) enum Event {
    /// A caller completed its handshake.
    Opened { connection: ConnectionId, outbox: Arc<Outbox> },
    /// A connection ended; its caller may never have been told of.
    Closed { connection: ConnectionId },
    /// A caller asks.
    Ask { connection: ConnectionId, id: u64, question: Question },
    /// A caller watches.
    Watch { connection: ConnectionId, group: GroupName },
    /// A caller watches no longer.
    Unwatch { connection: ConnectionId, group: GroupName },
    /// Another arbiter dialled us: it lives.
    PeerConnected { from: NodeId },
    /// Another arbiter's Raft says something.
    Raft { from: NodeId, message: Message },
    /// Another arbiter passes a caller's question on to us, because we lead.
    Forward { from: NodeId, ticket: u64, question: Box<Question> },
    /// The leader's reply to a question we passed on.
    Forwarded { ticket: u64, reply: Box<Reply> },
    /// The http port wants to know how we stand.
    Status { answer: oneshot::Sender<ArbiterStatus> },
}
