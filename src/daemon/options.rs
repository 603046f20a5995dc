//! What a replica is told when it starts, and the checks that keep its timers in order.
//!
//! Deliberately not here: files, flags and environment variables; the command line makes an [`Options`] of them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use cutover_arbiter::record::{GroupName, Mode, ReplicaName};

use super::rules;
use crate::replica::{CreateOptions, Limits};
use crate::resp;

/// Addresses of a replica's ports, `host:port` each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// For other replicas.
    pub peer: String,
    /// For the client library.
    pub client: String,
    /// For Redis clients; meaningful only for the built-in key-value machine.
    pub redis: Option<String>,
    /// For health, metrics and administration.
    pub http: String,
}

/// Addresses that others are told, where they differ from those listened on. A port of 0 or an empty string stands
/// for the listened one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertised {
    /// For other replicas.
    pub peer: Option<String>,
    /// For the client library.
    pub client: Option<String>,
    /// For Redis clients.
    pub redis: Option<String>,
    /// For health, metrics and administration.
    pub http: Option<String>,
}

/// Everything a replica is told when it starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name, unique in the group.
    pub name: ReplicaName,
    /// Its group.
    pub group: GroupName,
    /// The arbiters, `host:port` each.
    pub arbiters: Vec<String>,
    /// Where to listen.
    pub listen: Ports,
    /// What others are told.
    pub advertise: Advertised,
    /// Pairs of an advertised address and the one dialled in its place: for proxies and tests.
    pub routes: Vec<(String, String)>,
    /// Where its identity, journal and snapshots are; without it the group's durability must be `memory`.
    pub data: Option<PathBuf>,
    /// Makes the group if it does not exist.
    pub create: Option<CreateOptions>,
    /// Copies kept in sync, the primary's among them.
    pub copies: usize,
    /// Silence after which a backup suspects its primary.
    pub suspect_after: Duration,
    /// Silence after which a primary suspects a backup.
    pub drop_backup_after: Duration,
    /// Time between appends of an idle primary.
    pub heartbeat: Duration,
    /// A switchover without an answer is given up after this.
    pub switchover_timeout: Duration,
    /// An unanswered proposal is repeated after this.
    pub propose_again_after: Duration,
    /// First wait before a removed backup is admitted again.
    pub readmit_after: Duration,
    /// Entries kept for followers that come back, in bytes.
    pub log_bytes: usize,
    /// Entries a follower may have unacknowledged before new requests wait, in bytes.
    pub unacknowledged_bytes: usize,
    /// Most bytes of entries in one append.
    pub append_bytes: usize,
    /// Bytes of journal after which a snapshot is taken.
    pub snapshot_bytes: u64,
    /// A disk that does not answer for so long makes a primary hand over and a backup leave.
    pub journal_stall_limit: Duration,
    /// What the core lets grow, and how far.
    pub limits: Limits,
    /// Most connections of clients, library and Redis together.
    pub max_clients: usize,
    /// Bytes of replies one connection may have waiting for their release before its requests are left unread.
    pub max_in_flight: usize,
    /// Released bytes that a client may leave unread: beyond it the next reply disconnects it, however long or short.
    pub max_output: usize,
    /// Bytes that all clients together may have waiting: requests in part, replies held, replies unread. Beyond it the
    /// connection that holds most is closed.
    pub max_client_memory: usize,
    /// Largest request of a client, in bytes; at most [`crate::protocol::entry::longest_request`] of the appends.
    pub max_request: usize,
    /// Bytes that may wait for a peer's socket before the link is closed.
    pub max_peer_output: usize,
    /// A connection of a client that is silent for so long is closed; `None` never.
    pub idle_timeout: Option<Duration>,
    /// A connection of the library or of a peer must have said who it is after so long.
    pub handshake_deadline: Duration,
    /// SIGINT is left to the parent process (`cutover dev`).
    pub ignore_sigint: bool,
    /// Stop when standard input closes: the parent is gone (`cutover dev`).
    pub stop_when_stdin_closes: bool,
}

