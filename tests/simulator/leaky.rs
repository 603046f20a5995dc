//! The machine that runs in the simulator: the production key-value machine, which can be made to leak once: its next
//! operation on this thread then replies what no other copy replies, as one does that reaches past its environment (F37).

use std::cell::Cell;

use cutover::machine::kv::{self, KeyValue};
use cutover::machine::{Access, Env, Identity, ReadEnv, ReadOutcome, Restore, StateMachine, Timestamp};

thread_local! {
    static LEAKS: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, in which the first operation that is applied leaks; says whether one was.
pub fn with_a_leak<T>(work: impl FnOnce() -> T) -> (T, bool) {
    LEAKS.set(true);
    let result = work();
    (result, !LEAKS.replace(false))
}

#[derive(Debug, Default)]
pub struct Leaky(KeyValue);

impl Leaky {
    /// The production machine.
    pub fn inner(&self) -> &KeyValue {
        &self.0
    }
}

impl StateMachine for Leaky {
    type Snapshot = kv::Snapshot;
    type Restore = LeakyRestore;

    fn identity() -> Identity {
        KeyValue::identity()
    }

    fn genesis(&mut self, env: &mut Env<'_>) {
        self.0.genesis(env);
    }

    fn access(operation: &[u8]) -> Access {
        KeyValue::access(operation)
    }

    fn name(operation: &[u8]) -> String {
        KeyValue::name(operation)
    }

    fn apply(&mut self, operation: &[u8], env: &mut Env<'_>, reply: &mut Vec<u8>) {
        self.0.apply(operation, env, reply);
        if LEAKS.replace(false) {
            reply.push(b'!');
        }
    }

    fn read(&self, operation: &[u8], env: &ReadEnv<'_>, reply: &mut Vec<u8>) -> ReadOutcome {
        self.0.read(operation, env, reply)
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.0.next_deadline()
    }

    fn expire(&mut self, env: &mut Env<'_>, budget: usize) {
        self.0.expire(env, budget);
    }

    fn snapshot(&self) -> Self::Snapshot {
        self.0.snapshot()
    }

    fn restore() -> Self::Restore {
        LeakyRestore(KeyValue::restore())
    }

    fn memory(&self) -> u64 {
        self.0.memory()
    }
}

#[derive(Debug)]
pub struct LeakyRestore(kv::Restore);

impl Restore for LeakyRestore {
    type Machine = Leaky;

    fn chunk(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.0.chunk(chunk)
    }

    fn finish(self) -> Result<Leaky, String> {
        self.0.finish().map(Leaky)
    }
}
