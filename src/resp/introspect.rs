//! COMMAND: what commands there are, made from the machine's table and the edge's.

use super::{
    Serving,
    client::help_lines,
    parser::Request,
    session::{Outcome, Session},
    table::{self, EDGE, Edge, Handler, Sub},
};
use crate::machine::{
    Access,
    kv::{
        command::{self, CommandId, Spec},
        pattern::matches_in_any_case,
        reply::Reply,
    },
};

/// A row of either table.
#[derive(Clone, Copy)]
enum Row {
    Machine(&'static Spec),
    Edge(&'static Edge),
}

impl Row {
    fn all() -> impl Iterator<Item = Row> {
        CommandId::ALL.iter().map(|id| Row::Machine(id.spec())).chain(EDGE.iter().map(Row::Edge))
    }

    fn called(name: &[u8]) -> Option<Row> {
        command::lookup(name)
            .map(Row::Machine)
            .or_else(|| EDGE.iter().find(|edge| edge.name.as_bytes().eq_ignore_ascii_case(name)).map(Row::Edge))
    }

    fn name(self) -> String {
        match self {
            Row::Machine(spec) => spec.name,
            Row::Edge(edge) => edge.name,
        }
        .to_ascii_lowercase()
    }

    /// How many commands, for COMMAND COUNT.
    fn count() -> usize {
        CommandId::ALL.len() + EDGE.len()
    }
}

/// COMMAND
pub(super) fn all(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::made(|mut reply| {
        reply.array(Row::count());
        Row::all().for_each(|row| describe(row, &mut reply));
    })
}

/// COMMAND COUNT
pub(super) fn count(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::made(|mut reply| reply.integer(Row::count() as i64))
}

/// COMMAND INFO
pub(super) fn info(session: &mut Session, request: &Request<'_>, serving: &Serving) -> Outcome {
    if request.len() == 2 {
        return all(session, request, serving);
    }
    Outcome::made(|mut reply| {
        reply.array(request.len() - 2);
        for name in request.words_from(2) {
            match Row::called(name) {
                Some(row) => describe(row, &mut reply),
                None => reply.null(),
            }
        }
    })
}

/// COMMAND DOCS
pub(super) fn docs(_: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    let rows: Vec<Row> = match request.len() {
        2 => Row::all().collect(),
        _ => request.words_from(2).filter_map(Row::called).collect(),
    };
    Outcome::made(|mut reply| {
        reply.map(rows.len());
        for row in rows {
            let name = row.name();
            reply.bulk(name.as_bytes());
            reply.map(3);
            reply.bulk(b"summary");
            reply.bulk(format!("As in Redis, see https://redis.io/commands/{name}").as_bytes());
            reply.bulk(b"since");
            reply.bulk(b"1.0.0");
            reply.bulk(b"group");
            reply.bulk(group(row).as_bytes());
        }
    })
}

/// COMMAND LIST
pub(super) fn list(_: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    let is = |position: usize, word: &[u8]| request.word(position).eq_ignore_ascii_case(word);
    let names: Vec<String> = match request.len() {
        2 => Row::all().map(Row::name).collect(),
        5 if is(2, b"FILTERBY") && is(3, b"PATTERN") => {
            Row::all().map(Row::name).filter(|name| matches_in_any_case(request.word(4), name.as_bytes())).collect()
        }
        5 if is(2, b"FILTERBY") && is(3, b"ACLCAT") => {
            Row::all().filter(|row| &category(*row).as_bytes()[1..] == request.word(4)).map(Row::name).collect()
        }
        // No module is ever loaded.
        5 if is(2, b"FILTERBY") && is(3, b"MODULE") => Vec::new(),
        _ => return Outcome::SYNTAX,
    };
    Outcome::made(|mut reply| {
        reply.array(names.len());
        names.iter().for_each(|name| reply.bulk(name.as_bytes()));
    })
}

/// COMMAND GETKEYS
pub(super) fn getkeys(_: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    let words = request.len() - 2;
    let (spec, fits) = match Row::called(request.word(2)) {
        None => return Outcome::error("ERR Invalid command specified"),
        Some(Row::Machine(spec)) => (Some(spec).filter(|spec| spec.first_key > 0), spec.takes(words)),
        Some(Row::Edge(edge)) => (None, table::takes(edge.arity, words)),
    };
    let Some(spec) = spec else { return Outcome::error("ERR The command has no key arguments") };
    if !fits {
        return Outcome::error("ERR Invalid number of arguments specified for command");
    }
    let first = spec.first_key.unsigned_abs() as usize;
    let last = match usize::try_from(spec.last_key) {
        Ok(last) => last,
        Err(_) => words - spec.last_key.unsigned_abs() as usize,
    };
    let keys = (first..=last.min(words - 1)).step_by(spec.key_step.unsigned_abs().max(1) as usize);
    Outcome::made(|mut reply| {
        reply.array(keys.clone().count());
        keys.for_each(|position| reply.bulk(request.word(2 + position)));
    })
}

/// COMMAND HELP
pub(super) fn help(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    help_lines(&[
        "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "(no subcommand)",
        "    Return details about all commands.",
        "COUNT",
        "    Return the total number of commands in this server.",
        "LIST",
        "    Return a list of all commands in this server.",
        "INFO [<command-name> ...]",
        "    Return details about multiple commands.",
        "DOCS [<command-name> ...]",
        "    Return documentation details about multiple commands.",
        "GETKEYS <full-command>",
        "    Return the keys from a full command.",
        "HELP",
        "    Prints this help.",
    ])
}

/// A row as COMMAND INFO shows it: ten fields in Redis 7.
fn describe(row: Row, reply: &mut Reply<'_>) {
    let (arity, keys) = match row {
        Row::Machine(spec) => (spec.arity, [spec.first_key, spec.last_key, spec.key_step]),
        Row::Edge(edge) => (edge.arity, [0; 3]),
    };
    let flags: &[&str] = match row {
        Row::Machine(Spec { access: Access::Read, .. }) => &["readonly"],
        Row::Machine(Spec { denied_without_memory: true, .. }) => &["write", "denyoom"],
        Row::Machine(Spec { access: Access::Write, .. }) => &["write"],
        Row::Edge(edge) => edge.flags,
    };
    head(&row.name(), arity, flags, keys, category(row), reply);
    match row {
        Row::Edge(Edge { handler: Handler::Container { parts, .. }, .. }) => {
            reply.array(parts.len());
            for Sub { name, arity, .. } in *parts {
                head(name, *arity, &[], [0; 3], category(row), reply);
                reply.array(0);
            }
        }
        _ => reply.array(0),
    }
}

/// All fields but the last, which are the parts of a container.
fn head(name: &str, arity: i32, flags: &[&str], keys: [i32; 3], category: &str, reply: &mut Reply<'_>) {
    reply.array(10);
    reply.bulk(name.as_bytes());
    reply.integer(arity.into());
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    keys.iter().for_each(|position| reply.integer((*position).into()));
    reply.set(1);
    reply.simple(category);
    // Tips and key specifications: nothing beyond the three key positions.
    reply.set(0);
    reply.set(0);
}

/// The ACL category.
fn category(row: Row) -> &'static str {
    match row {
        Row::Machine(Spec { access: Access::Read, .. }) => "@read",
        Row::Machine(Spec { access: Access::Write, .. }) => "@write",
        Row::Edge(_) => "@connection",
    }
}

/// The group that documentation puts a command into.
fn group(row: Row) -> &'static str {
    use CommandId as C;
    let Row::Machine(spec) = row else { return "connection" };
    match spec.id {
        C::DbSize | C::FlushAll | C::FlushDb | C::Time => "server",
        C::Copy | C::Del | C::Exists | C::Expire | C::ExpireAt | C::ExpireTime | C::Keys | C::Persist => "generic",
        C::PExpire | C::PExpireAt | C::PExpireTime | C::PTtl | C::RandomKey | C::Rename | C::RenameNx => "generic",
        C::Scan | C::Touch | C::Ttl | C::Type | C::Unlink => "generic",
        id => match id.spec().name.as_bytes() {
            [b'H', ..] => "hash",
            [b'L', ..] | b"RPOP" | b"RPUSH" => "list",
            [b'Z', ..] => "sorted-set",
            b"SADD" | b"SCARD" | b"SISMEMBER" | b"SMEMBERS" | b"SPOP" | b"SRANDMEMBER" | b"SREM" => "set",
            _ => "string",
        },
    }
}
