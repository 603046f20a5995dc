//! Reads of sessions, from their execution until their clients say that the reply has arrived.
//!
//! What must hold: within a session operations take effect in the order of their sequences, across a cut-over too. A
//! write is executed once and found in the session table when it is asked again; a read runs again, and would then see
//! what came behind it. So the next entry of the session carries the reads before it into the table. That a reply was
//! released says nothing: it may have been lost on the way.
//!
//! The replies kept are bounded. Where there is no room for one that was released, only the fact is kept: asked again
//! behind a later write of its session, such a read is refused as executed, and never run in the wrong place.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::protocol::client::{Sequence, SessionId};
use crate::protocol::entry::CARRIED_HEAD;

use super::{Hold, Release};

#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Reads {
    sessions: BTreeMap<SessionId, OfSession>,
    /// Bytes that all of them keep together.
    bytes: usize,
}

#[derive(Debug, Clone, Default, Hash)]
struct OfSession {
    reads: BTreeMap<Sequence, KeptRead>,
    bytes: usize,
}

#[derive(Debug, Clone, Hash)]
struct KeptRead {
    hold: Hold,
    /// `None` when it is not kept.
    reply: Option<Bytes>,
}

impl KeptRead {
    fn bytes(&self) -> usize {
        CARRIED_HEAD + self.reply.as_ref().map_or(0, Bytes::len)
    }
}

impl Reads {
    /// A read was executed. Of one that is asked twice the first reply counts.
    pub(super) fn keep(&mut self, session: SessionId, sequence: Sequence, hold: Hold, reply: Option<Bytes>) {
        let kept = KeptRead { hold, reply };
        let bytes = kept.bytes();
        let of = self.sessions.entry(session).or_default();
        if let std::collections::btree_map::Entry::Vacant(free) = of.reads.entry(sequence) {
            free.insert(kept);
            of.bytes += bytes;
            self.bytes += bytes;
        }
    }

    /// Another thread has answered a read that is kept without its reply.
    pub(super) fn fill(&mut self, session: SessionId, sequence: Sequence, reply: Bytes) {
        let Some(of) = self.sessions.get_mut(&session) else { return };
        let Some(read) = of.reads.get_mut(&sequence).filter(|read| read.reply.is_none()) else { return };
        of.bytes += reply.len();
        self.bytes += reply.len();
        read.reply = Some(reply);
    }

    /// The client has the replies below this.
    pub(super) fn acknowledge(&mut self, session: SessionId, below: Sequence) {
        let Some(of) = self.sessions.get_mut(&session) else { return };
        while let Some(first) = of.reads.first_entry().filter(|first| *first.key() < below) {
            let bytes = first.remove().bytes();
            of.bytes -= bytes;
            self.bytes -= bytes;
        }
        if of.reads.is_empty() {
            self.sessions.remove(&session);
        }
    }

    /// All that is kept of a session, for the entry that carries it on, or because it will be asked again in order.
    pub(super) fn take(&mut self, session: SessionId) -> Vec<(Sequence, Option<Bytes>)> {
        let Some(of) = self.sessions.remove(&session) else { return Vec::new() };
        self.bytes -= of.bytes;
        of.reads.into_iter().map(|(sequence, read)| (sequence, read.reply)).collect()
    }

    /// Whether a session has executed this read, and its reply where that is kept.
    pub(super) fn get(&self, session: SessionId, sequence: Sequence) -> Option<Option<Bytes>> {
        let read = self.sessions.get(&session)?.reads.get(&sequence)?;
        Some(read.reply.clone())
    }

    pub(super) fn len_of(&self, session: SessionId) -> usize {
        self.sessions.get(&session).map_or(0, |of| of.reads.len())
    }

    pub(super) fn bytes_of(&self, session: SessionId) -> usize {
        self.sessions.get(&session).map_or(0, |of| of.bytes)
    }

    /// Bytes that all sessions keep together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets go of replies that were released, oldest first, until the session keeps no more than `most` bytes.
    pub(super) fn let_go(&mut self, session: SessionId, release: &Release, most: usize) {
        let Some(of) = self.sessions.get_mut(&session) else { return };
        for read in of.reads.values_mut().filter(|read| release.covers(read.hold)) {
            if of.bytes <= most {
                return;
            }
            let gone = read.reply.take().map_or(0, |reply| reply.len());
            of.bytes -= gone;
            self.bytes -= gone;
        }
    }

