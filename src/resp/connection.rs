//! One connection: its input buffer, and the loop that turns requests into actions.

use std::borrow::Cow;

use bytes::{Buf as _, BytesMut};

use super::{
    Action, Client, Format, Limits, ProtocolError, Serving, Status, StatusQuestion,
    parser::{Parsed, Parser},
    session::{Outcome, Session},
    status,
};

/// Room that is free in the input buffer before each read, in bytes.
const READ: usize = 16 << 10;
/// An empty input buffer with more room than this goes back to the allocator, in bytes.
const KEEP: usize = 64 << 10;
/// Requests that ask for nothing (empty lines, empty arrays) that one call of [`Connection::next`] skips.
const SKIPPED: usize = 256;

/// One Redis connection without its socket.
///
/// *In*: [`buffer`](Self::buffer), [`touch`](Self::touch). *Out*: [`next`](Self::next). *Answers*:
/// [`encode_reply`](Self::encode_reply), [`answer`](Self::answer), [`format`](Self::format). *About it*:
/// [`client`](Self::client), [`has_input`](Self::has_input).
#[derive(Debug)]
pub struct Connection {
    buffer: BytesMut,
    /// Bytes at the front of `buffer` that are done with.
    done: usize,
    parser: Parser,
    session: Session,
    closed: bool,
}

impl Connection {
    /// A connection that has said nothing yet. `peer` is the client's address as `host:port`; `now_ms` counts from
    /// any fixed point, in milliseconds, like that of [`Connection::touch`].
    pub fn new(id: u64, peer: String, limits: Limits, now_ms: u64) -> Self {
        Self {
            buffer: BytesMut::new(),
            done: 0,
            parser: Parser::new(limits),
            session: Session::new(id, peer, now_ms),
            closed: false,
        }
    }

    /// Where to append bytes from the socket; at least 16 KiB are free. It grows with what has arrived, at most to
    /// twice [`Limits::max_request`].
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.reclaim();
        self.buffer.reserve(READ);
        &mut self.buffer
    }

    /// True when bytes wait that [`Connection::next`] has not turned into actions: a part of a request, or requests
    /// it was not asked for yet.
    pub fn has_input(&self) -> bool {
        !self.closed && self.buffer.len() > self.done
    }

    /// Bytes read from the socket that are not turned into actions yet.
    pub fn input_bytes(&self) -> usize {
        self.buffer.len().saturating_sub(self.done)
    }

    /// The client was heard at `now_ms`; only CLIENT LIST and the like show it.
    pub fn touch(&mut self, now_ms: u64) {
        self.session.active_ms = now_ms;
    }

    /// The next thing to do, from the bytes in the buffer; `None` when there is no complete request, or after
    /// [`Action::Close`]. With [`Action::Execute`], `operation` holds the operation and nothing else.
    ///
    /// One call does a bounded amount of work: it looks at one request, and at bytes that were not looked at before.
    pub fn next(&mut self, serving: &Serving, operation: &mut Vec<u8>) -> Option<Action> {
        for _ in 0..SKIPPED {
            if self.closed {
                return None;
            }
            let bytes = &self.buffer[self.done..];
            match self.parser.parse(bytes) {
                Ok(Parsed::Request { length }) => {
                    let outcome = self.session.run(&self.parser.request(bytes), serving, operation);
                    self.done += length;
                    return Some(self.act(outcome));
                }
                Ok(Parsed::Nothing { length }) => {
                    // It counts as the one request that CLIENT REPLY SKIP leaves without a reply.
                    self.session.begin();
                    self.done += length;
                }
                Ok(Parsed::Passed { length }) => self.done += length,
                Ok(Parsed::TooLong { length }) => {
                    self.done += length;
                    return Some(self.too_long());
                }
                Ok(Parsed::Incomplete) => {
                    self.reclaim();
                    return None;
                }
                Err(error) => return Some(self.protocol_error(error)),
            }
        }
        Some(Action::Write(Cow::Borrowed(b"")))
    }

    /// Appends the neutral reply to the request that [`Connection::next`] gave last, in this connection's protocol.
    ///
    /// A reply that is encoded later, when other requests may have changed the protocol, is encoded by the
    /// [`Connection::format`] of its own time.
    pub fn encode_reply(&self, neutral: &[u8], out: &mut BytesMut) {
        self.session.format.encode(neutral, out);
    }

    /// How the reply to the request that [`Connection::next`] gave last is written.
    pub fn format(&self) -> Format {
        self.session.format
    }

    /// Appends the answer to a question that [`Connection::next`] just gave.
    pub fn answer(&self, question: &StatusQuestion, status: &Status, out: &mut BytesMut) {
        let client = self.client();
        let neutral = status::answer(question, status, &client, self.parser.limits());
        self.session.format.encode(&neutral, out);
    }

    /// What CLIENT LIST tells of this connection.
    pub fn client(&self) -> Client {
        let buffered = self.buffer.len() - self.done;
        let free = self.buffer.capacity() - self.buffer.len();
        self.session.client(buffered, free)
    }

    /// The action that an outcome is; an answer that the client does not want is empty.
    fn act(&mut self, outcome: Outcome) -> Action {
        match outcome {
            Outcome::Execute(access) => Action::Execute(access),
            Outcome::Wait { replicas, timeout_ms } => Action::Wait { replicas, timeout_ms },
            Outcome::Ask(question) => Action::Status(question),
            Outcome::Same(_) if self.session.format == Format::Silent => Action::Write(Cow::Borrowed(b"")),
            Outcome::Same(bytes) => Action::Write(Cow::Borrowed(bytes)),
            Outcome::Reply(neutral) => Action::Write(self.encoded(&neutral)),
            Outcome::Close(neutral) => {
                let after = self.encoded(neutral);
                self.close(after)
            }
        }
    }

    fn encoded(&self, neutral: &[u8]) -> Cow<'static, [u8]> {
        let mut out = BytesMut::new();
        self.session.format.encode(neutral, &mut out);
        Cow::Owned(out.into())
    }

    #[cold]
    fn too_long(&mut self) -> Action {
        self.session.begin();
        let Limits { max_bulk, max_request, .. } = self.parser.limits();
        self.act(Outcome::error(&format!(
            "ERR request too long: it may have {max_request} bytes in all (max-request) and {max_bulk} in one string; longer values grow by APPEND"
        )))
    }

    #[cold]
    fn protocol_error(&mut self, error: ProtocolError) -> Action {
        self.session.begin();
        let after = self.encoded(&error.line());
        self.close(after)
    }

    /// Nothing is parsed from here on.
    fn close(&mut self, after: Cow<'static, [u8]>) -> Action {
        self.closed = true;
        self.done = 0;
        self.buffer = BytesMut::new();
        Action::Close { after }
    }

    /// Frees the bytes that are done with.
    fn reclaim(&mut self) {
        if self.closed {
            self.buffer.clear();
            return;
        }
        let done = std::mem::take(&mut self.done);
        if done < self.buffer.len() {
            self.buffer.advance(done);
            return;
        }
        self.parser.rest();
        if self.buffer.capacity() > KEEP {
            self.buffer = BytesMut::new();
        } else {
            self.buffer.clear();
        }
    }
}
