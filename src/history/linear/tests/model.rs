//! What an object does, written down a second time and as simply as possible, so that the checker is not compared with
//! itself.

use std::collections::VecDeque;

use super::*;

/// What an object holds.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Held {
    pub(super) number: Option<i64>,
    pub(super) list: VecDeque<i64>,
}

impl Held {
    /// Executes it; `None`, and nothing happens, if the object is of another kind.
    pub(super) fn execute(&mut self, ask: Ask) -> Option<Answer> {
        use Ask::{
            Add, Append, CompareAndSet, Last, Length, PopFirst, PopLast, Prepend, Read, ReadAll, Remove, Total, Write,
        };
        let of_number = matches!(ask, Read | CompareAndSet { .. } | Add(_) | Total);
        let of_list = matches!(ask, Append(_) | Prepend(_) | PopFirst | PopLast | ReadAll | Length | Last);
        if of_number && !self.list.is_empty() || of_list && self.number.is_some() {
            return None;
        }
        Some(match ask {
            Read => Answer::Value(self.number),
            Write(value) => {
                *self = Held { number: Some(value), list: VecDeque::new() };
                Answer::Done
            }
            CompareAndSet { expected, new } => {
                let holds = self.number == expected;
                if holds {
                    self.number = Some(new);
                }
                Answer::Swapped(holds)
            }
            Remove => {
                let there = *self != Held::default();
                *self = Held::default();
                Answer::Count(i64::from(there))
            }
            Add(more) => {
                let sum = self.number.unwrap_or(0) + more;
                self.number = Some(sum);
                Answer::Count(sum)
            }
            Total => Answer::Count(self.number.unwrap_or(0)),
            Append(value) => {
                self.list.push_back(value);
                Answer::Count(self.list.len() as i64)
            }
            Prepend(value) => {
                self.list.push_front(value);
                Answer::Count(self.list.len() as i64)
            }
            PopFirst => Answer::Value(self.list.pop_front()),
            PopLast => Answer::Value(self.list.pop_back()),
            ReadAll => Answer::Elements(self.list.iter().copied().collect()),
            Length => Answer::Count(self.list.len() as i64),
            Last => Answer::Value(self.list.back().copied()),
        })
    }
}
