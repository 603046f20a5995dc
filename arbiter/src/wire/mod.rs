//! Framing shared by every port that speaks Cutover's own protocols: arbiter, peer and client.
//!
//! A frame is a 12-byte head and a body:
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..4 | length | of the body in bytes, little endian, at most the limit of the port |
//! | 4..8 | checksum | crc32c of bytes 8..12 and the body, little endian |
//! | 8 | magic | [`MAGIC`], so that a client of another protocol is told at once |
//! | 9 | port | [`Port`]: a frame for another port is refused by name |
//! | 10 | version | [`VERSION`] |
//! | 11 | flags | 0 |
//!
//! Nothing is allocated on the word of a length before the length is checked against the limit, and no body is
//! handed on before its checksum is. Deliberately not here: what the bodies mean.

mod frame;

pub use frame::{FrameDecoder, FrameError, Port, begin_frame, decode_body, encode_frame, end_frame};

/// First byte of every head that follows the checksum.
pub const MAGIC: u8 = 0xC7;
/// Version of the framing and of all messages inside it. Raised whenever any of them changes.
pub const VERSION: u8 = 4;
/// Bytes of a frame before its body.
pub const HEAD: usize = 12;
/// The largest body that a port accepts unless it says otherwise, in bytes.
pub const DEFAULT_LIMIT: usize = 64 * 1024 * 1024;
/// The largest body accepted before a handshake is complete, in bytes.
pub const HANDSHAKE_LIMIT: usize = 1024 * 1024;
