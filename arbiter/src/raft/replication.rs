//! The leader: proposals, sending, counting, reads, and giving up without a quorum.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::config::MAX_ENTRY_BYTES;
use super::core::{SnapshotRequest, State};
use super::message::AppendOutcome;
use super::progress::{Pace, Probe, Progress};
use super::read_index::Reads;
use super::{Append, Config, Entry, LogIndex, Message, Nanos, NodeId, Output, Raft, Role, Snapshot, Term};
use crate::raft::log::Log;

/// What only a leader has.
#[derive(Clone, Debug, Hash)]
pub(super) struct Leader {
    pub(super) peers: BTreeMap<NodeId, Progress>,
    pub(super) reads: Reads,
    pub(super) heartbeat_due: Nanos,
    /// Bytes of the entries that are not committed yet.
    uncommitted: usize,
    /// The commit index that every follower was last told.
    told_commit: LogIndex,
}

impl Leader {
    /// Entries were committed.
    pub(super) fn committed(&mut self, entries: &[Entry]) {
        self.uncommitted = self.uncommitted.saturating_sub(entries.iter().map(Entry::cost).sum());
    }
}

impl Raft {
    /// Candidate to leader: begins the term with a no-op, by whose commitment everything before it commits (Raft 5.4.2,
    /// 8).
    pub(super) fn become_leader(&mut self) {
        assert_eq!(self.role(), Role::Candidate, "only an election makes a leader");
        let next = self.log.last().index + 1;
        let peers = self.members.others(self.config.id).map(|id| (id, Progress::unknown(next, self.now))).collect();
        self.state = State::Leader(Leader {
            peers,
            reads: Reads::default(),
            heartbeat_due: self.now.saturating_add(self.config.heartbeat),
            uncommitted: self.log.range(self.commit + 1, LogIndex::MAX - 1).map(Entry::cost).sum(),
            told_commit: self.commit,
        });
        self.tell_leadership();
        self.append_own(Bytes::new());
    }

    fn append_own(&mut self, data: Bytes) -> LogIndex {
        let entry = Entry { term: self.hard.term, index: self.log.last().index + 1, data };
        let index = entry.index;
        if let State::Leader(leader) = &mut self.state {
            leader.uncommitted += entry.cost();
        }
        self.log.push(entry);
        index
    }

    pub(super) fn propose(&mut self, ticket: u64, data: Bytes) {
        let room = match &self.state {
            State::Leader(leader) => {
                let fits = data.len() <= MAX_ENTRY_BYTES
                    && leader.uncommitted.saturating_add(data.len()) <= self.config.max_uncommitted_bytes;
                fits && !matches!(self.snapshot_request, SnapshotRequest::Refused(_))
            }
            _ => false,
        };
        if !room {
            let leader = self.leader();
            self.outbox.push(Output::Rejected { ticket, leader });
            return;
        }
        let index = self.append_own(data);
        self.outbox.push(Output::Proposed { ticket, index, term: self.hard.term });
    }

    pub(super) fn read(&mut self, ticket: u64) {
        let taken = match &mut self.state {
            State::Leader(leader) => leader.reads.add(ticket),
            _ => false,
        };
        if !taken {
            let leader = self.leader();
            self.outbox.push(Output::ReadRejected { ticket, leader });
        }
    }

    /// When the leader has been without a quorum for a whole election timeout (thesis 6.2).
    pub(super) fn quorum_check_due(&self, leader: &Leader) -> Nanos {
        self.members
            .quorum_value(|id| match leader.peers.get(&id) {
                Some(peer) => peer.contact,
                None => Nanos::MAX,
            })
            .saturating_add(self.config.election_timeout.1)
    }

    pub(super) fn leader_tick(&mut self) {
        let State::Leader(leader) = &self.state else { return };
        if self.now >= self.quorum_check_due(leader) && !planted!("R-l-check-quorum") {
            self.become_follower(self.hard.term, None);
            return;
        }
        if self.now >= leader.heartbeat_due {
            self.heartbeat();
        }
    }

    /// Tells everyone that this arbiter leads, and asks again whatever an answer is missing to.
    fn heartbeat(&mut self) {
        let State::Leader(leader) = &mut self.state else { return };
        leader.heartbeat_due = self.now.saturating_add(self.config.heartbeat);
        self.ship(|shipping, peer| shipping.heartbeat(peer));
    }

