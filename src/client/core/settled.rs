//! What became of the requests whose callers were told that the outcome is unknown, for when they ask.
//!
//! Bounded: the oldest are forgotten first, the largest replies are not kept at all.

use std::collections::{BTreeMap, VecDeque};

use crate::client::api::RequestRef;
use crate::protocol::client::{Outcome, SessionId, WINDOW_BYTES, WINDOW_REQUESTS};

/// How many ended sessions are remembered.
const SESSIONS: usize = 64;

#[derive(Debug, Clone, Default)]
pub(super) struct Settled {
    outcomes: BTreeMap<RequestRef, Outcome>,
    order: VecDeque<RequestRef>,
    bytes: usize,
    ended: VecDeque<SessionId>,
}

fn size(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Executed { reply: Some(reply) } => reply.len(),
        _ => 0,
    }
}

impl Settled {
    /// What became of `request`, if it is settled and not forgotten.
    pub(super) fn get(&self, request: RequestRef) -> Option<Outcome> {
        match self.outcomes.get(&request) {
            Some(outcome) => Some(outcome.clone()),
            None => self.ended.contains(&request.session).then_some(Outcome::Expired),
        }
    }

    pub(super) fn insert(&mut self, request: RequestRef, outcome: Outcome) {
        let outcome = if size(&outcome) > WINDOW_BYTES / 8 { Outcome::Executed { reply: None } } else { outcome };
        self.bytes += size(&outcome);
        match self.outcomes.insert(request, outcome) {
            Some(was) => self.bytes -= size(&was),
            None => self.order.push_back(request),
        }
        while self.order.len() > WINDOW_REQUESTS || self.bytes > WINDOW_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.outcomes.remove(&oldest).as_ref().map_or(0, size);
        }
    }

    /// True when this session has ended here.
    pub(super) fn ended(&self, session: SessionId) -> bool {
        self.ended.contains(&session)
    }

    /// From now on every request of `session` that is not known better is [`Outcome::Expired`].
    pub(super) fn end(&mut self, session: SessionId) {
        self.ended.push_back(session);
        if self.ended.len() > SESSIONS {
            self.ended.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cutover_arbiter::record::Epoch;

    use super::*;

    fn request(sequence: u64) -> RequestRef {
        RequestRef { session: SessionId { epoch: Epoch(1), index: 2 }, sequence }
    }

    #[test]
    fn more_outcomes_than_the_bound_forget_the_oldest() {
        let mut settled = Settled::default();
        for sequence in 1..=WINDOW_REQUESTS as u64 + 1 {
            settled.insert(request(sequence), Outcome::NotExecuted);
        }
        assert_eq!(settled.get(request(1)), None);
        assert_eq!(settled.get(request(2)), Some(Outcome::NotExecuted));
    }

    #[test]
    fn large_replies_do_not_grow_memory_without_bound() {
        let mut settled = Settled::default();
        let reply = Some(Bytes::from(vec![0; WINDOW_BYTES / 8]));
        for sequence in 1..=20 {
            settled.insert(request(sequence), Outcome::Executed { reply: reply.clone() });
        }
        assert!(settled.bytes <= WINDOW_BYTES);
        settled.insert(request(99), Outcome::Executed { reply: Some(Bytes::from(vec![0; WINDOW_BYTES])) });
        assert_eq!(settled.get(request(99)), Some(Outcome::Executed { reply: None }));
    }

    #[test]
    fn of_an_ended_session_everything_is_expired_that_is_not_known_better() {
        let mut settled = Settled::default();
        settled.insert(request(1), Outcome::NotExecuted);
        settled.end(request(1).session);
        assert_eq!(settled.get(request(1)), Some(Outcome::NotExecuted));
        assert_eq!(settled.get(request(2)), Some(Outcome::Expired));
    }
}
