//! The client library: operations on a group, exactly once, across cut-overs.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use cutover::client::{Client, OperationError};
//!
//! let client = Client::connect(["10.0.0.1:7300", "10.0.0.2:7300", "10.0.0.3:7300"], "orders").await?;
//! match client.execute("an operation in the machine's own encoding").await {
//!     Ok(reply) => println!("{:?}, held by {} replicas", reply.bytes, reply.receipt.copies),
//!     // Nobody knows yet: ask. The answer is final, and an operation that was not executed never will be.
//!     Err(OperationError::Unknown { request, .. }) => println!("{:?}", client.outcome(request).await?),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] holds one session and one connection, to the primary that the arbiters name. It follows redirects
//! and the arbiters' watch, and resends what is unanswered, in order, on every new connection; the primary executes
//! each sequence of the session once and answers a repetition with the first reply. Clones share both; many
//! operations may be in flight, up to [`ClientOptions::window`], beyond which `execute` waits.
//!
//! Operations take effect in the order in which they were handed over. An operation whose deadline has passed is
//! never sent again: its sequence keeps its place, and on the next connection the library asks for its outcome
//! instead, which closes it. Until then a copy that was already sent may still be executed.
//!
//! What lives where: `core` decides everything and is sans-IO; `driver` owns the clock and `socket` the connection;
//! `handle` is what callers hold; `api` their types. Deliberately not here: what operations mean, and finding the arbiters.

mod api;
#[doc(hidden)]
pub mod core;
mod driver;
mod handle;
mod socket;

pub use self::api::{ClientOptions, ConnectError, OperationError, Reply, RequestOptions, RequestRef};
pub use self::handle::{Client, Pending};
pub use crate::protocol::client::{Outcome, Receipt, Refusal, SessionId};

#[cfg(test)]
mod handle_tests;
