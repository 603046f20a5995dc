//! The arbiter port, what arbiters say among themselves, and what they keep.

use cutover_arbiter::protocol::{FromArbiter, ToArbiter};
use cutover_arbiter::raft::Message;
use cutover_arbiter::record::{Command, Registers};
use cutover_arbiter::wire::Port;

use crate::drawn::drawn;
use crate::message;

/// The first byte chooses the decoder.
pub fn check(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 6 {
        0 => message::body::<ToArbiter>(Port::Arbiter, body),
        1 => message::body::<FromArbiter>(Port::Arbiter, body),
        2 => message::body::<Message>(Port::Raft, body),
        3 => message::stream(Port::Arbiter, body, |body| message::body::<ToArbiter>(Port::Arbiter, body)),
        4 => {
            let Ok(command) = Command::decode(body) else { return };
            let written = command.encode();
            assert_eq!(Command::decode(&written).expect("what was written is read"), command);
            // Whatever stands in the log is decided, and the same on every arbiter.
            let (mut one, mut other) = (Registers::default(), Registers::default());
            assert_eq!(one.apply(command.clone()), other.apply(command.clone()));
            let mut other = Registers::decode(&other.encode()).expect("what was written is read");
            assert_eq!(one.apply(command.clone()), other.apply(command));
        }
        _ => {
            let Ok(registers) = Registers::decode(body) else { return };
            let written = registers.encode();
            let back = Registers::decode(&written).expect("what was written is read");
            assert_eq!(back.encode(), written);
        }
    }
}

/// See the crate.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = message::seeds::<ToArbiter>(0, 30)
        .chain(message::seeds::<FromArbiter>(1, 30))
        .chain(message::seeds::<Message>(2, 30))
        .collect();
    seeds.extend(message::seeds::<ToArbiter>(3, 10).map(|seed| {
        let frame = message::frame(Port::Arbiter, &seed[1..]);
        [&[3], &frame[..], &frame[..]].concat()
    }));
    let mut registers = Registers::default();
    for command in crate::dice(60).filter_map(|dice| drawn::<Command>(&dice)) {
        seeds.push([&[4], &command.encode()[..]].concat());
        registers.apply(command);
        seeds.push([&[5], &registers.encode()[..]].concat());
    }
    seeds
}
