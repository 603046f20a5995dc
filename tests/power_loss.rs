//! Both machines of a pair lose power at once, on real replicas: each begins again with exactly what it had synced, under
//! another run of the system.
//!
//! The image of a disk is made of the system calls of the replica (`support::synced`), and holds not a byte, and not a name,
//! that a sync did not promise. The new run of the system is a boot id of its own, mounted over the real one. Where either is
//! not permitted, the test says so and skips.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use cutover::machine::kv::value::Value;
use cutover_arbiter::record::GroupRecord;
use nix::sys::signal::Signal;
use support::group::{SOON, names};
use support::guest::Guest;
use support::redis::text;
use support::synced;
use support::{DevGroup, Options};

const PAIR: [(&str, u16); 2] = [("g1", 8), ("g2", 9)];
/// Writes that are acknowledged before the power goes, at least.
const WRITES: u32 = 400;

/// Puts another boot id into a mount namespace of its own, and runs what follows there.
const BOOTED_AGAIN: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;

struct Pair {
    group: DevGroup,
    guests: Vec<Guest>,
}

impl Pair {
    fn data(&self, name: &str) -> PathBuf {
        self.group.data().join(name)
    }

    /// Two replicas whose calls are recorded, alone in sync, after many small segments, snapshots and writes.
    fn recorded(mode: &str) -> Option<Self> {
        for (program, arguments) in [("strace", &["-V"][..]), ("unshare", &["-m", "true"][..])] {
            if !Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success()) {
                eprintln!("skipped: {program} is not there, or not permitted");
                return None;
            }
        }
        let options = ["--durability", mode, "--copies", "3", "--snapshot-bytes", "64KiB"].map(String::from);
        let options =
            Options { replicas: 1, restart_after: None, replica_options: options.to_vec(), ..Options::default() };
        let mut pair = Self { group: DevGroup::start(&options), guests: Vec::new() };
        for (at, (name, place)) in PAIR.into_iter().enumerate() {
            let words = synced::recording(&pair.data(&format!("{name}.trace")));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let more = ["--copies", "3", "--snapshot-bytes", "64KiB"];
            pair.guests.push(Guest::join_as(&pair.group, (name, place), &words, &more, &[]));
            pair.group.wait_for_record("the guest in sync", |record| record.in_sync.len() == at + 2);
        }
        pair.group.kill("r1", Signal::SIGKILL);
        pair.group
            .wait_for_record("the pair", |record| names(record).len() == 2 && !names(record).contains(&"r1".into()));
        Some(pair)
    }

    fn primary(&self) -> &Guest {
        let name = self.group.primary();
        let at = PAIR.iter().position(|(guest, _)| *guest == name).expect("one of the pair");
        &self.guests[at]
    }

    fn wait_until_it_serves(&mut self) {
        let Self { group, guests } = self;
        group.wait_until("a primary that serves", SOON, |_| {
            let serves = guests.iter().any(|guest| guest.status().is_ok_and(|status| status.serving));
            if serves { Ok(()) } else { Err(String::new()) }
        });
    }

    /// Writes until the power goes; gives how many writes were acknowledged.
    fn lose_power(&mut self) -> u32 {
        self.wait_until_it_serves();
        let mut client = self.primary().redis();
        let value = "x".repeat(1000);
        let load = std::thread::spawn(move || {
            let mut acknowledged = 0;
            loop {
                let key = format!("key{acknowledged}");
                match client.ask(&["SET", &key, &format!("{acknowledged}{value}")]) {
                    Ok(Value::Simple(_)) => acknowledged += 1,
                    Ok(other) => panic!("{key}: {other:?}"),
                    Err(_) => return acknowledged,
                }
            }
        });
        let Self { group, guests } = self;
        group.wait_until("enough writes and a snapshot", SOON, |_| {
            let statuses: Result<Vec<_>, _> = guests.iter().map(Guest::status).collect();
            match statuses {
                Ok(all) if all.iter().all(|it| it.persisted > u64::from(WRITES) && it.snapshot_index > 1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        let homes = PAIR.map(|(name, _)| self.data(name));
        for (guest, home) in self.guests.iter_mut().zip(&homes) {
            assert!(guest.begin_to_kill_holder(home), "it ran until now");
        }
        for (guest, home) in self.guests.drain(..).zip(&homes) {
            guest.wait();
            let image = home.with_extension("image");
            synced::image(&home.with_extension("trace"), home, &image);
            fs::rename(home, home.with_extension("lost")).expect("it can be moved away");
            fs::rename(&image, home).expect("the image takes its place");
        }
        load.join().expect("a load that was acknowledged in order")
    }

    /// The pair on the images, under a new run of the system.
    fn boot(&mut self) {
        let boot = self.data("boot");
        fs::write(&boot, "0badcafe-0000-4000-8000-000000000000\n").expect("a boot id");
        let boot = boot.to_str().expect("a path of text");
        for (name, place) in PAIR {
            let words = ["unshare", "-m", "sh", "-c", BOOTED_AGAIN, boot];
            self.guests.push(Guest::join_as(&self.group, (name, place), &words, &["--copies", "3"], &[]));
        }
    }

    /// How many of the writes are there, from the first on; none may be missing before another.
    fn prefix(&self, all: u32) -> u32 {
        let mut client = self.primary().redis();
        let mut found = 0;
        for number in 0..all {
            match client.must(&["GETRANGE", &format!("key{number}"), "0", &format!("{}", number.to_string().len() - 1)])
            {
                value if value == text(&number.to_string()) => {
                    assert_eq!(found, number, "a write is missing before this one");
                    found += 1;
                }
                value => assert_eq!(value, text(""), "key{number}"),
            }
        }
        found
    }
}

fn lives(record: &GroupRecord) -> Vec<(String, String)> {
    record.in_sync.iter().map(|member| (member.replica.to_string(), member.incarnation.to_string())).collect()
}

#[test]
fn what_sync_acknowledged_outlives_the_power_of_both_machines() {
    let Some(mut pair) = Pair::recorded("sync") else { return };
    let before = pair.group.record().expect("a record");
    let acknowledged = pair.lose_power();
    assert!(acknowledged >= WRITES, "{acknowledged}");
    pair.boot();
    pair.group.wait_for_record("a primary that resumes", |record| record.epoch > before.epoch);
    let after = pair.group.wait_in_sync(2);
    assert_eq!(pair.prefix(acknowledged), acknowledged, "nothing acknowledged is lost");
    let (mut old, mut new) = (lives(&before), lives(&after));
    old.sort();
    new.sort();
    assert_eq!(old, new, "the same lives go on");
}

#[test]
fn buffered_knows_that_both_machines_lost_power_and_leads_nobody_without_a_person() {
    let Some(mut pair) = Pair::recorded("buffered") else { return };
    let before = pair.group.record().expect("a record");
    let acknowledged = pair.lose_power();
    pair.boot();
    for (at, (name, _)) in PAIR.iter().enumerate() {
        let Pair { group, guests } = &mut pair;
        let status = group.wait_until("what it waits for", SOON, |_| match guests[at].status() {
            Ok(status) if status.waits_for_seize.is_some() => Ok(status),
            other => Err(format!("{other:?}")),
        });
        let life = lives(&before).into_iter().find(|(replica, _)| replica == name).expect("one of the pair").1;
        assert_ne!(status.incarnation, life, "{name} promises nothing any more that it cannot know to hold");
        assert!(!status.serving && !status.in_sync, "{status:?}");
        let log = fs::read_to_string(group.data().join(format!("log/{name}.log"))).expect("a log");
        assert!(
            log.contains("the system stopped before what mode buffered had acknowledged"),
            "{name} says why: {log}"
        );
    }
    let record = pair.group.record().expect("a record");
    assert_eq!((record.epoch, lives(&record)), (before.epoch, lives(&before)), "nobody asked for anything");
    // What was synced is there, whole up to some write and nothing beyond it, once a person decides.
    let data = pair.group.data().to_str().expect("a path of text").to_owned();
    let address = format!("127.0.0.1:{}", pair.guests[0].http_port());
    let flags = ["--replica", "g1", "--http", &address, "--accept-data-loss", "--fenced"];
    let seized = pair.group.cutover(&[&["seize", "--data", &data][..], &flags].concat());
    assert!(seized.status.success(), "{}", String::from_utf8_lossy(&seized.stderr));
    pair.group.wait_in_sync(2);
    let kept = pair.prefix(acknowledged);
    assert!((1..=acknowledged).contains(&kept), "{kept} of {acknowledged}");
}
