//! State transfers between two cores.

use super::super::two::{JOINER, PRIMARY, Two};
use super::super::{Admission, Disposition, Input, Limits, Origin, Request};
use super::*;
use crate::machine::kv;
use crate::protocol::peer::{Ack, PeerControl};
use cutover_arbiter::record::Mode;

fn started(event: &Event) -> bool {
    matches!(event, Event::TransferStarted { .. })
}

fn resumed(event: &Event) -> bool {
    matches!(event, Event::TransferResumed { chunk, .. } if *chunk > 1)
}

fn fell_behind(event: &Event) -> bool {
    matches!(event, Event::FellBehind { .. })
}

/// As slow as to last: a piece takes a millisecond.
fn slow() -> Limits {
    Limits { transfer_rate: Some(1_000_000), ..Limits::default() }
}

fn filled(limits: Limits, keys: usize, bytes: usize) -> Two {
    let mut two = Two::new(limits);
    two.reads = false;
    for key in 0..keys {
        two.write(&format!("key:{key}"), bytes);
    }
    two.turn(JOINER, None);
    two.until("transfer", |two| two.heard(PRIMARY, started) == 1);
    two.reads = true;
    two
}

#[test]
fn a_transfer_whose_link_breaks_goes_on_at_the_chunk_that_is_missing() {
    let mut two = filled(slow(), 200, 500);
    let mut breaks = 0;
    while !two.in_sync() {
        two.pass(20);
        if two.cores[JOINER].status().receiving.is_some() && breaks < 4 {
            two.write(&format!("meanwhile:{breaks}"), 10);
            two.cut();
            breaks += 1;
        }
    }
    assert!(breaks >= 3, "the transfer was too quick for this test");
    assert_eq!((two.heard(PRIMARY, started), two.heard(JOINER, started)), (1, 1), "never begun again");
    assert_eq!((two.heard(PRIMARY, resumed), two.heard(JOINER, resumed)), (breaks, breaks));
    let mut whole = two.cores[PRIMARY].machine().snapshot();
    let pieces = std::iter::from_fn(|| whole.next_chunk(1000)).count();
    assert!(two.read <= pieces, "{} pieces were read of a state that has {pieces}", two.read);
    two.assert_equal();
}

#[test]
fn what_is_lost_with_a_link_is_sent_again() {
    let mut two = filled(slow(), 200, 500);
    two.pass(20);
    // The joiner's threads stand still: what has come waits there, what is on its way is lost with the link.
    two.decodes = false;
    two.pass(20);
    let wire = two.take_wire().unwrap();
    two.pass(20);
    two.turn(PRIMARY, Some(Input::LinkClosed(wire.accepted)));
    two.turn(JOINER, Some(Input::LinkClosed(wire.dialled)));
    two.decodes = true;
    two.assert_equal();
    assert_eq!((two.heard(PRIMARY, started), two.heard(PRIMARY, resumed)), (1, 1));
}

#[test]
fn a_broken_transfer_is_not_kept_for_ever() {
    let mut two = filled(Limits { transfer_keep: Duration::from_millis(200), ..slow() }, 200, 500);
    two.pass(20);
    let wire = two.take_wire().unwrap();
    two.turn(PRIMARY, Some(Input::LinkClosed(wire.accepted)));
    two.pass(300);
    assert!(two.snapshots.is_empty(), "the snapshot is let go");
    two.turn(JOINER, Some(Input::LinkClosed(wire.dialled)));
    two.assert_equal();
    assert_eq!((two.heard(PRIMARY, started), two.heard(PRIMARY, resumed)), (2, 0));
}

#[test]
fn a_joiner_that_takes_nothing_is_sent_no_more_than_the_window() {
    let mut two = filled(Limits::default(), 20, 1 << 20);
    two.target = 100_000;
    two.decodes = false;
    two.pass(500);
    let status = two.cores[PRIMARY].status().followers[0].transfer.unwrap();
    assert!((WINDOW as u64..WINDOW as u64 + 200_000).contains(&status.bytes), "{status:?}");
    assert!(status.left_ms.is_some() && status.of_bytes > 19 << 20, "{status:?}");
    two.decodes = true;
    two.assert_equal();
}

