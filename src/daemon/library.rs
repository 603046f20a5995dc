//! The client port: sockets and frames of the client library's connections.
//!
//! Deliberately not here: what a connection may ask and what waits in it, which is [`port::Library`]'s.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use cutover_arbiter::wire::{FrameDecoder, FrameError, HANDSHAKE_LIMIT, Port, decode_body, encode_frame};
use mio::net::TcpStream;

use super::connection::{Connection, Kind, Progress, Received, Transport};
use super::side::Errand;
use super::slab::Key;
use super::socket;
use super::turn::{READ_PER_TURN, Shell};
use crate::machine::StateMachine;
use crate::port::{self, Desk, Taken, Terms, is_news};
use crate::protocol::client::{FromClient, ToClient};
use crate::replica::{Admission, Release};

/// Room made in the input buffer before each read, in bytes.
const READ: usize = 16 << 10;
/// An input buffer that had more room than this goes back to the allocator once what is left in it is no whole message.
const KEEP: usize = 64 << 10;
/// Clients' word of a newer record is looked into this often.
const HINTS: Duration = Duration::from_millis(250);
/// No ticket of the core's: it learns the record and owes nobody an answer.
const NO_TICKET: u64 = 0;
/// What a frame has besides a request's operation, in bytes, generously.
const FRAME_ROOM: usize = 1024;

/// A connection of the client library.
#[derive(Debug)]
pub struct Library {
    /// What it may ask, and what waits in it.
    pub port: port::Library,
    input: BytesMut,
    /// A long message came: its whole room stays taken for as long as any of it is in use.
    swollen: bool,
    decoder: FrameDecoder,
    /// A message that the core could not take yet.
    stalled: Option<FromClient>,
}

impl Library {
    /// Bytes read from the socket that were not taken yet.
    pub fn input_bytes(&self) -> usize {
        let stalled = match &self.stalled {
            Some(FromClient::Request { operation, .. }) => operation.len(),
            _ => 0,
        };
        self.input.len() + stalled
    }

    /// Moves what is covered to the output.
    pub fn release(&mut self, release: &Release, output: &mut BytesMut) {
        self.port.release(release, |answer, bytes| tell(output, &answer.message(bytes, release)));
    }
}

/// Puts a message behind what goes out.
pub fn tell(output: &mut BytesMut, message: &ToClient) {
    encode_frame(output, Port::Client, message);
}

