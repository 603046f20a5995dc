//! What every operations command needs first: the way to a group's record, and what its replicas say of themselves.

use std::path::Path;
use std::time::Duration;

use cutover_arbiter::client::{ArbiterClient, Unanswered};
use cutover_arbiter::record::{
    Addresses, Epoch, GroupId, GroupName, GroupRecord, Incarnation, Index, Member, Mode, Position, ReplicaName,
    RequestId,
};
use rand::TryRng as _;
use serde::Deserialize;

use super::failure::{ExitCode, Failure};
use super::http::{self, HttpError};
use crate::replica::{Role, TransferStatus};

/// A group's name and the way to its record.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// Who keeps its record.
    pub arbiters: ArbiterClient,
    /// How long to wait for any one answer.
    pub timeout: Duration,
}

/// What the operations commands need of dev.json.
pub struct DevFile {
    /// Its name.
    pub group: GroupName,
    /// Their addresses.
    pub arbiters: Vec<String>,
    /// Http addresses.
    pub replicas: Vec<String>,
}

impl DevFile {
    /// Reads the file in this directory.
    ///
    /// # Errors
    /// Exit code 3 when it is not what it should be.
    pub fn read(directory: &Path) -> Result<Self, Failure> {
        let path = directory.join("dev.json");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::new(
                ExitCode::Configuration,
                format!("{}: {error}; is `cutover dev` running there?", path.display()),
            )
        })?;
        Self::parse(&text).map_err(|what| Failure::new(ExitCode::Configuration, format!("{}: {what}", path.display())))
    }

    /// Arbiters stand there as addresses, or as objects with an `address`.
    fn parse(text: &str) -> Result<Self, String> {
        let file: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let group = file.get("group").and_then(|group| group.as_str()).ok_or("it names no group")?;
        let arbiters = file.get("arbiters").and_then(|arbiters| arbiters.as_array()).ok_or("it names no arbiters")?;
        let arbiters: Option<Vec<String>> = arbiters
            .iter()
            .map(|arbiter| Some(arbiter.as_str().or_else(|| arbiter.get("address")?.as_str())?.to_owned()))
            .collect();
        let processes = file.get("processes").and_then(|processes| processes.as_array()).into_iter().flatten();
        let replicas = processes.filter(|process| process.get("kind").is_some_and(|kind| kind == "replica"));
        let replicas = replicas.filter_map(|replica| Some(format!("127.0.0.1:{}", replica.get("http")?.as_u64()?)));
        Ok(Self {
            replicas: replicas.collect(),
            group: group.parse().map_err(|error| format!("{error}"))?,
            arbiters: arbiters.ok_or("an arbiter without an address")?,
        })
    }
}

impl Group {
    /// The group's record.
    ///
    /// # Errors
    /// Exit code 5 when no arbiter answers, 4 when there is no such group.
    pub async fn record(&self) -> Result<GroupRecord, Failure> {
        self.find_record().await?.ok_or_else(|| {
            Failure::new(
                ExitCode::StateRefuses,
                format!("the arbiters know no group {}; start one replica with --create, or use `cutover adopt` if they lost their data", self.name),
            )
        })
    }

    /// The group's record, if it has one.
    ///
    /// # Errors
    /// Exit code 5 when no arbiter answers.
    pub async fn find_record(&self) -> Result<Option<GroupRecord>, Failure> {
        self.arbiters.read(&self.name, self.timeout).await.map_err(unanswered)
    }
}

/// No arbiter answered.
pub fn unanswered(error: Unanswered) -> Failure {
    Failure::new(ExitCode::Unreachable, error.to_string())
}

/// What a replica says of itself at `GET /status`; only what the operations commands use. A field that a replica
/// does not send takes its default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ReplicaStatus {
    /// Its name.
    pub name: ReplicaName,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its role.
    pub role: Role,
    /// The highest epoch it knows.
    pub epoch: Epoch,
    /// Its group.
    #[serde(default)]
    pub group: Option<GroupName>,
    /// Its group's identity, if it holds data of one.
    #[serde(default)]
    pub group_id: Option<GroupId>,
    /// Its group's durability.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// Last index of its log.
    #[serde(default)]
    pub index: Index,
    /// Committed, as far as it knows.
    #[serde(default)]
    pub committed: Index,
    /// The last entry of its log, with its own epoch.
    #[serde(default)]
    pub held: Position,
    /// The last entry of its log that it knows to be committed, with its own epoch.
    #[serde(default)]
    pub commit: Position,
    /// Applied.
    #[serde(default)]
    pub applied: Index,
    /// The newest record it knows.
    #[serde(default)]
    pub record: Option<GroupRecord>,
    /// When nobody can lead any more: the command with which an operator decides.
    #[serde(default)]
    pub waits_for_seize: Option<String>,
    /// Where it is reached: its own word.
    #[serde(flatten)]
    pub addresses: OwnAddresses,
    /// On a joiner: the state transfer it gets.
    #[serde(default)]
    pub receiving: Option<TransferStatus>,
    /// On the primary: who follows.
    #[serde(default)]
    pub followers: Vec<Follower>,
    /// Its machine's boot clock, in milliseconds.
    #[serde(default)]
    pub boot_ms: u64,
    /// While an operator's fence is in force: the highest epoch it knew without it.
    #[serde(default)]
    pub fenced_from: Option<Epoch>,
    /// And why it stays away, with the command by which an operator goes on.
    #[serde(default)]
    pub fenced: Option<String>,
}

