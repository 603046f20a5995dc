//! Processes of a group that die or stop, under load: nothing acknowledged is lost, doubled or reordered, nobody
//! answers on their own opinion, and two are in sync again without help.

mod support;

use std::time::Duration;

use cutover::machine::kv::value::Value;
use cutover_arbiter::record::Change;
use nix::sys::signal::Signal;
use support::group::{SOON, names};
use support::redis::text;
use support::{DevGroup, Options};

/// Longer than any suspicion and any proposal: what is not answered in this time waits for someone.
const UNANSWERED: Duration = Duration::from_secs(2);

fn ok() -> Value {
    Value::Simple(String::from("OK"))
}

/// Kills the primary under load, again and again; each time two must be in sync again by themselves.
fn kill_primaries(spares: usize, times: usize) -> DevGroup {
    let replica_options = vec!["--durability".into(), "memory".into()];
    let mut group = DevGroup::start(&Options { spares, replica_options, ..Options::default() });
    let load = group.torture();
    for _ in 0..times {
        let before = group.wait_in_sync(2);
        group.wait_for_load();
        group.kill(before.primary.replica.as_str(), Signal::SIGKILL);
        group.wait_for_record("another primary", |record| record.primary.replica != before.primary.replica);
    }
    group.wait_in_sync(2);
    group.wait_for_load();
    let report = load.finish();
    assert!(report["cutovers"].as_u64() >= Some(times as u64 + 1), "{report:#}");
    assert_eq!(report["digests"], "equal");
    group
}

#[test]
fn primaries_killed_in_a_row_lose_nothing_with_a_spare() {
    kill_primaries(1, 4);
}

#[test]
fn primaries_killed_in_a_row_lose_nothing_when_every_return_is_a_rejoin() {
    let group = kill_primaries(0, 3);
    // Its memory is gone, so a killed replica comes back with nothing.
    assert!(group.logs().matches("transfer.started").count() >= 3);
}

#[test]
fn a_stopped_primary_is_replaced_and_answers_nothing_when_it_wakes() {
    let mut group = DevGroup::start(&Options::default());
    let before = group.wait_in_sync(2);
    let (old, new) = (group.primary(), group.backup());
    let mut early = group.redis(&old);
    let mut reader = group.redis(&old);
    assert_eq!(early.must(&["SET", "before", "1"]), ok());

    group.kill(&old, Signal::SIGSTOP);
    early.send(&["SET", "during", "1"]).expect("the kernel of a stopped process takes bytes");
    reader.send(&["GET", "before"]).expect("the kernel of a stopped process takes bytes");
    let after = group.wait_for_record("the backup to take over", |record| record.primary.replica.as_str() == new);
    assert!(matches!(after.last_change.change, Change::TakeOver), "{after:?}");
    assert!(after.epoch > before.epoch);
    group.wait_until_it_serves(&new);
    let mut present = group.redis(&new);
    assert_eq!(present.must(&["GET", "before"]), text("1"));
    assert_eq!(present.must(&["SET", "before", "2"]), ok());

    group.kill(&old, Signal::SIGCONT);
    for mut connection in [early, reader] {
        match connection.receive(SOON) {
            Err(_) => {}
            Ok(Some(Value::Error(error))) if error.starts_with("READONLY") => {}
            answer => panic!("a deposed primary answered {answer:?}"),
        }
    }
    group.wait_in_sync(2);
    assert_eq!(present.must(&["GET", "during"]), Value::Null);
    assert_eq!(present.must(&["GET", "before"]), text("2"));
    group.verify();
}

#[test]
fn without_its_backup_a_primary_goes_on_only_by_the_arbiters_leave() {
    let mut group = DevGroup::start(&Options::default());
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let before = group.wait_in_sync(2);
        let (primary, backup) = (group.primary(), group.backup());
        let mut client = group.redis(&primary);
        group.kill(&backup, signal);
        // Sent before anyone can have noticed, answered when the arbiters have agreed.
        assert_eq!(client.must(&["SET", "key", signal.as_str()]), ok());
        let lost = before.member(&backup.parse().expect("a name")).expect("it was in sync").clone();
        let history = group.history();
        let removed = history.iter().find(|item| item.record.epoch > before.epoch).expect("a change since");
        let change = &removed.record.last_change.change;
        assert!(
            matches!(change, Change::Remove { incarnation, .. } if *incarnation == lost.incarnation),
            "{signal}: {change:?}"
        );
        assert_eq!(names(&removed.record), std::slice::from_ref(&primary));
        if signal == Signal::SIGSTOP {
            group.kill(&backup, Signal::SIGCONT);
        }
        group.wait_in_sync(2);
        assert_eq!(client.must(&["GET", "key"]), text(signal.as_str()));
    }
    group.verify();
}