/// An [`Options`] that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Two values do not fit together: which, and why.
    #[error("{0}")]
    Conflict(String),
    /// No arbiter is named.
    #[error("no arbiter is named; give the addresses of all 3 or 5 of them")]
    NoArbiters,
    /// An address is not `host:port`.
    #[error("'{given}' is no address for {what}: write host:port, for example 127.0.0.1:7000")]
    Address {
        /// Which option.
        what: &'static str,
        /// What was given.
        given: String,
    },
    /// A wildcard is listened on and nothing else is advertised.
    #[error(
        "{what} listens on every address ({given}), which nobody can dial: say under which address others reach it (advertise.{what})"
    )]
    NothingToAdvertise {
        /// Which port.
        what: &'static str,
        /// Where it listens.
        given: String,
    },
}

impl Options {
    /// Options with the defaults of every value that has one; all ports on loopback, chosen by the system.
    pub fn new(name: ReplicaName, group: GroupName, arbiters: Vec<String>) -> Self {
        let any = || String::from("127.0.0.1:0");
        Self {
            name,
            group,
            arbiters,
            listen: Ports { peer: any(), client: any(), redis: Some(any()), http: any() },
            advertise: Advertised::default(),
            routes: Vec::new(),
            data: None,
            create: None,
            copies: 2,
            suspect_after: Duration::from_millis(500),
            drop_backup_after: Duration::from_millis(350),
            heartbeat: Duration::from_millis(125),
            switchover_timeout: Duration::from_secs(5),
            propose_again_after: Duration::from_millis(250),
            readmit_after: Duration::from_secs(1),
            log_bytes: 64 << 20,
            unacknowledged_bytes: 64 << 20,
            append_bytes: 1 << 20,
            snapshot_bytes: 256 << 20,
            journal_stall_limit: Duration::from_secs(2),
            limits: Limits::default(),
            max_clients: 10_000,
            max_in_flight: 64 << 20,
            max_output: 256 << 20,
            max_client_memory: 1 << 30,
            max_request: 32 << 20,
            max_peer_output: 256 << 20,
            idle_timeout: None,
            handshake_deadline: Duration::from_secs(5),
            ignore_sigint: false,
            stop_when_stdin_closes: false,
        }
    }

    /// What a Redis client may send: a request of either port becomes one entry, and an entry must fit into a frame.
    pub fn redis_limits(&self) -> resp::Limits {
        /// What a request has beside its longest string: its other words, and the lengths of all.
        const BESIDE: usize = 1 << 10;
        let max_bulk = self.max_request - BESIDE.min(self.max_request / 2);
        resp::Limits { max_bulk, max_request: self.max_request, ..resp::Limits::default() }
    }

    /// The settings that CONFIG GET has from here; `told` is the address that others are told.
    pub(super) fn redis_settings(&self, told: &str) -> Vec<(String, String)> {
        let port_of = |address: &str| address.rsplit_once(':').map_or_else(String::new, |(_, port)| port.to_owned());
        let listen = self.listen.redis.as_deref().unwrap_or_default();
        let bind = split("redis", listen).unwrap_or_default();
        // Where the system chose the port, only the address told knows it.
        let port = Some(port_of(listen)).filter(|port| port != "0").unwrap_or_else(|| port_of(told));
        // In whole seconds, as Redis has it; below one it is not 0, which means never.
        let timeout = self.idle_timeout.map_or(0, |idle| idle.as_secs().max(1));
        [("bind", bind.to_owned()), ("port", port), ("timeout", timeout.to_string())]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }

    /// Checks every value, and those that depend on each other against each other.
    ///
    /// # Errors
    /// The first thing that cannot work, and why.
    pub fn validate(&self) -> Result<(), OptionsError> {
        if self.arbiters.is_empty() {
            return Err(OptionsError::NoArbiters);
        }
        for arbiter in &self.arbiters {
            split("arbiters", arbiter)?;
        }
        self.validate_ports()?;
        self.validate_rules()
    }

