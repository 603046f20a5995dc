//! Figure 2 of the Raft paper, the lines that need a test of their own, and what belongs to them in sections 5 to 8 and in
//! the thesis. The table in `paper` says which line is where.

use bytes::Bytes;

use super::bench::{Bench, Disk, ballot, entry, last, outcome, ready, restored, rounds, sent, to};
use super::cluster::{self, MS, config};
use crate::raft::core::State;
use crate::raft::{
    Append, AppendOutcome, Ballot, Config, ConfigError, Entry, Input, LogIndex, Message, NodeId, Output, Raft,
    Restored, Role, Snapshot, Term,
};

fn applied(out: &[Output]) -> Vec<LogIndex> {
    out.iter()
        .filter_map(|output| match output {
            Output::Apply { entries } => Some(entries.iter().map(|entry| entry.index)),
            _ => None,
        })
        .flatten()
        .collect()
}

/// The appends to one follower.
fn appends(id: NodeId, out: &[Output]) -> Vec<Append> {
    to(id, out.to_vec())
        .into_iter()
        .filter_map(|message| match message {
            Message::Append(append) => Some(append),
            _ => None,
        })
        .collect()
}

fn conflict(rejected: LogIndex, hint_index: LogIndex, hint_term: Term) -> AppendOutcome {
    AppendOutcome::Conflict { rejected, hint_index, hint_term }
}

/// One arbiter of three in each role, at a term that is above 0 where the role allows.
fn one_of_each() -> Vec<(Role, Bench)> {
    let follower = Bench::new(restored(1, &[]));
    let mut pre_candidate = Bench::new(restored(1, &[]));
    pre_candidate.step(Input::Tick);
    pre_candidate.stand();
    let mut candidate = Bench::new(restored(1, &[]));
    candidate.step(Input::Tick);
    candidate.stand();
    candidate.hear(2, Message::PreVoteReply { term: 1, ballot: Ballot::Granted });
    let mut leader = Bench::new(restored(1, &[]));
    leader.lead();
    vec![
        (Role::Follower, follower),
        (Role::PreCandidate, pre_candidate),
        (Role::Candidate, candidate),
        (Role::Leader, leader),
    ]
}

#[test]
fn figure_2_what_was_persisted_is_what_a_restart_has() {
    let mut bench = Bench::new(Restored::default());
    let mut disk = cluster::Disk::default();
    let mut write = |out: Vec<Output>| {
        for output in out {
            if let Output::Persist(batch) = output {
                disk.write(&batch);
            }
        }
    };
    write(bench.append(2, 3, last(0, 0), &[1, 2, 3], 2));
    write(bench.append(2, 3, last(1, 1), &[3], 2));
    // Long after the leader was last heard.
    bench.now += 500 * MS;
    write(bench.hear(3, Message::Vote { term: 4, last: last(9, 4) }));
    let mut again = Bench { raft: Raft::new(0, config(1, 3, 1), disk.load()), now: 0, disk: Disk::AtOnce };
    assert_eq!((again.raft.term(), again.terms()), (4, vec![1, 2, 3]), "commit 2 kept entry 2 from being replaced");
    assert_eq!((again.raft.commit(), again.raft.leader(), again.raft.role()), (0, None, Role::Follower));
    assert_eq!(ballot(&again.hear(2, Message::Vote { term: 4, last: last(9, 4) })), Some(Ballot::Refused));
    assert_eq!(ballot(&again.hear(3, Message::Vote { term: 4, last: last(9, 4) })), Some(Ballot::Granted));
}

#[test]
fn figure_2_commit_and_applied_begin_at_zero_and_only_rise() {
    let mut bench = Bench::new(restored(1, &[1, 1, 1]));
    assert_eq!((bench.raft.commit(), bench.raft.applied()), (0, 0));
    assert_eq!(applied(&bench.append(2, 1, last(3, 1), &[], 2)), [1, 2]);
    assert_eq!(applied(&bench.append(2, 1, last(3, 1), &[], 1)), [0; 0], "an older commit takes nothing back");
    assert_eq!((bench.raft.commit(), bench.raft.applied()), (2, 2));
    assert_eq!(applied(&bench.append(2, 1, last(3, 1), &[], 3)), [3]);
}

