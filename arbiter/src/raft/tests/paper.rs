//! The rules of the Raft paper (Ongaro and Ousterhout, extended version) and of Ongaro's thesis, each by its section, on
//! one core driven by hand. The lines of figure 2 that are not here stand in `figure2`.
//!
//! | rule | test |
//! |---|---|
//! | **figure 2, state** | |
//! | term, vote and log are durable before an answer | `figure_2_own_vote_counts_only_when_it_is_durable`, `figure_2_a_vote_and_an_acknowledgement_leave_when_they_are_durable` |
//! | ... and are there after a restart | `figure_2_what_was_persisted_is_what_a_restart_has` |
//! | commit and applied begin at 0 and rise; entries are applied in order, once | `figure_2_commit_and_applied_begin_at_zero_and_only_rise` |
//! | a leader's next index begins behind its log, its match index at 0 | `figure_2_a_leader_supposes_nothing_of_its_followers` |
//! | **figure 2, AppendEntries** | |
//! | 1. an older term is refused | `section_5_1_an_older_term_is_refused_and_told_the_newer` |
//! | 2. refused where the entry before does not match | `figure_2_an_append_whose_entry_before_does_not_match_is_refused` |
//! | 3. and 4. what conflicts goes with all behind it, what is new is appended | `section_5_3_an_early_or_repeated_append_cuts_nothing_that_matches` |
//! | 5. commit is the lesser of the leader's and the last new entry | `section_5_3_an_acknowledgement_names_what_was_verified_never_the_end_of_the_log`, `figure_2_commit_follows_the_leader_and_never_passes_what_was_verified` |
//! | **figure 2, RequestVote** | |
//! | 1. an older term is refused | `section_5_1_an_older_term_is_refused_and_told_the_newer` |
//! | 2. one vote per term, for a log not behind | `section_5_2_votes_are_first_come_first_served_and_one_per_term`, `section_5_4_1_a_voter_refuses_a_log_behind_its_own` |
//! | **figure 2, rules for servers** | |
//! | all: commit above applied is applied | `figure_2_commit_and_applied_begin_at_zero_and_only_rise` |
//! | all: a higher term makes a follower | `section_5_1_a_higher_term_makes_any_role_a_follower`, `figure_2_a_higher_term_in_any_message_makes_any_role_a_follower` |
//! | followers: answer leaders and candidates | `section_5_2_votes_are_first_come_first_served_and_one_per_term`, `section_5_3_an_acknowledgement_names_what_was_verified_never_the_end_of_the_log` |
//! | followers: stand when neither leader nor candidate was heard | `figure_2_a_follower_stands_when_neither_leader_nor_candidate_was_heard`, `figure_2_a_refused_vote_does_not_put_off_the_own_election` |
//! | candidates: raise the term, vote for themselves, ask all | `figure_2_own_vote_counts_only_when_it_is_durable`, `thesis_9_6_a_quorum_of_pre_votes_begins_the_election` |
//! | candidates: a majority makes a leader | `figure_2_a_majority_of_different_voters_makes_a_leader` |
//! | candidates: yield to the leader of the term | `section_5_2_a_candidate_yields_to_the_leader_of_its_term` |
//! | candidates: stand again after a timeout | `figure_2_a_candidate_that_wins_nothing_stands_again_in_a_higher_term` |
//! | leaders: speak at once and while idle | `figure_2_a_leader_speaks_at_once_and_while_idle`, `an_idle_cluster_sends_heartbeats_only` |
//! | leaders: a command is answered when applied | `figure_2_a_command_is_applied_when_a_quorum_holds_it` |
//! | leaders: send from the next index; success moves it on, refusal back | `figure_2_success_moves_the_next_index_on_and_refusal_moves_it_back`, `figure_7_followers_and_leader_meet_in_a_few_round_trips` |
//! | leaders: commit what a majority holds, of the own term | `figure_2_the_majority_of_five_commits`, `figure_8_an_entry_of_an_old_term_is_not_committed_by_counting` |
//! | **sections** | |
//! | 5.2 election timeouts are random | `section_5_2_election_timeouts_differ` |
//! | 5.2 the vote lasts as long as the term | `section_5_2_the_vote_survives_a_return_to_follower_in_the_same_term` |
//! | 5.3 a leader's own copy counts when durable | `section_5_3_a_leaders_own_entry_counts_only_when_it_is_durable` |
//! | 5.3 a leader never cuts its own log | `section_5_3_a_leader_never_cuts_its_own_log` |
//! | 5.3 committed entries stay | `section_5_3_committed_entries_are_never_replaced_even_by_a_broken_leader` |
//! | 5.3 replies arrive late and twice | `section_5_3_an_old_reply_moves_nothing` |
//! | 5.4.3 leader completeness | `r4_leader_completeness` after every step of every storm |
//! | 5.5 a silent follower is asked again for ever; requests are idempotent | `section_5_5_a_silent_follower_is_asked_again_and_again`, `section_5_5_a_repeated_request_gets_the_same_answer` |
//! | 5.6 the heartbeat is well below the election timeout | `section_5_6_timers_that_cannot_work_are_refused` |
//! | 6 membership changes | not built (ARCHITECTURE.md) |
//! | 7, figure 13: 1. an older term is refused | `figure_13_a_snapshot_of_an_older_term_is_refused` |
//! | 7, figure 13: 2. to 5. the snapshot is kept, in one piece | `section_7_a_snapshot_over_a_conflicting_log_replaces_it`, `section_7_an_old_snapshot_takes_nothing_back` |
//! | 7, figure 13: 6. what follows it is kept | `section_7_a_snapshot_that_the_log_holds_keeps_what_follows` |
//! | 7, figure 13: 7. and 8. the log goes, the machine is replaced | `section_7_a_snapshot_over_a_conflicting_log_replaces_it` |
//! | 7 each compacts on its own and still knows the entry before | `section_7_the_entry_before_a_compacted_log_stays_known` |
//! | 7 who is too far behind gets the snapshot | `section_7_a_follower_behind_the_log_gets_the_snapshot_and_then_the_rest` |
//! | 8 a no-op begins the term | `section_8_a_leader_begins_its_term_with_a_no_op` |
//! | 8 who does not lead says who does | `section_8_only_a_leader_takes_commands_and_others_name_it` |
//! | 8 a repeated command is executed once | `a_repeated_request_gets_its_first_answer_while_remembered_and_seizures_stay_for_ever` in the register, which the log replicates |
//! | thesis 4.2.3 who hears a leader ignores candidates | `thesis_4_2_3_who_hears_a_leader_is_not_disturbed`, `thesis_4_2_3_a_leader_with_a_quorum_is_not_disturbed` |
//! | thesis 6.2 a leader without a quorum steps down | `thesis_6_2_a_leader_without_a_quorum_steps_down_and_one_with_it_stays` |
//! | thesis 6.4 read-index 1. a commit of the own term first | `thesis_6_4_no_read_before_a_commit_of_the_own_term` |
//! | thesis 6.4 read-index 2. and 3. a round that began after the read | `thesis_6_4_an_answer_to_an_earlier_message_confirms_no_read`, `thesis_6_4_alone_a_read_needs_no_round` |
//! | thesis 6.4 read-index 4. and 5. applied before it is answered | `thesis_6_4_a_read_is_ready_behind_what_it_must_see` |
//! | thesis 6.4 no read survives the leadership | `thesis_6_4_a_leader_that_steps_down_answers_no_read` |
//! | thesis 9.6 a pre-vote raises no term | `thesis_9_6_a_pre_vote_raises_no_term` |
//! | thesis 9.6 a quorum of pre-votes begins the election | `thesis_9_6_a_quorum_of_pre_votes_begins_the_election` |
//! | thesis 9.6 who is behind in term learns it | `thesis_9_6_a_stuck_arbiter_learns_the_term_from_a_refused_pre_vote` |
//! | thesis 10.2.1 a leader sends while its disk writes | `thesis_10_2_1_a_leader_sends_while_its_own_disk_writes` |
//! | thesis 3.10 leadership transfer | not built (ARCHITECTURE.md) |

