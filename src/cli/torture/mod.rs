//! `cutover torture`: clients append unique values and count while faults are injected from outside; afterwards
//! nothing that was acknowledged may be missing, doubled, or out of order.
//!
//! `workload` is what the clients do, `finish` what happens when they are done, `recording` the history as calls and as
//! a file, `report` what is said about it; the judging itself is [`crate::history`]. Deliberately not here: the faults. They come from outside, from
//! deploy/drill.sh or from a hand on a power switch.

mod finish;
mod recording;
mod report;
mod store;
mod workload;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cutover_arbiter::record::GroupRecord;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::config::{Settings, wrong};
use super::config_value::Span;
use super::failure::{ExitCode, Failure};
use super::group::{Group, fresh_request, print, tell};
use super::operator::{GroupArgs, help};
use super::replica::need;
use finish::Witness;
use report::Report;
use workload::{Plan, Shared, Worker};

use crate::history::linear;

/// Appends unique values and counts through the client library while you break things; then checks that nothing
/// acknowledged was lost, doubled or reordered.
#[derive(Debug, clap::Args)]
#[command(after_help = help!("Examples:
  cutover torture --data ./dev --duration 60s
  cutover torture --arbiters a:7440,b:7440,c:7440 --group orders --json

  cutover torture --data ./dev --history run.jsonl; cutover torture --check run.jsonl

Ends with one more cut-over (when two are in sync), reads everything back from the new primary, looks for one order of
all operations in which every answer holds (linearisable), and compares the digests of all replicas. Ctrl-C ends the
load early and still checks everything.
A line of the history is one operation: client, object, operation, invoked and completed (nanoseconds since the load
began; null: never), outcome (answered with what, or unknown). Operations that were certainly not executed are left out.
The last line says how many there are and whether everything was read back; a file without it is not judged.
Exit codes: 0 nothing wrong, 1 something is wrong or could not be checked, 2 usage, 4 no such group, 5 no arbiter
answers."))]
pub struct Args {
    #[command(flatten)]
    group: GroupArgs,
    #[command(flatten)]
    settings: TortureSettings,
    /// Judges a file that --history wrote, and does nothing else; of the options only --json matters then.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

/// The options of `cutover torture`; each is a flag, an environment variable and a key of `[torture]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct TortureSettings {
    /// How many clients, each with a session of its own; at most 1024. [default: 8]
    #[arg(long, env = "CUTOVER_TORTURE_CLIENTS", value_name = "N")]
    clients: Option<u16>,
    /// For how long. [default: 20s]
    #[arg(long, env = "CUTOVER_TORTURE_DURATION", value_name = "TIME")]
    duration: Option<Span>,
    /// An operation without an answer for this long is unknown. [default: 10s]
    #[arg(long, env = "CUTOVER_TORTURE_DEADLINE", value_name = "TIME")]
    deadline: Option<Span>,
    /// One JSON object on standard output.
    #[arg(long, env = "CUTOVER_JSON", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    json: Option<bool>,
    /// Makes the clients' choices; drawn and reported when not given.
    #[arg(long, env = "CUTOVER_TORTURE_SEED", value_name = "N")]
    seed: Option<u64>,
    /// Leaves out the comparison of the replicas' digests.
    #[arg(long, env = "CUTOVER_TORTURE_SKIP_DIGESTS", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_digests: Option<bool>,
    /// Writes everything the clients did and were told to this file, one JSON object per line.
    #[arg(long, env = "CUTOVER_TORTURE_HISTORY", value_name = "FILE")]
    history: Option<PathBuf>,
    /// Leaves what was written in place; after a failure it is left in any case.
    #[arg(long, env = "CUTOVER_TORTURE_KEEP", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    keep: Option<bool>,
}

impl Settings for TortureSettings {
    const SECTION: &'static str = "torture";

    fn defaults() -> Self {
        let seconds = |seconds| Some(Span(Duration::from_secs(seconds)));
        Self {
            clients: Some(8),
            duration: seconds(20),
            deadline: seconds(10),
            json: Some(false),
            skip_digests: Some(false),
            keep: Some(false),
            ..Self::default()
        }
    }
}

/// The number of clients, if there can be so many; `file` is where it came from, for the message.
///
/// # Errors
/// There cannot.
pub fn clients(settings: &TortureSettings, file: Option<&Path>) -> Result<u16, Failure> {
    match need("clients", settings.clients, file)? {
        clients @ 1..=1024 => Ok(clients),
        clients => Err(wrong(file, format!("clients is {clients}: it must be from 1 to 1024"))),
    }
}

