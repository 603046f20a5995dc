//! The machine: operations in, replies out.

use super::command::CommandId;
use super::commands::{self, Args, DEFER_ABOVE, Reader, Spread, Where, Writer};
use super::hash::Seed;
use super::keyspace::Keyspace;
use super::operation;
use super::refusal::{MALFORMED, OUT_OF_MEMORY, Outcome, Refusal, arity};
use super::reply::Reply;
use super::restore::Restore;
use super::snapshot::Snapshot;
use crate::machine::{Access, Entries, Env, Identity, ReadEnv, ReadOutcome, StateMachine, Timestamp};

/// The built-in key-value machine: Redis' strings, lists, sets, hashes and sorted sets, with deadlines.
///
/// Everything it holds is in trees that share with their snapshots what has not changed since (see `tree`), so a
/// snapshot takes a few pointers and a write under one copies a few nodes. Keys, fields and members stand in the
/// order of a hash whose seed the group's first entry captured; no reply depends on the history of a table.
#[derive(Default)]
pub struct KeyValue {
    pub(super) space: Keyspace,
}

impl std::fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyValue").field("keys", &self.space.keys.len()).field("memory", &self.space.memory).finish()
    }
}

impl KeyValue {
    /// An empty machine, before its genesis.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of keys, those included that have expired and not been removed yet.
    pub fn len(&self) -> usize {
        self.space.keys.len()
    }

    /// True without any key.
    pub fn is_empty(&self) -> bool {
        self.space.keys.is_empty()
    }
}

/// Arguments that are kept without an allocation.
const FEW: usize = 8;

/// The arguments of one operation; of so few that they fit, without an allocation.
struct Collected<'a> {
    few: [&'a [u8]; FEW],
    many: Vec<&'a [u8]>,
    count: usize,
}

impl<'a> Collected<'a> {
    fn decode(operation: &'a [u8]) -> Outcome<(CommandId, Self)> {
        let (command, arguments) = operation::decode(operation).map_err(|_| MALFORMED)?;
        let declared = arguments.len();
        let mut this = Self { few: [b""; FEW], many: Vec::new(), count: 0 };
        for argument in arguments {
            match this.few.get_mut(this.count) {
                Some(slot) => *slot = argument,
                None => {
                    if this.many.is_empty() {
                        this.many.extend_from_slice(&this.few);
                    }
                    this.many.push(argument);
                }
            }
            this.count += 1;
        }
        if this.count != declared {
            return Err(MALFORMED);
        }
        if !command.spec().takes(this.count + 1) {
            return Err(arity(command.spec().name));
        }
        Ok((command, this))
    }

    fn args(&self) -> Args<'_> {
        if self.many.is_empty() { &self.few[..self.count] } else { &self.many }
    }
}

/// Runs `execute`; a refusal replaces whatever it has written.
fn answer<T>(reply: &mut Vec<u8>, execute: impl FnOnce(&mut Vec<u8>) -> Outcome<T>) -> Option<T> {
    let start = reply.len();
    match execute(reply) {
        Ok(value) => Some(value),
        Err(Refusal(text)) => {
            reply.truncate(start);
            Reply(reply).error(&text);
            None
        }
    }
}

impl KeyValue {
    /// The answer to a read, given by another thread from a view of this moment.
    fn elsewhere(&self, operation: &[u8], env: &ReadEnv<'_>) -> ReadOutcome {
        let (space, operation, clock) = (self.space.clone(), operation.to_vec(), env.now());
        let mut random = Spread(env.random());
        ReadOutcome::Deferred(Box::new(move |out| {
            answer(out, |reply| {
                let (command, collected) = Collected::decode(&operation)?;
                let random = &mut || random.next();
                read(&space, clock, random, Where::Elsewhere, (command, collected.args()), reply)
            });
        }))
    }
}

/// Answers a read; true when it was left for another thread, whatever was written.
fn read(
    space: &Keyspace,
    clock: Timestamp,
    random: &mut dyn FnMut() -> u64,
    place: Where,
    (command, args): (CommandId, Args<'_>),
    reply: &mut Vec<u8>,
) -> Outcome<bool> {
    let mut reader = Reader { space, clock, random, reply: Reply(reply), place, left: false };
    commands::read(&mut reader, command, args)?;
    Ok(reader.left)
}

impl StateMachine for KeyValue {
    type Snapshot = Snapshot;
    type Restore = Restore;

    fn identity() -> Identity {
        Identity { name: "kv".into(), version: 2 }
    }

    fn genesis(&mut self, env: &mut Env<'_>) {
        self.space.seed = Seed(env.random(), env.random());
    }

    fn access(operation: &[u8]) -> Access {
        operation::command(operation).map_or(Access::Read, |command| command.spec().access)
    }

    fn name(operation: &[u8]) -> String {
        match operation::command(operation) {
            Ok(command) => command.spec().name.into(),
            Err(_) => format!("a malformed operation of {} bytes", operation.len()),
        }
    }

    fn apply(&mut self, operation: &[u8], env: &mut Env<'_>, reply: &mut Vec<u8>) {
        answer(reply, |reply| {
            let (command, collected) = Collected::decode(operation)?;
            if command.spec().access == Access::Write {
                if command.spec().denied_without_memory && env.out_of_memory(self.space.memory) {
                    return Err(OUT_OF_MEMORY);
                }
                let mut writer = Writer { space: &mut self.space, env, reply: Reply(reply), command };
                return commands::write(&mut writer, collected.args());
            }
            let clock = env.now();
            read(&self.space, clock, &mut || env.random(), Where::Elsewhere, (command, collected.args()), reply)?;
            Ok(())
        });
    }

    fn approach(&self, operations: &[&[u8]]) {
        // The first key of each; commands of many keys see to the others themselves.
        self.space.approach(operations.iter().filter_map(|operation| {
            let (command, mut arguments) = operation::decode(operation).ok()?;
            arguments.next().filter(|_| command.spec().first_key == 1)
        }));
    }

    fn read(&self, operation: &[u8], env: &ReadEnv<'_>, reply: &mut Vec<u8>) -> ReadOutcome {
        let start = reply.len();
        // So many words are not even looked at here.
        let words = operation::decode(operation).map_or(0, |(_, arguments)| arguments.len());
        let left = words > DEFER_ABOVE
            || answer(reply, |reply| {
                let (command, collected) = Collected::decode(operation)?;
                let random = &mut || env.random();
                read(&self.space, env.now(), random, Where::Loop, (command, collected.args()), reply)
            })
            .unwrap_or(false);
        if !left {
            return ReadOutcome::Done;
        }
        reply.truncate(start);
        self.elsewhere(operation, env)
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.space.deadlines.at(0).map(|due| due.at.saturating_add(1).saturating_mul(1000))
    }

    fn expire(&mut self, env: &mut Env<'_>, budget: usize) {
        commands::expire(&mut self.space, env, budget);
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.space.clone())
    }

    fn restore() -> Restore {
        Restore::default()
    }

    fn memory(&self) -> u64 {
        self.space.memory
    }

    fn entries(&self) -> Entries {
        Entries { all: self.space.keys.len() as u64, expiring: self.space.deadlines.len() as u64 }
    }
}
