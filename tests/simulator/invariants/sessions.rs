//! S7: exactly once.

use cutover::protocol::SessionId;
use cutover::protocol::entry::{Entry, Payload};
use cutover_arbiter::record::{Index, Position};

use crate::canon::Group;
use crate::doors::Held;
use crate::world::Verdict;

impl Group {
    /// Each (session, sequence) stands at most once in the canon, and never after it was closed.
    pub fn s7_once(&mut self, session: SessionId, sequence: u64, index: Index) -> Verdict {
        if let Some(at) = self.closed.get(&(session, sequence)) {
            return Err(format!("S7: {sequence} of {session} was closed at {at} and executed at {index}"));
        }
        match self.sessions.get(&(session, sequence)) {
            Some((_, first)) => {
                Err(format!("S7: {sequence} of {session} was executed at {} and again at {index}", first.index))
            }
            None => Ok(()),
        }
    }

    /// The answer to a logged request comes from the entry that holds it, and from no other session's.
    pub fn s7_own_operation(&self, writes: bool, index: Index, operation: &[u8]) -> Verdict {
        let own = |entry: &Entry<'_>| matches!(&entry.payload, Payload::Operation { operation: there, .. } if *there == operation);
        if !writes || index == 0 || self.look(index, own).unwrap_or(true) {
            return Ok(());
        }
        Err(format!(
            "S7: {:?} is answered by the entry at {index}, which is another",
            String::from_utf8_lossy(operation)
        ))
    }

    /// Every reply to a logged request is the same, from any replica. A read runs again when it is asked again: what an
    /// entry of a later primary carries of it says nothing of what an earlier one, not deposed yet, had answered.
    pub fn s7_same_reply(&self, session: SessionId, sequence: u64, at: Position, held: &Held, own: bool) -> Verdict {
        match self.sessions.get(&(session, sequence)) {
            // A read that runs again on another primary is another read; the first one may still be released, too.
            Some((_, first)) if !own && *first != at => Ok(()),
            Some((reply, first)) if *reply != held.reply => Err(format!(
                "S7: {sequence} of {session} replied {:?} at {}, and now {:?}",
                String::from_utf8_lossy(reply),
                first.index,
                String::from_utf8_lossy(&held.reply)
            )),
            Some((_, first)) if own && first.index != held.hold.index => {
                Err(format!("S7: {sequence} of {session} stands at {}, told at {}", first.index, held.hold.index))
            }
            Some(_) => Ok(()),
            None if own => Err(format!("S7: {sequence} of {session} is answered at {} and not there", at.index)),
            None if held.writes => {
                Err(format!("S7: {sequence} of {session} is answered, and nothing released executed it"))
            }
            // A read that no entry carried.
            None => Ok(()),
        }
    }
}