#[test]
fn a_transfer_keeps_to_its_rate() {
    let mut two = filled(slow(), 200, 500);
    two.pass(50);
    let sent = two.cores[PRIMARY].status().followers[0].transfer.unwrap().bytes;
    assert!((40_000..80_000).contains(&sent), "{sent} bytes in 50 ms at 1 MB/s");
    let shown = two.cores[JOINER].status().receiving.unwrap();
    assert!(shown.entries > 50 && shown.entries < 150 && shown.of_entries == 200, "{shown:?}");
    two.assert_equal();
}

/// Once it is counted on, clients wait for it: so it has worked off before what was written during its transfer.
#[test]
fn a_joiner_is_counted_on_only_when_it_has_little_left_to_apply() {
    let mut two = filled(slow(), 20, 500);
    two.cores.iter_mut().for_each(|core| core.config.unacknowledged_bytes = 64 << 20);
    for round in 0..150 {
        two.write(&format!("round:{}", round % 20), 20_000);
    }
    two.applies = false;
    two.pass(2000);
    assert_eq!(two.heard(PRIMARY, |event| matches!(event, Event::TransferDone { .. })), 1);
    assert!(!two.in_sync());
    let held = two.write("meanwhile", 1);
    two.pass(1);
    assert!(two.cores[PRIMARY].release().covers(held), "it is not counted on yet");
    two.applies = true;
    two.until("in sync", Two::in_sync);
    // From then on it may lag as any backup may.
    two.applies = false;
    for round in 0..150 {
        two.write(&format!("again:{}", round % 20), 20_000);
    }
    let held = two.write("last", 1);
    two.pass(10);
    assert!(two.cores[PRIMARY].release().covers(held), "a backup may lag");
    two.applies = true;
    two.assert_equal();
}

/// Found by a reader: it asked for a turn at once, in which it said the same again.
#[test]
fn who_holds_back_what_is_not_committed_waits_for_the_next_commit() {
    let mut two = Two::of_mode(Mode::Buffered, Limits::default());
    two.turn(JOINER, None);
    two.until("in sync", Two::in_sync);
    two.cores[JOINER].config.unacknowledged_bytes = 1000;
    two.hangs[PRIMARY] = true;
    for key in 0..10 {
        two.write(&format!("key:{key}"), 500);
    }
    let mut out = Outbox::default();
    two.cores[JOINER].begin(two.now);
    assert!(!two.cores[JOINER].apply(&mut out), "there is nothing to apply");
    assert!(!two.cores[JOINER].vitals().held_back, "it is not this replica that lags");
    two.hangs[PRIMARY] = false;
    two.disk_answers(PRIMARY);
    two.cores[JOINER].config.unacknowledged_bytes = 1 << 20;
    two.assert_equal();
}

/// In mode `memory` a joiner is given up when its log grows too long: the slower its transfer, the longer it grows.
#[test]
fn a_transfer_makes_haste_before_the_log_grows_too_long() {
    let mut two = filled(Limits { transfer_log_bytes: 400_000, ..slow() }, 200, 500);
    two.pass(10);
    assert!(two.cores[JOINER].status().receiving.is_some());
    for key in 0..25 {
        two.write(&format!("meanwhile:{key}"), 5000);
    }
    two.pass(20);
    assert_eq!(two.heard(PRIMARY, |event| matches!(event, Event::TransferDone { .. })), 1);
    two.assert_equal();
}

