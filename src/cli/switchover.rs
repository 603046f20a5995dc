//! `cutover switchover`: a planned cut-over, both replicas healthy; nothing is lost and no library client fails.

use std::time::Duration;

use cutover_arbiter::record::{GroupRecord, ReplicaName};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::config::Settings;
use super::config_value::Span;
use super::failure::{ExitCode, Failure};
use super::group::{Group, print};
use super::http::{self, HttpError};
use super::operator::{GroupArgs, help};
use super::replica::need;

/// Makes a backup in sync the primary, by agreement.
#[derive(Debug, clap::Args)]
#[command(after_help = help!("Examples:
  cutover switchover --arbiters a:7440,b:7440,c:7440 --group orders
  cutover switchover --data ./dev --to r2

Exit codes: 0 done, 4 refused, 5 arbiters or primary unreachable, 6 no result in time (see `cutover status`)."))]
pub struct Args {
    #[command(flatten)]
    group: GroupArgs,
    /// Who becomes primary; the primary chooses when this is not given.
    #[arg(long, value_name = "REPLICA")]
    to: Option<ReplicaName>,
    #[command(flatten)]
    settings: SwitchoverSettings,
}

/// The options of `cutover switchover`; each is a flag, an environment variable and a key of `[switchover]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct SwitchoverSettings {
    /// How long to wait for the result. [default: 15s]
    #[arg(long, env = "CUTOVER_SWITCHOVER_WAIT", value_name = "TIME")]
    wait: Option<Span>,
    /// One JSON object instead of a sentence.
    #[arg(long, env = "CUTOVER_JSON", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    json: Option<bool>,
}

impl Settings for SwitchoverSettings {
    const SECTION: &'static str = "switchover";

    fn defaults() -> Self {
        Self { wait: Some(Span(Duration::from_secs(15))), json: Some(false) }
    }
}

/// A switchover that was done.
#[derive(Debug, Clone)]
pub struct Done {
    /// Who was primary.
    pub from: ReplicaName,
    /// The new record.
    pub record: GroupRecord,
    /// From the request to the result.
    pub took: Duration,
}

/// # Errors
/// Exit code 4 with the reason when it is refused; see the command's help for the others.
pub async fn run(args: Args) -> Result<(), Failure> {
    let settings = args.group.own(&args.settings)?;
    let group = args.group.open()?;
    let done = switch_over(&group, args.to.as_ref(), need("wait", settings.wait, None)?.0).await?;
    let (from, to, epoch) = (&done.from, &done.record.primary.replica, done.record.epoch.0);
    let took_ms = u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX);
    print(&if settings.json.unwrap_or_default() {
        format!("{}\n", serde_json::json!({ "from": from, "to": to, "epoch": epoch, "took_ms": took_ms }))
    } else {
        format!("primary was {from}, is {to} in epoch {epoch}; took {took_ms} ms\n")
    });
    Ok(())
}

/// Asks the primary to hand over and waits until the record says that it did.
///
/// # Errors
/// See the command's help.
pub async fn switch_over(group: &Group, to: Option<&ReplicaName>, wait: Duration) -> Result<Done, Failure> {
    let started = Instant::now();
    let deadline = started + wait;
    let before = group.record().await?;
    check(&before, to)?;
    let path = match to {
        Some(to) => format!("/switchover?to={}", http::escape(to.as_str())),
        None => String::from("/switchover"),
    };
    let answer = http::post(&before.primary.addresses.http, &path, wait).await.map_err(|error| match error {
        // It may have taken the request and be at it.
        HttpError::TimedOut { .. } => Failure::new(ExitCode::TimedOut, format!("{error}; see `cutover status`")),
        other => Failure::from(other),
    })?;
    if !answer.is_success() {
        return Err(Failure::new(ExitCode::StateRefuses, format!("switchover refused: {}", answer.reason())));
    }
    // The primary answers when the change is granted; the arbiter we read may be asked a moment earlier.
    let mut watch = group.arbiters.watch(before.group.clone());
    loop {
        let record = tokio::time::timeout_at(deadline, watch.changed()).await.map_err(|_| {
            let what = format!("no new record within {wait:?}, although the primary agreed; see `cutover status`");
            Failure::new(ExitCode::TimedOut, what)
        })?;
        if record.epoch > before.epoch && record.primary.replica != before.primary.replica {
            return Ok(Done { from: before.primary.replica, record, took: started.elapsed() });
        }
    }
}

/// What can be known to be impossible before anyone is asked.
fn check(record: &GroupRecord, to: Option<&ReplicaName>) -> Result<(), Failure> {
    let refuse = |why: String| Err(Failure::new(ExitCode::StateRefuses, format!("switchover refused: {why}")));
    match to {
        Some(to) if *to == record.primary.replica => refuse(format!("{to} is primary already")),
        Some(to) if record.member(to).is_none() => {
            let names: Vec<&str> = record.in_sync.iter().map(|member| member.replica.as_str()).collect();
            refuse(format!("{to} is not in sync; in sync are {}", names.join(", ")))
        }
        None if record.in_sync.len() < 2 => {
            refuse(format!("{} is alone in sync; wait until a backup has joined", record.primary.replica))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        let mut record = samples::record();
        assert!(check(&record, None).is_ok());
        assert!(check(&record, Some(&"b".parse().unwrap())).is_ok());
        let already = check(&record, Some(&"a".parse().unwrap())).unwrap_err();
        assert!(already.message.contains("a is primary already"), "{already}");
        let stranger = check(&record, Some(&"z".parse().unwrap())).unwrap_err();
        assert!(stranger.message.contains("in sync are a, b"), "{stranger}");
        record.in_sync.truncate(1);
        let alone = check(&record, None).unwrap_err();
        assert_eq!(alone.code, ExitCode::StateRefuses);
        assert!(alone.message.contains("alone in sync"), "{alone}");
    }
}
