//! `cutover replica`: the options of one replica, checked against each other, and its start.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cutover_arbiter::record::{Addresses, GroupName, Mode, ReplicaName};
use serde::{Deserialize, Serialize};

use super::config::{self, Settings, wrong};
use super::config_value::{Size, Span, address, list, route};
use super::failure::{ExitCode, Failure};
use super::limits::LimitSettings;
use super::logging::{self, LogFormat};
use super::shutdown::StopOptions;
use crate::daemon::{self, DataError, RunError, rules};
use crate::journal::JournalError;
use crate::machine::kv::KeyValue;
use crate::replica::{CreateOptions, Limits};

/// The command line of `cutover replica`.
#[derive(Debug, clap::Args)]
#[command(
    args_override_self = true,
    after_help = "Every option is also a key of [replica] in the file given with --config, and an environment \
    variable. The command line wins over the environment, the environment over the file.\n\nExamples:\n  \
    cutover replica --config /etc/cutover/replica.toml\n  \
    cutover replica --name r1 --group orders --arbiters a:7440,b:7440,c:7440 --data /var/lib/cutover --create\n  \
    cutover replica --name r2 --group orders --arbiters a:7440,b:7440,c:7440 --data /var/lib/cutover \
    --bind 10.0.0.2 --suspect-after 1s --drop-backup-after 700ms\n\nExit codes: 0 stopped in order, 2 usage, 3 the \
    configuration is wrong or the data directory is damaged, another's, of another version or not to be written (a person \
    must see to it), 4 anything that may be otherwise the next time: a disk that failed or is full, a directory or port in \
    use."
)]
pub struct Args {
    /// TOML file; its section [replica] is read.
    #[arg(long, env = "CUTOVER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: ReplicaSettings,
}