use bytes::Bytes;

use super::bench::{Bench, Disk, ballot, entry, last, outcome, ready, restored, rounds, sent, to};
use super::cluster::{Cluster, Faults, MS, config};
use crate::raft::{
    Append, AppendOutcome, Ballot, Config, Entry, Input, MAX_SNAPSHOT_BYTES, Message, Output, Restored, Role, Snapshot,
    Term,
};

/// The table above names tests that exist, and every test that is named after a section stands in it.
#[test]
fn the_table_is_true() {
    let sources = [include_str!("paper.rs"), include_str!("figure2.rs")];
    let elsewhere = [include_str!("invariants.rs"), include_str!("../../record/register_tests.rs")];
    let table: Vec<&str> = sources[0].lines().filter(|line| line.starts_with("//! |")).collect();
    let named: Vec<&str> =
        table.iter().flat_map(|line| line.split('`').skip(1).step_by(2)).filter(|name| name.contains('_')).collect();
    assert!(named.len() > 50, "{} names", named.len());
    for name in &named {
        let declared = format!("fn {name}(");
        assert!(sources.iter().chain(&elsewhere).any(|source| source.contains(&declared)), "no test `{name}`");
    }
    let tests = sources.iter().flat_map(|source| source.split("#[test]\nfn ").skip(1));
    for name in tests.filter_map(|test| test.split_once('(')).map(|(name, _)| name) {
        let of_the_paper = ["figure_", "section_", "thesis_"].iter().any(|prefix| name.starts_with(prefix));
        assert!(!of_the_paper || named.contains(&name), "`{name}` has no line in the table");
    }
}

