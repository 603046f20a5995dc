//! The loop of `cutover dev`: starts everything, starts again what has exited, tells what happens, ends everything.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::time::Duration;

use cutover_arbiter::client::{ArbiterClient, ClientOptions};
use cutover_arbiter::record::GroupRecord;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cli::failure::{ExitCode, Failure};
use crate::cli::shutdown::{Shutdown, StopOptions};
use crate::fault::control;
use crate::fault::relay::Relay;

use super::DevConfig;
use super::child::{Child, ChildEvent};
use super::directory::{DescribedProcess, Description, Directory, Start};
use super::follow;
use super::plan::{Existence, Kind, Plan, Planned};

/// How long the children have to end by themselves; then they are killed. Together with `KILLED_WITHIN` less than
/// the five seconds that are promised.
const ENDED_WITHIN: Duration = Duration::from_millis(2500);
/// How long the kernel may take to tear killed children down.
const KILLED_WITHIN: Duration = Duration::from_millis(1500);
/// Lines that wait to be printed; further ones are dropped, because nobody reads.
const UNPRINTED: usize = 1024;
/// How long the last lines may take to be printed.
const PRINTED_WITHIN: Duration = Duration::from_millis(250);

/// Runs the group until a signal ends it.
pub(super) fn run(config: DevConfig, plan: Plan) -> Result<(), Failure> {
    let directory = Directory::take(&config.data)?;
    ports_are_free(&plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Configuration, format!("cannot start a runtime: {error}")))?;
    let printer = Printer::start();
    let result = runtime.block_on(async {
        let mut shutdown = Shutdown::listen(StopOptions::default())?;
        let proxy = Proxy::start(&plan, &directory).await?;
        let (events, incoming) = mpsc::channel(4096);
        let mut group = Group {
            config,
            plan,
            directory,
            printer: &printer,
            events,
            children: BTreeMap::new(),
            restarts: BTreeMap::new(),
            existence: Existence::NotYet,
        };
        let result = group.start_all().map(|()| group.introduce());
        if result.is_ok() {
            group.follow(incoming, &mut shutdown, proxy).await
        } else {
            group.end(incoming, &mut shutdown).await;
            result
        }
    });
    printer.finish();
    result
}

/// Refuses to start beside somebody who listens on one of the ports.
fn ports_are_free(plan: &Plan) -> Result<(), Failure> {
    let taken: Vec<String> = plan
        .ports()
        .into_iter()
        .filter_map(|(port, what)| {
            let error = TcpListener::bind(("127.0.0.1", port)).err()?;
            Some(format!("{port} ({what}: {error})"))
        })
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    let message =
        format!("these ports cannot be used: {}; stop what uses them, or choose another --base-port", taken.join(", "));
    Err(Failure::new(ExitCode::StateRefuses, message))
}

/// The fault proxy of the group; without `--chaos` it has no paths and tells nothing.
struct Proxy {
    _relay: Relay,
    changes: mpsc::Receiver<String>,
    /// Held so that `changes` never ends.
    _changed: mpsc::Sender<String>,
}

impl Proxy {
    async fn start(plan: &Plan, directory: &Directory) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(
                ExitCode::StateRefuses,
                format!("cannot start the fault proxy: {error}; choose another --base-port or --data"),
            )
        };
        let relay = Relay::start(plan.paths.clone()).await.map_err(failed)?;
        let (changed, changes) = mpsc::channel(64);
        if !plan.paths.is_empty() {
            let socket = UnixListener::bind(directory.control_socket()).map_err(failed)?;
            tokio::spawn(control::serve(socket, Arc::clone(relay.links()), changed.clone()));
        }
        Ok(Self { _relay: relay, changes, _changed: changed })
    }
}

/// Everything that `dev` runs.
struct Group<'a> {
    config: DevConfig,
    plan: Plan,
    directory: Directory,
    printer: &'a Printer,
    events: mpsc::Sender<ChildEvent>,
    /// What runs, by its place in the plan.
    children: BTreeMap<usize, (Child, u32)>,
    /// What has exited, and when to start it again.
    restarts: BTreeMap<usize, Exited>,
    existence: Existence,
}

/// A process between two lives.
struct Exited {
    pid: u32,
    again: Option<Instant>,
}