/// The options of a replica; each is a flag, an environment variable and a key of `[replica]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ReplicaSettings {
    /// Its name, unique in the group.
    #[arg(long, env = "CUTOVER_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// The group it belongs to.
    #[arg(long, env = "CUTOVER_GROUP", value_name = "NAME")]
    pub group: Option<String>,
    /// The arbiters, with commas between them.
    #[arg(long, env = "CUTOVER_ARBITERS", value_name = "HOST:PORT,…", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub arbiters: Option<Vec<String>>,
    /// Directory of its identity, journal and snapshots.
    #[arg(long, env = "CUTOVER_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Make the group if it does not exist; ignored by a replica that holds data.
    #[arg(long, env = "CUTOVER_CREATE", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub create: Option<bool>,
    /// What an acknowledgement means: memory, buffered or sync; with --create. [default: buffered]
    #[arg(long, env = "CUTOVER_DURABILITY", value_name = "MODE")]
    pub durability: Option<String>,
    /// Fewest in-sync replicas, the primary among them, with which operations are executed; with --create. [default: 1]
    #[arg(long, env = "CUTOVER_MIN_IN_SYNC", value_name = "N")]
    pub min_in_sync: Option<u8>,
    /// Copies kept in sync, the primary's among them; further replicas are spares. [default: 2]
    #[arg(long, env = "CUTOVER_COPIES", value_name = "N")]
    pub copies: Option<usize>,
    /// Address to listen on. [default: 127.0.0.1]
    #[arg(long, env = "CUTOVER_BIND", value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// Host that others reach this replica by. [default: the address it listens on]
    #[arg(long, env = "CUTOVER_ADVERTISE", value_name = "HOST")]
    pub advertise: Option<String>,
    /// Port for other replicas. [default: 7430]
    #[arg(long, env = "CUTOVER_PEER_PORT", value_name = "PORT")]
    pub peer_port: Option<u16>,
    /// Port for the client library. [default: 7420]
    #[arg(long, env = "CUTOVER_CLIENT_PORT", value_name = "PORT")]
    pub client_port: Option<u16>,
    /// Port for Redis clients; 0 for none. [default: 7400]
    #[arg(long, env = "CUTOVER_REDIS_PORT", value_name = "PORT")]
    pub redis_port: Option<u16>,
    /// Port for health, metrics and administration. [default: 7410]
    #[arg(long, env = "CUTOVER_HTTP_PORT", value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Listens here for other replicas, instead of --bind and --peer-port.
    #[arg(long, env = "CUTOVER_PEER_LISTEN", value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,
    /// Listens here for the client library, instead of --bind and --client-port.
    #[arg(long, env = "CUTOVER_CLIENT_LISTEN", value_name = "HOST:PORT")]
    pub client_listen: Option<String>,
    /// Listens here for Redis clients, instead of --bind and --redis-port.
    #[arg(long, env = "CUTOVER_REDIS_LISTEN", value_name = "HOST:PORT")]
    pub redis_listen: Option<String>,
    /// Listens here for http, instead of --bind and --http-port.
    #[arg(long, env = "CUTOVER_HTTP_LISTEN", value_name = "HOST:PORT")]
    pub http_listen: Option<String>,
    /// Dials ACTUAL where a record or option says ADVERTISED; may be given several times.
    #[arg(long, env = "CUTOVER_ROUTE", value_name = "ADVERTISED=ACTUAL", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub route: Option<Vec<String>>,
    /// Silence after which a backup suspects its primary. [default: 500ms]
    #[arg(long, env = "CUTOVER_SUSPECT_AFTER", value_name = "TIME")]
    pub suspect_after: Option<Span>,
    /// Silence after which a primary suspects a backup. [default: 350ms]
    #[arg(long, env = "CUTOVER_DROP_BACKUP_AFTER", value_name = "TIME")]
    pub drop_backup_after: Option<Span>,
    /// Time between the appends of an idle primary. [default: 125ms]
    #[arg(long, env = "CUTOVER_HEARTBEAT", value_name = "TIME")]
    pub heartbeat: Option<Span>,
    /// A switchover that is not answered in this time is given up. [default: 5s]
    #[arg(long, env = "CUTOVER_SWITCHOVER_TIMEOUT", value_name = "TIME")]
    pub switchover_timeout: Option<Span>,
    /// Time between repetitions of an unanswered proposal. [default: 250ms]
    #[arg(long, env = "CUTOVER_PROPOSE_AGAIN_AFTER", value_name = "TIME")]
    pub propose_again_after: Option<Span>,
    /// First wait before a removed replica is admitted again; doubles with every removal. [default: 1s]
    #[arg(long, env = "CUTOVER_READMIT_AFTER", value_name = "TIME")]
    pub readmit_after: Option<Span>,
    /// Log kept for replicas that come back. [default: 64MiB]
    #[arg(long, env = "CUTOVER_LOG_BYTES", value_name = "SIZE")]
    pub log_bytes: Option<Size>,
    /// What a follower may leave unacknowledged before new requests wait. [default: 64MiB]
    #[arg(long, env = "CUTOVER_UNACKNOWLEDGED_BYTES", value_name = "SIZE")]
    pub unacknowledged_bytes: Option<Size>,
    /// Most entries, in bytes, that one append carries. [default: 1MiB]
    #[arg(long, env = "CUTOVER_APPEND_BYTES", value_name = "SIZE")]
    pub append_bytes: Option<Size>,
    /// What it lets grow.
    #[command(flatten)]
    #[serde(flatten)]
    pub limits: LimitSettings,
    /// Journal after which a snapshot is taken (or half the state, if that is more). [default: 256MiB]
    #[arg(long, env = "CUTOVER_SNAPSHOT_BYTES", value_name = "SIZE")]
    pub snapshot_bytes: Option<Size>,
    /// A disk that does not answer for so long makes a primary hand over and a backup leave. [default: 2s]
    #[arg(long, env = "CUTOVER_JOURNAL_STALL_LIMIT", value_name = "TIME")]
    pub journal_stall_limit: Option<Span>,
    /// Most connections of clients, Redis clients among them. [default: 10000]
    #[arg(long, env = "CUTOVER_MAX_CLIENTS", value_name = "N")]
    pub max_clients: Option<usize>,
    /// Replies of one connection that may wait for their release before its requests are left unread. [default: 64MiB]
    #[arg(long, env = "CUTOVER_MAX_IN_FLIGHT", value_name = "SIZE")]
    pub max_in_flight: Option<Size>,
    /// Released replies that a client may leave unread; beyond it the next one disconnects it. [default: 256MiB]
    #[arg(long, env = "CUTOVER_MAX_OUTPUT", value_name = "SIZE")]
    pub max_output: Option<Size>,
    /// What all clients together may have waiting, requests and replies; beyond it the one with most is disconnected.
    /// [default: 1GiB]
    #[arg(long, env = "CUTOVER_MAX_CLIENT_MEMORY", value_name = "SIZE")]
    pub max_client_memory: Option<Size>,
    /// Largest request of a client, Redis clients among them; at most 57606144 bytes (54.9MiB) with the default of
    /// --append-bytes.
    /// [default: 32MiB]
    #[arg(long, env = "CUTOVER_MAX_REQUEST", value_name = "SIZE")]
    pub max_request: Option<Size>,
    /// What may wait for another replica's socket before its link is closed. [default: 256MiB]
    #[arg(long, env = "CUTOVER_MAX_PEER_OUTPUT", value_name = "SIZE")]
    pub max_peer_output: Option<Size>,
    /// Closes the connection of a client that is silent for so long; 0s never. [default: 0s]
    #[arg(long, env = "CUTOVER_IDLE_TIMEOUT", value_name = "TIME")]
    pub idle_timeout: Option<Span>,
    /// Closes a connection that has not said who it is within this time. [default: 5s]
    #[arg(long, env = "CUTOVER_HANDSHAKE_TIMEOUT", value_name = "TIME")]
    pub handshake_timeout: Option<Span>,
    /// Shape of the log lines on standard error. [default: text]
    #[arg(long, env = "CUTOVER_LOG", value_name = "FORMAT")]
    pub log: Option<LogFormat>,
    /// error, warn, info, debug or trace, or directives per module. [default: info]
    #[arg(long, env = "CUTOVER_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// End when standard input comes to its end: whoever held its other end has died.
    #[arg(long, env = "CUTOVER_STOP_WHEN_STDIN_CLOSES", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub stop_when_stdin_closes: Option<bool>,
    /// Leave SIGINT to the supervisor.
    #[arg(long, env = "CUTOVER_IGNORE_SIGINT", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ignore_sigint: Option<bool>,
}

