//! What counts as an answer among arbiters.

use super::{Arbiter, Input, Now, Output};
use crate::protocol::{Question, Reply};
use crate::raft::{Append, Config, Message, Restored};
use crate::record::GroupName;

fn group() -> GroupName {
    "orders".parse().expect("a good name")
}

/// Arbiter 1 of three, in a life of its own, which has heard that arbiter 2 leads.
fn follower(seed: u64) -> Arbiter {
    let config = Config {
        id: 1,
        members: vec![1, 2, 3],
        election_timeout: (100, 200),
        heartbeat: 20,
        max_append_bytes: 1024,
        snapshot_after_entries: 10,
        max_uncommitted_bytes: 1024,
        seed,
    };
    let mut arbiter = Arbiter::new(Now::default(), config, Restored::default());
    let heartbeat = Append { term: 1, prev_index: 0, prev_term: 0, entries: Vec::new(), commit: 0, round: 0 };
    step(&mut arbiter, Input::Raft { from: 2, message: Message::Append(heartbeat) });
    arbiter
}

fn step(arbiter: &mut Arbiter, input: Input) -> Vec<Output> {
    let mut out = Vec::new();
    arbiter.step(Now::default(), input, &mut out).expect("nothing is unreadable");
    out
}

/// Asks, and returns the ticket under which the question went to the leader.
fn forwarded(arbiter: &mut Arbiter, connection: u64) -> u64 {
    let out = step(arbiter, Input::Ask { connection, id: 1, question: Question::Read(group()) });
    out.iter()
        .find_map(|output| match output {
            Output::Forward { to: 2, ticket, .. } => Some(*ticket),
            _ => None,
        })
        .expect("it goes to the leader")
}

#[test]
fn the_reply_to_a_question_of_an_earlier_life_answers_nothing() {
    let (mut before, mut after) = (follower(0x5eed_0000_0000_0001), follower(0x0dd5_0000_0000_0007));
    let old = forwarded(&mut before, 1);
    let new = forwarded(&mut after, 2);
    let reply = || Box::new(Reply::Record(None));
    assert_eq!(step(&mut after, Input::Forwarded { ticket: old, reply: reply() }), []);
    let out = step(&mut after, Input::Forwarded { ticket: new, reply: reply() });
    assert_eq!(out, [Output::Reply { connection: 2, id: 1, reply: Reply::Record(None) }]);
}
