//! `cutover verify`: do all replicas hold the same state? Compared by digest, at one index.

use std::time::Duration;

use cutover_arbiter::record::{Addresses, GroupRecord, ReplicaName};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::config::Settings;
use super::config_value::Span;
use super::failure::{ExitCode, Failure};
use super::group::{Group, ReplicaStatus, print, table};
use super::http;
use super::operator::{GroupArgs, help};
use super::replica::need;

/// Compares the state of all replicas: marks an index at the primary and asks everyone for the digest there.
#[derive(Debug, clap::Args)]
#[command(after_help = help!("Examples:
  cutover verify --arbiters a:7440,b:7440,c:7440 --group orders
  cutover verify --data ./dev --json

Exit codes: 0 all equal, 1 they differ, 4 no such group, no primary that serves, or one copy alone (nothing was
compared), 5 somebody does not answer, 6 a digest was not ready in time."))]
pub struct Args {
    #[command(flatten)]
    group: GroupArgs,
    #[command(flatten)]
    settings: VerifySettings,
}

/// The options of `cutover verify`; each is a flag, an environment variable and a key of `[verify]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct VerifySettings {
    /// How long a digest may take. [default: 60s]
    #[arg(long, env = "CUTOVER_VERIFY_PATIENCE", value_name = "TIME")]
    patience: Option<Span>,
    /// One JSON object instead of a table.
    #[arg(long, env = "CUTOVER_JSON", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    json: Option<bool>,
}

impl Settings for VerifySettings {
    const SECTION: &'static str = "verify";

    fn defaults() -> Self {
        Self { patience: Some(Span(Duration::from_secs(60))), json: Some(false) }
    }
}

/// The digests of all replicas at one index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Where they were taken.
    pub index: u64,
    /// True when every member's digest is there, all are equal, and there are two of them at least.
    pub equal: bool,
    /// One per replica, the primary's first.
    pub replicas: Vec<Row>,
}

/// One replica's digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Which replica.
    pub name: String,
    /// True for a member of the in-sync set; a spare that cannot be asked does not fail the comparison.
    pub in_sync: bool,
    /// Its digest, if it gave one.
    pub digest: Option<String>,
    /// Why there is none.
    pub error: Option<String>,
    /// True when it answered, but had no digest in time.
    #[serde(skip)]
    pub late: bool,
}

/// Why a replica gave no digest.
#[derive(Debug)]
enum Missing {
    /// It does not answer, or not as a replica does.
    Silent(String),
    /// It answered, and had none in time.
    Late(String),
}

/// Answer to `POST /mark`.
#[derive(Debug, Deserialize)]
struct Mark {
    index: u64,
}

/// Answer to `GET /digest`: a number or a text, according to its size.
#[derive(Debug, Deserialize)]
struct Digest {
    index: u64,
    digest: serde_json::Value,
}

/// # Errors
/// Exit code 1 when the states differ; see the command's help for the others.
pub async fn run(args: Args) -> Result<(), Failure> {
    let settings = args.group.own(&args.settings)?;
    let group = args.group.open()?;
    let comparison = compare(&group, need("patience", settings.patience, None)?.0).await?;
    print(&render(&comparison, settings.json.unwrap_or_default()));
    judge(&comparison)
}