#[test]
fn section_5_1_a_higher_term_makes_any_role_a_follower() {
    let mut leader = Bench::new(Restored::default());
    leader.lead();
    leader.append(3, 5, last(0, 0), &[], 0);
    assert_eq!((leader.raft.role(), leader.raft.term(), leader.raft.leader()), (Role::Follower, 5, Some(3)));
}

#[test]
fn section_5_1_an_older_term_is_refused_and_told_the_newer() {
    let mut bench = Bench::new(restored(4, &[]));
    let out = bench.append(2, 3, last(0, 0), &[3], 1);
    assert!(matches!(sent(&out)[..], [(2, Message::AppendReply { term: 4, outcome: AppendOutcome::Stale, .. })]));
    let out = bench.hear(2, Message::Vote { term: 3, last: last(9, 9) });
    assert!(matches!(sent(&out)[..], [(2, Message::VoteReply { term: 4, ballot: Ballot::Refused })]));
    assert_eq!((bench.raft.leader(), bench.terms().len()), (None, 0));
}

#[test]
fn section_5_2_votes_are_first_come_first_served_and_one_per_term() {
    let mut bench = Bench::new(Restored::default());
    let vote = |term| Message::Vote { term, last: last(0, 0) };
    assert_eq!(ballot(&bench.hear(2, vote(1))), Some(Ballot::Granted));
    assert_eq!(ballot(&bench.hear(3, vote(1))), Some(Ballot::Refused));
    assert_eq!(ballot(&bench.hear(2, vote(1))), Some(Ballot::Granted), "a repeated request gets its first answer");
    assert_eq!(ballot(&bench.hear(3, vote(2))), Some(Ballot::Granted));
}

