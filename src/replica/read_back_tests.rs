//! Followers that need more of the log than its primary keeps in memory: it is read back from the journal.

use super::super::Limits;
use super::super::two::{JOINER, PRIMARY, Two};
use super::*;
use cutover_arbiter::record::Mode;

/// A joiner whose transfer has begun; at most 50,000 bytes of log are kept in memory for it.
fn joining() -> Two {
    let limits = Limits { transfer_log_bytes: 50_000, transfer_rate: Some(1_000_000), ..Limits::default() };
    let mut two = Two::of_mode(Mode::Buffered, limits);
    two.reads = false;
    for key in 0..20 {
        two.write(&format!("key:{key}"), 500);
    }
    two.turn(JOINER, None);
    two.until("transfer", |two| transfers(two) == 1);
    two.reads = true;
    two
}

fn transfers(two: &Two) -> usize {
    two.heard(PRIMARY, |event| matches!(event, Event::TransferStarted { .. }))
}

fn deltas(two: &Two) -> usize {
    two.heard(PRIMARY, |event| matches!(event, Event::DeltaRejoin { .. }))
}

#[test]
fn a_slow_joiner_costs_disk_and_no_memory_and_is_given_up_by_nobody() {
    let mut two = joining();
    two.decodes = false;
    for round in 0..300 {
        two.write(&format!("round:{round}"), 1000);
        two.pass(1);
        let held = two.cores[PRIMARY].status().log_bytes;
        assert!(held < 60_000, "{held} bytes of log in memory");
    }
    two.decodes = true;
    two.until("in sync", Two::in_sync);
    assert!(two.read_back > 1, "the log was read back");
    let gave_up = two.heard(PRIMARY, |event| matches!(event, Event::FellBehind { .. }));
    assert_eq!((gave_up, transfers(&two)), (0, 1));
    two.assert_equal();
}

/// What is kept on disk for one that lags is bounded, too: a full disk would end the primary.
#[test]
fn a_joiner_for_which_the_journal_grows_too_long_is_given_up_and_comes_again() {
    let mut two = joining();
    let core = &mut two.cores[PRIMARY];
    core.config.snapshot_bytes = 20_000;
    core.config.limits.transfer_journal_bytes = 60_000;
    two.decodes = false;
    let gave_up = |two: &Two| two.heard(PRIMARY, |event| matches!(event, Event::FellBehind { log_bytes: 60_000, .. }));
    let mut written = 0;
    while gave_up(&two) == 0 {
        two.write(&format!("round:{}", written % 20), 1000);
        two.pass(1);
        written += 1;
        let needed = two.cores[PRIMARY].needed_after().unwrap_or(u64::MAX);
        let kept = two.cores[PRIMARY].disk.bytes_beyond(needed);
        assert!(kept <= 60_000 && written < 200, "{kept} bytes are kept after {written} writes of 1000");
    }
    assert!(written > 60, "given up after {written} writes already");
    two.decodes = true;
    two.until("in sync", Two::in_sync);
    two.assert_equal();
}

#[test]
fn a_replica_that_was_away_for_longer_than_memory_reaches_needs_only_what_it_missed() {
    let mut two = joining();
    two.until("in sync", Two::in_sync);
    two.stopped = true;
    let wire = two.take_wire().unwrap();
    two.until("alone", |two| !two.in_sync());
    two.turn(PRIMARY, Some(super::super::Input::LinkClosed(wire.accepted)));
    for round in 0..300 {
        two.write(&format!("round:{round}"), 1000);
    }
    assert!(two.cores[PRIMARY].status().log_base > 100, "most of it is not in memory");
    two.stopped = false;
    two.turn(JOINER, Some(super::super::Input::LinkClosed(wire.dialled)));
    two.assert_equal();
    assert_eq!((transfers(&two), deltas(&two)), (1, 1));
    assert!(two.read_back > 1, "the log was read back");
}

#[test]
fn entries_that_cannot_be_read_back_cost_a_transfer_and_nothing_else() {
    let mut two = joining();
    two.decodes = false;
    for round in 0..300 {
        two.write(&format!("round:{round}"), 1000);
        two.pass(1);
    }
    two.journals_gone = true;
    two.decodes = true;
    two.until("asked for", |two| two.read_back == 1);
    two.until("another transfer", |two| transfers(two) == 2);
    two.assert_equal();
    assert_eq!(two.read_back, 1, "what is gone is not asked for again");
}
