//! The data directory over a disk with every fault: nothing acknowledged is lost, and no start needs a person except
//! where the files are really damaged.

mod found;

use std::collections::BTreeSet;

use bytes::Bytes;
use cutover_arbiter::record::{Epoch, GroupId, Incarnation, Index, Mode, Position};
use proptest::prelude::*;

use super::memory_disk::{Fault, Loss, MemoryDisk};
use super::*;
use crate::protocol::entry::{Block, Payload, begin, finish, put};

type Log = Vec<(u64, Bytes)>;

fn block(epoch: u64, first: Index, count: u32, size: usize) -> Block {
    let mut bytes = Vec::new();
    for number in 0..u64::from(count) {
        let start = begin(&mut bytes);
        let operation = vec![(epoch + first + number) as u8; size];
        put(&mut bytes, 1, &Payload::Operation { mark: None, carried: vec![], operation: &operation }, b"");
        finish(&mut bytes, start, epoch);
    }
    Block { epoch: Epoch(epoch), first, count, bytes: bytes.into() }
}

fn entries(blocks: &[Block]) -> Log {
    let each = blocks.iter().flat_map(|block| {
        (block.first..=block.last())
            .filter_map(|index| block.from(index)?.upto(index))
            .map(|one| (one.epoch.0, one.bytes))
    });
    each.collect()
}

fn opening(boot: BootId) -> Opening {
    Opening {
        group: "g".parse().unwrap(),
        replica: "r1".parse().unwrap(),
        machine: crate::machine::Identity { name: "test".into(), version: 1 },
        boot,
        salt: 7 + boot as u64,
        segment_bytes: 2000,
    }
}

fn claim(incarnation: u128, mode: Mode, epoch: u64) -> Claim {
    let (group_id, mode) = (Some(GroupId(9)), Some(mode));
    Claim { incarnation: Incarnation(incarnation), group_id, mode, epoch: Epoch(epoch), fenced_from: None }
}

#[derive(Debug, Clone)]
enum Step {
    /// So many entries of this size.
    Append(u32, usize),
    /// Goes back by so many entries, then appends some under a new epoch.
    CutAppend(u64, u32),
    /// So many entries of an epoch that lost a cut-over; those that took their place are of an earlier one.
    Beaten(u32, u32),
    /// Two writes in one group commit.
    Twice(u32),
    /// A snapshot so many entries before the end.
    Snapshot(u64),
    /// A new epoch is known.
    Epoch,
    /// Everything is discarded, in a new incarnation, and a snapshot of this index comes instead.
    Anew(u64),
}

/// What must be on the disk.
#[derive(Debug, Clone)]
struct Model {
    mode: Mode,
    incarnation: u128,
    epoch: u64,
    /// Every entry from 1 on.
    log: Log,
    /// Every entry that ever stood in it: the epoch before, its own, and its index.
    stood: BTreeSet<(u64, u64, Index)>,
    /// The newest snapshot put into place.
    snapshot: Index,
    /// The incarnation goes on: what was promised is certainly there.
    kept: bool,
    /// What the step at hand makes of it, one after the other.
    becoming: Vec<Model>,
}

impl Model {
    fn new(mode: Mode) -> Self {
        let (log, stood, becoming) = Default::default();
        Self { mode, incarnation: 1, epoch: 1, log, stood, snapshot: 0, kept: true, becoming }
    }

    fn last(&self) -> Position {
        self.position(self.log.len() as u64)
    }

    fn position(&self, index: Index) -> Position {
        let epoch = index.checked_sub(1).map_or(0, |at| self.log[at as usize].0);
        Position { epoch: Epoch(epoch), index }
    }

    fn claim(&self) -> Claim {
        claim(self.incarnation, self.mode, self.epoch)
    }

    fn extend(&mut self, block: &Block) {
        for entry in entries(std::slice::from_ref(block)) {
            let before = self.last().epoch.0;
            self.stood.insert((before, entry.0, self.last().index + 1));
            self.log.push(entry);
        }
    }

    fn next(&self, count: u32, size: usize) -> Block {
        block(self.epoch, self.log.len() as u64 + 1, count, size)
    }
}

