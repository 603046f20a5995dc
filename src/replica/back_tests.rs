//! What is made of a directory: the newest good snapshot and the journal after it, or the next older one.

use cutover_arbiter::record::{Epoch, GroupId, Incarnation, Mode, Position};

use super::*;
use crate::journal::memory_disk::MemoryDisk;
use crate::journal::{Claim, Directory, Fate, Opening, Wanted, Write};
use crate::machine::kv::{self, KeyValue};
use crate::machine::{Snapshot as _, seeded};
use crate::protocol::entry::{self, Block, Control, Payload};

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
        let claim = Claim { incarnation: Incarnation(1), group_id, mode, epoch: Epoch(1) };
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
