//! The arbiter of Cutover: three or five daemons that replicate group records with Raft and decide, by
//! test-and-set, who is primary.
//!
//! What lives here knows nothing of replicas: it stores [`record::GroupRecord`]s and checks that every change
//! of one is legal. The crate above asks it through [`client`], and shares its framing ([`wire`]).
//!
//! Imports run one way: `wire` and `record` stand alone; `raft` sees neither clock nor socket; `store` keeps what
//! Raft must not forget; `server` is the tokio shell around all of them; `client` sees `wire`, `record` and
//! `protocol` only, and shares `net` (sockets) with the server; `alarm` is the timer of a loop and `http` a
//! port for health and metrics, there and above.

// First, so that every room may write `planted!` without an import.
#[doc(hidden)]
#[macro_use]
pub mod planted;

#[cfg(feature = "server")]
#[doc(hidden)]
pub mod alarm;
#[cfg(any(feature = "client", feature = "server"))]
mod backoff;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod http;
pub mod net;
pub mod protocol;
pub mod record;
pub mod wire;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod raft;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod store;