impl Settings for ReplicaSettings {
    const SECTION: &'static str = "replica";

    fn defaults() -> Self {
        let millis = |millis| Some(Span(Duration::from_millis(millis)));
        Self {
            create: Some(false),
            durability: Some("buffered".into()),
            min_in_sync: Some(1),
            copies: Some(2),
            bind: Some(IpAddr::from([127, 0, 0, 1])),
            peer_port: Some(7430),
            client_port: Some(7420),
            redis_port: Some(7400),
            http_port: Some(7410),
            suspect_after: millis(500),
            drop_backup_after: millis(350),
            heartbeat: millis(125),
            switchover_timeout: millis(5000),
            propose_again_after: millis(250),
            readmit_after: millis(1000),
            log_bytes: Some(Size(64 << 20)),
            unacknowledged_bytes: Some(Size(64 << 20)),
            append_bytes: Some(Size(1 << 20)),
            snapshot_bytes: Some(Size(256 << 20)),
            journal_stall_limit: millis(2000),
            limits: LimitSettings::defaults(),
            max_clients: Some(10_000),
            max_in_flight: Some(Size(64 << 20)),
            max_output: Some(Size(256 << 20)),
            max_client_memory: Some(Size(1 << 30)),
            max_request: Some(Size(32 << 20)),
            max_peer_output: Some(Size(256 << 20)),
            idle_timeout: millis(0),
            handshake_timeout: millis(5000),
            log: Some(LogFormat::Text),
            log_level: Some("info".into()),
            stop_when_stdin_closes: Some(false),
            ignore_sigint: Some(false),
            ..Self::default()
        }
    }
}

