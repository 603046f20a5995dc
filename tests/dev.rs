//! `cutover dev` as a supervisor: what it starts, starts again, describes and ends. What a group does under load and
//! faults is tested elsewhere.

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use support::{DevGroup, Options, is_alive, wait_until_gone};

const SOON: Duration = Duration::from_secs(10);
/// What is promised to end everything.
const PROMISED: Duration = Duration::from_secs(5);

#[test]
fn a_killed_process_is_started_again_and_described_before_it_is_announced() {
    let mut group = DevGroup::start_unready(&Options { chaos: true, ..Options::default() });
    assert_eq!(group.processes().len(), 5);
    let old = group.kill("r2", Signal::SIGKILL);
    group.wait_for_line_within(&format!("r2: pid {old} exited"), SOON);
    let line = group.wait_for_line_within("r2: started again, pid ", SOON);
    let new = group.process("r2");
    assert!(new.pid != old && new.running);
    assert!(line.ends_with(&new.pid.to_string()), "{line} but {new:?}");
    group.chaos(&["cut", "r1", "all"]);
    group.wait_for_line_within("chaos: cut r1", SOON);
    group.chaos(&["heal"]);
    group.wait_for_line_within("chaos: healed all", SOON);
}

#[test]
fn what_is_stopped_is_not_started_again_and_still_ends() {
    let mut group = DevGroup::start_unready(&Options { restart_after: None, ..Options::default() });
    let stopped = group.kill("r1", Signal::SIGSTOP);
    let killed = group.kill("r2", Signal::SIGKILL);
    group.wait_for_line_within("stays down", SOON);
    assert_eq!(group.process("r1").pid, stopped);
    assert!(group.process("r1").running && is_alive(stopped));
    assert!(!group.process("r2").running && !is_alive(killed));
    let (status, pids) = group.end(Signal::SIGINT);
    assert!(status.success());
    wait_until_gone(&pids, Duration::ZERO);
}

#[test]
fn everything_ends_when_dev_is_killed_outright() {
    let group = DevGroup::start_unready(&Options::default());
    let (_, pids) = group.end(Signal::SIGKILL);
    assert_eq!(pids.len(), 5);
    wait_until_gone(&pids, PROMISED);
}

#[test]
fn a_directory_and_ports_in_use_are_refused_before_anything_starts() {
    let mut group = DevGroup::start_unready(&Options::default());
    let data = group.data().to_str().expect("a path of text").to_owned();
    let base = group.process("r1").redis.expect("a Redis port").to_string();
    let second = group.cutover(&["dev", "--data", &data, "--base-port", "33000"]);
    assert_eq!(second.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another 'cutover dev' uses"), "{second:?}");
    // Described is not yet listening: a port that r1 is still to take would be free for somebody else.
    group.wait_until("r1 listening", SOON, |group| group.status("r1"));
    let elsewhere = tempfile::tempdir().expect("a directory");
    let third = group.cutover(&["dev", "--data", elsewhere.path().to_str().expect("text"), "--base-port", &base]);
    assert_eq!(third.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&third.stderr).contains("(r1 redis"), "{third:?}");
}