/// Does one step; the model knows at any time what may be found.
fn step(directory: &mut Directory<MemoryDisk>, model: &mut Model, step: &Step) -> Result<(), JournalError> {
    let mut next = Model { becoming: Vec::new(), ..model.clone() };
    let mut stages = Vec::new();
    let done = match *step {
        Step::Append(count, size) => {
            let block = next.next(count, size);
            next.extend(&block);
            stages.push(next.clone());
            model.becoming = stages;
            directory.write(vec![Write { cut: None, blocks: vec![block] }], model.snapshot)
        }
        Step::CutAppend(back, count) => {
            let keep = (model.log.len() as u64).saturating_sub(back).max(model.snapshot);
            next.log.truncate(keep as usize);
            next.epoch += 1;
            stages.push(Model { epoch: model.epoch, ..next.clone() });
            let cut = Some(next.position(keep));
            let block = next.next(count, 40);
            next.extend(&block);
            stages.push(Model { epoch: model.epoch, ..next.clone() });
            model.becoming = stages;
            next.epoch = model.epoch.max(next.epoch);
            directory.write(vec![Write { cut, blocks: vec![block] }], model.snapshot)
        }
        Step::Beaten(tail, count) => {
            let first = model.log.len() as u64 + 1;
            let tail = block(model.epoch + 1, first, tail, 300);
            next.extend(&tail);
            stages.push(next.clone());
            next.log.truncate(model.log.len());
            stages.push(next.clone());
            let block = block(model.epoch, first, count, 300);
            next.extend(&block);
            stages.push(next.clone());
            model.becoming = stages;
            next.epoch += 2;
            let beaten = Write { cut: None, blocks: vec![tail] };
            let standing = Write { cut: Some(model.last()), blocks: vec![block] };
            directory.write(vec![beaten, standing], model.snapshot)
        }
        Step::Twice(count) => {
            let one = next.next(count, 100);
            next.extend(&one);
            let two = next.next(1, 300);
            next.extend(&two);
            stages.push(next.clone());
            model.becoming = stages;
            let write = |block| Write { cut: None, blocks: vec![block] };
            directory.write(vec![write(one), write(two)], model.snapshot)
        }
        Step::Snapshot(back) => {
            let index = (model.log.len() as u64).saturating_sub(back);
            if index <= model.snapshot {
                return Ok(());
            }
            next.snapshot = index;
            model.becoming = vec![next.clone()];
            let position = model.position(index);
            snapshot(directory, position).and_then(|()| directory.install_snapshot(position, position.index))
        }
        Step::Epoch => {
            next.epoch += 1;
            model.becoming = vec![next.clone()];
            directory.claim(next.claim(), Fate::Kept)
        }
        Step::Anew(index) => {
            let (log, stood) = Default::default();
            next = Model { incarnation: model.incarnation + 1, log, stood, snapshot: 0, ..next };
            stages.push(next.clone());
            (1..=index).for_each(|at| next.extend(&block(next.epoch, at, 1, 10)));
            next.snapshot = index;
            stages.push(next.clone());
            model.becoming = stages;
            let position = next.position(index);
            directory
                .claim(next.claim(), Fate::SetAside)
                .and_then(|()| snapshot(directory, position))
                .and_then(|()| directory.install_snapshot(position, position.index))
        }
    };
    if done.is_ok() {
        *model = next;
    }
    done
}

fn snapshot(directory: &mut Directory<MemoryDisk>, position: Position) -> Result<(), JournalError> {
    let mut writer = directory.begin_snapshot(position)?;
    writer.part(&SnapshotPart::Core(Bytes::copy_from_slice(&position.index.to_le_bytes())))?;
    writer.part(&SnapshotPart::Machine(Bytes::from(vec![position.index as u8; 300])))?;
    writer.finish()?;
    Ok(())
}

