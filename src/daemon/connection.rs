//! A connection's socket and buffers: what was read and not yet understood, what was released and not yet written.
//!
//! The socket is read and written without the C library: there both are points where a thread may be cancelled, which
//! costs each of them as much as some steps of an operation.
//!
//! Deliberately not here: what the bytes mean (`redis`, `library`, `peers`), and replies that still wait (`crate::port`).

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use mio::net::TcpStream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::library::Library;
use super::peers::Peer;
use super::reactor::{News, Reactor};
use super::redis::Redis;
use super::slab::Key;

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
    key: Key,
    /// It stands on a list of those to look at.
    listed: bool,
    /// What the system has told of the socket, until a call finds that it is so no longer.
    readable: bool,
    writable: bool,
    /// Behind what can be read comes the end or an error, and no news of it.
    ended: bool,
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
    /// A connected socket, which is watched from now on.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn new(mut stream: TcpStream, key: Key, reactor: &Reactor, now: Duration) -> io::Result<Self> {
        reactor.watch(&mut stream, key.place())?;
        Ok(Self {
            stream,
            key,
            listed: false,
            readable: false,
            writable: true,
            ended: false,
            output: BytesMut::new(),
            unread: 0,
            closing: false,
            dirty: false,
            blocked: false,
            heard: now,
            weighed: 0,
        })
    }

    /// The other side's address.
    pub fn peer(&self) -> String {
        self.stream.peer_addr().map_or_else(|_| String::from("?"), |address| address.to_string())
    }

    /// Takes the system's news; what changes something lists the connection for the next turn.
    pub fn hear(&mut self, news: News, list: &mut VecDeque<Key>) {
        let changes =
            (news.readable && !self.readable) || (news.writable && !self.writable) || (news.ended && !self.ended);
        self.readable |= news.readable;
        self.writable |= news.writable;
        self.ended |= news.ended;
        if changes {
            self.again(list);
        }
    }

    /// True while there may be something to read; the connection is listed when there is again.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// The connection is being looked at: what comes from now on lists it again.
    pub fn looked_at(&mut self) {
        self.listed = false;
    }

    /// Lists the connection for the next turn.
    pub fn again(&mut self, list: &mut VecDeque<Key>) {
        if !std::mem::replace(&mut self.listed, true) {
            list.push_back(self.key);
        }
    }

    /// Reads what is there into `buffer`, as much as it has room, by way of `scratch`: a buffer's room is memory that was
    /// never written, and there is no safe way to have the system write to it.
    pub fn receive(&mut self, buffer: &mut BytesMut, scratch: &mut [u8]) -> Received {
        if !self.readable {
            return Received::Nothing;
        }
        let room = (buffer.capacity() - buffer.len()).clamp(1, scratch.len());
        loop {
            match recv(&self.stream, &mut scratch[..room], RecvFlags::empty()).map(|(bytes, _)| bytes) {
                Ok(0) => return Received::End,
                Ok(bytes) => {
                    // Less than there was room for is all: what comes later is news again.
                    self.readable = bytes == room || self.ended;
                    buffer.extend_from_slice(&scratch[..bytes]);
                    return Received::Bytes(bytes);
                }
                Err(Errno::WOULDBLOCK) => {
                    self.readable = false;
                    return Received::Nothing;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Received::Broken(error.into()),
            }
        }
    }

    /// Writes what the socket takes; the number of bytes. What is left goes when the socket lists the connection.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self) -> io::Result<usize> {
        let mut written = 0;
        while !self.output.is_empty() {
            if !self.writable {
                return Ok(written);
            }
            match send(&self.stream, &self.output, SendFlags::NOSIGNAL) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    // The system tells when there is room again, also after a part.
                    self.writable = bytes == self.output.len();
                    self.output.advance(bytes);
                    written += bytes;
                }
                Err(Errno::WOULDBLOCK) => self.writable = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
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
