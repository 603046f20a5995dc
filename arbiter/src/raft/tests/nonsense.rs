//! Peers that say anything at all: no message may panic, take back what is committed, or change a vote in its term.

use bytes::Bytes;
use proptest::prelude::*;

use super::cluster::{MS, config};
use crate::raft::{
    Append, AppendOutcome, Ballot, Config, Entry, Input, LogIndex, Message, Output, Raft, Restored, Snapshot,
    SnapshotMeta, Term,
};

/// Mostly small, so that messages meet; sometimes at the edge of what a number holds.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0u64..12, 1 => Just(u64::MAX), 1 => Just(u64::MAX / 2), 1 => Just((1 << 62) - 1)]
}

fn ballot() -> impl Strategy<Value = Ballot> {
    prop_oneof![Just(Ballot::Granted), Just(Ballot::Refused)]
}

fn meta() -> impl Strategy<Value = SnapshotMeta> {
    (number(), number()).prop_map(|(index, term)| SnapshotMeta { index, term })
}

fn entries(from: LogIndex) -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(0u64..6, 0..5).prop_map(move |mut terms: Vec<Term>| {
        terms.sort_unstable();
        let numbered = terms.into_iter().zip(from.saturating_add(1)..u64::MAX);
        numbered.map(|(term, index)| Entry { term, index, data: Bytes::from_static(b"n") }).collect()
    })
}

fn append() -> impl Strategy<Value = Message> {
    (number(), meta(), number(), number()).prop_flat_map(|(term, prev, commit, round)| {
        entries(prev.index).prop_map(move |entries| {
            let (prev_index, prev_term) = (prev.index, prev.term);
            Message::Append(Append { term, prev_index, prev_term, entries, commit, round })
        })
    })
}

fn outcome() -> impl Strategy<Value = AppendOutcome> {
    prop_oneof![
        number().prop_map(|matched| AppendOutcome::Accepted { matched }),
        (number(), meta()).prop_map(|(rejected, hint)| AppendOutcome::Conflict {
            rejected,
            hint_index: hint.index,
            hint_term: hint.term
        }),
        Just(AppendOutcome::Stale),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        1 => (number(), meta()).prop_map(|(term, last)| Message::PreVote { term, last }),
        1 => (number(), ballot()).prop_map(|(term, ballot)| Message::PreVoteReply { term, ballot }),
        1 => (number(), meta()).prop_map(|(term, last)| Message::Vote { term, last }),
        1 => (number(), ballot()).prop_map(|(term, ballot)| Message::VoteReply { term, ballot }),
        4 => append(),
        1 => (number(), outcome(), number())
            .prop_map(|(term, outcome, round)| Message::AppendReply { term, outcome, round }),
        2 => (number(), meta(), number()).prop_map(|(term, meta, round)| {
            Message::InstallSnapshot { term, snapshot: Snapshot { meta, data: Bytes::new() }, round }
        }),
        1 => (number(), number(), number())
            .prop_map(|(term, matched, round)| Message::InstallSnapshotReply { term, matched, round }),
    ]
}

/// What a peer, a client or a shell may do. `Win` answers whatever the core asks for, so that it leads now and then.
#[derive(Clone, Debug)]
enum Act {
    Hear(u64, Message),
    Own(u64, AppendOutcome),
    Wait(u64),
    Win,
    Propose,
    Read,
    Persisted,
    Snapshot(LogIndex),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0u64..5, message()).prop_map(|(from, message)| Act::Hear(from, message)),
        6 => (2u64..4, outcome()).prop_map(|(from, outcome)| Act::Own(from, outcome)),
        3 => (0u64..40).prop_map(Act::Wait),
        4 => Just(Act::Win),
        1 => Just(Act::Propose),
        1 => Just(Act::Read),
        4 => Just(Act::Persisted),
        1 => number().prop_map(Act::Snapshot),
    ]
}

fn inputs(act: Act, raft: &Raft, now: &mut u64, sequence: u64) -> Vec<Input> {
    let term = raft.term();
    match act {
        Act::Hear(from, message) => vec![Input::Message { from, message }],
        Act::Own(from, outcome) => {
            vec![Input::Message { from, message: Message::AppendReply { term, outcome, round: 0 } }]
        }
        Act::Wait(ms) => {
            *now += ms * MS;
            vec![Input::Tick]
        }
        Act::Win => {
            *now = raft.next_deadline().max(*now);
            let granted = Ballot::Granted;
            let pre = Message::PreVoteReply { term, ballot: granted };
            let vote = Message::VoteReply { term: term + 1, ballot: granted };
            vec![
                Input::Tick,
                Input::Message { from: 2, message: pre },
                Input::Persisted { upto: sequence + 1 },
                Input::Message { from: 2, message: vote },
            ]
        }
        Act::Propose => vec![Input::Propose { ticket: 1, data: Bytes::from_static(b"p") }],
        Act::Read => vec![Input::Read { ticket: 1 }],
        Act::Persisted => vec![Input::Persisted { upto: sequence }],
        Act::Snapshot(index) => vec![Input::SnapshotTaken { index, data: Bytes::new() }],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn no_message_breaks_an_arbiter(acts in prop::collection::vec(act(), 1..60)) {
        let few = Config { snapshot_after_entries: 3, ..config(1, 3, 1) };
        let mut raft = Raft::new(0, few, Restored::default());
        let (mut now, mut sequence) = (0, 0);
        for act in acts {
            for input in inputs(act, &raft, &mut now, sequence) {
                let before = (raft.hard, raft.commit(), raft.applied());
                let mut out = Vec::new();
                raft.step(now, input, &mut out);
                let newest = out.iter().filter_map(|output| match output {
                    Output::Persist(batch) => Some(batch.sequence),
                    _ => None,
                });
                sequence = newest.max().unwrap_or(sequence);
                prop_assert!(raft.term() >= before.0.term && raft.commit() >= before.1 && raft.applied() >= before.2);
                let kept = raft.term() > before.0.term || before.0.vote.is_none() || raft.hard.vote == before.0.vote;
                prop_assert!(kept, "R11: a vote changed in its term");
                prop_assert!(raft.applied() == raft.commit() && raft.commit() <= raft.last_index());
            }
        }
    }
}
