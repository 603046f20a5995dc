//! `cutover arbiter`: the options of one arbiter, checked against each other, and its start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cutover_arbiter::server::{self, ServeError};
use cutover_arbiter::store::StoreError;
use serde::{Deserialize, Serialize};

use super::block_on;
use super::config::{self, Settings, wrong};
use super::config_value::{Span, address, list, route};
use super::failure::{ExitCode, Failure};
use super::logging::{self, LogFormat};
use super::replica::need;
use super::shutdown::{Shutdown, StopOptions};

/// The command line of `cutover arbiter`.
#[derive(Debug, clap::Args)]
#[command(
    args_override_self = true,
    after_help = "Every option is also a key of [arbiter] in the file given with --config, and an environment \
    variable. The command line wins over the environment, the environment over the file.\n\nExamples:\n  \
    cutover arbiter --config /etc/cutover/arbiter.toml\n  \
    cutover arbiter --id 1 --peers 1=a:7440,2=b:7440,3=c:7440 --data /var/lib/cutover --listen 0.0.0.0:7440\n\nExit codes: 0 stopped in order, 2 usage, 3 the \
    configuration is wrong or the data directory is damaged, another's, of another version or not to be written (a person \
    must see to it), 4 anything that may be otherwise the next time: a disk that failed or is full, a directory or port in \
    use."
)]
pub struct Args {
    /// TOML file; its section [arbiter] is read.
    #[arg(long, env = "CUTOVER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: ArbiterSettings,
}

/// The options of an arbiter; each is a flag, an environment variable and a key of `[arbiter]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ArbiterSettings {
    /// Which of the peers it is.
    #[arg(long, env = "CUTOVER_ID", value_name = "N")]
    pub id: Option<u64>,
    /// Every arbiter, this one among them, with the address the others reach it by.
    #[arg(long, env = "CUTOVER_PEERS", value_name = "ID=HOST:PORT,…", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub peers: Option<Vec<String>>,
    /// Number of the arbiter cluster, the same on all of its arbiters; keeps two clusters apart when their addresses get
    /// mixed up. [default: 0]
    #[arg(long, env = "CUTOVER_CLUSTER", value_name = "N")]
    pub cluster: Option<u64>,
    /// Listens here, for callers and arbiters alike. [default: its own address in --peers]
    #[arg(long, env = "CUTOVER_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Directory of its durable vote, log and snapshot.
    #[arg(long, env = "CUTOVER_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Listens here for health and metrics. [default: nowhere]
    #[arg(long, env = "CUTOVER_HTTP", value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Dials ACTUAL where an option says ADVERTISED; may be given several times.
    #[arg(long, env = "CUTOVER_ROUTE", value_name = "ADVERTISED=ACTUAL", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub route: Option<Vec<String>>,
    /// Shortest time without a leader before it stands for election. [default: 300ms]
    #[arg(long, env = "CUTOVER_ELECTION_MIN", value_name = "TIME")]
    pub election_min: Option<Span>,
    /// Longest time without a leader before it stands for election. [default: 600ms]
    #[arg(long, env = "CUTOVER_ELECTION_MAX", value_name = "TIME")]
    pub election_max: Option<Span>,
    /// Time between the messages of an idle leader. [default: 140ms]
    #[arg(long, env = "CUTOVER_ARBITER_HEARTBEAT", value_name = "TIME")]
    pub heartbeat: Option<Span>,
    /// Entries after which a snapshot is taken and the log before it dropped. [default: 4096]
    #[arg(long, env = "CUTOVER_SNAPSHOT_AFTER_ENTRIES", value_name = "N")]
    pub snapshot_after_entries: Option<u64>,
    /// Most callers connected at once. [default: 10000]
    #[arg(long, env = "CUTOVER_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,
    /// A connection that has not said who it is within this time is closed. [default: 5s]
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

impl Settings for ArbiterSettings {
    const SECTION: &'static str = "arbiter";

    fn defaults() -> Self {
        let millis = |millis| Some(Span(Duration::from_millis(millis)));
        Self {
            cluster: Some(0),
            election_min: millis(300),
            election_max: millis(600),
            heartbeat: millis(140),
            snapshot_after_entries: Some(4096),
            max_connections: Some(10_000),
            handshake_timeout: millis(5000),
            log: Some(LogFormat::Text),
            log_level: Some("info".into()),
            stop_when_stdin_closes: Some(false),
            ignore_sigint: Some(false),
            ..Self::default()
        }
    }
}

