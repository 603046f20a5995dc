//! What arbiters say among themselves, over one connection in each direction: whoever dials speaks, the other side
//! only answers the handshake.

use serde::{Deserialize, Serialize};

use crate::protocol::{Question, Reply};
use crate::raft::{Message, NodeId};

/// Version of the messages in this module.
pub(super) const PEER_PROTOCOL: u16 = 1;

/// From the arbiter that dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToPeer {
    /// First on every connection.
    Hello {
        /// [`PEER_PROTOCOL`] of the sender.
        protocol: u16,
        /// Which cluster the sender belongs to.
        cluster: u128,
        /// Who dials.
        from: NodeId,
        /// Whom it means to reach.
        to: NodeId,
        /// All arbiters, as the sender's configuration has them, sorted.
        members: Vec<NodeId>,
    },
    /// Raft's own.
    Raft(Message),
    /// A caller's question, passed on to the leader; never passed on twice.
    Forward {
        /// Comes back with the reply.
        ticket: u64,
        /// What is asked.
        question: Box<Question>,
    },
    /// The reply to a `Forward`.
    Forwarded {
        /// Of the `Forward`.
        ticket: u64,
        /// What was replied.
        reply: Box<Reply>,
    },
}

/// From the arbiter that was dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FromPeer {
    /// Go on.
    Welcome,
    /// The connection ends, and why.
    NotWelcome {
        /// What to do about it.
        reason: String,
    },
}