#[test]
fn a_joiner_for_which_the_log_grows_too_long_is_given_up_and_slows_nobody() {
    let mut two = filled(Limits { transfer_log_bytes: 50_000, ..slow() }, 20, 500);
    two.decodes = false;
    for round in 0..300 {
        two.write(&format!("round:{round}"), 1000);
        two.pass(1);
        assert_eq!(two.cores[PRIMARY].admission(), Admission::Open, "clients never wait for a joiner");
        assert!(two.cores[PRIMARY].status().log_bytes < 60_000, "{}", two.cores[PRIMARY].status().log_bytes);
    }
    let given_up = two.heard(PRIMARY, fell_behind);
    assert!((1..4).contains(&given_up), "given up {given_up} times: each time the wait doubles");
    let told = |event: &Event| matches!(event, Event::PeerRefused { reason, .. } if reason.contains("50000 bytes"));
    assert!(two.heard(JOINER, told) >= 1, "the joiner is told why");
    two.decodes = true;
    two.assert_equal();
}

#[test]
fn a_spare_that_lags_does_not_keep_the_log_for_ever() {
    let mut two = Two::new(Limits { transfer_log_bytes: 8 << 20, ..Limits::default() });
    two.turn(JOINER, None);
    two.until("in sync", Two::in_sync);
    // Its process is stopped, and it is removed; it lags on as a follower that acknowledges nothing, with more and more
    // on its way to it.
    let wire = two.take_wire();
    two.stopped = true;
    two.until("alone", |two| !two.in_sync());
    for _ in 0..50 {
        two.write("key", 1 << 20);
        assert!(two.cores[PRIMARY].status().log_bytes < 10 << 20, "{}", two.cores[PRIMARY].status().log_bytes);
    }
    assert_eq!(two.heard(PRIMARY, fell_behind), 1);
    two.stopped = false;
    two.turn(JOINER, Some(Input::LinkClosed(wire.unwrap().dialled)));
    two.assert_equal();
}

#[test]
fn nobody_waits_for_what_a_joiner_missed_during_its_transfer() {
    let mut two = filled(slow(), 200, 500);
    for key in 0..40 {
        two.write(&format!("meanwhile:{key}"), 5000);
    }
    two.until("in sync", Two::in_sync);
    assert!(two.lacked.iter().all(|lacked| *lacked <= 64 * 1024), "required while it lacked {:?}", two.lacked);
    // Under load nobody comes so near, since nothing waits for one that is not required: that is not waited for.
    two.pass(5000);
    let core = &two.cores[PRIMARY];
    let Stance::Primary(primary) = &core.role else { panic!("not primary") };
    let near_enough = |near_since| {
        let mut follower = primary.followers.values().next().unwrap().clone();
        follower.phase = Phase::Streaming { near_since };
        core.near_enough(&follower)
    };
    assert_eq!(near_enough(None), 64 * 1024);
    assert_eq!(near_enough(Some(two.now.boot)), 64 * 1024);
    assert_eq!(near_enough(Some(two.now.boot - Duration::from_millis(4999))), 64 * 1024);
    assert_eq!(near_enough(Some(two.now.boot - Duration::from_millis(5000))), 256 * 1024);
    two.assert_equal();
}

/// However long it takes until it lacks so little that it may be required at all: only then it is given time to come
/// nearer, and once only, however often it falls behind again.
#[test]
fn who_catches_up_for_long_is_let_come_near_all_the_same() {
    let mut two = filled(slow(), 200, 500);
    two.until("in sync", Two::in_sync);
    two.write("more", 5000);
    let core = &mut two.cores[PRIMARY];
    core.config.unacknowledged_bytes = 4096;
    let far = core.log.base();
    assert!(!core.log.is_near(far, core.most_lacking()), "the log is too short for this test");
    let near = core.log.last().index;
    let group_id = core.record.as_ref().unwrap().group_id;
    let Stance::Primary(primary) = &mut core.role else { panic!("not primary") };
    let (epoch, round) = (primary.epoch, primary.round);
    let (link, follower) = primary.followers.iter_mut().next().unwrap();
    let (link, handshake, incarnation) = (*link, follower.handshake, follower.member.incarnation);
    let ack =
        |verified| Ack { group_id, epoch, incarnation, handshake, verified, round, applied: 0, journal_age_ms: 0 };
    follower.begins_to_stream();
    let says = |core: &mut Replica<kv::KeyValue>, verified, seconds| {
        core.now.boot += Duration::from_secs(seconds);
        core.ack(link, ack(verified));
        let Stance::Primary(primary) = &core.role else { panic!("not primary") };
        let Phase::Streaming { near_since } = primary.followers.get(&link).unwrap().phase else {
            panic!("does not stream")
        };
        assert_eq!(primary.followers.get(&link).unwrap().shows, verified);
        near_since.map(|since| core.now.boot - since)
    };
    assert_eq!(says(core, far, 9), None);
    assert_eq!(says(core, far, 9), None);
    assert_eq!(says(core, near, 2), Some(Duration::ZERO));
    assert_eq!(says(core, far, 2), Some(Duration::from_secs(2)));
    assert_eq!(says(core, near, 2), Some(Duration::from_secs(4)));
    let Stance::Primary(primary) = &mut core.role else { panic!("not primary") };
    primary.woken(Duration::from_secs(3));
    assert_eq!(says(core, near, 3), Some(Duration::from_secs(4)));
}

