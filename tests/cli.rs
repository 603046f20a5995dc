//! The command line from outside: exit codes, messages, and the sample configuration.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use assert_cmd::Command;

const USAGE: i32 = 2;
const CONFIGURATION: i32 = 3;
const MAY_BE_OTHERWISE: i32 = 4;
const UNREACHABLE: i32 = 5;

fn cutover(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("cutover").unwrap();
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CUTOVER_")) {
        command.env_remove(name);
    }
    let output = command.args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn refused(arguments: &[&str], code: i32, why: &str) {
    let (exit, _, stderr) = cutover(arguments);
    assert_eq!(exit, code, "{arguments:?}: {stderr}");
    assert!(stderr.contains(why), "{arguments:?}: {stderr}");
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn wrong_usage_exits_with_two_and_a_word_of_help() {
    refused(&["no-such-command"], USAGE, "no-such-command");
    refused(&["replica", "--no-such-option"], USAGE, "--no-such-option");
    refused(&["replica", "--suspect-after", "500"], USAGE, "write it with its unit");
    refused(&["replica", "--name", "r1"], USAGE, "CUTOVER_GROUP");
    refused(&["arbiter"], USAGE, "--id is missing");
    refused(&["seize", "--group", "g", "--replica", "r1"], USAGE, "--accept-data-loss");
    refused(&["chaos", "cut", "r1"], USAGE, "TO");
    refused(&["dev", "--", "--no-such-option"], USAGE, "--no-such-option");
}

#[test]
fn every_command_helps_with_examples() {
    for command in
        ["dev", "arbiter", "replica", "status", "history", "verify", "switchover", "seize", "adopt", "torture", "chaos"]
    {
        let (code, help, _) = cutover(&[command, "--help"]);
        assert_eq!(code, 0);
        assert!(help.contains("Example"), "{command} --help has no example:\n{help}");
    }
}

#[test]
fn a_configuration_that_cannot_work_exits_with_three_and_the_reason() {
    let replica = ["replica", "--name", "r1", "--group", "g", "--arbiters", "a:1", "--data", "/nowhere"];
    let with = |more: &[&'static str]| [&replica[..], more].concat();
    refused(
        &with(&["--durability", "durable"]),
        CONFIGURATION,
        "durability 'durable' is unknown; use memory, buffered or sync",
    );
    refused(&with(&["--drop-backup-after", "2s"]), CONFIGURATION, "must be longer than drop-backup-after");
    refused(&["dev", "--arbiters", "4"], CONFIGURATION, "an even number is refused");
    refused(&["dev", "--chaos", "--arbiters", "5"], CONFIGURATION, "= 41");
    refused(
        &["arbiter", "--id", "1", "--peers", "1=a:1,2=b:1", "--data", "/nowhere"],
        CONFIGURATION,
        "an even number is refused",
    );
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let file = file("[replica]\nsuspect-aftr = \"1s\"\n");
    refused(&["config", "check", file.path().to_str().unwrap()], CONFIGURATION, "did you mean 'suspect-after'?");
    refused(&["config", "check", "/no/such/file.toml"], CONFIGURATION, "cannot be read");
}

#[test]
fn config_check_says_each_effective_value_and_its_source() {
    let file =
        file("[replica]\nname = \"r1\"\ngroup = \"g\"\narbiters = [\"a:1\"]\ndata = \"/d\"\nsuspect-after = \"1s\"\n");
    let mut command = Command::cargo_bin("cutover").unwrap();
    let output = command.args(["config", "check"]).arg(file.path()).env("CUTOVER_COPIES", "3").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in ["suspect-after = \"1s\"  (file)", "copies = 3  (environment)", "heartbeat = \"125ms\"  (default)"] {
        assert!(said.contains(line), "no '{line}' in:\n{said}");
    }
}

#[test]
fn the_sample_configuration_is_good() {
    for sample in ["arbiter.toml", "replica.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(sample);
        let (code, said, stderr) = cutover(&["config", "check", path.to_str().unwrap()]);
        assert_eq!(code, 0, "{sample}: {stderr}");
        assert!(said.contains("is good"), "{said}");
    }
}

#[test]
fn chaos_without_a_group_says_how_to_start_one() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    refused(&["chaos", "--data", data, "list"], UNREACHABLE, "cutover dev --chaos");
}

#[test]
fn an_operations_command_takes_its_options_from_a_file_and_the_environment() {
    let file = file("[operator]\narbiters = [\"127.0.0.1:1\"]\ntimeout = \"100ms\"\n[status]\njson = true\n");
    let path = file.path().to_str().unwrap();
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::cargo_bin("cutover").unwrap();
        let output = command.args(arguments).envs(environment.iter().copied()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&["status", "--config", path], &[]);
    assert!(code == USAGE && said.contains("CUTOVER_GROUP"), "{code} {said}");
    let (code, said) = run(&["status"], &[("CUTOVER_CONFIG", path), ("CUTOVER_GROUP", "g")]);
    assert_eq!(code, UNREACHABLE, "{said}");
    refused(
        &["torture", "--group", "g", "--arbiters", "127.0.0.1:1", "--clients", "0"],
        CONFIGURATION,
        "from 1 to 1024",
    );
}

#[test]
fn config_check_reads_the_sections_of_operations_commands() {
    let good = file("[operator]\ngroup = \"g\"\n[torture]\nclients = 3\nkeep = true\n");
    let (code, said, stderr) = cutover(&["config", "check", good.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(said.contains("[operator] is good") && said.contains("clients = 3  (file)"), "{said}");
    for (text, why) in [
        ("[torture]\nclients = 3000\n", "from 1 to 1024"),
        ("[verify]\npatince = \"1s\"\n", "did you mean 'patience'?"),
        ("[switchover]\nto = \"r1\"\n", "unknown key 'to'"),
        ("[seize]\nfenced = true\n", "unknown section 'seize'"),
    ] {
        let file = file(text);
        refused(&["config", "check", file.path().to_str().unwrap()], CONFIGURATION, why);
    }
}

#[test]
fn a_request_above_the_ceiling_is_refused_with_the_ceiling_and_what_moves_it() {
    let file = file(
        "[replica]\nname = \"r1\"\ngroup = \"g\"\narbiters = [\"a:1\"]\ndata = \"/d\"\nmax-request = \"512MiB\"\n",
    );
    let path = file.path().to_str().unwrap();
    refused(&["config", "check", path], CONFIGURATION, "max-request (512MiB) is above its ceiling of 57606144 bytes");
    refused(&["config", "check", path], CONFIGURATION, "append-bytes (1MiB) takes from it");
}

/// An arbiter alone in this directory; it ends with our end of its standard input.
fn arbiter(data: &Path) -> Child {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::process::Command::new(env!("CARGO_BIN_EXE_cutover"))
        .args(["arbiter", "--id", "1", "--peers", &format!("1={free}")])
        .args(["--stop-when-stdin-closes", "--data"])
        .arg(data)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Its exit code and what it said.
fn ended(arbiter: Child) -> (i32, String) {
    let output = arbiter.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn an_arbiter_says_whether_it_would_help_to_start_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("a1");
    let mut first = arbiter(&data);
    let mut lines = BufReader::new(first.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("arbiter.started")));

    let (code, said) = ended(arbiter(&data));
    assert_eq!(code, MAY_BE_OTHERWISE, "{said}");
    assert!(said.contains("is open in another process"), "{said}");
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());

    let store = data.join("arbiter.redb");
    let whole = std::fs::read(&store).unwrap();
    let mut damaged = whole.clone();
    damaged.iter_mut().skip(4096).for_each(|byte| *byte ^= 0x55);
    for (bytes, why) in [(&damaged[..], "is damaged"), (&whole[..100], "is damaged"), (b"not a store", "is damaged")] {
        std::fs::write(&store, bytes).unwrap();
        let (code, said) = ended(arbiter(&data));
        assert_eq!(code, CONFIGURATION, "{said}");
        assert!(said.contains(why) && said.contains("arbiter.redb"), "{said}");
    }

    let (code, said) = ended(arbiter(&store));
    assert_eq!(code, CONFIGURATION, "{said}");
    assert!(said.contains("data directory"), "{said}");
}
