//! An http port as every daemon here has it: one request a connection, and every step of it bounded, so that whoever
//! is silent, slow or gone keeps a place for a few seconds, and a health check waits no longer for one.
//!
//! Deliberately not here: what is asked and answered, and how long an answer may take to be found.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;

use crate::net::tune;

/// Connections served at a time; more wait in the kernel.
pub const CONNECTIONS: usize = 256;

/// An answer; what is answered here fits in memory.
pub type Answer = Response<Full<Bytes>>;

/// What one connection may take.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Until its request's head is there.
    head: Duration,
    /// From the answer's first byte until the kernel has its last.
    taken: Duration,
}

const PATIENCE: Patience = Patience { head: Duration::from_secs(3), taken: Duration::from_secs(5) };

/// Serves until the task ends.
pub async fn serve<A, F>(listener: TcpListener, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    serve_with(listener, PATIENCE, answer).await;
}

async fn serve_with<A, F>(listener: TcpListener, patience: Patience, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed; a connection waits in the kernel until there is a place.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    converse(stream, patience, answer).await;
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

/// One request and its answer. A connection that breaks or takes too long concerns nobody else.
async fn converse<A, F>(stream: TcpStream, patience: Patience, answer: A)
where
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    if tune(&stream).is_err() {
        return;
    }
    let answered = Notify::new();
    let service = service_fn(|request| {
        let (asked, answered) = (answer(request), &answered);
        async move {
            let answer = asked.await;
            answered.notify_one();
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_buf_size(64 << 10)
        // A second request would begin to wait, and an unread answer to grow, anew.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let too_late = async {
        answered.notified().await;
        sleep(patience.taken).await;
    };
    tokio::select! {
        served = pin!(served) => if let Err(error) = served {
            tracing::debug!(%error, "http.connection");
        },
        () = pin!(too_late) => tracing::debug!("http.unread an answer was not taken in time"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SHORT: Patience = Patience { head: Duration::from_millis(300), taken: Duration::from_millis(500) };
    /// More than there are places.
    const CROWD: usize = CONNECTIONS + 44;

    /// How long a health check waits behind a crowd of which each says `said` and then only holds on.
    fn waits_behind(said: &'static [u8]) -> Duration {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            // More than the kernel takes off our hands; the same for all.
            let large = Bytes::from(vec![b'.'; 32 << 20]);
            tokio::spawn(serve_with(listener, SHORT, move |request: Request<Incoming>| {
                let answer = if request.uri().path() == "/large" { large.clone() } else { large.slice(..2) };
                async { Response::new(Full::new(answer)) }
            }));
            let mut crowd = Vec::new();
            for _ in 0..CROWD {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(said).await.unwrap();
                crowd.push(stream);
            }
            let start = Instant::now();
            let mut check = TcpStream::connect(address).await.unwrap();
            check.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            tokio::time::timeout(Duration::from_secs(20), check.read_to_string(&mut answer)).await.unwrap().unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            start.elapsed()
        })
    }

    /// Everybody before it goes within one patience, two rounds of places in all, and a slow machine is let be one.
    const BOUND: Duration = Duration::from_secs(4);

    #[test]
    fn a_crowd_that_says_half_a_request_gives_way() {
        for half in [&b""[..], b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: a\r\n"] {
            let waited = waits_behind(half);
            assert!(waited < BOUND, "{waited:?} behind {:?}", String::from_utf8_lossy(half));
        }
    }

    #[test]
    fn a_crowd_that_reads_no_answer_gives_way() {
        let waited = waits_behind(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(waited < BOUND, "{waited:?}");
    }

    #[test]
    fn a_crowd_that_keeps_its_connections_after_an_answer_gives_way() {
        let waited = waits_behind(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        assert!(waited < BOUND, "{waited:?}");
    }

    #[test]
    fn a_crowd_that_owes_the_rest_of_a_body_gives_way() {
        let waited = waits_behind(b"POST /mark HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n.");
        assert!(waited < BOUND, "{waited:?}");
    }
}
