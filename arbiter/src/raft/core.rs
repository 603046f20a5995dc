//! The state of one arbiter's Raft and the one door into it, [`Raft::step`].
//!
//! Here: what every role shares, the rule of terms, and the end of a step. Elections stand in `election`, the leader in
//! `replication`, the follower in `follower`, snapshots in `snapshot`.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::log::Log;
use super::outbox::{Outbox, Promise};
use super::replication::Leader;
use super::{
    Config, Entry, HardState, Input, LogIndex, Members, Message, Nanos, NodeId, Output, Restored, Snapshot,
    SnapshotMeta, Term,
};

/// What an arbiter is at the moment, for status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether an election could be won, without disturbing anyone.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// What is legal only in one role.
#[derive(Clone, Debug, Hash)]
pub(super) enum State {
    Follower { leader: Option<Heard> },
    PreCandidate { votes: BTreeSet<NodeId> },
    Candidate { votes: BTreeSet<NodeId> },
    Leader(Leader),
}

/// The leader of this term and when it was last heard.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Heard {
    pub(super) id: NodeId,
    pub(super) at: Nanos,
}

/// One arbiter's Raft. See the module's documentation for the loop around it.
///
/// *In*: [`new`](Raft::new), [`step`](Raft::step). *Time*: [`next_deadline`](Raft::next_deadline).
/// *Status*: [`role`](Raft::role), [`leader`](Raft::leader), [`term`](Raft::term), [`commit`](Raft::commit),
/// [`applied`](Raft::applied), [`last_index`](Raft::last_index), [`snapshot_index`](Raft::snapshot_index).
#[derive(Clone, Debug)]
pub struct Raft {
    pub(super) config: Config,
    pub(super) members: Members,
    pub(super) now: Nanos,
    pub(super) hard: HardState,
    pub(super) log: Log,
    pub(super) commit: LogIndex,
    pub(super) applied: LogIndex,
    pub(super) state: State,
    pub(super) outbox: Outbox,
    pub(super) snapshot: Option<Snapshot>,
    pub(super) snapshot_request: SnapshotRequest,
    pub(super) election_due: Nanos,
    random: ChaCha8Rng,
    /// Whether the first step has given out what was restored.
    started: Started,
    told: (Option<NodeId>, Term),
}