/// A replica's options, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// Its name.
    pub name: ReplicaName,
    /// Its group.
    pub group: GroupName,
    /// Each arbiter's `host:port`.
    pub arbiters: Vec<String>,
    /// Where its identity stands.
    pub data: PathBuf,
    /// Makes the group when it does not exist.
    pub create: Option<CreateOptions>,
    /// Copies kept in sync.
    pub copies: usize,
    /// Where it listens; empty for a port it does not have.
    pub listen: Addresses,
    /// Where others reach it.
    pub advertised: Addresses,
    /// Addresses that are dialled elsewhere than they say.
    pub routes: Vec<(String, String)>,
    /// See the option.
    pub suspect_after: Duration,
    /// See the option.
    pub drop_backup_after: Duration,
    /// See the option.
    pub heartbeat: Duration,
    /// See the option.
    pub switchover_timeout: Duration,
    /// See the option.
    pub propose_again_after: Duration,
    /// See the option.
    pub readmit_after: Duration,
    /// See the option.
    pub log_bytes: usize,
    /// See the option.
    pub unacknowledged_bytes: usize,
    /// See the option.
    pub append_bytes: usize,
    /// See the option.
    pub snapshot_bytes: u64,
    /// See the option.
    pub journal_stall_limit: Duration,
    /// See the options.
    pub limits: Limits,
    /// See the option.
    pub max_clients: usize,
    /// See the option.
    pub max_in_flight: usize,
    /// See the option.
    pub max_output: usize,
    /// See the option.
    pub max_client_memory: usize,
    /// See the option.
    pub max_request: usize,
    /// See the option.
    pub max_peer_output: usize,
    /// See the option; `None` never.
    pub idle_timeout: Option<Duration>,
    /// See the option.
    pub handshake_timeout: Duration,
    /// Shape of its log lines.
    pub log: LogFormat,
    /// Which log lines.
    pub log_level: String,
    /// What ends it.
    pub stop: StopOptions,
}

