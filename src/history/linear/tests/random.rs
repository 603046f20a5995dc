//! Makes histories that are linearisable: clients ask one thing after the other, each takes effect at a moment between
//! the question and the answer, and some answers never come.

use rand::RngExt as _;

use super::model::Held;
use super::*;

/// What kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Register,
    Counter,
    /// A list that is appended to and read.
    Growing,
    /// A list used from both ends.
    Queue,
}

/// What is made.
pub(super) struct Making {
    pub(super) seed: u64,
    pub(super) clients: u64,
    pub(super) operations: usize,
    /// How many of a hundred operations have an unknown outcome.
    pub(super) unknown: u32,
    pub(super) kind: Kind,
    /// Every value is written once.
    pub(super) unique: bool,
}

struct Planned {
    client: u64,
    invoked: Stamp,
    effect: Option<Stamp>,
    answered: Option<Stamp>,
}

pub(super) fn made(making: &Making) -> Vec<Call> {
    let mut random = crate::machine::seeded(making.seed);
    let mut free: Vec<Stamp> = (0..making.clients).map(|_| random.random_range(0..50)).collect();
    let mut planned: Vec<Planned> = (0..making.operations)
        .map(|_| {
            let client = (0..free.len()).min_by_key(|client| free[*client]).expect("a client");
            let invoked = free[client] + random.random_range(1..20);
            let length = random.random_range(1..100);
            free[client] = invoked + length;
            let unknown = random.random_range(0..100) < making.unknown;
            let effect = match unknown {
                false => Some(invoked + random.random_range(0..=length)),
                true => random.random_bool(0.5).then(|| invoked + random.random_range(0..3_000)),
            };
            Planned { client: client as u64, invoked, effect, answered: (!unknown).then_some(invoked + length) }
        })
        .collect();
    planned.sort_by_key(|planned| planned.effect.unwrap_or(Stamp::MAX));
    let mut held = Held::default();
    (1..)
        .zip(planned)
        .map(|(number, Planned { client, invoked, effect, answered })| {
            let ask = choose(making, number, &held, &mut random);
            let answer = effect.and_then(|_| held.execute(ask));
            let outcome = match (answered, answer) {
                (Some(at), Some(answer)) => Outcome::Answered { at, answer },
                _ => Outcome::Unknown,
            };
            Call { client, object: Arc::from("x"), ask, invoked, outcome }
        })
        .collect()
}

fn choose(making: &Making, number: i64, held: &Held, random: &mut impl rand::Rng) -> Ask {
    let value = if making.unique { number } else { i64::from(random.next_u32() % 4) };
    match (making.kind, random.next_u32() % 10) {
        (Kind::Register, 0..=3) => Ask::Read,
        (Kind::Register, 4..=5) => Ask::CompareAndSet { expected: held.number, new: value },
        (Kind::Register, 6) => Ask::CompareAndSet { expected: Some(value), new: value },
        (Kind::Register, _) => Ask::Write(value),
        (Kind::Counter, 0..=3) => Ask::Total,
        (Kind::Counter, _) => Ask::Add(if making.unique { 1 } else { value }),
        (Kind::Growing, 0) => Ask::Length,
        (Kind::Growing, 1..=2) => Ask::Last,
        // Reading all of a long list each time would make the history larger than the list.
        (Kind::Growing, 3) if number % 500 == 0 || making.operations < 1_000 => Ask::ReadAll,
        (Kind::Growing, _) | (Kind::Queue, 0..=3) => Ask::Append(value),
        (Kind::Queue, 4) => Ask::Prepend(value),
        (Kind::Queue, 5..=6) => Ask::PopFirst,
        (Kind::Queue, 7) => Ask::PopLast,
        (Kind::Queue, 8) => Ask::Length,
        (Kind::Queue, _) => Ask::ReadAll,
    }
}
