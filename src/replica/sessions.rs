//! The session table: part of the replicated state, the same on every replica.
//!
//! A session keeps the first reply of every logged request until its client says that it has arrived, so that a retry
//! gets the same answer on any primary. Expiry goes by the entries' time only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cutover_arbiter::planted;
use cutover_arbiter::record::Position;
use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
    /// A lower bound of the deadline, under which it stands in [`Sessions::deadlines`].
    bound: Timestamp,
    lowest_unanswered: Sequence,
    kept: BTreeMap<Sequence, Kept>,
    /// Follows from what is kept.
    #[serde(skip)]
    kept_bytes: usize,
}

impl Session {
    /// With the last renewal of all.
    fn deadline(&self, renewed: Timestamp) -> Timestamp {
        self.active.max(renewed).saturating_add(self.timeout)
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

/// Parts of the table; each is copied when one of its sessions changes while a copy of the table is held.
const PARTS: u32 = 1024;

type TablePart = BTreeMap<SessionId, Arc<Session>>;

/// All sessions. A copy is cheap however many there are, and shares with the table what has not changed since: a
/// snapshot's is read elsewhere while the table goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Table(BTreeMap<u32, Arc<TablePart>>);

impl Table {
    /// Where a session stands: near each other in the log is far from each other here.
    fn part(id: SessionId) -> u32 {
        (id.index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32 % PARTS
    }

    fn get(&self, id: &SessionId) -> Option<&Session> {
        self.0.get(&Self::part(*id))?.get(id).map(Arc::as_ref)
    }

    fn get_mut(&mut self, id: &SessionId) -> Option<&mut Session> {
        let part = self.0.get_mut(&Self::part(*id)).filter(|part| part.contains_key(id))?;
        Arc::make_mut(part).get_mut(id).map(Arc::make_mut)
    }

    fn insert(&mut self, id: SessionId, session: Session) {
        Arc::make_mut(self.0.entry(Self::part(id)).or_default()).insert(id, Arc::new(session));
    }

    fn remove(&mut self, id: &SessionId) -> Option<Arc<Session>> {
        let part = self.0.get_mut(&Self::part(*id))?;
        let removed = Arc::make_mut(part).remove(id);
        if part.is_empty() {
            self.0.remove(&Self::part(*id));
        }
        removed
    }

    fn iter(&self) -> impl Iterator<Item = (&SessionId, &Session)> {
        self.0.values().flat_map(|part| part.iter().map(|(id, session)| (id, session.as_ref())))
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Not every format can do without the length.
        let length = self.0.values().map(|part| part.len()).sum();
        let mut list = serializer.serialize_seq(Some(length))?;
        self.iter().try_for_each(|each| list.serialize_element(&each))?;
        list.end()
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = Self::default();
        for (id, mut session) in Vec::<(SessionId, Session)>::deserialize(deserializer)? {
            session.kept_bytes = session.kept.values().map(Kept::bytes).sum();
            table.insert(id, session);
        }
        Ok(table)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Sessions {
    table: Table,
    open: usize,
    /// When all of them were renewed last.
    renewed: Timestamp,
    /// A lower bound of each session's deadline, so that a sign of life costs nothing here.
    deadlines: BTreeSet<(Timestamp, SessionId)>,
    /// Bytes that all of them keep together.
    kept_bytes: usize,
}

impl From<(Table, Timestamp)> for Sessions {
    fn from((table, renewed): (Table, Timestamp)) -> Self {
        let deadlines: BTreeSet<_> = table.iter().map(|(id, session)| (session.bound, *id)).collect();
        let kept_bytes = table.iter().map(|(_, session)| session.kept_bytes).sum();
        Self { open: deadlines.len(), table, renewed, deadlines, kept_bytes }
    }
}

impl Sessions {
    /// What a snapshot carries, with when all were renewed last: the rest follows from it.
    pub(super) fn table(&self) -> (Table, Timestamp) {
        (self.table.clone(), self.renewed)
    }

    pub(super) fn len(&self) -> usize {
        self.open
    }

    pub(super) fn contains(&self, id: SessionId) -> bool {
        self.table.get(&id).is_some()
    }

    pub(super) fn open(&mut self, id: SessionId, timeout: Timestamp, time: Timestamp) {
        let bound = time.saturating_add(timeout);
        let kept = BTreeMap::new();
        let session = Session { timeout, active: time, bound, lowest_unanswered: 1, kept, kept_bytes: 0 };
        self.deadlines.insert((bound, id));
        self.table.insert(id, session);
        self.open += 1;
    }

    pub(super) fn touch(&mut self, id: SessionId, time: Timestamp) {
        if let Some(session) = self.table.get_mut(&id) {
            session.active = session.active.max(time);
        }
    }

    pub(super) fn touch_all(&mut self, time: Timestamp) {
        self.renewed = self.renewed.max(time);
    }

    /// Bytes that all of them keep, roughly.
    pub(super) fn bytes(&self) -> u64 {
        self.kept_bytes as u64
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

    /// True when closing a sequence would keep more than a window of requests: no client of the library asks for that.
    /// What the question itself says to have arrived makes room for it.
    pub(super) fn is_beyond_window(&self, mark: SessionMark) -> bool {
        self.table.get(&mark.session).is_some_and(|session| {
            let lowest = session.lowest_unanswered.max(mark.lowest_unanswered);
            let full = session.kept.len() >= WINDOW_REQUESTS && session.kept.range(lowest..).count() >= WINDOW_REQUESTS;
            full || mark.sequence >= lowest.saturating_add(WINDOW_REQUESTS as u64)
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
            match self.table.get(&id).map(|session| session.deadline(self.renewed)) {
                Some(deadline) if deadline > time => {
                    self.deadlines.insert((deadline, id));
                    if let Some(session) = self.table.get_mut(&id) {
                        session.bound = deadline;
                    }
                }
                Some(_) => {
                    self.kept_bytes -= self.table.remove(&id).map_or(0, |session| session.kept_bytes);
                    self.open -= 1;
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

    fn full(count: u64, replies: u64) -> Sessions {
        let mut sessions = Sessions::default();
        for index in 1..=count {
            let id = SessionId { index: index * 3, ..ID };
            sessions.open(id, 1000, index);
            (1..=replies).for_each(|sequence| sessions.store(id, sequence, b"+OK\r\n", at(index)));
        }
        sessions
    }

    #[test]
    fn a_copy_for_a_snapshot_shares_what_has_not_changed_and_stays_what_it_was() {
        let mut sessions = full(5000, 2);
        let (copy, before) = (sessions.table(), sessions.clone());
        let id = SessionId { index: 300, ..ID };
        sessions.store(id, 3, b"new", at(9000));
        sessions.touch(SessionId { index: 303, ..ID }, 777);
        let shared = copy.0.0.iter().filter(|(key, part)| Arc::ptr_eq(part, &sessions.table.0[key])).count();
        assert_eq!(shared, copy.0.0.len() - 2, "only what the two stand in was copied");
        assert_eq!(Sessions::from(copy), before);
        sessions.touch_all(5000);
        sessions.expire(6000, 100);
        let bytes = postcard::to_allocvec(&sessions.table()).unwrap();
        assert_eq!(Sessions::from(postcard::from_bytes::<(Table, Timestamp)>(&bytes).unwrap()), sessions);
    }

    #[test]
    #[ignore = "a measurement: what a full table costs the loop when a snapshot is taken"]
    #[allow(clippy::print_stdout, reason = "a measurement is printed")]
    fn measured() {
        let mut sessions = full(100_000, 4);
        let timed = |what: &str, work: &mut dyn FnMut()| {
            let began = std::time::Instant::now();
            work();
            println!("{what}: {:?}", began.elapsed());
        };
        let mut copy = None;
        timed("a copy that shares", &mut || copy = Some(sessions.table()));
        timed("a whole copy", &mut || drop(Sessions::from(sessions.table()).deadlines.clone()));
        timed("encoding it", &mut || drop(postcard::to_allocvec(&copy).unwrap()));
        timed("the first change of a session after a copy", &mut || {
            sessions.store(SessionId { index: 300, ..ID }, 9, b"x", at(1));
        });
        timed("renewing every session after a copy", &mut || sessions.touch_all(5000));
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