/// Completes and checks the options; `file` is where they came from, for the message.
///
/// # Errors
/// What is missing, cannot be, or does not fit, and why.
pub fn resolve(settings: ReplicaSettings, file: Option<&Path>) -> Result<ReplicaConfig, Failure> {
    let bad = |message: String| wrong(file, message);
    let listen = listen_addresses(&settings).map_err(bad)?;
    let advertised = advertised_addresses(&settings, &listen).map_err(bad)?;
    let name = need("name", settings.name, file)?.parse().map_err(|error| wrong(file, error))?;
    let group = need("group", settings.group, file)?.parse().map_err(|error| wrong(file, error))?;
    let arbiters = need("arbiters", settings.arbiters, file)?;
    arbiters.iter().try_for_each(|each| address(each)).map_err(|message| bad(format!("arbiters: {message}")))?;
    let mode = durability(&need("durability", settings.durability, file)?).map_err(bad)?;
    let min_in_sync = need("min-in-sync", settings.min_in_sync, file)?;
    let create = need("create", settings.create, file)?;
    let config = ReplicaConfig {
        name,
        group,
        arbiters,
        data: need("data", settings.data, file)?,
        create: create.then_some(CreateOptions { mode, min_in_sync }),
        copies: need("copies", settings.copies, file)?,
        listen,
        advertised,
        routes: settings
            .route
            .unwrap_or_default()
            .iter()
            .map(|each| route(each))
            .collect::<Result<_, _>>()
            .map_err(bad)?,
        suspect_after: need("suspect-after", settings.suspect_after, file)?.0,
        drop_backup_after: need("drop-backup-after", settings.drop_backup_after, file)?.0,
        heartbeat: need("heartbeat", settings.heartbeat, file)?.0,
        switchover_timeout: need("switchover-timeout", settings.switchover_timeout, file)?.0,
        propose_again_after: need("propose-again-after", settings.propose_again_after, file)?.0,
        readmit_after: need("readmit-after", settings.readmit_after, file)?.0,
        log_bytes: need("log-bytes", settings.log_bytes, file)?.0,
        unacknowledged_bytes: need("unacknowledged-bytes", settings.unacknowledged_bytes, file)?.0,
        append_bytes: need("append-bytes", settings.append_bytes, file)?.0,
        snapshot_bytes: need("snapshot-bytes", settings.snapshot_bytes, file)?.0 as u64,
        journal_stall_limit: need("journal-stall-limit", settings.journal_stall_limit, file)?.0,
        limits: settings.limits.limits(),
        max_clients: need("max-clients", settings.max_clients, file)?,
        max_in_flight: need("max-in-flight", settings.max_in_flight, file)?.0,
        max_output: need("max-output", settings.max_output, file)?.0,
        max_client_memory: need("max-client-memory", settings.max_client_memory, file)?.0,
        max_request: need("max-request", settings.max_request, file)?.0,
        max_peer_output: need("max-peer-output", settings.max_peer_output, file)?.0,
        idle_timeout: Some(need("idle-timeout", settings.idle_timeout, file)?.0).filter(|time| !time.is_zero()),
        handshake_timeout: need("handshake-timeout", settings.handshake_timeout, file)?.0,
        log: need("log", settings.log, file)?,
        log_level: need("log-level", settings.log_level, file)?,
        stop: StopOptions {
            when_stdin_closes: settings.stop_when_stdin_closes.unwrap_or_default(),
            ignore_sigint: settings.ignore_sigint.unwrap_or_default(),
        },
    };
    rules::broken(&options(config.clone())).map_or(Ok(()), |broken| Err(bad(broken)))?;
    rules::min_in_sync(min_in_sync, config.copies).map_or(Ok(()), |broken| Err(bad(broken)))?;
    Ok(config)
}

/// The value, or what to say when there is none: wrong usage when there is no file that could be corrected.
pub(super) fn need<T>(key: &str, value: Option<T>, file: Option<&Path>) -> Result<T, Failure> {
    value.ok_or_else(|| match file {
        Some(_) => wrong(file, format!("'{key}' is missing; add it to the file or give --{key}")),
        None => {
            let variable = key.to_uppercase().replace('-', "_");
            let message = format!("--{key} is missing; give it, set CUTOVER_{variable}, or name a file with --config");
            Failure::new(ExitCode::Usage, message)
        }
    })
}

fn durability(given: &str) -> Result<Mode, String> {
    match given {
        "memory" => Ok(Mode::Memory),
        "buffered" => Ok(Mode::Buffered),
        "sync" => Ok(Mode::Sync),
        _ => Err(format!("durability '{given}' is unknown; use memory, buffered or sync")),
    }
}

fn listen_addresses(settings: &ReplicaSettings) -> Result<Addresses, String> {
    let bind = settings.bind.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let one = |what: &str, whole: &Option<String>, port: Option<u16>, may_miss: bool| match (whole, port) {
        (Some(whole), _) => {
            address(whole).map(|()| whole.clone()).map_err(|message| format!("{what}-listen: {message}"))
        }
        (None, Some(0) | None) if may_miss => Ok(String::new()),
        (None, Some(0) | None) => Err(format!("{what}-port is 0, but a replica cannot do without this port")),
        (None, Some(port)) => Ok(std::net::SocketAddr::from((bind, port)).to_string()),
    };
    let listen = Addresses {
        peer: one("peer", &settings.peer_listen, settings.peer_port, false)?,
        client: one("client", &settings.client_listen, settings.client_port, false)?,
        redis: one("redis", &settings.redis_listen, settings.redis_port, true)?,
        http: one("http", &settings.http_listen, settings.http_port, false)?,
    };
    let all = [&listen.peer, &listen.client, &listen.redis, &listen.http];
    for (at, one) in all.iter().enumerate() {
        if !one.is_empty() && all[..at].contains(one) {
            return Err(format!("two ports listen on {one}; each needs its own"));
        }
    }
    Ok(listen)
}

