//! Every option of every command: on the command line, in the environment, and in a file.

use std::collections::BTreeSet;

use clap::{Command, CommandFactory as _};

use super::config::{SECTIONS, Settings};
use super::operator::OperatorSettings;
use super::{Cli, arbiter, dev, history, replica, status, switchover, torture, verify};

/// What can be said on the command line only, and why: words that must not lie about.
const SAID_EACH_TIME: &[(&str, &[&str], &str)] = &[
    ("seize", &["replica", "http"], "whom an act is upon that may lose data"),
    ("seize", &["accept-data-loss", "from-nothing", "fenced"], "an operator's word, for this one time"),
    ("adopt", &["http", "others"], "whom an act is upon that may lose data"),
    ("adopt", &["accept-data-loss", "fenced"], "an operator's word, for this one time"),
    ("switchover", &["to"], "whom the act is upon: the next time it is another"),
    ("torture", &["check"], "another thing to do, not how to do it"),
    ("chaos cut", &["for"], "what to break now"),
    ("chaos one-way", &["for"], "what to break now"),
    ("chaos delay", &["for", "by"], "what to break now"),
    ("chaos clog", &["for"], "what to break now"),
];

/// Variables that mean the same in every command that knows them.
const SHARED: &[&str] = &[
    "CUTOVER_ARBITERS",
    "CUTOVER_CONFIG",
    "CUTOVER_DATA",
    "CUTOVER_DEV_DATA",
    "CUTOVER_GROUP",
    "CUTOVER_HANDSHAKE_TIMEOUT",
    "CUTOVER_IGNORE_SIGINT",
    "CUTOVER_JSON",
    "CUTOVER_LOG",
    "CUTOVER_LOG_LEVEL",
    "CUTOVER_ROUTE",
    "CUTOVER_STOP_WHEN_STDIN_CLOSES",
    "CUTOVER_TIMEOUT",
];

/// An option: its command, its name, its variable.
type Option3 = (String, String, Option<String>);

fn options() -> Vec<Option3> {
    fn walk(command: &Command, path: &str, found: &mut Vec<Option3>) {
        for argument in command.get_arguments() {
            let Some(name) = argument.get_long().filter(|name| !["help", "version"].contains(name)) else { continue };
            let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            found.push((path.to_owned(), name.to_owned(), variable));
        }
        for sub in command.get_subcommands() {
            walk(sub, format!("{path} {}", sub.get_name()).trim_start(), found);
        }
    }
    let mut found = Vec::new();
    walk(&Cli::command(), "", &mut found);
    found
}

fn said_each_time() -> BTreeSet<(String, String)> {
    let pairs = SAID_EACH_TIME.iter().flat_map(|(command, names, _)| names.iter().map(move |name| (command, name)));
    pairs.map(|(command, name)| (command.to_string(), name.to_string())).collect()
}

#[test]
fn every_option_has_a_variable_or_stands_in_the_list_of_those_that_must_not() {
    let without: BTreeSet<_> = options()
        .into_iter()
        .filter(|(_, _, variable)| variable.is_none())
        .map(|(command, name, _)| (command, name))
        .collect();
    assert_eq!(without, said_each_time());
}

#[test]
fn a_variable_means_one_thing() {
    let mut seen = BTreeSet::new();
    for (command, name, variable) in options() {
        let Some(variable) = variable else { continue };
        assert!(variable.starts_with("CUTOVER_"), "{command} --{name}: {variable}");
        let first = seen.insert(variable.clone());
        assert!(first || SHARED.contains(&variable.as_str()), "{command} --{name}: {variable} is another option's");
    }
}

#[test]
fn every_option_with_a_variable_is_a_key_of_a_section_that_its_command_reads() {
    fn keys<S: Settings>() -> (&'static str, BTreeSet<String>) {
        let command = S::augment_args(Command::new("keys"));
        (S::SECTION, command.get_arguments().filter_map(|each| Some(each.get_long()?.to_owned())).collect())
    }
    let sections = [
        keys::<replica::ReplicaSettings>(),
        keys::<arbiter::ArbiterSettings>(),
        keys::<dev::DevSettings>(),
        keys::<OperatorSettings>(),
        keys::<status::StatusSettings>(),
        keys::<history::HistorySettings>(),
        keys::<verify::VerifySettings>(),
        keys::<switchover::SwitchoverSettings>(),
        keys::<torture::TortureSettings>(),
    ];
    assert_eq!(sections.each_ref().map(|(section, _)| *section), SECTIONS);
    for (command, name, variable) in options() {
        if variable.is_none() || name == "config" {
            continue;
        }
        let read: &[&str] = match command.as_str() {
            "replica" | "arbiter" | "dev" => &[&command],
            "chaos" => &["dev"],
            _ => &["operator", &command],
        };
        let known = sections.iter().any(|(section, keys)| read.contains(section) && keys.contains(&name));
        assert!(known, "{command} --{name} is no key of {read:?}");
    }
}
