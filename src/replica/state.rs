//! Everything that is replicated, and the one place where an entry changes it.
//!
//! The primary executes an entry while it makes it, every other replica while it applies it: both go through
//! [`State::run`], so that they cannot differ in anything but where captured values come from.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use cutover_arbiter::planted;
use cutover_arbiter::record::{Epoch, GroupId, Index, Position};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::machine::{Captured, Changes, Env, Garbage, StateMachine, Timestamp};
use crate::protocol::client::SessionId;
use crate::protocol::entry::{Control, Entry, Payload};

use super::sessions::{Sessions, Table};

/// The reply to an operation that panicked, in the neutral form of the built-in machine.
const PANIC_REPLY: &[u8] = b"-ERR the operation panicked; nothing can be said of what it did\r\n";

#[derive(Clone, Hash)]
pub(super) struct State<M> {
    pub(super) machine: M,
    pub(super) sessions: Sessions,
    /// The running hash over (index, reply, changes).
    pub(super) hash: u64,
    /// The last entry applied (on a primary: executed).
    pub(super) applied: Position,
    /// The group clock of that entry.
    pub(super) time: Timestamp,
    /// Reads may show the clock up to here.
    pub(super) ceiling: Timestamp,
    pub(super) group_id: Option<GroupId>,
}

/// What a snapshot carries beside the machine; the first chunks of every transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CoreSnapshot {
    pub(super) group_id: Option<GroupId>,
    pub(super) applied: Position,
    pub(super) starts: Vec<(Epoch, Index)>,
    pub(super) hash: u64,
    pub(super) time: Timestamp,
    pub(super) ceiling: Timestamp,
    /// When all sessions were renewed last.
    renewed: Timestamp,
    sessions: Table,
}

impl CoreSnapshot {
    /// As it stands on disk and in a transfer.
    pub(super) fn encode(&self) -> Bytes {
        postcard::to_allocvec(self).expect("the core's state is plain data").into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let refused = |why: String| format!("the core's part of the snapshot: {why}");
        let core: Self = postcard::from_bytes(bytes).map_err(|error| refused(error.to_string()))?;
        let rises = core.starts.is_sorted_by(|one, next| one.0 < next.0 && one.1 < next.1);
        if !rises || core.starts.last().is_some_and(|(_, first)| *first > core.applied.index) {
            return Err(refused("its epochs do not follow one another".to_owned()));
        }
        Ok(core)
    }
}

/// Reads the core's part of a snapshot as a joiner or a restart does, and writes it again; for fuzzers.
///
/// # Errors
/// It is none.
#[doc(hidden)]
pub fn core_part<M: StateMachine + Default>(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let core = CoreSnapshot::decode(bytes)?;
    let written = core.encode().to_vec();
    let mut state = State::from_snapshot(core, M::default());
    state.sessions.touch_all(1);
    while state.sessions.len() > 0 {
        // Each end takes what the session kept from the sum of all.
        let before = state.sessions.len();
        state.sessions.expire(Timestamp::MAX, before);
        assert!(state.sessions.len() < before, "a session that has no deadline");
    }
    Ok(written)
}

/// What happened while an entry was executed, apart from its effect.
#[derive(Debug, Default)]
pub(super) struct Executed {
    /// The running hash after it.
    pub(super) check: u64,
    /// The panic that became its reply.
    pub(super) panic: Option<String>,
    /// A captured value that was missing or left over.
    pub(super) capture: Option<crate::machine::CaptureFailed>,
}

impl<M: StateMachine> State<M> {
    pub(super) fn new(machine: M) -> Self {
        Self {
            machine,
            sessions: Sessions::default(),
            hash: 0,
            applied: Position::default(),
            time: 0,
            ceiling: 0,
            group_id: None,
        }
    }

    pub(super) fn from_snapshot(core: CoreSnapshot, machine: M) -> Self {
        Self {
            machine,
            sessions: if planted!("P17-transfer") { Sessions::default() } else { (core.sessions, core.renewed).into() },
            hash: core.hash,
            applied: core.applied,
            time: core.time,
            ceiling: core.ceiling,
            group_id: core.group_id,
        }
    }

    pub(super) fn core_snapshot(&self, starts: &[(Epoch, Index)]) -> CoreSnapshot {
        let (sessions, renewed) = self.sessions.table();
        CoreSnapshot {
            group_id: self.group_id,
            applied: self.applied,
            starts: starts.iter().copied().filter(|(_, first)| *first <= self.applied.index).collect(),
            hash: self.hash,
            time: self.time,
            ceiling: self.ceiling,
            renewed,
            sessions,
        }
    }

