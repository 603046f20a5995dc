//! Disks that hang or fail, of either of a pair: who leaves, who takes over, and that nothing unsafe is said meanwhile.

use super::super::two::{JOINER, PRIMARY, Two};
use super::super::{Admission, Limits};
use super::*;
use cutover_arbiter::record::Change;

/// In sync, in a mode that keeps journals.
fn pair() -> Two {
    let mut two = Two::of_mode(Mode::Buffered, Limits::default());
    two.turn(JOINER, None);
    two.until("in sync", Two::in_sync);
    two.pass(50);
    two
}

fn stalled(event: &Event) -> bool {
    matches!(event, Event::JournalStalled { .. })
}

fn primary(two: &Two) -> String {
    two.record().map(|record| record.primary.replica.to_string()).unwrap_or_default()
}

#[test]
fn a_primary_whose_disk_hangs_hands_over_and_what_it_executed_is_committed_by_the_other() {
    let mut two = pair();
    two.stall_after(Duration::from_millis(300));
    let life = two.cores[PRIMARY].incarnation();
    two.hangs[PRIMARY] = true;
    let hold = two.write("executed", 10);
    two.pass(250);
    assert_eq!((primary(&two).as_str(), two.heard(PRIMARY, stalled)), ("a", 0), "not before journal_stall_limit");
    assert!(!two.cores[PRIMARY].release().covers(hold), "its own journal does not hold it");
    two.until("the other primary", |two| two.cores[JOINER].admission() == Admission::Open);
    assert_eq!((primary(&two).as_str(), two.heard(PRIMARY, stalled)), ("b", 1));
    let change = two.was_granted(|change| matches!(change, Change::HandOver { .. }));
    assert!(change, "handed over, not taken");
    let held = two.cores[JOINER].vitals();
    assert!(held.applied >= hold.index, "{held:?}");
    // The one with the hanging disk acknowledges nothing: the new primary goes on without it.
    two.until("alone", |two| !two.in_sync());
    let alone = two.write_on(JOINER, "alone", 10);
    assert!(two.cores[JOINER].release().covers(alone));
    two.pass(3000);
    assert!(!two.in_sync(), "a disk that hangs takes no entries");
    two.disk_answers(PRIMARY);
    two.assert_equal();
    assert_eq!(two.cores[PRIMARY].incarnation(), life, "it lost nothing and is the same life");
}

#[test]
fn a_primary_that_cannot_release_for_its_disk_is_not_waited_for_until_the_limit() {
    let mut two = pair();
    two.hangs[PRIMARY] = true;
    let hold = two.write("executed", 10);
    two.until("the other primary", |two| two.cores[JOINER].admission() == Admission::Open);
    assert!(two.was_granted(|change| matches!(change, Change::TakeOver)) && two.heard(PRIMARY, stalled) == 0);
    assert!(two.cores[JOINER].vitals().applied >= hold.index);
    two.disk_answers(PRIMARY);
    two.assert_equal();
}

#[test]
fn a_primary_whose_disk_hangs_and_has_no_successor_waits_for_its_disk() {
    let mut two = Two::of_mode(Mode::Buffered, Limits::default());
    two.stopped = true;
    two.hangs[PRIMARY] = true;
    let hold = two.write("alone", 10);
    two.pass(5000);
    assert_eq!((two.heard(PRIMARY, stalled), primary(&two).as_str()), (1, "a"));
    assert!(!two.cores[PRIMARY].release().covers(hold));
    assert_eq!(two.stops[PRIMARY], None);
    two.disk_answers(PRIMARY);
    assert!(two.cores[PRIMARY].release().covers(hold));
}

#[test]
fn a_backup_whose_disk_hangs_leaves_and_comes_back_when_it_answers() {
    let mut two = pair();
    two.hangs[JOINER] = true;
    let hold = two.write("held by one", 10);
    two.pass(900);
    assert!(two.in_sync() && !two.cores[PRIMARY].release().covers(hold), "it is required until the arbiters spoke");
    two.until("alone", |two| !two.in_sync());
    assert_eq!((two.heard(JOINER, stalled), primary(&two).as_str()), (1, "a"));
    assert!(two.cores[PRIMARY].release().covers(hold));
    two.pass(3000);
    assert!(!two.in_sync(), "a disk that hangs takes no entries");
    two.disk_answers(JOINER);
    two.assert_equal();
    let deltas = two.heard(PRIMARY, |event| matches!(event, Event::DeltaRejoin { .. }));
    let transfers = two.heard(PRIMARY, |event| matches!(event, Event::TransferStarted { .. }));
    assert_eq!((deltas, transfers), (1, 1), "back by delta; the one transfer was its first");
}

