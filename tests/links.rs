//! Links that break while the processes live: exactly one replica goes on, and nothing acknowledged is lost.

mod support;

use std::time::{Duration, Instant};

use cutover::machine::kv::value::Value;
use support::group::SOON;
use support::redis::text;
use support::{DevGroup, Options};

fn ok() -> Value {
    Value::Simple(String::from("OK"))
}

fn serving(group: &DevGroup) -> Vec<String> {
    let replicas = group.replicas().into_iter().map(|replica| replica.name);
    replicas.filter(|name| group.status(name).is_ok_and(|status| status.serving)).collect()
}

/// Breaks the link under load, looks at who goes on, heals; everything must be as if nothing had been.
fn broken(command: &[&str]) {
    let mut group = DevGroup::start(&Options { chaos: true, ..Options::default() });
    let load = group.torture();
    let before = group.wait_in_sync(2);
    group.wait_for_load();
    group.chaos(command);
    let after = group.wait_for_record("a decision", |record| record.epoch > before.epoch);
    assert_eq!(after.in_sync.len(), 1, "{command:?}: {after:#?}");
    let one = after.primary.replica.to_string();
    group.wait_until("the one to serve", SOON, |group| match serving(group) {
        serving if serving == [one.clone()] => Ok(()),
        other => Err(format!("{other:?} serve")),
    });
    assert_eq!(group.redis(&one).must(&["SET", "who", &one]), ok());
    let other = group.replicas().into_iter().find(|replica| replica.name != one).expect("two replicas").name;
    match group.redis(&other).ask(&["GET", "who"]) {
        Ok(Value::Error(error)) if error.starts_with("READONLY") => {}
        answer => panic!("{command:?}: {other} answered {answer:?} beside {one}"),
    }
    // One removal, and no to and fro while the link stays broken.
    assert_eq!(group.record().expect("a record"), after, "{command:?}");
    group.chaos(&["heal"]);
    group.wait_in_sync(2);
    group.wait_for_load();
    load.finish();
    let primary = group.primary();
    assert_eq!(group.redis(&primary).must(&["GET", "who"]), text(&one));
}

#[test]
fn with_the_pair_link_cut_exactly_one_goes_on() {
    broken(&["cut", "r1", "r2"]);
}

#[test]
fn with_a_primary_that_is_not_heard_exactly_one_goes_on() {
    broken(&["one-way", "r1", "r2"]);
}

#[test]
fn with_a_primary_that_does_not_hear_exactly_one_goes_on() {
    broken(&["one-way", "r2", "r1"]);
}

/// What a clogged link held of the old epoch arrives all at once when it is healed, at replicas that have gone on.
#[test]
fn with_a_clogged_link_exactly_one_goes_on_and_what_comes_late_changes_nothing() {
    broken(&["clog", "r1", "r2"]);
}

#[test]
fn with_a_clogged_way_back_exactly_one_goes_on_and_what_comes_late_changes_nothing() {
    broken(&["clog", "r2", "r1"]);
}

#[test]
fn a_link_that_is_slow_but_not_silent_changes_nothing() {
    // Long enough that a busy machine adds no silence of its own.
    let replica_options = ["--suspect-after", "2s", "--drop-backup-after", "1500ms"].map(String::from).to_vec();
    let mut group = DevGroup::start(&Options { chaos: true, replica_options, ..Options::default() });
    let load = group.torture();
    let before = group.wait_in_sync(2);
    group.wait_for_load();
    for ends in [["r1", "r2"], ["r2", "r1"]] {
        group.chaos(&["delay", ends[0], ends[1], "--by", "40ms"]);
    }
    group.wait_for_load();
    // Each answer took the way there and back.
    let mut client = group.redis(before.primary.replica.as_str());
    let asked = Instant::now();
    assert_eq!(client.must(&["SET", "key", "value"]), ok());
    assert!(asked.elapsed() >= Duration::from_millis(80), "{:?}", asked.elapsed());
    assert_eq!(group.record().expect("a record"), before);
    group.chaos(&["heal"]);
    group.wait_for_load();
    assert_eq!(group.record().expect("a record"), before);
    load.finish();
}

