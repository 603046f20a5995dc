//! CONFIG: which settings there are and what they are worth is the shell's knowledge; the words are Redis'.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Limits, Serving, Status, StatusQuestion,
    client::help_lines,
    parser::Request,
    session::{Outcome, Session},
};
use crate::machine::kv::{pattern::matches_in_any_case, reply::Reply};

/// Why the shell did not take a CONFIG SET. None of its settings may then have changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigRefusal {
    /// There is no such setting.
    #[error("Unknown option or number of arguments for CONFIG SET - '{name}'")]
    Unknown {
        /// The setting.
        name: String,
    },
    /// It cannot change while the replica runs.
    #[error("CONFIG SET failed (possibly related to argument '{name}') - can't set immutable config")]
    Immutable {
        /// The setting.
        name: String,
    },
    /// It cannot have that value.
    #[error("CONFIG SET failed (possibly related to argument '{name}') - {reason}")]
    Invalid {
        /// The setting.
        name: String,
        /// Why not, without a line break.
        reason: String,
    },
}

/// A number of bytes as Redis' settings write it, `100mb` or `1G`: `k`, `m` and `g` are powers of 1000, `kb`, `mb` and
/// `gb` of 1024.
pub fn memory_value(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(digits);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// What clients and tools ask every Redis server for: every name that CONFIG SET knows.
const SETTINGS: [&str; 11] = [
    "appendonly",
    "bind",
    "client-query-buffer-limit",
    "databases",
    "maxclients",
    "maxmemory",
    "maxmemory-policy",
    "port",
    "proto-max-bulk-len",
    "save",
    "timeout",
];

/// CONFIG GET
pub(super) fn get(_: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::Ask(StatusQuestion::ConfigGet(request.words_from(2).map(<[u8]>::to_vec).collect()))
}

/// CONFIG SET
pub(super) fn set(_: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    if !request.len().is_multiple_of(2) {
        return Outcome::SYNTAX;
    }
    let mut words = request.words_from(2).map(String::from_utf8_lossy);
    let (mut pairs, mut seen) = (Vec::new(), BTreeSet::new());
    while let (Some(given), Some(value)) = (words.next(), words.next()) {
        let name = given.to_ascii_lowercase();
        if !SETTINGS.contains(&name.as_str()) {
            let refusal = ConfigRefusal::Unknown { name: given.into_owned() };
            return Outcome::error(&format!("ERR {refusal}"));
        }
        if !seen.insert(name.clone()) {
            let refusal = ConfigRefusal::Invalid { name, reason: "duplicate parameter".to_owned() };
            return Outcome::error(&format!("ERR {refusal}"));
        }
        pairs.push((name, value.into_owned()));
    }
    Outcome::Ask(StatusQuestion::ConfigSet(pairs))
}

/// CONFIG RESETSTAT
pub(super) fn resetstat(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::Ask(StatusQuestion::ConfigResetStat)
}

/// CONFIG REWRITE: a replica never writes to its configuration file.
pub(super) fn rewrite(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::Same(b"-ERR The server is running without a config file\r\n")
}

/// CONFIG HELP
pub(super) fn help(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    help_lines(&[
        "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "GET <pattern>",
        "    Return parameters matching the glob-like <pattern> and their values.",
        "SET <directive> <value>",
        "    Set the configuration <directive> to <value>.",
        "RESETSTAT",
        "    Reset statistics reported by the INFO command.",
        "REWRITE",
        "    Refused: the configuration file is never written.",
        "HELP",
        "    Prints this help.",
    ])
}

/// The answer to CONFIG GET: each setting once, however many patterns match it.
pub(super) fn matching(patterns: &[Vec<u8>], status: &Status, limits: &Limits, mut reply: Reply<'_>) {
    let bulk = limits.max_bulk.to_string();
    let memory = status.max_memory.to_string();
    let request = limits.max_request.to_string();
    let clients = status.max_clients.to_string();
    let mut settings: BTreeMap<&str, &str> = BTreeMap::from(SETTINGS.map(|name| {
        let value = match name {
            "appendonly" => "no",
            "client-query-buffer-limit" => request.as_str(),
            "databases" => "1",
            "maxclients" => clients.as_str(),
            "maxmemory" => memory.as_str(),
            "maxmemory-policy" => "noeviction",
            "proto-max-bulk-len" => bulk.as_str(),
            // The rest is told by the shell, or is nothing here.
            _ => "",
        };
        (name, value)
    }));
    settings.extend(status.config.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    settings.retain(|name, _| patterns.iter().any(|pattern| matches_in_any_case(pattern, name.as_bytes())));
    reply.map(settings.len());
    for (name, value) in settings {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::memory_value;

    #[test]
    fn memory_is_read_with_its_unit() {
        let read = ["0", "100", "1k", "1KB", "2mb", "3g", "3Gb"].map(memory_value);
        assert_eq!(read, [0, 100, 1000, 1024, 2 << 20, 3_000_000_000, 3 << 30].map(Some));
        assert_eq!(["", "mb", "-1", "1.5gb", "1 kb", "99999999999gb"].map(memory_value), [None; 6]);
    }
}
