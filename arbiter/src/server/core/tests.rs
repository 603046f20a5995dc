//! What counts as an answer among arbiters.

use std::collections::VecDeque;

use super::{Arbiter, Input, Now, Output, RECORDS_PER_STEP};
use crate::protocol::{Question, Reply};
use crate::raft::{Append, Config, Message, Restored};
use crate::record::{
    Addresses, Change, Epoch, GroupId, GroupName, HISTORY, Incarnation, Member, Mode, Position, Proposal, RequestId,
};

fn group() -> GroupName {
    "orders".parse().expect("a good name")
}

fn config(id: u64, seed: u64) -> Config {
    Config {
        id,
        members: vec![1, 2, 3],
        election_timeout: (100, 200),
        heartbeat: 20,
        max_append_bytes: 1024,
        snapshot_after_entries: 10,
        max_uncommitted_bytes: 1024,
        seed,
    }
}

/// Arbiter 1 of three, in a life of its own, which has heard that arbiter 2 leads.
fn follower(seed: u64) -> Arbiter {
    let mut arbiter = Arbiter::new(Now::default(), config(1, seed), Restored::default());
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

/// Two of three arbiters that hear each other; disks write at once.
struct Two {
    arbiters: [Arbiter; 2],
    now: Now,
    /// What is on its way: to whom.
    mail: VecDeque<(usize, Input)>,
    replies: Vec<Reply>,
}

impl Two {
    fn leading() -> Self {
        let arbiter = |id| Arbiter::new(Now::default(), config(id, id), Restored::default());
        let (now, mail) = (Now::default(), VecDeque::new());
        let mut two = Self { arbiters: [arbiter(1), arbiter(2)], now, mail, replies: Vec::new() };
        while two.arbiters[0].raft_core().leader() != Some(1) {
            // Only the first one's patience ever ends.
            two.now.clock += 10;
            two.give(0, Input::Tick);
            two.deliver();
        }
        two
    }

    /// Gives one input; what follows from it is not delivered yet.
    fn give(&mut self, at: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut out = Vec::new();
            self.arbiters[at].step(self.now, input, &mut out).expect("nothing is unreadable");
            for output in out {
                match output {
                    Output::Persist(batch) => inputs.push_back(Input::Persisted { upto: batch.sequence }),
                    Output::Raft { to: to @ 1..=2, message } => {
                        self.mail.push_back((to as usize - 1, Input::Raft { from: at as u64 + 1, message }));
                    }
                    Output::Reply { reply, .. } => self.replies.push(reply),
                    _ => {}
                }
            }
        }
    }

    fn deliver(&mut self) {
        while let Some((to, input)) = self.mail.pop_front() {
            self.give(to, input);
        }
    }

    fn ask(&mut self, question: Question) {
        self.give(0, Input::Ask { connection: 1, id: 1, question });
    }
}

#[test]
fn one_round_does_not_answer_thousands_of_questions_with_long_answers() {
    let mut two = Two::leading();
    let member = Member {
        replica: "r1".parse().expect("a name"),
        incarnation: Incarnation(1),
        addresses: Addresses { peer: "r1:1".into(), ..Addresses::default() },
    };
    for epoch in 0..HISTORY as u64 {
        let create =
            Change::Create { group_id: GroupId(9), member: member.clone(), mode: Mode::Memory, min_in_sync: 1 };
        let proposal = Proposal {
            group: group(),
            expected_epoch: Epoch(epoch),
            request: RequestId(u128::from(epoch) + 1),
            proposer: Some((member.replica.clone(), member.incarnation)),
            change: if epoch == 0 { create } else { Change::Resume },
            commit: Position::default(),
            held: Position::default(),
            floor: Epoch(0),
        };
        two.ask(Question::TestAndSet(Box::new(proposal)));
        two.deliver();
    }
    two.replies.clear();
    let most = RECORDS_PER_STEP / HISTORY;
    for _ in 0..2 * most {
        two.ask(Question::History(group()));
    }
    two.deliver();
    two.now.clock += 20;
    two.give(0, Input::Tick);
    two.deliver();
    let answered = two.replies.iter().filter(|reply| matches!(reply, Reply::History(items) if items.len() == HISTORY));
    let told = two.replies.iter().filter(|reply| matches!(reply, Reply::Retry { .. })).count();
    // The first question began a round of its own; all others wait for the next.
    assert!((most..=most + 1).contains(&answered.count()), "{} replies, {told} are to come again", two.replies.len());
    assert!(told >= most - 1);
}