/// Opens and claims, as a replica does when it starts; compares what is found with what must be.
fn start(
    disk: &MemoryDisk,
    boot: BootId,
    model: &Model,
) -> Result<(Directory<MemoryDisk>, Option<Model>), JournalError> {
    let (mut directory, found) = Directory::open(disk.clone(), opening(boot))?;
    let Some(found) = found else {
        directory.claim(model.claim(), Fate::Kept)?;
        return Ok((directory, None));
    };
    let read = read_back(found, model);
    let next = Model { epoch: read.epoch.max(model.epoch), ..read.clone() };
    directory.claim(next.claim(), Fate::Kept)?;
    Ok((directory, Some(read)))
}

/// What was found, as a model; entries below the snapshot are taken from the one that is compared with.
fn read_back(found: Found<MemoryDisk>, model: &Model) -> Model {
    let mut base = 0;
    if let Some(mut reader) = found.snapshot {
        base = reader.head().position.index;
        assert_eq!(reader.part().unwrap(), Some(SnapshotPart::Core(Bytes::copy_from_slice(&base.to_le_bytes()))));
        assert!(matches!(reader.part().unwrap(), Some(SnapshotPart::Machine(_))));
        assert_eq!(reader.part().unwrap(), None);
    }
    let (incarnation, kept) = (found.claim.incarnation.0, found.kept == Kept::Yes);
    let candidates = std::iter::once(model).chain(&model.becoming);
    let mut same = candidates.filter(|state| state.incarnation == incarnation && state.log.len() as u64 >= base);
    let below = same.next_back().map_or(Vec::new(), |state| state.log[..base as usize].to_vec());
    assert_eq!(below.len() as u64, base, "a snapshot that nobody took");
    if let Some(first) = found.blocks.first() {
        assert_eq!(first.first, base + 1);
    }
    let log: Log = below.into_iter().chain(entries(&found.blocks)).collect();
    let mode = found.claim.mode.unwrap_or(model.mode);
    let (mut stood, mut before) = (BTreeSet::new(), 0);
    for (at, (epoch, _)) in log.iter().enumerate() {
        stood.insert((std::mem::replace(&mut before, *epoch), *epoch, at as u64 + 1));
    }
    Model { mode, incarnation, epoch: found.claim.epoch.0, log, stood, snapshot: base, kept, becoming: Vec::new() }
}

/// Whatever was lost: one entry follows the other as they once did. An entry is known by its epoch and index, so a log
/// that never was would pass for another.
fn once_was(found: &Model, model: &Model) -> bool {
    let mut states = std::iter::once(model).chain(&model.becoming);
    states.any(|state| state.incarnation == found.incarnation && found.stood.is_subset(&state.stood))
}

/// What is found is what was acknowledged, or the step at hand as far as it got.
fn fits(found: &Model, model: &Model) -> bool {
    let same =
        |state: &Model| found.incarnation == state.incarnation && found.log == state.log && found.epoch <= state.epoch;
    // Within the last step several records may have been written: any prefix of what it appends.
    let partly = |state: &Model| {
        let (from, to) = (model.log.len().min(state.log.len()), state.log.len());
        let grows = model.incarnation == state.incarnation && state.log[..from] == model.log[..from];
        found.incarnation == state.incarnation && grows && (from..=to).any(|at| found.log == state.log[..at])
    };
    same(model)
        || model.becoming.iter().any(|state| same(state) || (model.log.len() <= state.log.len() && partly(state)))
}

fn script() -> Vec<Step> {
    use Step::*;
    vec![
        Append(3, 200),
        Twice(2),
        Append(4, 400),
        Epoch,
        CutAppend(2, 3),
        Append(5, 300),
        Snapshot(3),
        Append(5, 300),
        CutAppend(1, 2),
        Append(2, 900),
        Snapshot(1),
        Append(2, 900),
        Snapshot(0),
        CutAppend(5, 1),
        Append(1, 10),
        Anew(5),
        Append(3, 700),
        Snapshot(1),
        Anew(2),
        Append(1, 10),
        Anew(3),
        Anew(4),
        Append(2, 10),
        Beaten(6, 5),
        Append(1, 10),
        Beaten(1, 4),
    ]
}