#[test]
fn a_primary_that_is_cut_off_from_everyone_answers_nothing_more() {
    let mut group = DevGroup::start(&Options { chaos: true, ..Options::default() });
    group.wait_in_sync(2);
    let (old, new) = (group.primary(), group.backup());
    let (mut client, mut reader) = (group.redis(&old), group.redis(&old));
    assert_eq!(client.must(&["SET", "before", "1"]), ok());
    group.chaos(&["cut", &old, "all"]);
    client.send(&["SET", "lost", "1"]).expect("clients reach it");
    group.wait_for_record("the backup to take over", |record| record.primary.replica.as_str() == new);
    group.wait_until_it_serves(&new);
    let mut present = group.redis(&new);
    assert_eq!(present.must(&["SET", "after", "1"]), ok());
    // It was executed there and never released: its client may not be told anything.
    assert!(matches!(client.receive(Duration::from_secs(1)), Ok(None) | Err(_)));
    // Nor what it is: HELLO says that, too.
    for question in [["GET", "before"].as_slice(), &["HELLO"]] {
        reader.send(question).expect("clients reach it");
        assert!(matches!(reader.receive(Duration::from_secs(1)), Ok(None) | Err(_)), "{question:?}");
    }
    group.chaos(&["heal"]);
    group.wait_in_sync(2);
    assert!(client.receive(SOON).is_err(), "it is closed without a word");
    assert_eq!(
        present.must(&["MGET", "before", "lost", "after"]),
        Value::Array(vec![text("1"), Value::Null, text("1")])
    );
    group.verify();
}

/// What it executed and never released is undone by its own snapshot and journal, within one life of its process; nobody
/// sends it its state again.
#[test]
fn a_primary_that_executed_what_lost_a_cut_over_goes_back_to_its_own_snapshot() {
    let more = ["--durability", "buffered", "--snapshot-bytes", "64KiB"];
    let replica_options = more.map(String::from).to_vec();
    let mut group = DevGroup::start(&Options { chaos: true, replica_options, ..Options::default() });
    group.wait_in_sync(2);
    let (old, new) = (group.primary(), group.backup());
    let life = group.status(&old).expect("a primary").incarnation;
    let value = "x".repeat(10_000);
    let mut client = group.redis(&old);
    for number in 0..50 {
        assert_eq!(client.must(&["SET", &format!("large{number}"), &value]), ok());
    }
    group.wait_until("its snapshot", SOON, |group| match group.status(&old) {
        Ok(status) if status.snapshot_index > 0 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(client.must(&["SET", "after the snapshot", "1"]), ok());
    let pid = group.process(&old).pid;
    group.chaos(&["cut", &old, "all"]);
    client.send(&["SET", "lost", "1"]).expect("clients reach it");
    group.wait_for_record("the backup to take over", |record| record.primary.replica.as_str() == new);
    group.wait_until_it_serves(&new);
    let mut present = group.redis(&new);
    assert_eq!(present.must(&["SET", "won", "1"]), ok());
    group.chaos(&["heal"]);
    group.wait_in_sync(2);
    let log = group.logs();
    assert!(log.contains(r#""message":"rejoin.went_back"#), "it goes back: {log}");
    assert_eq!(log.matches("transfer.started").count(), 2, "only at the very beginning, told by both sides");
    assert_eq!((group.process(&old).pid, group.status(&old).expect("a replica").incarnation), (pid, life));
    let answers = present.must(&["MGET", "after the snapshot", "lost", "won"]);
    assert_eq!(answers, Value::Array(vec![text("1"), Value::Null, text("1")]));
    group.verify();
}

#[test]
fn frames_cut_in_the_middle_and_reset_connections_lose_nothing() {
    let mut group = DevGroup::start(&Options { chaos: true, ..Options::default() });
    let load = group.torture();
    for command in [["mid-frame", "r1", "r2"], ["mid-frame", "r2", "r1"], ["reset", "r1", "r2"]] {
        let before = group.wait_in_sync(2);
        group.wait_for_load();
        group.chaos(&command);
        group.wait_for_load();
        // A broken connection is not a dead process: both are there, and the re-dial tells.
        let after = group.wait_in_sync(2);
        assert_eq!(after.primary.replica, before.primary.replica, "{command:?}");
    }
    load.finish();
}