#[test]
fn who_lacks_very_many_entries_is_sent_them_a_turns_worth_at_a_time() {
    let mut two = filled(slow(), 200, 500);
    two.cores[PRIMARY].config.append_bytes = 1 << 20;
    two.until("a transfer", |two| two.cores[JOINER].status().receiving.is_some());
    for key in 0..3000 {
        two.write(&format!("meanwhile:{key}"), 1);
    }
    two.until("in sync", Two::in_sync);
    assert!(two.most_sent <= 128, "{} blocks were sent in one turn", two.most_sent);
    two.assert_equal();
}

#[test]
fn a_stranger_goes_on_with_nobodys_transfer() {
    let mut two = filled(slow(), 200, 500);
    two.pass(20);
    two.cut();
    let Stance::Primary(primary) = &two.cores[PRIMARY].role else { panic!("not primary") };
    let (id, transfer) = primary.transfers.iter().next().unwrap();
    let resume = Resume { transfer: *id, next: transfer.next };
    let mut other = transfer.member.clone();
    assert!(two.cores[PRIMARY].resumable(&other, Some(resume)).is_some());
    assert!(two.cores[PRIMARY].resumable(&other, Some(Resume { next: resume.next + 1, ..resume })).is_none());
    assert!(two.cores[PRIMARY].resumable(&other, Some(Resume { transfer: !id, ..resume })).is_none());
    other.incarnation.0 ^= 1;
    assert!(two.cores[PRIMARY].resumable(&other, Some(resume)).is_none(), "another life holds nothing of it");
    // An acknowledgement of another handshake takes nothing.
    let taken = PeerMessage::Control(PeerControl::Taken { handshake: 999, next: u64::MAX });
    two.until("linked", |two| two.wire().is_some());
    let accepted = two.wire().unwrap().accepted;
    two.turn(PRIMARY, Some(Input::Peer(accepted, taken)));
    two.assert_equal();
}

#[test]
fn an_operation_that_would_take_a_block_over_its_limit_begins_one_of_its_own() {
    let mut two = Two::new(Limits::default());
    let first = two.cores[PRIMARY].last_index() + 1;
    let (mut out, mut reply) = (Outbox::default(), Vec::new());
    two.cores[PRIMARY].begin(two.now);
    for bytes in [1000, 2000, 4500, 100, 100, 90_000, 10] {
        let operation = kv::request("SET", &[&b"key"[..], &vec![b'v'; bytes]]);
        let request = Request::Operation { origin: Origin::Direct, operation: &operation };
        assert!(matches!(two.cores[PRIMARY].request(request, &mut reply, &mut out), Disposition::Reply { .. }));
    }
    two.cores[PRIMARY].seal_block();
    let blocks: Vec<_> = two.cores[PRIMARY].log.from(first).unwrap().cloned().collect();
    two.finish(PRIMARY, out);
    assert_eq!(blocks.iter().map(|block| block.count).collect::<Vec<_>>(), [2, 3, 1, 1]);
    assert!(blocks.iter().all(|block| block.count == 1 || block.bytes.len() <= 5000));
    two.assert_equal();
}