/// Runs the script until it ends or the disk fails.
fn run(disk: &MemoryDisk, model: &mut Model, script: &[Step]) -> Result<(), JournalError> {
    let (mut directory, _) = start(disk, 1, model)?;
    script.iter().try_for_each(|each| step(&mut directory, model, each))?;
    model.becoming.clear();
    Ok(())
}

fn said(ended: &Result<(), JournalError>) -> String {
    ended.as_ref().err().map_or_else(String::new, ToString::to_string)
}

fn calls(mode: Mode) -> u64 {
    let disk = MemoryDisk::default();
    run(&disk, &mut Model::new(mode), &script()).unwrap();
    disk.calls()
}

/// One death or error at one call, one loss, one restart; and everything again.
fn survive(mode: Mode, at: u64, fault: Fault, loss: Loss) {
    let disk = MemoryDisk::default();
    disk.fail(at, fault);
    let mut model = Model::new(mode);
    let ended = run(&disk, &mut model, &script());
    assert!(ended.is_err(), "call {at} came");
    let story = format!("{mode} {fault:?} at call {at} ({}), then {loss:?}: {}", disk.call_name(at), said(&ended));
    disk.crash(loss, at);
    let boot = if loss == Loss::Process { 1 } else { 2 };
    // A restart may die as well, at any of its own calls.
    for again in 1..40 {
        let image = disk.image();
        image.fail(again, Fault::KillWithin);
        if start(&image, boot, &model).is_ok() && !image.is_dead() {
            break;
        }
        image.crash(loss, again);
        check(&image, boot, &model, mode, fault, loss, &format!("{story}, and again at {again}"));
    }
    check(&disk, boot, &model, mode, fault, loss, &story);
}

fn check(disk: &MemoryDisk, boot: BootId, model: &Model, mode: Mode, fault: Fault, loss: Loss, story: &str) {
    // What was acknowledged in `buffered` and not yet synced went with the failed sync, and the incarnation with it.
    let sync_failed = matches!(fault, Fault::Io | Fault::Full) && story.contains("cannot sync life");
    let (mut directory, found) =
        start(disk, boot, model).unwrap_or_else(|error| panic!("{story}: a person is needed: {error}"));
    let proven = mode == Mode::Sync || loss == Loss::Process;
    if let Some(found) = &found {
        if !(story.contains(", and again") || sync_failed) {
            assert_eq!(found.kept, proven, "{story}: an incarnation goes on exactly when its promise is proven");
        }
        assert!(!(proven && found.kept) || fits(found, model), "{story}:\nfound {found:#?}\nof    {model:#?}");
        assert!(once_was(found, model), "{story}:\nfound {found:#?}\nwhich never was in {model:#?}");
    } else {
        assert!(model.log.is_empty(), "{story}: nothing was found");
    }
    // It goes on from there.
    let mut next = found.unwrap_or_else(|| Model { becoming: Vec::new(), ..model.clone() });
    next.epoch = next.epoch.max(model.epoch);
    let epoch = next.last().epoch.0.max(next.epoch);
    next.epoch = epoch;
    for each in [Step::Append(3, 900), Step::Append(3, 900), Step::Snapshot(1), Step::Append(1, 10)] {
        step(&mut directory, &mut next, &each).unwrap_or_else(|error| panic!("{story}: {error}"));
    }
    next.becoming.clear();
    drop(directory);
    let (_, found) = start(disk, boot, &next).unwrap_or_else(|error| panic!("{story}, second start: {error}"));
    assert!(found.is_some_and(|found| fits(&found, &next)), "{story}: lost at the second start");
}

fn survive_all(mode: Mode, fault: Fault) {
    for at in 1..=calls(mode) {
        for loss in [Loss::Process, Loss::Everything, Loss::Suffix, Loss::Subset] {
            survive(mode, at, fault, loss);
        }
    }
}

#[test]
fn a_death_before_within_or_after_any_call_loses_nothing_acknowledged() {
    for mode in [Mode::Buffered, Mode::Sync] {
        for fault in [Fault::KillBefore, Fault::KillWithin, Fault::KillAfter] {
            survive_all(mode, fault);
        }
    }
}