    /// Runs `send` for every follower, and sends what it returns.
    fn ship(&mut self, send: impl Fn(&Shipping<'_>, &mut Progress) -> Vec<Message>) {
        let State::Leader(leader) = &mut self.state else { return };
        let shipping = Shipping {
            log: &self.log,
            snapshot: self.snapshot.as_ref(),
            config: &self.config,
            term: self.hard.term,
            commit: self.commit,
            round: leader.reads.round(),
            now: self.now,
        };
        let messages: Vec<(NodeId, Message)> = leader
            .peers
            .iter_mut()
            .flat_map(|(&id, peer)| send(&shipping, peer).into_iter().map(move |message| (id, message)))
            .collect();
        for (to, message) in messages {
            self.send(to, message);
        }
    }

    /// Sends what followers lack, and a new commit index at once: followers answer watches, too.
    pub(super) fn replicate(&mut self) {
        let State::Leader(leader) = &mut self.state else { return };
        let news = leader.told_commit < self.commit;
        leader.told_commit = self.commit;
        self.ship(|shipping, peer| {
            let mut messages = shipping.entries(peer);
            if messages.is_empty() && news && matches!(peer.pace, Pace::Replicate(_)) {
                messages.extend(shipping.append(peer.next, Vec::new()));
            }
            messages
        });
    }

    pub(super) fn on_append_reply(&mut self, from: NodeId, outcome: AppendOutcome, round: u64) {
        match outcome {
            AppendOutcome::Accepted { matched } => self.on_accepted(from, matched, round),
            AppendOutcome::Conflict { rejected, hint_index, hint_term } => {
                let State::Leader(leader) = &mut self.state else { return };
                let Some(peer) = leader.peers.get_mut(&from) else { return };
                if round > leader.reads.round() {
                    return;
                }
                peer.heard(self.now, round);
                if peer.conflict_is_current(rejected) {
                    peer.conflict(rejected, self.log.last_not_above(hint_index, hint_term).index);
                }
            }
            // Of this very term nobody says so.
            AppendOutcome::Stale => {}
        }
    }

    pub(super) fn on_accepted(&mut self, from: NodeId, matched: LogIndex, round: u64) {
        let State::Leader(leader) = &mut self.state else { return };
        // More than the leader has, or a round it never began, cannot have been verified against it.
        if matched > self.log.last().index || round > leader.reads.round() {
            return;
        }
        if let Some(peer) = leader.peers.get_mut(&from) {
            peer.heard(self.now, round);
            peer.accepted(matched, self.log.first_index());
        }
    }

    /// Raft 5.3 and 5.4.2: what a quorum holds durably is committed, if it is of this term.
    pub(super) fn advance_commit(&mut self) {
        let State::Leader(leader) = &self.state else { return };
        let own = if planted!("R-j") { self.log.last().index } else { self.log.stable() };
        let reached = self.members.quorum_value(|id| leader.peers.get(&id).map_or(own, |peer| peer.matched));
        if reached > self.commit && (self.log.term_at(reached) == Some(self.hard.term) || planted!("R-e")) {
            self.commit = reached;
        }
    }

    /// Begins a round when reads wait and answers those whose round a quorum confirmed, after everything they must see
    /// was given out to be applied.
    pub(super) fn serve_reads(&mut self) {
        let own_term = self.log.term_at(self.commit) == Some(self.hard.term);
        loop {
            let State::Leader(leader) = &mut self.state else { return };
            let confirmed = self.members.quorum_value(|id| leader.peers.get(&id).map_or(u64::MAX, |peer| peer.round));
            if let Some((index, tickets)) = leader.reads.confirmed(confirmed) {
                let ready = tickets.into_iter().map(|ticket| Output::ReadReady { ticket, index });
                ready.for_each(|output| self.outbox.push(output));
            }
            // Before a commit of its own term a leader does not know what is committed (thesis 6.4).
            let State::Leader(leader) = &mut self.state else { return };
            if !(own_term || planted!("R-h")) || !leader.reads.begin(self.commit) {
                return;
            }
            if !leader.peers.is_empty() {
                self.heartbeat();
                return;
            }
        }
    }
}

/// What a leader needs to write a message to a follower.
struct Shipping<'a> {
    log: &'a Log,
    snapshot: Option<&'a Snapshot>,
    config: &'a Config,
    term: Term,
    commit: LogIndex,
    round: u64,
    now: Nanos,
}

impl Shipping<'_> {
    /// An append of `entries` that begin at `next`; `None` when the entry before is compacted away.
    fn append(&self, next: LogIndex, entries: Vec<Entry>) -> Option<Message> {
        let prev_index = next - 1;
        let prev_term = self.log.term_at(prev_index)?;
        let (term, commit, round) = (self.term, self.commit, self.round);
        Some(Message::Append(Append { term, prev_index, prev_term, entries, commit, round }))
    }

    /// Everything that may go to the follower now.
    fn entries(&self, peer: &mut Progress) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(entries) = self.next_entries(peer) {
            let last = entries.last().map(|entry| entry.index);
            let bytes = entries.iter().map(Entry::cost).sum();
            match self.append(peer.next, entries) {
                Some(message) => {
                    peer.sent(last, bytes);
                    messages.push(message);
                }
                None => messages.extend(self.install(peer)),
            }
        }
        messages
    }

    /// The next entries, if the follower's pace allows any; none of them in a probe at the end of the log.
    fn next_entries(&self, peer: &Progress) -> Option<Vec<Entry>> {
        let window = 4 * self.config.max_append_bytes;
        match &peer.pace {
            Pace::Probe(Probe::Ready) => Some(self.log.slice(peer.next, self.config.max_append_bytes)),
            Pace::Replicate(out) if peer.next <= self.log.last().index && out.is_open(window) => {
                Some(self.log.slice(peer.next, self.config.max_append_bytes))
            }
            _ => None,
        }
    }

    fn install(&self, peer: &mut Progress) -> Option<Message> {
        let snapshot = self.snapshot.expect("a log is compacted only behind a snapshot").clone();
        peer.snapshot_sent(snapshot.meta.index, self.now.saturating_add(self.config.election_timeout.1));
        Some(Message::InstallSnapshot { term: self.term, snapshot, round: self.round })
    }

    /// An empty append. Where the follower's log is being asked for it doubles as the probe or finds a lost append;
    /// while a snapshot travels it stands on index 0, where all logs meet, and asks nothing.
    fn heartbeat(&self, peer: &mut Progress) -> Vec<Message> {
        if let Pace::Snapshot { resend_at, .. } = peer.pace
            && self.now >= resend_at
        {
            return self.install(peer).into_iter().collect();
        }
        let anchor =
            Append { term: self.term, prev_index: 0, prev_term: 0, entries: Vec::new(), commit: 0, round: self.round };
        match peer.pace {
            Pace::Snapshot { .. } => vec![Message::Append(anchor)],
            Pace::Probe(_) | Pace::Replicate(_) => match self.append(peer.next, Vec::new()) {
                Some(message) => {
                    peer.sent(None, 0);
                    vec![message]
                }
                None => self.install(peer).into_iter().collect(),
            },
        }
    }
}