/// A write that was executed waits for a second copy; who comes later hears that there is none, and does not wait behind
/// it.
#[test]
fn too_few_in_sync_is_told_although_an_earlier_write_waits() {
    let replica_options = ["--min-in-sync", "2"].map(String::from).to_vec();
    let mut group = DevGroup::start(&Options { replica_options, ..Options::default() });
    let before = group.wait_in_sync(2);
    let (primary, backup) = (group.primary(), group.backup());
    let (mut early, mut late) = (group.redis(&primary), group.redis(&primary));
    group.kill(&backup, Signal::SIGSTOP);
    early.send(&["SET", "early", "1"]).expect("a connection");
    let alone = group.wait_for_record("a removal", |record| record.epoch > before.epoch);
    assert_eq!(names(&alone), std::slice::from_ref(&primary));
    group.wait_until("the primary to know", SOON, |group| match group.status(&primary)? {
        status if status.epoch == alone.epoch.0 => Ok(()),
        status => Err(format!("{status:#?}")),
    });
    match late.ask(&["SET", "late", "1"]) {
        Ok(Value::Error(error)) if error.starts_with("NOREPLICAS") => {}
        answer => panic!("one copy of two answered {answer:?}"),
    }
    assert_eq!(early.receive(Duration::from_millis(10)).expect("a connection"), None, "there is one copy of it");
    group.kill(&backup, Signal::SIGCONT);
    assert_eq!(early.receive(SOON).expect("a connection"), Some(ok()));
    assert_eq!(late.must(&["MGET", "early", "late"]), Value::Array(vec![text("1"), Value::Null]));
    group.wait_in_sync(2);
    group.verify();
}

#[test]
fn a_pair_outlives_its_arbiters_but_not_a_second_fault_without_them() {
    let mut group = DevGroup::start(&Options { restart_after: None, ..Options::default() });
    let before = group.wait_in_sync(2);
    let (primary, backup) = (group.primary(), group.backup());
    let mut client = group.redis(&primary);
    group.kill_arbiters(Signal::SIGSTOP);
    let until = group.status(&primary).expect("a healthy primary").uptime_s + 2;
    for number in 1.. {
        assert_eq!(client.must(&["INCR", "counter"]), Value::Integer(number));
        if number % 100 == 0 && group.status(&primary).is_ok_and(|status| status.uptime_s >= until) {
            break;
        }
    }
    assert!(group.status(&backup).expect("a healthy backup").in_sync);

    group.kill(&backup, Signal::SIGKILL);
    client.send(&["SET", "key", "alone"]).expect("a connection");
    assert_eq!(client.receive(UNANSWERED).expect("a connection"), None, "nobody allowed this answer");
    assert_eq!(group.status(&primary).expect("a healthy primary").epoch, before.epoch.0);
    group.kill("a1", Signal::SIGCONT);
    assert_eq!(client.receive(UNANSWERED).expect("a connection"), None, "one arbiter of three allows nothing");
    group.kill("a2", Signal::SIGCONT);
    assert_eq!(client.receive(SOON).expect("a connection"), Some(ok()));
    group.kill("a3", Signal::SIGCONT);
    let alone = group.record().expect("a record");
    assert!(matches!(alone.last_change.change, Change::Remove { .. }), "{alone:?}");
    assert_eq!(names(&alone), [primary]);
}

#[test]
fn a_pair_whose_arbiters_are_all_dead_goes_on() {
    let mut group = DevGroup::start(&Options { restart_after: None, ..Options::default() });
    let before = group.wait_in_sync(2);
    let (primary, backup) = (group.primary(), group.backup());
    let mut client = group.redis(&primary);
    group.kill_arbiters(Signal::SIGKILL);
    let until = group.status(&primary).expect("a healthy primary").uptime_s + 2;
    for number in 1.. {
        assert_eq!(client.must(&["INCR", "counter"]), Value::Integer(number));
        if number % 100 == 0 && group.status(&primary).is_ok_and(|status| status.uptime_s >= until) {
            break;
        }
    }
    for name in [&primary, &backup] {
        let status = group.status(name).expect("a healthy replica");
        assert!(status.in_sync && status.epoch == before.epoch.0, "{status:#?}");
    }
}

#[test]
fn a_backup_without_arbiters_does_not_take_over() {
    let mut group = DevGroup::start(&Options { restart_after: None, ..Options::default() });
    let before = group.wait_in_sync(2);
    let (primary, backup) = (group.primary(), group.backup());
    group.redis(&primary).must(&["SET", "key", "value"]);
    group.kill_arbiters(Signal::SIGSTOP);
    group.kill(&primary, Signal::SIGKILL);
    let mut client = group.redis(&backup);
    match client.ask(&["GET", "key"]) {
        Ok(Value::Error(error)) if error.starts_with("READONLY") => {}
        answer => panic!("a backup answered {answer:?}"),
    }
    group.kill_arbiters(Signal::SIGCONT);
    let after = group.wait_in_sync(1);
    assert_eq!((after.primary.replica.as_str(), after.epoch.0), (backup.as_str(), before.epoch.0 + 1));
    assert_eq!(group.redis(&backup).must(&["GET", "key"]), text("value"));
}

#[test]
fn arbiters_killed_one_at_a_time_change_nothing() {
    let mut group = DevGroup::start(&Options::default());
    let before = group.wait_in_sync(2);
    let mut client = group.redis(&group.primary());
    for (number, name) in (1..).zip(["a1", "a2", "a3"]) {
        let old = group.kill(name, Signal::SIGKILL);
        group.wait_for_line(&format!("{name}: pid {old} exited"));
        assert_eq!(client.must(&["INCR", "counter"]), Value::Integer(number));
        group.wait_for_line(&format!("{name}: started again"));
        let after = group.wait_for_record("the same record", |_| true);
        assert_eq!(after, before);
        group.wait_until("the arbiter's return", SOON, |group| {
            let port = group.process(name).http.expect("a port for http");
            let ready =
                support::group::get(&format!("127.0.0.1:{port}"), "/readyz").map_err(|error| error.to_string())?;
            if ready.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(ready) }
        });
    }
    assert_eq!(client.must(&["GET", "counter"]), text("3"));
}
