//! What one object does: the sequential meaning of every [`Ask`], the same for registers, counters and lists.
//!
//! An object is absent, a number or a list, as a key of the key-value machine is: writing makes a number of anything, an
//! emptied list is absent again, and an operation on a value of the wrong kind has no answer that this module knows. A
//! history that contains such an answer has no linearisation.
//!
//! Deliberately not here: time, clients, and how a linearisation is found.

use std::collections::BTreeMap;

use super::{Answer, Ask, Value};

/// An object at one moment. Two equal objects are equal as this plain data, lists too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// There is nothing.
    Absent,
    /// A register or a counter.
    Number(Value),
    /// A list that is not empty.
    List(ListId),
}

/// A list, by its number in [`Lists`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListId(u32);

/// Every list that a search met, each kept once as its last element and the list before it. So a list of any length is
/// compared, copied and appended to without touching its elements; only the front costs its length.
#[derive(Debug, Default)]
pub(super) struct Lists {
    nodes: Vec<Node>,
    children: BTreeMap<(u32, Value), u32>,
}

#[derive(Debug)]
struct Node {
    before: u32,
    last: Value,
    length: u32,
}

/// The empty list's number; the first node is number 1.
const EMPTY: u32 = 0;

impl Lists {
    /// How many different lists are kept: what they take of memory.
    pub(super) fn kept(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// The list's length.
    pub(super) fn length(&self, list: ListId) -> u32 {
        self.node(list.0).map_or(0, |node| node.length)
    }

    fn node(&self, number: u32) -> Option<&Node> {
        self.nodes.get((number as usize).checked_sub(1)?)
    }

    fn append(&mut self, list: u32, value: Value) -> u32 {
        if let Some(known) = self.children.get(&(list, value)) {
            return *known;
        }
        let length = self.length(ListId(list)) + 1;
        self.nodes.push(Node { before: list, last: value, length });
        let number = u32::try_from(self.nodes.len()).expect("a search is bounded long before 2^32 lists");
        self.children.insert((list, value), number);
        number
    }

    /// The elements from the last to the first.
    fn backwards(&self, list: u32) -> impl Iterator<Item = Value> {
        let mut at = list;
        std::iter::from_fn(move || {
            let node = self.node(at)?;
            at = node.before;
            Some(node.last)
        })
    }

    /// The list of `first` (if any) and then the elements of `list` without its first `skipped`.
    fn rebuilt(&mut self, first: Option<Value>, list: u32, skipped: usize) -> u32 {
        let mut elements: Vec<Value> = self.backwards(list).collect();
        elements.truncate(elements.len() - skipped);
        elements.extend(first);
        elements.iter().rev().fold(EMPTY, |list, value| self.append(list, *value))
    }

    fn equals(&self, list: u32, elements: &[Value]) -> bool {
        self.length(ListId(list)) as usize == elements.len() && self.backwards(list).eq(elements.iter().rev().copied())
    }
}

/// The object after `ask`, if `ask` can have been told `answer` in this state; `None` for an answer means that nobody
/// knows what was told.
pub(super) fn after(state: State, ask: Ask, answer: Option<&Answer>, lists: &mut Lists) -> Option<State> {
    match ask {
        Ask::Read | Ask::Write(_) | Ask::CompareAndSet { .. } | Ask::Add(_) | Ask::Total => number(state, ask, answer),
        Ask::Remove => {
            let there = i64::from(state != State::Absent);
            told(answer, &Answer::Count(there)).then_some(State::Absent)
        }
        Ask::Append(_) | Ask::Prepend(_) | Ask::PopFirst | Ask::PopLast | Ask::ReadAll | Ask::Length | Ask::Last => {
            list(state, ask, answer, lists)
        }
    }
}

fn told(answer: Option<&Answer>, said: &Answer) -> bool {
    answer.is_none_or(|answer| answer == said)
}

fn number(state: State, ask: Ask, answer: Option<&Answer>) -> Option<State> {
    let held = match state {
        State::Absent => None,
        State::Number(value) => Some(value),
        State::List(_) if matches!(ask, Ask::Write(_)) => None,
        State::List(_) => return None,
    };
    let (said, then) = match ask {
        Ask::Read => (Answer::Value(held), state),
        Ask::Write(value) => (Answer::Done, State::Number(value)),
        Ask::CompareAndSet { expected, new } if held == expected => (Answer::Swapped(true), State::Number(new)),
        Ask::CompareAndSet { .. } => (Answer::Swapped(false), state),
        Ask::Add(more) => {
            let sum = held.unwrap_or(0).checked_add(more)?;
            (Answer::Count(sum), State::Number(sum))
        }
        _ => (Answer::Count(held.unwrap_or(0)), state),
    };
    told(answer, &said).then_some(then)
}

fn list(state: State, ask: Ask, answer: Option<&Answer>, lists: &mut Lists) -> Option<State> {
    let held = match state {
        State::Absent => EMPTY,
        State::List(list) => list.0,
        State::Number(_) => return None,
    };
    let length = lists.length(ListId(held));
    let as_state = |list: u32| if list == EMPTY { State::Absent } else { State::List(ListId(list)) };
    match ask {
        Ask::Append(_) | Ask::Prepend(_) if !told(answer, &Answer::Count(i64::from(length) + 1)) => None,
        Ask::Append(value) => Some(as_state(lists.append(held, value))),
        Ask::Prepend(value) => Some(as_state(lists.rebuilt(Some(value), held, 0))),
        Ask::PopLast => {
            let last = lists.node(held).map(|node| node.last);
            let before = lists.node(held).map_or(EMPTY, |node| node.before);
            told(answer, &Answer::Value(last)).then(|| as_state(before))
        }
        Ask::PopFirst => {
            let first = lists.backwards(held).last();
            let skipped = usize::from(first.is_some());
            told(answer, &Answer::Value(first)).then(|| as_state(lists.rebuilt(None, held, skipped)))
        }
        Ask::Length => told(answer, &Answer::Count(i64::from(length))).then_some(state),
        Ask::Last => told(answer, &Answer::Value(lists.node(held).map(|node| node.last))).then_some(state),
        _ => match answer {
            None => Some(state),
            Some(Answer::Elements(elements)) => lists.equals(held, elements).then_some(state),
            Some(_) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_number_whichever_way_it_came_about() {
        let mut lists = Lists::default();
        let mut run = |asks: &[Ask]| {
            asks.iter().fold(State::Absent, |state, ask| after(state, *ask, None, &mut lists).expect("a list"))
        };
        let straight = run(&[Ask::Append(1), Ask::Append(2)]);
        assert_eq!(straight, run(&[Ask::Prepend(2), Ask::Prepend(1)]));
        assert_eq!(
            straight,
            run(&[Ask::Append(7), Ask::Append(1), Ask::Append(2), Ask::Append(3), Ask::PopLast, Ask::PopFirst])
        );
        assert_eq!(run(&[Ask::Append(1), Ask::PopFirst]), State::Absent);
        assert_eq!(run(&[Ask::PopLast]), State::Absent, "nothing to take");
    }

    #[test]
    fn the_wrong_kind_has_no_answer() {
        let mut lists = Lists::default();
        let number = after(State::Absent, Ask::Write(1), None, &mut lists).expect("a number");
        assert_eq!(after(number, Ask::Append(1), None, &mut lists), None);
        let list = after(State::Absent, Ask::Append(1), None, &mut lists).expect("a list");
        assert_eq!(after(list, Ask::Add(1), None, &mut lists), None);
        assert_eq!(after(list, Ask::Read, Some(&Answer::Value(None)), &mut lists), None);
        assert_eq!(after(list, Ask::Write(4), None, &mut lists), Some(State::Number(4)));
        assert_eq!(after(State::Number(i64::MAX), Ask::Add(1), None, &mut lists), None);
    }
}
