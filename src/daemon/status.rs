//! What `/status` tells and the command line reads back.

use cutover_arbiter::record::{Addresses, GroupRecord, Mode, Position};
use serde::{Deserialize, Serialize};

use crate::replica::{FollowerStatus, Role, Status, TransferStatus};

/// The body of `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusBody {
    /// The replica's name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// The group's identity, once known.
    pub group_id: Option<String>,
    /// The life of its state.
    pub incarnation: String,
    /// Its role.
    pub role: Role,
    /// The highest epoch it knows.
    pub epoch: u64,
    /// Durability of the group, once known.
    pub mode: Option<Mode>,
    /// The same, in words, `unknown` before the group is.
    pub durability: String,
    /// The newest record it knows.
    pub record: Option<GroupRecord>,
    /// True when that record names this life in sync.
    pub in_sync: bool,
    /// True when it executes operations at this moment.
    pub serving: bool,
    /// Last index of its log.
    pub index: u64,
    /// Committed, as far as it knows.
    pub committed: u64,
    /// The last entry of its log, with its own epoch.
    #[serde(default)]
    pub held: Position,
    /// The last entry of its log that it knows to be committed, with its own epoch.
    #[serde(default)]
    pub commit: Position,
    /// Applied.
    pub applied: u64,
    /// In its own journal, as durable as the mode says.
    #[serde(default)]
    pub persisted: u64,
    /// Age of the oldest write that its disk has not done, in milliseconds.
    #[serde(default)]
    pub journal_age_ms: u32,
    /// The last entry of its newest snapshot on disk.
    #[serde(default)]
    pub snapshot_index: u64,
    /// When every in-sync member came back in another life: the command with which an operator decides.
    #[serde(default)]
    pub waits_for_seize: Option<String>,
    /// Entries it knows of and has not applied.
    pub lag_entries: u64,
    /// Time since it last heard its primary, in milliseconds; 0 on the primary.
    pub lag_ms: u64,
    /// Bytes of its log.
    pub log_bytes: u64,
    /// Bytes of the machine's state, roughly.
    pub machine_bytes: u64,
    /// Address for Redis clients; empty without one.
    pub redis: String,
    /// Address for the client library.
    pub client: String,
    /// Address for other replicas.
    pub peer: String,
    /// Address for health, metrics and administration.
    pub http: String,
    /// On a joiner: the state transfer it gets.
    pub receiving: Option<TransferStatus>,
    /// On the primary: who follows.
    pub followers: Vec<FollowerBody>,
    /// A change asked of the arbiters, by name.
    pub proposing: Option<String>,
    /// Open sessions.
    pub sessions: usize,
    /// Connected clients.
    pub clients: usize,
    /// Bytes that they have waiting: requests in part, replies held, replies unread.
    pub client_bytes: u64,
    /// Operations executed since the start.
    pub operations: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// This machine's boot clock, in milliseconds: until when a fence may be asked for is told by it.
    #[serde(default)]
    pub boot_ms: u64,
    /// While an operator's fence is in force: the highest epoch known without it.
    #[serde(default)]
    pub fenced_from: Option<u64>,
    /// And why it stays away, with the command by which an operator goes on.
    #[serde(default)]
    pub fenced: Option<String>,
    /// Version of this program.
    pub version: String,
}

/// A follower, as its primary sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FollowerBody {
    /// Its name.
    pub name: String,
    /// The life of its state.
    pub incarnation: String,
    /// Its role.
    pub role: Role,
    /// The highest index it acknowledged.
    pub acknowledged: u64,
    /// The highest index it applied.
    pub applied: u64,
    /// Entries it has not acknowledged.
    pub lag_entries: u64,
    /// Time since its last acknowledgement, in milliseconds.
    pub silence_ms: u64,
    /// The state transfer it gets.
    pub transfer: Option<TransferStatus>,
    /// Where it is reached.
    pub addresses: Addresses,
}

/// What the loop adds to the core's own picture.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The group's name.
    pub group: String,
    /// Where this replica is reached.
    pub addresses: Addresses,
    /// Whether it executes operations at this moment.
    pub serving: bool,
    /// Connected clients.
    pub clients: usize,
    /// Bytes that they have waiting.
    pub client_bytes: u64,
    /// Operations executed since the start.
    pub operations: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The boot clock, in milliseconds.
    pub boot_ms: u64,
    /// The arbiters' addresses.
    pub arbiters: Vec<String>,
}

