//! Heartbeats of an idle pair: who is woken by them, and whose silence is whose.

use super::super::two::{JOINER, PRIMARY, Two};
use super::super::{Hold, Input, Limits, Role};
use super::*;

fn pair() -> Two {
    let mut two = Two::new(Limits::default());
    two.turn(JOINER, None);
    two.until("in sync", Two::in_sync);
    two.pass(200);
    two
}

fn suspects(two: &Two) -> usize {
    two.heard(JOINER, |event| matches!(event, Event::Suspected { .. }))
}

/// A millisecond goes by; each has a turn when it is due, or has a message. True when the other replica was due.
fn idle(two: &mut Two) -> bool {
    two.now.boot += Duration::from_millis(1);
    [PRIMARY, JOINER].map(|who| {
        let due = two.cores[who].next_deadline().is_some_and(|deadline| deadline <= two.now.boot);
        if due {
            two.turn(who, None);
        }
        due
    })[JOINER]
}

/// The longest silence that the other replica knew in that time.
fn longest_silence(two: &mut Two, millis: u64) -> u128 {
    let silence = |two: &Two| two.cores[JOINER].status().silence.unwrap_or_default().as_millis();
    (0..millis)
        .map(|_| {
            two.pass(1);
            silence(two)
        })
        .max()
        .unwrap_or_default()
}

#[test]
fn a_backup_that_hears_its_primary_is_woken_by_nothing_else() {
    let mut two = pair();
    assert_eq!((0..3000).filter(|_| idle(&mut two)).count(), 0);
    // One that hears nothing is due as often as a heartbeat would be, and suspects in time.
    two.take_wire();
    let mut due = 0;
    for _ in 0..501 {
        due += usize::from(suspects(&two) == 0 && idle(&mut two));
    }
    assert!((3..=5).contains(&due) && suspects(&two) == 1, "due {due} times, suspected {} times", suspects(&two));
}

#[test]
fn a_backup_that_stood_still_does_not_count_it_as_silence() {
    for absence in [260, 300, 500, 5000] {
        let mut two = pair();
        let wire = two.take_wire().unwrap();
        two.now.boot += Duration::from_millis(absence);
        two.turn(JOINER, None);
        let silence = two.cores[JOINER].status().silence.unwrap_or_default();
        // What it had heard before it stood still, and one heartbeat.
        assert!(silence <= Duration::from_millis(255) && suspects(&two) == 0, "{silence:?} after {absence} ms");
        two.put_wire(wire);
        two.pass(1000);
        assert_eq!(suspects(&two), 0);
    }
}

#[test]
fn a_spare_that_nothing_is_to_be_told_is_told_so_seldom() {
    let mut two = pair();
    assert!(longest_silence(&mut two, 1000) <= 126);
    let mut two = Two::new(Limits::default());
    two.cores[PRIMARY].config.copies = 1;
    two.turn(JOINER, None);
    two.until("a spare", |two| two.cores[JOINER].status().role == Role::Spare);
    two.pass(1000);
    let silence = longest_silence(&mut two, 2000);
    assert!((490..=510).contains(&silence), "{silence} ms");
    // An entry, and that it is committed, are told as soon as to anyone.
    let hold = two.write("key", 10);
    two.pass(126);
    assert_eq!(two.cores[JOINER].status().applied, hold.index);
    assert!(longest_silence(&mut two, 2000) <= 510);
}

/// A write whose entry takes so long to come, in parts on that link.
fn long_entry(two: &mut Two, millis: u64, part_of: Option<LinkId>) -> Hold {
    two.coming = Some(Vec::new());
    let hold = two.write("key", 10);
    for _ in 0..millis / 10 {
        two.pass(10);
        if let Some(link) = part_of {
            two.turn(JOINER, Some(Input::PeerPart(link)));
        }
    }
    hold
}

#[test]
fn an_entry_that_takes_long_to_come_makes_nobody_suspect() {
    let mut two = pair();
    let (epoch, wire) = (two.record().unwrap().epoch, two.wire().unwrap());
    let hold = long_entry(&mut two, 1500, Some(wire.dialled));
    assert!(!two.cores[PRIMARY].release().covers(hold));
    assert_eq!((two.record().unwrap().epoch, suspects(&two)), (epoch, 0));
    two.came();
    assert!(two.cores[PRIMARY].release().covers(hold));
    two.pass(1000);
    assert_eq!((two.record().unwrap().epoch, suspects(&two)), (epoch, 0));
    two.assert_equal();
}

/// The primary waits for one that acknowledges nothing more; whether it may remove it is up to the arbiters.
#[test]
fn a_backup_that_is_long_behind_is_removed_whatever_comes_in_parts() {
    let mut two = pair();
    let wire = two.wire().unwrap();
    let hold = long_entry(&mut two, 2300, Some(wire.dialled));
    assert!(!two.in_sync() && two.cores[PRIMARY].release().covers(hold));
    assert_eq!(suspects(&two), 0);
}

/// A frame whose length was damaged: what follows seems to belong to it.
#[test]
fn a_message_that_never_ends_is_no_sign_of_life_without_end() {
    let mut two = pair();
    let wire = two.wire().unwrap();
    two.coming = Some(Vec::new());
    let parts = |two: &mut Two, millis: u64| {
        for _ in 0..millis / 10 {
            two.pass(10);
            two.turn(JOINER, Some(Input::PeerPart(wire.dialled)));
        }
    };
    parts(&mut two, 1900);
    assert_eq!(suspects(&two), 0);
    parts(&mut two, 700);
    assert_eq!(suspects(&two), 1);
}

/// Followers send nothing large.
#[test]
fn parts_of_what_a_follower_sends_say_nothing() {
    let mut two = pair();
    let wire = two.take_wire().unwrap();
    for _ in 0..40 {
        two.pass(10);
        two.turn(PRIMARY, Some(Input::PeerPart(wire.accepted)));
    }
    assert!(!two.in_sync());
}

#[test]
fn parts_on_another_link_or_none_are_no_sign_of_life() {
    for link in [None, Some(7777)] {
        let mut two = pair();
        let epoch = two.record().unwrap().epoch;
        long_entry(&mut two, 700, link);
        assert!(two.record().unwrap().epoch > epoch || suspects(&two) == 1, "{link:?}");
    }
}