impl Group<'_> {
    fn start_all(&mut self) -> Result<(), Failure> {
        for at in 0..self.plan.processes.len() {
            self.start(at, Start::First)?;
        }
        self.describe()
    }

    fn start(&mut self, at: usize, start: Start) -> Result<(), Failure> {
        let planned = &self.plan.processes[at];
        let more = planned.besides(self.existence);
        let failed = |error: std::io::Error| {
            Failure::new(ExitCode::Configuration, format!("cannot start {}: {error}", planned.name))
        };
        let log = self.directory.log(&planned.name, start).map_err(failed)?;
        let child = Child::start(planned, more, log, at, &self.events).map_err(failed)?;
        let pid = child.pid();
        self.restarts.remove(&at);
        self.children.insert(at, (child, pid));
        Ok(())
    }

    /// Writes `dev.json` anew.
    fn describe(&self) -> Result<(), Failure> {
        let processes = self.plan.processes.iter().enumerate().map(|(at, planned)| {
            let running = self.children.get(&at).map(|(_, pid)| *pid);
            let pid = running.or_else(|| self.restarts.get(&at).map(|exited| exited.pid)).unwrap_or_default();
            let (name, kind, ports) = (planned.name.as_str(), planned.kind, planned.ports);
            DescribedProcess { name, kind, pid, running: running.is_some(), ports }
        });
        let description = Description {
            group: self.config.group.as_str(),
            arbiters: &self.plan.arbiters,
            processes: processes.collect(),
            chaos: (!self.plan.paths.is_empty()).then(|| self.directory.control_socket()),
        };
        let path = self.directory.path().display();
        self.directory
            .describe(&description)
            .map_err(|error| Failure::new(ExitCode::Configuration, format!("cannot write dev.json in {path}: {error}")))
    }

    /// Who is who, and what to try.
    fn introduce(&self) {
        let directory = self.directory.path().display();
        self.say(&format!("group {} in {directory} (dev.json, log/)", self.config.group));
        for (at, Planned { name, kind, ports, .. }) in self.plan.processes.iter().enumerate() {
            let pid = self.children.get(&at).map_or(0, |(_, pid)| *pid);
            self.say(&match kind {
                Kind::Arbiter => format!("  {name}  pid {pid:<7} arbiter port {}, http {}", ports.peer, ports.http),
                Kind::Replica => format!(
                    "  {name}  pid {pid:<7} redis {}, client {}, peer {}, http {}",
                    ports.redis.unwrap_or_default(),
                    ports.client.unwrap_or_default(),
                    ports.peer,
                    ports.http
                ),
            });
        }
        let first = self.plan.processes.iter().enumerate().find(|(_, planned)| planned.kind == Kind::Replica);
        let (redis, pid) = first.map_or((0, 0), |(at, planned)| {
            (planned.ports.redis.unwrap_or_default(), self.children.get(&at).map_or(0, |(_, pid)| *pid))
        });
        let (group, arbiters) = (&self.config.group, self.plan.arbiters.join(","));
        self.say("try:");
        self.say(&format!("  redis-cli -p {redis} set a 1"));
        self.say(&format!("  cutover status --group {group} --arbiters {arbiters}"));
        self.say(&format!("  cutover torture --group {group} --arbiters {arbiters}"));
        self.say(&format!("  kill -9 {pid}        (the primary, at first; then look at the status again)"));
        if !self.plan.paths.is_empty() {
            self.say(&format!("  cutover chaos --data {directory} cut r1 r2 --for 5s"));
        }
        self.say("Ctrl-C ends everything");
    }

    /// The loop.
    async fn follow(
        &mut self,
        mut incoming: mpsc::Receiver<ChildEvent>,
        shutdown: &mut Shutdown,
        mut proxy: Proxy,
    ) -> Result<(), Failure> {
        let arbiters = self.plan.arbiters.clone();
        let client = ArbiterClient::new(ClientOptions { arbiters, name: "dev".into(), ..ClientOptions::default() });
        let mut watch = client.watch(self.config.group.clone());
        let mut seen: Option<GroupRecord> = None;
        let mut ready = false;
        loop {
            let next = self.restarts.values().filter_map(|exited| exited.again).min();
            let result = tokio::select! {
                cause = shutdown.requested() => {
                    self.say(&format!("{}: ending everything", cause.name()));
                    break;
                }
                Some(event) = incoming.recv() => self.on_child(event),
                Some(change) = proxy.changes.recv() => { self.say(&format!("chaos: {change}")); Ok(()) }
                record = watch.changed() => {
                    follow::record(seen.as_ref(), &record).iter().for_each(|line| self.say(line));
                    if !ready && record.in_sync.len() >= self.config.replicas {
                        ready = true;
                        self.say(&format!("ready: {} are in sync", follow::in_sync(&record)));
                    }
                    seen = Some(record);
                    self.existence = Existence::Seen;
                    Ok(())
                }
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.restart_due(),
            };
            if let Err(failure) = result {
                // A full disk, or no process to be had: the rest of the group goes on.
                self.say(&format!("error: {failure}"));
            }
        }
        self.end(incoming, shutdown).await;
        Ok(())
    }

    fn on_child(&mut self, event: ChildEvent) -> Result<(), Failure> {
        match event {
            ChildEvent::Line { process, line } => {
                if let Some(told) = follow::log_line(&line) {
                    self.say(&format!("{}: {told}", self.plan.processes[process].name));
                }
                Ok(())
            }
            ChildEvent::Exited { process, pid } => {
                let how = self.reap(process, pid);
                let again = self.config.restart_after.map(|after| Instant::now() + after);
                self.restarts.insert(process, Exited { pid, again });
                self.describe()?;
                let name = &self.plan.processes[process].name;
                let then = match self.config.restart_after {
                    Some(after) => format!("starts again in {}", humantime::format_duration(after)),
                    None => String::from("stays down (--restart-after never)"),
                };
                self.say(&format!("{name}: pid {pid} exited ({how}); {then}"));
                Ok(())
            }
        }
    }

    fn reap(&mut self, at: usize, pid: u32) -> String {
        match self.children.remove(&at) {
            Some((child, running)) if running == pid => {
                child.reap().map_or_else(|error| error.to_string(), |status| status.to_string())
            }
            // Of another life; that one goes on.
            Some(other) => {
                self.children.insert(at, other);
                String::from("earlier life")
            }
            None => String::from("unknown"),
        }
    }

    fn restart_due(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let due: Vec<usize> = self
            .restarts
            .iter()
            .filter(|(_, exited)| exited.again.is_some_and(|again| again <= now))
            .map(|(at, _)| *at)
            .collect();
        for at in due {
            if let Err(failure) = self.start(at, Start::Again) {
                // The next try after the same pause.
                if let Some(exited) = self.restarts.get_mut(&at) {
                    exited.again = self.config.restart_after.map(|after| now + after);
                }
                return Err(failure);
            }
            self.describe()?;
            let pid = self.children.get(&at).map_or(0, |(_, pid)| *pid);
            self.say(&format!("{}: started again, pid {pid}", self.plan.processes[at].name));
        }
        Ok(())
    }

    /// Ends every child: asks, then kills; a second signal kills at once.
    async fn end(&mut self, mut incoming: mpsc::Receiver<ChildEvent>, shutdown: &mut Shutdown) {
        for (child, _) in self.children.values_mut() {
            child.ask_to_end();
        }
        for (patience, last) in [(ENDED_WITHIN, false), (KILLED_WITHIN, true)] {
            let deadline = tokio::time::sleep(patience);
            tokio::pin!(deadline);
            while !self.children.is_empty() {
                tokio::select! {
                    Some(event) = incoming.recv() => if let ChildEvent::Exited { process, pid } = event {
                        self.reap(process, pid);
                        self.restarts.insert(process, Exited { pid, again: None });
                    },
                    _ = shutdown.requested() => break,
                    () = &mut deadline => break,
                }
            }
            if !last {
                self.children.values().for_each(|(child, _)| child.kill());
            }
        }
        let left: Vec<&str> = self.children.keys().map(|at| self.plan.processes[*at].name.as_str()).collect();
        match (self.describe(), left.is_empty()) {
            (Err(failure), _) => self.say(&format!("error: {failure}")),
            (Ok(()), true) => self.say("everything has ended"),
            (Ok(()), false) => self.say(&format!("killed, but the system has not ended them yet: {}", left.join(", "))),
        }
    }

    fn say(&self, line: &str) {
        self.printer.say(line);
    }
}

/// Prints from a thread of its own: a reader who does not read must not stop the group.
struct Printer {
    lines: blocking::SyncSender<String>,
    done: blocking::Receiver<()>,
    begun: Instant,
}

impl Printer {
    fn start() -> Self {
        let (lines, waiting) = blocking::sync_channel::<String>(UNPRINTED);
        let (finished, done) = blocking::sync_channel(1);
        std::thread::spawn(move || {
            let mut out = std::io::stdout();
            for line in waiting {
                // Whoever closed our output does not want to know; the group goes on.
                let _ = writeln!(out, "{line}").and_then(|()| out.flush());
            }
            let _ = finished.send(());
        });
        Self { lines, done, begun: Instant::now() }
    }

    fn say(&self, line: &str) {
        let _ = self.lines.try_send(format!("[{:8.3}] {line}", self.begun.elapsed().as_secs_f64()));
    }

    /// Lets the last lines out.
    fn finish(self) {
        drop(self.lines);
        let _ = self.done.recv_timeout(PRINTED_WITHIN);
    }
}
