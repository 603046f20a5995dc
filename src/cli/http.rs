//! How the operations commands talk to a replica's http port: one short request at a time, with a deadline, and
//! errors that tell a person what happened.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::failure::{ExitCode, Failure};

/// Largest body that is read.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// A replica's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The http status code.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

impl Answer {
    /// True for 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What the replica says went wrong: its body in one line, or the code if it said nothing.
    pub fn reason(&self) -> String {
        let said = serde_json::from_str::<serde_json::Value>(&self.body)
            .ok()
            .and_then(|body| Some(body.get("error").or_else(|| body.get("reason"))?.as_str()?.to_owned()));
        match said.unwrap_or_else(|| self.body.trim().to_owned()) {
            empty if empty.is_empty() => format!("http status {}", self.status),
            said => said,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nothing listens there, or the way there is closed.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// Whom we called.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No answer in time: stopped, overloaded, or cut off.
    #[error("{address} did not answer {path} within {waited:?}")]
    TimedOut {
        /// Whom we called.
        address: String,
        /// What we asked.
        path: String,
        /// For how long we waited.
        waited: Duration,
    },
    /// Something answered that does not speak as a replica does.
    #[error("{address} gave no proper answer to {path}: {what}; is this the http address of a replica?")]
    Nonsense {
        /// Whom we called.
        address: String,
        /// What we asked.
        path: String,
        /// What was wrong.
        what: String,
    },
}

/// To whoever needs the answer, one that does not come in time is none: nobody answered. Where the deadline is that of
/// the work itself, the command says so.
impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Failure::new(ExitCode::Unreachable, error.to_string())
    }
}

/// Asks for `path`.
///
/// # Errors
/// See [`HttpError`]; any http status is an answer.
pub async fn get(address: &str, path: &str, deadline: Duration) -> Result<Answer, HttpError> {
    ask(Method::GET, address, path, deadline).await
}

/// Asks `address` to do `path`. No answer says nothing about whether it was done.
///
/// # Errors
/// See [`HttpError`]; any http status is an answer.
pub async fn post(address: &str, path: &str, deadline: Duration) -> Result<Answer, HttpError> {
    ask(Method::POST, address, path, deadline).await
}

/// Asks for `path` and reads the JSON it answers with; an answer other than success is an error here.
///
/// # Errors
/// See [`HttpError`].
pub async fn get_json<T: DeserializeOwned>(address: &str, path: &str, deadline: Duration) -> Result<T, HttpError> {
    parse(address, path, &get(address, path, deadline).await?)
}

/// Asks `address` to do `path` and reads the JSON it answers with.
///
/// # Errors
/// See [`HttpError`].
pub async fn post_json<T: DeserializeOwned>(address: &str, path: &str, deadline: Duration) -> Result<T, HttpError> {
    parse(address, path, &post(address, path, deadline).await?)
}

fn parse<T: DeserializeOwned>(address: &str, path: &str, answer: &Answer) -> Result<T, HttpError> {
    let nonsense = |what| HttpError::Nonsense { address: address.to_owned(), path: path.to_owned(), what };
    if !answer.is_success() {
        return Err(nonsense(answer.reason()));
    }
    serde_json::from_str(&answer.body).map_err(|error| nonsense(error.to_string()))
}

async fn ask(method: Method, address: &str, path: &str, deadline: Duration) -> Result<Answer, HttpError> {
    match tokio::time::timeout(deadline, exchange(method, address, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(HttpError::TimedOut { address: address.to_owned(), path: path.to_owned(), waited: deadline }),
    }
}

async fn exchange(method: Method, address: &str, path: &str) -> Result<Answer, HttpError> {
    let nonsense = |what: String| HttpError::Nonsense { address: address.to_owned(), path: path.to_owned(), what };
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| HttpError::Unreachable { address: address.to_owned(), source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| nonsense(e.to_string()))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, address)
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| nonsense(error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| nonsense(error.to_string()))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_BODY);
        let body = body.collect().await.map_err(|error| nonsense(error.to_string()))?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    };
    // The connection must be driven while the answer is awaited; whichever ends first, the answer decides.
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

/// `text` as part of a query: everything but letters, digits, `-`, `.` and `_` is escaped.
pub fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(10);

    /// Answers one connection with `response`; gives back what was asked.
    async fn serve(response: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut piece = [0; 1024];
                let read = stream.read(&mut piece).await.unwrap();
                asked.extend_from_slice(&piece[..read]);
            }
            stream.write_all(response.as_bytes()).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        (address, asked)
    }

    #[tokio::test]
    async fn an_answer_comes_back_with_its_status() {
        let (address, asked) = serve("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"index\":7}").await;
        let answer: serde_json::Value = post_json(&address, "/mark", LONG).await.unwrap();
        assert_eq!(answer["index"], 7);
        assert!(asked.await.unwrap().starts_with("POST /mark HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer_with_a_reason() {
        let (address, _asked) =
            serve("HTTP/1.1 409 Conflict\r\ncontent-length: 25\r\n\r\n{\"error\":\"alone in sync\"}").await;
        let answer = post(&address, "/switchover", LONG).await.unwrap();
        assert_eq!((answer.status, answer.reason().as_str()), (409, "alone in sync"));
    }

    #[tokio::test]
    async fn silence_and_absence_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let silent = get(&address, "/status", Duration::from_millis(30)).await.unwrap_err();
        assert!(matches!(silent, HttpError::TimedOut { .. }), "{silent}");
        assert_eq!(Failure::from(silent).code, ExitCode::Unreachable);
        drop(listener);
        let absent = get(&address, "/status", LONG).await.unwrap_err();
        assert!(matches!(absent, HttpError::Unreachable { .. }), "{absent}");
        assert_eq!(Failure::from(absent).code, ExitCode::Unreachable);
    }

    #[tokio::test]
    async fn something_else_on_the_port_is_nonsense() {
        let (address, _asked) = serve("-ERR unknown command\r\n").await;
        let error = get(&address, "/status", LONG).await.unwrap_err();
        assert!(matches!(error, HttpError::Nonsense { .. }), "{error}");
    }

    #[test]
    fn names_survive_a_query() {
        assert_eq!(escape("replica-1.a_b"), "replica-1.a_b");
        assert_eq!(escape("a&b c"), "a%26b%20c");
    }
}
