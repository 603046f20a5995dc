//! What the shell tells about its replica, and the answers made of it. The texts are Redis' (so are their words
//! *master* and *slave*); the figures are the shell's.

use std::fmt;

use super::{Client, ClientFilter, ConfigRefusal, Limits, client, config, hello, info};
use crate::machine::kv::reply::Reply;

/// A question that only the shell can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusQuestion {
    /// INFO with these sections, in small letters.
    Info(Vec<String>),
    /// ROLE.
    Role,
    /// HELLO, once it has done what it asks for.
    Hello,
    /// CLIENT LIST; needs [`Status::clients`].
    ClientList(ClientFilter),
    /// CLIENT INFO.
    ClientInfo,
    /// CONFIG GET with these patterns; needs [`Status::config`].
    ConfigGet(Vec<Vec<u8>>),
    /// CONFIG SET: the shell first takes all of these settings or none, and says which in
    /// [`Status::config_refusal`]. Names are in small letters, each stands here once.
    ConfigSet(Vec<(String, String)>),
    /// CONFIG RESETSTAT: the shell first sets its counters back.
    ConfigResetStat,
}

/// Where somebody listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What the replica is, as Redis can say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The primary, and its epoch is confirmed: Redis' `master`.
    Primary {
        /// Its backups, those in state transfer among them.
        backups: Vec<Backup>,
    },
    /// Anything else: Redis' `slave`.
    Other {
        /// The role in this project's words: `backup`, `spare`, `joining`, `fenced`.
        name: &'static str,
        /// The primary's Redis address, when known.
        primary: Option<Address>,
        /// How the connection to the primary stands.
        link: Link,
        /// When the primary was heard last, in seconds; `None`: never.
        heard_s: Option<u64>,
    },
}

impl Default for Role {
    fn default() -> Self {
        Role::Other { name: "joining", primary: None, link: Link::Connect, heard_s: None }
    }
}

/// How a replica's connection to its primary stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// There is none.
    Connect,
    /// It is being made.
    Connecting,
    /// State transfer runs.
    Sync,
    /// It follows.
    Connected,
}

impl Link {
    /// Redis' word in ROLE.
    fn word(self) -> &'static str {
        match self {
            Link::Connect => "connect",
            Link::Connecting => "connecting",
            Link::Sync => "sync",
            Link::Connected => "connected",
        }
    }
}

/// A backup, as its primary sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its Redis address.
    pub address: Address,
    /// How far it is.
    pub state: BackupState,
    /// The index it has acknowledged.
    pub index: u64,
    /// Since when nothing was heard from it, in seconds.
    pub lag_s: u64,
}

/// How far a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupState {
    /// It gets a snapshot.
    Transfer,
    /// It follows the log.
    Online,
}

/// Calls of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandStat {
    /// The command, in any case.
    pub name: String,
    /// How often it ran.
    pub calls: u64,
    /// How long that took together, in microseconds.
    pub microseconds: u64,
}

