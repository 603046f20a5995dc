//! The session table: part of the replicated state, the same on every replica.
//!
//! A session keeps the first reply of every logged request until its client says that it has arrived, so that a retry
//! gets the same answer on any primary. Expiry goes by the entries' time only.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cutover_arbiter::planted;
use cutover_arbiter::record::Position;
use serde::{Deserialize, Serialize};

use crate::machine::Timestamp;
use crate::protocol::client::{LONGEST_REPLY, Outcome, Sequence, SessionId, WINDOW_BYTES, WINDOW_REQUESTS};
use crate::protocol::entry::SessionMark;

/// What remembering one sequence takes beside its reply, in bytes, roughly.
const KEPT_OVERHEAD: usize = 96;

/// What a session knows of one sequence.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Kept {
    /// Executed; the reply, and where its entry stands, for the receipt.
    Reply { reply: Bytes, at: Position },
    /// Closed by an outcome query before it came; it never will be executed.
    Cancelled,
    /// Executed; the reply is over [`LONGEST_REPLY`], and no client can be sent it, or that of a read which is not kept.
    Gone,
}

impl Kept {
    fn bytes(&self) -> usize {
        match self {
            Kept::Reply { reply, .. } => KEPT_OVERHEAD + reply.len(),
            Kept::Cancelled | Kept::Gone => KEPT_OVERHEAD,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Session {
    timeout: Timestamp,
    active: Timestamp,
    lowest_unanswered: Sequence,
    kept: BTreeMap<Sequence, Kept>,
    kept_bytes: usize,
}

impl Session {
    fn deadline(&self) -> Timestamp {
        self.active.saturating_add(self.timeout)
    }

    /// Returns how many bytes more are kept.
    fn keep(&mut self, sequence: Sequence, kept: Kept) -> usize {
        if sequence < self.lowest_unanswered || self.kept.contains_key(&sequence) {
            return 0;
        }
        if planted!("P18") && self.kept.len() > 1 {
            self.kept.pop_first();
        }
        let bytes = kept.bytes();
        self.kept_bytes += bytes;
        self.kept.insert(sequence, kept);
        bytes
    }

    /// Returns how many bytes fewer are kept.
    fn acknowledge(&mut self, below: Sequence) -> usize {
        if below <= self.lowest_unanswered {
            return 0;
        }
        self.lowest_unanswered = below;
        let before = self.kept_bytes;
        while let Some(first) = self.kept.first_entry().filter(|first| *first.key() < below) {
            self.kept_bytes -= first.remove().bytes();
        }
        before - self.kept_bytes
    }
}

/// How a request stands to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Never seen: may be executed.
    New,
    /// Executed before: this is its reply, of the entry at this position.
    Known(Bytes, Position),
    /// Closed by an outcome query.
    Cancelled,
    /// Its reply was acknowledged, or could not be kept, and is gone.
    Acknowledged,
    /// No such session.
    NoSession,
    /// The session keeps as much as it may.
    WindowFull,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Sessions {
    table: BTreeMap<SessionId, Session>,
    /// A lower bound of each session's deadline, so that a sign of life costs nothing here.
    deadlines: BTreeSet<(Timestamp, SessionId)>,
    /// Bytes that all of them keep together.
    kept_bytes: usize,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn contains(&self, id: SessionId) -> bool {
        self.table.contains_key(&id)
    }

    pub(super) fn open(&mut self, id: SessionId, timeout: Timestamp, time: Timestamp) {
        let session = Session { timeout, active: time, lowest_unanswered: 1, kept: BTreeMap::new(), kept_bytes: 0 };
        self.deadlines.insert((session.deadline(), id));
        self.table.insert(id, session);
    }

    pub(super) fn touch(&mut self, id: SessionId, time: Timestamp) {
        if let Some(session) = self.table.get_mut(&id) {
            session.active = session.active.max(time);
        }
    }

    pub(super) fn touch_all(&mut self, time: Timestamp) {
        for session in self.table.values_mut() {
            session.active = session.active.max(time);
        }
    }

    /// `most` is how many bytes all sessions may keep together: beyond it each keeps one reply at a time. It decides
    /// what the primary takes, and nothing that is replicated.
    pub(super) fn standing(&self, mark: SessionMark, most: usize) -> Standing {
        let SessionMark { session: id, sequence, lowest_unanswered } = mark;
        let Some(session) = self.table.get(&id) else { return Standing::NoSession };
        match session.kept.get(&sequence) {
            Some(Kept::Reply { reply, at }) => return Standing::Known(reply.clone(), *at),
            Some(Kept::Cancelled) => return Standing::Cancelled,
            Some(Kept::Gone) => return Standing::Acknowledged,
            None => {}
        }
        if sequence < session.lowest_unanswered {
            return Standing::Acknowledged;
        }
        let scarce = self.kept_bytes >= most;
        if session.kept.len() < WINDOW_REQUESTS && session.kept_bytes < WINDOW_BYTES && !scarce {
            return Standing::New;
        }
        // What the request itself acknowledges makes room for it.
        let kept = session.kept.range(lowest_unanswered..).count();
        let full = kept >= WINDOW_REQUESTS || ((session.kept_bytes >= WINDOW_BYTES || scarce) && kept > 0);
        if full { Standing::WindowFull } else { Standing::New }
    }

    pub(super) fn store(&mut self, id: SessionId, sequence: Sequence, reply: &[u8], at: Position) {
        if let Some(session) = self.table.get_mut(&id) {
            let kept = match reply.len() {
                0..=LONGEST_REPLY => Kept::Reply { reply: Bytes::copy_from_slice(reply), at },
                _ => Kept::Gone,
            };
            self.kept_bytes += session.keep(sequence, kept);
        }
    }

    /// A read was executed, and its reply is not kept.
    pub(super) fn store_gone(&mut self, id: SessionId, sequence: Sequence) {
        if let Some(session) = self.table.get_mut(&id) {
            self.kept_bytes += session.keep(sequence, Kept::Gone);
        }
    }

    pub(super) fn acknowledge(&mut self, id: SessionId, below: Sequence) {
        if let Some(session) = self.table.get_mut(&id) {
            self.kept_bytes -= session.acknowledge(below);
        }
    }

    /// What became of a sequence, or `None` while it is undecided.
    pub(super) fn outcome(&self, id: SessionId, sequence: Sequence) -> Option<Outcome> {
        let Some(session) = self.table.get(&id) else { return Some(Outcome::Expired) };
        match session.kept.get(&sequence) {
            Some(Kept::Reply { reply, .. }) => Some(Outcome::Executed { reply: Some(reply.clone()) }),
            Some(Kept::Cancelled) => Some(Outcome::NotExecuted),
            Some(Kept::Gone) => Some(Outcome::Executed { reply: None }),
            None if sequence < session.lowest_unanswered => Some(Outcome::Executed { reply: None }),
            None => None,
        }
    }

    /// True when closing `sequence` would keep more than a window of requests: no client of the library asks for that.
    pub(super) fn is_beyond_window(&self, id: SessionId, sequence: Sequence) -> bool {
        self.table.get(&id).is_some_and(|session| {
            let window = WINDOW_REQUESTS as u64;
            session.kept.len() >= WINDOW_REQUESTS || sequence >= session.lowest_unanswered.saturating_add(window)
        })
    }

    /// Closes an undecided sequence for ever.
    pub(super) fn close(&mut self, id: SessionId, sequence: Sequence) -> Outcome {
        if let Some(outcome) = self.outcome(id, sequence) {
            return outcome;
        }
        if let Some(session) = self.table.get_mut(&id).filter(|_| !planted!("H5")) {
            self.kept_bytes += session.keep(sequence, Kept::Cancelled);
        }
        Outcome::NotExecuted
    }

    /// The group clock at which [`Self::expire`] has something to look at.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Ends the sessions that gave no sign of life for their timeout; looks at no more than `budget`.
    pub(super) fn expire(&mut self, time: Timestamp, budget: usize) -> usize {
        let mut ended = 0;
        for _ in 0..budget {
            let Some((bound, id)) = self.deadlines.first().copied().filter(|(bound, _)| *bound <= time) else { break };
            self.deadlines.remove(&(bound, id));
            match self.table.get(&id).map(Session::deadline) {
                Some(deadline) if deadline > time => {
                    self.deadlines.insert((deadline, id));
                }
                Some(_) => {
                    self.kept_bytes -= self.table.remove(&id).map_or(0, |session| session.kept_bytes);
                    ended += 1;
                }
                None => {}
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_arbiter::record::Epoch;

    const ID: SessionId = SessionId { epoch: Epoch(1), index: 2 };

    fn at(index: u64) -> Position {
        Position { epoch: Epoch(1), index }
    }

    fn standing(sessions: &Sessions, sequence: Sequence, lowest_unanswered: Sequence) -> Standing {
        sessions.standing(SessionMark { session: ID, sequence, lowest_unanswered }, usize::MAX)
    }

    fn one() -> Sessions {
        let mut sessions = Sessions::default();
        sessions.open(ID, 100, 1000);
        sessions
    }

    #[test]
    fn a_retry_gets_the_first_reply_until_it_is_acknowledged() {
        let mut sessions = one();
        assert_eq!(standing(&sessions, 1, 1), Standing::New);
        sessions.store(ID, 1, b"first", at(7));
        sessions.store(ID, 1, b"second", at(8));
        assert_eq!(standing(&sessions, 1, 1), Standing::Known(Bytes::from_static(b"first"), at(7)));
        sessions.acknowledge(ID, 2);
        assert_eq!(standing(&sessions, 1, 2), Standing::Acknowledged);
        assert_eq!(sessions.outcome(ID, 1), Some(Outcome::Executed { reply: None }));
    }

    #[test]
    fn a_closed_sequence_is_never_executed() {
        let mut sessions = one();
        assert_eq!(sessions.outcome(ID, 3), None);
        assert_eq!(sessions.close(ID, 3), Outcome::NotExecuted);
        assert_eq!(standing(&sessions, 3, 1), Standing::Cancelled);
    }

    #[test]
    fn a_reply_that_no_client_can_be_sent_is_not_kept_and_never_asked_for_twice() {
        let mut sessions = one();
        sessions.store(ID, 1, &vec![0; LONGEST_REPLY + 1], at(7));
        assert_eq!(sessions.kept_bytes, KEPT_OVERHEAD, "no byte of it");
        assert_eq!(standing(&sessions, 1, 1), Standing::Acknowledged, "executed, and not again");
        assert_eq!(sessions.outcome(ID, 1), Some(Outcome::Executed { reply: None }));
        sessions.acknowledge(ID, 2);
        assert_eq!(sessions.outcome(ID, 1), Some(Outcome::Executed { reply: None }));
    }

    #[test]
    fn a_full_window_pushes_back_and_never_evicts() {
        let mut sessions = one();
        for sequence in 1..=WINDOW_REQUESTS as u64 {
            sessions.store(ID, sequence, b"", at(1));
        }
        assert_eq!(standing(&sessions, 5000, 1), Standing::WindowFull);
        assert_eq!(standing(&sessions, 5000, 2), Standing::New);
        assert!(matches!(standing(&sessions, 1, 1), Standing::Known(..)));
    }

    #[test]
    fn a_session_expires_by_captured_time_and_any_sign_of_life_renews_it() {
        let mut sessions = one();
        sessions.touch(ID, 1050);
        assert_eq!(sessions.expire(1100, 10), 0);
        assert_eq!(sessions.next_deadline(), Some(1150));
        assert_eq!(sessions.expire(1150, 10), 1);
        assert_eq!(standing(&sessions, 1, 1), Standing::NoSession);
        assert_eq!(sessions.outcome(ID, 1), Some(Outcome::Expired));
    }

    #[test]
    fn replies_kept_for_all_sessions_together_are_bounded() {
        let other = SessionId { index: 3, ..ID };
        let mut sessions = one();
        sessions.open(other, 100, 1000);
        sessions.store(other, 1, &[b'x'; 100], at(7));
        let standing = |sessions: &Sessions, sequence, lowest_unanswered| {
            sessions.standing(SessionMark { session: ID, sequence, lowest_unanswered }, 190)
        };
        // Others keep as much as there may be: one reply at a time.
        assert_eq!(standing(&sessions, 1, 1), Standing::New);
        sessions.store(ID, 1, b"first", at(8));
        assert_eq!(standing(&sessions, 2, 1), Standing::WindowFull);
        assert_eq!(standing(&sessions, 2, 2), Standing::New, "what the request acknowledges makes room");
        assert!(matches!(standing(&sessions, 1, 1), Standing::Known(..)));
        sessions.acknowledge(other, 2);
        assert_eq!(standing(&sessions, 2, 1), Standing::New);
        sessions.store(other, 2, &[b'x'; 100], at(9));
        assert_eq!((sessions.expire(1100, 10), sessions.len(), sessions.kept_bytes), (2, 0, 0));
    }
}
