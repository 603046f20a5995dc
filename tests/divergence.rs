//! A state machine that is not deterministic is caught: by index and by operation, before its copy can do harm, and
//! the copy is made anew. Every replica is a process of its own: this test binary, started again as
//! [`replica_process`]. What leaks therefore differs between processes, not merely between two copies in one.

mod support;

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use cutover::client::Client;
use cutover::daemon::status::StatusBody;
use cutover::daemon::{self, Options};
use cutover::machine::{Access, Env, Identity, ReadEnv, ReadOutcome, Restore, Snapshot, StateMachine};
use cutover::replica::CreateOptions;
use cutover_arbiter::record::Mode;
use serde_json::Value;
use support::group::{SOON, get, status_at};

/// Tells a process that it is a replica: its name and the arbiter's address.
const ROLE: &str = "LEAKY_REPLICA";
/// Operations of which each gives another state in each process.
const LEAKS: [&str; 7] =
    ["leak a counter", "leak a process", "leak a thread", "leak an address", "leak an order", "leak a moment", "show"];
/// Lines shown when a process does not say what it should.
const SHOWN: usize = 20;

/// How often this process has executed anything: what a machine must not look at, since no transfer brings it along.
static EXECUTIONS: AtomicU64 = AtomicU64::new(0);

/// A sum, and ways to get it wrong.
#[derive(Debug, Default, Clone)]
struct Leaky {
    sum: u64,
    /// Changed without a word to anyone until it is asked for.
    hidden: u64,
}

impl StateMachine for Leaky {
    type Snapshot = Copied;
    type Restore = Copied;

    fn identity() -> Identity {
        Identity { name: String::from("leaky"), version: 1 }
    }

    fn access(_operation: &[u8]) -> Access {
        Access::Write
    }

    fn name(operation: &[u8]) -> String {
        String::from_utf8_lossy(operation).into_owned()
    }

    fn apply(&mut self, operation: &[u8], env: &mut Env<'_>, reply: &mut Vec<u8>) {
        let executions = EXECUTIONS.fetch_add(1, Ordering::Relaxed);
        match operation {
            b"add" => self.sum += 1,
            b"leak a counter" => self.sum += executions,
            b"leak a process" => self.sum += u64::from(std::process::id()),
            b"leak a thread" => self.sum += nix::unistd::gettid().as_raw().unsigned_abs() as u64,
            b"leak an address" => self.sum += std::ptr::from_ref(&EXECUTIONS).addr() as u64,
            b"leak an order" => self.sum += order_of_a_hash_table(),
            b"leak a moment" => self.sum += moment(),
            b"hide" => self.hidden = u64::from(std::process::id()),
            b"show" => self.sum += self.hidden,
            _ => {}
        }
        env.changed(&self.sum.to_le_bytes());
        reply.extend(self.sum.to_string().bytes());
    }

    fn read(&self, _operation: &[u8], _env: &ReadEnv<'_>, _reply: &mut Vec<u8>) -> ReadOutcome {
        ReadOutcome::Done
    }

    fn snapshot(&self) -> Copied {
        Copied([self.sum.to_le_bytes(), self.hidden.to_le_bytes()].concat())
    }

    fn restore() -> Copied {
        Copied(Vec::new())
    }
}

/// What the iteration over a table of the standard library shows of its keys, which each process draws for itself.
#[expect(clippy::disallowed_types, reason = "this is what it is banned for")]
fn order_of_a_hash_table() -> u64 {
    let table: std::collections::HashSet<u64> = (0..64).collect();
    table.iter().fold(0, |hash: u64, number| hash.wrapping_mul(31).wrapping_add(*number)) >> 8
}

#[expect(clippy::disallowed_methods, reason = "this is what it is banned for")]
fn moment() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::from(now.subsec_nanos()))
}

/// The state as bytes.
struct Copied(Vec<u8>);

impl Snapshot for Copied {
    fn next_chunk(&mut self, _target: usize) -> Option<Vec<u8>> {
        (!self.0.is_empty()).then(|| std::mem::take(&mut self.0))
    }
}

impl Restore for Copied {
    type Machine = Leaky;

    fn chunk(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.0.extend_from_slice(chunk);
        Ok(())
    }

    fn finish(self) -> Result<Leaky, String> {
        let (sum, hidden) = self.0.split_at_checked(8).ok_or("too short")?;
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).map_err(|_| "16 bytes are the state");
        Ok(Leaky { sum: number(sum)?, hidden: number(hidden)? })
    }
}