/// Whether a snapshot is being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SnapshotRequest {
    /// Not wanted yet.
    None,
    /// The shell was asked.
    Asked,
    /// The last one was too large at this applied index: proposals are rejected.
    Refused(LogIndex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Started {
    No,
    Yes,
}

impl Raft {
    /// An arbiter at its start, a follower that knows of no leader. The first [`step`](Raft::step), due at once, gives
    /// out [`Output::Restore`] if there is a snapshot.
    ///
    /// # Panics
    /// When `config` is one that [`Config::validate`] refuses, or `restored` has a gap: the store never loads one.
    pub fn new(now: Nanos, config: Config, restored: Restored) -> Self {
        if let Err(error) = config.validate() {
            panic!("the caller validates the configuration first: {error}");
        }
        let base = restored.snapshot.as_ref().map_or(SnapshotMeta::default(), |snapshot| snapshot.meta);
        let log = Log::restored(base, restored.entries);
        let mut raft = Self {
            members: config.member_set(),
            now,
            hard: restored.hard_state,
            log,
            commit: base.index,
            applied: base.index,
            state: State::Follower { leader: None },
            outbox: Outbox::new(restored.hard_state),
            snapshot: restored.snapshot,
            snapshot_request: SnapshotRequest::None,
            election_due: now,
            random: ChaCha8Rng::seed_from_u64(config.seed ^ config.id.rotate_left(32)),
            started: Started::No,
            told: (None, restored.hard_state.term),
            config,
        };
        // Alone there is nobody whose leadership a hasty election could disturb.
        if raft.members.others(raft.config.id).next().is_some() {
            raft.restart_election_timer();
        }
        raft
    }

    /// Takes one input in at `now` and adds what is to be done to `out`, to be run in order.
    pub fn step(&mut self, now: Nanos, input: Input, out: &mut Vec<Output>) {
        self.now = self.now.max(now);
        if self.started == Started::No {
            self.started = Started::Yes;
            if let Some(snapshot) = self.snapshot.clone() {
                self.outbox.push(Output::Restore { snapshot });
            }
        }
        match input {
            Input::Tick => self.tick(),
            Input::Message { from, message } => self.receive(from, message),
            Input::Propose { ticket, data } => self.propose(ticket, data),
            Input::Read { ticket } => self.read(ticket),
            Input::Persisted { upto } => {
                if self.outbox.persisted(upto, &mut self.log) {
                    self.count_own_vote();
                }
            }
            Input::SnapshotTaken { index, data } => self.snapshot_taken(index, data),
        }
        self.settle(out);
    }

    /// When [`Input::Tick`] is next of use.
    pub fn next_deadline(&self) -> Nanos {
        match &self.state {
            _ if self.started == Started::No => self.now,
            State::Leader(leader) => leader.heartbeat_due.min(self.quorum_check_due(leader)),
            _ => self.election_due,
        }
    }

    /// Hashes all that decides what this arbiter does next, but its configuration and its generator, for searches over
    /// states.
    #[doc(hidden)]
    pub fn hash_state(&self, hasher: &mut impl Hasher) {
        let Self { hard, log, commit, applied, state, outbox, snapshot, snapshot_request, election_due, .. } = self;
        (hard, log, commit, applied, state, outbox, snapshot, snapshot_request, election_due).hash(hasher);
        self.told.hash(hasher);
    }

    /// Who leads, as far as this arbiter knows.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.state {
            State::Follower { leader } => leader.map(|heard| heard.id),
            State::Leader(_) => Some(self.config.id),
            State::PreCandidate { .. } | State::Candidate { .. } => None,
        }
    }

    /// What this arbiter is.
    pub fn role(&self) -> Role {
        match self.state {
            State::Follower { .. } => Role::Follower,
            State::PreCandidate { .. } => Role::PreCandidate,
            State::Candidate { .. } => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }

    /// Its term.
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Up to where the log is known to be committed.
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// Up to where entries were given out to be applied.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The end of its log, committed or not.
    pub fn last_index(&self) -> LogIndex {
        self.log.last().index
    }

    /// Up to where the newest snapshot stands; 0 without one.
    pub fn snapshot_index(&self) -> LogIndex {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.meta.index)
    }

    /// The entry at `index`, while it is held in memory, for the invariants of tests.
    #[doc(hidden)]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.range(index, index).find(|entry| entry.index == index)
    }

    fn tick(&mut self) {
        match self.state {
            State::Leader(_) => self.leader_tick(),
            _ if self.now >= self.election_due => self.become_pre_candidate(),
            _ => {}
        }
    }

    /// The rule of terms (Raft 5.1), then what the message asks.
    fn receive(&mut self, from: NodeId, message: Message) {
        if from == self.config.id || !self.members.contains(from) || !message.is_sound() {
            return;
        }
        let term = message.term();
        let is_election = matches!(message, Message::PreVote { .. } | Message::Vote { .. });
        if term > self.hard.term {
            // Who was away must not disturb a leader that others hear (thesis 4.2.3).
            if is_election && self.hears_leader() && !planted!("R-m") {
                return;
            }
            self.become_follower(term, None);
        } else if term < self.hard.term {
            self.answer_old_term(from, &message);
            return;
        }
        match message {
            Message::PreVote { last, .. } => self.on_pre_vote(from, last),
            Message::PreVoteReply { ballot, .. } => self.on_pre_vote_reply(from, ballot),
            Message::Vote { last, .. } => self.on_vote(from, last),
            Message::VoteReply { ballot, .. } => self.on_vote_reply(from, ballot),
            Message::Append(append) => self.on_append(from, append),
            Message::AppendReply { outcome, round, .. } => self.on_append_reply(from, outcome, round),
            Message::InstallSnapshot { snapshot, round, .. } => self.on_install_snapshot(from, snapshot, round),
            Message::InstallSnapshotReply { matched, round, .. } => self.on_accepted(from, matched, round),
        }
    }

    pub(super) fn restart_election_timer(&mut self) {
        let (low, high) = self.config.election_timeout;
        self.election_due = self.now.saturating_add(self.random.random_range(low..=high));
    }

    /// Sends when term and vote are durable.
    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.outbox.send(to, message, Promise::HardState, self.hard, &self.log);
    }

    /// Sends when the log, too, is durable up to `index`.
    pub(super) fn send_promising(&mut self, index: LogIndex, to: NodeId, message: Message) {
        self.outbox.send(to, message, Promise::Log(index), self.hard, &self.log);
    }

    /// Any role to follower. Only a higher term clears the vote.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.hard.term, "terms never fall");
        if term > self.hard.term || planted!("R-d") {
            self.hard = HardState { term, vote: None };
            self.outbox.term_rose();
        }
        let was_leader = self.role() == Role::Leader;
        let leader = leader.map(|id| Heard { id, at: self.now });
        if let State::Leader(old) = std::mem::replace(&mut self.state, State::Follower { leader }) {
            let leader = self.leader();
            for ticket in old.reads.cancel() {
                if planted!("R-i") {
                    self.outbox.push(Output::ReadReady { ticket, index: self.commit });
                    continue;
                }
                self.outbox.push(Output::ReadRejected { ticket, leader });
            }
        }
        if was_leader || leader.is_some() {
            self.restart_election_timer();
        }
        self.tell_leadership();
    }

    /// Leadership is told at the instant it changes, so it comes before anything that later happens in the step.
    pub(super) fn tell_leadership(&mut self) {
        let (leader, term) = (self.leader(), self.hard.term);
        if leader != self.told.0 || (leader.is_some() && term != self.told.1) {
            self.told = (leader, term);
            self.outbox.push(Output::Leadership { leader, term });
        }
    }

    /// The end of a step: commit, apply, answer reads, send, ask for a snapshot, write.
    fn settle(&mut self, out: &mut Vec<Output>) {
        self.advance_commit();
        self.apply_committed();
        self.serve_reads();
        self.replicate();
        self.request_snapshot();
        let snapshot_index = self.snapshot_index();
        self.outbox.flush(self.hard, &mut self.log, snapshot_index, out);
    }

    fn apply_committed(&mut self) {
        if self.applied >= self.commit {
            return;
        }
        let entries: Vec<Entry> = self.log.range(self.applied + 1, self.commit).cloned().collect();
        assert_eq!(entries.len() as u64, self.commit - self.applied, "what is committed is in the log until applied");
        self.applied = self.commit;
        if let State::Leader(leader) = &mut self.state {
            leader.committed(&entries);
        }
        self.outbox.push(Output::Apply { entries });
    }
}
