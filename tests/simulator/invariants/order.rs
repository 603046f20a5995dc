//! S7, the order within a session: whatever happens to replicas and connections, operations take effect in the order of
//! their sequences. Most of all no read shows the effect of a write that its session asked for after it.
//!
//! Judged by what clients hear: an answer names the index that it stands at or was computed from. A ticket stands for a
//! sequence here: the library gives sequences in the order of its tickets.

use std::collections::BTreeMap;

use cutover::client::core::Ticket;
use cutover::protocol::entry::Payload;
use cutover_arbiter::record::{Index, Position};

use crate::canon::Group;
use crate::world::Verdict;

/// Answers remembered: many more than any client has under way.
const REMEMBERED: usize = 64;

/// What one session was answered.
#[derive(Debug, Default)]
pub struct Order {
    answered: BTreeMap<Ticket, Answered>,
    /// How often an operator had seized the group.
    reign: u32,
}

#[derive(Debug)]
struct Answered {
    index: Index,
    writes: bool,
    reply: Vec<u8>,
}

impl Order {
    /// Takes one answer, in whatever order they come.
    pub fn s7_in_order(&mut self, group: &Group, ticket: Ticket, at: Position, writes: bool, reply: &[u8]) -> Verdict {
        if std::mem::replace(&mut self.reign, group.reign) != group.reign {
            // What stood before it may be lost, by an operator's word.
            self.answered.clear();
        }
        if at.epoch < group.reign_began {
            // An answer that was still on its way: its index may be another's by now.
            return Ok(());
        }
        let one = Answered { index: at.index, writes, reply: reply.to_vec() };
        for (before, earlier) in self.answered.range(..ticket) {
            earlier.precedes(&one, group).map_err(|why| format!("S7: request {before}, then {ticket}: {why}"))?;
        }
        for (after, later) in self.answered.range(ticket + 1..) {
            one.precedes(later, group).map_err(|why| format!("S7: request {ticket}, then {after}: {why}"))?;
        }
        self.answered.insert(ticket, one);
        if self.answered.len() > REMEMBERED {
            self.answered.pop_first();
        }
        Ok(())
    }
}

impl Answered {
    fn precedes(&self, later: &Answered, group: &Group) -> Verdict {
        let in_order = match (self.writes, later.writes) {
            _ if self.index < later.index => true,
            _ if self.index > later.index => false,
            (_, false) => true,
            (true, true) => false,
            // An entry carries what reads before it replied, and a retried one names it.
            (false, true) => group.look(self.index, |entry| carries(&entry.payload, &self.reply)).unwrap_or(true),
        };
        if in_order {
            return Ok(());
        }
        Err(format!(
            "a session's {} took effect at {}, its later {} at {}",
            kind(self.writes),
            self.index,
            kind(later.writes),
            later.index
        ))
    }
}

fn kind(writes: bool) -> &'static str {
    if writes { "write" } else { "read" }
}

fn carries(payload: &Payload<'_>, reply: &[u8]) -> bool {
    match payload {
        Payload::Operation { carried, .. } => carried.iter().any(|(_, carried)| *carried == Some(reply)),
        Payload::Control(_) => false,
    }
}
