//! What clients ask for, and the plain record of what they were told.
//!
//! Registers, lists and counters are what a linearisability checker judges; everything else is there to have captured
//! values, expiry and a clock in the log, and is judged by the canon alone.

use cutover::history::linear::{Answer, Ask, Call, Outcome};
use cutover::machine::kv::{self, value::Value};
use cutover_arbiter::record::Index;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::world::Time;

/// An object that a history is kept of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Register(u8),
    List(u8),
    Counter(u8),
}

pub const KEYS: [Key; 6] =
    [Key::Register(0), Key::Register(1), Key::List(0), Key::List(1), Key::Counter(0), Key::Counter(1)];

impl Key {
    pub fn name(self) -> &'static str {
        match self {
            Key::Register(0) => "register0",
            Key::Register(_) => "register1",
            Key::List(0) => "list0",
            Key::List(_) => "list1",
            Key::Counter(0) => "counter0",
            Key::Counter(_) => "counter1",
        }
    }

    /// Reads all of it.
    pub fn read(self) -> Vec<u8> {
        match self {
            Key::List(_) => kv::request("LRANGE", &[self.name().as_bytes(), b"0", b"-1"]),
            _ => kv::request("GET", &[self.name().as_bytes()]),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Reads the whole object.
    Read,
    /// Writes the register.
    Set(u64),
    /// Writes the register if it is empty, and tells whether.
    SetIfEmpty(u64),
    /// Removes the register, and tells whether there was one.
    Remove,
    /// Adds to the list's end; answered with its length.
    Push(u64),
    /// Takes the list's first element.
    Pop,
    /// One more; answered with the new value.
    Increment,
    /// Something whose answer is judged by the canon alone.
    Other,
    /// The clock.
    Clock,
}

/// How an operation ended for its client.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// Not yet.
    Open,
    /// It was answered.
    Answered { at: Time, answer: Value },
    /// Nobody knows: it may have been executed, once, at any time after it began, and still may.
    Unknown,
    /// It certainly was not executed and never will be.
    NotExecuted,
}

/// One operation of one client.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub client: usize,
    pub key: Option<Key>,
    pub action: Action,
    pub invoked: Time,
    pub ending: Ending,
    pub operation: Vec<u8>,
    /// Everything that was answered before it was asked stands at or before this index.
    pub floor: Index,
    /// The newest clock that anybody had been told when it was asked.
    pub clock_floor: u64,
    /// How often an operator had seized the group when it was asked, and when it was answered.
    pub reign: u32,
    pub answered_in: u32,
}

impl Action {
    pub fn writes(self) -> bool {
        !matches!(self, Action::Read | Action::Clock)
    }
}

/// How long what is written there is to be there, in microseconds of the group clock.
pub const FLEETING: u64 = 300_000;

/// Reads what is there for a while only.
pub fn read_fleeting() -> Vec<u8> {
    kv::request("GET", &[b"fleeting"])
}

/// Whether an operation writes what is to be there for a while only.
pub fn is_fleeting(operation: &[u8]) -> bool {
    operation.windows(8).any(|part| part == b"fleeting")
}

/// Draws what to ask next. `unique` is a value that nobody wrote before.
pub fn draw(random: &mut ChaCha8Rng, reads: u32, unique: u64) -> (Option<Key>, Action, Vec<u8>) {
    let dice = random.random_range(0..20);
    if dice == 0 {
        return (None, Action::Clock, kv::request("TIME", &[]));
    }
    if dice == 1 && reads < 17 {
        let member = (unique % 40).to_string();
        let member = member.as_bytes();
        let operation = match unique % 4 {
            0 => kv::request("SADD", &[b"set", member]),
            1 => kv::request("SPOP", &[b"set"]),
            2 => kv::request("SET", &[b"fleeting", member, b"PX", b"300"]),
            _ => kv::request("INCRBYFLOAT", &[b"float", b"0.1"]),
        };
        return (None, Action::Other, operation);
    }
    let key = KEYS[random.random_range(0..KEYS.len())];
    if dice <= reads {
        return (Some(key), Action::Read, key.read());
    }
    let name = key.name().as_bytes();
    let value = unique.to_string();
    let value = value.as_bytes();
    let (action, operation) = match (key, random.random_range(0..6)) {
        (Key::Register(_), 0..3) => (Action::Set(unique), kv::request("SET", &[name, value])),
        (Key::Register(_), 3 | 4) => (Action::SetIfEmpty(unique), kv::request("SETNX", &[name, value])),
        (Key::Register(_), _) => (Action::Remove, kv::request("DEL", &[name])),
        (Key::List(_), 0..3) => (Action::Push(unique), kv::request("RPUSH", &[name, value])),
        (Key::List(_), _) => (Action::Pop, kv::request("LPOP", &[name])),
        (Key::Counter(_), _) => (Action::Increment, kv::request("INCR", &[name])),
    };
    (Some(key), action, operation)
}

/// The clock that a TIME told, in microseconds.
pub fn told_clock(answer: &Value) -> Option<u64> {
    let Value::Array(parts) = answer else { return None };
    let number = |part: &Value| match part {
        Value::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    Some(number(parts.first()?)? * 1_000_000 + number(parts.get(1)?)?)
}

impl Recorded {
    /// As a linearisability checker takes it; `None` for what it does not judge, or what certainly was not executed. It
    /// judges the time before the first seizure, which begins with nothing.
    pub fn call(&self, group: usize) -> Option<Call> {
        let key = self.key.filter(|_| self.reign == 0)?;
        let ask = match (key, self.action) {
            (Key::Register(_), Action::Read) => Ask::Read,
            (Key::List(_), Action::Read) => Ask::ReadAll,
            (Key::Counter(_), Action::Read) => Ask::Total,
            (_, Action::Set(value)) => Ask::Write(value as i64),
            (_, Action::SetIfEmpty(value)) => Ask::CompareAndSet { expected: None, new: value as i64 },
            (_, Action::Remove) => Ask::Remove,
            (_, Action::Push(value)) => Ask::Append(value as i64),
            (_, Action::Pop) => Ask::PopFirst,
            (_, Action::Increment) => Ask::Add(1),
            (_, Action::Other | Action::Clock) => return None,
        };
        let outcome = match &self.ending {
            // Said in a later reign it tells only of what that began with.
            Ending::NotExecuted if self.answered_in > 0 => Outcome::Unknown,
            Ending::NotExecuted => return None,
            Ending::Open | Ending::Unknown => Outcome::Unknown,
            Ending::Answered { .. } if self.answered_in > 0 => Outcome::Unknown,
            Ending::Answered { at, answer } => Outcome::Answered { at: *at, answer: told(ask, answer)? },
        };
        let object = format!("group {group}: {}", key.name()).into();
        Some(Call { client: self.client as u64, object, ask, invoked: self.invoked, outcome })
    }
}

fn told(ask: Ask, answer: &Value) -> Option<Answer> {
    let number = |value: &Value| match value {
        Value::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Value::Integer(number) => Some(*number),
        _ => None,
    };
    Some(match (ask, answer) {
        (Ask::Write(_), Value::Simple(_)) => Answer::Done,
        (Ask::CompareAndSet { .. }, Value::Integer(set)) => Answer::Swapped(*set == 1),
        (Ask::Read | Ask::PopFirst, answer) => Answer::Value(number(answer)),
        (Ask::Total, Value::Null) => Answer::Count(0),
        (Ask::ReadAll, Value::Array(items)) => Answer::Elements(items.iter().filter_map(number).collect()),
        (_, answer) => Answer::Count(number(answer)?),
    })
}
