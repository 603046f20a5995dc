//! A record for the tests of the operations commands.

use cutover_arbiter::record::{
    Addresses, Change, Epoch, GroupId, GroupRecord, Incarnation, LastChange, Member, Mode, Position, RequestId,
};

/// Addresses that nobody listens at.
pub fn addresses(host: &str) -> Addresses {
    Addresses {
        peer: format!("{host}:1"),
        client: format!("{host}:2"),
        redis: format!("{host}:3"),
        http: format!("{host}:4"),
    }
}

/// A replica called `name` with this incarnation.
pub fn member(name: &str, incarnation: u128) -> Member {
    Member { replica: name.parse().unwrap(), incarnation: Incarnation(incarnation), addresses: addresses(name) }
}

/// Group `g` in epoch 7: `a` is primary, `b` its backup.
pub fn record() -> GroupRecord {
    GroupRecord {
        group: "g".parse().unwrap(),
        group_id: GroupId(99),
        epoch: Epoch(7),
        mode: Mode::Memory,
        min_in_sync: 1,
        primary: member("a", 1),
        in_sync: vec![member("a", 1), member("b", 2)],
        last_change: LastChange {
            change: Change::Admit { member: member("b", 2) },
            proposer: Some(("a".parse().unwrap(), Incarnation(1))),
            request: RequestId(5),
            commit: Position { epoch: Epoch(6), index: 40 },
        },
    }
}
