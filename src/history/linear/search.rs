//! The search for an order, with a stack of its own on the heap: its depth is the history's length, its recursion none.
//!
//! It walks along the timeline with one configuration: the object's state, the open operations that are in the order
//! already, and how many of each offer have been taken. Where an answer comes whose operation is not in the order yet,
//! it makes a [`Frame`] and tries that operation next; if everything after that fails, the operation behind each one,
//! two, three … other open operations, fewest first. A configuration from which the walk came back is remembered, so
//! that no search goes on from it, or from one that has spent more, again. As long as every first try is right nothing
//! is remembered at all, which is why a history of a million operations is no burden.

use std::collections::{BTreeMap, BTreeSet};

use super::object::{Lists, State, after};
use super::timeline::{Event, Must, Offer, Timeline};

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// There is an order.
    Order,
    /// There is none.
    None(Blocked),
    /// The bound was reached.
    TooMuch,
}

/// The first answer that no order explains: with it, the history so far has none, and without it, it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocked {
    /// The operation's place in the history that was given.
    pub(super) call: usize,
}

/// Small work, in parts of a remembered configuration: a bound on memory bounds time too.
const TRIES_OF_ONE: u64 = 64;

/// What a search may remember beyond its bound, for each operation: so much takes a history without any doubt.
const OF_EACH: u64 = 4;

/// Searches for an order. Also gives what it cost, in remembered configurations, rounded up.
pub(super) fn search(timeline: &Timeline<'_>, bound: u64) -> (Found, u64) {
    let mut search = Search {
        timeline,
        lists: Lists::default(),
        next: 0,
        open: BTreeSet::new(),
        offered: vec![0; timeline.offers.len()],
        failed: Failed::default(),
        tried: 0,
        limit: (bound + OF_EACH * timeline.events.len() as u64).saturating_mul(TRIES_OF_ONE),
        furthest: None,
    };
    let found = search.run();
    let cost = search.cost().div_ceil(TRIES_OF_ONE);
    (found, cost)
}

/// How many of each offer are in an order; sorted, none of them 0.
type Taken = Vec<(Offer, u32)>;

/// A place in an order: what stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Configuration {
    state: State,
    /// Open operations that are in the order already; sorted.
    done: Vec<Must>,
    /// What was taken of the offers.
    taken: Taken,
}

impl Configuration {
    fn with(&self, must: Must, state: State) -> Self {
        let mut next = Self { state, ..self.clone() };
        next.note(must);
        next
    }

    fn note(&mut self, must: Must) {
        if let Err(place) = self.done.binary_search(&must) {
            self.done.insert(place, must);
        }
    }

    /// Forgets an operation whose answer is behind us; false if it is not in the order.
    fn settle(&mut self, must: Must) -> bool {
        let found = self.done.binary_search(&must);
        if let Ok(place) = found {
            self.done.remove(place);
        }
        found.is_ok()
    }

    fn taken(&self, offer: Offer) -> u32 {
        self.taken.binary_search_by_key(&offer, |(offer, _)| *offer).map_or(0, |place| self.taken[place].1)
    }

    fn taking(&self, offer: Offer, state: State) -> Self {
        let mut next = Self { state, ..self.clone() };
        match next.taken.binary_search_by_key(&offer, |(offer, _)| *offer) {
            Ok(place) => next.taken[place].1 += 1,
            Err(place) => next.taken.insert(place, (offer, 1)),
        }
        next
    }
}

/// An answer whose operation must be put into the order here, and the ways to do it that are left.
struct Frame {
    event: usize,
    must: Must,
    /// Before this answer; each later one has one operation more than an earlier one, the operation itself not counted.
    ways: Vec<Configuration>,
    /// The way that is tried.
    way: usize,
    /// The operation itself was tried on it.
    tried: bool,
}

/// Configurations from which there is no way on: by event, state and finished open operations, the fewest taken.
#[derive(Default)]
struct Failed {
    known: BTreeMap<(usize, State, Vec<Must>), Vec<Taken>>,
    remembered: u64,
    compared: u64,
}