#[test]
fn figure_2_a_leader_supposes_nothing_of_its_followers() {
    let mut leader = Bench::new(restored(1, &[1, 1]));
    let out = leader.lead();
    for id in [2, 3] {
        assert_eq!(appends(id, &out)[0].prev_index, 2, "what follows the end of its own log as it was");
    }
    let State::Leader(state) = &leader.raft.state else { panic!("it leads") };
    assert!(state.peers.values().all(|peer| peer.matched == 0));
}

#[test]
fn figure_2_an_append_whose_entry_before_does_not_match_is_refused() {
    let mut bench = Bench::new(restored(3, &[1, 1, 2]));
    let out = bench.append(2, 3, last(5, 2), &[3], 5);
    assert_eq!(outcome(&out), conflict(5, 3, 2), "there is none");
    let out = bench.append(2, 3, last(3, 3), &[3], 5);
    assert_eq!(outcome(&out), conflict(3, 3, 2), "it is of another term");
    let out = bench.append(2, 3, last(3, 1), &[3], 5);
    assert_eq!(outcome(&out), conflict(3, 2, 1), "nothing of a later term can meet");
    assert_eq!((bench.terms(), bench.raft.commit()), (vec![1, 1, 2], 0), "and nothing changes");
}

#[test]
fn figure_2_commit_follows_the_leader_and_never_passes_what_was_verified() {
    let mut bench = Bench::new(restored(1, &[1, 1, 1]));
    bench.append(2, 1, last(1, 1), &[1, 1], 1);
    assert_eq!(bench.raft.commit(), 1, "the leader's is the lesser");
    bench.append(2, 1, last(1, 1), &[1], 9);
    assert_eq!(bench.raft.commit(), 2, "the last new entry is the lesser");
}

#[test]
fn figure_2_a_higher_term_in_any_message_makes_any_role_a_follower() {
    let snapshot = Snapshot { meta: last(1, 1), data: Bytes::new() };
    let append = Append { term: 9, prev_index: 0, prev_term: 0, entries: vec![], commit: 0, round: 0 };
    let messages = [
        Message::Append(append),
        Message::AppendReply { term: 9, outcome: AppendOutcome::Stale, round: 0 },
        Message::VoteReply { term: 9, ballot: Ballot::Refused },
        Message::PreVoteReply { term: 9, ballot: Ballot::Refused },
        Message::InstallSnapshot { term: 9, snapshot, round: 0 },
        Message::InstallSnapshotReply { term: 9, matched: 0, round: 0 },
        Message::Vote { term: 9, last: last(9, 9) },
    ];
    for message in messages {
        for (role, mut bench) in one_of_each() {
            assert_eq!(bench.raft.role(), role);
            bench.hear(2, message.clone());
            // A leader that has a quorum does not listen to candidates (thesis 4.2.3).
            let spared = role == Role::Leader && matches!(message, Message::Vote { .. });
            let now = (bench.raft.role(), bench.raft.term());
            assert!(spared || now == (Role::Follower, 9), "{role:?} and {message:?}: {now:?}");
            let vote = bench.raft.hard.vote;
            let voted = matches!(message, Message::Vote { .. });
            assert!(spared || vote == voted.then_some(2), "{role:?} and {message:?}: the vote is of the new term");
        }
    }
}

#[test]
fn figure_2_a_follower_stands_when_neither_leader_nor_candidate_was_heard() {
    let mut bench = Bench::new(Restored::default());
    bench.step(Input::Tick);
    for _ in 0..20 {
        bench.wait(40 * MS);
        bench.append(2, 1, last(0, 0), &[], 0);
        assert_eq!(bench.raft.role(), Role::Follower, "heartbeats put it off");
    }
    bench.wait(49 * MS);
    assert_eq!(bench.raft.role(), Role::Follower);
    bench.wait(51 * MS);
    assert_eq!(bench.raft.role(), Role::PreCandidate, "silence does not");
    let mut voter = Bench::new(Restored::default());
    voter.step(Input::Tick);
    voter.wait(45 * MS);
    voter.hear(2, Message::Vote { term: 1, last: last(0, 0) });
    assert!(voter.raft.next_deadline() >= voter.now + 50 * MS, "a granted vote puts it off");
}