impl<M: StateMachine> Shell<M> {
    /// A client library connected.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(super) fn accept_library(&mut self, stream: TcpStream) -> io::Result<()> {
        socket::tune(&stream);
        if self.clients >= self.options.max_clients {
            self.counters.rejected += 1;
            return Ok(());
        }
        let number = self.next_ticket();
        let (reactor, now) = (&self.reactor, self.now.boot);
        let key = self.connections.insert(|key| {
            let library = Library {
                port: port::Library::new(number),
                input: BytesMut::new(),
                swollen: false,
                decoder: FrameDecoder::new(Port::Client, HANDSHAKE_LIMIT),
                stalled: None,
            };
            let transport = Transport::new(stream, key, reactor, now)?;
            io::Result::Ok(Box::new(Connection { transport, kind: Kind::Library(Box::new(library)) }))
        })?;
        self.clients += 1;
        self.counters.connections += 1;
        self.handshakes.push_back((now + self.options.handshake_deadline, key));
        Ok(())
    }

    /// Reads a connection and does what it asks, as far as the turn allows.
    pub(super) fn drive_library(&mut self, key: Key, transport: &mut Transport, library: &mut Library) -> Progress {
        let mut read = 0;
        loop {
            let progress = self.library_requests(key, transport, library);
            if progress != Progress::Hungry || transport.closing {
                return progress;
            }
            if read >= READ_PER_TURN {
                return Progress::Again;
            }
            library.input.reserve(READ);
            match transport.receive(&mut library.input, &mut self.scratch) {
                Received::Bytes(bytes) => {
                    read += bytes;
                    self.counters.input_bytes += bytes as u64;
                    transport.heard = self.now.boot;
                }
                Received::Nothing => return Progress::Hungry,
                Received::End | Received::Broken(_) => return Progress::Drop,
            }
        }
    }

    fn library_requests(&mut self, key: Key, transport: &mut Transport, library: &mut Library) -> Progress {
        loop {
            if transport.closing {
                return Progress::Hungry;
            }
            if library.port.is_blocked() || library.port.weight() > self.options.max_in_flight {
                return Progress::Blocked;
            }
            if self.over_budget() {
                return Progress::Again;
            }
            let message = match library.stalled.take() {
                Some(message) => message,
                None => match next_message(library) {
                    Ok(Some(message)) => message,
                    Ok(None) => return Progress::Hungry,
                    Err(error) => {
                        tracing::warn!(client = transport.peer(), %error, "client.nonsense the connection is closed");
                        return Progress::Drop;
                    }
                },
            };
            if let Some((stalled, progress)) = self.library_message(key, transport, library, message) {
                library.stalled = Some(stalled);
                return progress;
            }
        }
    }

    /// Hands a message to the port, and does what comes of it. What must be taken later is given back, with what it waits
    /// for.
    fn library_message(
        &mut self,
        key: Key,
        transport: &mut Transport,
        library: &mut Library,
        message: FromClient,
    ) -> Option<(FromClient, Progress)> {
        if let FromClient::Hello { record: Some(record), .. } = &message {
            self.learn_from_client(record);
        }
        let terms = Terms { group: &self.options.group, max_request: self.options.max_request };
        let desk =
            Desk { core: &mut self.core, admission: &self.admission, reply: &mut self.reply, outbox: &mut self.outbox };
        match library.port.take(message, terms, desk) {
            Taken::Done => {}
            Taken::Welcomed(welcome) => {
                library.decoder.set_limit(self.options.max_request + FRAME_ROOM);
                tell(&mut transport.output, &welcome);
            }
            Taken::Tell(message) => tell(&mut transport.output, &message),
            Taken::Executed(hold) => {
                self.counters.operations += 1;
                self.await_release(hold, key);
            }
            Taken::Elsewhere { hold, ticket, work } => {
                self.counters.operations += 1;
                self.await_release(hold, key);
                self.workers.read(key, ticket, work);
            }
            Taken::Refused(hold) => self.await_release(hold, key),
            Taken::Later(message) => {
                self.admission = Admission::Paused;
                return Some((message, Progress::Parked));
            }
            Taken::Behind(message) => return Some((message, Progress::Blocked)),
            Taken::Stranger { name, group, machine } => {
                let client = transport.peer();
                let why = "client.refused it means another group or machine; check its configuration";
                tracing::warn!(client, name, %group, ?machine, "{why}");
                transport.closing = true;
            }
            Taken::Leave(word) => {
                self.refresh_serving();
                if let Some(word) = word {
                    tell(&mut transport.output, &word);
                }
                transport.closing = true;
            }
        }
        None
    }

    /// A client may know a newer record: the arbiters are asked, now and then.
    fn learn_from_client(&mut self, record: &cutover_arbiter::record::GroupRecord) {
        if is_news(self.core.record(), record) && self.now.boot >= self.hinted_until {
            self.hinted_until = self.now.boot + HINTS;
            self.errand(Errand::Read(NO_TICKET));
        }
    }
}

fn next_message(library: &mut Library) -> Result<Option<FromClient>, FrameError> {
    library.swollen |= library.input.capacity() > KEEP;
    match library.decoder.decode(&mut library.input)? {
        Some(body) => decode_body(&body).map(Some),
        None => {
            if library.swollen && library.input.len() < READ {
                library.input = BytesMut::from(&library.input[..]);
                library.swollen = false;
            }
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(bytes: usize) -> FromClient {
        FromClient::Request { sequence: 1, lowest_unanswered: 1, write: true, operation: vec![b'x'; bytes].into() }
    }

    fn library() -> Library {
        Library {
            port: port::Library::new(1),
            input: BytesMut::new(),
            swollen: false,
            decoder: FrameDecoder::new(Port::Client, 32 << 20),
            stalled: None,
        }
    }

    /// Otherwise every connection would keep as much room as its longest request needed, for ever and uncounted.
    #[test]
    fn the_room_of_a_long_request_is_given_back() {
        let (mut library, mut frames) = (library(), BytesMut::new());
        encode_frame(&mut frames, Port::Client, &request(8 << 20));
        encode_frame(&mut frames, Port::Client, &FromClient::KeepAlive);
        encode_frame(&mut frames, Port::Client, &request(100));
        let rest = frames.split_off(frames.len() - 50);
        library.input.extend_from_slice(&frames);
        assert_eq!(next_message(&mut library), Ok(Some(request(8 << 20))));
        assert_eq!(next_message(&mut library), Ok(Some(FromClient::KeepAlive)));
        assert_eq!(next_message(&mut library), Ok(None));
        library.input.reserve(READ);
        assert!(library.input.capacity() <= KEEP, "{} bytes", library.input.capacity());
        library.input.extend_from_slice(&rest);
        assert_eq!(next_message(&mut library), Ok(Some(request(100))));
    }

    #[test]
    fn a_request_that_must_wait_is_counted() {
        let mut library = library();
        library.stalled = Some(request(5000));
        assert_eq!(library.input_bytes(), 5000);
    }
}
