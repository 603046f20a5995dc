//! One object's history as the search walks along it: beginnings and answers in the order of time.
//!
//! Operations of unknown outcome become *offers*: kinds of operation, of which so many have been begun by now and may
//! be taken. Values that no answer and no comparison names are all replaced by one, because a linearisation stays one
//! when two such values change places; so a thousand unknown writes that nobody ever saw are one offer. (Not where
//! there is arithmetic: a sum names the values that made it.)
//!
//! Some objects only grow: counters that are added to and read, lists that are appended to and read. Their size never
//! falls, so an answer that tells a size says how long it can still be explained ([`Timeline::too_large`]); and every
//! list that such an object ever was is a beginning of every longer one, so the longest that was read says which
//! element stands where ([`Timeline::allows`]). With that the search need not guess which unknown additions took effect.

use std::collections::{BTreeMap, BTreeSet};

use super::object::{Lists, State};
use super::{Answer, Ask, Call, Stamp, Value};

/// An operation that must be in the order, by the number of its answer in time.
pub(super) type Must = u32;

/// A kind of operation that may be taken.
pub(super) type Offer = u32;

/// Something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// An operation that must be in the order begins.
    Begins(Must),
    /// One more of these may be taken.
    Offered(Offer),
    /// The operation is answered, and so must be in the order by now.
    Answered(Must),
}

/// An operation that must be in the order.
#[derive(Debug)]
pub(super) struct Required<'a> {
    pub(super) ask: Ask,
    /// What was told; `None` if nobody knows.
    pub(super) answer: Option<&'a Answer>,
    /// With this answer it changes nothing in any state.
    pub(super) looks: bool,
    /// Its place in the history that was given.
    pub(super) call: usize,
    /// The largest size that the object can have had before it, if it is one that only grows.
    most: Value,
}

/// One object's history, ready to be searched.
#[derive(Debug)]
pub(super) struct Timeline<'a> {
    pub(super) events: Vec<Event>,
    pub(super) required: Vec<Required<'a>>,
    pub(super) offers: Vec<Ask>,
    growing: Option<Growing<'a>>,
}

/// What is known of an object that only grows.
#[derive(Debug)]
struct Growing<'a> {
    /// The longest list that was read.
    longest: &'a [Value],
    /// By event: the largest size that the object can have had before everything that begins with it or later.
    most: Vec<Value>,
}