#[test]
fn an_error_at_any_call_is_final_and_loses_nothing_acknowledged() {
    for mode in [Mode::Buffered, Mode::Sync] {
        for fault in [Fault::Io, Fault::Full] {
            survive_all(mode, fault);
        }
    }
}

/// D1: what a failed sync should have written is gone, and a second one would only say that all is well.
#[test]
fn after_an_error_nothing_is_asked_of_the_disk_again() {
    let disk = MemoryDisk::default();
    let mut model = Model::new(Mode::Sync);
    let (mut directory, _) = start(&disk, 1, &model).unwrap();
    step(&mut directory, &mut model, &Step::Append(1, 10)).unwrap();
    disk.fail(2, Fault::Io);
    assert!(matches!(step(&mut directory, &mut model, &Step::Append(1, 10)), Err(JournalError::Disk(_))));
    let calls = disk.calls();
    assert_eq!(directory.write(Vec::new(), 0), Err(JournalError::Failed));
    assert_eq!(directory.claim(model.claim(), Fate::Kept), Err(JournalError::Failed));
    assert_eq!(directory.close(), Err(JournalError::Failed));
    assert_eq!(disk.calls(), calls);
}

/// D2, D3, D4: a flipped bit is told of, or costs nothing; after a power loss only the very last record may go.
#[test]
fn no_flipped_bit_is_ever_believed() {
    for closed in [true, false] {
        let disk = MemoryDisk::default();
        let mut model = Model::new(Mode::Sync);
        let (mut directory, _) = start(&disk, 1, &model).unwrap();
        for each in &script()[..13] {
            step(&mut directory, &mut model, each).unwrap();
        }
        model.becoming.clear();
        if closed {
            directory.close().unwrap();
        }
        let life = "life-000001";
        let mut files: Vec<String> = disk.list(life).unwrap().iter().map(|name| format!("{life}/{name}")).collect();
        files.push("identity".into());
        for file in files {
            for byte in 0..disk.content(&file).unwrap().len() {
                let image = disk.image();
                image.flip(&file, byte, byte as u8);
                match start(&image, 1, &model) {
                    Ok((_, Some(found))) => {
                        assert!(!found.kept || fits(&found, &model), "{file} at {byte}: {found:?}");
                        let end = file.contains("journal") && model.log.starts_with(&found.log);
                        assert!(found.kept || (end && !closed), "{file} at {byte}: {found:?}");
                    }
                    Ok((_, None)) => panic!("{file} at {byte}: nothing was found"),
                    Err(JournalError::Damaged { file: named, .. }) => {
                        assert!(file.starts_with(&named) || named.starts_with(life))
                    }
                    Err(JournalError::Version { .. }) => {}
                    Err(error) => panic!("{file} at {byte}: {error}"),
                }
            }
        }
    }
}

#[test]
fn damage_in_the_middle_is_told_with_file_and_offset_even_after_a_power_loss() {
    let disk = MemoryDisk::default();
    let mut model = Model::new(Mode::Sync);
    let (mut directory, _) = start(&disk, 1, &model).unwrap();
    for _ in 0..3 {
        step(&mut directory, &mut model, &Step::Append(1, 100)).unwrap();
    }
    let file = "life-000001/journal-000000000001";
    let length = disk.content(file).unwrap().len();
    let record = (length - record::SEGMENT_HEAD) / 3;
    let second = record::SEGMENT_HEAD + record;
    let damaged = disk.image();
    damaged.flip(file, second + record / 2, 3);
    let error = start(&damaged, 2, &model).map(|_| ()).unwrap_err();
    assert!(
        matches!(&error, JournalError::Damaged { file: named, offset, .. } if named == file && *offset == second as u64),
        "{error}"
    );
    assert!(error.to_string().contains("move this data directory away"), "{error}");
    // The very last record may be torn by a power loss. By anything else it may have been acknowledged before.
    let torn = disk.image();
    torn.flip(file, length - 5, 3);
    let (_, found) = start(&torn.image(), 1, &model).unwrap();
    assert!(found.is_some_and(|found| !found.kept && found.log == model.log[..2]));
    let (_, found) = start(&torn, 2, &model).unwrap();
    assert_eq!(found.unwrap().log, model.log[..2]);
}

