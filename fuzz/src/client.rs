//! The client port, both ways.

use cutover::protocol::client::{FromClient, ToClient};
use cutover_arbiter::wire::Port;

use crate::message;

/// The first byte chooses the side; a third choice is a raw stream.
pub fn check(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 3 {
        0 => message::body::<FromClient>(Port::Client, body),
        1 => message::body::<ToClient>(Port::Client, body),
        _ => message::stream(Port::Client, body, |body| message::body::<FromClient>(Port::Client, body)),
    }
}

/// See the crate.
pub fn seeds() -> Vec<Vec<u8>> {
    let messages = message::seeds::<FromClient>(0, 40).chain(message::seeds::<ToClient>(1, 40));
    let mut seeds: Vec<_> = messages.collect();
    seeds.extend(message::seeds::<FromClient>(2, 10).map(|seed| {
        let frame = message::frame(Port::Client, &seed[1..]);
        [&[2], &frame[..], &frame[..]].concat()
    }));
    seeds
}
