//! HELLO and AUTH: which protocol, and who. There is no password, so Redis' rules for a server without one hold: the
//! user `default` may give any, nobody else exists.

use super::{
    Format, REDIS_VERSION, Serving,
    client::{self, Client},
    parser::{Request, integer},
    session::{Outcome, Session, push_text},
    status::{Role, Status, StatusQuestion},
};
use crate::machine::kv::reply::Reply;

const WRONG_PASSWORD: Outcome = Outcome::Same(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n");

/// AUTH
pub(super) fn auth(_: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    match request.len() {
        2 => Outcome::error(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        ),
        3 if request.word(1) == b"default" => Outcome::OK,
        3 => WRONG_PASSWORD,
        _ => Outcome::SYNTAX,
    }
}

/// HELLO
pub(super) fn hello(session: &mut Session, request: &Request<'_>, _: &Serving) -> Outcome {
    let protocol = match (request.len() > 1).then(|| integer(request.word(1))) {
        None => None,
        Some(None) => return Outcome::error("ERR Protocol version is not an integer or out of range"),
        Some(Some(2)) => Some(Format::Resp2),
        Some(Some(3)) => Some(Format::Resp3),
        Some(Some(_)) => return Outcome::error("NOPROTO unsupported protocol version"),
    };
    let mut words = request.words_from(2);
    let mut user = None;
    while let Some(option) = words.next() {
        if option.eq_ignore_ascii_case(b"AUTH") && words.len() >= 2 {
            user = words.next();
            words.next();
        } else if option.eq_ignore_ascii_case(b"SETNAME") && words.len() >= 1 {
            match words.next().map(client::checked_name) {
                Some(Err(refusal)) => return refusal,
                // At once, as in Redis: it stays even where a later option is refused.
                Some(Ok(name)) => session.name = name,
                None => {}
            }
        } else {
            let mut text = b"-ERR Syntax error in HELLO option '".to_vec();
            push_text(option, 128, &mut text);
            text.extend_from_slice(b"'\r\n");
            return Outcome::Reply(text);
        }
    }
    if user.is_some_and(|user| user != b"default") {
        return WRONG_PASSWORD;
    }
    if let Some(protocol) = protocol {
        session.speak(protocol);
    }
    Outcome::Ask(StatusQuestion::Hello)
}

/// The answer to HELLO.
pub(super) fn greet(asker: &Client, status: &Status, mut reply: Reply<'_>) {
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(i64::from(asker.protocol));
    reply.bulk(b"id");
    reply.integer(asker.id as i64);
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    let primary = matches!(status.role, Role::Primary { .. });
    reply.bulk(if primary { b"master" } else { b"replica" });
    reply.bulk(b"modules");
    reply.array(0);
}
