//! What a replica knew before an operator gave something up says nothing of what comes after.

use cutover_arbiter::record::{Change, Epoch, GroupRecord, Incarnation, LastChange, Position, RequestId};

use super::super::two::{JOINER, PRIMARY, Two, dialled, turn};
use super::super::{Input, Limits};
use super::*;
use crate::machine::kv::KeyValue;
use crate::protocol::peer::{PeerControl, PeerMessage, Plan, TransferReason, Welcome};

#[test]
fn what_was_committed_before_a_seizure_proves_no_snapshot_after_it() {
    let mut two = Two::new(Limits::default());
    two.turn(JOINER, None);
    two.until("in sync", Two::in_sync);
    for _ in 0..10 {
        two.write("key", 10);
    }
    two.pass(300);
    let (now, record) = (two.now, two.record().unwrap());
    let known = two.cores[JOINER].vitals().committed;
    assert!(known > 10 && known == two.cores[PRIMARY].vitals().committed);

    // An older image of the other is seized.
    let member = Member { incarnation: Incarnation(77), ..record.primary };
    let change = Change::Seize { member: member.clone() };
    let commit = Position { epoch: Epoch(1), index: 3 };
    let record = GroupRecord {
        epoch: Epoch(record.epoch.0 + 1),
        primary: member.clone(),
        in_sync: vec![member.clone()],
        last_change: LastChange { change, proposer: None, request: RequestId(9), commit },
        ..record
    };
    let welcome = |reason| Welcome {
        from: member.replica.clone(),
        incarnation: member.incarnation,
        group_id: record.group_id,
        epoch: record.epoch,
        handshake: 1,
        record: Box::new(record.clone()),
        plan: Plan::Transfer { reason, transfer: 1 },
    };
    let welcomed = |core: &mut Replica<KeyValue>, link, reason| {
        turn(core, now, Input::Dialled(link));
        let welcome = PeerControl::Welcome(Box::new(welcome(reason)));
        turn(core, now, Input::Peer(link, PeerMessage::Control(welcome)))
    };
    let core = &mut two.cores[JOINER];
    let link = dialled(&turn(core, now, Input::Record(record.clone())));
    let link = dialled(&welcomed(core, link, TransferReason::Diverged { common: 0 }));
    welcomed(core, link, TransferReason::Empty);
    assert_eq!(core.vitals().committed, 0, "{known} was committed in a log that is given up");
}