/// Marks an index and collects everyone's digest there.
///
/// # Errors
/// When the mark cannot be placed.
pub async fn compare(group: &Group, patience: Duration) -> Result<Comparison, Failure> {
    let record = group.record().await?;
    let primary = &record.primary.addresses.http;
    let spares: Vec<(ReplicaName, Addresses)> = ReplicaStatus::ask(primary, group.timeout)
        .await?
        .followers
        .into_iter()
        .filter(|follower| record.member(&follower.name).is_none())
        .map(|follower| (follower.name, follower.addresses))
        .collect();
    let answer = http::post(primary, "/mark", group.timeout).await?;
    if !answer.is_success() {
        let reason = format!("{} placed no mark: {}; is a cut-over going on?", record.primary.replica, answer.reason());
        return Err(Failure::new(ExitCode::StateRefuses, reason));
    }
    let mark: Mark = serde_json::from_str(&answer.body).map_err(|error| {
        Failure::new(ExitCode::Unreachable, format!("{primary} answered /mark with nonsense: {error}"))
    })?;
    let deadline = Instant::now() + patience;
    let mut questions = JoinSet::new();
    for (order, (name, addresses, in_sync)) in asked(&record, &spares).enumerate() {
        questions.spawn(async move {
            let digest = digest(&addresses.http, mark.index, deadline).await;
            let (digest, error, late) = match digest {
                Ok(digest) => (Some(digest), None, false),
                Err(Missing::Silent(why)) => (None, Some(why), false),
                Err(Missing::Late(why)) => (None, Some(why), true),
            };
            (order, Row { name: name.to_string(), in_sync, digest, error, late })
        });
    }
    let mut replicas = questions.join_all().await;
    replicas.sort_by_key(|(order, _)| *order);
    let replicas: Vec<Row> = replicas.into_iter().map(|(_, row)| row).collect();
    Ok(Comparison { index: mark.index, equal: all_equal(&replicas), replicas })
}

fn asked<'a>(
    record: &'a GroupRecord,
    spares: &'a [(ReplicaName, Addresses)],
) -> impl Iterator<Item = (ReplicaName, Addresses, bool)> + 'a {
    let backups = record.in_sync.iter().filter(|member| member.replica != record.primary.replica);
    std::iter::once(&record.primary)
        .chain(backups)
        .map(|member| (member.replica.clone(), member.addresses.clone(), true))
        .chain(spares.iter().map(|(name, addresses)| (name.clone(), addresses.clone(), false)))
}

