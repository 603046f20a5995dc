//! `cutover chaos`: breaks and heals the links of a group that `cutover dev --chaos` runs.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;

use super::config_value::Span;
use super::dev;
use super::failure::{ExitCode, Failure};
use crate::fault::control::{Request, Response, ask};
use crate::fault::links::Command;

/// The command line of `cutover chaos`.
#[derive(Debug, clap::Args)]
#[command(after_help = "FROM and TO are names of processes (r1, a2, …; see dev.json) or 'all'.\n\nExamples:\n  \
    cutover chaos cut r1 r2 --for 5s\n  cutover chaos one-way r1 all\n  cutover chaos delay r1 r2 --by 100ms\n  \
    cutover chaos heal\n  cutover chaos --data /tmp/mine list")]
pub struct Args {
    /// TOML file; the directory stands in its section [dev].
    #[arg(long, env = "CUTOVER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the running `cutover dev`. [default: that of its base port]
    #[arg(long, env = "CUTOVER_DEV_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Args)]
struct Ends {
    /// Who sends.
    from: String,
    /// Who receives.
    to: String,
    /// Heal after this time.
    #[arg(long = "for", value_name = "TIME")]
    lasting: Option<Span>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Nothing passes between the two, either way; connections stay open, new ones hang.
    Cut(Ends),
    /// What FROM sends no longer reaches TO; the other way still works.
    OneWay(Ends),
    /// What FROM sends reaches TO later.
    Delay {
        #[command(flatten)]
        ends: Ends,
        /// How much later.
        #[arg(long, value_name = "TIME")]
        by: Span,
    },
    /// What FROM sends is held, and all of it delivered when healed.
    Clog(Ends),
    /// The next frame from FROM to TO ends in its middle, with its connection.
    MidFrame {
        /// Who sends.
        from: String,
        /// Who receives.
        to: String,
    },
    /// Closes the connections between the two; new ones are possible.
    Reset {
        /// One end.
        from: String,
        /// The other end.
        to: String,
    },
    /// Makes links whole again.
    Heal {
        /// One end.
        #[arg(default_value = "all")]
        from: String,
        /// The other end.
        #[arg(default_value = "all")]
        to: String,
    },
    /// Tells which links are not whole.
    List,
}

fn request(action: Action) -> Request {
    let lasting = |span: Option<Span>| span.map(|span| millis(&span));
    let (command, for_ms) = match action {
        Action::Cut(Ends { from, to, lasting: span }) => (Command::Cut { from, to }, lasting(span)),
        Action::OneWay(Ends { from, to, lasting: span }) => (Command::OneWay { from, to }, lasting(span)),
        Action::Clog(Ends { from, to, lasting: span }) => (Command::Clog { from, to }, lasting(span)),
        Action::Delay { ends: Ends { from, to, lasting: span }, by } => {
            (Command::Delay { from, to, by_ms: millis(&by) }, lasting(span))
        }
        Action::MidFrame { from, to } => (Command::MidFrame { from, to }, None),
        Action::Reset { from, to } => (Command::Reset { from, to }, None),
        Action::Heal { from, to } => (Command::Heal { from, to }, None),
        Action::List => (Command::List, None),
    };
    Request { command, for_ms }
}

fn millis(span: &Span) -> u64 {
    u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)
}

/// Runs `cutover chaos`.
///
/// # Errors
/// No such group runs, or it has no such link.
pub fn run(args: Args) -> Result<(), Failure> {
    let data = dev::directory_of(args.data, args.config.as_deref())?;
    let socket = data.join(dev::CONTROL_SOCKET);
    let response = ask(&socket, &request(args.action)).map_err(|error| {
        let message = format!(
            "no group with --chaos answers at {}: {error}; start one with 'cutover dev --chaos'",
            socket.display()
        );
        Failure::new(ExitCode::Unreachable, message)
    })?;
    match response {
        Response::Done(lines) => {
            let text = if lines.is_empty() { String::from("every link is whole\n") } else { lines.join("\n") + "\n" };
            // Whoever closed standard output does not want to know.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
        Response::Refused(reason) => Err(Failure::new(ExitCode::StateRefuses, reason)),
    }
}