/// Everything INFO, ROLE, CLIENT LIST and CONFIG can tell. What the shell does not know stays at its default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    /// Version of this program.
    pub version: String,
    /// Operating system and machine.
    pub os: String,
    /// Process number.
    pub process_id: u32,
    /// 40 hexadecimal digits that name this run.
    pub run_id: String,
    /// 40 hexadecimal digits that name the group's data: the same on every replica.
    pub replication_id: String,
    /// Path of the program.
    pub executable: String,
    /// Path of the configuration file, or nothing.
    pub config_file: String,
    /// Where this replica's Redis port is reached.
    pub redis_address: Address,
    /// The wall clock, in microseconds since 1970.
    pub wall_us: u64,
    /// The clock that connections are told by, in milliseconds.
    pub now_ms: u64,
    /// Since when the process runs, in seconds.
    pub uptime_s: u64,

    /// What the replica is.
    pub role: Role,
    /// The group's name.
    pub group: String,
    /// The replica's name.
    pub replica: String,
    /// Number of the group record.
    pub epoch: u64,
    /// How many replicas are in sync, the primary among them.
    pub in_sync: usize,
    /// The highest index committed.
    pub commit_index: u64,
    /// The highest index applied.
    pub applied_index: u64,
    /// True while the replica has no state to serve from.
    pub loading: bool,
    /// The durability mode: `memory`, `buffered`, `sync`.
    pub durability: String,

    /// The connections; needed for CLIENT LIST only.
    pub clients: Vec<Client>,
    /// How many connections there are.
    pub connected_clients: u64,
    /// How many there may be.
    pub max_clients: u64,
    /// How many wait for a reply (WAIT).
    pub blocked_clients: u64,
    /// Connections since the start.
    pub total_connections: u64,
    /// Connections refused since the start.
    pub rejected_connections: u64,
    /// Commands since the start.
    pub total_commands: u64,
    /// Commands per second, lately.
    pub commands_per_s: u64,
    /// Bytes read from clients since the start.
    pub input_bytes: u64,
    /// Bytes written to clients since the start.
    pub output_bytes: u64,
    /// Error replies since the start.
    pub error_replies: u64,
    /// Keys removed because their time was over.
    pub expired_keys: u64,
    /// Reads that found their key.
    pub keyspace_hits: u64,
    /// Reads that did not.
    pub keyspace_misses: u64,
    /// State transfers given since the start.
    pub state_transfers: u64,
    /// Rejoins by log alone since the start.
    pub delta_rejoins: u64,

    /// Bytes of memory in use.
    pub used_memory: u64,
    /// What of it is no data and does not count against `maxmemory`: the log.
    pub uncounted_memory: u64,
    /// Bytes that the data may take; 0 for no limit.
    pub max_memory: u64,
    /// The most that ever was in use, in bytes.
    pub used_memory_peak: u64,
    /// Resident memory, in bytes.
    pub resident_memory: u64,
    /// The machine's memory, in bytes.
    pub total_memory: u64,
    /// Processor time in the kernel, in seconds.
    pub cpu_system_s: f64,
    /// Processor time outside the kernel, in seconds.
    pub cpu_user_s: f64,

    /// Keys.
    pub keys: u64,
    /// Keys that expire.
    pub expiring_keys: u64,
    /// Calls by command.
    pub command_stats: Vec<CommandStat>,
    /// Error replies by their code.
    pub error_stats: Vec<(String, u64)>,

    /// Settings by name; needed for CONFIG GET only. They win over what the edge knows itself, and
    /// `bind`, `port` and `timeout` are known from here only.
    pub config: Vec<(String, String)>,
    /// Why the CONFIG SET that this status answers was not taken; `None`: it was.
    pub config_refusal: Option<ConfigRefusal>,
}

/// The neutral answer to `question`, asked by `asker`.
pub(super) fn answer(question: &StatusQuestion, status: &Status, asker: &Client, limits: &Limits) -> Vec<u8> {
    let mut neutral = Vec::new();
    match question {
        StatusQuestion::Info(sections) => verbatim(&info::text(sections, status), &mut neutral),
        StatusQuestion::Role => role(status, Reply(&mut neutral)),
        StatusQuestion::Hello => hello::greet(asker, status, Reply(&mut neutral)),
        StatusQuestion::ClientList(filter) => {
            verbatim(&client::lines(status.clients.iter(), filter, status), &mut neutral);
        }
        StatusQuestion::ClientInfo => {
            verbatim(&client::lines(std::iter::once(asker), &ClientFilter::All, status), &mut neutral);
        }
        StatusQuestion::ConfigGet(patterns) => config::matching(patterns, status, limits, Reply(&mut neutral)),
        StatusQuestion::ConfigSet(_) => match &status.config_refusal {
            None => Reply(&mut neutral).ok(),
            Some(refusal) => Reply(&mut neutral).error(&format!("ERR {refusal}")),
        },
        StatusQuestion::ConfigResetStat => Reply(&mut neutral).ok(),
    }
    neutral
}

/// A text: a verbatim string in RESP3, a string in RESP2.
fn verbatim(text: &str, neutral: &mut Vec<u8>) {
    neutral.extend_from_slice(format!("={}\r\ntxt:{text}\r\n", text.len() + 4).as_bytes());
}

/// ROLE
fn role(status: &Status, mut reply: Reply<'_>) {
    match &status.role {
        Role::Primary { backups } => {
            reply.array(3);
            reply.bulk(b"master");
            reply.integer(status.commit_index as i64);
            let online = backups.iter().filter(|backup| backup.state == BackupState::Online);
            reply.array(online.clone().count());
            for backup in online {
                reply.array(3);
                reply.bulk(backup.address.host.as_bytes());
                reply.bulk(backup.address.port.to_string().as_bytes());
                reply.bulk(backup.index.to_string().as_bytes());
            }
        }
        Role::Other { primary, link, .. } => {
            let primary = primary.clone().unwrap_or_default();
            reply.array(5);
            reply.bulk(b"slave");
            reply.bulk(primary.host.as_bytes());
            reply.integer(primary.port.into());
            reply.bulk(link.word().as_bytes());
            reply.integer(status.applied_index as i64);
        }
    }
}
