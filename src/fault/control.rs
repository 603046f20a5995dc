//! Drives a relay from another process: one line of JSON with a command, one line of JSON with the answer, over a
//! Unix socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::links::{Command, Links};

/// The longest request, in bytes.
const MAX_REQUEST: u64 = 4096;
/// Requests served at once; further ones wait.
const MAX_OPEN: usize = 64;
/// How long a caller waits for the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A command and how long it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Heals the changed links after so many milliseconds, unless they were changed again.
    pub for_ms: Option<u64>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Done; a line for each link that is not whole now.
    Done(Vec<String>),
    /// Not done, and why.
    Refused(String),
}

/// Serves `socket` for ever. Each change is told to `changes` in words.
pub async fn serve(socket: UnixListener, links: Arc<Links>, changes: mpsc::Sender<String>) {
    let mut requests = JoinSet::new();
    loop {
        if requests.len() >= MAX_OPEN {
            requests.join_next().await;
        }
        while requests.try_join_next().is_some() {}
        let Ok((stream, _)) = socket.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let (links, changes) = (Arc::clone(&links), changes.clone());
        requests.spawn(async move {
            // A caller that goes away before its answer does not want it.
            let _ = tokio::time::timeout(ANSWER_WITHIN, one(stream, links, changes)).await;
        });
    }
}

async fn one(mut stream: tokio::net::UnixStream, links: Arc<Links>, changes: mpsc::Sender<String>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    AsyncBufReader::new(read.take(MAX_REQUEST)).read_line(&mut line).await?;
    let response = match serde_json::from_str::<Request>(&line) {
        Ok(request) => carry_out(&request, &links, &changes).await,
        Err(error) => Response::Refused(format!("not a request of this version: {error}")),
    };
    let mut answer = serde_json::to_vec(&response).map_err(io::Error::other)?;
    answer.push(b'\n');
    write.write_all(&answer).await
}

async fn carry_out(request: &Request, links: &Arc<Links>, changes: &mpsc::Sender<String>) -> Response {
    let changed = match links.apply(&request.command) {
        Ok(changed) => changed,
        Err(error) => return Response::Refused(error.to_string()),
    };
    if !changed.is_empty() {
        let _ = changes.send(words(request)).await;
    }
    if let Some(millis) = request.for_ms {
        let (links, changes) = (Arc::clone(links), changes.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            let healed: Vec<String> =
                links.heal_unchanged(&changed).into_iter().map(|(from, to)| format!("{from} → {to}")).collect();
            if !healed.is_empty() {
                let _ = changes.send(format!("healed {}", healed.join(", "))).await;
            }
        });
    }
    let lines = links.faults().into_iter().map(|((from, to), fault)| format!("{from} → {to}: {fault}"));
    Response::Done(lines.collect())
}

fn words(request: &Request) -> String {
    let what = match &request.command {
        Command::Cut { from, to } => format!("cut {from} ↔ {to}"),
        Command::OneWay { from, to } => format!("cut {from} → {to}"),
        Command::Delay { from, to, by_ms } => format!("delayed {from} → {to} by {by_ms} ms"),
        Command::Clog { from, to } => format!("clogged {from} → {to}"),
        Command::MidFrame { from, to } => format!("the next frame {from} → {to} is cut in its middle"),
        Command::Reset { from, to } => format!("reset the connections of {from} and {to}"),
        Command::Heal { from, to } => format!("healed {from} ↔ {to}"),
        Command::List => String::from("listed"),
    };
    match request.for_ms {
        Some(millis) => format!("{what} for {:?}", Duration::from_millis(millis)),
        None => what,
    }
}

/// Asks the relay behind `socket`.
///
/// # Errors
/// Nobody listens there, or no answer came.
pub fn ask(socket: &Path, request: &Request) -> io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    serde_json::from_str(&answer).map_err(io::Error::other)
}
