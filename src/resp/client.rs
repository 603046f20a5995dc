//! CLIENT: what a connection says and asks about connections.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{
    Format, Serving, Status, StatusQuestion,
    parser::{Request, integer},
    session::{Outcome, Replies, Session, push_text},
};

/// Bytes in the name of a connection or its library: every connection keeps its own.
const MAX_NAME: usize = 1024;

/// What CLIENT LIST tells of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The number given to [`super::Connection::new`].
    pub id: u64,
    /// The client's address, `host:port`.
    pub peer: String,
    /// Its name (CLIENT SETNAME), or nothing.
    pub name: String,
    /// Its library (CLIENT SETINFO), or nothing.
    pub library: String,
    /// The library's version, or nothing.
    pub library_version: String,
    /// When it connected, in milliseconds on the shell's clock.
    pub connected_ms: u64,
    /// When it was heard last, on the same clock.
    pub active_ms: u64,
    /// Its last command, in any case.
    pub command: &'static str,
    /// RESP version, 2 or 3.
    pub protocol: u8,
    /// CLIENT NO-EVICT.
    pub no_evict: bool,
    /// CLIENT NO-TOUCH.
    pub no_touch: bool,
    /// Bytes of input not yet parsed.
    pub input_bytes: usize,
    /// Bytes free in the input buffer.
    pub input_free_bytes: usize,
    /// Bytes of output not yet written; the edge does not know them, the shell may fill them in.
    pub output_bytes: usize,
}

/// Which connections CLIENT LIST is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFilter {
    /// All.
    All,
    /// None: every connection here is of Redis' type `normal`, another type was asked for.
    Nobody,
    /// Those with these numbers.
    Ids(BTreeSet<u64>),
}

impl ClientFilter {
    fn takes(&self, id: u64) -> bool {
        match self {
            ClientFilter::All => true,
            ClientFilter::Nobody => false,
            ClientFilter::Ids(ids) => ids.contains(&id),
        }
    }
}

/// The lines of CLIENT LIST.
pub(super) fn lines<'a>(clients: impl Iterator<Item = &'a Client>, filter: &ClientFilter, status: &Status) -> String {
    let mut text = String::new();
    for client in clients.filter(|client| filter.takes(client.id)) {
        line(client, status, &mut text);
    }
    text
}

fn line(client: &Client, status: &Status, text: &mut String) {
    let seconds = |since: u64| status.now_ms.saturating_sub(since) / 1000;
    let flags = match (client.no_evict, client.no_touch) {
        (false, false) => "N",
        (true, false) => "e",
        (false, true) => "T",
        (true, true) => "eT",
    };
    let memory = client.input_bytes + client.input_free_bytes + client.output_bytes;
    writeln!(
        text,
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf={} \
         qbuf-free={} argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem={} tot-mem={memory} events=r cmd={} \
         user=default redir=-1 resp={} lib-name={} lib-ver={}",
        client.id,
        client.peer,
        status.redis_address,
        client.name,
        seconds(client.connected_ms),
        seconds(client.active_ms),
        client.input_bytes,
        client.input_free_bytes,
        client.output_bytes,
        client.command.to_ascii_lowercase(),
        client.protocol,
        client.library,
        client.library_version,
    )
    .expect("a String takes every write");
}

/// A name that CLIENT LIST can show.
pub(super) fn checked_name(name: &[u8]) -> Result<String, Outcome> {
    checked(name, "Client names")
}

fn checked(name: &[u8], what: &str) -> Result<String, Outcome> {
    if name.len() > MAX_NAME {
        return Err(Outcome::error(&format!("ERR {what} cannot be longer than {MAX_NAME} bytes.")));
    }
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(Outcome::error(&format!("ERR {what} cannot contain spaces, newlines or special characters.")));
    }
    Ok(name.iter().map(|byte| char::from(*byte)).collect())
}

/// CLIENT ID
pub(super) fn id(session: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::made(|mut reply| reply.integer(session.id as i64))
}

/// CLIENT GETNAME
pub(super) fn getname(session: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::made(|mut reply| match session.name.as_str() {
        "" => reply.null(),
        name => reply.bulk(name.as_bytes()),
    })
}

/// CLIENT SETNAME
pub(super) fn setname(session: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    match checked_name(request.word(2)) {
        Ok(name) => {
            session.name = name;
            Outcome::OK
        }
        Err(refusal) => refusal,
    }
}

