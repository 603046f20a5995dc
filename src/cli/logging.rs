//! Where the daemons' log lines go: standard error, as text for people or as JSON for machines.

use std::io::IsTerminal;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::failure::{ExitCode, Failure};

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// Sends this process' log lines to standard error. `level` is a level, or directives as in
/// `info,cutover::replica=debug`.
///
/// # Errors
/// `level` cannot be understood, or logging was set up before.
pub fn start(format: LogFormat, level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::from_str(level).map_err(|error| {
        let message =
            format!("log-level '{level}' cannot be understood ({error}); use error, warn, info, debug or trace");
        Failure::new(ExitCode::Configuration, message)
    })?;
    // A line that cannot be written (whoever read our standard error is gone) is lost; it must not end the process.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    started.map_err(|error| Failure::new(ExitCode::Configuration, format!("cannot start logging: {error}")))
}
