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

use std::time::Duration;

use cutover_arbiter::record::GroupRecord;

use crate::machine::StateMachine;

/// Stand-in for compile checks on this branch only; DISCARD AT MERGE.
pub struct Replica<M: StateMachine> {
    make: fn() -> M,
    status: Status,
}

#[allow(missing_docs, unused_variables)]
impl<M: StateMachine> Replica<M> {
    pub fn new(now: Now, config: Config, make: fn() -> M) -> Self {
        let status = Status {
            name: config.name,
            incarnation: cutover_arbiter::record::Incarnation(1),
            role: Role::Starting,
            epoch: Default::default(),
            record: None,
            index: 0,
            committed: 0,
            applied: 0,
            log_base: 0,
            log_bytes: 0,
            machine_bytes: 0,
            sessions: 0,
            clock: 0,
            silence: None,
            followers: vec![],
            proposing: None,
        };
        Self { make, status }
    }
    pub fn begin(&mut self, now: Now) {}
    pub fn step(&mut self, input: Input, out: &mut Outbox<M>) {
        if input == Input::Shutdown {
            out.outputs.push(Output::Stop(StopReason::Asked));
        }
    }
    pub fn request(&mut self, request: Request<'_>, reply: &mut Vec<u8>) -> Disposition {
        reply.extend_from_slice(b"+OK\r\n");
        Disposition::Reply { hold: Hold::default(), index: 0 }
    }
    pub fn end(&mut self, out: &mut Outbox<M>) {}
    pub fn release(&self) -> Release {
        Release { open: true, ..Release::default() }
    }
    pub fn admission(&self) -> Admission {
        Admission::Open
    }
    pub fn next_deadline(&self) -> Option<Duration> {
        None
    }
    pub fn status(&self) -> Status {
        self.status.clone()
    }
    pub fn record(&self) -> Option<&GroupRecord> {
        None
    }
}