/// A replica's addresses, as it tells them itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OwnAddresses {
    peer: String,
    client: String,
    redis: String,
    http: String,
}

/// A follower, as its primary sees it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Follower {
    /// Its name.
    pub name: ReplicaName,
    /// Its life.
    pub incarnation: Incarnation,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its role.
    pub role: Role,
    /// Acknowledged.
    #[serde(default)]
    pub acknowledged: Index,
    /// Milliseconds since its last acknowledgement.
    #[serde(default)]
    pub silence_ms: Option<u64>,
    /// The state transfer it gets.
    #[serde(default)]
    pub transfer: Option<TransferStatus>,
}

impl ReplicaStatus {
    /// Asks the replica whose http port is at `address`.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn ask(address: &str, deadline: Duration) -> Result<Self, HttpError> {
        http::get_json(address, "/status", deadline).await
    }

    /// The highest epoch it knows without an operator's fence.
    pub fn known(&self) -> Epoch {
        self.fenced_from.unwrap_or(self.epoch)
    }

    /// The replica as a record would name it. Its addresses are its own word; what it does not tell is as `known`.
    pub fn member(&self, known: Addresses) -> Member {
        let told = |own: &String, known: String| if own.is_empty() { known } else { own.clone() };
        let OwnAddresses { peer, client, redis, http } = &self.addresses;
        Member {
            replica: self.name.clone(),
            incarnation: self.incarnation,
            addresses: Addresses {
                peer: told(peer, known.peer),
                client: told(client, known.client),
                redis: told(redis, known.redis),
                http: told(http, known.http),
            },
        }
    }
}

/// A role as it is spelled everywhere.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Starting => "starting",
        Role::Joining => "joining",
        Role::Spare => "spare",
        Role::Backup => "backup",
        Role::TakingOver => "taking_over",
        Role::Primary => "primary",
        Role::Fenced => "fenced",
        Role::Stopped => "stopped",
    }
}

/// A fresh request id, from the system's own randomness.
///
/// # Errors
/// Exit code 4 when the system has none to give.
pub fn fresh_request() -> Result<RequestId, Failure> {
    let mut bytes = [0; 16];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(|error| {
        Failure::new(ExitCode::StateRefuses, format!("the system gives no random numbers: {error}"))
    })?;
    Ok(RequestId(u128::from_le_bytes(bytes)))
}

/// Writes to standard output; a reader that went away is no error.
pub fn print(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a line to standard error.
pub fn tell(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes a line to standard error over the one before.
pub fn retell(line: &str) {
    use std::io::Write as _;
    let _ = write!(std::io::stderr().lock(), "\r\x1b[K{line}");
}

/// Rows in columns as wide as need be; the first row is the head.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dev_file_names_arbiters_either_way() {
        let plain = DevFile::parse(r#"{"group":"dev","arbiters":["127.0.0.1:1","127.0.0.1:2"]}"#).unwrap();
        assert_eq!((plain.group.as_str(), plain.arbiters.len()), ("dev", 2));
        let objects = DevFile::parse(r#"{"group":"dev","arbiters":[{"id":1,"address":"127.0.0.1:1"}]}"#).unwrap();
        assert_eq!(objects.arbiters, ["127.0.0.1:1"]);
        let replicas =
            r#"{"group":"dev","arbiters":[],"processes":[{"kind":"arbiter","http":1},{"kind":"replica","http":2}]}"#;
        assert_eq!(DevFile::parse(replicas).unwrap().replicas, ["127.0.0.1:2"]);
        for bad in
            ["", "{}", r#"{"group":"dev"}"#, r#"{"group":"dev","arbiters":[{}]}"#, r#"{"group":"-","arbiters":[]}"#]
        {
            assert!(DevFile::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".into(), "bb".into()], vec!["ccc".into(), String::new()]];
        assert_eq!(table(&rows), "a    bb\nccc\n");
    }

    #[test]
    fn a_status_may_leave_out_what_it_does_not_know() {
        let status: ReplicaStatus = serde_json::from_str(
            r#"{"name":"r1","incarnation":"0000000000000000000000000000000a","role":"taking_over","epoch":3}"#,
        )
        .unwrap();
        assert_eq!((status.role, status.epoch, status.index), (Role::TakingOver, Epoch(3), 0));
    }
}