#[test]
fn a_lost_segment_or_snapshot_is_damage() {
    let disk = MemoryDisk::default();
    let mut model = Model::new(Mode::Buffered);
    let (mut directory, _) = start(&disk, 1, &model).unwrap();
    for each in &script()[..13] {
        step(&mut directory, &mut model, each).unwrap();
    }
    step(&mut directory, &mut model, &Step::Append(1, 10)).unwrap();
    // The identity has seen the end of the journal.
    step(&mut directory, &mut model, &Step::Epoch).unwrap();
    model.becoming.clear();
    let mut damaged = 0;
    for name in disk.list("life-000001").unwrap() {
        let image = disk.image();
        image.remove(&format!("life-000001/{name}")).unwrap();
        match start(&image, 1, &model) {
            Err(JournalError::Damaged { .. }) => damaged += 1,
            // What a snapshot contains is not missed.
            Ok((_, Some(found))) => assert_eq!(found.log, model.log, "without {name}"),
            _ => panic!("without {name}: nothing was found, or another error"),
        }
    }
    assert!(damaged > 0);
}

#[test]
fn an_incarnation_is_kept_only_when_its_promise_is_proven() {
    let kept = |mode: Mode, closed: bool, boot: BootId| {
        let disk = MemoryDisk::default();
        let mut model = Model::new(mode);
        let (mut directory, _) = start(&disk, 1, &model).unwrap();
        if mode != Mode::Memory {
            step(&mut directory, &mut model, &Step::Append(1, 10)).unwrap();
        }
        if closed {
            directory.close().unwrap();
        }
        let (_, found) = Directory::open(disk, opening(boot)).unwrap();
        found.unwrap().kept == Kept::Yes
    };
    for (mode, closed, boot, expected) in [
        (Mode::Memory, true, 1, false),
        (Mode::Buffered, false, 1, true),
        (Mode::Buffered, false, 2, false),
        (Mode::Buffered, true, 2, true),
        (Mode::Sync, false, 1, true),
        (Mode::Sync, false, 2, true),
    ] {
        assert_eq!(kept(mode, closed, boot), expected, "{mode} closed {closed} boot {boot}");
    }
}

#[test]
fn a_full_disk_says_so_and_what_to_do() {
    let disk = MemoryDisk::default();
    let mut model = Model::new(Mode::Sync);
    let (mut directory, _) = start(&disk, 1, &model).unwrap();
    disk.set_capacity(Some(5000));
    let error = (0..100).find_map(|_| step(&mut directory, &mut model, &Step::Append(1, 100)).err()).unwrap();
    assert!(error.to_string().contains("make room on that disk"), "{error}");
    disk.set_capacity(None);
    disk.crash(Loss::Process, 1);
    let (_, found) = start(&disk, 1, &model).unwrap();
    assert!(fits(&found.unwrap(), &model));
}

#[test]
fn what_could_not_be_read_back_is_never_written() {
    let disk = MemoryDisk::default();
    let mut model = Model::new(Mode::Sync);
    let (mut directory, _) = start(&disk, 1, &model).unwrap();
    step(&mut directory, &mut model, &Step::Append(1, 100)).unwrap();
    let long = Block { bytes: vec![0; super::record::LONGEST_BODY].into(), ..model.next(1, 1) };
    let error = directory.write(vec![Write { cut: None, blocks: vec![long] }], 0).unwrap_err();
    assert!(error.to_string().contains("nothing of them was written"), "{error}");
    assert!(step(&mut directory, &mut model.clone(), &Step::Append(1, 100)).is_err(), "an error is final");
    disk.crash(Loss::Process, 1);
    let (_, found) = start(&disk, 1, &model).unwrap();
    assert!(fits(&found.unwrap(), &model));
}

