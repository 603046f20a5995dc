//! Who there is, on which ports, with which command lines. Pure: nothing is started or opened here.
//!
//! | ports, from the base on | |
//! |---|---|
//! | +0 … +9 | Redis, r1 first |
//! | +10 … +19 | http of the replicas |
//! | +20 … +29 | clients |
//! | +30 … +39 | other replicas |
//! | +40 … +49 | arbiters, a1 first |
//! | +50 … +59 | http of the arbiters |
//! | +60 … +99 | the fault proxy, a port for each directed pair |

use std::net::{Ipv4Addr, SocketAddr};

use clap::{Args as _, Command, FromArgMatches as _};
use serde::Serialize;

use crate::cli::config;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::replica::{self, ReplicaSettings};
use crate::fault::relay::Path;

use super::{DevConfig, Wiring};

/// How many ports, from the base on, belong to a group.
pub(super) const PORTS: u16 = 100;
const BLOCK: usize = 10;
const PROXY: u16 = 60;

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Arbiter,
    Replica,
}

/// The ports of a process, as `dev.json` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Ports {
    /// For other replicas; an arbiter's is for arbiters and callers alike.
    pub(super) peer: u16,
    pub(super) client: Option<u16>,
    pub(super) redis: Option<u16>,
    pub(super) http: u16,
}

/// A process to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) ports: Ports,
    /// Its command line, without the program.
    pub(super) arguments: Vec<String>,
    /// What it is started with besides as long as there is no group.
    pub(super) to_create: Vec<String>,
}

impl Planned {
    /// What it is started with besides its command line. A creator that died before the group was made must make it in
    /// its next life; nobody else would.
    pub(super) fn besides(&self, group: Existence) -> &[String] {
        match group {
            Existence::NotYet => &self.to_create,
            Existence::Seen => &[],
        }
    }
}

/// Whether the arbiters have shown a record of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existence {
    NotYet,
    Seen,
}

/// The whole group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) arbiters: Vec<String>,
    pub(super) processes: Vec<Planned>,
    /// What the fault proxy relays; nothing without `--chaos`.
    pub(super) paths: Vec<Path>,
}

impl Plan {
    /// Lays the group out. `replica_options` go to every replica.
    pub(super) fn new(config: &DevConfig, replica_options: &[String]) -> Result<Self, Failure> {
        let replicas = config.replicas + config.spares;
        room(config, replicas)?;
        let mut processes: Vec<Planned> = (1..=config.arbiters).map(|at| unwired_arbiter(config, at)).collect();
        processes.extend((1..=replicas).map(|at| unwired_replica(config, at)));
        let arbiters: Vec<String> =
            of_kind(&processes, Kind::Arbiter).map(|process| address(process.ports.peer)).collect();
        let paths = if config.wiring == Wiring::ThroughProxy { paths(config, &processes) } else { Vec::new() };
        for process in &mut processes {
            command_line(process, config, &arbiters);
            for path in paths.iter().filter(|path| path.from == process.name) {
                process.arguments.extend(["--route".into(), format!("{}={}", path.target, path.listen)]);
            }
            if process.kind == Kind::Replica {
                process.arguments.extend_from_slice(replica_options);
            }
        }
        if let Some(first) = processes.iter_mut().find(|process| process.kind == Kind::Replica) {
            first.to_create.push("--create".into());
        }
        let plan = Self { arbiters, processes, paths };
        plan.check_replica_options()?;
        Ok(plan)
    }

    /// Every port, with what it is for.
    pub(super) fn ports(&self) -> Vec<(u16, String)> {
        let mut ports = Vec::new();
        for process in &self.processes {
            let Ports { peer, client, redis, http } = process.ports;
            let each = [
                (Some(redis), "redis"),
                (Some(Some(http)), "http"),
                (Some(client), "client"),
                (Some(Some(peer)), "peer"),
            ];
            for (port, what) in each {
                ports.extend(port.flatten().map(|port| (port, format!("{} {what}", process.name))));
            }
        }
        ports.extend(self.paths.iter().map(|path| (path.listen.port(), format!("proxy {} → {}", path.from, path.to))));
        ports
    }

    /// Reads the replicas' command lines as the replicas will, so that a mistake is told before anything is started.
    fn check_replica_options(&self) -> Result<(), Failure> {
        for process in of_kind(&self.processes, Kind::Replica) {
            let matches = replica_command().try_get_matches_from(process.arguments.iter().skip(1)).map_err(usage)?;
            let settings = ReplicaSettings::from_arg_matches(&matches).map_err(usage)?;
            let file = matches.get_one::<std::path::PathBuf>("config").map(|path| path.as_path());
            let effective = config::layers(&settings, file)?;
            replica::resolve(effective.settings, file)?;
        }
        Ok(())
    }
}

