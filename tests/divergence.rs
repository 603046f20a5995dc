//! A state machine that is not deterministic is caught: by index and by operation, before its copy can do harm, and
//! the copy is made anew. The group runs inside this process.

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cutover::client::Client;
use cutover::daemon::status::StatusBody;
use cutover::daemon::{self, Handle, Options};
use cutover::machine::{Access, Env, Identity, ReadEnv, ReadOutcome, Restore, Snapshot, StateMachine};
use cutover::replica::CreateOptions;
use cutover_arbiter::record::Mode;
use cutover_arbiter::server;
use serde_json::Value;
use support::group::{SOON, get, status_at};

/// Every execution on every replica counts here: what a machine must not look at.
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
            b"leak a thread" => {
                // Different on every replica, whatever else is equal: each has a loop of its own.
                let thread = format!("{:?}", std::thread::current().id());
                self.sum += thread.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31) + u64::from(byte));
            }
            b"hide" => self.hidden = executions,
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

/// Log lines go to the test.
struct Lines(Mutex<Sender<Vec<u8>>>);

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        // A test that has ended does not listen.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Waits for a log line whose message begins with `event`.
fn wait_for(lines: &Receiver<Vec<u8>>, event: &str) -> Value {
    let deadline = Instant::now() + SOON;
    loop {
        let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let line = line.unwrap_or_else(|error| panic!("no {event}: {error}"));
        let fields: Value = serde_json::from_slice(&line).expect("a line of JSON");
        if fields["message"].as_str().is_some_and(|message| message.starts_with(event)) {
            return fields;
        }
    }
}

/// Asks a replica until it is so.
fn until(what: &str, replica: &Handle, so: impl Fn(&StatusBody) -> bool) -> StatusBody {
    let deadline = Instant::now() + SOON;
    loop {
        let seen = status_at(&replica.addresses().http);
        match seen {
            Ok(status) if so(&status) => return status,
            seen => assert!(Instant::now() < deadline, "never {what}: {seen:#?}"),
        }
        // No line tells of this; it is looked at.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn arbiter(data: &tempfile::TempDir) -> String {
    // The port must be known to the options before it is bound.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port").to_string();
    let options = server::Options {
        id: 1,
        listen: free.clone(),
        peers: vec![(1, free.clone())],
        data_dir: data.path().to_owned(),
        ..server::Options::default()
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(server::serve(options, std::future::pending())).expect("an arbiter");
    });
    free
}

fn replica(name: &str, arbiter: &str) -> Handle {
    let name = name.parse().expect("a name");
    let mut options = Options::new(name, "leaky".parse().expect("a name"), vec![arbiter.to_owned()]);
    options.listen.redis = None;
    options.readmit_after = Duration::from_millis(100);
    options.create = (options.name.as_str() == "a").then_some(CreateOptions { mode: Mode::Memory, min_in_sync: 1 });
    daemon::start(options, Leaky::default).expect("a replica")
}

#[test]
fn what_is_not_captured_is_caught_and_named_and_the_copy_is_made_anew() {
    let _turn = support::take_turn();
    let (sender, lines) = channel();
    let writer: &'static Lines = Box::leak(Box::new(Lines(Mutex::new(sender))));
    tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer).init();
    let data = tempfile::tempdir().expect("a directory");
    let arbiter = arbiter(&data);
    let first = replica("a", &arbiter);
    until("primary", &first, |status| status.serving);
    let second = replica("b", &arbiter);
    let mut life = until("in sync", &second, |status| status.in_sync).incarnation;

    let runtime = support::runtime();
    let client = runtime.block_on(Client::connect([arbiter.clone()], "leaky")).expect("a client");
    let execute = |operation: &'static str| {
        let reply = runtime.block_on(client.execute(operation)).expect("an answer");
        let sum: u64 = String::from_utf8_lossy(&reply.bytes).parse().expect("a number");
        (sum, reply.receipt.index)
    };
    for number in 1..=20 {
        assert_eq!(execute("add").0, number);
    }
    for (times, leak) in (1..).zip(["leak a counter", "leak a thread", "show"]) {
        if leak == "show" {
            // Not seen when it happens, but as soon as it shows.
            execute("hide");
        }
        let (sum, index) = execute(leak);
        let caught = wait_for(&lines, "replica.diverged");
        assert_eq!((caught["index"].as_u64(), caught["operation"].as_str()), (Some(index), Some(leak)), "{caught}");
        assert_eq!(caught["level"], "ERROR");
        wait_for(&lines, "replica.new_incarnation");
        wait_for(&lines, "transfer.done");
        let back = until("in sync again", &second, |status| status.in_sync && status.incarnation != life);
        life = back.incarnation;
        assert_eq!(execute("add").0, sum + 1, "what the primary answered stays true");
        let metrics = get(&second.addresses().http, "/metrics").expect("metrics");
        let counted = metrics.lines().find(|line| line.contains("replica.diverged") || line.contains("diverged"));
        assert!(counted.is_some_and(|line| line.ends_with(&format!(" {times}"))), "{counted:?} in {metrics}");
    }
    let verify = ["verify", "--group", "leaky", "--arbiters", &arbiter];
    let verified = Command::new(env!("CARGO_BIN_EXE_cutover")).args(verify).output().expect("cutover runs");
    assert!(verified.status.success(), "{verified:?}");
    for replica in [first, second] {
        replica.shutdown();
        replica.shutdown();
        replica.join().expect("it stops in peace");
    }
}
