//! A planned cut-over that comes to nothing.

use super::super::two::{JOINER, PRIMARY, Two};
use super::super::{Input, Limits, StopReason};
use super::*;

/// A pair whose backup stops answering during a switchover, and has been removed.
fn left_alone() -> Two {
    let mut two = Two::new(Limits::default());
    two.turn(JOINER, None);
    two.until("in sync", Two::in_sync);
    two.take_wire();
    two.stopped = true;
    two.write("k", 10);
    two.turn(PRIMARY, Some(Input::Switchover { to: None, ticket: 7 }));
    two.until("alone", |two| two.cores[PRIMARY].record().is_some_and(|record| record.in_sync.len() == 1));
    two
}

/// Seed 8201938: it came back in the same life while the arbiters were asked, and was proposed.
#[test]
fn a_switchover_ends_when_its_successor_is_removed() {
    let two = left_alone();
    assert_eq!(two.cores[PRIMARY].admission(), Admission::Open, "clients do not wait for one that is gone");
    let Stance::Primary(primary) = &two.cores[PRIMARY].role else { panic!("not primary") };
    assert!(primary.handover.is_none());
}

#[test]
fn a_stop_does_not_wait_for_a_successor_that_is_gone() {
    let mut two = left_alone();
    two.turn(PRIMARY, Some(Input::Shutdown));
    assert!(matches!(two.stops[PRIMARY], Some(StopReason::Asked)), "{:?}", two.stops[PRIMARY]);
}

#[test]
fn who_is_about_to_stop_does_not_take_over_from_its_successor() {
    let mut two = Two::new(Limits::default());
    two.turn(JOINER, None);
    two.until("in sync", Two::in_sync);
    two.pass(200);
    // It cannot begin its epoch.
    two.hangs[JOINER] = true;
    two.turn(PRIMARY, Some(Input::Shutdown));
    two.until("handed over", |two| two.was_granted(|change| matches!(change, Change::HandOver { .. })));
    two.pass(3000);
    assert!(!two.was_granted(|change| matches!(change, Change::TakeOver)) && two.stops[PRIMARY].is_none());
    two.pass(3100);
    assert!(matches!(two.stops[PRIMARY], Some(StopReason::Asked)), "{:?}", two.stops[PRIMARY]);
}
