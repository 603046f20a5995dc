//! What leaves the core: everything that the disk must know first waits here.
//!
//! At most one batch is on its way to the disk; what happens meanwhile gathers into the next (group commit). A message
//! names what it promises, and leaves once that is durable. Raising the term drops what still waits: a promise made to
//! an older term is of no use to anyone, and losing a message is always allowed.

use std::collections::BTreeMap;
use std::mem::discriminant;

use super::log::Log;
use super::message::AppendOutcome;
use super::{HardState, LogIndex, Message, NodeId, Output, PersistBatch, Snapshot};

/// What must be durable before a message may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// Term and vote as they are now.
    HardState,
    /// Those, and the log up to here.
    Log(LogIndex),
}

/// The outputs of a step, and what waits for the disk.
#[derive(Clone, Debug, Hash)]
pub(super) struct Outbox {
    ready: Vec<Output>,
    held: BTreeMap<u64, Vec<(NodeId, Message)>>,
    /// Of the last batch given to the disk.
    sequence: u64,
    /// Whether that batch is still on its way.
    in_flight: bool,
    durable: HardState,
    handed: HardState,
    snapshot: Option<Snapshot>,
}

impl Outbox {
    pub(super) fn new(durable: HardState) -> Self {
        Self {
            ready: Vec::new(),
            held: BTreeMap::new(),
            sequence: 0,
            in_flight: false,
            durable,
            handed: durable,
            snapshot: None,
        }
    }

    /// An output that waits for nothing.
    pub(super) fn push(&mut self, output: Output) {
        self.ready.push(output);
    }

    /// Whether term and vote are durable.
    pub(super) fn is_durable(&self, hard_state: HardState) -> bool {
        self.durable == hard_state
    }

    /// Sends `message` as soon as what it promises is durable.
    pub(super) fn send(&mut self, to: NodeId, message: Message, promise: Promise, hard: HardState, log: &Log) {
        let for_term = self.wait(self.durable == hard || planted!("R-a"), self.handed == hard);
        let for_log = match promise {
            Promise::HardState => None,
            Promise::Log(index) => self.wait(index <= log.stable() || planted!("R-j-ack"), index <= log.handed()),
        };
        match for_term.max(for_log) {
            None => self.ready.push(Output::Send { to, message }),
            Some(sequence) => self.hold(sequence, to, message),
        }
    }

    /// The batch that makes something durable; `None` when it is.
    fn wait(&self, durable: bool, handed: bool) -> Option<u64> {
        match (durable, handed && self.in_flight) {
            (true, _) => None,
            (false, true) => Some(self.sequence),
            (false, false) => Some(self.sequence + 1),
        }
    }

    /// Only the newest message of a kind is kept for a peer, so a stream of heartbeats cannot grow what waits.
    fn hold(&mut self, sequence: u64, to: NodeId, message: Message) {
        let held = self.held.entry(sequence).or_default();
        let same = |(peer, old): &&mut (NodeId, Message)| *peer == to && discriminant(old) == discriminant(&message);
        match held.iter_mut().find(same) {
            Some((_, old)) => *old = newest(old, message),
            None => held.push((to, message)),
        }
    }

    /// Nothing that waits is of use in a new term.
    pub(super) fn term_rose(&mut self) {
        self.held.clear();
    }

    /// A snapshot to be stored with the next batch.
    pub(super) fn store_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// Everything up to `upto` is durable: lets go what waited for it. False when nothing new is.
    pub(super) fn persisted(&mut self, upto: u64, log: &mut Log) -> bool {
        if !self.in_flight || upto < self.sequence {
            return false;
        }
        self.in_flight = false;
        self.durable = self.handed;
        log.persisted();
        if let Some(messages) = self.held.remove(&self.sequence) {
            self.ready.extend(messages.into_iter().map(|(to, message)| Output::Send { to, message }));
        }
        true
    }

    /// Ends a step: gives the disk what it lacks, unless it is busy, and moves all outputs to `out`.
    pub(super) fn flush(&mut self, hard: HardState, log: &mut Log, snapshot_index: LogIndex, out: &mut Vec<Output>) {
        if !self.in_flight && (self.handed != hard || self.snapshot.is_some() || log.has_unhanded()) {
            self.sequence += 1;
            self.in_flight = true;
            let (truncate_from, entries) = log.take_unhanded(snapshot_index);
            self.ready.push(Output::Persist(PersistBatch {
                sequence: self.sequence,
                hard_state: (self.handed != hard && !(planted!("R-c") && hard.vote.is_none())).then_some(hard),
                truncate_from,
                entries,
                snapshot: self.snapshot.take(),
            }));
            self.handed = hard;
        }
        out.append(&mut self.ready);
    }
}

/// Both were said to the same leader in the same term, so the greater acceptance and round hold for both.
fn newest(old: &Message, new: Message) -> Message {
    use AppendOutcome::Accepted;
    match (old, new) {
        (
            Message::AppendReply { outcome: Accepted { matched: before }, round: earlier, .. },
            Message::AppendReply { term, outcome: Accepted { matched }, round },
        ) => Message::AppendReply {
            term,
            outcome: Accepted { matched: matched.max(*before) },
            round: round.max(*earlier),
        },
        (_, new) => new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::message::Ballot;
    use crate::raft::{Entry, SnapshotMeta};
    use bytes::Bytes;

    fn vote(term: u64) -> Message {
        Message::VoteReply { term, ballot: Ballot::Granted }
    }

    fn sent(out: &[Output]) -> usize {
        out.iter().filter(|output| matches!(output, Output::Send { .. })).count()
    }

    #[test]
    fn a_promise_made_during_a_write_waits_for_the_next_one() {
        let mut log = Log::restored(SnapshotMeta::default(), Vec::new());
        let mut outbox = Outbox::new(HardState::default());
        let mut out = Vec::new();
        log.push(Entry { term: 0, index: 1, data: Bytes::new() });
        outbox.flush(HardState::default(), &mut log, 0, &mut out);
        assert!(matches!(&out[..], [Output::Persist(batch)] if batch.sequence == 1));

        let hard = HardState { term: 1, vote: Some(2) };
        outbox.send(2, vote(1), Promise::HardState, hard, &log);
        out.clear();
        assert!(outbox.persisted(1, &mut log));
        outbox.flush(hard, &mut log, 0, &mut out);
        assert_eq!(sent(&out), 0, "the first write knew nothing of the vote");
        out.clear();
        assert!(outbox.persisted(2, &mut log));
        outbox.flush(hard, &mut log, 0, &mut out);
        assert_eq!(sent(&out), 1);
    }

    #[test]
    fn what_waits_for_a_peer_does_not_grow() {
        let log = Log::restored(SnapshotMeta::default(), Vec::new());
        let mut outbox = Outbox::new(HardState::default());
        let hard = HardState { term: 1, vote: None };
        for round in 0..1000 {
            let outcome = AppendOutcome::Accepted { matched: 0 };
            outbox.send(2, Message::AppendReply { term: 1, outcome, round }, Promise::HardState, hard, &log);
        }
        assert_eq!(outbox.held.values().map(Vec::len).sum::<usize>(), 1);
    }
}
