//! The http port: `/livez`, `/readyz`, `/status` and `/metrics`. Every answer goes through the loop, so that a loop
//! that hangs is not called alive.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::event::Event;
use super::metrics::Metrics;
use crate::http::{self, Answer};
use crate::protocol::ArbiterStatus;

/// What the loop is given to say how it stands.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves until the listener is dropped with the task.
pub(super) async fn serve(listener: TcpListener, events: mpsc::Sender<Event>, metrics: Arc<Metrics>) {
    http::serve(listener, move |request| {
        let (events, metrics) = (events.clone(), Arc::clone(&metrics));
        async move { answer(&request, &events, &metrics).await }
    })
    .await;
}

async fn answer(request: &Request<Incoming>, events: &mpsc::Sender<Event>, metrics: &Metrics) -> Answer {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
    }
    let Some(status) = status(events).await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the loop does not answer\n");
    };
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => match status.leader {
            Some(leader) if status.applied > 0 => text(StatusCode::OK, format!("ready; arbiter {leader} leads\n")),
            Some(_) => text(StatusCode::SERVICE_UNAVAILABLE, "nothing is applied yet\n"),
            None => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "no leader is known; is a majority of the arbiters running and reachable?\n",
            ),
        },
        "/status" => match serde_json::to_string_pretty(&status) {
            Ok(json) => typed(StatusCode::OK, "application/json", json + "\n"),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/metrics" => match metrics.encode(&status) {
            Ok(metrics) => typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "known here: /livez /readyz /status /metrics\n"),
    }
}

async fn status(events: &mpsc::Sender<Event>) -> Option<ArbiterStatus> {
    let asked = async {
        let (answer, status) = oneshot::channel();
        events.send(Event::Status { answer }).await.ok()?;
        status.await.ok()
    };
    timeout(PATIENCE, asked).await.ok().flatten()
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
