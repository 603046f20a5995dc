//! What a test asks of a running group: its record and history, its replicas' status, a load, a comparison.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cutover::daemon::status::StatusBody;
use cutover_arbiter::client::{ArbiterClient, ClientOptions, Unanswered};
use cutover_arbiter::record::{GroupRecord, HistoryItem};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::redis::Redis;
use super::{DevGroup, Process};

/// How long the arbiters are asked, each time.
const ARBITERS: Duration = Duration::from_secs(2);
/// How long a replica is asked, each time.
const REPLICA: Duration = Duration::from_secs(2);
/// How long a group may take to become what it should be.
pub const SOON: Duration = Duration::from_secs(30);
/// Operations after which a load is in full swing.
const IN_FULL_SWING: u64 = 100;

impl DevGroup {
    /// The group's name.
    pub fn name(&self) -> String {
        self.description()["group"].as_str().expect("a name").to_owned()
    }

    fn ask_arbiters<T>(
        &self,
        question: impl AsyncFnOnce(ArbiterClient) -> Result<T, Unanswered>,
    ) -> Result<T, Unanswered> {
        let arbiters = self.arbiters();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            question(ArbiterClient::new(ClientOptions { arbiters, ..ClientOptions::default() })).await
        })
    }

    /// The group's record, by its arbiters.
    pub fn record(&self) -> Result<GroupRecord, String> {
        let name = self.name().parse().expect("a group's name");
        let record = self.ask_arbiters(async |arbiters| arbiters.read(&name, ARBITERS).await);
        record.map_err(|error| error.to_string())?.ok_or_else(|| String::from("no such group"))
    }

    /// Every change that the arbiters remember.
    pub fn history(&self) -> Vec<HistoryItem> {
        let name = self.name().parse().expect("a group's name");
        let history = self.ask_arbiters(async |arbiters| arbiters.history(&name, ARBITERS).await);
        history.unwrap_or_else(|error| panic!("no history: {error}"))
    }

    /// The name of the primary, by the arbiters.
    pub fn primary(&self) -> String {
        self.record().unwrap_or_else(|error| panic!("no record: {error}")).primary.replica.to_string()
    }

    /// The name of the one backup in sync.
    pub fn backup(&self) -> String {
        let record = self.record().unwrap_or_else(|error| panic!("no record: {error}"));
        let backups: Vec<String> =
            names(&record).into_iter().filter(|name| *name != record.primary.replica.as_str()).collect();
        assert_eq!(backups.len(), 1, "{record:?}");
        backups[0].clone()
    }

    /// Waits until the arbiters' record is as wanted.
    pub fn wait_for_record(&mut self, what: &str, wanted: impl Fn(&GroupRecord) -> bool) -> GroupRecord {
        self.wait_until(what, SOON, |group| match group.record() {
            Ok(record) if wanted(&record) => Ok(record),
            Ok(record) => Err(format!("{record:#?}")),
            Err(error) => Err(error),
        })
    }

    /// Waits until a replica serves: the arbiters know who is primary some milliseconds before it does.
    pub fn wait_until_it_serves(&mut self, name: &str) {
        self.wait_until("its answer", SOON, |group| match group.status(name)? {
            status if status.serving => Ok(()),
            status => Err(format!("{status:?}")),
        });
    }

    /// Waits until so many are in sync, each of them says so itself, and the primary serves.
    pub fn wait_in_sync(&mut self, count: usize) -> GroupRecord {
        self.wait_in_sync_within(count, SOON)
    }

    /// The same, for those who need longer.
    pub fn wait_in_sync_within(&mut self, count: usize, within: Duration) -> GroupRecord {
        let what = format!("{count} in sync");
        self.wait_until(&what, within, |group| {
            let record = group.record()?;
            let believe = record.in_sync.iter().all(|member| {
                status_at(&member.addresses.http)
                    .is_ok_and(|status| status.in_sync && status.serving == (member == &record.primary))
            });
            if record.in_sync.len() == count && believe { Ok(record) } else { Err(format!("{record:#?}")) }
        })
    }

    /// What a replica says of itself.
    pub fn status(&self, name: &str) -> Result<StatusBody, String> {
        status_at(&format!("127.0.0.1:{}", self.process(name).http.expect("a port for http")))
    }

    /// A Redis connection to a replica.
    pub fn redis(&self, name: &str) -> Redis {
        let port = self.process(name).redis.expect("a port for Redis");
        Redis::connect(port).unwrap_or_else(|error| panic!("{name}, port {port}: {error}"))
    }

    /// Every replica that `dev` started.
    pub fn replicas(&self) -> Vec<Process> {
        self.processes().into_iter().filter(|process| process.kind == "replica").collect()
    }

    /// Sends a signal to every arbiter.
    pub fn kill_arbiters(&mut self, signal: Signal) {
        let arbiters = self.processes().into_iter().filter(|process| process.kind == "arbiter" && process.running);
        for arbiter in arbiters.collect::<Vec<_>>() {
            self.kill(&arbiter.name, signal);
        }
    }

    /// Fails unless all replicas have the same state.
    pub fn verify(&self) {
        let data = self.data().to_str().expect("a path of text");
        let output = self.cutover(&["verify", "--data", data]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "verify: {said}");
    }

    /// The process id of everything that it started.
    pub fn process_ids(&self) -> Vec<i32> {
        self.processes().iter().map(|process| process.pid).collect()
    }

    /// Fails unless the group is as it was, and works.
    pub fn unharmed(&self, record: &GroupRecord, pids: &[i32]) {
        assert_eq!(&self.record().expect("a record"), record);
        assert_eq!(self.process_ids(), pids, "nobody died");
        self.redis(&self.primary()).must(&["SET", "key", "value"]);
        self.verify();
        let logs = self.logs();
        assert!(!logs.contains("panicked"), "{logs}");
    }

    /// Every log line of this event so far.
    pub fn told(&self, event: &str) -> Vec<Value> {
        let logs = self.logs();
        let lines = logs.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"].as_str().is_some_and(|message| message.starts_with(event))).collect()
    }

    /// Begins a load that is judged at its end.
    pub fn torture(&self) -> Torture {
        let child = Command::new(env!("CARGO_BIN_EXE_cutover"))
            .args(["torture", "--json", "--clients", "4", "--duration", "5m", "--deadline", "60s", "--data"])
            .arg(self.data())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cutover torture starts");
        Torture { child: Some(child) }
    }

    /// Waits until the present primary has executed a good many operations from now on.
    pub fn wait_for_load(&mut self) {
        let mut first = None;
        self.wait_until("a load", SOON, |group| {
            let record = group.record()?;
            let now = status_at(&record.primary.addresses.http)?.operations;
            // Another life counts from the start.
            let from = *first.get_or_insert(now);
            if now >= from.min(now) + IN_FULL_SWING || now >= from + IN_FULL_SWING {
                Ok(())
            } else {
                Err(format!("{now} operations, at first {from}"))
            }
        });
    }

    /// Every log of this group, of all lives.
    pub fn logs(&self) -> String {
        let logs = std::fs::read_dir(self.data().join("log")).expect("a directory of logs");
        logs.flatten().map(|log| std::fs::read_to_string(log.path()).unwrap_or_default()).collect()
    }
}

/// The names of those in sync.
pub fn names(record: &GroupRecord) -> Vec<String> {
    record.in_sync.iter().map(|member| member.replica.to_string()).collect()
}

/// What `GET path` answers, head and body.
pub fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(REPLICA))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What the replica with this http address says of itself.
pub fn status_at(http: &str) -> Result<StatusBody, String> {
    let answer = get(http, "/status").map_err(|error| format!("{http}: {error}"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).map_err(|error| format!("{http}: {error}: {answer}"))
}

/// A running `cutover torture`.
pub struct Torture {
    child: Option<Child>,
}

impl Torture {
    /// Ends the load; fails unless everything acknowledged is there, once and in order, and every operation was
    /// answered. Gives the report.
    pub fn finish(mut self) -> Value {
        let child = self.child.take().expect("it is finished once");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("it is ours and not reaped");
        let output = child.wait_with_output().expect("its output");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        let report: Value =
            serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{errors} {}", output.status));
        for count in ["lost", "duplicated", "reordered", "unknown", "stale", "phantom", "surprises"] {
            assert_eq!(report[count], 0, "{count}: {report:#}\n{errors}");
        }
        assert_eq!(report["ok"], true, "{report:#}\n{errors}");
        report
    }
}

impl Drop for Torture {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
