//! A real group of real processes for tests: `cutover dev` in a directory of its own, on ports of its own.
//!
//! Every wait is for a line that `dev` prints, or for what can be observed after one, and is bounded by a deadline
//! whose message shows what was seen last. One group runs at a time on a machine, so that tests do not take each
//! other's time. Deliberately not here: what the tests demand of a group.
//!
//! | file | |
//! |---|---|
//! | `group` | what a running group is asked: record, history, status, load, comparison |
//! | `frames` | what is said by hand on a port of frames |
//! | `redis` | a Redis connection in slow motion |
//! | `guest` | a replica that the test starts itself |
//! | `recorder` | a relay that remembers every byte |
//! | `synced` | what the loss of power leaves of a directory |
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::print_stderr, reason = "a failing test shows the ends of the logs")]

pub mod frames;
pub mod group;
pub mod guest;
pub mod recorder;
pub mod redis;
pub mod synced;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a group may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long `dev` may take to end everything; it promises five seconds.
const ENDED_WITHIN: Duration = Duration::from_secs(8);
/// Lines shown when a wait fails.
const SHOWN: usize = 40;

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    pub replicas: usize,
    pub spares: usize,
    pub arbiters: usize,
    /// `None`: what has exited stays down.
    pub restart_after: Option<Duration>,
    /// Puts the fault proxy between all processes.
    pub chaos: bool,
    /// Options for every replica.
    pub replica_options: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        let restart_after = Some(Duration::from_millis(200));
        Self { replicas: 2, spares: 0, arbiters: 3, restart_after, chaos: false, replica_options: Vec::new() }
    }
}

/// A process as dev.json shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub name: String,
    pub kind: String,
    pub pid: i32,
    pub running: bool,
    pub peer: Option<u16>,
    pub client: Option<u16>,
    pub redis: Option<u16>,
    pub http: Option<u16>,
}

/// A hundred ports that no other test of this machine uses; the lock ends with the process at the latest.
pub struct Ports {
    /// The first of them.
    pub base: u16,
    _lock: File,
}

impl Ports {
    /// None that begins with one of `excluded`, and below the range from which the system takes ports for outgoing connections.
    pub fn claim(excluded: &[u16]) -> Self {
        let directory = std::env::temp_dir().join("cutover-test-ports");
        fs::create_dir_all(&directory).expect("a directory for locks");
        // Where to begin differs from process to process, so that they seldom meet.
        let first = std::process::id() as u16 % 120;
        for step in 0..120 {
            let base = 20_000 + (first + step) % 120 * 100;
            let lock = File::create(directory.join(base.to_string())).expect("a lock for ports");
            if !excluded.contains(&base) && lock.try_lock().is_ok() {
                return Self { base, _lock: lock };
            }
        }
        panic!("no hundred free ports between 20000 and 32000");
    }
}

/// A runtime that a thread of its own drives until the process ends, so that a test may block meanwhile.
pub fn runtime() -> tokio::runtime::Handle {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
}

/// Waits until no other test of this machine runs a group. The lock ends with the process at the latest.
pub fn take_turn() -> File {
    let turn = File::create(std::env::temp_dir().join("cutover-test-turn")).expect("a lock for turns");
    turn.lock().expect("a lock can be waited for");
    turn
}

/// A running `cutover dev`. Dropping it ends everything that it started, by process id.
pub struct DevGroup {
    dev: Child,
    lines: Receiver<String>,
    seen: VecDeque<String>,
    /// Every process id that this group ever had.
    pids: Vec<i32>,
    directory: tempfile::TempDir,
    _ports: Ports,
    _turn: File,
}

impl DevGroup {
    /// Starts a group and waits until as many replicas are in sync as it was asked for.
    pub fn start(options: &Options) -> Self {
        let mut group = Self::start_unready(options);
        group.wait_for_line_within("ready: ", READY_WITHIN);
        group
    }

