//! Replies before a connection puts them into its protocol.
//!
//! The neutral form is RESP3 with one addition, `*-1\r\n` for a missing array (RESP2 tells it from a missing value,
//! RESP3 does not). Most replies are therefore the same bytes in either protocol and are copied, not translated.
//! The divergence hash covers this form, so it depends on no connection.

use std::io::Write as _;

/// Writes one reply, piece by piece, to the end of a buffer.
pub struct Reply<'a>(pub &'a mut Vec<u8>);

impl Reply<'_> {
    /// `+OK`
    pub fn ok(&mut self) {
        self.0.extend_from_slice(b"+OK\r\n");
    }

    /// A status; must hold no line break.
    pub fn simple(&mut self, status: &str) {
        self.line(b'+', status.as_bytes());
    }

    /// An error, its code first: `ERR syntax error`. Line breaks become spaces.
    pub fn error(&mut self, message: &str) {
        self.0.push(b'-');
        self.0.extend(message.bytes().map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
        self.0.extend_from_slice(b"\r\n");
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        self.number(b':', value);
    }

    /// A string of bytes.
    pub fn bulk(&mut self, value: &[u8]) {
        self.number(b'$', value.len() as i64);
        self.0.extend_from_slice(value);
        self.0.extend_from_slice(b"\r\n");
    }

    /// A missing value.
    pub fn null(&mut self) {
        self.0.extend_from_slice(b"_\r\n");
    }

    /// A missing array.
    pub fn null_array(&mut self) {
        self.0.extend_from_slice(b"*-1\r\n");
    }

    /// The head of an array; `length` replies follow.
    pub fn array(&mut self, length: usize) {
        self.number(b'*', length as i64);
    }

    /// The head of a map; `pairs` times two replies follow. A flat array in RESP2.
    pub fn map(&mut self, pairs: usize) {
        self.number(b'%', pairs as i64);
    }

    /// The head of a set; `length` replies follow. An array in RESP2.
    pub fn set(&mut self, length: usize) {
        self.number(b'~', length as i64);
    }

    /// A floating-point number, as its shortest text that reads back the same; a string in RESP2.
    pub fn double(&mut self, text: &str) {
        self.line(b',', text.as_bytes());
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.0.push(kind);
        self.0.extend_from_slice(text);
        self.0.extend_from_slice(b"\r\n");
    }

    fn number(&mut self, kind: u8, value: i64) {
        self.0.push(kind);
        if (0..10).contains(&value) {
            self.0.push(b'0' + value as u8);
        } else {
            write!(self.0, "{value}").expect("a Vec takes every write");
        }
        self.0.extend_from_slice(b"\r\n");
    }
}