#[test]
fn section_5_2_the_vote_survives_a_return_to_follower_in_the_same_term() {
    let mut bench = Bench::new(Restored::default());
    bench.lead();
    let term = bench.raft.term();
    bench.wait(100 * MS);
    assert_eq!((bench.raft.role(), bench.raft.term()), (Role::Follower, term));
    assert_eq!(ballot(&bench.hear(3, Message::Vote { term, last: last(9, 9) })), Some(Ballot::Refused));
}

#[test]
fn section_5_2_a_candidate_yields_to_the_leader_of_its_term() {
    let mut bench = Bench::new(Restored::default());
    bench.step(Input::Tick);
    bench.stand();
    bench.hear(2, Message::PreVoteReply { term: 0, ballot: Ballot::Granted });
    assert_eq!((bench.raft.role(), bench.raft.term()), (Role::Candidate, 1));
    bench.append(3, 1, last(0, 0), &[], 0);
    assert_eq!((bench.raft.role(), bench.raft.leader()), (Role::Follower, Some(3)));
}

#[test]
fn section_5_2_election_timeouts_differ() {
    let due = |seed| Bench::with(config(1, 3, seed), Restored::default());
    let dues: std::collections::BTreeSet<u64> = (0..20).map(|seed| due(seed).raft.election_due).collect();
    assert!(dues.len() > 15 && dues.iter().all(|due| (50 * MS..=100 * MS).contains(due)));
}

#[test]
fn figure_2_own_vote_counts_only_when_it_is_durable() {
    let mut bench = Bench::new(Restored::default());
    bench.step(Input::Tick);
    bench.stand();
    bench.disk = Disk::Waits;
    let out = bench.hear(2, Message::PreVoteReply { term: 0, ballot: Ballot::Granted });
    assert!(sent(&out).is_empty(), "no request leaves before the vote is durable");
    bench.hear(2, Message::VoteReply { term: 1, ballot: Ballot::Granted });
    assert_eq!(bench.raft.role(), Role::Candidate);
    let out = bench.step(Input::Persisted { upto: 1 });
    assert_eq!(sent(&out).iter().filter(|(_, message)| matches!(message, Message::Vote { .. })).count(), 2);
    bench.hear(2, Message::VoteReply { term: 1, ballot: Ballot::Granted });
    assert_eq!(bench.raft.role(), Role::Leader);
}

#[test]
fn figure_2_a_vote_and_an_acknowledgement_leave_when_they_are_durable() {
    let mut bench = Bench::new(Restored::default());
    bench.disk = Disk::Waits;
    assert!(sent(&bench.hear(2, Message::Vote { term: 1, last: last(0, 0) })).is_empty());
    assert_eq!(ballot(&bench.step(Input::Persisted { upto: 1 })), Some(Ballot::Granted));
    assert!(sent(&bench.append(2, 1, last(0, 0), &[1], 0)).is_empty());
    let out = bench.append(2, 1, last(1, 1), &[], 0);
    assert_eq!(outcome(&out), AppendOutcome::Accepted { matched: 0 }, "a heartbeat tells only what is durable");
    assert_eq!(outcome(&bench.step(Input::Persisted { upto: 2 })), AppendOutcome::Accepted { matched: 1 });
}

#[test]
fn section_5_3_a_leaders_own_entry_counts_only_when_it_is_durable() {
    let mut alone = Bench::with(config(1, 1, 1), Restored::default());
    alone.disk = Disk::Waits;
    alone.step(Input::Tick);
    alone.step(Input::Persisted { upto: 1 });
    assert_eq!((alone.raft.role(), alone.raft.commit()), (Role::Leader, 0));
    alone.step(Input::Persisted { upto: 2 });
    assert_eq!(alone.raft.commit(), 1);
}

#[test]
fn section_5_3_an_acknowledgement_names_what_was_verified_never_the_end_of_the_log() {
    let mut bench = Bench::new(restored(2, &[1, 1, 1, 1]));
    let out = bench.append(2, 2, last(1, 1), &[1], 9);
    assert_eq!(outcome(&out), AppendOutcome::Accepted { matched: 2 });
    assert_eq!(bench.raft.commit(), 2, "what was not verified is not committed");
}