/// An arbiter's options, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArbiterConfig {
    /// Which of `peers` it is.
    pub id: u64,
    /// Which cluster of arbiters it belongs to.
    pub cluster: u128,
    /// Every arbiter's id and address.
    pub peers: Vec<(u64, String)>,
    /// Where it listens.
    pub listen: String,
    /// Where its store stands.
    pub data: PathBuf,
    /// Where it listens for http.
    pub http: Option<String>,
    /// Addresses that are dialled elsewhere than they say.
    pub routes: Vec<(String, String)>,
    /// Shortest and longest time without a leader before it stands for election.
    pub election: (Duration, Duration),
    /// See the option.
    pub heartbeat: Duration,
    /// See the option.
    pub snapshot_after_entries: u64,
    /// See the option.
    pub max_connections: usize,
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
pub fn resolve(settings: ArbiterSettings, file: Option<&Path>) -> Result<ArbiterConfig, Failure> {
    let bad = |message: String| wrong(file, message);
    let id = need("id", settings.id, file)?;
    let peers = peers(&need("peers", settings.peers, file)?).map_err(bad)?;
    let own = peers.iter().find(|(peer, _)| *peer == id).map(|(_, address)| address.clone());
    let own =
        own.ok_or_else(|| bad(format!("id {id} is not among the peers; every arbiter, this one too, stands there")))?;
    let listen = settings.listen.unwrap_or(own);
    address(&listen).map_err(|message| bad(format!("listen: {message}")))?;
    if let Some(http) = &settings.http {
        address(http).map_err(|message| bad(format!("http: {message}")))?;
    }
    let config = ArbiterConfig {
        id,
        cluster: need("cluster", settings.cluster, file)?.into(),
        peers,
        listen,
        data: need("data", settings.data, file)?,
        http: settings.http,
        routes: settings
            .route
            .unwrap_or_default()
            .iter()
            .map(|each| route(each))
            .collect::<Result<_, _>>()
            .map_err(bad)?,
        election: (
            need("election-min", settings.election_min, file)?.0,
            need("election-max", settings.election_max, file)?.0,
        ),
        heartbeat: need("heartbeat", settings.heartbeat, file)?.0,
        snapshot_after_entries: need("snapshot-after-entries", settings.snapshot_after_entries, file)?,
        max_connections: need("max-connections", settings.max_connections, file)?,
        handshake_timeout: need("handshake-timeout", settings.handshake_timeout, file)?.0,
        log: need("log", settings.log, file)?,
        log_level: need("log-level", settings.log_level, file)?,
        stop: StopOptions {
            when_stdin_closes: settings.stop_when_stdin_closes.unwrap_or_default(),
            ignore_sigint: settings.ignore_sigint.unwrap_or_default(),
        },
    };
    fits(&config).map_err(bad)?;
    Ok(config)
}

fn peers(given: &[String]) -> Result<Vec<(u64, String)>, String> {
    let mut peers: Vec<(u64, String)> = Vec::new();
    for each in given {
        let (id, at) = each.split_once('=').ok_or_else(|| format!("peer '{each}' is not of the form ID=HOST:PORT"))?;
        let id = id.trim().parse::<u64>().ok().filter(|id| *id > 0);
        let id = id.ok_or_else(|| format!("peer '{each}' has no number from 1 before the '='"))?;
        address(at).map_err(|message| format!("peer {id}: {message}"))?;
        if let Some((same, _)) = peers.iter().find(|(other, address)| *other == id || address == at) {
            return Err(format!("peers {same} and {id} have the same number or address; each arbiter needs its own"));
        }
        peers.push((id, at.to_owned()));
    }
    odd(peers.len())?;
    Ok(peers)
}

/// Refuses a number of arbiters that buys nothing.
pub(super) fn odd(arbiters: usize) -> Result<(), String> {
    if arbiters % 2 == 1 {
        return Ok(());
    }
    let (majority, survives) = (arbiters / 2 + 1, arbiters.saturating_sub(1) / 2);
    Err(format!(
        "{arbiters} arbiters: an even number is refused; a majority of {arbiters} is {majority}, so they survive {survives} failures, no more than {} would, and one more machine can fail. Use 3 or 5",
        arbiters.saturating_sub(1)
    ))
}

fn fits(config: &ArbiterConfig) -> Result<(), String> {
    let show = |time: Duration| Span(time).to_string();
    let (shortest, longest) = config.election;
    let rules = [
        (!config.heartbeat.is_zero(), String::from("heartbeat is 0: an idle leader would do nothing but send")),
        (
            shortest >= config.heartbeat * 2,
            format!(
                "election-min ({}) must be at least twice heartbeat ({}): otherwise one late message starts an election",
                show(shortest),
                show(config.heartbeat)
            ),
        ),
        (
            longest > shortest,
            format!(
                "election-max ({}) must be longer than election-min ({}): arbiters that stand at the same moment split the votes, and the spread keeps them apart",
                show(longest),
                show(shortest)
            ),
        ),
        (
            config.snapshot_after_entries >= 1,
            String::from("snapshot-after-entries is 0: it would do nothing but take snapshots"),
        ),
        (
            !config.handshake_timeout.is_zero(),
            String::from("handshake-timeout is 0: every connection would be closed at once"),
        ),
        (config.max_connections >= 1, String::from("max-connections is 0: nobody could ask this arbiter")),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, reason)| Err(reason))
}