impl<'a> Timeline<'a> {
    /// All of it.
    pub(super) fn of(calls: &[&'a Call]) -> Self {
        Self::believing(calls, |_| true)
    }

    /// The same history as if the outcome of every call that is not believed were unknown.
    pub(super) fn believing(calls: &[&'a Call], believed: impl Fn(usize) -> bool) -> Self {
        let end = |number: usize| if believed(number) { calls[number].outcome.at() } else { None };
        let mut ended: Vec<(Stamp, usize)> =
            (0..calls.len()).filter_map(|number| Some((end(number)?.max(calls[number].invoked), number))).collect();
        ended.sort_unstable();
        let plain = plain_values(calls, &|number| end(number).is_some());
        let required: Vec<Required<'a>> = ended
            .iter()
            .map(|(_, number)| {
                let answer = calls[*number].outcome.answer();
                let ask = plain.of(calls[*number].ask);
                Required { ask, answer, looks: only_looked(ask, answer), call: *number, most: most_before(ask, answer) }
            })
            .collect();
        // Beginnings come before answers of the same moment: only what ended strictly before stands before.
        let mut events: Vec<(Stamp, bool, Event)> = Vec::with_capacity(2 * calls.len());
        for (must, (at, number)) in (0..).zip(&ended) {
            events.push((calls[*number].invoked, false, Event::Begins(must)));
            events.push((*at, true, Event::Answered(must)));
        }
        let mut kinds = BTreeMap::new();
        let mut offers = Vec::new();
        for (number, call) in calls.iter().enumerate() {
            if end(number).is_none() && !call.ask.looks() {
                let ask = plain.of(call.ask);
                let offer = *kinds.entry(ask).or_insert_with(|| {
                    offers.push(ask);
                    offers.len() as Offer - 1
                });
                events.push((call.invoked, false, Event::Offered(offer)));
            }
        }
        // Stable: what stands together keeps the order of the answers, so that the same history walks the same way.
        events.sort_by_key(|(at, answered, _)| (*at, *answered));
        let events: Vec<Event> = events.into_iter().map(|(.., event)| event).collect();
        let growing = Growing::of(calls, &required, &events);
        Self { events, required, offers, growing }
    }

    /// False when `ask` in this state would put an element where another is known to stand, so that there is no order
    /// beyond.
    pub(super) fn allows(&self, state: State, ask: Ask, lists: &Lists) -> bool {
        let (Some(growing), Ask::Append(element)) = (&self.growing, ask) else { return true };
        growing.longest.get(size(state, lists) as usize).is_none_or(|known| *known == element)
    }

    /// True when the object has outgrown an answer that is still to be explained: of an operation in `open`, or of one
    /// that begins with the event `next` or later.
    pub(super) fn too_large(
        &self,
        state: State,
        next: usize,
        mut open: impl Iterator<Item = Must>,
        lists: &Lists,
    ) -> bool {
        let Some(growing) = &self.growing else { return false };
        let size = size(state, lists);
        growing.most.get(next).is_some_and(|most| *most < size)
            || open.any(|must| self.required[must as usize].most < size)
    }
}

fn size(state: State, lists: &Lists) -> Value {
    match state {
        State::Absent => 0,
        State::Number(value) => value,
        State::List(list) => Value::from(lists.length(list)),
    }
}

/// See [`Required::most`].
fn most_before(ask: Ask, answer: Option<&Answer>) -> Value {
    match (ask, answer) {
        (Ask::Append(_), Some(Answer::Count(after))) => after.saturating_sub(1),
        (Ask::Add(more), Some(Answer::Count(after))) => after.saturating_sub(more),
        (Ask::Length | Ask::Total, Some(Answer::Count(then))) => *then,
        (Ask::ReadAll, Some(Answer::Elements(elements))) => elements.len() as Value,
        _ => Value::MAX,
    }
}

/// True when an operation that was told this has changed nothing, in whatever state it was executed.
fn only_looked(ask: Ask, answer: Option<&Answer>) -> bool {
    match (ask, answer) {
        (Ask::CompareAndSet { .. }, Some(Answer::Swapped(false)))
        | (Ask::Remove, Some(Answer::Count(0)))
        | (Ask::PopFirst | Ask::PopLast, Some(Answer::Value(None))) => true,
        (ask, _) => ask.looks(),
    }
}

impl<'a> Growing<'a> {
    fn of(calls: &[&'a Call], required: &[Required<'a>], events: &[Event]) -> Option<Self> {
        let list = |ask: Ask| matches!(ask, Ask::Append(_) | Ask::ReadAll | Ask::Length | Ask::Last);
        let counter = |ask: Ask| matches!(ask, Ask::Add(1..) | Ask::Total);
        if !calls.iter().all(|call| list(call.ask)) && !calls.iter().all(|call| counter(call.ask)) {
            return None;
        }
        let mut longest: &[Value] = &[];
        for operation in required {
            if let (Ask::ReadAll, Some(Answer::Elements(elements))) = (operation.ask, operation.answer)
                && elements.len() > longest.len()
            {
                longest = elements;
            }
        }
        let mut most = vec![Value::MAX; events.len()];
        let mut least = Value::MAX;
        for (number, event) in events.iter().enumerate().rev() {
            if let Event::Begins(must) = event {
                least = least.min(required[*must as usize].most);
            }
            most[number] = least;
        }
        Some(Self { longest, most })
    }
}

/// Which values are told apart.
struct Plain {
    named: Option<BTreeSet<Value>>,
    /// Stands for all others.
    other: Value,
}

impl Plain {
    fn of(&self, ask: Ask) -> Ask {
        let Some(named) = &self.named else { return ask };
        let value = |value: Value| if named.contains(&value) { value } else { self.other };
        match ask {
            Ask::Write(v) => Ask::Write(value(v)),
            Ask::CompareAndSet { expected, new } => Ask::CompareAndSet { expected, new: value(new) },
            Ask::Append(v) => Ask::Append(value(v)),
            Ask::Prepend(v) => Ask::Prepend(value(v)),
            other => other,
        }
    }
}

fn plain_values(calls: &[&Call], counts: &dyn Fn(usize) -> bool) -> Plain {
    if calls.iter().any(|call| matches!(call.ask, Ask::Add(_) | Ask::Total)) {
        return Plain { named: None, other: 0 };
    }
    let mut named = BTreeSet::new();
    for (number, call) in calls.iter().enumerate() {
        if let Ask::CompareAndSet { expected: Some(value), .. } = call.ask {
            named.insert(value);
        }
        match call.outcome.answer().filter(|_| counts(number)) {
            Some(Answer::Value(Some(value))) => {
                named.insert(*value);
            }
            Some(Answer::Elements(elements)) => named.extend(elements.iter().copied()),
            _ => {}
        }
    }
    let mut other = Value::MIN;
    while named.contains(&other) {
        other += 1;
    }
    Plain { named: Some(named), other }
}
