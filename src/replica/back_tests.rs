//! What is made of a directory: the newest good snapshot and the journal after it, or the next older one.

use cutover_arbiter::record::{
    Change, Epoch, GroupId, GroupRecord, Incarnation, LastChange, Mode, Position, RequestId,
};

use super::super::two::{JOINER, Two, dialled, turn};
use super::super::{Input, LinkId, Now};
use super::*;
use crate::journal::memory_disk::MemoryDisk;
use crate::journal::{Claim, Directory, Fate, Opening, Wanted, Write};
use crate::machine::kv::{self, KeyValue};
use crate::machine::{Snapshot as _, seeded};
use crate::protocol::entry::{self, Block, Control, Payload};
use crate::protocol::peer::{PeerControl, PeerMessage, Plan, TransferReason, Welcome};
use crate::replica::Limits;

const LIFE: &str = "life-000001";

/// A primary's state, and its directory.
struct Written {
    state: State<KeyValue>,
    disk: MemoryDisk,
    directory: Directory<MemoryDisk>,
    /// The running hash after each entry.
    checks: Vec<u64>,
}

impl Written {
    fn new() -> Self {
        let disk = MemoryDisk::default();
        let (group, replica) = ("g".parse().unwrap(), "r1".parse().unwrap());
        let machine = KeyValue::identity();
        let opening = Opening { group, replica, machine, boot: 1, salt: 7, segment_bytes: 600 };
        let (mut directory, _) = Directory::open(disk.clone(), opening).unwrap();
        let (group_id, mode) = (Some(GroupId(9)), Some(Mode::Buffered));
        let claim = Claim { incarnation: Incarnation(1), group_id, mode, epoch: Epoch(1), fenced_from: None };
        directory.claim(claim, Fate::Kept).unwrap();
        let mut written = Self { state: State::new(KeyValue::default()), disk, directory, checks: vec![0] };
        written.execute(&Payload::Control(Control::EpochStart { group_id: GroupId(9), genesis: true }));
        written
    }