impl StatusBody {
    /// The core's picture and what surrounds it.
    pub fn new(status: Status, around: Surroundings) -> Self {
        let mode = status.mode;
        let last = status.index;
        let known = status.committed.max(status.index);
        Self {
            in_sync: status.record.as_ref().is_some_and(|record| record.has(&status.name, status.incarnation)),
            name: status.name.to_string(),
            fenced: fenced(&status, &around),
            waits_for_seize: status.waits_for_seize.then(|| seize(&status, &around)),
            persisted: status.persisted,
            journal_age_ms: status.journal_age_ms,
            snapshot_index: status.snapshot_index,
            group: around.group,
            group_id: status.group_id.map(|group_id| group_id.to_string()),
            incarnation: status.incarnation.to_string(),
            role: status.role,
            epoch: status.epoch.0,
            mode,
            durability: mode.map_or_else(|| String::from("unknown"), |mode| mode.to_string()),
            record: status.record,
            serving: around.serving,
            index: status.index,
            committed: status.committed,
            held: status.held,
            commit: status.commit,
            applied: status.applied,
            lag_entries: known.saturating_sub(status.applied),
            lag_ms: status.silence.map_or(0, |silence| silence.as_millis() as u64),
            log_bytes: status.log_bytes,
            machine_bytes: status.machine_bytes,
            redis: around.addresses.redis,
            client: around.addresses.client,
            peer: around.addresses.peer,
            http: around.addresses.http,
            receiving: status.receiving,
            followers: status.followers.into_iter().map(|follower| FollowerBody::new(follower, last)).collect(),
            proposing: status.proposing.map(String::from),
            sessions: status.sessions,
            clients: around.clients,
            client_bytes: around.client_bytes,
            operations: around.operations,
            uptime_s: around.uptime_s,
            boot_ms: around.boot_ms,
            fenced_from: status.fenced_from.map(|epoch| epoch.0),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The exact command. One that came back empty does not recommend itself: another may hold what everybody needs.
fn seize(status: &Status, around: &Surroundings) -> String {
    let arbiters = around.arbiters.join(",");
    let command = |replica: &str| {
        let group = &around.group;
        format!("cutover seize --group {group} --replica {replica} --accept-data-loss --fenced --arbiters {arbiters}")
    };
    match status.index {
        0 => {
            let which = "REPLICA is the one whose /status shows the highest epoch and index; this one holds nothing";
            format!("{} ({which})", command("REPLICA"))
        }
        holds => {
            let which = format!("this replica holds entries up to {holds}; seize the one that holds most");
            format!("{} ({which})", command(status.name.as_str()))
        }
    }
}

/// Why a fenced replica stays away, and the command that ends it. Which replica the group goes on from is its operator's
/// to find out: who is fenced does not know who leads.
fn fenced(status: &Status, around: &Surroundings) -> Option<String> {
    status.fenced_from?;
    let (epoch, group, arbiters) = (status.epoch, &around.group, around.arbiters.join(","));
    let why = match status.shown_below_fence {
        Some(shown) if shown.0 > 0 => format!("the arbiters know the group in epoch {shown}, below it"),
        Some(_) => String::from("the arbiters know no such group"),
        None => String::from("no record above it has been seen"),
    };
    let member = status.record.as_ref().is_some_and(|record| record.has(&status.name, status.incarnation));
    let own = if member { "was in sync when it was fenced" } else { "was not in sync when it was fenced" };
    Some(format!(
        "an operator's fence: nothing below epoch {epoch} is done here, and {why}; go on with the adoption: cutover adopt \
         --group {group} --arbiters {arbiters} --http HOST:PORT (the http port of the replica that leads by `cutover \
         status`, or else of one that was in sync; this one, {}, {own} and holds entries up to {})",
        around.addresses.http, status.index
    ))
}

impl FollowerBody {
    fn new(follower: FollowerStatus, last: u64) -> Self {
        Self {
            name: follower.name.to_string(),
            incarnation: follower.incarnation.to_string(),
            role: follower.role,
            acknowledged: follower.acknowledged,
            applied: follower.applied,
            lag_entries: last.saturating_sub(follower.acknowledged),
            silence_ms: follower.silence.as_millis() as u64,
            transfer: follower.transfer,
            addresses: follower.addresses,
        }
    }
}
