//! Raft, sans-IO: election, replication, snapshots and linearisable reads of one arbiter, as a pure state machine.
//!
//! Time, messages, finished writes and requests come in through [`Raft::step`]; everything that should happen comes out
//! as plain [`Output`]s. The same core runs under tokio, in tests under a simulated network, and anywhere else.
//!
//! # The loop around it
//!
//! ```ignore
//! let mut store = Store::open(path)?;
//! let mut raft = Raft::new(now(), config, store.load()?);
//! let mut outputs = Vec::new();
//! loop {
//!     let input = tokio::select! {
//!         message = network.next() => message,           // Input::Message
//!         request = clients.next() => request,           // Input::Propose, Input::Read
//!         upto = disk.persisted() => Input::Persisted { upto },
//!         () = sleep_until(raft.next_deadline()) => Input::Tick,
//!     };
//!     raft.step(now(), input, &mut outputs);
//!     for output in outputs.drain(..) {
//!         run(output);                                   // in this order
//!     }
//! }
//! ```
//!
//! What the loop owes the core:
//!
//! - **Outputs run in order.** `Persist` may go to a thread of its own, which writes batches in order, each durable in
//!   whole or not at all, and then says `Persisted`. Nothing else waits for it: the core itself holds back each message
//!   until what it promises is durable. At most one batch is on its way at a time; what happens meanwhile gathers into
//!   the next, so a slow disk makes larger batches and not a longer queue.
//! - **An error of the disk ends the process.** The core has no input for it.
//! - **The first step is due at once** ([`Raft::next_deadline`] says so) and gives out [`Output::Restore`] if the store
//!   held a snapshot. Entries after it are applied again once they are known to be committed.
//! - **A proposal's fate** is the entry at its index: [`Output::Apply`] with the term of [`Output::Proposed`] means done,
//!   with another term never. [`Output::Rejected`] means that nothing happened. Silence means unknown, and so does a
//!   [`Output::Restore`] that jumps over the index.
//! - **A read** may be answered at [`Output::ReadReady`] if outputs are run in order. [`Output::ReadRejected`] comes
//!   before the new [`Output::Leadership`] when a leader steps down; a read is never ready after that.
//! - **Who sent a message** is told by the connection, authenticated, not by the message.
//!
//! # Messages
//!
//! Every message carries the sender's term. A higher one makes the receiver a follower of that term; a lower one is
//! answered with the receiver's, and otherwise ignored. In exception, a request for a vote or pre-vote does not
//! raise the term of an arbiter that heard its leader within the shortest election timeout: it is ignored.
//!
//! | message | from → to | why | promises |
//! |---|---|---|---|
//! | [`Message::PreVote`] | pre-candidate → all | could I win the next term? Raises nobody's term to it | nothing |
//! | [`Message::PreVoteReply`] | any → pre-candidate | granted, if no leader is heard and the log is not behind | nothing |
//! | [`Message::Vote`] | candidate → all | vote for me in this term | own vote is durable |
//! | [`Message::VoteReply`] | any → candidate | granted at most to one per term, and never to a log behind one's own | the vote is durable |
//! | [`Message::Append`] | leader → follower | entries after a position; none of them: heartbeat, probe, news of the commit | nothing |
//! | [`Message::AppendReply`] | follower → leader | accepted up to what *this append verified*, or where the logs may meet | everything up to it is durable |
//! | [`Message::InstallSnapshot`] | leader → follower | the entries you need are compacted away | nothing |
//! | [`Message::InstallSnapshotReply`] | follower → leader | I hold everything up to it | the snapshot, or the log up to it, is durable |
//!
//! Appends and snapshots carry the leader's latest read round, and replies echo it: an answer to round *n* shows that
//! the leader still led after every read that waits for *n* had arrived.
//!
//! # Rooms
//!
//! `core` the state and the door · `election` · `replication` the leader · `progress` what it knows of one follower ·
//! `read_index` · `follower` · `snapshot` · `log` and how much of it the disk has · `outbox` what waits for the disk ·
//! `members` the voting set and its quorums · `message` all plain data · `config` parameters and limits.
//!
//! Deliberately not here: what entries mean (`record`), where they are kept (`store`), and change of membership and
//! transfer of leadership, which will come. Voters are asked for in one place, [`Members`], always as sets of ids.

mod config;
mod core;
mod election;
mod follower;
mod log;
mod members;
mod message;
mod outbox;
mod progress;
mod read_index;
mod replication;
mod snapshot;
#[cfg(test)]
mod tests;

pub use self::config::{Config, ConfigError, MAX_ENTRY_BYTES, MAX_SNAPSHOT_BYTES, Nanos};
pub use self::core::{Raft, Role};
pub use self::members::Members;
pub use self::message::{
    Append, AppendOutcome, Ballot, Entry, HardState, Input, LogIndex, Message, NodeId, Output, PersistBatch, Restored,
    Snapshot, SnapshotMeta, Term,
};
