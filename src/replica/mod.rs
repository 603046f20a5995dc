//! The sans-IO core of a replica: log, output rule, suspicion, cut-over, admission, sessions.
//!
//! A `Replica` owns no clock, socket, thread or source of randomness. The shell (the tokio daemon, the simulator, the
//! model checker) drives it in *turns*:
//!
//! 1. [`Replica::begin`] with the time, read once per turn;
//! 2. any number of [`Replica::step`] (peers, arbiters, disk, operator) and [`Replica::request`] (clients);
//! 3. [`Replica::end`], which fires what is due, composes at most one append per follower and one acknowledgement,
//!    and fills the [`Outbox`]; the shell runs the outputs in order and owes nothing more.
//!
//! Between turns it waits for input or for [`Replica::next_deadline`].
//!
//! A reply comes with a [`Hold`] and waits in its connection until [`Replica::release`] covers it; the shell writes
//! nothing to a client that is not covered. While [`Replica::admission`] is `Paused` the shell leaves requests in
//! their connections' buffers. After [`Output::Deposed`] whatever is still held is dropped, never sent.

mod api;

pub use api::{
    Admission, Config, CreateOptions, Disposition, Event, FollowerStatus, Hold, Input, LinkId, Now, Origin, Outbox,
    Output, Refused, Release, Request, Role, Status, StopReason, decoded_outcome, opened_session,
};