/// What a replica reads of its command line. Its environment is not ours: children get none of our variables.
fn replica_command() -> Command {
    ReplicaSettings::augment_args(Command::new("cutover replica"))
        .no_binary_name(true)
        .args_override_self(true)
        .arg(clap::arg!(--config <FILE>).value_parser(clap::value_parser!(std::path::PathBuf)))
        .mut_args(|argument| argument.env(None::<&'static str>))
}

fn usage(error: clap::Error) -> Failure {
    Failure::new(ExitCode::Usage, format!("the options after -- are for 'cutover replica', which says:\n{error}"))
}

fn of_kind(processes: &[Planned], kind: Kind) -> impl Iterator<Item = &Planned> {
    processes.iter().filter(move |process| process.kind == kind)
}

/// Refuses what does not fit into the hundred ports, with the arithmetic.
fn room(config: &DevConfig, replicas: usize) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(ExitCode::Configuration, message));
    for (count, what) in [(replicas, "replicas and spares"), (config.arbiters, "arbiters")] {
        if count > BLOCK {
            return refuse(format!("{count} {what} do not fit: each kind of port has room for {BLOCK}"));
        }
    }
    let (r, a) = (replicas, config.arbiters);
    let pairs = r * (r - 1) + r * a + a * (a - 1);
    let have = usize::from(PORTS - PROXY);
    if config.wiring == Wiring::ThroughProxy && pairs > have {
        return refuse(format!(
            "--chaos needs a port for each directed pair: {r}×{} between replicas + {r}×{a} from replicas to arbiters + {a}×{} between arbiters = {pairs}, but only {have} of the {PORTS} ports are left for that; use fewer spares or arbiters",
            r - 1,
            a - 1
        ));
    }
    Ok(())
}

fn port(config: &DevConfig, block: usize, at: usize) -> u16 {
    // Both are small, and the base leaves room for a hundred.
    config.base_port + (block * BLOCK + at - 1) as u16
}

fn address(port: u16) -> String {
    loopback(port).to_string()
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn unwired_arbiter(config: &DevConfig, at: usize) -> Planned {
    let ports = Ports { peer: port(config, 4, at), client: None, redis: None, http: port(config, 5, at) };
    Planned { name: format!("a{at}"), kind: Kind::Arbiter, ports, arguments: Vec::new(), to_create: Vec::new() }
}

fn unwired_replica(config: &DevConfig, at: usize) -> Planned {
    let ports = Ports {
        peer: port(config, 3, at),
        client: Some(port(config, 2, at)),
        redis: Some(port(config, 0, at)),
        http: port(config, 1, at),
    };
    Planned { name: format!("r{at}"), kind: Kind::Replica, ports, arguments: Vec::new(), to_create: Vec::new() }
}

fn command_line(process: &mut Planned, config: &DevConfig, arbiters: &[String]) {
    let data = config.data.join("data").join(&process.name).display().to_string();
    let ports = process.ports;
    let mut line: Vec<(&str, String)> = vec![("--data", data), ("--log", "json".into())];
    let subcommand = match process.kind {
        Kind::Arbiter => {
            let peers: Vec<String> = arbiters.iter().zip(1..).map(|(address, id)| format!("{id}={address}")).collect();
            line.push(("--id", process.name.trim_start_matches('a').to_owned()));
            line.push(("--peers", peers.join(",")));
            line.push(("--http", address(ports.http)));
            "arbiter"
        }
        Kind::Replica => {
            line.push(("--name", process.name.clone()));
            line.push(("--group", config.group.to_string()));
            line.push(("--arbiters", arbiters.join(",")));
            // How far a state transfer is, is a line of detail everywhere but here.
            line.push(("--log-level", "info,cutover::daemon::events=debug".into()));
            // When `dev` is killed, all replicas are asked to stop at once: a primary then hands over to nobody, and
            // must still be gone within 5 s.
            line.push(("--switchover-timeout", "2s".into()));
            line.push(("--durability", config.durability.clone()));
            line.push(("--copies", config.replicas.to_string()));
            line.push(("--peer-port", ports.peer.to_string()));
            line.push(("--client-port", ports.client.unwrap_or_default().to_string()));
            line.push(("--redis-port", ports.redis.unwrap_or_default().to_string()));
            line.push(("--http-port", ports.http.to_string()));
            "replica"
        }
    };
    process.arguments = std::iter::once(subcommand.to_owned())
        .chain(line.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]))
        .chain(["--stop-when-stdin-closes".into(), "--ignore-sigint".into()])
        .collect();
}