#[test]
fn section_5_3_an_early_or_repeated_append_cuts_nothing_that_matches() {
    let mut bench = Bench::new(restored(1, &[1, 1, 1]));
    bench.append(2, 1, last(0, 0), &[1], 0);
    assert_eq!(bench.terms(), [1, 1, 1]);
    bench.append(2, 2, last(1, 1), &[2], 0);
    assert_eq!(bench.terms(), [1, 2], "what conflicts goes, and all that follows it");
}

#[test]
fn section_5_3_committed_entries_are_never_replaced_even_by_a_broken_leader() {
    let mut bench = Bench::new(restored(1, &[1, 1]));
    bench.append(2, 1, last(2, 1), &[], 2);
    bench.append(2, 3, last(0, 0), &[3, 3], 0);
    assert_eq!(bench.terms(), [1, 1]);
}

#[test]
fn figure_7_followers_and_leader_meet_in_a_few_round_trips() {
    let leader_log = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[Term]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for terms in followers {
        let mut leader = Bench::new(restored(7, &leader_log));
        let mut follower = Bench::with(config(2, 3, 1), restored(7, terms));
        let mut mail: Vec<Message> = to(2, leader.lead());
        let mut trips = 0;
        while !mail.is_empty() {
            trips += 1;
            assert!(trips < 9, "too many round trips for {terms:?}");
            let replies: Vec<Message> = mail.drain(..).flat_map(|it| to(1, follower.hear(1, it))).collect();
            mail.extend(replies.into_iter().flat_map(|it| to(2, leader.hear(2, it))));
        }
        assert_eq!(follower.terms(), leader.terms(), "follower {terms:?}");
    }
}

#[test]
fn section_5_3_an_old_reply_moves_nothing() {
    let mut leader = Bench::new(restored(1, &[1, 1, 1]));
    leader.lead();
    leader.accepted(2, 4, 0);
    assert_eq!(leader.raft.commit(), 4);
    leader.accepted(2, 2, 0);
    let old = AppendOutcome::Conflict { rejected: 3, hint_index: 1, hint_term: 1 };
    let out = leader.hear(2, Message::AppendReply { term: 2, outcome: old, round: 0 });
    assert!(sent(&out).is_empty(), "answered long ago");
    let out = leader.accepted(3, 99, 0);
    assert!(out.is_empty(), "nobody can have verified more than the leader has");
    let asked = leader.wait(10 * MS);
    assert!(
        sent(&asked).iter().any(|(to, it)| *to == 3 && matches!(it, Message::Append(append) if append.prev_index < 99))
    );
}

#[test]
fn section_5_4_1_a_voter_refuses_a_log_behind_its_own() {
    for (candidate, answer) in [
        (last(9, 1), Ballot::Refused),
        (last(1, 2), Ballot::Refused),
        (last(2, 2), Ballot::Granted),
        (last(1, 3), Ballot::Granted),
    ] {
        let mut bench = Bench::new(restored(3, &[1, 2]));
        assert_eq!(ballot(&bench.hear(2, Message::PreVote { term: 3, last: candidate })), Some(answer));
        assert_eq!(ballot(&bench.hear(2, Message::Vote { term: 4, last: candidate })), Some(answer));
    }
}

#[test]
fn figure_8_an_entry_of_an_old_term_is_not_committed_by_counting() {
    let mut leader = Bench::new(restored(3, &[1, 2]));
    leader.lead();
    assert_eq!(leader.raft.term(), 4);
    leader.accepted(2, 2, 0);
    assert_eq!(leader.raft.commit(), 0, "a quorum holds entry 2, but it may still be replaced");
    leader.accepted(2, 3, 0);
    assert_eq!(leader.raft.commit(), 3, "an entry of its own term commits everything before it");
}