#[test]
fn figure_2_a_refused_vote_does_not_put_off_the_own_election() {
    let mut bench = Bench::new(restored(1, &[1]));
    bench.step(Input::Tick);
    let due = bench.raft.next_deadline();
    bench.wait(45 * MS);
    assert_eq!(ballot(&bench.hear(2, Message::Vote { term: 2, last: last(0, 0) })), Some(Ballot::Refused));
    assert_eq!(bench.raft.next_deadline(), due);
}

#[test]
fn figure_2_a_majority_of_different_voters_makes_a_leader() {
    let mut bench = Bench::with(config(1, 5, 1), Restored::default());
    bench.step(Input::Tick);
    bench.stand();
    for from in [2, 3] {
        bench.hear(from, Message::PreVoteReply { term: 0, ballot: Ballot::Granted });
    }
    let granted = Message::VoteReply { term: 1, ballot: Ballot::Granted };
    for _ in 0..3 {
        bench.hear(2, granted.clone());
    }
    bench.hear(4, Message::VoteReply { term: 1, ballot: Ballot::Refused });
    bench.hear(9, granted.clone());
    assert_eq!(bench.raft.role(), Role::Candidate, "one voter, however often, and a stranger");
    bench.hear(5, granted);
    assert_eq!(bench.raft.role(), Role::Leader);
}

#[test]
fn figure_2_a_candidate_that_wins_nothing_stands_again_in_a_higher_term() {
    let mut bench = Bench::new(Restored::default());
    bench.step(Input::Tick);
    bench.stand();
    for term in 0..3 {
        bench.hear(2, Message::PreVoteReply { term, ballot: Ballot::Granted });
        assert_eq!((bench.raft.role(), bench.raft.term()), (Role::Candidate, term + 1));
        bench.stand();
        assert_eq!(bench.raft.role(), Role::PreCandidate);
    }
    bench.hear(2, Message::PreVoteReply { term: 3, ballot: Ballot::Granted });
    bench.hear(2, Message::VoteReply { term: 3, ballot: Ballot::Granted });
    assert_eq!(bench.raft.role(), Role::Candidate, "a vote of the term before elects nobody");
}

#[test]
fn figure_2_a_leader_speaks_at_once_and_while_idle() {
    let mut leader = Bench::new(Restored::default());
    let out = leader.lead();
    assert!([2, 3].iter().all(|id| !appends(*id, &out).is_empty()));
    leader.accepted(2, 1, 0);
    leader.accepted(3, 1, 0);
    for _ in 0..5 {
        leader.now = leader.raft.next_deadline();
        let out = leader.step(Input::Tick);
        assert!([2, 3].iter().all(|id| appends(*id, &out).iter().any(|append| append.entries.is_empty())));
        leader.accepted(2, 1, 0);
        leader.accepted(3, 1, 0);
    }
}

#[test]
fn figure_2_a_command_is_applied_when_a_quorum_holds_it() {
    let mut leader = Bench::new(Restored::default());
    leader.lead();
    leader.accepted(2, 1, 0);
    let out = leader.step(Input::Propose { ticket: 7, data: Bytes::from_static(b"x") });
    assert!(out.contains(&Output::Proposed { ticket: 7, index: 2, term: 1 }));
    assert!(applied(&out).is_empty(), "it alone holds it");
    let out = leader.accepted(3, 2, 0);
    assert_eq!(applied(&out), [2]);
}

#[test]
fn figure_2_success_moves_the_next_index_on_and_refusal_moves_it_back() {
    let mut leader = Bench::new(restored(1, &[1, 1, 1]));
    leader.lead();
    let refused = Message::AppendReply { term: 2, outcome: conflict(3, 1, 1), round: 0 };
    let out = leader.hear(2, refused);
    let again = &appends(2, &out)[0];
    assert_eq!((again.prev_index, again.prev_term), (1, 1));
    let out = leader.accepted(2, 4, 0);
    assert!(appends(2, &out).iter().all(|append| append.prev_index == 4));
    let State::Leader(state) = &leader.raft.state else { panic!("it leads") };
    assert_eq!((state.peers[&2].matched, state.peers[&2].next), (4, 5));
    let out = leader.step(Input::Propose { ticket: 1, data: Bytes::from_static(b"x") });
    assert_eq!(appends(2, &out)[0].prev_index, 4, "it sends from there");
}

