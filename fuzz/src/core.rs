//! The core's own part of a snapshot: log, clock, and the session table with the replies it keeps.

use std::collections::BTreeMap;

use bytes::Bytes;
use cutover::machine::kv::KeyValue;
use cutover::protocol::SessionId;
use cutover::replica::core_part;
use cutover_arbiter::record::{Epoch, GroupId, Index, Position};
use serde::Serialize;

/// What can be read is written and read again the same; what it says of itself adds up (`core_part` looks).
pub fn check(data: &[u8]) {
    let Ok(written) = core_part::<KeyValue>(data) else { return };
    assert_eq!(core_part::<KeyValue>(&written).expect("what was written is read"), written);
}

/// As the session table keeps it.
#[derive(Serialize)]
enum Kept {
    Reply { reply: Bytes, at: Position },
    Cancelled,
    TooLong,
}

type Session = (u64, u64, u64, u64, BTreeMap<u64, Kept>);

/// See the crate.
pub fn seeds() -> Vec<Vec<u8>> {
    let of = |count: u64| {
        let applied = Position { epoch: Epoch(3), index: 90 + count };
        let starts: Vec<(Epoch, Index)> = vec![(Epoch(1), 1), (Epoch(3), 40)];
        let session = |number: u64| {
            let at = Position { epoch: Epoch(3), index: 50 + number };
            let reply = Bytes::from(format!("+{number}\r\n"));
            let kept = BTreeMap::from([
                (number + 1, Kept::Reply { reply, at }),
                (number + 2, Kept::Cancelled),
                (number + 3, Kept::TooLong),
            ]);
            let session: Session = (1000 + number, 7, 1007, number, kept);
            (SessionId { epoch: Epoch(1), index: 2 + number }, session)
        };
        let sessions: Vec<(SessionId, Session)> = (0..count).map(session).collect();
        let part = (Some(GroupId(9)), applied, starts, 0x1234_u64, 500_u64, 700_u64, 8_u64, sessions);
        postcard::to_allocvec(&part).expect("plain data")
    };
    let seeds: Vec<_> = [0, 1, 2, 9].map(of).into();
    assert!(seeds.iter().all(|seed| core_part::<KeyValue>(seed).is_ok()), "a seed is what is really written");
    seeds
}