/// Runs `cutover arbiter`.
///
/// # Errors
/// The options are wrong, or the arbiter had to stop.
pub fn run(args: Args) -> Result<(), Failure> {
    let file = args.config.as_deref();
    let config = resolve(config::layers(&args.settings, file)?.settings, file)?;
    logging::start(config.log, &config.log_level)?;
    block_on(async {
        let mut shutdown = Shutdown::listen(config.stop)?;
        let ended = async move {
            let cause = shutdown.requested().await;
            tracing::info!(cause = cause.name(), "arbiter.asked_to_stop");
        };
        server::serve(options(config), ended).await.map_err(|error| Failure::new(code(&error), error.to_string()))
    })
}

fn options(config: ArbiterConfig) -> server::Options {
    server::Options {
        id: config.id,
        cluster: config.cluster,
        listen: config.listen,
        peers: config.peers,
        data_dir: config.data,
        http: config.http,
        election_timeout: config.election,
        heartbeat: config.heartbeat,
        snapshot_after_entries: config.snapshot_after_entries,
        max_connections: config.max_connections,
        handshake_timeout: config.handshake_timeout,
        routes: config.routes,
    }
}

fn code(error: &ServeError) -> ExitCode {
    match error {
        ServeError::Config(_) | ServeError::Raft(_) | ServeError::Codec(_) => ExitCode::Configuration,
        ServeError::DataDir { error, .. } => ExitCode::of_data(error.kind()),
        ServeError::Store(error) => match error {
            StoreError::Damaged { .. } | StoreError::Format { .. } | StoreError::OtherOwner { .. } => {
                ExitCode::Configuration
            }
            StoreError::Io { kind, .. } => ExitCode::of_data(*kind),
            StoreError::InUse { .. } | StoreError::Stopped { .. } => ExitCode::StateRefuses,
        },
        ServeError::Listen { .. } | ServeError::System { .. } => ExitCode::StateRefuses,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ArbiterSettings {
        ArbiterSettings {
            id: Some(2),
            peers: Some(vec!["1=a:7440".into(), "2=b:7440".into(), "3=c:7440".into()]),
            data: Some("/tmp/a2".into()),
            ..ArbiterSettings::defaults()
        }
    }

    fn refused(settings: ArbiterSettings) -> String {
        resolve(settings, None).unwrap_err().message
    }

    #[test]
    fn an_arbiter_listens_where_its_peers_look_for_it_unless_told_otherwise() {
        assert_eq!(resolve(good(), None).unwrap().listen, "b:7440");
        let told = ArbiterSettings { listen: Some("0.0.0.0:1".into()), ..good() };
        assert_eq!(resolve(told, None).unwrap().listen, "0.0.0.0:1");
    }

    #[test]
    fn an_even_number_of_arbiters_is_refused_with_the_reason() {
        let message = refused(ArbiterSettings { peers: Some(vec!["1=a:1".into(), "2=b:1".into()]), ..good() });
        assert!(message.contains("a majority of 2 is 2, so they survive 0 failures"), "{message}");
        assert!(odd(4).unwrap_err().contains("survive 1 failures, no more than 3 would"));
    }

    #[test]
    fn peers_are_checked_one_by_one() {
        for (peers, why) in [
            (vec!["a:1"], "not of the form"),
            (vec!["x=a:1"], "no number"),
            (vec!["1=a"], "host:port"),
            (vec!["1=a:1", "1=b:1", "3=c:1"], "each arbiter needs its own"),
            (vec!["1=a:1", "3=b:1", "4=c:1"], "not among the peers"),
        ] {
            let peers = Some(peers.into_iter().map(String::from).collect());
            let message = refused(ArbiterSettings { peers, ..good() });
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn a_store_that_a_person_must_see_to_is_told_from_a_disk_that_may_answer_again() {
        use std::io::ErrorKind;
        let path = std::path::PathBuf::from("/a/arbiter.redb");
        let io = |kind| StoreError::Io { path: path.clone(), doing: "open it", kind, reason: String::new() };
        for (error, expected) in [
            (io(ErrorKind::ReadOnlyFilesystem), ExitCode::Configuration),
            (io(ErrorKind::PermissionDenied), ExitCode::Configuration),
            (io(ErrorKind::StorageFull), ExitCode::StateRefuses),
            (io(ErrorKind::Other), ExitCode::StateRefuses),
            (StoreError::Format { path: path.clone(), found: 2, known: 1 }, ExitCode::Configuration),
            (StoreError::InUse { path: path.clone() }, ExitCode::StateRefuses),
            (StoreError::Stopped { path: path.clone() }, ExitCode::StateRefuses),
        ] {
            assert_eq!(code(&ServeError::Store(error.clone())), expected, "{error}");
        }
    }

    #[test]
    fn timers_that_do_not_fit_are_refused_with_the_reason() {
        let millis = |millis| Some(Span(Duration::from_millis(millis)));
        assert!(refused(ArbiterSettings { heartbeat: millis(200), ..good() }).contains("starts an election"));
        assert!(refused(ArbiterSettings { election_max: millis(300), ..good() }).contains("split the votes"));
    }
}