impl Failed {
    fn covers(&mut self, event: usize, configuration: &Configuration) -> bool {
        let Configuration { state, done, taken } = configuration;
        let Some(known) = self.known.get(&(event, *state, done.clone())) else { return false };
        self.compared += known.len() as u64;
        known.iter().any(|fewer| at_most(fewer, taken))
    }

    fn remember(&mut self, event: usize, configuration: &Configuration) {
        let Configuration { state, done, taken } = configuration;
        let known = self.known.entry((event, *state, done.clone())).or_default();
        self.compared += known.len() as u64;
        known.retain(|more| !at_most(taken, more));
        known.push(taken.clone());
        self.remembered += 1;
    }
}

/// True when no offer was taken more often in `fewer` than in `more`.
fn at_most(fewer: &[(Offer, u32)], more: &[(Offer, u32)]) -> bool {
    let mut rest = more.iter();
    fewer.iter().all(|(offer, count)| rest.by_ref().any(|(other, most)| other == offer && count <= most))
}

/// The bound was reached.
struct TooMuch;

struct Search<'a> {
    timeline: &'a Timeline<'a>,
    lists: Lists,
    /// The event that comes next. Everything before it is reflected in `open` and `offered`.
    next: usize,
    /// Begun and not answered.
    open: BTreeSet<Must>,
    /// How many of each offer have been begun.
    offered: Vec<u32>,
    failed: Failed,
    tried: u64,
    limit: u64,
    furthest: Option<(usize, Must)>,
}