    /// Digest of everything but the machine, for whoever has time for it.
    pub(super) fn core_digest(&self) -> impl FnOnce() -> u64 + Send + 'static {
        let core = self.core_snapshot(&[]);
        move || {
            let mut changes = Changes::default();
            changes.write(&core.encode());
            changes.state()
        }
    }

    /// Executes a new entry: values are captured. The entry's reply is appended to `reply`.
    #[expect(clippy::too_many_arguments, reason = "each is a buffer that its owner reuses from entry to entry")]
    pub(super) fn execute(
        &mut self,
        at: Position,
        time: Timestamp,
        payload: &Payload<'_>,
        memory_limit: Option<u64>,
        random: &mut ChaCha8Rng,
        captured: &mut Captured,
        garbage: &mut Vec<Garbage>,
        reply: &mut Vec<u8>,
    ) -> Executed {
        let mut changes = Changes::resume(self.hash);
        let env =
            Env::capture_into(time, at.index, random, captured, &mut changes, garbage).with_memory_limit(memory_limit);
        let (panic, capture) = self.run(at, time, payload, env, reply);
        self.complete(at, time, changes, reply, panic, capture)
    }

    /// Applies an entry of the log: values come from it.
    pub(super) fn apply(&mut self, entry: &Entry<'_>, garbage: &mut Vec<Garbage>, reply: &mut Vec<u8>) -> Executed {
        let at = Position { epoch: entry.epoch, index: entry.index };
        let mut changes = Changes::resume(self.hash);
        let env = Env::replay(entry.time, entry.index, entry.captured, &mut changes, garbage);
        reply.clear();
        let (panic, capture) = self.run(at, entry.time, &entry.payload, env, reply);
        self.complete(at, entry.time, changes, reply, panic, capture)
    }

    fn complete(
        &mut self,
        at: Position,
        time: Timestamp,
        mut changes: Changes,
        reply: &[u8],
        panic: Option<String>,
        capture: Option<crate::machine::CaptureFailed>,
    ) -> Executed {
        changes.word(at.index);
        changes.write(reply);
        self.hash = changes.state();
        self.applied = at;
        self.time = self.time.max(time);
        Executed { check: self.hash, panic, capture }
    }

    fn run(
        &mut self,
        at: Position,
        time: Timestamp,
        payload: &Payload<'_>,
        mut env: Env<'_>,
        reply: &mut Vec<u8>,
    ) -> (Option<String>, Option<crate::machine::CaptureFailed>) {
        let panic;
        match payload {
            Payload::Operation { mark, carried, operation } => {
                let start = reply.len();
                panic = guarded(reply, |reply| self.machine.apply(operation, &mut env, reply));
                if let Some(mark) = mark {
                    self.sessions.touch(mark.session, time);
                    self.sessions.acknowledge(mark.session, mark.lowest_unanswered);
                    for (sequence, earlier) in carried {
                        match earlier {
                            Some(reply) => self.sessions.store(mark.session, *sequence, reply, at),
                            None => self.sessions.store_gone(mark.session, *sequence),
                        }
                    }
                    self.sessions.store(mark.session, mark.sequence, &reply[start..], at);
                }
            }
            Payload::Control(control) => panic = self.control(at, time, control, &mut env, reply),
        }
        (panic, env.finish().err())
    }

    fn control(
        &mut self,
        at: Position,
        time: Timestamp,
        control: &Control,
        env: &mut Env<'_>,
        reply: &mut Vec<u8>,
    ) -> Option<String> {
        match control {
            Control::EpochStart { group_id, genesis } => {
                self.group_id = Some(*group_id);
                self.sessions.touch_all(time);
                if *genesis {
                    return guarded(reply, |_| self.machine.genesis(env));
                }
            }
            Control::OpenSession { timeout } => {
                let epoch = if planted!("H6") { Epoch(0) } else { at.epoch };
                let id = SessionId { epoch, index: at.index };
                self.sessions.open(id, *timeout, time);
                put(reply, &id);
            }
            Control::KeepAlive { session } => self.sessions.touch(*session, time),
            Control::CloseSequence { session, sequence, lowest_unanswered } => {
                self.sessions.touch(*session, time);
                self.sessions.acknowledge(*session, *lowest_unanswered);
                let outcome = self.sessions.close(*session, *sequence);
                put(reply, &outcome);
            }
            Control::Expire { budget } => {
                self.sessions.expire(time, *budget as usize);
                return guarded(reply, |_| self.machine.expire(env, *budget as usize));
            }
            Control::Ceiling { until } => self.ceiling = self.ceiling.max(*until),
            Control::Mark { .. } => {}
        }
        None
    }

    /// The clock below which a primary with this state must not begin. Without a restart the highest clock that was
    /// acknowledged is enough, and the follower's clock never was behind it; the ceiling is for state read from disk.
    pub(super) fn clock_floor(&self, restarted: bool) -> Timestamp {
        if restarted { self.time.max(self.ceiling) } else { self.time }
    }

    /// The group clock at which something expires.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        [self.machine.next_deadline(), self.sessions.next_deadline()].into_iter().flatten().min()
    }
}

fn put<T: Serialize>(reply: &mut Vec<u8>, value: &T) {
    let bytes = postcard::to_allocvec(value).expect("outcomes and session ids are plain data");
    reply.extend_from_slice(&bytes);
}

/// Runs `work`; a panic becomes the reply. The same code panics at the same point on every replica, so what it did
/// until then is the same everywhere, and one poisonous operation cannot kill every copy.
fn guarded(reply: &mut Vec<u8>, work: impl FnOnce(&mut Vec<u8>)) -> Option<String> {
    let start = reply.len();
    let panic = catch_unwind(AssertUnwindSafe(|| work(reply))).err()?;
    reply.truncate(start);
    reply.extend_from_slice(PANIC_REPLY);
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    Some(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned()))
}

/// Describes what an entry executes, for people.
pub(super) fn describe<M: StateMachine>(payload: &Payload<'_>) -> String {
    match payload {
        Payload::Operation { operation, .. } => M::name(operation),
        Payload::Control(control) => format!("{control:?}"),
    }
}