#[test]
fn section_7_a_snapshot_over_a_conflicting_log_replaces_it() {
    let mut bench = Bench::new(restored(1, &[1, 1, 1]));
    let snapshot = Snapshot { meta: last(2, 2), data: Bytes::new() };
    let out = bench.hear(2, Message::InstallSnapshot { term: 2, snapshot, round: 3 });
    assert!(out.iter().any(|output| matches!(output, Output::Restore { .. })));
    assert_eq!((bench.raft.applied(), bench.raft.log.last()), (2, last(2, 2)));
    let stored = out.iter().any(|output| match output {
        Output::Persist(batch) => batch.truncate_from == Some(1) && batch.snapshot.is_some(),
        _ => false,
    });
    assert!(stored, "the disk drops the conflicting tail with the same write");
    assert!(matches!(sent(&out)[..], [(2, Message::InstallSnapshotReply { matched: 2, round: 3, .. })]));
}

#[test]
fn section_7_a_snapshot_that_the_log_holds_keeps_what_follows() {
    let mut bench = Bench::new(restored(2, &[1, 1, 2]));
    let snapshot = Snapshot { meta: last(2, 1), data: Bytes::new() };
    let out = bench.hear(2, Message::InstallSnapshot { term: 2, snapshot, round: 0 });
    assert!(!out.iter().any(|output| matches!(output, Output::Restore { .. })));
    assert_eq!((bench.raft.applied(), bench.raft.log.last()), (2, last(3, 2)));
}

#[test]
fn section_7_an_old_snapshot_takes_nothing_back() {
    let mut bench = Bench::new(restored(2, &[1, 1, 2]));
    bench.append(2, 2, last(3, 2), &[], 3);
    let snapshot = Snapshot { meta: last(1, 1), data: Bytes::new() };
    bench.hear(2, Message::InstallSnapshot { term: 2, snapshot, round: 0 });
    assert_eq!((bench.raft.applied(), bench.raft.commit()), (3, 3));
}

#[test]
fn section_7_a_follower_behind_the_log_gets_the_snapshot_and_then_the_rest() {
    let mut cluster = Cluster::new(3, 1, Faults::NONE);
    cluster.run(300);
    let leader = cluster.leader().expect("elected in calm weather");
    let away = (1..=3).find(|&id| id != leader).expect("three members");
    cluster.cut.extend((1..=3).flat_map(|id| [(id, away), (away, id)]));
    for _ in 0..100 {
        cluster.propose(leader);
        cluster.run(3);
    }
    cluster.cut.clear();
    cluster.run(300);
    assert_eq!(cluster.pending(), None);
    assert!(cluster.ghost.seen.snapshots_installed > 0);
    assert_eq!(cluster.leader(), Some(leader), "who was away deposes nobody");
}

#[test]
fn a_snapshot_too_large_for_a_frame_is_refused_and_proposals_with_it() {
    let mut alone = Bench::with(Config { snapshot_after_entries: 1, ..config(1, 1, 1) }, Restored::default());
    let out = alone.step(Input::Tick);
    assert!(out.contains(&Output::TakeSnapshot { index: 1 }));
    let data = Bytes::from(vec![0; MAX_SNAPSHOT_BYTES + 1]);
    let out = alone.step(Input::SnapshotTaken { index: 1, data });
    assert!(matches!(out[..], [Output::SnapshotRefused { index: 1, .. }]));
    let out = alone.step(Input::Propose { ticket: 1, data: Bytes::from_static(b"x") });
    assert_eq!(out, [Output::Rejected { ticket: 1, leader: Some(1) }]);
}

#[test]
fn section_8_a_leader_begins_its_term_with_a_no_op() {
    let mut leader = Bench::new(restored(1, &[1]));
    let out = leader.lead();
    let no_op = Entry { term: 2, index: 2, data: Bytes::new() };
    assert!(
        sent(&out).iter().all(|(_, it)| matches!(it, Message::Append(append) if append.entries == [no_op.clone()]))
    );
}