/// A path for everyone who may dial someone: replicas dial everyone else, arbiters each other.
fn paths(config: &DevConfig, processes: &[Planned]) -> Vec<Path> {
    let dials =
        |from: &Planned, to: &Planned| from.name != to.name && (from.kind == Kind::Replica || to.kind == Kind::Arbiter);
    let pairs = processes.iter().flat_map(|from| processes.iter().map(move |to| (from, to)));
    pairs
        .filter(|(from, to)| dials(from, to))
        .zip(config.base_port + PROXY..)
        .map(|((from, to), port)| Path {
            from: from.name.clone(),
            to: to.name.clone(),
            listen: loopback(port),
            target: loopback(to.ports.peer),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::Settings as _;
    use crate::cli::dev::{DevSettings, resolve};

    fn config(change: impl FnOnce(&mut DevSettings)) -> DevConfig {
        let mut settings = DevSettings::defaults();
        change(&mut settings);
        resolve(settings, None).unwrap()
    }

    #[test]
    fn every_port_is_used_once_and_within_the_hundred() {
        let config = config(|settings| settings.chaos = Some(true));
        let plan = Plan::new(&config, &[]).unwrap();
        let mut ports: Vec<u16> = plan.ports().into_iter().map(|(port, _)| port).collect();
        assert_eq!(ports.len(), 3 * 4 + 3 * 2 + 21);
        assert!(ports.iter().all(|port| (7400..7500).contains(port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 3 * 4 + 3 * 2 + 21);
    }

    #[test]
    fn only_the_first_replica_creates_and_only_until_the_group_is_there() {
        let plan = Plan::new(&config(|_| ()), &[]).unwrap();
        let creators = |group: Existence| -> Vec<&str> {
            let creates = plan.processes.iter().filter(|each| each.besides(group).contains(&"--create".to_owned()));
            creates.map(|each| each.name.as_str()).collect()
        };
        assert_eq!(creators(Existence::NotYet), ["r1"]);
        assert_eq!(creators(Existence::Seen), [""; 0]);
        assert!(plan.processes.iter().all(|each| !each.arguments.contains(&"--create".to_owned())));
        assert!(plan.paths.is_empty());
    }

    #[test]
    fn with_chaos_everyone_dials_the_proxy_and_records_keep_the_real_addresses() {
        let plan = Plan::new(&config(|settings| settings.chaos = Some(true)), &[]).unwrap();
        let r1 = plan.processes.iter().find(|process| process.name == "r1").unwrap();
        let routes = r1.arguments.iter().filter(|argument| *argument == "--route").count();
        assert_eq!(routes, 2 + 3);
        assert!(r1.arguments.iter().any(|argument| argument.starts_with("127.0.0.1:7431=127.0.0.1:74")));
        assert_eq!(plan.arbiters, ["127.0.0.1:7440", "127.0.0.1:7441", "127.0.0.1:7442"]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_arithmetic() {
        let crowded = config(|settings| (settings.chaos, settings.arbiters) = (Some(true), Some(5)));
        let message = Plan::new(&crowded, &[]).unwrap_err().message;
        assert!(
            message.contains("3×2 between replicas + 3×5 from replicas to arbiters + 5×4 between arbiters = 41"),
            "{message}"
        );
        let many = config(|settings| settings.spares = Some(9));
        assert!(Plan::new(&many, &[]).unwrap_err().message.contains("11 replicas and spares do not fit"));
    }

    #[test]
    fn our_own_environment_is_not_the_replicas() {
        assert!(replica_command().get_arguments().all(|argument| argument.get_env().is_none()));
    }

    #[test]
    fn the_replicas_options_are_checked_before_anything_is_started() {
        let options = |given: &[&str]| given.iter().map(|each| (*each).to_owned()).collect::<Vec<_>>();
        let unknown = Plan::new(&config(|_| ()), &options(&["--suspekt-after", "1s"])).unwrap_err();
        assert_eq!(unknown.code, ExitCode::Usage);
        let unfit = Plan::new(&config(|_| ()), &options(&["--heartbeat", "1s"])).unwrap_err();
        assert_eq!(unfit.code, ExitCode::Configuration);
        Plan::new(&config(|_| ()), &options(&["--copies", "1", "--suspect-after", "2s"])).unwrap();
        let sync = config(|settings| settings.durability = Some("durable".into()));
        assert!(Plan::new(&sync, &[]).unwrap_err().message.contains("use memory, buffered or sync"));
    }
}