#[test]
fn sessions_beyond_the_limits_are_refused_by_name() {
    use super::super::Refused;
    use crate::protocol::client::Refusal;
    let limits = Limits { sessions: 2, session_timeout: Duration::from_secs(10), ..Limits::default() };
    let mut two = Two::new(limits);
    let mut open = |timeout_ms: u64| {
        let (mut out, mut reply) = (Outbox::default(), Vec::new());
        two.cores[PRIMARY].begin(two.now);
        let request = Request::OpenSession { timeout: timeout_ms * 1000, connection: 1 };
        let disposition = two.cores[PRIMARY].request(request, &mut reply, &mut out);
        two.finish(PRIMARY, out);
        match disposition {
            Disposition::Refused(Refused::Reason { reason, .. }) => Some(reason),
            _ => None,
        }
    };
    let long = Refusal::TimeoutTooLong { asked_ms: 10_001, longest_ms: 10_000 };
    assert_eq!(open(10_001), Some(long));
    assert_eq!((open(10_000), open(10_000)), (None, None));
    assert_eq!(open(10_000), Some(Refusal::TooManySessions { limit: 2 }));
}

#[test]
fn a_backup_whose_disk_is_slow_does_not_depose_the_primary_that_waits_for_it() {
    let mut two = filled(Limits::default(), 1, 10);
    two.stall_after(Duration::from_secs(60));
    two.until("in sync", Two::in_sync);
    two.pass(1000);
    two.hangs[JOINER] = true;
    two.write("key", 10);
    two.pass(1600);
    assert_eq!(two.heard(JOINER, |event| matches!(event, Event::Suspected { .. })), 0);
    two.disk_answers(JOINER);
    two.assert_equal();
    assert_eq!(two.record().unwrap().epoch.0, 2, "nobody was removed and nobody took over");
}

#[test]
fn a_backup_that_was_removed_and_stays_silent_is_waited_for_by_nobody() {
    let mut two = filled(Limits::default(), 1, 10);
    two.until("in sync", Two::in_sync);
    // Its process is stopped; its connection stands.
    two.stopped = true;
    let wire = two.take_wire().unwrap();
    two.until("removed", |two| !two.in_sync());
    for _ in 0..3000 {
        two.write("key", 10);
        let release = two.cores[PRIMARY].release();
        assert_eq!(release.commit, two.cores[PRIMARY].status().index, "it is made required again and again");
        two.pass(1);
    }
    two.stopped = false;
    two.put_wire(wire);
    two.assert_equal();
}

/// Found by a reader: it was told nothing in all that time, acknowledged nothing, and was removed as silent.
#[test]
fn who_has_nothing_to_get_is_told_so_while_another_one_gets_very_much() {
    let mut two = Two::new(Limits::default());
    two.turn(JOINER, None);
    two.until("in sync", Two::in_sync);
    two.cores[PRIMARY].config.log_bytes = 1 << 20;
    for key in 0..400 {
        two.write(&format!("key:{key}"), 500);
    }
    two.pass(500);
    two.cores[PRIMARY].config.append_bytes = 500;
    let base = two.cores[PRIMARY].log.base();
    let Stance::Primary(primary) = &mut two.cores[PRIMARY].role else { panic!("not primary") };
    let (&link, follower) = primary.followers.iter().next().unwrap();
    let mut behind = follower.clone();
    behind.next = base + 1;
    primary.followers.insert(link + 1000, behind);
    let (mut told, mut sent) = (0, 0);
    for _ in 0..50 {
        two.now.boot += Duration::from_millis(10);
        let mut out = Outbox::default();
        two.cores[PRIMARY].begin(two.now);
        two.cores[PRIMARY].end(&mut out);
        let to = |wanted| {
            out.outputs
                .iter()
                .filter(|it| matches!(it, Output::Send(to, PeerMessage::Append(_)) if *to == wanted))
                .count()
        };
        (told, sent) = (told + to(link), sent + usize::from(to(link + 1000) > 0));
    }
    assert_eq!(sent, 50, "the other one was sent something in each turn");
    assert!(told >= 2, "told {told} times in 500 ms");
}