#[test]
fn thesis_6_4_no_read_before_a_commit_of_the_own_term() {
    let mut leader = Bench::new(restored(1, &[1]));
    leader.lead();
    let out = leader.step(Input::Read { ticket: 7 });
    assert!(out.is_empty(), "it waits");
    assert!(ready(&leader.accepted(2, 1, 0)).is_empty());
    let out = leader.accepted(2, 2, 0);
    assert!(ready(&out).is_empty());
    assert!(rounds(&out).contains(&1), "the round begins after the commit");
    assert_eq!(ready(&leader.accepted(2, 2, 1)), [7]);
}

#[test]
fn thesis_6_4_an_answer_to_an_earlier_message_confirms_no_read() {
    let mut leader = Bench::new(Restored::default());
    leader.lead();
    leader.accepted(2, 1, 0);
    let out = leader.step(Input::Read { ticket: 1 });
    assert_eq!(rounds(&out), [1, 1]);
    assert!(ready(&leader.accepted(2, 1, 0)).is_empty(), "sent before the read arrived");
    leader.step(Input::Read { ticket: 2 });
    assert_eq!(ready(&leader.accepted(3, 0, 1)), [1], "the second read came after this round began");
    assert_eq!(ready(&leader.accepted(2, 1, 2)), [2]);
}

#[test]
fn thesis_6_4_a_leader_that_steps_down_answers_no_read() {
    let mut leader = Bench::new(Restored::default());
    leader.lead();
    leader.accepted(2, 1, 0);
    leader.step(Input::Read { ticket: 1 });
    let out = leader.append(3, 9, last(0, 0), &[], 0);
    let rejected = out.iter().position(|it| matches!(it, Output::ReadRejected { ticket: 1, .. }));
    let told = out.iter().position(|it| matches!(it, Output::Leadership { leader: Some(3), term: 9 }));
    assert!(rejected.is_some() && rejected < told);
    assert!(ready(&leader.accepted(2, 1, 1)).is_empty());
    let out = leader.step(Input::Read { ticket: 2 });
    assert_eq!(out, [Output::ReadRejected { ticket: 2, leader: Some(3) }]);
}

#[test]
fn thesis_9_6_a_pre_vote_raises_no_term() {
    let mut bench = Bench::new(restored(3, &[]));
    bench.step(Input::Tick);
    for _ in 0..5 {
        let out = bench.stand();
        assert!(sent(&out).iter().all(|(_, it)| matches!(it, Message::PreVote { term: 3, .. })));
    }
    assert_eq!((bench.raft.role(), bench.raft.term()), (Role::PreCandidate, 3));
    assert_eq!(ballot(&bench.hear(2, Message::PreVote { term: 3, last: last(0, 0) })), Some(Ballot::Granted));
    assert_eq!(bench.raft.term(), 3);
}

#[test]
fn thesis_9_6_a_stuck_arbiter_learns_the_term_from_a_refused_pre_vote() {
    let mut bench = Bench::new(restored(5, &[1]));
    let out = bench.hear(2, Message::PreVote { term: 3, last: last(2, 2) });
    assert!(matches!(sent(&out)[..], [(2, Message::PreVoteReply { term: 5, ballot: Ballot::Refused })]));
    let mut stuck = Bench::new(restored(3, &[1, 2]));
    stuck.step(Input::Tick);
    stuck.stand();
    stuck.hear(2, Message::PreVoteReply { term: 5, ballot: Ballot::Refused });
    assert_eq!((stuck.raft.role(), stuck.raft.term()), (Role::Follower, 5));
}