    /// Forgets what was released, whether it has arrived or not: a bug to be found.
    pub(super) fn forget_released(&mut self, release: &Release) {
        for of in self.sessions.values_mut() {
            of.reads.retain(|_, read| !release.covers(read.hold));
            let bytes = of.reads.values().map(KeptRead::bytes).sum();
            self.bytes -= of.bytes - bytes;
            of.bytes = bytes;
        }
    }

    /// Forgets the sessions that are gone, when there are many or what is kept is much of what may be.
    pub(super) fn retain(&mut self, alive: impl Fn(SessionId) -> bool, about: usize, most: usize) {
        if self.sessions.len() > 2 * about + 64 || self.bytes > most / 2 {
            self.sessions.retain(|session, _| alive(*session));
            self.bytes = self.sessions.values().map(|of| of.bytes).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_arbiter::record::Epoch;

    const ID: SessionId = SessionId { epoch: Epoch(1), index: 2 };

    fn reply(length: usize) -> Option<Bytes> {
        Some(Bytes::from(vec![b'x'; length]))
    }

    fn hold(index: u64) -> Hold {
        Hold { index, round: 0 }
    }

    #[test]
    fn a_read_is_kept_until_its_client_has_it_and_carried_once() {
        let mut reads = Reads::default();
        for sequence in 1..=3 {
            reads.keep(ID, sequence, hold(sequence), reply(1));
        }
        reads.acknowledge(ID, 2);
        assert_eq!((reads.get(ID, 1), reads.get(ID, 2)), (None, Some(reply(1))));
        assert_eq!(reads.take(ID), vec![(2, reply(1)), (3, reply(1))]);
        assert_eq!((reads.take(ID), reads.bytes()), (vec![], 0));
    }

    #[test]
    fn of_a_read_that_is_asked_twice_the_first_reply_counts() {
        let mut reads = Reads::default();
        reads.keep(ID, 1, hold(1), reply(1));
        reads.keep(ID, 1, hold(9), reply(5));
        assert_eq!(reads.bytes(), CARRIED_HEAD + 1);
        assert_eq!(reads.take(ID), vec![(1, reply(1))]);
    }

    #[test]
    fn what_another_thread_answers_is_kept_like_any_other_reply() {
        let mut reads = Reads::default();
        reads.keep(ID, 1, hold(1), None);
        reads.fill(ID, 1, Bytes::from_static(b"first"));
        reads.fill(ID, 1, Bytes::from_static(b"late"));
        reads.fill(ID, 2, Bytes::from_static(b"never executed here"));
        assert_eq!((reads.bytes_of(ID), reads.bytes()), (CARRIED_HEAD + 5, CARRIED_HEAD + 5));
        assert_eq!(reads.take(ID), vec![(1, Some(Bytes::from_static(b"first")))]);
        assert_eq!(reads.bytes(), 0);
    }

    #[test]
    fn without_room_the_oldest_released_replies_go_and_their_sequences_stay() {
        let mut reads = Reads::default();
        for sequence in 1..=3 {
            reads.keep(ID, sequence, hold(sequence), reply(100));
        }
        let released = Release { commit: 2, open: true, ..Release::default() };
        reads.let_go(ID, &released, 3 * CARRIED_HEAD + 250);
        assert_eq!(reads.bytes_of(ID), 3 * CARRIED_HEAD + 200);
        reads.let_go(ID, &released, 0);
        assert_eq!((reads.bytes_of(ID), reads.bytes(), reads.len_of(ID)), (3 * CARRIED_HEAD + 100, 336 - 200, 3));
        assert_eq!(reads.take(ID), vec![(1, None), (2, None), (3, reply(100))]);
        reads.keep(ID, 4, hold(4), None);
        reads.retain(|_| false, 0, 1 << 20);
        assert_eq!(reads.len_of(ID), 1, "few enough to stay");
    }
}
