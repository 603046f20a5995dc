//! `cutover config check`: does a file hold, and what does each option come to?

use std::io::Write;
use std::path::{Path, PathBuf};

use super::config::{self, Effective, Settings, wrong};
use super::failure::Failure;
use super::operator::OperatorSettings;
use super::{arbiter, dev, history, replica, status, switchover, torture, verify};

/// The command line of `cutover config check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Checks each section that the file has, [replica], [arbiter], [dev], [operator] or that of an \
    operations command, together with the environment (CUTOVER_…), as the command would at its start.\n\nExample:\n  cutover config check /etc/cutover/replica.toml")]
pub struct Args {
    /// The file.
    file: PathBuf,
}

/// Runs `cutover config check`.
///
/// # Errors
/// What is wrong with the file and why.
pub fn run(args: Args) -> Result<(), Failure> {
    let file = args.file.as_path();
    let mut out = String::new();
    for section in config::read(file)?.keys() {
        out += &match section.as_str() {
            replica::ReplicaSettings::SECTION => {
                check(file, |settings| replica::resolve(settings, Some(file)).map(drop))?
            }
            arbiter::ArbiterSettings::SECTION => {
                check(file, |settings| arbiter::resolve(settings, Some(file)).map(drop))?
            }
            dev::DevSettings::SECTION => check(file, |settings| dev::check(settings, Some(file)))?,
            torture::TortureSettings::SECTION => {
                check(file, |settings| torture::clients(&settings, Some(file)).map(drop))?
            }
            status::StatusSettings::SECTION => fine::<status::StatusSettings>(file)?,
            history::HistorySettings::SECTION => fine::<history::HistorySettings>(file)?,
            verify::VerifySettings::SECTION => fine::<verify::VerifySettings>(file)?,
            switchover::SwitchoverSettings::SECTION => fine::<switchover::SwitchoverSettings>(file)?,
            _ => fine::<OperatorSettings>(file)?,
        };
    }
    if out.is_empty() {
        return Err(wrong(Some(file), format!("has none of the sections {}", config::SECTIONS.join(", "))));
    }
    // Whoever closed standard output does not want to know.
    let _ = std::io::stdout().write_all(out.as_bytes());
    Ok(())
}

/// A section of which nothing need fit anything else.
fn fine<S: Settings>(file: &Path) -> Result<String, Failure> {
    check::<S>(file, |_| Ok(()))
}

fn check<S: Settings>(file: &Path, resolve: impl FnOnce(S) -> Result<(), Failure>) -> Result<String, Failure> {
    let effective: Effective<S> = config::layers(&config::from_environment::<S>()?, Some(file))?;
    let mut out = format!("[{}] is good\n", S::SECTION);
    for (key, (value, source)) in &effective.values {
        out += &format!("  {key} = {value}  ({source})\n");
    }
    resolve(effective.settings)?;
    Ok(out)
}