/// Asks until the digest is there: a backup may not have applied the mark yet, and a large state takes its time.
async fn digest(address: &str, index: u64, deadline: Instant) -> Result<String, Missing> {
    let path = format!("/digest?index={index}");
    let mut pause = Duration::from_millis(10);
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let why = match http::get(address, &path, left).await {
            Ok(answer) if answer.is_success() => match serde_json::from_str::<Digest>(&answer.body) {
                Ok(Digest { index: at, digest }) if at == index && !digest.is_null() => {
                    return Ok(digest.as_str().map_or_else(|| digest.to_string(), str::to_owned));
                }
                Ok(_) => Missing::Late(String::from("no digest of that index yet")),
                Err(error) => Missing::Silent(format!("nonsense: {error}")),
            },
            Ok(answer) => Missing::Late(answer.reason()),
            Err(error @ http::HttpError::TimedOut { .. }) => Missing::Silent(error.to_string()),
            Err(error) => return Err(Missing::Silent(error.to_string())),
        };
        if Instant::now() + pause >= deadline {
            return Err(why);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Two at least: one copy is equal to itself, and nothing was compared.
fn all_equal(replicas: &[Row]) -> bool {
    let digests: Vec<&String> = replicas.iter().filter_map(|row| row.digest.as_ref()).collect();
    digests.len() > 1
        && digests.iter().all(|digest| *digest == digests[0])
        && replicas.iter().all(|row| row.digest.is_some() || !row.in_sync)
}

/// # Errors
/// Exit code 1 when two digests differ, 5 or 6 when a member's is missing, 4 when there was nothing to compare.
pub fn judge(comparison: &Comparison) -> Result<(), Failure> {
    if comparison.equal {
        return Ok(());
    }
    let index = comparison.index;
    let first = comparison.replicas.iter().find_map(|row| row.digest.as_ref());
    let differ = comparison.replicas.iter().any(|row| row.digest.is_some() && row.digest.as_ref() != first);
    if differ {
        return Err(Failure::new(ExitCode::CheckFailed, format!("the replicas differ at index {index}")));
    }
    let missing = |row: &&Row| row.digest.is_none();
    let silent: Vec<String> = comparison
        .replicas
        .iter()
        .filter(missing)
        .map(|row| format!("{} ({})", row.name, row.error.as_deref().unwrap_or("no word")))
        .collect();
    let members: Vec<&Row> = comparison.replicas.iter().filter(|row| row.in_sync).filter(missing).collect();
    if members.is_empty() {
        let copy = comparison.replicas.iter().find(|row| row.digest.is_some()).map_or("nobody", |row| &row.name);
        let others = if silent.is_empty() { String::new() } else { format!("; no digest of {}", silent.join(", ")) };
        let what = format!("nothing was compared at index {index}: there is one copy, of {copy}{others}");
        return Err(Failure::new(ExitCode::StateRefuses, what));
    }
    let code = if members.iter().all(|row| row.late) { ExitCode::TimedOut } else { ExitCode::Unreachable };
    Err(Failure::new(code, format!("no digest of {}", silent.join(", "))))
}

fn render(comparison: &Comparison, json: bool) -> String {
    if json {
        let mut text = serde_json::to_string(comparison).expect("plain data is JSON");
        text.push('\n');
        return text;
    }
    let digests = comparison.replicas.iter().filter(|row| row.digest.is_some()).count();
    let verdict = match comparison.equal {
        true => "equal",
        false if digests < 2 => "NOT compared",
        false => "NOT equal",
    };
    let mut rows = vec![["REPLICA", "IN SYNC", "DIGEST"].map(String::from).to_vec()];
    rows.extend(comparison.replicas.iter().map(|row| {
        let sync = if row.in_sync { "yes" } else { "no" };
        let digest = row.digest.clone().or_else(|| row.error.as_ref().map(|why| format!("none: {why}")));
        vec![row.name.clone(), sync.to_owned(), digest.unwrap_or_default()]
    }));
    format!("{verdict} at index {}\n\n{}", comparison.index, table(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, in_sync: bool, digest: Option<&str>) -> Row {
        let error = digest.is_none().then(|| String::from("silent"));
        Row { name: name.into(), in_sync, digest: digest.map(str::to_owned), error, late: false }
    }

    fn compared(replicas: Vec<Row>) -> Comparison {
        Comparison { index: 5, equal: all_equal(&replicas), replicas }
    }

    #[test]
    fn equal_means_every_member_and_every_spare_that_answered() {
        let equal = compared(vec![row("a", true, Some("1")), row("b", true, Some("1")), row("c", false, None)]);
        assert!(judge(&equal).is_ok());
        let spare = compared(vec![row("a", true, Some("1")), row("c", false, Some("2"))]);
        assert_eq!(judge(&spare).unwrap_err().code, ExitCode::CheckFailed);
        let missing = compared(vec![row("a", true, Some("1")), row("b", true, None)]);
        let failure = judge(&missing).unwrap_err();
        assert_eq!(failure.code, ExitCode::Unreachable);
        assert!(failure.message.contains("b (silent)"), "{failure}");
        let mut late = missing.replicas;
        late[1].late = true;
        assert_eq!(judge(&compared(late)).unwrap_err().code, ExitCode::TimedOut);
    }

    #[test]
    fn one_copy_is_not_compared_with_itself() {
        for others in [vec![], vec![row("c", false, None)]] {
            let alone = compared([vec![row("a", true, Some("1"))], others].concat());
            assert!(!alone.equal);
            assert!(render(&alone, false).starts_with("NOT compared at index 5\n"));
            let failure = judge(&alone).unwrap_err();
            assert_eq!(failure.code, ExitCode::StateRefuses);
            assert!(failure.message.contains("there is one copy, of a"), "{failure}");
        }
    }

    #[test]
    fn nothing_is_not_equal_to_nothing() {
        assert!(judge(&compared(vec![])).is_err());
    }

    #[test]
    fn the_table_and_the_json_say_the_same() {
        let differ = compared(vec![row("a", true, Some("1")), row("b", true, Some("2"))]);
        assert!(render(&differ, false).starts_with("NOT equal at index 5\n"));
        let json: serde_json::Value = serde_json::from_str(&render(&differ, true)).unwrap();
        assert_eq!((json["equal"].as_bool(), json["index"].as_u64()), (Some(false), Some(5)));
        assert_eq!(json["replicas"][1]["digest"], "2");
    }
}