    fn execute(&mut self, payload: &Payload<'_>) {
        let index = self.state.applied.index + 1;
        let at = Position { epoch: Epoch(1), index };
        let (mut captured, mut garbage, mut reply, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut random = seeded(index);
        let start = entry::begin(&mut bytes);
        let executed =
            self.state.execute(at, index, payload, None, &mut random, &mut captured, &mut garbage, &mut reply);
        entry::put(&mut bytes, index, payload, &captured);
        entry::finish(&mut bytes, start, executed.check);
        let block = Block { epoch: Epoch(1), first: index, count: 1, bytes: bytes.into() };
        self.directory.write(vec![Write { cut: None, blocks: vec![block] }], 0).unwrap();
        self.checks.push(executed.check);
    }

    fn set(&mut self, times: usize) {
        for _ in 0..times {
            let value = vec![b'v'; self.checks.len() % 50];
            let operation = kv::request("SET", &[format!("key{}", self.checks.len() % 7).as_bytes(), &value]);
            self.execute(&Payload::Operation { mark: None, carried: vec![], operation: &operation });
        }
    }

    fn snapshot(&mut self) {
        let position = self.state.applied;
        let core = postcard::to_allocvec(&self.state.core_snapshot(&[(Epoch(1), 1)])).unwrap();
        let mut writer = self.directory.begin_snapshot(position).unwrap();
        writer.part(&crate::journal::SnapshotPart::Core(core.into())).unwrap();
        let mut machine = self.state.machine.snapshot();
        while let Some(chunk) = machine.next_chunk(100) {
            writer.part(&crate::journal::SnapshotPart::Machine(chunk.into())).unwrap();
        }
        writer.finish().unwrap();
        self.directory.install_snapshot(position, position.index).unwrap();
    }

    /// The snapshot that was begun with, and the running hash; or why not.
    fn back_to(&self, upto: Index) -> Result<(Index, u64), String> {
        let wanted = Wanted { from: 0, upto, starts: vec![(Epoch(1), 1)] };
        let rebuilt = Rebuilt::run(&self.directory.older(1, wanted), KeyValue::default, || ());
        rebuilt.result.map(|(state, snapshot)| {
            assert_eq!(state.applied, Position { epoch: Epoch(1), index: upto });
            (snapshot, state.hash)
        })
    }

    fn damage(&self, index: Index) {
        let path = format!("{LIFE}/snapshot-{index:020}");
        let length = self.disk.content(&path).unwrap().len();
        self.disk.flip(&path, length / 2, 3);
    }
}

#[test]
fn the_newest_snapshot_at_or_below_the_cut_is_used_and_the_journal_after_it() {
    let mut written = Written::new();
    written.set(20);
    assert_eq!(written.back_to(9), Ok((0, written.checks[9])), "without a snapshot the whole journal will do");
    written.snapshot();
    written.set(20);
    written.snapshot();
    written.set(20);
    for (upto, snapshot) in [(60, 41), (41, 41), (40, 21), (21, 21)] {
        assert_eq!(written.back_to(upto), Ok((snapshot, written.checks[upto as usize])));
    }
    // Below the older snapshot there is nothing that could be gone back to.
    let why = written.back_to(20).unwrap_err();
    assert!(why.contains("the journal does not hold entry 1"), "{why}");
}

#[test]
fn a_damaged_snapshot_leaves_the_older_one_and_none_leaves_a_state_transfer() {
    let mut written = Written::new();
    written.set(20);
    written.snapshot();
    written.set(20);
    written.snapshot();
    written.set(5);
    written.damage(41);
    assert_eq!(written.back_to(45), Ok((21, written.checks[45])));
    written.damage(21);
    let why = written.back_to(45).unwrap_err();
    assert!(why.contains("snapshot-00000000000000000041 is damaged") && why.contains("000021 is damaged"), "{why}");
}

#[test]
fn what_computes_something_else_than_it_did_is_not_believed() {
    let mut written = Written::new();
    written.set(5);
    // A snapshot of a state that no entry led to.
    written.state.hash ^= 1;
    written.snapshot();
    written.state.hash ^= 1;
    written.set(5);
    let why = written.back_to(10).unwrap_err();
    assert!(why.contains("executing entry 7 again gives another result"), "{why}");
}

/// A primary that executed what lost a cut-over, and the record of who won it.
struct Loser {
    core: Replica<KeyValue>,
    now: Now,
    record: GroupRecord,
    common: Index,
}

impl Loser {
    fn new() -> Self {
        let mut two = Two::of_mode(Mode::Buffered, Limits::default());
        two.turn(JOINER, None);
        two.until("in sync", Two::in_sync);
        for _ in 0..10 {
            two.write("key", 10);
        }
        two.pass(300);
        // The backup's disk hangs: what is executed now is acknowledged by nobody.
        two.hangs[JOINER] = true;
        two.write("lost", 10);
        let (now, record) = (two.now, two.record().unwrap());
        let [core, _] = two.cores;
        let common = core.vitals().committed;
        assert!(core.vitals().applied > common, "it executed more");
        Self { core, now, record, common }
    }

    /// The backup takes over, or does so again; the loser dials it.
    fn next_epoch(&mut self) -> LinkId {
        let winner = self.record.in_sync.iter().find(|member| member.replica.as_str() == "b").unwrap().clone();
        let (change, commit) = (Change::TakeOver, Position { epoch: Epoch(1), index: self.common });
        self.record.epoch = Epoch(self.record.epoch.0 + 1);
        // Of another life each time, so that it is another primary.
        self.record.primary =
            cutover_arbiter::record::Member { incarnation: Incarnation(u128::from(self.record.epoch.0)), ..winner };
        self.record.in_sync.retain(|member| member.replica.as_str() == "b");
        self.record.last_change =
            LastChange { change, proposer: None, request: RequestId(self.record.epoch.0.into()), commit };
        dialled(&turn(&mut self.core, self.now, Input::Record(self.record.clone())))
    }

