//! Breadth-first search over the states of a model: every order of its steps, up to a depth. What is found first is
//! therefore shortest.
//!
//! Visited states are remembered by a 64-bit hash: two that collide would hide one another, which among a million
//! states happens once in some ten million searches.
//!
//! Used by `tests/exhaustive` for replicas and by the arbiters' own tests for Raft.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Something to be searched.
pub trait Model {
    type State: Clone;
    type Step: Clone + Debug;

    /// Where it begins.
    fn initial(&self) -> Self::State;

    /// What may happen next.
    fn steps(&self, state: &Self::State) -> Vec<Self::Step>;

    /// Lets it happen. `None`: it made no difference. An error is a violation, and so is a panic.
    fn take(&self, state: &Self::State, step: &Self::Step, seen: &mut Seen) -> Result<Option<Self::State>, String>;

    /// A hash of all that decides what may happen next.
    fn digest(&self, state: &Self::State) -> u64;
}

/// What happened at least once: *sometimes* properties, without which a search proves nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    pub fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Those of `all` that never happened.
    pub fn missing<'a>(&self, all: &[&'a str]) -> Vec<&'a str> {
        all.iter().copied().filter(|what| !self.0.contains_key(what)).collect()
    }
}

/// Bounds of a search.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Steps from the beginning.
    pub depth: usize,
    /// States after which it is given up.
    pub states: usize,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// States visited.
    pub states: usize,
    /// The depth that was searched completely.
    pub depth: usize,
    pub seen: Seen,
    /// The violation, and the steps that led to it.
    pub violation: Option<(String, Vec<String>)>,
}

/// Searches from the model's beginning, breadth first.
pub fn search<M: Model>(model: &M, bounds: Bounds) -> Found {
    search_from(model, model.initial(), bounds)
}

/// Searches from a state.
pub fn search_from<M: Model>(model: &M, initial: M::State, bounds: Bounds) -> Found {
    let mut visited = BTreeSet::new();
    // Every state's predecessor and the step from there, to tell the way to a violation.
    let mut ways: Vec<(usize, Option<M::Step>)> = vec![(0, None)];
    let mut found = Found { states: 1, depth: 0, seen: Seen::default(), violation: None };
    visited.insert(model.digest(&initial));
    let mut level = vec![(initial, 0)];
    while !level.is_empty() && found.depth < bounds.depth && visited.len() < bounds.states {
        let mut next = Vec::new();
        for (state, at) in level {
            for step in model.steps(&state) {
                let taken = catch_unwind(AssertUnwindSafe(|| model.take(&state, &step, &mut found.seen)));
                let taken = taken.unwrap_or_else(|panic| Err(format!("a panic: {}", text(&*panic))));
                match taken {
                    Ok(None) => {}
                    Ok(Some(new)) => {
                        if visited.insert(model.digest(&new)) {
                            ways.push((at, Some(step)));
                            next.push((new, ways.len() - 1));
                        }
                    }
                    Err(why) => {
                        let mut way = way_to(&ways, at);
                        way.push(format!("{step:?}"));
                        found.states = visited.len();
                        found.violation = Some((why, way));
                        return found;
                    }
                }
            }
        }
        level = next;
        found.depth += 1;
    }
    found.states = visited.len();
    found
}

fn way_to<S: Debug>(ways: &[(usize, Option<S>)], mut at: usize) -> Vec<String> {
    let mut way = Vec::new();
    while let (before, Some(step)) = &ways[at] {
        way.push(format!("{step:?}"));
        at = *before;
    }
    way.reverse();
    way
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Hashes states. Times are counted from now, so that two replicas whose clocks differ and nothing else are one state.
pub struct Fold {
    state: u64,
    now: u128,
    grain: u64,
    /// The seconds of a time whose nanoseconds come next.
    seconds: Option<u64>,
}

/// Boot time at the beginning, in seconds or nanoseconds: so far away that no other number is taken for a time.
pub const BOOT: u64 = 1 << 40;
/// The wall clock at the beginning, in microseconds.
pub const WALL: u64 = 1 << 50;

impl Fold {
    /// `now` in nanoseconds. Times are `Duration`s if `grain` is 0; otherwise they are numbers of nanoseconds, told apart
    /// no finer than that.
    pub fn since(now: u128, grain: u64) -> Self {
        Self { state: 0x9E37_79B9_7F4A_7C15, now, grain, seconds: None }
    }

    pub fn of(value: &impl Hash) -> u64 {
        let mut fold = Self::since(0, 0);
        value.hash(&mut fold);
        fold.finish()
    }

    fn word(&mut self, word: u64) {
        let mixed = (self.state.rotate_left(23) ^ word).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        self.state = mixed ^ (mixed >> 32);
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.state
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word) ^ ((chunk.len() as u64) << 56));
        }
    }

    fn write_u64(&mut self, number: u64) {
        match number {
            BOOT..WALL if self.grain > 0 => {
                let from_now = u128::from(number + self.grain / 2).wrapping_sub(self.now) as i64;
                self.word(from_now.div_euclid(self.grain as i64) as u64);
            }
            BOOT..WALL => self.seconds = Some(number),
            WALL.. if number < WALL * 2 => self.word(WALL),
            _ => self.word(number),
        }
    }

    fn write_u32(&mut self, number: u32) {
        match self.seconds.take() {
            Some(seconds) => {
                let time = u128::from(seconds) * 1_000_000_000 + u128::from(number);
                self.word(self.now.wrapping_sub(time) as u64);
            }
            None => self.word(u64::from(number)),
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.word(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.word(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.word(number as u64);
    }
}
