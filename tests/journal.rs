//! Replicas that come back to what they had on disk: killed together, wiped, set back, damaged, full, read-only. One
//! test for each thing that can have happened to a data directory.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cutover::machine::kv::value::Value;
use cutover_arbiter::record::Change;
use nix::sys::signal::Signal;
use support::group::{SOON, get};
use support::guest::Guest;
use support::redis::text;
use support::{DevGroup, Options};

/// Long enough to do something to a directory before its replica is started again.
const TAMPERING: Duration = Duration::from_secs(3);

fn options(mode: &str) -> Options {
    Options { replica_options: vec!["--durability".into(), mode.into()], ..Options::default() }
}

fn group(mode: &str) -> DevGroup {
    let mut group = DevGroup::start(&Options { restart_after: Some(TAMPERING), ..options(mode) });
    group.wait_in_sync(2);
    group
}

fn directory(group: &DevGroup, name: &str) -> PathBuf {
    group.data().join("data").join(name)
}

/// The directory of the present life; `None` when there is more or less than one.
fn life(directory: &Path) -> PathBuf {
    let lives = fs::read_dir(directory).expect("a data directory").flatten().map(|entry| entry.path());
    let mut lives: Vec<PathBuf> =
        lives.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("life-"))).collect();
    assert_eq!(lives.len(), 1, "{lives:?}");
    lives.remove(0)
}

fn last_segment(directory: &Path) -> PathBuf {
    let files = fs::read_dir(life(directory)).expect("a life").flatten().map(|entry| entry.path());
    files.filter(|path| path.to_string_lossy().contains("/journal-")).max().expect("a segment")
}

fn fill(group: &DevGroup, from: u32, count: u32) {
    let mut client = group.redis(&group.primary());
    for number in from..from + count {
        client.must(&["SET", &format!("key{number}"), &number.to_string()]);
    }
}

fn expect_filled(group: &DevGroup, count: u32) {
    let mut client = group.redis(&group.primary());
    for number in 0..count {
        assert_eq!(client.must(&["GET", &format!("key{number}")]), text(&number.to_string()));
    }
}

fn incarnation(group: &DevGroup, name: &str) -> String {
    group.status(name).expect("a running replica").incarnation
}

/// Waits until a replica runs again, whatever it is, in another process than `before`.
fn wait_for_return(group: &mut DevGroup, name: &str, before: i32) {
    group.wait_until("its return", SOON, |group| {
        let process = group.process(name);
        if process.running && process.pid != before && group.status(name).is_ok() { Ok(()) } else { Err(String::new()) }
    });
}

fn killed_together(mode: &str) {
    let mut group = DevGroup::start(&options(mode));
    let first = group.wait_in_sync(2);
    let load = group.torture();
    for _ in 0..3 {
        let before = group.wait_in_sync(2);
        group.wait_for_load();
        for member in &before.in_sync {
            group.kill(member.replica.as_str(), Signal::SIGKILL);
        }
        group.wait_for_record("a new epoch", |record| record.epoch > before.epoch);
    }
    let last = group.wait_in_sync(2);
    group.wait_for_load();
    let report = load.finish();
    assert_eq!(report["digests"], "equal");
    // Nobody lost anything: the same lives, and what was missing came from the journals.
    for member in &first.in_sync {
        assert_eq!(last.member(&member.replica).map(|member| member.incarnation), Some(member.incarnation));
    }
    assert_eq!(group.logs().matches("transfer.started").count(), 2, "only at the very beginning, told by both sides");
    let status = group.status(last.primary.replica.as_str()).expect("a primary");
    assert_eq!(status.durability, mode);
}

#[test]
fn both_replicas_killed_at_once_lose_nothing_buffered() {
    killed_together("buffered");
}

#[test]
fn both_replicas_killed_at_once_lose_nothing_synced() {
    killed_together("sync");
}

