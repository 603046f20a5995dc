//! Bytes to requests: RESP arrays of bulk strings, and inline commands.
//!
//! The parser remembers how far it got in a request that is not complete, so that no byte is looked at twice however
//! the bytes arrive. It believes no length: memory grows with what has arrived, never with what was announced. It
//! accepts and refuses what Redis 7.0 does (`processMultibulkBuffer`, `processInlineBuffer`), with its words. Only a
//! request of a proper form that is longer than the limits is passed over and refused when it is done with, where Redis
//! closes: a client that is still sending would find its connection reset and never hear why.

use super::inline;
pub(super) use crate::machine::kv::number::parse_integer as integer;

/// Longest word of which anything is believed, as in Redis (its default of `proto-max-bulk-len`).
const LONGEST_BULK: usize = 512 << 20;

/// What a connection may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Words in one request.
    pub max_elements: usize,
    /// Bytes in one word; never above 512 MiB, beyond which a length is no length.
    pub max_bulk: usize,
    /// Bytes in an inline request, or in the line that announces a length.
    pub max_inline: usize,
    /// Bytes in one request; never above 1 GiB.
    pub max_request: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_elements: 1_048_576, max_bulk: 64 << 20, max_inline: 64 << 10, max_request: 128 << 20 }
    }
}

impl Limits {
    /// The same limits, none above what the edge can hold at all.
    fn capped(self) -> Self {
        Self {
            max_elements: self.max_elements.min(i32::MAX as usize),
            max_bulk: self.max_bulk.min(LONGEST_BULK),
            max_inline: self.max_inline.min(1 << 20),
            max_request: self.max_request.min(1 << 30),
        }
    }
}

/// Bytes that are no request. The stream has no known boundary after it, so the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The count of an array is no number, or over the limit.
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    /// The length of a string is no number, negative, or above 512 MiB.
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// The line with the count of an array does not end.
    #[error("Protocol error: too big mbulk count string")]
    TooBigMultibulkCount,
    /// The line with the length of a string does not end.
    #[error("Protocol error: too big bulk count string")]
    TooBigBulkCount,
    /// Something else where a string should begin.
    #[error("Protocol error: expected '$', got '{}'", shown(*.0))]
    ExpectedBulk(u8),
    /// An inline request that does not end.
    #[error("Protocol error: too big inline request")]
    TooBigInline,
    /// An inline request with an open quote.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

impl ProtocolError {
    /// The error as a reply; the byte that was found stands there as it is.
    pub(super) fn line(&self) -> Vec<u8> {
        match self {
            ProtocolError::ExpectedBulk(found) if !found.is_ascii() => {
                [b"-ERR Protocol error: expected '$', got '", &[*found][..], b"'\r\n"].concat()
            }
            other => format!("-ERR {other}\r\n").into_bytes(),
        }
    }
}

/// A byte inside an error line.
fn shown(byte: u8) -> char {
    match byte {
        b'\r' | b'\n' => ' ',
        other => char::from(other),
    }
}

/// Where a word stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Both below [`Limits::max_request`], which fits.
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// The word in the bytes that it was made for.
    pub(super) fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// The words of a complete request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Request<'a> {
    /// How many words, the command's name among them; at least one.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The word at `position`, which must be below [`Request::len`].
    pub(super) fn word(&self, position: usize) -> &'a [u8] {
        self.spans[position].of(self.bytes)
    }

    /// The words from `position` on.
    pub(super) fn words_from(&self, position: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.spans[position.min(self.spans.len())..].iter().map(move |span| span.of(bytes))
    }
}

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A request, in the first `length` bytes; [`Parser::request`] gives its words.
    Request { length: usize },
    /// `length` bytes that ask for nothing: an empty line, an empty array.
    Nothing { length: usize },
    /// `length` bytes of a request that is too long; more of it is to come.
    Passed { length: usize },
    /// The last `length` bytes of a request that is too long: it is to be refused.
    TooLong { length: usize },
    /// The beginning of a request.
    Incomplete,
}

/// Which of the two lengths is read.
#[derive(Clone, Copy)]
enum Head {
    Array,
    Bulk,
}

