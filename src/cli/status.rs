//! `cutover status`: the group as its arbiters and its replicas tell it.

use std::collections::BTreeMap;
use std::time::Duration;

use cutover_arbiter::record::{Addresses, GroupRecord, Incarnation, Member, ReplicaName};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::config::Settings;
use super::failure::Failure;
use super::group::{Follower, Group, ReplicaStatus, print, role_name, table};
use super::http::HttpError;
use super::operator::{GroupArgs, help};
use crate::replica::TransferStatus;

/// Shows a group: who is primary, who is in sync, who lags, who cannot be reached.
#[derive(Debug, clap::Args)]
#[command(after_help = help!("Examples:
  cutover status --arbiters a:7440,b:7440,c:7440 --group orders
  cutover status --data ./dev --json
  cutover status --data ./dev --watch

Exit codes: 0 shown, 4 no such group, 5 no arbiter answers."))]
pub struct Args {
    #[command(flatten)]
    group: GroupArgs,
    #[command(flatten)]
    settings: StatusSettings,
}

/// The options of `cutover status`; each is a flag, an environment variable and a key of `[status]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct StatusSettings {
    /// One JSON object instead of a table (with --watch: one per line).
    #[arg(long, env = "CUTOVER_JSON", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    json: Option<bool>,
    /// Shows it again at every change, and once a second.
    #[arg(long, env = "CUTOVER_STATUS_WATCH", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    watch: Option<bool>,
}

impl Settings for StatusSettings {
    const SECTION: &'static str = "status";

    fn defaults() -> Self {
        Self { json: Some(false), watch: Some(false) }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// The group's name.
    pub group: String,
    /// The group's identity.
    pub group_id: String,
    /// Number of the record.
    pub epoch: u64,
    /// Durability.
    pub mode: String,
    /// Fewest in-sync replicas with which operations are executed.
    pub min_in_sync: u8,
    /// Name of the primary.
    pub primary: String,
    /// In-sync members, the primary first, then whoever else follows.
    pub replicas: Vec<Row>,
    /// When every in-sync member came back in another life: the command with which an operator decides, by the
    /// replica that holds most.
    pub waits_for_seize: Option<String>,
    /// Who stays away behind an operator's fence, and the command that ends it, by name.
    pub fenced: BTreeMap<String, String>,
    /// Every configured arbiter.
    pub arbiters: Vec<ArbiterRow>,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its role by its own word, else as the record or the primary knows it.
    pub role: String,
    /// Its life.
    pub incarnation: String,
    /// True when the record names this very life.
    pub in_sync: bool,
    /// Last index of its log; `null` when it cannot be reached.
    pub index: Option<u64>,
    /// Committed, as far as it knows.
    pub committed: Option<u64>,
    /// Applied.
    pub applied: Option<u64>,
    /// Entries that the primary has and it has not.
    pub lag_entries: Option<u64>,
    /// Milliseconds since the primary last heard it; 0 for the primary.
    pub lag_ms: Option<u64>,
    /// The state transfer it gets, by its own word or else the primary's.
    pub transfer: Option<TransferStatus>,
    /// For Redis clients.
    pub redis: String,
    /// For the client library.
    pub client: String,
    /// For health and administration.
    pub http: String,
    /// True when it answered.
    pub reachable: bool,
}

/// One arbiter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArbiterRow {
    /// Its address.
    pub address: String,
    /// Its number, if it answered.
    pub id: Option<u64>,
    /// Its role in Raft, if it answered.
    pub role: Option<&'static str>,
    /// Its term, if it answered.
    pub term: Option<u64>,
    /// True when it answered.
    pub reachable: bool,
}

