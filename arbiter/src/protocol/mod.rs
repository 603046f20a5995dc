//! The messages of the arbiter port: what replicas, clients and operators ask, and what an arbiter tells them.
//!
//! A connection begins with [`ToArbiter::Hello`], answered by [`FromArbiter::Welcome`] or
//! [`FromArbiter::NotWelcome`]. Then questions carry an id of the asker's choosing and each gets one
//! [`FromArbiter::Reply`] with that id, in any order; watches get [`FromArbiter::Record`] whenever a record changes,
//! and nothing else is sent but [`FromArbiter::Ping`], so that a dead connection is noticed.
//!
//! | message | from | to | means |
//! |---|---|---|---|
//! | `Hello`, `Welcome`, `NotWelcome` | caller, arbiter, arbiter | arbiter, caller, caller | versions agree, or why not |
//! | `Ask` | caller | any arbiter | one question; a follower passes it to the leader |
//! | `Reply` | arbiter | caller | the answer, or [`Reply::Retry`], which is no answer |
//! | `Watch`, `Unwatch` | caller | any arbiter | which groups to be told of |
//! | `Record` | any arbiter | caller | what this arbiter has applied; may lag behind another's |
//! | `Ping` | arbiter | caller | nothing for a while, but alive |
//!
//! Deliberately not here: what arbiters say among themselves (`server::peer`), and framing ([`crate::wire`]).

use serde::{Deserialize, Serialize};

use crate::record::{Answer, GroupName, GroupRecord, HistoryItem, Proposal};

/// Version of the messages in this module; both sides must speak the same.
pub const PROTOCOL: u16 = 1;
/// The longest name a caller may give itself, in bytes.
pub const MAX_CALLER_NAME: usize = 128;
/// The largest question an arbiter accepts, in bytes.
pub const MAX_QUESTION: usize = 64 * 1024;
/// An arbiter that has nothing to say for this long says [`FromArbiter::Ping`].
pub const PING_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);
/// How many questions one connection may have open; further ones are told to retry.
pub const MAX_OPEN_QUESTIONS: usize = 256;
/// How many groups one connection may watch.
pub const MAX_WATCHES: usize = 1024;

/// From a caller to an arbiter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToArbiter {
    /// First on every connection.
    Hello {
        /// [`PROTOCOL`] of the caller.
        protocol: u16,
        /// Who calls, for the arbiter's log.
        name: String,
    },
    /// One question.
    Ask {
        /// Comes back with the reply; unique among the connection's open questions.
        id: u64,
        /// What is asked.
        question: Question,
    },
    /// From now on, tell every record of this group; the present one comes at once.
    Watch(GroupName),
    /// No longer.
    Unwatch(GroupName),
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Make this change, if it may be made.
    TestAndSet(Box<Proposal>),
    /// The group's record, linearisable.
    Read(GroupName),
    /// What the arbiters remember of the group's changes, oldest first, linearisable.
    History(GroupName),
    /// Every group's record, linearisable.
    Groups,
    /// How the asked arbiter itself stands.
    Status,
}

/// From an arbiter to a caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromArbiter {
    /// The handshake is complete.
    Welcome {
        /// [`PROTOCOL`] of the arbiter.
        protocol: u16,
        /// Which arbiter this is.
        arbiter: u64,
        /// Who leads, as far as this arbiter knows.
        leader: Option<u64>,
    },
    /// The connection ends, and why.
    NotWelcome {
        /// What to do about it.
        reason: String,
    },
    /// To one question.
    Reply {
        /// The question's id.
        id: u64,
        /// Who leads, as far as this arbiter knows; asking there saves a hop.
        leader: Option<u64>,
        /// The reply.
        reply: Reply,
    },
    /// A watched group's record, as this arbiter has applied it.
    Record(GroupRecord),
    /// Nothing to say, but alive.
    Ping,
}

/// To a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To `TestAndSet`; comes from applying the request's log entry only.
    Answer(Answer),
    /// To `Read`.
    Record(Option<GroupRecord>),
    /// To `History`.
    History(Vec<HistoryItem>),
    /// To `Groups`.
    Groups(Vec<GroupRecord>),
    /// To `Status`.
    Status(ArbiterStatus),
    /// No answer: the same question may be asked again, here or elsewhere. A `TestAndSet` may still be granted.
    Retry {
        /// Why there is no answer.
        reason: String,
    },
}

/// How one arbiter stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArbiterStatus {
    /// Which arbiter.
    pub id: u64,
    /// Its role in Raft.
    pub role: ArbiterRole,
    /// Its term.
    pub term: u64,
    /// The leader it follows, or itself.
    pub leader: Option<u64>,
    /// Last log index it knows to be committed.
    pub commit: u64,
    /// Last log index it has applied.
    pub applied: u64,
    /// How many groups it knows.
    pub groups: u64,
    /// All arbiters and their advertised addresses.
    pub members: Vec<(u64, String)>,
    /// Version of the software.
    pub version: String,
}

/// Raft's roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArbiterRole {
    /// Orders the log.
    Leader,
    /// Follows the leader, if there is one.
    Follower,
    /// Asks for votes, or whether it would get them.
    Candidate,
}

impl ArbiterRole {
    /// As logs and metrics spell it.
    pub fn name(self) -> &'static str {
        match self {
            ArbiterRole::Leader => "leader",
            ArbiterRole::Follower => "follower",
            ArbiterRole::Candidate => "candidate",
        }
    }
}
