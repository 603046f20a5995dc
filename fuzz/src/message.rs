//! What holds of every message that travels in a frame.

use std::fmt::Debug;

use bytes::BytesMut;
use cutover_arbiter::wire::{FrameDecoder, Port, decode_body, encode_frame};
use serde::{Serialize, de::DeserializeOwned};

use crate::drawn::drawn;

/// A body that can be read is written and read again the same.
pub fn body<T: Serialize + DeserializeOwned + PartialEq + Debug>(port: Port, body: &[u8]) {
    let Ok(message) = decode_body::<T>(body) else { return };
    let written = framed(port, &message);
    let decoder = FrameDecoder::new(port, written.len());
    let again = decoder.decode(&mut written.clone()).expect("our own frame").expect("a whole one");
    let back: T = decode_body(&again).expect("what was written is read");
    assert_eq!(back, message);
    assert_eq!(framed(port, &back), written);
}

/// Whatever a connection sends, its buffer holds no more than came and what one read makes room for; bodies come out
/// the same however the bytes are cut.
pub fn stream(port: Port, bytes: &[u8], mut each: impl FnMut(&[u8])) {
    const LIMIT: usize = 1 << 20;
    let decoder = FrameDecoder::new(port, LIMIT);
    let mut whole = BytesMut::from(bytes);
    let mut bodies = Vec::new();
    let ended = loop {
        match decoder.decode(&mut whole) {
            Ok(Some(body)) => bodies.push(body),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert!(whole.capacity() <= 2 * bytes.len() + (128 << 10), "{} bytes for {}", whole.capacity(), bytes.len());
    let (mut pieces, mut seen, mut why) = (BytesMut::new(), Vec::new(), None);
    'bytes: for piece in bytes.chunks(7) {
        pieces.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut pieces) {
                Ok(Some(body)) => seen.push(body),
                Ok(None) => break,
                Err(error) => {
                    why = Some(error);
                    break 'bytes;
                }
            }
        }
    }
    assert_eq!((seen, why), (bodies.clone(), ended));
    for body in bodies {
        each(&body);
    }
}

/// A body in a frame of its own.
pub fn frame(port: Port, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    let start = cutover_arbiter::wire::begin_frame(&mut out, port);
    out.extend_from_slice(body);
    cutover_arbiter::wire::end_frame(&mut out, start);
    out
}

/// Bodies of drawn messages, behind a byte that chooses the decoder.
pub fn seeds<T: Serialize + DeserializeOwned>(kind: u8, count: usize) -> impl Iterator<Item = Vec<u8>> {
    crate::dice(count).filter_map(move |dice| {
        let body = postcard::to_allocvec(&drawn::<T>(&dice)?).expect("plain data");
        Some([&[kind], &body[..]].concat())
    })
}

fn framed<T: Serialize>(port: Port, message: &T) -> BytesMut {
    let mut out = BytesMut::new();
    encode_frame(&mut out, port, message);
    out
}