    /// Starts a group and waits only until every process runs and dev.json is written.
    pub fn start_unready(options: &Options) -> Self {
        let mut taken = Vec::new();
        loop {
            let turn = take_turn();
            let ports = Ports::claim(&taken);
            let base = ports.base;
            let mut group = Self::launch(options, ports, turn);
            match group.next_line_matching(|line| line.contains("Ctrl-C ends everything"), READY_WITHIN) {
                Ok(_) => {
                    group.note_pids();
                    return group;
                }
                // Somebody else, no test of ours, listens there.
                Err(_) if group.seen.iter().any(|line| line.contains("these ports cannot be used")) => taken.push(base),
                Err(problem) => panic!("cutover dev did not start: {problem}"),
            }
        }
    }

    fn launch(options: &Options, ports: Ports, turn: File) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CUTOVER_")) {
            command.env_remove(name);
        }
        let restart = options.restart_after.map_or("never".into(), |after| format!("{}ms", after.as_millis()));
        command.arg("dev").arg("--data").arg(directory.path());
        for (flag, value) in [
            ("--base-port", ports.base.to_string()),
            ("--replicas", options.replicas.to_string()),
            ("--spares", options.spares.to_string()),
            ("--arbiters", options.arbiters.to_string()),
            ("--restart-after", restart),
        ] {
            command.args([flag, &value]);
        }
        if options.chaos {
            command.arg("--chaos");
        }
        command.arg("--").args(&options.replica_options);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut dev = command.spawn().expect("cutover dev starts");
        let (sender, lines) = channel();
        let (stdout, stderr) = (dev.stdout.take().expect("piped"), dev.stderr.take().expect("piped"));
        let errors = sender.clone();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| errors.send(line))
        });
        Self { dev, lines, seen: VecDeque::new(), pids: Vec::new(), directory, _ports: ports, _turn: turn }
    }

    /// The group's directory, for `--data`.
    pub fn data(&self) -> &Path {
        self.directory.path()
    }

    /// The process id of `cutover dev` itself.
    pub fn dev_pid(&self) -> i32 {
        self.dev.id().cast_signed()
    }

    /// dev.json as it is now.
    pub fn description(&self) -> Value {
        let path = self.data().join("dev.json");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("dev.json is not whole: {error}\n{text}"))
    }

    /// The arbiters' addresses.
    pub fn arbiters(&self) -> Vec<String> {
        let description = self.description();
        let arbiters = description["arbiters"].as_array().expect("a list of arbiters");
        arbiters.iter().map(|address| address.as_str().expect("an address").to_owned()).collect()
    }

    /// Every process.
    pub fn processes(&self) -> Vec<Process> {
        let description = self.description();
        let port = |value: &Value| value.as_u64().map(|port| port as u16);
        let processes = description["processes"].as_array().expect("a list of processes");
        processes
            .iter()
            .map(|process| Process {
                name: process["name"].as_str().expect("a name").to_owned(),
                kind: process["kind"].as_str().expect("a kind").to_owned(),
                pid: process["pid"].as_i64().expect("a process id") as i32,
                running: process["running"].as_bool().expect("running or not"),
                peer: port(&process["peer"]),
                client: port(&process["client"]),
                redis: port(&process["redis"]),
                http: port(&process["http"]),
            })
            .collect()
    }

    /// The process called `name`.
    pub fn process(&self, name: &str) -> Process {
        let found = self.processes().into_iter().find(|process| process.name == name);
        found.unwrap_or_else(|| panic!("no process is called {name}"))
    }

    /// Sends `signal` to the process called `name`; returns the process id that got it.
    pub fn kill(&mut self, name: &str, signal: Signal) -> i32 {
        self.note_pids();
        let process = self.process(name);
        assert!(process.running, "{name} is not running: {process:?}");
        kill(Pid::from_raw(process.pid), signal).unwrap_or_else(|error| panic!("{signal} to {process:?}: {error}"));
        process.pid
    }

    /// Runs `cutover` with these arguments to its end.
    pub fn cutover(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_cutover")).args(arguments).output().expect("cutover runs")
    }

    /// Runs `cutover chaos` on this group.
    pub fn chaos(&self, arguments: &[&str]) {
        let data = self.data().to_str().expect("a path of text");
        let output = self.cutover(&[&["chaos", "--data", data], arguments].concat());
        assert!(output.status.success(), "chaos {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits for the next line of `dev`, not seen by an earlier wait, that contains `text`.
    pub fn wait_for_line(&mut self, text: &str) -> String {
        self.wait_for_line_within(text, READY_WITHIN)
    }

    /// As [`DevGroup::wait_for_line`], with a deadline of its own.
    pub fn wait_for_line_within(&mut self, text: &str, within: Duration) -> String {
        match self.next_line_matching(|line| line.contains(text), within) {
            Ok(line) => line,
            Err(problem) => panic!("waiting for a line with '{text}': {problem}"),
        }
    }

    /// Waits until `condition` gives something, looking again after every line of `dev`. The condition may be looked
    /// at now and then without a line too, for what no line tells; `what` names it when it never comes.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut condition: impl FnMut(&Self) -> Result<T, String>,
    ) -> T {
        let deadline = Instant::now() + within;
        loop {
            let state = match condition(self) {
                Ok(value) => return value,
                Err(state) => state,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{what} did not come within {within:?}; last seen: {state}\n{}",
                self.last_lines()
            );
            if let Ok(line) = self.lines.recv_timeout(left.min(Duration::from_millis(50))) {
                self.remember(line);
            }
        }
    }

    /// Sends `signal` to `dev` and waits until it has ended.
    pub fn end(mut self, signal: Signal) -> (ExitStatus, Vec<i32>) {
        self.note_pids();
        kill(Pid::from_raw(self.dev_pid()), signal).expect("dev is ours and not reaped");
        let status = self.wait_for_dev().unwrap_or_else(|| panic!("dev did not end\n{}", self.last_lines()));
        (status, std::mem::take(&mut self.pids))
    }

    /// Its output ends when it has ended, and so have all that could write to it.
    fn wait_for_dev(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + ENDED_WITHIN;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.remember(line),
                Err(RecvTimeoutError::Disconnected) => return self.dev.wait().ok(),
                Err(RecvTimeoutError::Timeout) => return None,
            }
        }
    }

    fn next_line_matching(&mut self, is_it: impl Fn(&str) -> bool, within: Duration) -> Result<String, String> {
        let deadline = Instant::now() + within;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.remember(line.clone());
                    if is_it(&line) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Err(format!("not within {within:?}\n{}", self.last_lines())),
                Err(RecvTimeoutError::Disconnected) => return Err(format!("dev has ended\n{}", self.last_lines())),
            }
        }
    }

    fn remember(&mut self, line: String) {
        if line.contains("started again") {
            self.note_pids();
        }
        if self.seen.len() == SHOWN {
            self.seen.pop_front();
        }
        self.seen.push_back(line);
    }

    fn note_pids(&mut self) {
        for process in self.processes() {
            if process.pid > 0 && !self.pids.contains(&process.pid) {
                self.pids.push(process.pid);
            }
        }
    }

    fn last_lines(&self) -> String {
        let lines: Vec<&str> = self.seen.iter().map(String::as_str).collect();
        format!("dev said last:\n  {}\nlogs are in {}", lines.join("\n  "), self.log_directory().display())
    }

    fn log_directory(&self) -> PathBuf {
        self.data().join("log")
    }
}

impl Drop for DevGroup {
    fn drop(&mut self) {
        if matches!(self.dev.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.dev_pid()), Signal::SIGTERM);
            if self.wait_for_dev().is_none() {
                let _ = self.dev.kill();
                let _ = self.dev.wait();
            }
        }
        // Whatever is left is ours only if it was started by this group.
        for pid in self.pids.iter().filter(|pid| is_cutover(**pid)) {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            for name in fs::read_dir(self.log_directory()).into_iter().flatten().flatten() {
                let log = fs::read_to_string(name.path()).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                eprintln!("--- end of {}", name.path().display());
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// True when `pid` runs and is no zombie.
pub fn is_alive(pid: i32) -> bool {
    let exists = kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH);
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    exists && !state.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// The id may have gone to somebody else's process since.
fn is_cutover(pid: i32) -> bool {
    is_alive(pid)
        && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == Path::new(env!("CARGO_BIN_EXE_cutover")))
}

/// Waits until none of `pids` is alive.
pub fn wait_until_gone(pids: &[i32], within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let left: Vec<i32> = pids.iter().copied().filter(|pid| is_alive(*pid)).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still alive after {within:?}: {left:?}");
        // The end of a process that is not our child can only be looked at.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
