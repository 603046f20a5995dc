//! `cutover dev`: a whole group on this machine, as child processes on loopback.
//!
//! | file | |
//! |---|---|
//! | `plan` | who there is, on which ports, with which command lines |
//! | `directory` | the directory of a running group: its lock, `dev.json`, logs |
//! | `child` | one child process and the threads that listen to it |
//! | `follow` | what happened, in one line each |
//! | `supervise` | the loop: starts, restarts, tells, ends |
//!
//! Deliberately not here: anything that a replica or arbiter does differently because `dev` started it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cutover_arbiter::record::GroupName;
use serde::{Deserialize, Serialize};

use super::arbiter::odd;
use super::config::{self, Settings, wrong};
use super::config_value::Span;
use super::failure::Failure;
use super::replica::need;

mod child;
mod directory;
mod follow;
mod plan;
mod supervise;

/// Where the ports begin unless told otherwise.
pub const DEFAULT_BASE_PORT: u16 = 7400;
/// The fault proxy's socket in the directory of a group started with `--chaos`.
pub const CONTROL_SOCKET: &str = "chaos.sock";

/// The command line of `cutover dev`.
#[derive(Debug, clap::Args)]
#[command(
    args_override_self = true,
    after_help = "Every option but those after -- is also a key of [dev] in the file given with --config, and an \
        environment variable. The command line wins over the environment, the environment over the file.\n\nPorts, from --base-port on: +0… Redis, +10… http, +20… clients, +30… other replicas (r1 the first of \
        each), +40… the arbiters, +50… their http, +60… the fault proxy.\n\nExamples:\n  \
        cutover dev\n  cutover dev --replicas 2 --spares 1 --restart-after never\n  \
        cutover dev --chaos --base-port 7600 -- --suspect-after 1s --drop-backup-after 700ms"
)]
pub struct Args {
    /// TOML file; its section [dev] is read.
    #[arg(long, env = "CUTOVER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: DevSettings,
    /// Options for every replica, after --.
    #[arg(last = true, value_name = "REPLICA OPTION")]
    replica_options: Vec<String>,
}

/// The options of `cutover dev`; each is a flag, an environment variable and a key of `[dev]`.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DevSettings {
    /// Directory of the group: dev.json, logs, data. [default: cutover-dev-<base port> in the directory for temporary files]
    #[arg(long, env = "CUTOVER_DEV_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// First of the hundred ports that may be used. [default: 7400]
    #[arg(long, env = "CUTOVER_DEV_BASE_PORT", value_name = "PORT")]
    pub base_port: Option<u16>,
    /// Replicas in sync: the primary and its backups. [default: 2]
    #[arg(long, env = "CUTOVER_DEV_REPLICAS", value_name = "N")]
    pub replicas: Option<usize>,
    /// Further replicas that stand by to replace a lost backup. [default: 1]
    #[arg(long, env = "CUTOVER_DEV_SPARES", value_name = "N")]
    pub spares: Option<usize>,
    /// Arbiters, an odd number. [default: 3]
    #[arg(long, env = "CUTOVER_DEV_ARBITERS", value_name = "N")]
    pub arbiters: Option<usize>,
    /// Name of the group. [default: demo]
    #[arg(long, env = "CUTOVER_DEV_GROUP", value_name = "NAME")]
    pub group: Option<String>,
    /// Durability of the group. [default: buffered]
    #[arg(long, env = "CUTOVER_DEV_DURABILITY", value_name = "MODE")]
    pub durability: Option<String>,
    /// When to start what has exited again: a time, or 'never'. [default: 3s]
    #[arg(long, env = "CUTOVER_DEV_RESTART_AFTER", value_name = "TIME")]
    pub restart_after: Option<String>,
    /// Put a fault proxy between all processes, for 'cutover chaos'.
    #[arg(long, env = "CUTOVER_DEV_CHAOS", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub chaos: Option<bool>,
}

impl Settings for DevSettings {
    const SECTION: &'static str = "dev";

    fn defaults() -> Self {
        Self {
            data: None,
            base_port: Some(DEFAULT_BASE_PORT),
            replicas: Some(2),
            spares: Some(1),
            arbiters: Some(3),
            group: Some("demo".into()),
            durability: Some("buffered".into()),
            restart_after: Some("3s".into()),
            chaos: Some(false),
        }
    }
}

