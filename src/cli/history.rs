//! `cutover history`: what happened to a group, by the arbiters' memory.

use std::time::{Duration, UNIX_EPOCH};

use cutover_arbiter::record::{Change, HistoryItem};
use serde::{Deserialize, Serialize};

use super::config::Settings;
use super::failure::Failure;
use super::group::{print, table, unanswered};
use super::operator::{GroupArgs, help};

/// Shows the changes of a group that the arbiters remember, oldest first.
#[derive(Debug, clap::Args)]
#[command(after_help = help!("Examples:
  cutover history --arbiters a:7440,b:7440,c:7440 --group orders
  cutover history --data ./dev --json

Exit codes: 0 shown, 4 no such group, 5 no arbiter answers."))]
pub struct Args {
    #[command(flatten)]
    group: GroupArgs,
    #[command(flatten)]
    settings: HistorySettings,
}

/// The options of `cutover history`; each is a flag, an environment variable and a key of `[history]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct HistorySettings {
    /// One JSON array instead of a table.
    #[arg(long, env = "CUTOVER_JSON", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    json: Option<bool>,
}

impl Settings for HistorySettings {
    const SECTION: &'static str = "history";

    fn defaults() -> Self {
        Self { json: Some(false) }
    }
}

/// One change, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// When, in milliseconds since 1970 by the clock of the arbiters' leader.
    pub at_ms: u64,
    /// When, for people.
    pub time: String,
    /// Epoch of the record that the change made.
    pub epoch: u64,
    /// Which change.
    pub change: &'static str,
    /// Whom the change names, if anyone.
    pub subject: Option<String>,
    /// Who asked for it; `null` for an operator.
    pub proposer: Option<String>,
    /// The primary since.
    pub primary: String,
    /// In sync since.
    pub in_sync: Vec<String>,
    /// True when data may have been lost.
    pub data_loss_accepted: bool,
}

impl Row {
    fn of(item: &HistoryItem) -> Self {
        let record = &item.record;
        let change = &record.last_change.change;
        let subject = match change {
            Change::Create { member, .. }
            | Change::Admit { member }
            | Change::Seize { member }
            | Change::Adopt { member, .. } => Some(member.replica.to_string()),
            Change::Remove { replica, .. } | Change::HandOver { to: replica, .. } => Some(replica.to_string()),
            Change::TakeOver | Change::Resume => None,
        };
        Self {
            at_ms: item.at_ms,
            time: when(item.at_ms),
            epoch: record.epoch.0,
            change: change.name(),
            subject,
            proposer: record.last_change.proposer.as_ref().map(|(replica, _)| replica.to_string()),
            primary: record.primary.replica.to_string(),
            in_sync: record.in_sync.iter().map(|member| member.replica.to_string()).collect(),
            data_loss_accepted: matches!(change, Change::Seize { .. }),
        }
    }
}

/// A moment as people write it, in UTC.
fn when(at_ms: u64) -> String {
    // Beyond the year 9999 there is no such text; an arbiter's clock that is that wrong shows as its number.
    const YEAR_10000_MS: u64 = 253_402_300_800_000;
    if at_ms < YEAR_10000_MS {
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms)).to_string()
    } else {
        format!("{at_ms} ms")
    }
}

/// # Errors
/// Exit code 4 when there is no such group, 5 when no arbiter answers.
pub async fn run(args: Args) -> Result<(), Failure> {
    let json = args.group.own(&args.settings)?.json.unwrap_or_default();
    let group = args.group.open()?;
    let items = group.arbiters.history(&group.name, group.timeout).await.map_err(unanswered)?;
    if items.is_empty() {
        group.record().await?;
    }
    print(&render(&items.iter().map(Row::of).collect::<Vec<_>>(), json));
    Ok(())
}

fn render(rows: &[Row], json: bool) -> String {
    if json {
        let mut text = serde_json::to_string_pretty(rows).expect("plain data is JSON");
        text.push('\n');
        return text;
    }
    let mut lines = vec![["TIME", "EPOCH", "CHANGE", "PROPOSER", "PRIMARY", "IN SYNC"].map(String::from).to_vec()];
    lines.extend(rows.iter().map(|row| {
        let change = row.subject.as_ref().map_or_else(|| row.change.to_owned(), |who| format!("{} {who}", row.change));
        let change = if row.data_loss_accepted { format!("{change} (data loss accepted)") } else { change };
        vec![
            row.time.clone(),
            row.epoch.to_string(),
            change,
            row.proposer.clone().unwrap_or_else(|| String::from("operator")),
            row.primary.clone(),
            row.in_sync.join(", "),
        ]
    }));
    table(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn a_change_is_shown_with_everything_it_did() {
        let item = HistoryItem { at_ms: 1_700_000_000_123, record: samples::record() };
        let row = Row::of(&item);
        assert_eq!(
            serde_json::to_value([&row]).unwrap(),
            serde_json::json!([{
                "at_ms": 1_700_000_000_123u64, "time": "2023-11-14T22:13:20.123Z", "epoch": 7, "change": "admit",
                "subject": "b", "proposer": "a", "primary": "a", "in_sync": ["a", "b"], "data_loss_accepted": false,
            }])
        );
        assert!(render(&[row], false).contains("2023-11-14T22:13:20.123Z  7      admit b  a         a        a, b"));
    }

    #[test]
    fn a_seizure_says_so_for_ever() {
        let mut record = samples::record();
        record.last_change.change = Change::Seize { member: samples::member("b", 2) };
        record.last_change.proposer = None;
        let text = render(&[Row::of(&HistoryItem { at_ms: u64::MAX, record })], false);
        assert!(text.contains("seize b (data loss accepted)  operator"), "{text}");
    }
}
