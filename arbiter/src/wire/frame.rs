//! Bytes to frames and back. Sans-IO: the caller owns the buffers and the socket.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use super::{HEAD, MAGIC, VERSION};

/// Which protocol a frame belongs to; a frame that reaches another port is refused with both names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Port {
    /// Replica or client to arbiter.
    Arbiter = 1,
    /// Arbiter to arbiter: Raft.
    Raft = 2,
    /// Replica to replica.
    Peer = 3,
    /// Client library to replica.
    Client = 4,
}

impl Port {
    fn name(byte: u8) -> &'static str {
        match byte {
            1 => "arbiter",
            2 => "raft",
            3 => "peer",
            4 => "client",
            _ => "unknown",
        }
    }
}

/// Why bytes were not a frame. Every one of them ends the connection: after it, the stream has no known boundary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not ours at all.
    #[error(
        "not a Cutover frame (byte 8 is {found:#04x}, expected {MAGIC:#04x}); is another protocol talking to this port?"
    )]
    NotOurs {
        /// The byte that stood where the magic belongs.
        found: u8,
    },
    /// Another Cutover protocol.
    #[error("a frame for the {found} port reached the {expected} port; check the configured address")]
    WrongPort {
        /// The port this frame was made for.
        found: &'static str,
        /// The port it reached.
        expected: &'static str,
    },
    /// Another version of the protocol.
    #[error("protocol version {found}, but this side speaks version {VERSION}; upgrade the older side")]
    WrongVersion {
        /// The version the other side speaks.
        found: u8,
    },
    /// Longer than the port accepts.
    #[error("a frame of {length} bytes is over the limit of {limit} bytes")]
    TooLong {
        /// Length that the head announced, in bytes.
        length: usize,
        /// Limit of this port, in bytes.
        limit: usize,
    },
    /// Damaged on the way.
    #[error("a frame of {length} bytes fails its checksum; it was damaged on the way")]
    Checksum {
        /// Length of the damaged body, in bytes.
        length: usize,
    },
    /// The body is not the message it should be.
    #[error("a frame of {length} bytes is not a message this side knows: {reason}")]
    Malformed {
        /// Length of the body in bytes.
        length: usize,
        /// What the decoder said.
        reason: String,
    },
}

/// Takes frames off the front of a receive buffer.
#[derive(Debug, Clone)]
pub struct FrameDecoder {
    port: Port,
    limit: usize,
}

impl FrameDecoder {
    /// A decoder for `port` that refuses bodies over `limit` bytes.
    pub fn new(port: Port, limit: usize) -> Self {
        Self { port, limit }
    }

    /// Changes the limit, as a handshake does when it is complete.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The next whole body at the front of `buffer`, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// The stream is not ours, is damaged, or asks for more than the limit. The connection cannot go on.
    pub fn decode(&self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let Some(body) = self.find(buffer)? else { return Ok(None) };
        let mut frame = buffer.split_to(body.end);
        frame.advance(body.start);
        Ok(Some(frame.freeze()))
    }

    /// Where the next whole body stands in `buffer`, of which nothing is taken; when it is, all bytes up to its end go.
    ///
    /// # Errors
    /// As those of [`Self::decode`].
    pub fn find(&self, buffer: &mut BytesMut) -> Result<Option<Range<usize>>, FrameError> {
        if buffer.len() < HEAD {
            // Nonsense is told as soon as it can be told, not when 12 bytes of it have come.
            if let Some(&found) = buffer.get(8).filter(|&&found| found != MAGIC) {
                return Err(FrameError::NotOurs { found });
            }
            return Ok(None);
        }
        let length = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
        let checksum = u32::from_le_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]);
        if buffer[8] != MAGIC {
            return Err(FrameError::NotOurs { found: buffer[8] });
        }
        if buffer[9] != self.port as u8 {
            return Err(FrameError::WrongPort { found: Port::name(buffer[9]), expected: Port::name(self.port as u8) });
        }
        if buffer[10] != VERSION {
            return Err(FrameError::WrongVersion { found: buffer[10] });
        }
        if length > self.limit {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        if buffer.len() < HEAD + length {
            // Grow at most geometrically towards the announced length: an announcement alone costs nothing.
            let missing = HEAD + length - buffer.len();
            buffer.reserve(missing.min(buffer.len().max(64 * 1024)));
            return Ok(None);
        }
        if crc32c::crc32c(&buffer[8..HEAD + length]) != checksum {
            return Err(FrameError::Checksum { length });
        }
        Ok(Some(HEAD..HEAD + length))
    }
}

/// Starts a frame at the end of `out` and returns where it began; the caller appends the body, then calls
/// [`end_frame`] with the same position.
pub fn begin_frame(out: &mut BytesMut, port: Port) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, MAGIC, port as u8, VERSION, 0]);
    start
}

/// Completes the frame that began at `start`: writes its length and checksum. One that is too long for its length is
/// refused by whoever reads it, by name.
pub fn end_frame(out: &mut BytesMut, start: usize) {
    let length = u32::try_from(out.len() - start - HEAD).unwrap_or(u32::MAX);
    let checksum = crc32c::crc32c(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// Appends `message`, serialised with postcard, to `out` as one frame.
pub fn encode_frame<T: Serialize>(out: &mut BytesMut, port: Port, message: &T) {
    struct Extend<'a>(&'a mut BytesMut);
    impl postcard::ser_flavors::Flavor for Extend<'_> {
        type Output = ();
        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.extend_from_slice(&[byte]);
            Ok(())
        }
        fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }
    let start = begin_frame(out, port);
    postcard::serialize_with_flavor(message, Extend(out))
        .expect("postcard writes every type this crate defines: none has a sequence of unknown length");
    end_frame(out, start);
}

/// Reads a body as a message.
///
/// # Errors
/// [`FrameError::Malformed`] when the bytes are not such a message or more follow it.
pub fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let malformed = |reason: String| FrameError::Malformed { length: body.len(), reason };
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(malformed(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(body: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        let start = begin_frame(&mut out, Port::Peer);
        out.extend_from_slice(body);
        end_frame(&mut out, start);
        out
    }

    proptest! {
        #[test]
        fn round_trip_in_any_pieces(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6), cut in 1usize..40) {
            let mut stream = BytesMut::new();
            for body in &bodies {
                stream.extend_from_slice(&framed(body));
            }
            let decoder = FrameDecoder::new(Port::Peer, 300);
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(body) = decoder.decode(&mut buffer).expect("own frames are good") {
                    seen.push(body.to_vec());
                }
            }
            prop_assert_eq!(seen, bodies);
        }

        #[test]
        fn a_flipped_bit_is_never_accepted(body in prop::collection::vec(any::<u8>(), 1..100), bit in 0usize..800) {
            let mut frame = framed(&body);
            let bit = bit % (frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            let accepted = FrameDecoder::new(Port::Peer, 100).decode(&mut frame);
            prop_assert!(!matches!(accepted, Ok(Some(_))), "accepted {accepted:?}");
        }

        #[test]
        fn garbage_never_panics_or_grows_without_bound(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&garbage[..]);
            let _ = FrameDecoder::new(Port::Client, 1 << 20).decode(&mut buffer);
            prop_assert!(buffer.capacity() <= 256 * 1024);
        }
    }

    #[test]
    fn a_frame_for_another_port_names_both() {
        let error = FrameDecoder::new(Port::Client, 100).decode(&mut framed(b"x")).expect_err("wrong port");
        assert_eq!(error, FrameError::WrongPort { found: "peer", expected: "client" });
    }
}