impl Head {
    fn marker(self) -> u8 {
        match self {
            Head::Array => b'*',
            Head::Bulk => b'$',
        }
    }

    fn invalid(self) -> ProtocolError {
        match self {
            Head::Array => ProtocolError::InvalidMultibulkLength,
            Head::Bulk => ProtocolError::InvalidBulkLength,
        }
    }

    fn endless(self) -> ProtocolError {
        match self {
            Head::Array => ProtocolError::TooBigMultibulkCount,
            Head::Bulk => ProtocolError::TooBigBulkCount,
        }
    }
}

/// Where the words of the last request stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Request,
    Unquoted,
}

/// Capacity that the span and word buffers keep from one request to the next, in elements.
const KEEP: usize = 4 << 10;

/// Parses one request at a time. All positions count from the first byte of the request at hand.
#[derive(Debug)]
pub(super) struct Parser {
    limits: Limits,
    spans: Vec<Span>,
    /// Words of an inline request without their quotes.
    unquoted: Vec<u8>,
    source: Source,
    /// The first byte not understood yet.
    at: usize,
    /// Words still missing of an array whose count is known; 0 between requests.
    missing: usize,
    /// Length of the word that begins at `at`, when it is known.
    bulk: Option<usize>,
    /// Bytes before this position hold no end of the line at hand.
    searched: usize,
    /// Of a request that is too long: the bytes of the word at hand that are still to be passed over.
    unwanted: Option<usize>,
}

