//! Values from outside the state, chance and time, on two replicas whose wall clocks are an hour apart: the states
//! stay equal, and time goes forward for every client, across cut-overs too.
//!
//! Needs libfaketime (the Debian package `faketime`); without it the test says SKIPPED on stderr and passes, having
//! tested nothing.

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cutover::machine::kv::value::Value;
use nix::sys::signal::Signal;
use support::guest::Guest;
use support::redis::Redis;
use support::{DevGroup, Options};

fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

/// A client that uses everything that must be captured, on whichever replica serves.
struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(ports: Vec<u16>) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, counter) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let mut latest = 0;
            // The kernel answers at once where nobody listens, so this turns quickly and not for long.
            for port in ports.iter().cycle() {
                if let Ok(mut redis) = Redis::connect(*port) {
                    while !stopping.load(Ordering::Relaxed)
                        && round(&mut redis, counter.load(Ordering::Relaxed), &mut latest).is_some()
                    {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                }
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Self { stop, rounds, thread }
    }

    /// Waits for so many more rounds.
    fn wait(&self, group: &mut DevGroup, more: u64) {
        let until = self.rounds.load(Ordering::Relaxed) + more;
        group.wait_until("a load", support::group::SOON, |_| match self.rounds.load(Ordering::Relaxed) {
            now if now >= until => Ok(()),
            now => Err(format!("{now} rounds of {until}")),
        });
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("time never went back");
    }
}

/// One use of each; `None` when this replica does not serve (any more).
fn round(redis: &mut Redis, number: u64, latest: &mut u64) -> Option<()> {
    let mut ask = |words: &[&str]| match redis.ask(words) {
        Ok(Value::Error(_)) | Err(_) => None,
        Ok(value) => Some(value),
    };
    let key = format!("key:{}", number % 500);
    ask(&["SET", &key, "value", "PX", if number.is_multiple_of(3) { "5" } else { "100000" }])?;
    ask(&["SADD", "set", &format!("a{number}"), &format!("b{number}"), &format!("c{number}")])?;
    ask(&["SPOP", "set", "2"])?;
    let chosen = format!("{:?}", ask(&["RANDOMKEY"])?);
    ask(&["SET", "chosen", &chosen])?;
    ask(&["SRANDMEMBER", "set"])?;
    let Value::Array(time) = ask(&["TIME"])? else { return None };
    let parts: Vec<u64> = time
        .iter()
        .map(|part| match part {
            Value::Bulk(digits) => String::from_utf8_lossy(digits).parse().expect("a number"),
            other => panic!("TIME is {other:?}"),
        })
        .collect();
    let now = parts[0] * 1_000_000 + parts[1];
    assert!(now >= *latest, "time went back from {latest} to {now}");
    *latest = now;
    Some(())
}

#[test]
fn chance_and_time_are_captured_though_clocks_are_an_hour_apart() {
    let Some(library) = faketime() else {
        eprintln!("SKIPPED: no libfaketime (apt-get install faketime), nothing was tested");
        return;
    };
    let restart_after = Some(Duration::from_millis(1500));
    let replica_options = ["--copies", "2"].map(String::from).to_vec();
    let mut group = DevGroup::start(&Options { replicas: 1, restart_after, replica_options, ..Options::default() });
    let library = library.to_str().expect("a path of text").to_owned();
    let variables = [("LD_PRELOAD", library.as_str()), ("FAKETIME", "+1h"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let guest = Guest::join(&group, &[], &variables);
    group.wait_in_sync(2);
    let near = group.process("r1").redis.expect("a port for Redis");
    group.redis("r1").must(&["SET", "lives", "long", "EX", "1000"]);
    let load = Load::start(vec![near, guest.redis_port()]);
    load.wait(&mut group, 200);
    group.verify();

    group.kill("r1", Signal::SIGKILL);
    group.wait_for_record("the fast clock to take over", |record| record.primary.replica.as_str() == "guest");
    load.wait(&mut group, 200);
    assert!(matches!(guest.redis().must(&["TTL", "lives"]), Value::Integer(900..=1000)), "nothing expired early");
    group.wait_in_sync(2);
    load.wait(&mut group, 200);
    group.verify();
    assert!(group.logs().contains("clock.skew"), "the clocks are apart, and the log says so");

    let data = group.data().to_str().expect("a path of text").to_owned();
    let switched = group.cutover(&["switchover", "--data", &data, "--to", "r1"]);
    assert!(switched.status.success(), "{switched:?}");
    load.wait(&mut group, 200);
    group.wait_in_sync(2);
    group.verify();
    assert!(matches!(group.redis("r1").must(&["TTL", "lives"]), Value::Integer(900..=1000)), "nothing expired early");
    load.end();
}
