//! What a connection remembers between requests, and what each request turns into.

use super::{
    Client, Format, Serving, StatusQuestion,
    parser::{Request, integer},
    table::{self, Edge, Handler},
};
use crate::machine::{
    Access,
    kv::{
        command::{self, Spec},
        operation,
        reply::Reply,
    },
};

/// What a request turned into.
#[derive(Debug)]
pub(super) enum Outcome {
    /// An operation for the machine.
    Execute(Access),
    /// An answer that is the same bytes in every protocol.
    Same(&'static [u8]),
    /// An answer in the neutral form.
    Reply(Vec<u8>),
    /// A question to the shell.
    Ask(StatusQuestion),
    /// WAIT.
    Wait { replicas: u64, timeout_ms: u64 },
    /// The end, with a last neutral answer (which may be empty).
    Close(&'static [u8]),
}

impl Outcome {
    pub(super) const OK: Outcome = Outcome::Same(b"+OK\r\n");
    pub(super) const SYNTAX: Outcome = Outcome::Same(b"-ERR syntax error\r\n");

    /// An error, its code first.
    pub(super) fn error(message: &str) -> Self {
        Self::made(|mut reply| reply.error(message))
    }

    /// An answer that `make` writes.
    pub(super) fn made(make: impl FnOnce(Reply<'_>)) -> Self {
        let mut neutral = Vec::new();
        make(Reply(&mut neutral));
        Outcome::Reply(neutral)
    }
}

/// Whether the client wants replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replies {
    On,
    Off,
    /// Not to the next request.
    SkipNext,
}

/// What a connection remembers.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) peer: String,
    pub(super) connected_ms: u64,
    pub(super) active_ms: u64,
    /// [`Format::Resp2`] or [`Format::Resp3`].
    pub(super) protocol: Format,
    pub(super) replies: Replies,
    /// How the reply to the request at hand is written.
    pub(super) format: Format,
    pub(super) name: String,
    pub(super) library: String,
    pub(super) library_version: String,
    pub(super) no_evict: bool,
    pub(super) no_touch: bool,
    /// The last command's name, for CLIENT LIST.
    command: &'static str,
    /// The machine's last command: clients tend to send the same one again.
    recent: Option<&'static Spec>,
}

impl Session {
    pub(super) fn new(id: u64, peer: String, now_ms: u64) -> Self {
        Self {
            id,
            peer,
            connected_ms: now_ms,
            active_ms: now_ms,
            protocol: Format::Resp2,
            replies: Replies::On,
            format: Format::Resp2,
            name: String::new(),
            library: String::new(),
            library_version: String::new(),
            no_evict: false,
            no_touch: false,
            command: "NULL",
            recent: None,
        }
    }

    /// A request begins: settles whether it gets a reply.
    pub(super) fn begin(&mut self) {
        self.format = match self.replies {
            Replies::On => self.protocol,
            Replies::Off => Format::Silent,
            Replies::SkipNext => {
                self.replies = Replies::On;
                Format::Silent
            }
        };
    }

    /// What `request` turns into. `operation` is replaced with the operation where it is one.
    pub(super) fn run(&mut self, request: &Request<'_>, serving: &Serving, operation: &mut Vec<u8>) -> Outcome {
        self.begin();
        let name = request.word(0);
        let recent = self.recent.filter(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name));
        if let Some(spec) = recent.or_else(|| command::lookup(name)) {
            self.recent = Some(spec);
            self.command = spec.name;
            return Self::operation(spec, request, serving, operation);
        }
        match table::lookup(name) {
            Some(edge) => self.edge(edge, request, serving),
            None => unknown_command(request),
        }
    }

    fn operation(spec: &Spec, request: &Request<'_>, serving: &Serving, operation: &mut Vec<u8>) -> Outcome {
        if !spec.takes(request.len()) {
            return wrong_arity(spec.name);
        }
        if let Some(refusal) = serving.refusal() {
            return Outcome::error(&refusal);
        }
        operation.clear();
        operation::encode(spec.id, request.words_from(1), operation);
        Outcome::Execute(spec.access)
    }

    fn edge(&mut self, edge: &'static Edge, request: &Request<'_>, serving: &Serving) -> Outcome {
        self.command = edge.name;
        if !table::takes(edge.arity, request.len()) {
            return wrong_arity(edge.name);
        }
        match edge.handler {
            Handler::Plain(handler) => handler(self, request, serving),
            Handler::Container { alone, parts } => {
                let Some(part) = (request.len() > 1).then(|| request.word(1)) else {
                    return alone.map_or_else(|| wrong_arity(edge.name), |handler| handler(self, request, serving));
                };
                let Some(sub) = parts.iter().find(|sub| sub.part().as_bytes().eq_ignore_ascii_case(part)) else {
                    return unknown_subcommand(edge.name, part);
                };
                self.command = sub.name;
                if !table::takes(sub.arity, request.len()) {
                    return wrong_arity(sub.name);
                }
                (sub.handler)(self, request, serving)
            }
        }
    }

    /// Switches the protocol, from the reply to the request at hand on.
    pub(super) fn speak(&mut self, protocol: Format) {
        self.protocol = protocol;
        if self.format != Format::Silent {
            self.format = protocol;
        }
    }

