//! Sockets as every part of Cutover uses them: dialled through [`Routes`], tuned alike, and read by frames.
//!
//! Deliberately not here: what the frames mean, and when to dial again.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use serde::de::DeserializeOwned;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use crate::wire::{FrameDecoder, FrameError, decode_body};

/// How long bytes may stay without an acknowledgement from the other machine's kernel before a connection is given up,
/// unless [`give_up_after`] says otherwise.
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);

/// Addresses that are dialled elsewhere than they say: a fault proxy, a tunnel. Empty by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes(Vec<(String, String)>);

impl Routes {
    /// Each pair is an advertised address and the one to dial instead of it.
    pub fn new(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// Where to dial for `advertised`.
    pub fn map<'a>(&'a self, advertised: &'a str) -> &'a str {
        self.0.iter().find(|(from, _)| from == advertised).map_or(advertised, |(_, to)| to)
    }
}

/// Connects to `address` (`host:port`) as `routes` says, within `timeout`.
///
/// # Errors
/// Whatever the system said, or [`io::ErrorKind::TimedOut`].
pub async fn dial(address: &str, routes: &Routes, timeout: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(routes.map(address)))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {timeout:?}")))??;
    tune(&stream)?;
    Ok(stream)
}

/// Sends small messages at once, and notices a machine that is gone: by keepalive when idle, by unacknowledged bytes
/// otherwise.
///
/// # Errors
/// The socket is already gone.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));
    socket.set_tcp_keepalive(&keepalive)?;
    give_up_after(stream, UNACKNOWLEDGED)
}

/// Gives the connection up when bytes stay unacknowledged for `time`, instead of trying again ever more rarely: after a
/// partition heals, a new connection works sooner than the old one's next attempt. Only where the system can.
///
/// # Errors
/// The socket is already gone.
pub fn give_up_after(stream: &TcpStream, time: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_user_timeout(Some(time))?;
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, time);
    Ok(())
}

/// Why no further message can be read from a connection.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The other side closed it, between two frames.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side closed it in the middle of a frame.
    #[error("the other side closed the connection in the middle of a frame")]
    Cut,
    /// The system says it is broken.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// What came is not ours.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads the next message. Safe to cancel: what was read stays in `buffer`.
///
/// # Errors
/// The connection cannot go on; see [`ReceiveError`].
pub async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    decoder: &FrameDecoder,
) -> Result<T, ReceiveError> {
    loop {
        if let Some(body) = decoder.decode(buffer)? {
            return Ok(decode_body(&body)?);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(if buffer.is_empty() { ReceiveError::Closed } else { ReceiveError::Cut });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routed_addresses_are_dialled_elsewhere() {
        let routes = Routes::new(vec![("a:1".into(), "proxy:9".into())]);
        assert_eq!(routes.map("a:1"), "proxy:9");
        assert_eq!(routes.map("b:1"), "b:1");
    }
}