    fn welcomed(&mut self, link: LinkId, plan: Plan) -> Vec<Output<KeyValue>> {
        turn(&mut self.core, self.now, Input::Dialled(link));
        let welcome = Welcome {
            from: self.record.primary.replica.clone(),
            incarnation: self.record.primary.incarnation,
            group_id: self.record.group_id,
            epoch: self.record.epoch,
            handshake: 1,
            record: Box::new(self.record.clone()),
            plan,
        };
        let message = PeerMessage::Control(PeerControl::Welcome(Box::new(welcome)));
        turn(&mut self.core, self.now, Input::Peer(link, message))
    }

    fn must_go_back(&mut self) -> Vec<Output<KeyValue>> {
        let link = self.next_epoch();
        let reason = TransferReason::Diverged { common: self.common };
        self.welcomed(link, Plan::Transfer { reason, transfer: 1 })
    }

    fn is_in_a_new_life(&self) -> bool {
        self.core.vitals().last == 0
    }
}

fn asked_for(outputs: &[Output<KeyValue>]) -> Option<u64> {
    outputs.iter().find_map(|output| match output {
        Output::GoBack { ticket, .. } => Some(*ticket),
        _ => None,
    })
}

#[test]
fn one_older_state_is_made_at_a_time_however_often_the_primary_changes() {
    let mut loser = Loser::new();
    let ticket = asked_for(&loser.must_go_back()).expect("it goes back");
    assert_eq!(asked_for(&loser.must_go_back()), None, "the first one will do for every later primary");
    let mut out = Outbox::default();
    loser.core.begin(loser.now);
    let mut state = State::new(KeyValue::default());
    state.applied = Position { epoch: Epoch(1), index: loser.common };
    loser.core.rebuilt(Rebuilt { ticket, result: Ok((state, 0)) }, &mut out);
    loser.core.end(&mut out);
    assert_eq!(loser.core.vitals().applied, loser.common, "it is waited for on behalf of the second");
    assert!(out.outputs.iter().any(|output| matches!(output, Output::Dial { .. })));
}

#[test]
fn the_log_that_goes_on_from_an_older_state_is_kept_for_it() {
    let mut loser = Loser::new();
    asked_for(&loser.must_go_back()).expect("it goes back");
    loser.core.config.log_bytes = 0;
    turn(&mut loser.core, loser.now, Input::Unanswered(RequestId(0)));
    assert!(loser.core.log.base() <= loser.common, "{} is needed", loser.common + 1);
    // Nobody needs it for a life that is over.
    loser.core.rebuilding = loser.core.rebuilding.map(Rebuilding::superseded);
    turn(&mut loser.core, loser.now, Input::Unanswered(RequestId(0)));
    assert_eq!(loser.core.log.base(), loser.core.vitals().applied);
}

#[test]
fn an_older_state_that_never_comes_leaves_a_state_transfer() {
    let mut loser = Loser::new();
    asked_for(&loser.must_go_back()).expect("it goes back");
    while !loser.is_in_a_new_life() {
        let due = loser.core.next_deadline().expect("it does not wait for ever");
        assert!(due < loser.now.boot + Duration::from_secs(600), "nor nearly");
        loser.now.boot = loser.now.boot.max(due);
        turn(&mut loser.core, loser.now, Input::Unanswered(RequestId(0)));
    }
    // The thread is still at it: another one is not begun, and what it makes in the end is of no use to anybody.
    let (link, reason) = (loser.next_epoch(), TransferReason::Diverged { common: loser.common });
    assert_eq!(asked_for(&loser.welcomed(link, Plan::Transfer { reason, transfer: 2 })), None);
}
