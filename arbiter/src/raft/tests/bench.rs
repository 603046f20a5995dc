//! One core driven by hand: what the paper's rules are tried on.

use bytes::Bytes;

use super::cluster::config;
use crate::raft::{
    Append, AppendOutcome, Ballot, Config, Entry, HardState, Input, LogIndex, Message, NodeId, Output, Raft, Restored,
    Role, SnapshotMeta, Term,
};

/// One arbiter of three (number 1), and a disk that answers at once unless it is told to wait.
pub struct Bench {
    pub raft: Raft,
    pub now: u64,
    pub disk: Disk,
}

#[derive(PartialEq)]
pub enum Disk {
    AtOnce,
    Waits,
}

pub fn entry(index: LogIndex, term: Term) -> Entry {
    Entry { term, index, data: Bytes::from_static(b"x") }
}

/// A log whose entries have these terms, in an arbiter that is at the given term.
pub fn restored(term: Term, terms: &[Term]) -> Restored {
    let entries = terms.iter().zip(1..).map(|(&term, index)| entry(index, term)).collect();
    Restored { hard_state: HardState { term, vote: None }, snapshot: None, entries }
}

pub fn last(index: LogIndex, term: Term) -> SnapshotMeta {
    SnapshotMeta { index, term }
}

impl Bench {
    pub fn new(restored: Restored) -> Self {
        Self::with(config(1, 3, 1), restored)
    }

    pub fn with(config: Config, restored: Restored) -> Self {
        Self { raft: Raft::new(0, config, restored), now: 0, disk: Disk::AtOnce }
    }

    pub fn step(&mut self, input: Input) -> Vec<Output> {
        let mut all = Vec::new();
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut out = Vec::new();
            self.raft.step(self.now, input, &mut out);
            if self.disk == Disk::AtOnce {
                inputs.extend(out.iter().filter_map(|output| match output {
                    Output::Persist(batch) => Some(Input::Persisted { upto: batch.sequence }),
                    _ => None,
                }));
            }
            all.extend(out);
        }
        all
    }

    pub fn hear(&mut self, from: NodeId, message: Message) -> Vec<Output> {
        self.step(Input::Message { from, message })
    }

    pub fn append(
        &mut self,
        from: NodeId,
        term: Term,
        prev: SnapshotMeta,
        terms: &[Term],
        commit: LogIndex,
    ) -> Vec<Output> {
        let entries = terms.iter().zip(prev.index + 1..).map(|(&term, index)| entry(index, term)).collect();
        let append = Append { term, prev_index: prev.index, prev_term: prev.term, entries, commit, round: 0 };
        self.hear(from, Message::Append(append))
    }

    pub fn wait(&mut self, nanos: u64) -> Vec<Output> {
        self.now += nanos;
        self.step(Input::Tick)
    }

    pub fn stand(&mut self) -> Vec<Output> {
        self.now = self.raft.next_deadline();
        self.step(Input::Tick)
    }

    /// Wins an election with the vote of arbiter 2.
    pub fn lead(&mut self) -> Vec<Output> {
        self.step(Input::Tick);
        self.stand();
        let term = self.raft.term();
        self.hear(2, Message::PreVoteReply { term, ballot: Ballot::Granted });
        let out = self.hear(2, Message::VoteReply { term: term + 1, ballot: Ballot::Granted });
        assert_eq!(self.raft.role(), Role::Leader);
        out
    }

    pub fn accepted(&mut self, from: NodeId, matched: LogIndex, round: u64) -> Vec<Output> {
        let term = self.raft.term();
        self.hear(from, Message::AppendReply { term, outcome: AppendOutcome::Accepted { matched }, round })
    }

    pub fn terms(&self) -> Vec<Term> {
        self.raft.log.range(1, 100).map(|entry| entry.term).collect()
    }
}

pub fn sent(out: &[Output]) -> Vec<(NodeId, &Message)> {
    out.iter()
        .filter_map(|output| match output {
            Output::Send { to, message } => Some((*to, message)),
            _ => None,
        })
        .collect()
}

pub fn outcome(out: &[Output]) -> AppendOutcome {
    match sent(out).last() {
        Some((_, Message::AppendReply { outcome, .. })) => *outcome,
        other => panic!("expected an answer to an append, got {other:?}"),
    }
}

pub fn ballot(out: &[Output]) -> Option<Ballot> {
    sent(out).last().map(|(_, message)| match message {
        Message::VoteReply { ballot, .. } | Message::PreVoteReply { ballot, .. } => *ballot,
        other => panic!("expected an answer to a vote, got {other:?}"),
    })
}

pub fn rounds(out: &[Output]) -> Vec<u64> {
    sent(out)
        .iter()
        .filter_map(|(_, message)| match message {
            Message::Append(append) => Some(append.round),
            _ => None,
        })
        .collect()
}

pub fn ready(out: &[Output]) -> Vec<u64> {
    out.iter()
        .filter_map(|output| match output {
            Output::ReadReady { ticket, .. } => Some(*ticket),
            _ => None,
        })
        .collect()
}

pub fn to(id: NodeId, out: Vec<Output>) -> Vec<Message> {
    let mail = out.into_iter().filter_map(|output| match output {
        Output::Send { to, message } if to == id => Some(message),
        _ => None,
    });
    mail.filter(|message| !matches!(message, Message::PreVote { .. } | Message::Vote { .. })).collect()
}
