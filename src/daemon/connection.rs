//! A connection's socket and buffers: what was read and not yet understood, what was released and not yet written.
//!
//! Deliberately not here: what the bytes mean (`redis`, `library`, `peers`), and replies that still wait (`crate::port`).

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::net::TcpStream;

use super::library::Library;
use super::peers::Peer;
use super::ready::{ConnectionWaker, Key, Ready};
use super::redis::Redis;

/// An empty output buffer with more room than this goes back to the allocator, in bytes.
const KEEP: usize = 256 << 10;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Its socket.
    pub transport: Transport,
    /// Its protocol.
    pub kind: Kind,
}

/// Who is at the other end.
#[derive(Debug)]
pub enum Kind {
    /// A Redis client.
    Redis(Box<Redis>),
    /// The client library.
    Library(Box<Library>),
    /// Another replica.
    Peer(Peer),
}

/// What a read brought.
#[derive(Debug)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now; the connection is listed when there is more.
    Nothing,
    /// The other side will send no more.
    End,
    /// The connection is gone.
    Broken(io::Error),
}

/// Why a connection's requests were left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Everything that came is done; read more.
    Hungry,
    /// Admission is paused.
    Parked,
    /// Its own replies must go first; releasing them lists it again.
    Blocked,
    /// The turn is over for it; it is listed again.
    Again,
    /// Drop it, without another byte.
    Drop,
}

/// A socket and its output buffer.
#[derive(Debug)]
pub struct Transport {
    stream: TcpStream,
    listed: Arc<ConnectionWaker>,
    waker: Waker,
    /// Released, not yet written.
    pub output: BytesMut,
    /// What it left of that when it was written to last, in bytes.
    pub unread: usize,
    /// Close once everything is written; nothing is read any more.
    pub closing: bool,
    /// It stands on the list of those with something to write.
    pub dirty: bool,
    /// Its requests wait for its own replies; releasing one lists it again.
    pub blocked: bool,
    /// When it was heard last, on the boot clock.
    pub heard: Duration,
    /// Bytes that it held when it was weighed last.
    pub weighed: usize,
}

impl Transport {
    /// A connected socket.
    pub fn new(stream: TcpStream, key: Key, ready: &Arc<Ready>, now: Duration) -> Self {
        let listed = ready.waker(key);
        let waker = Waker::from(Arc::clone(&listed));
        Self {
            stream,
            listed,
            waker,
            output: BytesMut::new(),
            unread: 0,
            closing: false,
            dirty: false,
            blocked: false,
            heard: now,
            weighed: 0,
        }
    }

    /// The other side's address.
    pub fn peer(&self) -> String {
        self.stream.peer_addr().map_or_else(|_| String::from("?"), |address| address.to_string())
    }

    /// The connection is being looked at.
    pub fn looked_at(&self) {
        self.listed.looked_at();
    }

    /// Lists the connection for the next turn.
    pub fn again(&self) {
        self.waker.wake_by_ref();
    }

    /// Reads what is there into `buffer`, as much as it has room.
    pub fn receive(&mut self, buffer: &mut BytesMut) -> Received {
        let mut context = Context::from_waker(&self.waker);
        match pin!(self.stream.read_buf(buffer)).poll(&mut context) {
            Poll::Pending => Received::Nothing,
            Poll::Ready(Ok(0)) => Received::End,
            Poll::Ready(Ok(bytes)) => Received::Bytes(bytes),
            Poll::Ready(Err(error)) => Received::Broken(error),
        }
    }

    /// Writes what the socket takes; the number of bytes. What is left goes when the socket lists the connection.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self) -> io::Result<usize> {
        let mut context = Context::from_waker(&self.waker);
        let mut written = 0;
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(&mut context, &self.output) {
                Poll::Pending => return Ok(written),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => {
                    self.output.advance(bytes);
                    written += bytes;
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        if self.output.capacity() > KEEP {
            self.output = BytesMut::new();
        } else {
            self.output.clear();
        }
        Ok(written)
    }
}
