//! The peer port: frames between replicas, and the numbers of their links.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use bytes::{Buf as _, BytesMut};
use cutover_arbiter::wire::{DEFAULT_LIMIT, FrameDecoder, FrameError, HANDSHAKE_LIMIT, Port};
use mio::net::TcpStream;

use super::connection::{Connection, Kind, Progress, Received, Transport};
use super::side::Errand;
use super::slab::Key;
use super::socket;
use super::turn::{READ_PER_TURN, Shell};
use crate::machine::StateMachine;
use crate::protocol::peer::{self, PeerMessage};
use crate::replica::{Input, LinkId};

/// Links to other replicas at a time.
pub(super) const MOST_LINKS: usize = 256;
/// Room made in the input buffer before each read, in bytes.
const READ: usize = 64 << 10;

/// What comes in frames below this many bytes is copied out of the input buffer: the log keeps entries for long, and would
/// keep the whole buffer for each.
const COPIED: usize = READ / 2;

/// A link to another replica.
#[derive(Debug)]
pub struct Peer {
    /// Its number.
    pub link: LinkId,
    /// True once its first frame has come.
    pub introduced: bool,
    input: BytesMut,
    decoder: FrameDecoder,
}

/// The links that are open.
#[derive(Debug, Default)]
pub struct Links {
    keys: BTreeMap<LinkId, Key>,
    accepted: LinkId,
}

impl Links {
    /// The connection of a link.
    pub fn key(&self, link: LinkId) -> Option<Key> {
        self.keys.get(&link).copied()
    }

    /// Forgets a link.
    pub fn remove(&mut self, link: LinkId) {
        self.keys.remove(&link);
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.keys.len()
    }
}

impl<M: StateMachine> Shell<M> {
    /// Another replica dialled this one.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(super) fn accept_peer(&mut self, stream: TcpStream) -> io::Result<()> {
        if self.links.len() >= MOST_LINKS {
            tracing::warn!("peer.limit a replica dialled, but {MOST_LINKS} links are open already; it was turned away");
            return Ok(());
        }
        self.links.accepted += 2;
        let link = self.links.accepted;
        self.open_link(link, stream)?;
        self.step(Input::Accepted(link));
        Ok(())
    }

    /// Starts a dial that the core asked for.
    pub(super) fn dial(&mut self, link: LinkId, address: &str) {
        let routed = self.options.routes.iter().find(|(advertised, _)| advertised == address);
        let target = routed.map_or(address, |(_, actual)| actual).to_owned();
        self.errand(Errand::Dial { link, target, timeout: self.options.suspect_after });
    }

    /// A dial ended.
    pub(super) fn dialled(&mut self, link: LinkId, result: io::Result<std::net::TcpStream>) {
        match result.and_then(|stream| self.open_link(link, TcpStream::from_std(stream))) {
            Ok(()) => self.step(Input::Dialled(link)),
            Err(error) => {
                tracing::debug!(link, %error, "peer.dial_failed");
                self.step(Input::DialFailed { link, refused: socket::is_refusal(&error) });
            }
        }
    }

    fn open_link(&mut self, link: LinkId, stream: TcpStream) -> io::Result<()> {
        socket::tune(&stream);
        let (reactor, now) = (&self.reactor, self.now.boot);
        let decoder = FrameDecoder::new(Port::Peer, HANDSHAKE_LIMIT);
        let key = self.connections.insert(|key| {
            let kind = Kind::Peer(Peer { link, introduced: false, input: BytesMut::new(), decoder });
            io::Result::Ok(Box::new(Connection { transport: Transport::new(stream, key, reactor, now)?, kind }))
        })?;
        self.links.keys.insert(link, key);
        self.handshakes.push_back((now + self.options.handshake_deadline, key));
        Ok(())
    }

    /// Puts a message into a link's output; silently dropped if the link is gone.
    pub(super) fn send(&mut self, link: LinkId, message: &PeerMessage) {
        let Some(key) = self.links.key(link) else { return };
        let Some(connection) = self.connections.get_mut(key) else { return };
        let transport = &mut connection.transport;
        if transport.closing {
            return;
        }
        peer::encode(message, &mut transport.output);
        if transport.output.len() > self.options.max_peer_output {
            tracing::warn!(
                link,
                peer = transport.peer(),
                bytes = transport.output.len(),
                "peer.slow the other replica does not read; the link is closed"
            );
            self.drop_connection(key);
        } else {
            self.mark_dirty(key);
        }
    }

    /// Closes a link after what was sent.
    pub(super) fn close_link(&mut self, link: LinkId) {
        if let Some(key) = self.links.key(link)
            && let Some(connection) = self.connections.get_mut(key)
        {
            connection.transport.closing = true;
            self.mark_dirty(key);
        }
    }

    /// Tells the core of a message that goes on coming.
    fn note_part(&mut self, peer: &Peer, read: usize) {
        if read > 0 && peer.introduced && !peer.input.is_empty() {
            self.step(Input::PeerPart(peer.link));
        }
    }

    /// Reads a link and hands every message to the core.
    pub(super) fn drive_peer(&mut self, transport: &mut Transport, peer: &mut Peer) -> Progress {
        let mut read = 0;
        loop {
            if transport.closing {
                return Progress::Hungry;
            }
            loop {
                let message = match peer.decoder.find(&mut peer.input) {
                    Ok(None) => break,
                    Ok(Some(body)) => take(&mut peer.input, body),
                    Err(error) => Err(error),
                };
                match message {
                    Ok(message) => {
                        if !std::mem::replace(&mut peer.introduced, true) {
                            peer.decoder.set_limit(DEFAULT_LIMIT);
                        }
                        self.step(Input::Peer(peer.link, message));
                    }
                    Err(error) => {
                        tracing::warn!(peer = transport.peer(), %error, "peer.nonsense the link is closed");
                        return Progress::Drop;
                    }
                }
            }
            if !transport.is_readable() {
                self.note_part(peer, read);
                return Progress::Hungry;
            }
            if read >= 16 * READ_PER_TURN || self.over_budget() {
                self.note_part(peer, read);
                return Progress::Again;
            }
            peer.input.reserve(READ);
            match transport.receive(&mut peer.input, &mut self.scratch) {
                Received::Bytes(bytes) => {
                    read += bytes;
                    transport.heard = self.now.boot;
                }
                Received::Nothing => {
                    self.note_part(peer, read);
                    return Progress::Hungry;
                }
                Received::End => return Progress::Drop,
                Received::Broken(error) => {
                    tracing::debug!(peer = transport.peer(), %error, "peer.broken");
                    return Progress::Drop;
                }
            }
        }
    }
}

/// Takes the message that stands at `body` off the input buffer.
fn take(input: &mut BytesMut, body: Range<usize>) -> Result<PeerMessage, FrameError> {
    if body.len() < COPIED {
        let message = peer::decode_copied(&input[body.clone()]);
        input.advance(body.end);
        return message;
    }
    peer::decode(&input.split_to(body.end).freeze().slice(body))
}
