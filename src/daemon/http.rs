//! The http port: health for load balancers, metrics, status, and the operator's requests.
//!
//! | request | answer |
//! |---|---|
//! | `GET /livez` | 200 while the loop turns |
//! | `GET /readyz` (`?verbose`) | 200 when it serves or is in sync |
//! | `GET /primary` | 200 on the serving primary |
//! | `GET /backup` (`?lag=entries`) | 200 on an in-sync backup, at most so far behind |
//! | `GET /metrics`, `GET /status` | Prometheus' text, JSON |
//! | `POST /switchover` (`?to=name`) | waits; `{"ok":record}`, or 409 `{"error":why}` |
//! | `POST /mark` | `{"index":n}`: every replica computes its digest there |
//! | `POST /fence?group=g&epoch=n&until=ms` | waits; `{"before":epoch}` once nothing below `n` is done any more |
//! | `GET /digest?index=n` | waits a little; `{"index":n,"digest":"hex"}` |

use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use cutover_arbiter::http::{self, Answer};
use cutover_arbiter::record::{Epoch, ReplicaName};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::metrics::{self, Counters};
use super::side::{Message, Question};
use super::status::StatusBody;
use crate::replica::Role;

/// A loop that does not answer within this time is not alive.
const ALIVE: Duration = Duration::from_secs(2);
/// How long a fence may take to be durable.
const FENCE: Duration = Duration::from_secs(30);
/// How long a digest is waited for.
const DIGEST: Duration = Duration::from_secs(10);
/// Longer than any switchover timeout that makes sense; the core gives up earlier.
const SWITCHOVER: Duration = Duration::from_secs(120);

/// Serves until the runtime ends.
pub async fn serve(listener: TcpListener, messages: mpsc::Sender<Message>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "http.unavailable");
            return;
        }
    };
    http::serve(listener, move |request| answer(request, messages.clone())).await;
}

async fn answer(request: Request<Incoming>, messages: mpsc::Sender<Message>) -> Answer {
    let uri = request.uri();
    let query = Query(uri.query().unwrap_or_default());
    match (request.method(), uri.path()) {
        (&Method::GET | &Method::HEAD, "/livez") => match status(&messages).await {
            Some(_) => plain(StatusCode::OK, "ok\n"),
            None => silent(),
        },
        (&Method::GET | &Method::HEAD, "/readyz") => with_status(&messages, |status, _| ready(&status, query)).await,
        (&Method::GET | &Method::HEAD, "/primary") => {
            with_status(&messages, |status, _| verdict(status.serving, &role(&status))).await
        }
        (&Method::GET | &Method::HEAD, "/backup") => with_status(&messages, |status, _| backup(&status, query)).await,
        (&Method::GET, "/metrics") => {
            with_status(&messages, |status, counters| {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                respond(StatusCode::OK, kind, metrics::page(status, counters))
            })
            .await
        }
        (&Method::GET, "/status") => with_status(&messages, |status, _| reply(StatusCode::OK, &json!(status))).await,
        (&Method::POST, "/switchover") => switchover(&messages, query).await,
        (&Method::POST, "/mark") => mark(&messages).await,
        (&Method::POST, "/fence") => fence(&messages, query).await,
        (&Method::GET, "/digest") => digest(&messages, query).await,
        (
            _,
            "/livez" | "/readyz" | "/primary" | "/backup" | "/metrics" | "/status" | "/switchover" | "/mark" | "/fence"
            | "/digest",
        ) => {
            plain(StatusCode::METHOD_NOT_ALLOWED, "wrong method: switchover, mark and fence take POST, all else GET\n")
        }
        _ => plain(
            StatusCode::NOT_FOUND,
            "no such page; there are /livez /readyz /primary /backup /metrics /status /switchover /mark /fence /digest\n",
        ),
    }
}

/// The query part of an address.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn get(self, name: &str) -> Option<&'a str> {
        self.0.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