/// # Errors
/// Exit code 4 when there is no such group, 5 when no arbiter answers.
pub async fn run(args: Args) -> Result<(), Failure> {
    let settings = args.group.own(&args.settings)?;
    let (json, watched) = (settings.json.unwrap_or_default(), settings.watch.unwrap_or_default());
    let group = args.group.open()?;
    let record = group.record().await?;
    if !watched {
        print(&render(&overview(&group, &record).await, json));
        return Ok(());
    }
    let mut watch = group.arbiters.watch(group.name.clone());
    let mut record = record;
    let shows = async {
        loop {
            let shown = render(&overview(&group, &record).await, json);
            print(&if json { shown } else { format!("\x1b[2J\x1b[H{shown}") });
            // A new record is shown at once; everything else, lag above all, once a second.
            let refresh = tokio::time::sleep(Duration::from_secs(1));
            tokio::select! {
                newer = watch.changed() => if newer.epoch > record.epoch { record = newer },
                () = refresh => {}
            }
        }
    };
    // Listened to all the time: a signal that comes while the replicas are asked is not lost.
    tokio::select! {
        () = shows => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

fn render(overview: &Overview, json: bool) -> String {
    if json {
        let mut line = serde_json::to_string(overview).expect("plain data is JSON");
        line.push('\n');
        return line;
    }
    let mut text = format!(
        "group {}  epoch {}  mode {}  primary {}  in sync {}\n\n",
        overview.group,
        overview.epoch,
        overview.mode,
        overview.primary,
        overview.replicas.iter().filter(|row| row.in_sync).count()
    );
    if let Some(command) = &overview.waits_for_seize {
        text.push_str("Nobody may lead: every in-sync member came back in another life. An operator must decide:\n  ");
        text.push_str(command);
        text.push_str("\n\n");
    }
    for (name, why) in &overview.fenced {
        text.push_str(&format!("{name} stays away: {why}\n\n"));
    }
    let number = |number: Option<u64>| number.map_or_else(|| String::from("-"), |number| number.to_string());
    let head = ["REPLICA", "ROLE", "SYNC", "INDEX", "COMMITTED", "APPLIED", "LAG", "HEARD MS AGO", "REDIS", "HTTP"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(overview.replicas.iter().map(|row| {
        let role = format!("{}{}", row.role, row.transfer.as_ref().map(progress).unwrap_or_default());
        let role = if row.reachable { role } else { format!("{role} (unreachable)") };
        let sync = if row.in_sync { "yes" } else { "no" };
        vec![
            row.name.clone(),
            role,
            sync.to_owned(),
            number(row.index),
            number(row.committed),
            number(row.applied),
            number(row.lag_entries),
            number(row.lag_ms),
            row.redis.clone(),
            row.http.clone(),
        ]
    }));
    text.push_str(&table(&rows));
    text.push('\n');
    let mut rows = vec![["ARBITER", "ID", "ROLE", "TERM"].map(String::from).to_vec()];
    rows.extend(overview.arbiters.iter().map(|row| {
        let role = row.role.unwrap_or("unreachable").to_owned();
        vec![row.address.clone(), number(row.id), role, number(row.term)]
    }));
    text.push_str(&table(&rows));
    text
}

/// How far a state transfer is, behind a role.
fn progress(transfer: &TransferStatus) -> String {
    let TransferStatus { bytes, of_bytes, left_ms, .. } = *transfer;
    // The whole is an estimate, and nothing at first.
    let share = u128::from(bytes) * 100 / u128::from(of_bytes.max(bytes).max(1));
    let left = left_ms.map(|left_ms| format!(", {} s left", left_ms.div_ceil(1000))).unwrap_or_default();
    format!(" {share} %{left}")
}

/// Asks everyone at once; who does not answer within a second (or the group's time, if shorter) is unreachable.
pub async fn overview(group: &Group, record: &GroupRecord) -> Overview {
    let patience = group.timeout.min(Duration::from_secs(1));
    let mut arbiters = JoinSet::new();
    for address in group.arbiters.arbiters().to_vec() {
        let client = group.arbiters.clone();
        arbiters.spawn(async move {
            let status = client.status(&address, patience).await.ok();
            ArbiterRow {
                id: status.as_ref().map(|status| status.id),
                role: status.as_ref().map(|status| status.role.name()),
                term: status.as_ref().map(|status| status.term),
                reachable: status.is_some(),
                address,
            }
        });
    }
    let mut answered =
        answers(record.in_sync.iter().map(|member| (&member.replica, &member.addresses)), patience).await;
    let followers = answered.get(&record.primary.replica).map(|primary| primary.followers.clone()).unwrap_or_default();
    let others = followers.iter().filter(|follower| record.member(&follower.name).is_none());
    answered.extend(answers(others.map(|follower| (&follower.name, &follower.addresses)), patience).await);
    let waiting = answered.values().filter(|status| status.waits_for_seize.is_some());
    let fullest = waiting.max_by_key(|status| (status.epoch, status.index));
    let waits_for_seize = fullest.and_then(|status| status.waits_for_seize.clone());
    // Whoever stays away behind a fence follows nobody, and may have been removed: the arbiters remember who was in sync.
    let past = group.arbiters.history(&group.name, patience).await.unwrap_or_default();
    let asked =
        |name: &ReplicaName| record.member(name).is_some() || followers.iter().any(|follower| follower.name == *name);
    let former = past.iter().flat_map(|item| &item.record.in_sync).filter(|member| !asked(&member.replica));
    let former: BTreeMap<_, _> = former.map(|member| (&member.replica, &member.addresses)).collect();
    let away = answers(former.into_iter(), patience).await;
    let fenced = answered
        .iter()
        .chain(&away)
        .filter_map(|(name, status)| Some((name.to_string(), status.fenced.clone()?)))
        .collect();
    let mut arbiters = arbiters.join_all().await;
    arbiters.sort_by(|a, b| a.address.cmp(&b.address));
    Overview {
        group: record.group.to_string(),
        group_id: record.group_id.to_string(),
        epoch: record.epoch.0,
        mode: record.mode.to_string(),
        min_in_sync: record.min_in_sync,
        primary: record.primary.replica.to_string(),
        replicas: rows(record, &followers, &answered),
        waits_for_seize,
        fenced,
        arbiters,
    }
}

/// What each of these replicas says of itself, or why it says nothing.
pub async fn ask_all(
    replicas: impl Iterator<Item = (&ReplicaName, &Addresses)>,
    patience: Duration,
) -> BTreeMap<ReplicaName, Result<ReplicaStatus, HttpError>> {
    let mut questions = JoinSet::new();
    for (name, addresses) in replicas {
        let (name, address) = (name.clone(), addresses.http.clone());
        questions.spawn(async move { (name, ReplicaStatus::ask(&address, patience).await) });
    }
    questions.join_all().await.into_iter().collect()
}

/// Those who answered.
async fn answers(
    replicas: impl Iterator<Item = (&ReplicaName, &Addresses)>,
    patience: Duration,
) -> BTreeMap<ReplicaName, ReplicaStatus> {
    ask_all(replicas, patience).await.into_iter().filter_map(|(name, answer)| Some((name, answer.ok()?))).collect()
}

fn rows(record: &GroupRecord, followers: &[Follower], answers: &BTreeMap<ReplicaName, ReplicaStatus>) -> Vec<Row> {
    let head = answers.get(&record.primary.replica).map(|primary| primary.index);
    let row = |name: &ReplicaName, incarnation: Incarnation, addresses: &Addresses, role: &str| {
        let answer = answers.get(name);
        let follower = followers.iter().find(|follower| &follower.name == name);
        let incarnation = answer.map_or(incarnation, |answer| answer.incarnation);
        let is_primary = record.is_primary(name, incarnation);
        let index = answer.map(|answer| answer.index);
        // The primary's own count of what was acknowledged is better than two answers of different moments.
        let held = follower.map(|follower| follower.acknowledged).filter(|_| !is_primary).or(index);
        Row {
            name: name.to_string(),
            role: answer.map_or(role, |answer| role_name(answer.role)).to_owned(),
            incarnation: incarnation.to_string(),
            in_sync: record.has(name, incarnation),
            index,
            committed: answer.map(|answer| answer.committed),
            applied: answer.map(|answer| answer.applied),
            lag_entries: head.zip(held).map(|(head, held)| head.saturating_sub(held)),
            lag_ms: if is_primary { Some(0) } else { follower.and_then(|follower| follower.silence_ms) },
            transfer: answer
                .and_then(|answer| answer.receiving)
                .or_else(|| follower.and_then(|follower| follower.transfer)),
            redis: addresses.redis.clone(),
            client: addresses.client.clone(),
            http: addresses.http.clone(),
            reachable: answer.is_some(),
        }
    };
    let of = |member: &Member, role| row(&member.replica, member.incarnation, &member.addresses, role);
    let mut rows = vec![of(&record.primary, "primary")];
    let backups = record.in_sync.iter().filter(|member| member.replica != record.primary.replica);
    rows.extend(backups.map(|member| of(member, "backup")));
    let others = followers.iter().filter(|follower| record.member(&follower.name).is_none());
    rows.extend(others.map(|f| row(&f.name, f.incarnation, &f.addresses, role_name(f.role))));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn members_and_followers_are_shown_reachable_or_not() {
        let record = samples::record();
        let primary: ReplicaStatus = serde_json::from_value(serde_json::json!({
            "name": "a", "incarnation": format!("{:032x}", 1), "role": "primary", "epoch": 7,
            "index": 50, "committed": 48, "applied": 50,
            "followers": [
                {"name": "b", "incarnation": format!("{:032x}", 2), "addresses": samples::addresses("b"),
                 "role": "backup", "acknowledged": 48, "silence_ms": 12},
                {"name": "c", "incarnation": format!("{:032x}", 3), "addresses": samples::addresses("c"),
                 "role": "joining", "acknowledged": 40, "silence_ms": 15,
                 "transfer": {"bytes": 43, "of_bytes": 100, "entries": 4, "of_entries": 9, "bytes_per_s": 5,
                              "left_ms": 11_400}},
            ],
        }))
        .unwrap();
        let followers = primary.followers.clone();
        let answers = BTreeMap::from([(record.primary.replica.clone(), primary)]);
        let rows = rows(&record, &followers, &answers);
        let shown: Vec<_> =
            rows.iter().map(|r| (r.name.as_str(), r.role.as_str(), r.in_sync, r.lag_entries, r.reachable)).collect();
        assert_eq!(
            shown,
            [
                ("a", "primary", true, Some(0), true),
                ("b", "backup", true, Some(2), false),
                ("c", "joining", false, Some(10), false)
            ]
        );
        assert_eq!(rows[1].lag_ms, Some(12));
        assert_eq!(rows[1].transfer, None);
        assert_eq!(rows[2].transfer.as_ref().map(progress).unwrap(), " 43 %, 12 s left");
        assert_eq!(progress(&TransferStatus::default()), " 0 %");
    }

    #[test]
    fn the_json_shape_is_the_documented_one() {
        let record = samples::record();
        let overview = Overview {
            group: "g".into(),
            group_id: record.group_id.to_string(),
            epoch: 7,
            mode: "memory".into(),
            min_in_sync: 1,
            primary: "a".into(),
            replicas: rows(&record, &[], &BTreeMap::new()),
            waits_for_seize: Some("cutover seize".into()),
            fenced: BTreeMap::from([("b".into(), "cutover adopt".into())]),
            arbiters: vec![ArbiterRow { address: "x:1".into(), id: None, role: None, term: None, reachable: false }],
        };
        let json: serde_json::Value = serde_json::from_str(&render(&overview, true)).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        for key in ["group", "epoch", "mode", "primary", "replicas", "waits_for_seize", "fenced", "arbiters"] {
            assert!(keys(&json).contains(&key.to_owned()), "{key}");
        }
        for key in [
            "name",
            "role",
            "incarnation",
            "in_sync",
            "index",
            "committed",
            "applied",
            "lag_entries",
            "lag_ms",
            "transfer",
            "redis",
            "client",
            "http",
            "reachable",
        ] {
            assert!(keys(&json["replicas"][0]).contains(&key.to_owned()), "{key}");
        }
        let text = render(&overview, false);
        assert!(text.contains("primary (unreachable)") && text.contains("decide:\n  cutover seize"), "{text}");
    }
}
