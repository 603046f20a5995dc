//! What a test says by hand on a replica's or an arbiter's port, and what it hears.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use cutover::protocol::client::ToClient;
use cutover_arbiter::wire::{DEFAULT_LIMIT, FrameDecoder, HEAD, Port, decode_body, encode_frame};

/// Longer than any deadline of a handshake here.
pub const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// All that comes until the other side closes, which it must.
pub fn listen(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(CLOSED_WITHIN)).expect("a socket takes a time-out");
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("not closed after {:?}: {error}", String::from_utf8_lossy(&answer)),
    }
    answer
}

/// A message as it travels.
pub fn frame<T: serde::Serialize>(port: Port, message: &T) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_frame(&mut out, port, message);
    out.to_vec()
}

/// The body of the first frame in an answer.
pub fn body(port: Port, answer: &[u8]) -> bytes::Bytes {
    let mut answer = BytesMut::from(answer);
    let body = FrameDecoder::new(port, DEFAULT_LIMIT).decode(&mut answer);
    body.expect("a good frame").expect("a whole frame")
}

/// The next message to a client.
pub fn hear(stream: &mut TcpStream) -> ToClient {
    stream.set_read_timeout(Some(CLOSED_WITHIN)).expect("a socket takes a time-out");
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).expect("a frame");
    let mut frame = head.to_vec();
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    frame.resize(HEAD + length.min(DEFAULT_LIMIT), 0);
    stream.read_exact(&mut frame[HEAD..]).expect("a whole frame");
    decode_body(&body(Port::Client, &frame)).expect("a message")
}