#[test]
fn thesis_4_2_3_who_hears_a_leader_is_not_disturbed() {
    let mut bench = Bench::new(Restored::default());
    bench.append(2, 1, last(0, 0), &[], 0);
    for message in [Message::Vote { term: 9, last: last(9, 9) }, Message::PreVote { term: 1, last: last(9, 9) }] {
        assert!(bench.hear(3, message).is_empty());
    }
    assert_eq!((bench.raft.term(), bench.raft.leader()), (1, Some(2)));
    bench.now += 50 * MS;
    assert_eq!(ballot(&bench.hear(3, Message::Vote { term: 9, last: last(9, 9) })), Some(Ballot::Granted));
}

#[test]
fn thesis_4_2_3_a_leader_with_a_quorum_is_not_disturbed() {
    let mut leader = Bench::new(Restored::default());
    leader.lead();
    assert!(leader.hear(3, Message::Vote { term: 9, last: last(9, 9) }).is_empty());
    assert_eq!(leader.raft.role(), Role::Leader);
}

#[test]
fn thesis_6_2_a_leader_without_a_quorum_steps_down_and_one_with_it_stays() {
    let mut leader = Bench::new(Restored::default());
    leader.lead();
    for _ in 0..30 {
        leader.wait(10 * MS);
        leader.accepted(3, 0, 0);
    }
    assert_eq!(leader.raft.role(), Role::Leader);
    for _ in 0..10 {
        leader.wait(10 * MS);
    }
    assert_eq!((leader.raft.role(), leader.raft.leader()), (Role::Follower, None));
}

#[test]
fn r_l_one_way_links_do_not_stop_progress() {
    let mut cluster = Cluster::new(3, 3, Faults::NONE);
    cluster.run(300);
    let deaf = cluster.leader().expect("elected in calm weather");
    cluster.cut.extend((1..=3).map(|id| (id, deaf)));
    cluster.run(600);
    let leader = cluster.leader().expect("the others elect one of them");
    assert_ne!(leader, deaf);
    let term = cluster.raft(leader).term();
    cluster.run(1000);
    assert_eq!(cluster.raft(leader).term(), term, "the deaf one deposes nobody");
}

#[test]
fn an_idle_cluster_sends_heartbeats_only() {
    let mut leader = Bench::new(Restored::default());
    leader.lead();
    leader.accepted(2, 1, 0);
    leader.accepted(3, 1, 0);
    let out = leader.wait(10 * MS);
    assert_eq!(sent(&out).len(), 2);
    assert_eq!(out.len(), 2);
    assert!(leader.accepted(2, 1, 0).is_empty());
}

#[test]
fn proposals_beyond_the_limit_are_rejected_and_nothing_happened_with_them() {
    let mut leader = Bench::new(Restored::default());
    leader.lead();
    let mut propose = |ticket| leader.step(Input::Propose { ticket, data: Bytes::from(vec![1; 1500]) });
    assert!(propose(1).contains(&Output::Proposed { ticket: 1, index: 2, term: 1 }));
    assert!(propose(2).contains(&Output::Proposed { ticket: 2, index: 3, term: 1 }));
    assert_eq!(propose(3), [Output::Rejected { ticket: 3, leader: Some(1) }]);
}

#[test]
fn nonsense_from_a_peer_changes_nothing() {
    let mut bench = Bench::new(restored(1, &[1]));
    let gap = Append { term: 2, prev_index: 1, prev_term: 1, entries: vec![entry(3, 2)], commit: 0, round: 0 };
    let far = Append { term: 2, prev_index: u64::MAX, prev_term: 1, entries: vec![], commit: 0, round: 0 };
    let none = Snapshot { meta: last(0, 0), data: Bytes::new() };
    for message in [
        Message::Append(gap),
        Message::Append(far),
        Message::Vote { term: u64::MAX, last: last(0, 0) },
        Message::InstallSnapshot { term: 2, snapshot: none, round: 0 },
    ] {
        assert!(bench.hear(2, message).is_empty());
    }
    assert!(bench.hear(9, Message::Vote { term: 5, last: last(9, 9) }).is_empty(), "a stranger");
    assert_eq!((bench.raft.term(), bench.terms()), (1, vec![1]));
}