/// Whether the links run through the fault proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wiring {
    Direct,
    ThroughProxy,
}

/// The options of `cutover dev`, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevConfig {
    pub(crate) data: PathBuf,
    pub(crate) base_port: u16,
    pub(crate) replicas: usize,
    pub(crate) spares: usize,
    pub(crate) arbiters: usize,
    pub(crate) group: GroupName,
    pub(crate) durability: String,
    /// `None`: never.
    pub(crate) restart_after: Option<Duration>,
    pub(crate) wiring: Wiring,
}

/// The directory that `dev` uses when none is given.
pub fn default_data(base_port: u16) -> PathBuf {
    std::env::temp_dir().join(format!("cutover-dev-{base_port}"))
}

/// The directory of a group that runs: as given, or where `[dev]` of the file has it.
///
/// # Errors
/// The file is not what it should be.
pub fn directory_of(data: Option<PathBuf>, file: Option<&Path>) -> Result<PathBuf, Failure> {
    let given = DevSettings { data, ..DevSettings::default() };
    let settings = config::layers(&given, file)?.settings;
    Ok(settings.data.unwrap_or_else(|| default_data(settings.base_port.unwrap_or(DEFAULT_BASE_PORT))))
}

/// Completes and checks the options; `file` is where they came from, for the message.
///
/// # Errors
/// What cannot be, and why.
pub fn resolve(settings: DevSettings, file: Option<&Path>) -> Result<DevConfig, Failure> {
    let base_port = need("base-port", settings.base_port, file)?;
    let last = u16::MAX - (plan::PORTS - 1);
    if !(1024..=last).contains(&base_port) {
        return Err(wrong(
            file,
            format!("base-port {base_port} must be from 1024 to {last}: a hundred ports follow it"),
        ));
    }
    let arbiters = need("arbiters", settings.arbiters, file)?;
    odd(arbiters).map_err(|reason| wrong(file, reason))?;
    let replicas = need("replicas", settings.replicas, file)?;
    if replicas == 0 {
        return Err(wrong(file, "replicas is 0: at least the primary must be there"));
    }
    let restart_after = match need("restart-after", settings.restart_after, file)?.as_str() {
        "never" => None,
        time => Some(time.parse::<Span>().map_err(|error| wrong(file, format!("restart-after: {error}, or never")))?.0),
    };
    Ok(DevConfig {
        data: settings.data.unwrap_or_else(|| default_data(base_port)),
        base_port,
        replicas,
        spares: need("spares", settings.spares, file)?,
        arbiters,
        group: need("group", settings.group, file)?.parse().map_err(|error| wrong(file, error))?,
        durability: need("durability", settings.durability, file)?,
        restart_after,
        wiring: if settings.chaos.unwrap_or_default() { Wiring::ThroughProxy } else { Wiring::Direct },
    })
}

/// What `dev` would refuse of these options before it starts anything.
///
/// # Errors
/// What cannot be, and why.
pub fn check(settings: DevSettings, file: Option<&Path>) -> Result<(), Failure> {
    let config = resolve(settings, file)?;
    plan::Plan::new(&config, &[]).map(drop).map_err(|failure| wrong(file, failure))
}

/// Runs `cutover dev`.
///
/// # Errors
/// The group cannot be started: options, ports, or a directory in use.
pub fn run(args: Args) -> Result<(), Failure> {
    let file = args.config.as_deref();
    let config = resolve(config::layers(&args.settings, file)?.settings, file)?;
    let plan = plan::Plan::new(&config, &args.replica_options)?;
    supervise::run(config, plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_plan_refuses_is_no_good_section() {
        let refused = |change: fn(&mut DevSettings)| {
            let mut settings = DevSettings::defaults();
            change(&mut settings);
            check(settings, Some(Path::new("dev.toml"))).map_err(|failure| failure.message)
        };
        refused(|_| ()).unwrap();
        let durability = refused(|settings| settings.durability = Some("durable".into())).unwrap_err();
        assert!(durability.starts_with("dev.toml: ") && durability.contains("'durable' is unknown"), "{durability}");
        let spares = refused(|settings| settings.spares = Some(9)).unwrap_err();
        assert!(spares.starts_with("dev.toml: 11 replicas and spares do not fit"), "{spares}");
    }
}