#[test]
fn bytes_of_a_record_inside_an_operation_do_not_pass_for_a_record() {
    // What a client stores may be a record's bytes, of this segment even: it stands inside a body, and only what
    // follows a torn record is looked at. With another salt it is nothing.
    let head = record::SegmentHead { number: 1, salt: 5, base: 0, after: Position::default() };
    let other = record::SegmentHead { salt: 6, ..head };
    let encoded = record::cut(head.seed(), Position::default());
    let bytes = encoded.parts().concat();
    assert!(record::is_head(head.seed(), &bytes));
    assert!(!record::is_head(other.seed(), &bytes));
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1u32..6, 0usize..1500).prop_map(|(count, size)| Step::Append(count, size)),
        2 => (0u64..8, 1u32..4).prop_map(|(back, count)| Step::CutAppend(back, count)),
        2 => (1u32..8, 1u32..8).prop_map(|(tail, count)| Step::Beaten(tail, count)),
        2 => (1u32..4).prop_map(Step::Twice),
        2 => (0u64..4).prop_map(Step::Snapshot),
        1 => Just(Step::Epoch),
        1 => (1u64..5).prop_map(Step::Anew),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    #[test]
    fn any_story_with_any_fault_is_survived(
        script in steps(),
        sync: bool,
        at in 1u64..250,
        fault in prop::sample::select(vec![Fault::Io, Fault::Full, Fault::KillBefore, Fault::KillWithin, Fault::KillAfter]),
        loss in prop::sample::select(vec![Loss::Process, Loss::Everything, Loss::Suffix, Loss::Subset]),
        seed: u64,
    ) {
        let mode = if sync { Mode::Sync } else { Mode::Buffered };
        let disk = MemoryDisk::default();
        disk.fail(at, fault);
        let mut model = Model::new(mode);
        let ended = run(&disk, &mut model, &script);
        disk.crash(loss, seed);
        let boot = if loss == Loss::Process { 1 } else { 2 };
        check(&disk, boot, &model, mode, fault, loss, &said(&ended));
    }

    #[test]
    fn garbage_is_no_record(bytes in prop::collection::vec(any::<u8>(), 0..300), seed: u32) {
        let bytes = Bytes::from(bytes);
        prop_assert!(!matches!(record::read(seed, &bytes), record::At::Record(..)));
        prop_assert!(record::SegmentHead::decode(&bytes).is_err());
    }

    #[test]
    fn records_read_back(counts in prop::collection::vec((1u32..5, 0usize..200), 1..6), seed: u32, commit: u64) {
        let mut first = 1;
        let blocks: Vec<Block> = counts.iter().map(|(count, size)| {
            let block = block(3, first, *count, *size);
            first += u64::from(*count);
            block
        }).collect();
        let encoded = record::batch(seed, &blocks, commit);
        let bytes = Bytes::from(encoded.parts().concat());
        prop_assert_eq!(bytes.len(), encoded.length);
        let read = record::read(seed, &bytes);
        prop_assert_eq!(read, record::At::Record(record::Record::Batch { blocks: blocks.clone(), commit }, bytes.len()));
        prop_assert_eq!(record::read(seed, &bytes.slice(..bytes.len() - 1)), record::At::Short);
    }
}

/// Every bug planted in this room (`tests/planted.md`) is found by the faults at every call.
#[cfg(feature = "planted")]
#[test]
fn the_faults_at_every_call_find_each_planted_bug() {
    let everything = || {
        a_death_before_within_or_after_any_call_loses_nothing_acknowledged();
        an_error_at_any_call_is_final_and_loses_nothing_acknowledged();
        damage_in_the_middle_is_told_with_file_and_offset_even_after_a_power_loss();
        an_incarnation_is_kept_only_when_its_promise_is_proven();
    };
    for row in cutover_arbiter::planted::rows().into_iter().filter(|row| row.random == Some("journal")) {
        let found = std::panic::catch_unwind(|| cutover_arbiter::planted::with(row.name, everything));
        assert!(found.is_err(), "{} is not found", row.name);
    }
}

#[cfg(test)]
#[path = "doubt_tests.rs"]
mod doubt_tests;
#[cfg(test)]
#[path = "loss_tests.rs"]
mod loss_tests;
#[cfg(test)]
#[path = "reader_tests.rs"]
mod reader_tests;
#[cfg(test)]
#[path = "starts_tests.rs"]
mod starts_tests;
