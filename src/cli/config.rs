//! Options in layers: the command line and the environment (both read by clap), then a TOML file, then the defaults.
//!
//! A command's options are one struct of `Option` fields which clap, serde and this module all read, so an option has
//! the same name everywhere: `--suspect-after`, `CUTOVER_SUSPECT_AFTER`, `suspect-after`. Deliberately not here: what
//! the options mean, and whether they fit each other; each command's file says that of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use clap::Command;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Table;

use super::failure::{ExitCode, Failure};

/// One section of a configuration file.
pub trait Settings: clap::Args + Serialize + DeserializeOwned {
    /// The section's name in the file.
    const SECTION: &'static str;
    /// Every option that has a default, set to it.
    fn defaults() -> Self;
}

/// Every section that a file may have.
pub const SECTIONS: [&str; 9] =
    ["replica", "arbiter", "dev", "operator", "status", "history", "verify", "switchover", "torture"];

/// Where an effective value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The file.
    File,
    /// An environment variable (or, for a daemon being started, its command line).
    Environment,
    /// Nobody set it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::File => "file",
            Source::Environment => "environment",
            Source::Default => "default",
        })
    }
}

/// All layers, one over the other.
#[derive(Debug)]
pub struct Effective<S> {
    /// The options.
    pub settings: S,
    /// Each option that has a value: the value as a file would have it, and its source.
    pub values: BTreeMap<String, (toml::Value, Source)>,
}

/// Lays `given` (command line and environment) over the file's section over the defaults.
///
/// # Errors
/// The file cannot be read, or holds an unknown key or a value of the wrong kind.
pub fn layers<S: Settings>(given: &S, file: Option<&Path>) -> Result<Effective<S>, Failure> {
    let section = match file {
        Some(path) => read(path)?.remove(S::SECTION),
        None => None,
    };
    let section = match section {
        Some(toml::Value::Table(table)) => table,
        Some(_) => return Err(wrong(file, format!("'{}' must be a section: [{}]", S::SECTION, S::SECTION))),
        None => Table::new(),
    };
    known_keys::<S>(&section).map_err(|message| wrong(file, message))?;
    let mut values = BTreeMap::new();
    let layers = [
        (table_of(&S::defaults())?, Source::Default),
        (section, Source::File),
        (table_of(given)?, Source::Environment),
    ];
    for (layer, source) in layers {
        values.extend(layer.into_iter().map(|(key, value)| (key, (value, source))));
    }
    let merged: Table = values.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
    let settings = merged.try_into().map_err(|error| wrong(file, format!("[{}]: {error}", S::SECTION)))?;
    Ok(Effective { settings, values })
}

/// The options that the environment alone sets.
///
/// # Errors
/// A variable holds a value that cannot be.
pub fn from_environment<S: Settings>() -> Result<S, Failure> {
    let command = S::augment_args(Command::new("environment").no_binary_name(true));
    command
        .try_get_matches_from(std::iter::empty::<String>())
        .and_then(|matches| S::from_arg_matches(&matches))
        .map_err(|error| Failure::new(ExitCode::Configuration, format!("in the environment: {error}")))
}

/// Reads a file; unknown sections are refused.
///
/// # Errors
/// It cannot be read, is not TOML, or has a section that nobody reads.
pub fn read(path: &Path) -> Result<Table, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| wrong(Some(path), format!("cannot be read: {error}")))?;
    let table: Table = text.parse().map_err(|error| wrong(Some(path), format!("is not TOML: {error}")))?;
    if let Some(unknown) = table.keys().find(|key| !SECTIONS.contains(&key.as_str())) {
        return Err(wrong(Some(path), unknown_key("section", unknown, &SECTIONS)));
    }
    Ok(table)
}

/// A failure about a file, or about the options where there is no file.
pub fn wrong(file: Option<&Path>, message: impl fmt::Display) -> Failure {
    let message = match file {
        Some(path) => format!("{}: {message}", path.display()),
        None => message.to_string(),
    };
    Failure::new(ExitCode::Configuration, message)
}

fn table_of<S: Settings>(settings: &S) -> Result<Table, Failure> {
    Table::try_from(settings).map_err(|error| wrong(None, format!("[{}]: {error}", S::SECTION)))
}

fn known_keys<S: Settings>(section: &Table) -> Result<(), String> {
    let command = S::augment_args(Command::new("keys"));
    let known: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
    match section.keys().find(|key| !known.contains(&key.as_str())) {
        Some(unknown) => Err(format!("in [{}]: {}", S::SECTION, unknown_key("key", unknown, &known))),
        None => Ok(()),
    }
}

fn unknown_key(what: &str, unknown: &str, known: &[&str]) -> String {
    match nearest(unknown, known) {
        Some(near) => format!("unknown {what} '{unknown}'; did you mean '{near}'?"),
        None => format!("unknown {what} '{unknown}'; known are {}", known.join(", ")),
    }
}

/// The known word with the fewest changed letters, if it is near enough to be meant.
fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let near_enough = unknown.len().div_ceil(3).max(2);
    known
        .iter()
        .map(|candidate| (edit_distance(&unknown.replace('_', "-"), candidate), *candidate))
        .filter(|(distance, _)| *distance <= near_enough)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, one row at a time (Wagner and Fischer 1974).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::replica::ReplicaSettings;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_command_line_lies_over_the_file_over_the_defaults() {
        let file = file("[replica]\nname = \"r1\"\nsuspect-after = \"700ms\"\ncopies = 3\n");
        let given = ReplicaSettings { copies: Some(4), ..ReplicaSettings::default() };
        let effective = layers(&given, Some(file.path())).unwrap();
        assert_eq!(effective.settings.name.as_deref(), Some("r1"));
        assert_eq!(effective.settings.copies, Some(4));
        assert_eq!(effective.values["copies"].1, Source::Environment);
        assert_eq!(effective.values["suspect-after"].1, Source::File);
        assert_eq!(effective.values["suspect-after"].0.as_str(), Some("700ms"));
        assert_eq!(effective.values["heartbeat"].1, Source::Default);
    }

    #[test]
    fn lists_are_arrays_or_text_with_commas() {
        for text in ["[replica]\narbiters = [\"a:1\", \"b:2\"]", "[replica]\narbiters = \"a:1, b:2\""] {
            let effective = layers(&ReplicaSettings::default(), Some(file(text).path())).unwrap();
            assert_eq!(effective.settings.arbiters.unwrap(), ["a:1", "b:2"]);
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let refused = |text: &str| {
            let failure = layers(&ReplicaSettings::default(), Some(file(text).path())).unwrap_err();
            assert_eq!(failure.code, ExitCode::Configuration);
            failure.message
        };
        assert!(refused("[replica]\nsuspect_after = \"1s\"").contains("did you mean 'suspect-after'"));
        assert!(refused("[replica]\nhartbeat = \"1s\"").contains("did you mean 'heartbeat'"));
        assert!(refused("[replika]\n").contains("did you mean 'replica'"));
        assert!(refused("[replica]\nzzzzzzzzz = 1").contains("known are"));
        assert!(refused("[replica]\nsuspect-after = 500").contains("suspect-after"));
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }
}
