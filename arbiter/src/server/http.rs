//! The http port: `/livez`, `/readyz`, `/status` and `/metrics`. Every answer goes through the loop, so that a loop
//! that hangs is not called alive.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::event::Event;
use super::metrics::Metrics;
use crate::protocol::ArbiterStatus;

/// Requests served at once.
const CONNECTIONS: usize = 64;
/// What the loop is given to say how it stands.
const PATIENCE: Duration = Duration::from_secs(2);
/// What one connection is given for its one request.
const CONNECTION: Duration = Duration::from_secs(10);

/// Serves until the listener is dropped with the task.
pub(super) async fn serve(listener: TcpListener, events: mpsc::Sender<Event>, metrics: Arc<Metrics>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed; a connection waits in the kernel until there is a place.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (events, metrics) = (events.clone(), Arc::clone(&metrics));
                tokio::spawn(async move {
                    // A connection that breaks or takes too long concerns nobody else.
                    let _ = timeout(CONNECTION, converse(stream, events, metrics)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "http.accept_failed");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, events: mpsc::Sender<Event>, metrics: Arc<Metrics>) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let (events, metrics) = (events.clone(), Arc::clone(&metrics));
        async move { Ok::<_, Infallible>(answer(&request, &events, &metrics).await) }
    });
    http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await
}

async fn answer(request: &Request<Incoming>, events: &mpsc::Sender<Event>, metrics: &Metrics) -> Response<Full<Bytes>> {
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

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
