//! One connection at a time: dialled, read by frames, written once per turn.
//!
//! Deliberately not here: what the messages mean, and when to dial again.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use cutover_arbiter::net::{Routes, dial};
use cutover_arbiter::wire::{DEFAULT_LIMIT, FrameDecoder, HANDSHAKE_LIMIT, Port, decode_body, encode_frame};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::api::ClientOptions;
use super::core::Connection;
use crate::protocol::client::{FromClient, ToClient};

/// Room for at least so many bytes is made before a read.
const READ: usize = 16 * 1024;
/// A write buffer that grew beyond this is given back when it is empty.
const KEEP: usize = 1024 * 1024;

/// What happened to the connection.
#[derive(Debug)]
pub(super) enum SocketEvent {
    /// It stands.
    Connected,
    /// Bytes came; see [`Socket::next_message`].
    Readable,
    /// It is over, or could not be made.
    Lost(String),
}

type Dialing = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

enum State {
    None,
    Dialing {
        connection: Connection,
        address: String,
        dialing: Dialing,
    },
    Open(Open),
    /// Told as lost, not yet hung up on.
    Broken {
        connection: Connection,
    },
}

struct Open {
    connection: Connection,
    address: String,
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    decoder: FrameDecoder,
}

/// The driver's one socket.
pub(super) struct Socket {
    state: State,
    routes: Routes,
    connect_timeout: Duration,
    keepalive: Duration,
}

impl Socket {
    pub(super) fn new(options: &ClientOptions) -> Self {
        Self {
            state: State::None,
            routes: Routes::new(options.routes.clone()),
            connect_timeout: options.connect_timeout,
            keepalive: options.keepalive,
        }
    }

    pub(super) fn connection(&self) -> Option<Connection> {
        match &self.state {
            State::None => None,
            State::Dialing { connection, .. } | State::Broken { connection } => Some(*connection),
            State::Open(open) => Some(open.connection),
        }
    }

    pub(super) fn dial(&mut self, connection: Connection, address: String) {
        let (routes, timeout, to) = (self.routes.clone(), self.connect_timeout, address.clone());
        let dialing = Box::pin(async move { dial(&to, &routes, timeout).await });
        self.state = State::Dialing { connection, address, dialing };
    }

    pub(super) fn hang_up(&mut self, connection: Connection) {
        if self.connection() == Some(connection) {
            self.flush();
            self.state = State::None;
        }
    }

    pub(super) fn send(&mut self, connection: Connection, message: &FromClient) {
        if let State::Open(open) = &mut self.state
            && open.connection == connection
        {
            encode_frame(&mut open.output, Port::Client, message);
        }
    }

    /// Writes what the kernel takes at once; the rest goes out while the next event is waited for.
    pub(super) fn flush(&mut self) {
        let State::Open(open) = &mut self.state else { return };
        while !open.output.is_empty() {
            match open.stream.try_write(&open.output) {
                Ok(count) => open.output.advance(count),
                // A broken connection tells itself with the next event.
                Err(_) => return,
            }
        }
        if open.output.capacity() > KEEP {
            open.output = BytesMut::new();
        }
    }

    /// Waits for the next thing to happen. Safe to cancel.
    pub(super) async fn event(&mut self) -> SocketEvent {
        let event = match &mut self.state {
            State::None | State::Broken { .. } => return pending().await,
            State::Dialing { dialing, .. } => dialing.as_mut().await.map(Some),
            State::Open(open) => open.readable().await.map(|()| None),
        };
        match event {
            Ok(None) => SocketEvent::Readable,
            Ok(Some(stream)) => self.opened(stream),
            Err(error) => self.broken(&error),
        }
    }

    fn opened(&mut self, stream: TcpStream) -> SocketEvent {
        if let State::Dialing { connection, address, .. } = std::mem::replace(&mut self.state, State::None) {
            // Only a hint to the kernel: without it a dead connection is noticed later.
            let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(self.keepalive));
            self.state = State::Open(Open {
                connection,
                address,
                stream,
                input: BytesMut::new(),
                output: BytesMut::new(),
                decoder: FrameDecoder::new(Port::Client, HANDSHAKE_LIMIT),
            });
        }
        SocketEvent::Connected
    }

    fn broken(&mut self, error: &io::Error) -> SocketEvent {
        let problem = match std::mem::replace(&mut self.state, State::None) {
            State::Dialing { connection, address, .. } => {
                self.state = State::Broken { connection };
                format!("{address} cannot be reached: {error}")
            }
            State::Open(Open { connection, address, .. }) => {
                self.state = State::Broken { connection };
                format!("the connection to {address} was lost: {error}")
            }
            other => {
                self.state = other;
                error.to_string()
            }
        };
        SocketEvent::Lost(problem)
    }

    /// The next message that has arrived whole.
    ///
    /// # Errors
    /// What came is not ours; the connection cannot go on.
    pub(super) fn next_message(&mut self) -> Result<Option<ToClient>, String> {
        let State::Open(open) = &mut self.state else { return Ok(None) };
        let problem = |error| format!("{} is no replica of ours: {error}", open.address);
        let Some(body) = open.decoder.decode(&mut open.input).map_err(problem)? else { return Ok(None) };
        let message = decode_body(&body).map_err(problem)?;
        if let ToClient::Welcome { .. } = message {
            open.decoder.set_limit(DEFAULT_LIMIT);
        }
        Ok(Some(message))
    }
}

impl Open {
    /// Reads once, and meanwhile writes what is left.
    async fn readable(&mut self) -> io::Result<()> {
        if self.input.capacity() - self.input.len() < READ {
            self.input.reserve(4 * READ);
        }
        let (mut reading, mut writing) = self.stream.split();
        loop {
            tokio::select! {
                count = reading.read_buf(&mut self.input) => {
                    return match count? {
                        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the replica")),
                        _ => Ok(()),
                    };
                }
                count = writing.write(&self.output), if !self.output.is_empty() => self.output.advance(count?),
            }
        }
    }
}
