//! The `cutover` command, one file per subcommand.
//!
//! Here stand the command line's shape and the way out of the process; what a subcommand does stands in its file.
//! Options come in layers (`config`): the command line, then the environment, then a TOML file, then
//! the defaults. Deliberately not here: anything that a library user could want.

use std::process::ExitCode as ProcessExit;

use clap::{Parser, Subcommand};

pub mod adopt;
pub mod arbiter;
pub mod chaos;
pub mod config;
pub mod config_check;
pub mod config_value;
pub mod dev;
pub mod failure;
pub mod fence;
pub mod group;
pub mod history;
pub mod http;
pub mod limits;
pub mod logging;
pub mod operator;
pub mod replica;
#[cfg(test)]
mod samples;
pub mod seize;
pub mod shutdown;
pub mod status;
pub mod switchover;
pub mod torture;
pub mod verify;

use failure::{ExitCode, Failure};

/// Two copies of a deterministic service; nothing acknowledged is ever lost.
#[derive(Debug, Parser)]
#[command(
    name = "cutover",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        cutover dev                        a whole group on this machine, to try things on\n  \
        cutover status --group demo --arbiters 127.0.0.1:7440\n  \
        cutover config check /etc/cutover/replica.toml\n\n\
        Exit codes: 0 done, 1 a check failed, 2 usage, 3 configuration, 4 the group's state refuses, 5 nobody \
        answered, 6 the deadline passed."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole group on this machine, on loopback, as child processes.
    Dev(Box<dev::Args>),
    /// Run one arbiter.
    Arbiter(Box<arbiter::Args>),
    /// Run one replica of the built-in key-value store.
    Replica(Box<replica::Args>),
    /// Show a group: who is primary, who is in sync, who lags, who cannot be reached.
    Status(status::Args),
    /// Show what changed in a group, when, and at whose request.
    History(history::Args),
    /// Compare the states of all replicas at one index.
    Verify(verify::Args),
    /// Make a healthy backup primary, without losing anything.
    Switchover(switchover::Args),
    /// Make a replica primary although data may be lost; for when every in-sync replica is gone.
    Seize(seize::Args),
    /// Bring a group's record back to arbiters that lost it.
    Adopt(adopt::Args),
    /// Load a group and check that nothing acknowledged is ever lost.
    Torture(torture::Args),
    /// Check configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Break and heal the links of a group started by `cutover dev --chaos`.
    Chaos(chaos::Args),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a file and say what each effective value is and where it comes from.
    Check(config_check::Args),
}

/// Runs the subcommand that the process was started with.
pub fn main() -> ProcessExit {
    let result = match Cli::parse().command {
        Command::Dev(args) => dev::run(*args),
        Command::Arbiter(args) => arbiter::run(*args),
        Command::Replica(args) => replica::run(*args),
        Command::Status(args) => block_on(status::run(args)),
        Command::History(args) => block_on(history::run(args)),
        Command::Verify(args) => block_on(verify::run(args)),
        Command::Switchover(args) => block_on(switchover::run(args)),
        Command::Seize(args) => block_on(seize::run(args)),
        Command::Adopt(args) => block_on(adopt::run(args)),
        Command::Torture(args) => block_on(torture::run(args)),
        Command::Config(ConfigCommand::Check(args)) => config_check::run(args),
        Command::Chaos(args) => chaos::run(args),
    };
    match result {
        Ok(()) => ProcessExit::SUCCESS,
        Err(failure) => {
            report(&failure);
            ProcessExit::from(failure.code as u8)
        }
    }
}

/// Runs `work` on a runtime of this thread, which is what every subcommand and daemon lives on.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Configuration, format!("cannot start a runtime: {error}")))?
        .block_on(work)
}

#[expect(clippy::print_stderr, reason = "the command line is the one place that talks to a terminal")]
fn report(failure: &Failure) {
    eprintln!("cutover: {failure}");
}

#[cfg(test)]
mod options_tests;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