    fn validate_ports(&self) -> Result<(), OptionsError> {
        let redis = self.listen.redis.as_deref().map(|listen| ("redis", listen, &self.advertise.redis));
        let ports = [
            ("peer", self.listen.peer.as_str(), &self.advertise.peer),
            ("client", self.listen.client.as_str(), &self.advertise.client),
            ("http", self.listen.http.as_str(), &self.advertise.http),
        ];
        for (what, listen, advertised) in ports.into_iter().chain(redis) {
            let host = split(what, listen)?;
            match advertised.as_deref().filter(|given| !given.is_empty()) {
                Some(given) => {
                    split(what, given)?;
                }
                None if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) => {
                    return Err(OptionsError::NothingToAdvertise { what, given: listen.to_owned() });
                }
                None => {}
            }
        }
        Ok(())
    }

    fn validate_rules(&self) -> Result<(), OptionsError> {
        if self.data.is_none()
            && let Some(create) = self.create
            && create.mode != Mode::Memory
        {
            return Err(OptionsError::Conflict(format!(
                "durability ({}) must be memory: without a data directory there is no journal",
                create.mode
            )));
        }
        rules::broken(self).map_or(Ok(()), |broken| Err(OptionsError::Conflict(broken)))
    }
}

/// The host of `host:port`.
fn split<'a>(what: &'static str, given: &'a str) -> Result<&'a str, OptionsError> {
    given
        .rsplit_once(':')
        .filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        .map(|(host, _)| host.trim_start_matches('[').trim_end_matches(']'))
        .ok_or_else(|| OptionsError::Address { what, given: given.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::entry::longest_request;

    fn options() -> Options {
        Options::new("a".parse().unwrap(), "g".parse().unwrap(), vec!["127.0.0.1:7000".into()])
    }

    #[test]
    fn the_defaults_are_valid() {
        options().validate().unwrap();
    }

    #[test]
    fn timers_are_checked_against_each_other_with_the_reason() {
        let mut slow = options();
        slow.heartbeat = Duration::from_millis(200);
        let said = slow.validate().unwrap_err().to_string();
        assert!(said.contains("drop-backup-after (350ms)") && said.contains("heartbeat (200ms)"), "{said}");
        let mut fast = options();
        fast.heartbeat = Duration::from_millis(4);
        assert!(fast.validate().unwrap_err().to_string().contains("heartbeat (4ms) is below 5ms"));
        let mut late = options();
        late.drop_backup_after = Duration::from_millis(600);
        let said = late.validate().unwrap_err().to_string();
        assert!(said.contains("suspect-after (500ms)"), "{said}");
    }

    #[test]
    fn no_port_takes_a_request_whose_entry_would_not_fit_into_a_frame() {
        let mut most = options();
        most.max_request = longest_request(most.append_bytes);
        most.validate().unwrap();
        let limits = most.redis_limits();
        assert_eq!((limits.max_bulk, limits.max_request), (most.max_request - 1024, most.max_request));
        most.append_bytes += 1;
        let said = most.validate().unwrap_err().to_string();
        assert!(said.contains("travels between replicas in one frame"), "{said}");
    }

    #[test]
    fn config_get_tells_what_is_listened_on() {
        let told = |options: &Options| options.redis_settings("10.0.0.1:4711").into_iter().map(|(_, value)| value);
        let mut options = options();
        assert!(told(&options).eq(["127.0.0.1", "4711", "0"]));
        options.listen.redis = Some("[::1]:6379".into());
        options.idle_timeout = Some(Duration::from_millis(300));
        assert!(told(&options).eq(["::1", "6379", "1"]));
    }

    #[test]
    fn clients_leave_files_to_the_journal() {
        assert_eq!(rules::clients_within(10_000, 65_536), 10_000);
        assert_eq!(rules::clients_within(10_000, 4096), 3456);
        assert_eq!(rules::clients_within(10_000, 100), 25);
        assert_eq!(rules::clients_within(10, 4096), 10);
        assert_eq!(rules::clients_within(10, 0), 1);
    }

    #[test]
    fn a_wildcard_needs_an_address_to_tell() {
        let mut open = options();
        open.listen.client = "0.0.0.0:7001".into();
        assert!(matches!(open.validate(), Err(OptionsError::NothingToAdvertise { what: "client", .. })));
        open.advertise.client = Some("db1.example:7001".into());
        open.validate().unwrap();
    }

    #[test]
    fn an_address_without_a_port_is_named() {
        let mut bad = options();
        bad.listen.http = "localhost".into();
        assert_eq!(bad.validate(), Err(OptionsError::Address { what: "http", given: "localhost".into() }));
    }
}
