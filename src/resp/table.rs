//! The edge's own commands: names, arities, flags, and what answers them.

use super::{
    Serving, client, config, hello, introspect,
    parser::Request,
    session::{self, Outcome, Session},
};

/// Answers a request whose arity is right.
pub(super) type Handle = fn(&mut Session, &Request<'_>, &Serving) -> Outcome;

/// How a command is answered.
#[derive(Clone, Copy)]
pub(super) enum Handler {
    /// By itself.
    Plain(Handle),
    /// By its second word; without one by `alone`.
    Container {
        /// What answers the bare command, where that is a command.
        alone: Option<Handle>,
        /// What second words there are.
        parts: &'static [Sub],
    },
}

/// One of the edge's commands.
pub(super) struct Edge {
    /// In capitals.
    pub(super) name: &'static str,
    /// As in the machine's table.
    pub(super) arity: i32,
    /// As COMMAND INFO shows them.
    pub(super) flags: &'static [&'static str],
    pub(super) handler: Handler,
}

/// A second word of a container.
pub(super) struct Sub {
    /// `container|part`, in small letters.
    pub(super) name: &'static str,
    /// Words of a call, both names among them.
    pub(super) arity: i32,
    pub(super) handler: Handle,
}

impl Sub {
    /// The second word.
    pub(super) fn part(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, part)| part)
    }
}

const CONNECTION: &[&str] = &["noscript", "loading", "stale", "fast"];
const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];

const fn plain(name: &'static str, arity: i32, flags: &'static [&'static str], handle: Handle) -> Edge {
    Edge { name, arity, flags, handler: Handler::Plain(handle) }
}

const fn container(name: &'static str, parts: &'static [Sub]) -> Edge {
    Edge { name, arity: -2, flags: &[], handler: Handler::Container { alone: None, parts } }
}

const fn sub(name: &'static str, arity: i32, handler: Handle) -> Sub {
    Sub { name, arity, handler }
}

/// All commands of the edge that clients may know about.
pub(super) static EDGE: &[Edge] = &[
    plain("ASKING", 1, &["fast"], session::no_cluster),
    plain("AUTH", -2, CONNECTION, hello::auth),
    container("CLIENT", CLIENT),
    container("CLUSTER", CLUSTER),
    Edge {
        name: "COMMAND",
        arity: -1,
        flags: &["loading", "stale"],
        handler: Handler::Container { alone: Some(introspect::all), parts: COMMAND },
    },
    container("CONFIG", CONFIG),
    plain("ECHO", 2, &["fast"], session::echo),
    plain("HELLO", -1, CONNECTION, hello::hello),
    plain("INFO", -1, &["loading", "stale"], session::info),
    plain("PING", -1, &["fast"], session::ping),
    plain("QUIT", -1, CONNECTION, session::quit),
    plain("READONLY", 1, &["fast"], session::no_cluster),
    plain("READWRITE", 1, &["fast"], session::no_cluster),
    plain("RESET", 1, CONNECTION, session::reset),
    plain("ROLE", 1, ADMIN, session::role),
    plain("SELECT", 2, &["loading", "stale", "fast"], session::select),
    plain("WAIT", 3, &["noscript"], session::wait),
];

/// Words that are no commands: what they mean is that the other side speaks HTTP.
static HTTP: &[Edge] = &[plain("HOST:", -1, &[], session::http), plain("POST", -1, &[], session::http)];

const CLIENT: &[Sub] = &[
    sub("client|getname", 2, client::getname),
    sub("client|help", 2, client::help),
    sub("client|id", 2, client::id),
    sub("client|info", 2, client::info),
    sub("client|list", -2, client::list),
    sub("client|no-evict", 3, client::no_evict),
    sub("client|no-touch", 3, client::no_touch),
    sub("client|reply", 3, client::reply),
    sub("client|setinfo", 4, client::setinfo),
    sub("client|setname", 3, client::setname),
];

const CLUSTER: &[Sub] = &[
    sub("cluster|info", 2, session::no_cluster),
    sub("cluster|myid", 2, session::no_cluster),
    sub("cluster|nodes", 2, session::no_cluster),
    sub("cluster|shards", 2, session::no_cluster),
    sub("cluster|slots", 2, session::no_cluster),
];

const COMMAND: &[Sub] = &[
    sub("command|count", 2, introspect::count),
    sub("command|docs", -2, introspect::docs),
    sub("command|getkeys", -4, introspect::getkeys),
    sub("command|help", 2, introspect::help),
    sub("command|info", -2, introspect::info),
    sub("command|list", -2, introspect::list),
];

const CONFIG: &[Sub] = &[
    sub("config|get", -3, config::get),
    sub("config|help", 2, config::help),
    sub("config|resetstat", 2, config::resetstat),
    sub("config|rewrite", 2, config::rewrite),
    sub("config|set", -4, config::set),
];

/// The command called `name`, in any case.
pub(super) fn lookup(name: &[u8]) -> Option<&'static Edge> {
    EDGE.iter().chain(HTTP).find(|edge| edge.name.as_bytes().eq_ignore_ascii_case(name))
}

/// True when a call of `words` words fits `arity`.
pub(super) fn takes(arity: i32, words: usize) -> bool {
    let wanted = arity.unsigned_abs() as usize;
    if arity >= 0 { words == wanted } else { words >= wanted }
}