#[test]
fn a_backup_whose_disk_hangs_does_not_take_over() {
    let mut two = pair();
    two.hangs[JOINER] = true;
    two.write("entry", 10);
    two.pass(1200);
    // The primary's process ends now, whatever the record says.
    two.turn(PRIMARY, Some(Input::JournalFailed { reason: "EIO".to_owned() }));
    two.pass(3000);
    assert_eq!(primary(&two), "a", "nobody leads who cannot make its epoch durable");
    assert_ne!(two.cores[JOINER].admission(), Admission::Open);
}

#[test]
fn a_primary_whose_disk_fails_hands_over_before_it_ends() {
    for reason in ["input/output error", "no space left on device"] {
        let mut two = pair();
        let life = two.record().unwrap().primary.incarnation;
        two.hangs[PRIMARY] = true;
        let hold = two.write("executed", 10);
        two.turn(PRIMARY, Some(Input::JournalFailed { reason: reason.to_owned() }));
        assert!(!two.cores[PRIMARY].release().covers(hold));
        two.until("its end", |two| two.stops[PRIMARY].is_some());
        assert_eq!(two.stops[PRIMARY], Some(StopReason::Journal(reason.to_owned())));
        assert_eq!(primary(&two), "b", "the successor is primary before the process ends");
        assert!(two.was_granted(|change| matches!(change, Change::HandOver { .. })));
        two.until("alone", |two| !two.in_sync());
        assert_eq!(two.cores[JOINER].admission(), Admission::Open);
        assert!(two.cores[JOINER].vitals().applied >= hold.index);
        assert_ne!(two.record().unwrap().primary.incarnation, life);
    }
}

#[test]
fn a_backup_or_a_lone_primary_whose_disk_fails_ends_at_once() {
    let failed = || Input::JournalFailed { reason: "input/output error".to_owned() };
    let mut two = pair();
    two.turn(JOINER, Some(failed()));
    assert!(matches!(two.stops[JOINER], Some(StopReason::Journal(_))));
    two.cut();
    two.until("alone", |two| !two.in_sync());
    let hold = two.write("alone", 10);
    assert!(two.cores[PRIMARY].release().covers(hold));
    two.turn(PRIMARY, Some(failed()));
    assert!(matches!(two.stops[PRIMARY], Some(StopReason::Journal(_))));
    assert!(!two.cores[PRIMARY].release().covers(hold), "nothing is released after a failure");
}

/// Who is not woken by its disk must have somebody else to be woken by.
#[test]
fn a_primary_may_learn_late_of_its_disk_only_while_another_replica_is_waited_for() {
    let mut two = pair();
    let late = |two: &Two| [PRIMARY, JOINER].map(|who| two.cores[who].may_learn_late_of_its_disk());
    // The other one's word is missing.
    two.hangs[JOINER] = true;
    let hold = two.write("slow there", 10);
    two.pass(10);
    assert_eq!(late(&two), [true, false], "a backup is woken: it has to acknowledge");
    two.disk_answers(JOINER);
    two.until("released", |two| two.cores[PRIMARY].release().covers(hold));
    // Its own is.
    two.hangs[PRIMARY] = true;
    let hold = two.write("slow here", 10);
    two.pass(10);
    assert_eq!(late(&two), [false, false], "nothing else would wake it");
    two.disk_answers(PRIMARY);
    two.until("released", |two| two.cores[PRIMARY].release().covers(hold));
    // Alone nobody's word is missing.
    two.hangs[JOINER] = true;
    two.write("slow there", 10);
    two.until("alone", |two| !two.in_sync());
    two.hangs[PRIMARY] = true;
    two.write("alone", 10);
    assert_eq!(late(&two), [false, false]);
}