impl Parser {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits: limits.capped(),
            spans: Vec::new(),
            unquoted: Vec::new(),
            source: Source::Request,
            at: 0,
            missing: 0,
            bulk: None,
            searched: 0,
            unwanted: None,
        }
    }

    /// The limits in force.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Goes on with the request that starts with `bytes`: the same bytes as in the last call and more, until that
    /// call gave something else than [`Parsed::Incomplete`].
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Result<Parsed, ProtocolError> {
        if let Some(unwanted) = self.unwanted {
            return self.pass_over(bytes, unwanted);
        }
        if self.missing == 0 {
            match bytes.first() {
                None => return Ok(Parsed::Incomplete),
                Some(b'*') => {}
                Some(_) => return self.inline(bytes),
            }
            let Some(count) = self.head(bytes, Head::Array)? else { return Ok(Parsed::Incomplete) };
            if count <= 0 {
                return Ok(Parsed::Nothing { length: self.finish() });
            }
            self.begin(Source::Request);
            self.missing = usize::try_from(count)
                .ok()
                .filter(|count| *count <= self.limits.max_elements)
                .ok_or(ProtocolError::InvalidMultibulkLength)?;
        }
        while self.missing > 0 {
            let length = match self.bulk {
                Some(length) => length,
                None => match self.bulk_length(bytes)? {
                    Some(length) => length,
                    None => return Ok(Parsed::Incomplete),
                },
            };
            if length > self.limits.max_bulk || self.at + length + 2 > self.limits.max_request {
                return self.pass_over(bytes, length + 2);
            }
            if bytes.len() - self.at < length + 2 {
                self.bulk = Some(length);
                return Ok(Parsed::Incomplete);
            }
            self.bulk = None;
            self.spans.push(Span::new(self.at, self.at + length));
            self.at += length + 2;
            self.missing -= 1;
        }
        Ok(Parsed::Request { length: self.finish() })
    }

    /// The words of the request that [`Parser::parse`] just gave; `bytes` as then.
    pub(super) fn request<'a>(&'a self, bytes: &'a [u8]) -> Request<'a> {
        let bytes = match self.source {
            Source::Request => bytes,
            Source::Unquoted => &self.unquoted,
        };
        Request { bytes, spans: &self.spans }
    }

    /// No request is at hand: gives the room of a large one back.
    pub(super) fn rest(&mut self) {
        self.spans.clear();
        self.spans.shrink_to(KEEP);
        self.unquoted.clear();
        self.unquoted.shrink_to(KEEP);
    }

    fn begin(&mut self, source: Source) {
        self.source = source;
        self.spans.clear();
        self.unquoted.clear();
    }

    /// Ready for the next request; gives the length of this one.
    fn finish(&mut self) -> usize {
        self.searched = 0;
        std::mem::take(&mut self.at)
    }

    /// The length of the next word, checked.
    fn bulk_length(&mut self, bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some(length) = self.head(bytes, Head::Bulk)? else { return Ok(None) };
        let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST_BULK);
        length.map(Some).ok_or(ProtocolError::InvalidBulkLength)
    }

    /// Goes on behind `unwanted` bytes, and the words after them, of a request that is too long. What is passed over is
    /// done with at once, so nothing of it is kept.
    #[cold]
    fn pass_over(&mut self, bytes: &[u8], mut unwanted: usize) -> Result<Parsed, ProtocolError> {
        if self.unwanted.is_none() {
            self.missing -= 1;
            self.spans.clear();
        }
        loop {
            let here = unwanted.min(bytes.len() - self.at);
            self.at += here;
            unwanted -= here;
            if unwanted == 0 && self.missing == 0 {
                self.unwanted = None;
                return Ok(Parsed::TooLong { length: self.finish() });
            }
            self.unwanted = Some(unwanted);
            if unwanted > 0 {
                break;
            }
            let Some(length) = self.bulk_length(bytes)? else { break };
            unwanted = length + 2;
            self.missing -= 1;
        }
        self.searched = self.searched.saturating_sub(self.at);
        Ok(match std::mem::take(&mut self.at) {
            0 => Parsed::Incomplete,
            length => Parsed::Passed { length },
        })
    }

    /// The number on the line that begins at `at`; moves behind it. `None` while the line is not complete.
    fn head(&mut self, bytes: &[u8], head: Head) -> Result<Option<i64>, ProtocolError> {
        /// Digits that certainly fit an `i64`.
        const SAFE: usize = 18;
        let Some((&marker, line)) = bytes[self.at..].split_first() else { return Ok(None) };
        if marker == head.marker() {
            let (mut value, mut digits) = (0i64, 0);
            while let Some(digit) = line.get(digits).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
                && digits < SAFE
            {
                value = value * 10 + i64::from(digit);
                digits += 1;
            }
            // Exactly the plain number; anything else takes the long way.
            if digits > 0 && line.get(digits) == Some(&b'\r') && (line[0] != b'0' || digits == 1) {
                if line.len() < digits + 2 {
                    return Ok(None);
                }
                self.at += digits + 3;
                self.searched = self.at;
                return Ok(Some(value));
            }
        }
        self.odd_head(bytes, head)
    }

    /// [`Parser::head`] for everything but a plain number that is complete.
    #[cold]
    fn odd_head(&mut self, bytes: &[u8], head: Head) -> Result<Option<i64>, ProtocolError> {
        let from = self.searched.max(self.at);
        let Some(end) = bytes[from..].iter().position(|byte| *byte == b'\r').map(|found| from + found) else {
            self.searched = bytes.len();
            return if bytes.len() - self.at > self.limits.max_inline { Err(head.endless()) } else { Ok(None) };
        };
        self.searched = end;
        // However its bytes arrived.
        if end - self.at > self.limits.max_inline {
            return Err(head.endless());
        }
        // Redis waits for the byte after the carriage return, and does not look at it.
        if bytes.len() < end + 2 {
            return Ok(None);
        }
        if bytes[self.at] != head.marker() {
            return Err(ProtocolError::ExpectedBulk(bytes[self.at]));
        }
        let value = integer(&bytes[self.at + 1..end]).ok_or(head.invalid())?;
        self.at = end + 2;
        self.searched = self.at;
        Ok(Some(value))
    }

    fn inline(&mut self, bytes: &[u8]) -> Result<Parsed, ProtocolError> {
        let found = bytes[self.searched..].iter().position(|byte| *byte == b'\n').map(|found| self.searched + found);
        if found.unwrap_or(bytes.len()) > self.limits.max_inline {
            return Err(ProtocolError::TooBigInline);
        }
        let Some(end) = found else {
            self.searched = bytes.len();
            return Ok(Parsed::Incomplete);
        };
        self.begin(Source::Unquoted);
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        inline::split(line, &mut self.unquoted, &mut self.spans)?;
        self.finish();
        let length = end + 1;
        Ok(if self.spans.is_empty() { Parsed::Nothing { length } } else { Parsed::Request { length } })
    }
}