#[test]
fn figure_2_the_majority_of_five_commits() {
    let mut leader = Bench::with(config(1, 5, 1), Restored::default());
    leader.step(Input::Tick);
    leader.stand();
    for from in [2, 3] {
        leader.hear(from, Message::PreVoteReply { term: 0, ballot: Ballot::Granted });
    }
    for from in [2, 3] {
        leader.hear(from, Message::VoteReply { term: 1, ballot: Ballot::Granted });
    }
    leader.accepted(2, 1, 0);
    leader.accepted(2, 1, 0);
    assert_eq!(leader.raft.commit(), 0, "two of five, one of them twice");
    leader.accepted(5, 1, 0);
    assert_eq!(leader.raft.commit(), 1);
}

#[test]
fn section_5_3_a_leader_never_cuts_its_own_log() {
    let mut leader = Bench::new(restored(1, &[1, 1]));
    leader.lead();
    let before = leader.terms();
    leader.append(2, 2, last(0, 0), &[2], 0);
    leader.hear(3, Message::AppendReply { term: 2, outcome: conflict(2, 0, 0), round: 0 });
    let snapshot = Snapshot { meta: last(9, 2), data: Bytes::new() };
    leader.hear(3, Message::InstallSnapshot { term: 2, snapshot, round: 0 });
    assert_eq!((leader.terms(), leader.raft.role()), (before, Role::Leader));
}

#[test]
fn section_5_5_a_silent_follower_is_asked_again_and_again() {
    let mut leader = Bench::new(Restored::default());
    leader.lead();
    leader.accepted(3, 1, 0);
    leader.step(Input::Propose { ticket: 1, data: Bytes::from_static(b"x") });
    for _ in 0..50 {
        let out = leader.wait(10 * MS);
        leader.accepted(3, 2, 0);
        assert!(!appends(2, &out).is_empty(), "it is never given up");
    }
    // It comes back, having missed everything.
    let out =
        leader.hear(2, Message::AppendReply { term: 1, outcome: AppendOutcome::Accepted { matched: 0 }, round: 0 });
    assert_eq!(appends(2, &out).iter().flat_map(|append| &append.entries).map(|entry| entry.index).max(), Some(2));
}

#[test]
fn section_5_5_a_repeated_request_gets_the_same_answer() {
    let mut bench = Bench::new(restored(1, &[1]));
    let first = bench.append(2, 1, last(1, 1), &[1, 1], 2);
    let second = bench.append(2, 1, last(1, 1), &[1, 1], 2);
    assert_eq!(outcome(&first), AppendOutcome::Accepted { matched: 3 });
    assert_eq!(outcome(&second), outcome(&first));
    assert!(applied(&second).is_empty() && !second.iter().any(|output| matches!(output, Output::Persist(_))));
}

#[test]
fn section_5_6_timers_that_cannot_work_are_refused() {
    let with = |heartbeat, election_timeout| Config { heartbeat, election_timeout, ..config(1, 3, 1) }.validate();
    assert!(matches!(with(60 * MS, (100 * MS, 200 * MS)), Err(ConfigError::Timers { .. })), "one loss would depose");
    assert!(matches!(with(10 * MS, (100 * MS, 100 * MS)), Err(ConfigError::Timers { .. })), "all would stand at once");
    assert_eq!(with(10 * MS, (100 * MS, 200 * MS)), Ok(()));
}

#[test]
fn figure_13_a_snapshot_of_an_older_term_is_refused() {
    let mut bench = Bench::new(restored(4, &[1]));
    let snapshot = Snapshot { meta: last(5, 3), data: Bytes::new() };
    let out = bench.hear(2, Message::InstallSnapshot { term: 3, snapshot, round: 0 });
    assert!(matches!(sent(&out)[..], [(2, Message::AppendReply { term: 4, outcome: AppendOutcome::Stale, .. })]));
    assert_eq!((bench.raft.applied(), bench.terms(), bench.raft.leader()), (0, vec![1], None));
}