fn advertised_addresses(settings: &ReplicaSettings, listen: &Addresses) -> Result<Addresses, String> {
    let one = |address: &str| -> Result<String, String> {
        let Some((host, port)) = address.rsplit_once(':') else { return Ok(String::new()) };
        if let Some(advertised) = &settings.advertise {
            return Ok(format!("{advertised}:{port}"));
        }
        let everywhere = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        if everywhere {
            return Err(format!(
                "{address} means every interface, which nobody can dial; say with --advertise by which host others reach this replica"
            ));
        }
        Ok(address.to_owned())
    };
    Ok(Addresses {
        peer: one(&listen.peer)?,
        client: one(&listen.client)?,
        redis: one(&listen.redis)?,
        http: one(&listen.http)?,
    })
}

/// Runs `cutover replica`.
///
/// # Errors
/// The options are wrong, or the replica had to stop.
pub fn run(args: Args) -> Result<(), Failure> {
    let file = args.config.as_deref();
    let config = resolve(config::layers(&args.settings, file)?.settings, file)?;
    logging::start(config.log, &config.log_level)?;
    daemon::run(options(config), KeyValue::new).map_err(|error| Failure::new(code(&error), error.to_string()))
}

fn options(config: ReplicaConfig) -> daemon::Options {
    let some = |address: String| (!address.is_empty()).then_some(address);
    let (listen, advertised) = (config.listen, config.advertised);
    daemon::Options {
        listen: daemon::Ports {
            peer: listen.peer,
            client: listen.client,
            redis: some(listen.redis),
            http: listen.http,
        },
        advertise: daemon::Advertised {
            peer: some(advertised.peer),
            client: some(advertised.client),
            redis: some(advertised.redis),
            http: some(advertised.http),
        },
        routes: config.routes,
        data: Some(config.data),
        create: config.create,
        copies: config.copies,
        suspect_after: config.suspect_after,
        drop_backup_after: config.drop_backup_after,
        heartbeat: config.heartbeat,
        switchover_timeout: config.switchover_timeout,
        propose_again_after: config.propose_again_after,
        readmit_after: config.readmit_after,
        log_bytes: config.log_bytes,
        unacknowledged_bytes: config.unacknowledged_bytes,
        append_bytes: config.append_bytes,
        snapshot_bytes: config.snapshot_bytes,
        journal_stall_limit: config.journal_stall_limit,
        limits: config.limits,
        max_clients: config.max_clients,
        max_in_flight: config.max_in_flight,
        max_output: config.max_output,
        max_client_memory: config.max_client_memory,
        max_request: config.max_request,
        max_peer_output: config.max_peer_output,
        idle_timeout: config.idle_timeout,
        handshake_deadline: config.handshake_timeout,
        ignore_sigint: config.stop.ignore_sigint,
        stop_when_stdin_closes: config.stop.when_stdin_closes,
        ..daemon::Options::new(config.name, config.group, config.arbiters)
    }
}

fn code(error: &RunError) -> ExitCode {
    match error {
        RunError::Options(_) | RunError::Data(DataError::Unreadable { .. }) => ExitCode::Configuration,
        RunError::Data(DataError::Journal { error, .. }) => match error {
            JournalError::Damaged { .. } | JournalError::Foreign { .. } | JournalError::Version { .. } => {
                ExitCode::Configuration
            }
            JournalError::Disk(error) => ExitCode::of_data(error.kind),
            JournalError::TooLong { .. } | JournalError::Failed => ExitCode::StateRefuses,
        },
        _ => ExitCode::StateRefuses,
    }
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