#[test]
fn snapshots_bound_the_journal_and_a_restart_begins_with_one() {
    let more = ["--snapshot-bytes", "64KiB"].map(String::from);
    let options = options("buffered");
    let replica_options = [&options.replica_options[..], &more].concat();
    let mut group = DevGroup::start(&Options { replica_options, ..options });
    group.wait_in_sync(2);
    let primary = group.primary();
    let mut client = group.redis(&primary);
    let value = "x".repeat(10_000);
    for number in 0..100 {
        client.must(&["SET", &format!("large{number}"), &value]);
    }
    fill(&group, 0, 100);
    let before = group.record().expect("a record");
    for name in ["r1", "r2"] {
        group.wait_until("a snapshot", SOON, |group| match group.status(name) {
            Ok(status) if status.snapshot_index > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    for member in &before.in_sync {
        group.kill(member.replica.as_str(), Signal::SIGKILL);
    }
    group.wait_for_record("a new epoch", |record| record.epoch > before.epoch);
    group.wait_in_sync(2);
    expect_filled(&group, 100);
    assert_eq!(group.redis(&group.primary()).must(&["STRLEN", "large99"]), Value::Integer(10_000));
    group.verify();
    let restarted = group.logs();
    assert!(restarted.lines().any(|line| line.contains("replica.restarted") && !line.contains("\"snapshot\":0")));
}

#[test]
fn a_wiped_replica_joins_anew_and_its_old_life_is_gone_from_the_record() {
    let mut group = group("buffered");
    fill(&group, 0, 100);
    let backup = group.backup();
    let before = incarnation(&group, &backup);
    let pid = group.kill(&backup, Signal::SIGKILL);
    fs::remove_dir_all(directory(&group, &backup)).expect("it can be wiped");
    wait_for_return(&mut group, &backup, pid);
    group.wait_in_sync(2);
    assert_ne!(incarnation(&group, &backup), before);
    expect_filled(&group, 100);
    group.verify();
}

#[test]
fn a_primary_wiped_while_its_backup_lives_does_not_wipe_its_backup() {
    // P1.
    let mut group = group("buffered");
    fill(&group, 0, 100);
    let primary = group.primary();
    let pid = group.kill(&primary, Signal::SIGKILL);
    fs::remove_dir_all(directory(&group, &primary)).expect("it can be wiped");
    wait_for_return(&mut group, &primary, pid);
    group.wait_in_sync(2);
    assert_ne!(group.primary(), primary);
    expect_filled(&group, 100);
    group.verify();
}

#[test]
fn an_older_copy_of_a_backups_directory_costs_nothing() {
    let mut group = group("buffered");
    fill(&group, 0, 50);
    let backup = group.backup();
    let pid = group.kill(&backup, Signal::SIGKILL);
    let (home, copy) = (directory(&group, &backup), group.data().join("copy"));
    let copied = Command::new("cp").arg("-a").args([&home, &copy]).status().expect("cp runs");
    assert!(copied.success());
    wait_for_return(&mut group, &backup, pid);
    group.wait_in_sync(2);
    fill(&group, 50, 50);
    let pid = group.kill(&backup, Signal::SIGKILL);
    fs::remove_dir_all(&home).expect("it can be removed");
    fs::rename(&copy, &home).expect("it can be put back");
    wait_for_return(&mut group, &backup, pid);
    group.wait_in_sync(2);
    expect_filled(&group, 100);
    group.verify();
}

#[test]
fn an_older_copy_of_a_lone_primarys_directory_is_refused_and_told() {
    let mut group = DevGroup::start(&Options { replicas: 1, restart_after: Some(TAMPERING), ..options("sync") });
    group.wait_in_sync(1);
    fill(&group, 0, 50);
    let pid = group.kill("r1", Signal::SIGKILL);
    let (home, copy) = (directory(&group, "r1"), group.data().join("copy"));
    assert!(Command::new("cp").arg("-a").args([&home, &copy]).status().expect("cp runs").success());
    wait_for_return(&mut group, "r1", pid);
    group.wait_in_sync(1);
    fill(&group, 50, 50);
    // Its next resumption tells the arbiters how far it had come; then the image is older than they know.
    let pid = group.kill("r1", Signal::SIGKILL);
    wait_for_return(&mut group, "r1", pid);
    group.wait_in_sync(1);
    let pid = group.kill("r1", Signal::SIGKILL);
    fs::remove_dir_all(&home).expect("it can be removed");
    fs::rename(&copy, &home).expect("it can be put back");
    wait_for_return(&mut group, "r1", pid);
    let told = group.wait_until("the command", SOON, |group| {
        let status = group.status("r1")?;
        status.waits_for_seize.clone().ok_or_else(|| format!("{status:?}"))
    });
    assert!(told.contains("cutover seize --group") && told.contains("--replica r1"), "{told}");
    assert!(group.status("r1").is_ok_and(|status| !status.serving));
}

#[test]
fn a_torn_end_is_cut_and_the_replica_comes_back() {
    let mut group = group("buffered");
    fill(&group, 0, 100);
    let backup = group.backup();
    let pid = group.kill(&backup, Signal::SIGKILL);
    let segment = last_segment(&directory(&group, &backup));
    let file = fs::File::options().write(true).open(&segment).expect("a segment");
    let length = file.metadata().expect("its length").len();
    file.set_len(length - 7).expect("it can be cut");
    wait_for_return(&mut group, &backup, pid);
    group.wait_in_sync(2);
    assert!(group.logs().contains("journal.mended"));
    expect_filled(&group, 100);
    group.verify();
}

#[test]
fn damage_in_the_middle_stops_the_start_with_file_and_offset_and_the_other_serves() {
    let mut group = group("buffered");
    fill(&group, 0, 100);
    let backup = group.backup();
    group.kill(&backup, Signal::SIGKILL);
    let segment = last_segment(&directory(&group, &backup));
    let mut bytes = fs::read(&segment).expect("a segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).expect("it can be damaged");
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    group.wait_until("the refusal", SOON, |group| {
        let log = fs::read_to_string(group.data().join("log").join(format!("{backup}.log"))).unwrap_or_default();
        let told = log.lines().any(|line| {
            line.contains(&name)
                && line.contains("is damaged at offset")
                && line.contains("move this data directory away")
        });
        if told { Ok(()) } else { Err(log) }
    });
    fill(&group, 100, 50);
    expect_filled(&group, 150);
    // What the message says helps.
    fs::rename(directory(&group, &backup), group.data().join("away")).expect("it can be moved away");
    group.wait_in_sync(2);
    group.verify();
}

#[test]
fn a_group_whose_every_copy_was_wiped_waits_for_a_person_and_says_how() {
    let mut group = group("buffered");
    fill(&group, 0, 10);
    for name in ["r1", "r2"] {
        group.kill(name, Signal::SIGKILL);
        fs::remove_dir_all(directory(&group, name)).expect("it can be wiped");
    }
    let ready = group.wait_until("the command", SOON, |group| {
        let port = group.process("r1").http.expect("a port for http");
        let answer = get(&format!("127.0.0.1:{port}"), "/readyz").map_err(|error| error.to_string())?;
        if answer.contains("cutover seize --group") { Ok(answer) } else { Err(answer) }
    });
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("--arbiters 127.0.0.1:") && ready.contains("this one holds nothing"), "{ready}");
    assert!(group.logs().contains("group.waits_for_seize"));
}

/// A small file system of its own; gone when dropped.
struct Small(PathBuf);

impl Small {
    /// `None` where mounting is not permitted.
    fn mount(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).expect("a directory");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output();
        let permitted = mounted.is_ok_and(|output| output.status.success());
        if !permitted {
            eprintln!("skipped: mounting a tmpfs is not permitted here");
        }
        permitted.then(|| Self(at.to_owned()))
    }

    fn make_read_only(&self) {
        let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status().expect("mount runs");
        assert!(remounted.success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_its_replica_and_the_other_goes_on() {
    let mut group = DevGroup::start(&Options { restart_after: None, ..options("buffered") });
    group.wait_in_sync(2);
    let at = group.data().join("small");
    let Some(_small) = Small::mount(&at, "24m") else { return };
    let home = at.join("guest").display().to_string();
    let backup = group.backup();
    group.kill(&backup, Signal::SIGKILL);
    let guest = Guest::join(&group, &["--data", &home], &[]);
    group.wait_for_record("the guest in sync", |record| {
        record.in_sync.iter().any(|member| member.replica.as_str() == "guest")
    });
    let mut client = group.redis(&group.primary());
    let value = "x".repeat(1 << 20);
    for number in 0..40 {
        assert_eq!(client.must(&["SET", &format!("large{number}"), &value]), Value::Simple("OK".into()));
    }
    group.wait_for_record("the guest's removal", |record| record.in_sync.len() == 1);
    let log = group.wait_until("the reason", SOON, |group| {
        let log = fs::read_to_string(group.data().join("log/guest.log")).unwrap_or_default();
        if log.contains("make room on that disk") { Ok(log) } else { Err(log) }
    });
    assert!(log.contains("journal.failed"), "{log}");
    drop(guest);
    assert_eq!(client.must(&["STRLEN", "large39"]), Value::Integer(1 << 20));
}

#[test]
fn a_primary_whose_disk_is_full_hands_over_and_nothing_acknowledged_is_lost() {
    let mut group = DevGroup::start(&Options { restart_after: None, ..options("buffered") });
    group.wait_in_sync(2);
    let at = group.data().join("small");
    let Some(_small) = Small::mount(&at, "24m") else { return };
    let home = at.join("guest").display().to_string();
    let (primary, backup) = (group.primary(), group.backup());
    group.kill(&backup, Signal::SIGKILL);
    let guest = Guest::join(&group, &["--data", &home], &[]);
    group.wait_for_record("the guest in sync", |record| {
        record.in_sync.iter().any(|member| member.replica.as_str() == "guest")
    });
    let switched = group.cutover(&["switchover", "--to", "guest", "--data", group.data().to_str().expect("a path")]);
    assert!(switched.status.success(), "{}", String::from_utf8_lossy(&switched.stderr));
    group.wait_until("the guest to serve", SOON, |_| match guest.status() {
        Ok(status) if status.serving => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut client = guest.redis();
    let value = "x".repeat(1 << 20);
    let acknowledged = (0..60).take_while(|number| {
        let answer = client.ask(&["SET", &format!("large{number}"), &value]);
        matches!(answer, Ok(Value::Simple(_)))
    });
    let acknowledged = acknowledged.count();
    assert!((5..60).contains(&acknowledged), "{acknowledged}");
    group.wait_for_record("another primary", |record| record.primary.replica.as_str() == primary);
    group.wait_in_sync(1);
    let handed = group
        .history()
        .iter()
        .any(|item| matches!(&item.record.last_change.change, Change::HandOver { to, .. } if to.as_str() == primary));
    assert!(handed, "it handed over before it ended");
    let mut client = group.redis(&primary);
    for number in 0..acknowledged {
        assert_eq!(client.must(&["STRLEN", &format!("large{number}")]), Value::Integer(1 << 20), "large{number}");
    }
}

/// No sync comes back.
const HANGS: &str = "delay_enter=60000000";
/// Every sync fails.
const FAILS: &str = "error=EIO";

/// While this lives, all syncs of a running process go wrong.
struct Tracing(std::process::Child);

impl Tracing {
    /// `None` where `strace` may not trace, which it says.
    fn begin(group: &mut DevGroup, name: &str, how: &str) -> Option<Self> {
        let pid = group.process(name).pid.to_string();
        let inject = format!("inject=fdatasync:{how}");
        let arguments = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", &inject, "-p", &pid];
        let Ok(child) = Command::new("strace").args(arguments).spawn() else {
            eprintln!("skipped: there is no strace");
            return None;
        };
        let mut tracing = Self(child);
        let attached = group.wait_until("the tracer", SOON, |_| {
            if tracing.0.try_wait().map_err(|error| error.to_string())?.is_some() {
                return Ok(false);
            }
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| error.to_string())?.flatten();
            let free = tasks
                .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
                .filter(|status| status.contains("TracerPid:\t0\n"))
                .count();
            if free == 0 { Ok(true) } else { Err(format!("{free} threads are not traced")) }
        });
        if !attached {
            eprintln!("skipped: strace may not trace here");
        }
        attached.then_some(tracing)
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        // Asked to end it lets go of the process, whose syncs come back.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn group_with_stall_limit(limit: &str) -> DevGroup {
    let mut sync = options("sync");
    sync.replica_options.extend(["--journal-stall-limit", limit, "--readmit-after", "10ms"].map(String::from));
    let mut group = DevGroup::start(&Options { restart_after: None, ..sync });
    group.wait_in_sync(2);
    fill(&group, 0, 10);
    group
}

#[test]
fn a_backup_whose_disk_hangs_leaves_and_comes_back_in_the_same_life() {
    let mut group = group_with_stall_limit("1s");
    let backup = group.backup();
    let life = incarnation(&group, &backup);
    let Some(hanging) = Tracing::begin(&mut group, &backup, HANGS) else { return };
    // Answered once the backup is out of the record.
    fill(&group, 10, 1);
    assert_eq!(group.record().map(|record| record.in_sync.len()), Ok(1));
    assert!(group.logs().contains("journal.stalled"), "the reason is told");
    drop(hanging);
    group.wait_in_sync(2);
    assert_eq!(incarnation(&group, &backup), life);
    group.verify();
    expect_filled(&group, 11);
}

#[test]
fn a_primary_whose_disk_hangs_hands_over_and_comes_back_in_the_same_life() {
    // Sooner than its backup finds that it cannot release.
    let mut group = group_with_stall_limit("500ms");
    let (primary, backup) = (group.primary(), group.backup());
    let life = incarnation(&group, &primary);
    let Some(hanging) = Tracing::begin(&mut group, &primary, HANGS) else { return };
    let mut client = group.redis(&primary);
    let answer = client.ask(&["SET", "key10", "10"]);
    assert!(answer.is_err(), "executed and not released: {answer:?}");
    group.wait_for_record("the other primary", |record| record.primary.replica.as_str() == backup);
    assert!(group.logs().contains("journal.stalled"), "the reason is told");
    let handed = group
        .history()
        .iter()
        .any(|item| matches!(&item.record.last_change.change, Change::HandOver { to, .. } if to.as_str() == backup));
    assert!(handed, "handed over, not taken: {:?}", group.history());
    // What it had executed the backup held, and the group goes on without the disk that hangs.
    group.wait_in_sync(1);
    fill(&group, 11, 1);
    expect_filled(&group, 12);
    drop(hanging);
    group.wait_in_sync(2);
    assert_eq!(incarnation(&group, &primary), life);
    group.verify();
}

/// In `buffered` a sync that fails takes along what was acknowledged by being written. The process knows that it failed
/// and not what it took; the test takes it away, as the device would.
#[test]
fn a_failed_sync_that_lost_what_was_acknowledged_ends_the_life_and_needs_no_person() {
    let mut group = group("buffered");
    fill(&group, 0, 100);
    let backup = group.backup();
    let before = incarnation(&group, &backup);
    let Some(_failing) = Tracing::begin(&mut group, &backup, FAILS) else { return };
    let pid = group.kill(&backup, Signal::SIGTERM);
    group.wait_until("its end", SOON, |group| match group.process(&backup) {
        process if process.running && process.pid == pid => Err(String::from("it runs")),
        _ => Ok(()),
    });
    let home = directory(&group, &backup);
    let names: Vec<String> = fs::read_dir(life(&home))
        .expect("a life")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().any(|name| name.starts_with("doubt-")), "a mark says that a sync was begun: {names:?}");
    let segment = last_segment(&home);
    let mut bytes = fs::read(&segment).expect("a segment");
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0);
    fs::write(&segment, bytes).expect("it can be damaged");
    wait_for_return(&mut group, &backup, pid);
    group.wait_in_sync(2);
    assert!(group.logs().contains("a sync of its disk failed"), "the reason is told");
    assert_ne!(incarnation(&group, &backup), before);
    expect_filled(&group, 100);
    group.verify();
}

#[test]
fn a_read_only_directory_is_refused_with_what_to_do() {
    let group = DevGroup::start(&Options { restart_after: None, ..options("buffered") });
    let at = group.data().join("small");
    let Some(small) = Small::mount(&at, "1m") else { return };
    small.make_read_only();
    let home = at.join("guest").display().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_cutover"))
        .args(["replica", "--name", "guest", "--group", "g", "--arbiters", "127.0.0.1:1", "--data", &home])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(&home) && said.contains("see that this user may write there"), "{said}");
}

#[test]
fn two_processes_never_share_a_directory() {
    let group = DevGroup::start(&options("buffered"));
    let home = directory(&group, "r1").display().to_string();
    let pid = group.process("r1").pid;
    let output = Command::new(env!("CARGO_BIN_EXE_cutover"))
        .args(["replica", "--name", "r1", "--group", "g", "--arbiters", "127.0.0.1:1", "--data", &home])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains(&format!("(process {pid})")), "{said}");
}

/// In a test where one primary answers throughout: however slow the machine is, nobody takes over from it, and it hands
/// over to nobody.
const STEADY: [&str; 6] = ["--suspect-after", "5s", "--switchover-timeout", "10s", "--journal-stall-limit", "30s"];

/// Lets the n-th call of a kind fail, or kills the process at it (`strace`), in a backup under writes: every write is
/// answered, the backup comes back on its own, and the copies are equal. Returns how many of them came to that call;
/// `None` without `strace`.
fn inject(mode: &str, samples: &[(&str, &str, u32)]) -> Option<usize> {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: there is no strace");
        return None;
    }
    let mut met = 0;
    let mut options = options(mode);
    // Every sample removes the guest twice, and a removed replica waits longer each time.
    options.replica_options.extend(["--copies", "2", "--readmit-after", "10ms"].map(String::from));
    options.replica_options.extend(STEADY.map(String::from));
    let mut group = DevGroup::start(&Options { replicas: 1, restart_after: None, ..options });
    // Before it is primary it answers LOADING.
    group.wait_in_sync(1);
    let home = group.data().join("guest");
    let mut written = 0;
    for (call, fault, at) in samples {
        let story = format!("{call}:{fault}:when={at}");
        fs::remove_dir_all(&home).unwrap_or_default();
        let trace = [format!("trace={call}"), format!("inject={story}")];
        let told = group.data().join("trace").display().to_string();
        let wrapper = ["strace", "-f", "-qq", "-o", &told, "-e", &trace[0], "-e", &trace[1]];
        let mut guest = Guest::join_under(&group, &wrapper, &STEADY, &[]);
        let mut client = group.redis("r1");
        group.wait_until(&format!("{story}: its end, or enough writes with it"), SOON, |group| {
            for _ in 0..5 {
                let key = format!("key{written}");
                assert_eq!(client.must(&["SET", &key, &written.to_string()]), Value::Simple("OK".into()), "{story}");
                written += 1;
            }
            let in_sync = group.record().is_ok_and(|record| record.in_sync.len() == 2);
            let persisted = guest.status().map_or(0, |status| status.persisted);
            if guest.has_ended() || (in_sync && persisted > 200) { Ok(()) } else { Err(format!("{persisted}")) }
        });
        let hit = guest.has_ended() || fs::read_to_string(&told).is_ok_and(|told| told.contains("(INJECTED)"));
        if !hit {
            eprintln!("{story}: never came to that");
        }
        met += usize::from(hit);
        guest.kill_holder(&home);
        drop(guest);
        let mut guest = Guest::join(&group, &STEADY, &[]);
        group.wait_until(&format!("{story}: its return"), SOON, |group| match guest.status() {
            Ok(status) if status.in_sync && group.record()?.in_sync.len() == 2 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        group.verify();
        guest.kill_holder(&home);
        drop(guest);
        group.wait_for_record("the guest's removal", |record| record.in_sync.len() == 1);
    }
    expect_filled(&group, written);
    Some(met)
}

#[test]
fn a_failed_or_fatal_system_call_of_a_backup_loses_nothing() {
    let met = inject("sync", &[("fdatasync", "error=EIO", 6), ("fsync", "error=EIO", 2), ("writev", "signal=KILL", 8)]);
    assert!(met.is_none_or(|met| met == 3), "{met:?} of 3 came to their call");
}

#[test]
fn a_failed_or_fatal_system_call_of_a_buffered_backup_loses_nothing() {
    let met = inject(
        "buffered",
        &[("fdatasync", "error=EIO", 2), ("writev", "error=ENOSPC", 9), ("rename", "signal=KILL", 2)],
    );
    assert!(met.is_none_or(|met| met == 3), "{met:?} of 3 came to their call");
}

/// A call, what becomes of it, and of which of them.
type Samples = (&'static str, &'static [&'static str], &'static [u32]);

/// Spread over everything that a replica does to its directory: entries, marks and heads; syncs of files and directories;
/// identities and snapshots put into place; segments made, reserved and removed. The first of a kind belong to the very
/// first start, later ones to a replica under writes.
const SAMPLES: [Samples; 7] = [
    ("fdatasync", &["error=EIO", "signal=KILL"], &[1, 2, 6]),
    ("writev", &["error=EIO", "error=ENOSPC", "signal=KILL"], &[1, 4, 9, 14]),
    ("rename", &["error=EIO", "signal=KILL"], &[1, 2, 3]),
    ("fsync", &["error=EIO", "signal=KILL"], &[1, 3]),
    ("fallocate", &["error=ENOSPC", "signal=KILL"], &[1]),
    ("/^(unlink|mkdir|rmdir)", &["error=EIO", "signal=KILL"], &[1, 2]),
    ("openat", &["signal=KILL"], &[25, 32, 36, 40]),
];

/// A group for a few samples each: who is removed again and again is admitted later and later.
fn sampled(mode: &str) {
    let mut all = 0;
    for (call, faults, places) in SAMPLES {
        for fault in faults {
            let Some(met) = inject(mode, &places.iter().map(|at| (call, *fault, *at)).collect::<Vec<_>>()) else {
                return;
            };
            all += met;
        }
    }
    eprintln!("{all} calls in {mode} were failed or fatal");
    assert!(all >= 30, "only {all} of the samples came to their call");
}

#[test]
#[ignore = "half a minute: more than thirty calls, each failed or fatal"]
fn thirty_sampled_system_calls_of_a_backup_in_sync() {
    sampled("sync");
}

#[test]
#[ignore = "half a minute: more than thirty calls, each failed or fatal"]
fn thirty_sampled_system_calls_of_a_backup_in_buffered() {
    sampled("buffered");
}
