//! Elections: pre-vote (Raft thesis 9.6), votes (Raft 5.2, 5.4.1), and who may disturb whom (thesis 4.2.3).
//!
//! One function per change of role, named for where it leads.

use std::collections::BTreeSet;

use super::core::State;
use super::message::{AppendOutcome, Ballot};
use super::{HardState, Message, NodeId, Raft, Role, SnapshotMeta};

impl Raft {
    /// Whether a leader was heard within the shortest election timeout; a leader hears itself for as long as it has a
    /// quorum.
    pub(super) fn hears_leader(&self) -> bool {
        match &self.state {
            State::Leader(_) => true,
            State::Follower { leader: Some(heard) } => {
                self.now < heard.at.saturating_add(self.config.election_timeout.0)
            }
            _ => false,
        }
    }

    /// Follower, pre-candidate or candidate to pre-candidate: the election timeout passed.
    pub(super) fn become_pre_candidate(&mut self) {
        assert_ne!(self.role(), Role::Leader, "a leader steps down before it stands again");
        self.state = State::PreCandidate { votes: BTreeSet::from([self.config.id]) };
        self.restart_election_timer();
        if planted!("R-l-pre-vote") {
            return self.become_candidate();
        }
        self.tell_leadership();
        let message = Message::PreVote { term: self.hard.term, last: self.log.last() };
        self.send_to_all(&message);
        self.count_pre_votes();
    }

    /// Pre-candidate to candidate: a quorum would vote. The term rises and the vote is one's own; it counts, and the
    /// requests leave, when both are durable.
    fn become_candidate(&mut self) {
        assert_eq!(self.role(), Role::PreCandidate, "pre-vote comes first");
        let own = (!planted!("R-b")).then_some(self.config.id);
        self.hard = HardState { term: self.hard.term + 1, vote: own };
        self.outbox.term_rose();
        self.state = State::Candidate { votes: BTreeSet::new() };
        self.restart_election_timer();
        let message = Message::Vote { term: self.hard.term, last: self.log.last() };
        self.send_to_all(&message);
    }

    fn send_to_all(&mut self, message: &Message) {
        let others: Vec<NodeId> = self.members.others(self.config.id).collect();
        for to in others {
            self.send(to, message.clone());
        }
    }

    /// A candidate's own vote is a vote like any other: it counts once it is durable.
    pub(super) fn count_own_vote(&mut self) {
        if self.outbox.is_durable(self.hard)
            && (self.hard.vote == Some(self.config.id) || planted!("R-b"))
            && let State::Candidate { votes } = &mut self.state
        {
            votes.insert(self.config.id);
            self.count_votes();
        }
    }

    /// Raft 5.4.1: a voter refuses a candidate whose log is behind its own.
    fn is_up_to_date(&self, last: SnapshotMeta) -> bool {
        let own = self.log.last();
        (last.term, last.index) >= (own.term, own.index)
    }

    pub(super) fn on_pre_vote(&mut self, from: NodeId, last: SnapshotMeta) {
        if self.hears_leader() && !planted!("R-m") {
            return;
        }
        let ballot = if self.is_up_to_date(last) { Ballot::Granted } else { Ballot::Refused };
        self.send(from, Message::PreVoteReply { term: self.hard.term, ballot });
    }

    pub(super) fn on_vote(&mut self, from: NodeId, last: SnapshotMeta) {
        let free = match self.hard.vote {
            Some(vote) => vote == from,
            // A leader of this very term is known: the election is over.
            None => self.leader().is_none(),
        };
        let ballot = if free && self.is_up_to_date(last) { Ballot::Granted } else { Ballot::Refused };
        if ballot == Ballot::Granted && self.hard.vote.is_none() {
            if self.role() == Role::PreCandidate {
                // Another stands already: winning a pre-vote now would only disturb its election.
                self.become_follower(self.hard.term, None);
            }
            self.hard.vote = Some(from);
            self.restart_election_timer();
        }
        self.send(from, Message::VoteReply { term: self.hard.term, ballot });
    }

    pub(super) fn on_pre_vote_reply(&mut self, from: NodeId, ballot: Ballot) {
        if let State::PreCandidate { votes } = &mut self.state
            && ballot == Ballot::Granted
        {
            votes.insert(from);
            self.count_pre_votes();
        }
    }

    pub(super) fn on_vote_reply(&mut self, from: NodeId, ballot: Ballot) {
        if let State::Candidate { votes } = &mut self.state
            && ballot == Ballot::Granted
        {
            votes.insert(from);
            self.count_votes();
        }
    }

    fn count_pre_votes(&mut self) {
        if let State::PreCandidate { votes } = &self.state
            && self.members.is_quorum(votes)
        {
            self.become_candidate();
        }
    }

    /// The own vote is needed even when the others suffice: a leader whose vote is not durable could, after a crash,
    /// vote for another in the same term.
    fn count_votes(&mut self) {
        if let State::Candidate { votes } = &self.state
            && votes.contains(&self.config.id)
            && self.members.is_quorum(votes)
        {
            self.become_leader();
        }
    }

    /// Tells a sender of an older term that its term is over. A pre-vote is answered too: a stuck arbiter must learn
    /// the term, and so must a leader that was cut off while this arbiter's term rose.
    pub(super) fn answer_old_term(&mut self, from: NodeId, message: &Message) {
        let term = self.hard.term;
        let reply = match message {
            Message::PreVote { .. } => Message::PreVoteReply { term, ballot: Ballot::Refused },
            Message::Vote { .. } => Message::VoteReply { term, ballot: Ballot::Refused },
            Message::Append(_) | Message::InstallSnapshot { .. } => {
                Message::AppendReply { term, outcome: AppendOutcome::Stale, round: 0 }
            }
            // Replies to a term of one's own that is over.
            Message::PreVoteReply { .. }
            | Message::VoteReply { .. }
            | Message::AppendReply { .. }
            | Message::InstallSnapshotReply { .. } => return,
        };
        self.send(from, reply);
    }
}