impl Search<'_> {
    fn run(&mut self) -> Found {
        let mut frames: Vec<Frame> = Vec::new();
        let mut walking = Some(Configuration { state: State::Absent, done: Vec::new(), taken: Vec::new() });
        loop {
            match walking.take().map(|configuration| self.walk(configuration)) {
                Some(Walked::Through) => return Found::Order,
                Some(Walked::Upto(must, configuration)) if !self.failed.covers(self.next, &configuration) => {
                    frames.push(Frame { event: self.next, must, ways: vec![configuration], way: 0, tried: false });
                }
                _ => {}
            }
            let Some(frame) = frames.last_mut() else {
                let (_, must) = self.furthest.expect("a walk that did not get through stopped at an answer");
                return Found::None(Blocked { call: self.timeline.required[must as usize].call });
            };
            self.rewind(frame.event);
            match self.next_way(frame) {
                Ok(Some(configuration)) => {
                    self.happen();
                    walking = Some(configuration);
                }
                Ok(None) => drop(frames.pop()),
                Err(TooMuch) => return Found::TooMuch,
            }
        }
    }

    /// Goes on to the next answer whose operation is not in the order yet.
    fn walk(&mut self, mut configuration: Configuration) -> Walked {
        while let Some(event) = self.timeline.events.get(self.next) {
            if let Event::Answered(must) = *event {
                self.look(&mut configuration);
                if !configuration.settle(must) {
                    if self.furthest.is_none_or(|(furthest, _)| furthest < self.next) {
                        self.furthest = Some((self.next, must));
                    }
                    return Walked::Upto(must, configuration);
                }
            }
            self.happen();
        }
        Walked::Through
    }

    /// The next event happens.
    fn happen(&mut self) {
        match self.timeline.events[self.next] {
            Event::Begins(must) => drop(self.open.insert(must)),
            Event::Answered(must) => drop(self.open.remove(&must)),
            Event::Offered(offer) => self.offered[offer as usize] += 1,
        }
        self.next += 1;
    }

    /// Goes back until `event` comes next.
    fn rewind(&mut self, event: usize) {
        while self.next > event {
            self.next -= 1;
            match self.timeline.events[self.next] {
                Event::Begins(must) => drop(self.open.remove(&must)),
                Event::Answered(must) => drop(self.open.insert(must)),
                Event::Offered(offer) => self.offered[offer as usize] -= 1,
            }
        }
    }

    /// Puts into the order whatever only looks and fits.
    fn look(&mut self, configuration: &mut Configuration) {
        for must in &self.open {
            let operation = &self.timeline.required[*must as usize];
            if operation.looks && after(configuration.state, operation.ask, operation.answer, &mut self.lists).is_some()
            {
                configuration.note(*must);
            }
        }
    }

    /// The next configuration behind the frame's answer; `None` if there is no further one.
    fn next_way(&mut self, frame: &mut Frame) -> Result<Option<Configuration>, TooMuch> {
        while frame.way < frame.ways.len() {
            if self.cost() > self.limit {
                return Err(TooMuch);
            }
            if frame.tried {
                self.lengthen(frame);
                frame.way += 1;
            }
            frame.tried = !frame.tried;
            if frame.tried
                && let Some(configuration) = self.with_answer(frame)
            {
                return Ok(Some(configuration));
            }
        }
        Ok(None)
    }

    /// The way that is tried, with the frame's operation behind it.
    fn with_answer(&mut self, frame: &Frame) -> Option<Configuration> {
        let mut configuration = frame.ways[frame.way].clone();
        if configuration.settle(frame.must) {
            return Some(configuration);
        }
        configuration.state = self.result(configuration.state, frame.must)?;
        (!self.outgrown(&configuration, Some(frame.must))).then_some(configuration)
    }

    /// Adds the ways that have one more operation than the one that is tried.
    fn lengthen(&mut self, frame: &mut Frame) {
        let Frame { event, must, ways, way, .. } = frame;
        if *way == 0 {
            self.failed.remember(*event, &ways[0]);
        }
        let others: Vec<Must> = self.open.iter().copied().filter(|other| other != must).collect();
        for other in others {
            if ways[*way].done.binary_search(&other).is_err()
                && let Some(state) = self.result(ways[*way].state, other)
            {
                let longer = ways[*way].with(other, state);
                self.add(*event, longer, ways);
            }
        }
        for offer in 0..self.offered.len() {
            let current = &ways[*way];
            let left = self.offered[offer] > current.taken(offer as Offer);
            if left && let Some(state) = self.effect(current.state, offer) {
                let longer = current.taking(offer as Offer, state);
                self.add(*event, longer, ways);
            }
        }
    }

    fn add(&mut self, event: usize, mut configuration: Configuration, ways: &mut Vec<Configuration>) {
        self.look(&mut configuration);
        if !self.outgrown(&configuration, None) && !self.failed.covers(event, &configuration) {
            self.failed.remember(event, &configuration);
            ways.push(configuration);
        }
    }

    /// True when the object has become too large for an answer that is still to come; `behind` is in the order.
    fn outgrown(&self, configuration: &Configuration, behind: Option<Must>) -> bool {
        let done = |must: &Must| Some(*must) == behind || configuration.done.binary_search(must).is_ok();
        let open = self.open.iter().copied().filter(|must| !done(must));
        self.timeline.too_large(configuration.state, self.next, open, &self.lists)
    }

    /// The state after an operation that must be in the order, if its answer fits.
    fn result(&mut self, state: State, must: Must) -> Option<State> {
        self.tried += 1;
        let operation = &self.timeline.required[must as usize];
        if !self.timeline.allows(state, operation.ask, &self.lists) {
            return None;
        }
        after(state, operation.ask, operation.answer, &mut self.lists)
    }

    /// The state after one of an offer, if it changes anything.
    fn effect(&mut self, state: State, offer: usize) -> Option<State> {
        self.tried += 1;
        let ask = self.timeline.offers[offer];
        if !self.timeline.allows(state, ask, &self.lists) {
            return None;
        }
        after(state, ask, None, &mut self.lists).filter(|then| *then != state)
    }

    fn cost(&self) -> u64 {
        self.tried + self.failed.compared + (self.failed.remembered + self.lists.kept()).saturating_mul(TRIES_OF_ONE)
    }
}

/// How far a walk came.
enum Walked {
    /// To the end: there is an order.
    Through,
    /// To this answer, with this configuration before it.
    Upto(Must, Configuration),
}
