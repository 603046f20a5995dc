//! The `cutover` command, one file per subcommand.
//!
//! Here stand the command line's shape and the way out of the process; what a subcommand does stands in its file.
//! Options of the daemons come in layers (`config`): the command line, then the environment, then a TOML file, then
//! the defaults. Deliberately not here: anything that a library user could want.

use std::process::ExitCode as ProcessExit;

use clap::{Parser, Subcommand};

pub mod arbiter;
pub mod chaos;
pub mod config;
pub mod config_check;
pub mod config_value;
pub mod dev;
pub mod failure;
pub mod logging;
pub mod replica;
pub mod shutdown;

use failure::Failure;

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

#[expect(clippy::print_stderr, reason = "the command line is the one place that talks to a terminal")]
fn report(failure: &Failure) {
    eprintln!("cutover: {failure}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