async fn ask<T>(
    messages: &mpsc::Sender<Message>,
    patience: Duration,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Option<T> {
    let (sender, answer) = oneshot::channel();
    let asked = async {
        messages.send(Message::Question(question(sender))).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(patience, asked).await.ok().flatten()
}

async fn status(messages: &mpsc::Sender<Message>) -> Option<(StatusBody, Counters)> {
    ask(messages, ALIVE, Question::Status).await
}

async fn with_status(messages: &mpsc::Sender<Message>, then: impl FnOnce(StatusBody, Counters) -> Answer) -> Answer {
    match status(messages).await {
        Some((status, counters)) => then(status, counters),
        None => silent(),
    }
}

fn role(status: &StatusBody) -> String {
    json!(status.role).as_str().unwrap_or("unknown").to_owned()
}

fn verdict(good: bool, role: &str) -> Answer {
    plain(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, format!("{role}\n"))
}

fn ready(status: &StatusBody, query: Query<'_>) -> Answer {
    let good = status.serving || (status.in_sync && status.role == Role::Backup);
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if let Some(command) = &status.waits_for_seize {
        let why = "every in-sync member came back in another life; an operator must decide";
        return plain(code, format!("not ready: {why}: {command}\n"));
    }
    if let Some(why) = &status.fenced {
        return plain(code, format!("not ready: {why}\n"));
    }
    if query.get("verbose").is_none() {
        return plain(code, if good { "ok\n" } else { "not ready\n" });
    }
    let text = format!(
        "role {}\nepoch {}\nin_sync {}\nserving {}\nlag_entries {}\n{}\n",
        role(status),
        status.epoch,
        status.in_sync,
        status.serving,
        status.lag_entries,
        if good { "ready" } else { "not ready" }
    );
    plain(code, text)
}

fn backup(status: &StatusBody, query: Query<'_>) -> Answer {
    let most = match query.get("lag").map(str::parse::<u64>) {
        None => u64::MAX,
        Some(Ok(most)) => most,
        Some(Err(_)) => return plain(StatusCode::BAD_REQUEST, "lag is a number of entries: /backup?lag=100\n"),
    };
    verdict(status.role == Role::Backup && status.in_sync && status.lag_entries <= most, &role(status))
}

async fn switchover(messages: &mpsc::Sender<Message>, query: Query<'_>) -> Answer {
    let to = match query.get("to").filter(|to| !to.is_empty()).map(str::parse::<ReplicaName>) {
        None => None,
        Some(Ok(to)) => Some(to),
        Some(Err(error)) => return reply(StatusCode::BAD_REQUEST, &json!({ "error": error.to_string() })),
    };
    match ask(messages, SWITCHOVER, |sender| Question::Switchover(to, sender)).await {
        Some(Ok(record)) => reply(StatusCode::OK, &json!({ "ok": record })),
        Some(Err(error)) => reply(StatusCode::CONFLICT, &json!({ "error": error })),
        None => reply(
            StatusCode::GATEWAY_TIMEOUT,
            &json!({ "error": "the replica did not say how the switchover ended; look at `cutover status`" }),
        ),
    }
}

async fn mark(messages: &mpsc::Sender<Message>) -> Answer {
    match ask(messages, ALIVE, Question::Mark).await {
        Some(Some(index)) => reply(StatusCode::OK, &json!({ "index": index })),
        Some(None) => {
            let error = "only a serving primary places marks; ask the primary (see `cutover status`)";
            reply(StatusCode::CONFLICT, &json!({ "error": error }))
        }
        None => silent(),
    }
}

/// Never without the group's name: an address that has come to be another group's must not fence that.
async fn fence(messages: &mpsc::Sender<Message>, query: Query<'_>) -> Answer {
    let number = |name| query.get(name).map(str::parse::<u64>);
    let (Some(group), Some(Ok(epoch)), Some(Ok(until))) = (query.get("group"), number("epoch"), number("until")) else {
        let error = "a fence needs group, epoch and until; it is part of `cutover adopt`";
        return reply(StatusCode::BAD_REQUEST, &json!({ "error": error }));
    };
    let Some((status, _)) = status(messages).await else { return silent() };
    if status.group != group {
        let error = format!("this is {} of group {}", status.name, status.group);
        return reply(StatusCode::CONFLICT, &json!({ "error": error }));
    }
    let until = Duration::from_millis(until);
    match ask(messages, FENCE, |sender| Question::Fence { epoch: Epoch(epoch), until, sender }).await {
        Some(Ok(before)) => reply(StatusCode::OK, &json!({ "before": before })),
        Some(Err(refused)) => reply(StatusCode::CONFLICT, &json!({ "error": refused.to_string() })),
        None => silent(),
    }
}

async fn digest(messages: &mpsc::Sender<Message>, query: Query<'_>) -> Answer {
    let Some(Ok(index)) = query.get("index").map(str::parse::<u64>) else {
        return reply(StatusCode::BAD_REQUEST, &json!({ "error": "say at which index: /digest?index=42" }));
    };
    match ask(messages, DIGEST, |sender| Question::Digest(index, sender)).await {
        Some(digest) => reply(StatusCode::OK, &json!({ "index": index, "digest": format!("{digest:016x}") })),
        None => {
            let error = "no digest at this index: place a mark first (POST /mark on the primary)";
            reply(StatusCode::NOT_FOUND, &json!({ "error": error }))
        }
    }
}

fn silent() -> Answer {
    plain(StatusCode::SERVICE_UNAVAILABLE, "the loop did not answer in time\n")
}

fn plain(code: StatusCode, text: impl Into<String>) -> Answer {
    respond(code, "text/plain; charset=utf-8", text.into())
}

fn reply(code: StatusCode, body: &serde_json::Value) -> Answer {
    respond(code, "application/json", format!("{body}\n"))
}

fn respond(code: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_by_name() {
        let query = Query("verbose&lag=3&to=");
        assert_eq!((query.get("verbose"), query.get("lag"), query.get("to")), (Some(""), Some("3"), Some("")));
        assert_eq!(query.get("la"), None);
    }
}