/// CLIENT SETINFO
pub(super) fn setinfo(session: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    let option = request.word(2);
    let (what, field) = if option.eq_ignore_ascii_case(b"LIB-NAME") {
        ("lib-name", &mut session.library)
    } else if option.eq_ignore_ascii_case(b"LIB-VER") {
        ("lib-ver", &mut session.library_version)
    } else {
        let mut text = b"-ERR Unrecognized option '".to_vec();
        push_text(option, 128, &mut text);
        text.extend_from_slice(b"'\r\n");
        return Outcome::Reply(text);
    };
    match checked(request.word(3), what) {
        Ok(value) => {
            *field = value;
            Outcome::OK
        }
        Err(refusal) => refusal,
    }
}

/// ON or OFF.
fn switch(word: &[u8]) -> Option<bool> {
    if word.eq_ignore_ascii_case(b"ON") {
        Some(true)
    } else if word.eq_ignore_ascii_case(b"OFF") {
        Some(false)
    } else {
        None
    }
}

/// CLIENT NO-EVICT: nothing is ever evicted here, so it is only remembered.
pub(super) fn no_evict(session: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    let Some(on) = switch(request.word(2)) else { return Outcome::SYNTAX };
    session.no_evict = on;
    Outcome::OK
}

/// CLIENT NO-TOUCH: no access times are kept here, so it is only remembered.
pub(super) fn no_touch(session: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    let Some(on) = switch(request.word(2)) else { return Outcome::SYNTAX };
    session.no_touch = on;
    Outcome::OK
}

/// CLIENT REPLY
pub(super) fn reply(session: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    match (switch(request.word(2)), request.word(2).eq_ignore_ascii_case(b"SKIP")) {
        (Some(true), _) => {
            session.replies = Replies::On;
            session.format = session.protocol;
            return Outcome::OK;
        }
        (Some(false), _) => session.replies = Replies::Off,
        (None, true) if session.replies != Replies::Off => session.replies = Replies::SkipNext,
        (None, true) => {}
        (None, false) => return Outcome::SYNTAX,
    }
    session.format = Format::Silent;
    Outcome::OK
}

/// CLIENT INFO
pub(super) fn info(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::Ask(StatusQuestion::ClientInfo)
}

/// CLIENT LIST
pub(super) fn list(_: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    let filter = match request.len() {
        2 => ClientFilter::All,
        4 if request.word(2).eq_ignore_ascii_case(b"TYPE") => {
            let kind = request.word(3);
            if kind.eq_ignore_ascii_case(b"NORMAL") {
                ClientFilter::All
            } else if [&b"MASTER"[..], b"REPLICA", b"SLAVE", b"PUBSUB"].iter().any(|k| k.eq_ignore_ascii_case(kind)) {
                ClientFilter::Nobody
            } else {
                let mut text = b"-ERR Unknown client type '".to_vec();
                push_text(kind, 128, &mut text);
                text.extend_from_slice(b"'\r\n");
                return Outcome::Reply(text);
            }
        }
        words if words > 3 && request.word(2).eq_ignore_ascii_case(b"ID") => {
            let ids: Option<BTreeSet<u64>> =
                request.words_from(3).map(|word| integer(word).and_then(|id| u64::try_from(id).ok())).collect();
            match ids {
                Some(ids) => ClientFilter::Ids(ids),
                None => return Outcome::Same(b"-ERR Invalid client ID\r\n"),
            }
        }
        _ => return Outcome::SYNTAX,
    };
    Outcome::Ask(StatusQuestion::ClientList(filter))
}

/// CLIENT HELP
pub(super) fn help(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    help_lines(&[
        "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "GETNAME",
        "    Return the name of the current connection.",
        "ID",
        "    Return the ID of the current connection.",
        "INFO",
        "    Return information about the current client connection.",
        "LIST [options ...]",
        "    Return information about client connections. Options:",
        "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
        "      Return clients of specified type.",
        "    * ID <id> [<id> ...]",
        "      Return clients of specified IDs only.",
        "NO-EVICT (ON|OFF)",
        "    Accepted; nothing is evicted.",
        "NO-TOUCH (ON|OFF)",
        "    Accepted; no access times are kept.",
        "REPLY (ON|OFF|SKIP)",
        "    Control the replies sent to the current connection.",
        "SETINFO <lib-name|lib-ver> <value>",
        "    Tell the name or version of the client library.",
        "SETNAME <name>",
        "    Assign the name <name> to the current connection.",
        "HELP",
        "    Prints this help.",
    ])
}

/// A HELP answer: an array of statuses.
pub(super) fn help_lines(lines: &[&str]) -> Outcome {
    Outcome::made(|mut reply| {
        reply.array(lines.len());
        lines.iter().for_each(|line| reply.simple(line));
    })
}
