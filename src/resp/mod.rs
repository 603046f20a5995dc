//! The Redis edge without IO: bytes in; operations to execute, answers, questions and the end of a connection out.
//!
//! The shell reads into [`Connection::buffer`], calls [`Connection::next`] until it gives `None`, does what each
//! [`Action`] says, and hands neutral replies to [`Connection::encode_reply`]. What belongs to a connection lives
//! here: the protocol version, the name, reply suppression, the commands about the connection itself.
//!
//! Deliberately not here: sockets, clocks, replication, and what a command does to the data (that is
//! [`crate::machine::kv`]). What INFO or ROLE tell comes in as a plain [`Status`]. The same edge therefore serves in
//! a replica and in a proxy.
//!
//! | file | concern |
//! |---|---|
//! | `parser`, `inline` | bytes to words, incrementally, with Redis' protocol errors |
//! | `connection` | the loop over requests, and what each turns into |
//! | `format` | neutral replies to RESP2 or RESP3 |
//! | `table` | the edge's own commands and their arities |
//! | `session`, `client`, `hello`, `introspect`, `config` | those commands |
//! | `status`, `info` | what the shell tells, and the text made of it |

mod client;
mod config;
mod connection;
#[cfg(test)]
mod differential;
mod format;
mod hello;
mod info;
mod inline;
mod introspect;
mod parser;
mod session;
mod status;
mod table;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use client::{Client, ClientFilter};
pub use config::{ConfigRefusal, memory_value};
pub use connection::Connection;
pub use format::Format;
pub use parser::{Limits, ProtocolError};
pub use status::{Address, Backup, BackupState, CommandStat, Link, Role, Status, StatusQuestion};

use crate::machine::Access;

/// The version of Redis whose behaviour the edge follows, and that it names where clients ask.
pub const REDIS_VERSION: &str = "7.0.15";

/// Which commands this replica may serve at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serving {
    /// It is the primary, and its epoch is confirmed: everything.
    Primary,
    /// It is not: the machine's commands, reads included, are refused with `-READONLY`.
    ReadOnly {
        /// The primary's Redis address as `host:port`, when known.
        primary: Option<String>,
    },
    /// It has no state to serve from yet: the machine's commands are refused with `-LOADING`.
    Loading,
}

impl Serving {
    /// The error with which a command of the machine is refused, or `None` when it is served.
    pub(super) fn refusal(&self) -> Option<String> {
        match self {
            Serving::Primary => None,
            Serving::ReadOnly { primary: None } => {
                Some("READONLY You can't write against a read only replica.".to_owned())
            }
            Serving::ReadOnly { primary: Some(address) } => {
                Some(format!("READONLY You can't write against a read only replica. The primary is {address}."))
            }
            Serving::Loading => Some("LOADING Redis is loading the dataset in memory".to_owned()),
        }
    }
}

/// What the shell has to do next for a connection. Answers go out in the order of the actions they belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The operation buffer holds an encoded key-value operation: execute it and give its neutral reply to
    /// [`Connection::encode_reply`].
    Execute(Access),
    /// The edge's own answer, in this connection's protocol. It waits behind earlier replies like any other, and is
    /// empty where the client wants none.
    Write(Cow<'static, [u8]>),
    /// Answer, as a neutral integer, how many backups hold this connection's earlier writes, once there are
    /// `replicas` of them or the time is over.
    Wait {
        /// Backups asked for.
        replicas: u64,
        /// How long to wait, in milliseconds, up to `i64::MAX`; 0 is for ever.
        timeout_ms: u64,
    },
    /// A question about the replica or its connections: fill a [`Status`] and call [`Connection::answer`].
    Status(StatusQuestion),
    /// Write this behind the earlier replies, then close. Nothing follows it.
    Close {
        /// Last bytes in this connection's protocol; may be empty.
        after: Cow<'static, [u8]>,
    },
}
