//! Running a machine as a primary would, and as a backup would.

use rand_chacha::ChaCha8Rng;

use crate::machine::kv::value::{Value, parse};
use crate::machine::kv::{KeyValue, request};
use crate::machine::{
    Access, Captured, Changes, Env, Garbage, ReadEnv, ReadOutcome, Restore as _, Snapshot as _, StateMachine,
    Timestamp, seeded,
};

/// One applied entry, enough to replay it.
pub(super) struct Applied {
    pub(super) now: Timestamp,
    pub(super) operation: Option<Vec<u8>>,
    pub(super) values: Captured,
    pub(super) reply: Vec<u8>,
}

pub(super) struct Primary {
    pub(super) machine: KeyValue,
    pub(super) now: Timestamp,
    pub(super) changes: Changes,
    pub(super) garbage: Vec<Garbage>,
    pub(super) log: Vec<Applied>,
    /// The bytes it may hold.
    pub(super) memory_limit: Option<u64>,
    random: ChaCha8Rng,
}

impl Primary {
    pub(super) fn new(seed: u64) -> Self {
        let mut this = Self {
            machine: KeyValue::new(),
            now: 1_700_000_000_000_000,
            changes: Changes::default(),
            garbage: Vec::new(),
            log: Vec::new(),
            memory_limit: None,
            random: seeded(seed),
        };
        let mut values = Vec::new();
        let mut env =
            Env::capture_into(this.now, 1, &mut this.random, &mut values, &mut this.changes, &mut this.garbage);
        this.machine.genesis(&mut env);
        this.log.push(Applied { now: this.now, operation: None, values, reply: Vec::new() });
        this
    }

    /// Writes are applied and logged, reads are read.
    pub(super) fn run(&mut self, operation: Vec<u8>) -> Vec<u8> {
        if KeyValue::access(&operation) == Access::Read {
            return self.read(&operation);
        }
        self.apply(operation)
    }

    pub(super) fn read(&mut self, operation: &[u8]) -> Vec<u8> {
        let mut reply = Vec::new();
        if let ReadOutcome::Deferred(write) =
            self.machine.read(operation, &ReadEnv::new(self.now, &mut self.random), &mut reply)
        {
            assert!(reply.is_empty());
            write(&mut reply);
        }
        reply
    }

    pub(super) fn apply(&mut self, operation: Vec<u8>) -> Vec<u8> {
        let (mut values, mut reply) = (Vec::new(), Vec::new());
        let index = self.log.len() as u64 + 1;
        let mut env =
            Env::capture_into(self.now, index, &mut self.random, &mut values, &mut self.changes, &mut self.garbage)
                .with_memory_limit(self.memory_limit);
        self.machine.apply(&operation, &mut env, &mut reply);
        self.log.push(Applied { now: self.now, operation: Some(operation), values, reply: reply.clone() });
        reply
    }

    pub(super) fn expire(&mut self, budget: usize) {
        let mut values = Vec::new();
        let mut env =
            Env::capture_into(self.now, 1, &mut self.random, &mut values, &mut self.changes, &mut self.garbage);
        self.machine.expire(&mut env, budget);
        assert!(values.is_empty());
    }

    /// The reply to a command given in words.
    pub(super) fn call(&mut self, words: &[&str]) -> Value {
        let args: Vec<&[u8]> = words[1..].iter().map(|word| word.as_bytes()).collect();
        self.call_bytes(words[0], &args)
    }

    pub(super) fn call_bytes(&mut self, name: &str, args: &[&[u8]]) -> Value {
        let reply = self.run(request(name, args));
        parse(&reply).unwrap_or_else(|error| panic!("{name}: {error}: {reply:?}"))
    }
}

pub(super) fn chunks(machine: &KeyValue, target: usize) -> Vec<Vec<u8>> {
    let mut snapshot = machine.snapshot();
    std::iter::from_fn(|| snapshot.next_chunk(target)).collect()
}

pub(super) fn restored(chunks: &[Vec<u8>]) -> Result<KeyValue, String> {
    let mut restore = KeyValue::restore();
    for chunk in chunks {
        restore.chunk(chunk)?;
    }
    restore.finish()
}