#[test]
fn section_7_the_entry_before_a_compacted_log_stays_known() {
    let config = Config { snapshot_after_entries: 4, ..config(1, 3, 1) };
    let mut bench = Bench::with(config, restored(1, &[1, 1, 1, 1]));
    let out = bench.append(2, 1, last(4, 1), &[], 4);
    assert!(out.contains(&Output::TakeSnapshot { index: 4 }), "each takes its own, when enough was applied");
    let out = bench.step(Input::SnapshotTaken { index: 4, data: Bytes::from_static(b"four") });
    assert!(out.iter().any(|output| matches!(output, Output::Persist(batch) if batch.snapshot.is_some())));
    assert_eq!(bench.raft.snapshot_index(), 4);
    assert!(bench.raft.log.first_index() > 1, "the log is shorter");
    assert_eq!(outcome(&bench.append(2, 1, last(4, 1), &[1], 4)), AppendOutcome::Accepted { matched: 5 });
    assert!(matches!(outcome(&bench.append(2, 2, last(9, 2), &[2], 4)), AppendOutcome::Conflict { .. }));
}

#[test]
fn section_8_only_a_leader_takes_commands_and_others_name_it() {
    let mut bench = Bench::new(Restored::default());
    let propose = |ticket| Input::Propose { ticket, data: Bytes::from_static(b"x") };
    assert_eq!(bench.step(propose(1)), [Output::Rejected { ticket: 1, leader: None }]);
    bench.append(3, 1, last(0, 0), &[], 0);
    assert_eq!(bench.step(propose(2)), [Output::Rejected { ticket: 2, leader: Some(3) }]);
    assert_eq!(bench.terms(), [0; 0], "nothing happened with it");
}

#[test]
fn thesis_6_4_alone_a_read_needs_no_round() {
    let mut alone = Bench::with(config(1, 1, 1), Restored::default());
    alone.step(Input::Tick);
    assert_eq!(ready(&alone.step(Input::Read { ticket: 5 })), [5]);
}

#[test]
fn thesis_6_4_a_read_is_ready_behind_what_it_must_see() {
    let mut leader = Bench::new(Restored::default());
    leader.lead();
    leader.accepted(2, 1, 0);
    leader.step(Input::Propose { ticket: 1, data: Bytes::from_static(b"x") });
    leader.accepted(2, 2, 0);
    let out = leader.step(Input::Read { ticket: 9 });
    let round = rounds(&out)[0];
    leader.step(Input::Propose { ticket: 2, data: Bytes::from_static(b"y") });
    // One answer brings the commit of the later entry and the quorum of the read.
    let out = leader.accepted(2, 3, round);
    let place = |is: fn(&Output) -> bool| out.iter().position(is).expect("both happen");
    assert!(place(|it| matches!(it, Output::Apply { .. })) < place(|it| matches!(it, Output::ReadReady { .. })));
    let index = out.iter().find_map(|it| if let Output::ReadReady { index, .. } = it { Some(*index) } else { None });
    assert!(index.is_some_and(|index| (2..=leader.raft.applied()).contains(&index)), "{index:?}");
}

#[test]
fn thesis_9_6_a_quorum_of_pre_votes_begins_the_election() {
    let mut bench = Bench::new(restored(3, &[1]));
    bench.step(Input::Tick);
    bench.stand();
    bench.hear(2, Message::PreVoteReply { term: 3, ballot: Ballot::Refused });
    assert_eq!((bench.raft.role(), bench.raft.term()), (Role::PreCandidate, 3));
    let out = bench.hear(3, Message::PreVoteReply { term: 3, ballot: Ballot::Granted });
    assert_eq!((bench.raft.role(), bench.raft.term(), bench.raft.hard.vote), (Role::Candidate, 4, Some(1)));
    let asked: Vec<NodeId> = sent(&out)
        .iter()
        .filter(|(_, message)| **message == Message::Vote { term: 4, last: last(1, 1) })
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(asked, [2, 3]);
}

#[test]
fn thesis_10_2_1_a_leader_sends_while_its_own_disk_writes() {
    let mut leader = Bench::new(Restored::default());
    leader.lead();
    leader.accepted(2, 1, 0);
    leader.disk = Disk::Waits;
    let out = leader.step(Input::Propose { ticket: 1, data: Bytes::from_static(b"x") });
    assert_eq!(appends(2, &out)[0].entries, [Entry { data: Bytes::from_static(b"x"), ..entry(2, 1) }]);
    leader.accepted(2, 2, 0);
    assert_eq!(leader.raft.commit(), 1, "one disk of three");
    leader.accepted(3, 2, 0);
    assert_eq!(leader.raft.commit(), 2, "two others suffice");
}