/// A process of this test. It ends with the test: killed when this is dropped, and by the end of its standard input
/// when the test is killed itself.
struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: VecDeque<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CUTOVER_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a process starts");
        let stderr = child.stderr.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines, seen: VecDeque::new() }
    }

    fn arbiter(address: &str, data: &tempfile::TempDir) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cutover"));
        let peers = format!("1={address}");
        command.args(["arbiter", "--id", "1", "--peers", &peers, "--stop-when-stdin-closes", "--data"]);
        Self::start(command.arg(data.path()))
    }

    /// Waits for a log line whose message begins with `event`.
    fn wait_for(&mut self, event: &str) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|error| panic!("no {event}: {error}; it said last {:#?}", self.seen));
            // What is no JSON is a panic's last words.
            let fields: Value = serde_json::from_str(&line).unwrap_or_default();
            if self.seen.len() == SHOWN {
                self.seen.pop_front();
            }
            self.seen.push_back(line);
            if fields["message"].as_str().is_some_and(|message| message.starts_with(event)) {
                return fields;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A replica of the leaky machine.
struct LeakyReplica {
    process: Running,
    http: String,
}

impl LeakyReplica {
    fn start(name: &str, arbiter: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this test binary"));
        command.args(["replica_process", "--exact", "--ignored", "--nocapture"]).env(ROLE, format!("{name} {arbiter}"));
        let mut process = Running::start(&mut command);
        let started = process.wait_for("replica.started");
        Self { process, http: started["http"].as_str().expect("an address").to_owned() }
    }

    /// Asks it until it is so.
    fn until(&self, what: &str, so: impl Fn(&StatusBody) -> bool) -> StatusBody {
        let deadline = Instant::now() + SOON;
        loop {
            let seen = status_at(&self.http);
            match seen {
                Ok(status) if so(&status) => return status,
                seen => assert!(Instant::now() < deadline, "never {what}: {seen:#?}"),
            }
            // No line tells of this; it is looked at.
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

#[test]
#[ignore = "a process that the other test starts; by itself it does nothing"]
fn replica_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (name, arbiter) = role.split_once(' ').expect("a name and an address");
    // Whoever would read the lines may be gone; that must not keep it from ending.
    let lines = tracing_subscriber::fmt().json().flatten_event(true).with_writer(std::io::stderr);
    lines.log_internal_errors(false).init();
    let group = "leaky".parse().expect("a name");
    let mut options = Options::new(name.parse().expect("a name"), group, vec![arbiter.to_owned()]);
    options.listen.redis = None;
    // Doubled at each removal, and there are many.
    options.readmit_after = Duration::from_millis(10);
    options.create = (name == "a").then_some(CreateOptions { mode: Mode::Memory, min_in_sync: 1 });
    options.stop_when_stdin_closes = true;
    daemon::run(options, Leaky::default).expect("it stops in peace");
}

#[test]
fn what_is_not_captured_is_caught_and_named_and_the_copy_is_made_anew() {
    let _turn = support::take_turn();
    let ports = support::Ports::claim(&[]);
    let arbiter = format!("127.0.0.1:{}", ports.base);
    let data = tempfile::tempdir().expect("a directory");
    let _arbiter = Running::arbiter(&arbiter, &data);
    let first = LeakyReplica::start("a", &arbiter);
    first.until("primary", |status| status.serving);

    let runtime = support::runtime();
    let client = runtime.block_on(Client::connect([arbiter.clone()], "leaky")).expect("a client");
    let execute = |operation: &'static str| {
        let reply = runtime.block_on(client.execute(operation)).expect("an answer");
        let sum: u64 = String::from_utf8_lossy(&reply.bytes).parse().expect("a number");
        (sum, reply.receipt.index)
    };
    // Executed by one process only: the other gets the sum, and not the count.
    for number in 1..=20 {
        assert_eq!(execute("add").0, number);
    }
    let mut second = LeakyReplica::start("b", &arbiter);
    let mut life = second.until("in sync", |status| status.in_sync).incarnation;
    second.process.wait_for("transfer.done");
    for number in 21..=40 {
        assert_eq!(execute("add").0, number, "what is deterministic is not caught");
    }

    let verify = || {
        let arguments = ["verify", "--group", "leaky", "--arbiters", &arbiter];
        Command::new(env!("CARGO_BIN_EXE_cutover")).args(arguments).output().expect("cutover runs")
    };
    for (times, leak) in (1..).zip(LEAKS) {
        if leak == "show" {
            // No result tells of it before it shows; who compares the states finds it.
            execute("hide");
            let found = verify();
            assert_eq!(found.status.code(), Some(1), "{found:?}");
        }
        let (sum, index) = execute(leak);
        let caught = second.process.wait_for("replica.diverged");
        assert_eq!((caught["index"].as_u64(), caught["operation"].as_str()), (Some(index), Some(leak)), "{caught}");
        assert_eq!(caught["level"], "ERROR");
        second.process.wait_for("replica.new_incarnation");
        second.process.wait_for("transfer.done");
        let back = second.until("in sync again", |status| status.in_sync && status.incarnation != life);
        life = back.incarnation;
        assert_eq!(execute("add").0, sum + 1, "what the primary answered stays true");
        let metrics = get(&second.http, "/metrics").expect("metrics");
        let counted = metrics.lines().find(|line| line.contains("replica.diverged") || line.contains("diverged"));
        assert!(counted.is_some_and(|line| line.ends_with(&format!(" {times}"))), "{counted:?} in {metrics}");
    }
    let equal = verify();
    assert!(equal.status.success(), "{equal:?}");

    // The copy that was wrong so often leads with what was answered.
    let (sum, _) = execute("add");
    drop(first);
    assert_eq!(execute("add").0, sum + 1);
    let served = second.until("primary", |status| status.serving);
    assert_eq!(served.incarnation, life, "it went on in the life in which it was made anew");
}