/// # Errors
/// Exit code 1 when something is wrong or could not be checked; see the command's help for the others.
pub async fn run(args: Args) -> Result<(), Failure> {
    let settings = args.group.own(&args.settings)?;
    let json = settings.json.unwrap_or_default();
    if let Some(file) = &args.check {
        return check(file, json);
    }
    let clients = clients(&settings, None)?;
    let (arbiters, name) = args.group.resolve()?;
    let group = args.group.open()?;
    let start = group.record().await?;
    let drawn = fresh_request()?.0;
    let plan = Arc::new(Plan {
        arbiters,
        group: name.to_string(),
        clients,
        duration: need("duration", settings.duration, None)?.0,
        deadline: need("deadline", settings.deadline, None)?.0,
        seed: settings.seed.unwrap_or(drawn as u32 as u64),
        prefix: format!("torture:{:08x}", (drawn >> 64) as u32),
    });
    let witness = Arc::new(Mutex::new(Witness::new(&start)));
    let watching = tokio::spawn(watch(group.clone(), Arc::clone(&witness)));

    // A file that cannot be written is found before the load, not after it.
    let file = settings.history.as_deref().map(recording::create).transpose()?;
    let (mut report, histories, clock) = load(&plan, &witness).await?;
    report.seed = plan.seed;
    match finish::cut_over(&group).await {
        Ok(cut) => report.final_cutover = Some(cut),
        Err(why) => report.notes.push(format!("no cut-over at the end: {why}")),
    }
    let (verdict, standing, complete) = finish::read_back(&plan, &histories, &clock).await;
    report.judge(&verdict);
    report.read_back = complete.map_or_else(|why| why, |()| String::from("complete"));
    report.judge_order(&recording::judge(&histories, &standing, plan.clients));
    if let Some((file, path)) = file.zip(settings.history.as_deref()) {
        match recording::write(file, path, &histories, &standing, plan.clients) {
            Ok(()) => report.history = Some(path.display().to_string()),
            // What was found out is told all the same.
            Err(failure) => report.history_error = Some(failure.message),
        }
    }
    report.digests =
        if settings.skip_digests.unwrap_or_default() { String::from("skipped") } else { finish::digests(&group).await };
    report.cutovers = cutovers(&group, &start, &witness).await;
    watching.abort();

    let wrong = report.conclude();
    if wrong.is_none()
        && !settings.keep.unwrap_or_default()
        && let Err(why) = finish::clean_up(&plan, &histories).await
    {
        report.notes.push(format!("what was written is still there: {why}"));
    }
    print(&if json { report.json() } else { report.text() });
    wrong.map_or(Ok(()), |wrong| Err(Failure::new(ExitCode::CheckFailed, wrong)))
}

/// Judges a recorded history.
fn check(file: &Path, json: bool) -> Result<(), Failure> {
    let recording::Recorded { calls, read_back_complete } = recording::read(file)?;
    let operations = calls.len() as u64;
    let mut report = report::Judged { operations, read_back_complete, ..report::Judged::default() };
    report.order.judge(&linear::check(&calls, linear::BOUND));
    print(&if json { report.json() } else { report.text() });
    report.wrong().map_or(Ok(()), |wrong| Err(Failure::new(ExitCode::CheckFailed, wrong)))
}

/// Runs the clients to their end.
async fn load(
    plan: &Arc<Plan>,
    witness: &Arc<Mutex<Witness>>,
) -> Result<(Report, Vec<crate::history::History>, Arc<Shared>), Failure> {
    let mut clients = Vec::new();
    for number in 0..plan.clients {
        let client = plan
            .connect(format!("torture-{number}"))
            .await
            .map_err(|error| Failure::new(ExitCode::Unreachable, error.to_string()))?;
        clients.push(client);
    }
    let shared = Arc::new(Shared::start());
    let mut workers = JoinSet::new();
    for (number, client) in (0..).zip(clients) {
        workers.spawn(Worker::new(Arc::clone(plan), Arc::clone(&shared), number, client).run());
    }
    let telling = tokio::spawn(progress(Arc::clone(&shared), Arc::clone(witness)));
    let stopping = tokio::spawn({
        let shared = Arc::clone(&shared);
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                shared.stop();
            }
        }
    });
    let recorded = workers.join_all().await;
    let mut report =
        Report { duration_ms: u64::try_from(shared.elapsed().as_millis()).unwrap_or(u64::MAX), ..Report::default() };
    report.count(&shared.end());
    telling.abort();
    stopping.abort();
    if std::io::stderr().is_terminal() {
        tell("");
    }
    Ok((report, workload::merge(recorded), shared))
}

/// A line on standard error every second, for as long as someone looks.
async fn progress(shared: Arc<Shared>, witness: Arc<Mutex<Witness>>) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut before = 0;
    loop {
        every.tick().await;
        let tally = shared.tally();
        let primary = witness.lock().unwrap_or_else(PoisonError::into_inner).primary();
        super::group::retell(&format!(
            "{:>4} s  acked {} ({}/s)  unknown {}  longest gap {} ms  primary {primary}",
            shared.elapsed().as_secs(),
            tally.acked,
            tally.acked - before,
            tally.unknown,
            tally.gaps.longest_ms()
        ));
        before = tally.acked;
    }
}

async fn watch(group: Group, witness: Arc<Mutex<Witness>>) {
    let mut watch = group.arbiters.watch(group.name.clone());
    loop {
        let record = watch.changed().await;
        witness.lock().unwrap_or_else(PoisonError::into_inner).saw(&record);
    }
}

/// The arbiters remember every change; where they cannot be asked, what was seen has to do.
async fn cutovers(group: &Group, start: &GroupRecord, witness: &Mutex<Witness>) -> u64 {
    let seen = witness.lock().unwrap_or_else(PoisonError::into_inner).changes();
    match group.arbiters.history(&group.name, group.timeout).await {
        Ok(history) => seen.max(finish::primary_changes(start, &history)),
        Err(_) => seen,
    }
}