    /// What CLIENT LIST tells.
    pub(super) fn client(&self, buffered: usize, free: usize) -> Client {
        Client {
            id: self.id,
            peer: self.peer.clone(),
            name: self.name.clone(),
            library: self.library.clone(),
            library_version: self.library_version.clone(),
            connected_ms: self.connected_ms,
            active_ms: self.active_ms,
            command: self.command,
            protocol: if self.protocol == Format::Resp3 { 3 } else { 2 },
            no_evict: self.no_evict,
            no_touch: self.no_touch,
            input_bytes: buffered,
            input_free_bytes: free,
            output_bytes: 0,
        }
    }
}

#[cold]
fn wrong_arity(name: &str) -> Outcome {
    Outcome::error(&format!("ERR wrong number of arguments for '{}' command", name.to_ascii_lowercase()))
}

#[cold]
fn unknown_subcommand(container: &str, part: &[u8]) -> Outcome {
    let mut text = b"-ERR unknown subcommand '".to_vec();
    push_text(part, 128, &mut text);
    text.extend_from_slice(b"'. Try ");
    text.extend_from_slice(container.as_bytes());
    text.extend_from_slice(b" HELP.\r\n");
    Outcome::Reply(text)
}

/// Redis' words: the name and the beginning of the arguments, each cut so that the line stays short.
#[cold]
fn unknown_command(request: &Request<'_>) -> Outcome {
    const SHOWN: usize = 128;
    let mut arguments = Vec::new();
    for argument in request.words_from(1) {
        if arguments.len() >= SHOWN {
            break;
        }
        let room = SHOWN - arguments.len();
        arguments.push(b'\'');
        push_text(argument, room, &mut arguments);
        arguments.extend_from_slice(b"' ");
    }
    let mut text = b"-ERR unknown command '".to_vec();
    push_text(request.word(0), SHOWN, &mut text);
    text.extend_from_slice(b"', with args beginning with: ");
    text.extend_from_slice(&arguments);
    text.extend_from_slice(b"\r\n");
    Outcome::Reply(text)
}

/// Appends what C's `%.*s` would print of `bytes`: up to `room` bytes and the first NUL; line breaks become spaces.
pub(super) fn push_text(bytes: &[u8], room: usize, text: &mut Vec<u8>) {
    let shown = bytes.iter().take(room).take_while(|byte| **byte != 0);
    text.extend(shown.map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
}

/// PING
pub(super) fn ping(_: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    match request.len() {
        1 => Outcome::Same(b"+PONG\r\n"),
        2 => Outcome::made(|mut reply| reply.bulk(request.word(1))),
        _ => wrong_arity("ping"),
    }
}

/// ECHO
pub(super) fn echo(_: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::made(|mut reply| reply.bulk(request.word(1)))
}

/// SELECT: there is one database.
pub(super) fn select(_: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    match integer(request.word(1)).and_then(|index| i32::try_from(index).ok()) {
        Some(0) => Outcome::OK,
        Some(_) => Outcome::Same(b"-ERR DB index is out of range\r\n"),
        None => Outcome::Same(b"-ERR value is not an integer or out of range\r\n"),
    }
}

/// RESET: as a new connection, but for its id and its library.
pub(super) fn reset(session: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    session.name.clear();
    session.no_evict = false;
    session.no_touch = false;
    session.replies = Replies::On;
    session.protocol = Format::Resp2;
    session.format = Format::Resp2;
    Outcome::Same(b"+RESET\r\n")
}

/// QUIT
pub(super) fn quit(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::Close(b"+OK\r\n")
}

/// `POST` and `Host:` are words of HTTP: somebody makes a browser talk to this port. Redis hangs up, too.
pub(super) fn http(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::Close(b"")
}

/// The cluster's commands: there is no cluster.
pub(super) fn no_cluster(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::Same(b"-ERR This instance has cluster support disabled\r\n")
}

/// WAIT
pub(super) fn wait(_: &mut Session, request: &Request<'_>, serving: &Serving) -> Outcome {
    if let Some(refusal) = serving.refusal() {
        return Outcome::error(&refusal);
    }
    let Some(replicas) = integer(request.word(1)) else {
        return Outcome::Same(b"-ERR value is not an integer or out of range\r\n");
    };
    match integer(request.word(2)).map(u64::try_from) {
        None => Outcome::Same(b"-ERR timeout is not an integer or out of range\r\n"),
        Some(Err(_)) => Outcome::Same(b"-ERR timeout is negative\r\n"),
        Some(Ok(timeout_ms)) => Outcome::Wait { replicas: u64::try_from(replicas).unwrap_or(0), timeout_ms },
    }
}

/// INFO
pub(super) fn info(_: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::Ask(StatusQuestion::Info(
        request.words_from(1).map(|section| String::from_utf8_lossy(section).to_ascii_lowercase()).collect(),
    ))
}

/// ROLE
pub(super) fn role(_: &mut Session, _: &Request<'_>, _: &Serving) -> Outcome {
    Outcome::Ask(StatusQuestion::Role)
}
