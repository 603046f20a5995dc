//! What a loss of power leaves of two segments that were not synced: any part of either. A segment goes on from one entry
//! of one epoch, and where that is not what stands before it the journal ends.

use super::super::memory_disk::{Fault, Loss, MemoryDisk};
use super::*;

const FIRST: &str = "life-000001/journal-000000000001";
const SECOND: &str = "life-000001/journal-000000000002";

fn at(epoch: u64, index: Index) -> Position {
    Position { epoch: Epoch(epoch), index }
}

fn after_a_cut(keep: Position, blocks: Vec<Block>) -> Vec<Write> {
    vec![Write { cut: Some(keep), blocks }]
}

fn appended(blocks: Vec<Block>) -> Vec<Write> {
    vec![Write { cut: None, blocks }]
}

fn length(disk: &MemoryDisk, file: &str) -> usize {
    disk.content(file).map_or(0, |content| content.len())
}

/// A directory in `buffered` that has not ended in order.
fn begun() -> (MemoryDisk, Directory<MemoryDisk>) {
    let disk = MemoryDisk::default();
    let (directory, _) = start(&disk, 1, &Model::new(Mode::Buffered)).unwrap();
    (disk, directory)
}

/// The power is lost, and of a file no more than so many bytes are there.
fn cut_power(disk: &MemoryDisk, file: &str, left: usize) {
    let mut open = disk.open(file).unwrap();
    disk.truncate(&mut open, left as u64).unwrap();
    disk.sync(&open).unwrap();
    disk.crash(Loss::Process, 1);
}

/// What a start after a loss of power finds: epoch, first and last of each block. Three more say the same, and the
/// third of all ends in order.
fn found(disk: &MemoryDisk) -> Vec<(u64, Index, Index)> {
    let read = |boot| {
        let (directory, found) = Directory::open(disk.clone(), opening(boot)).unwrap();
        let found = found.unwrap();
        (directory, found.claim, found.blocks.iter().map(|block| (block.epoch.0, block.first, block.last())).collect())
    };
    let (_, _, blocks): (_, _, Vec<_>) = read(2);
    let (mut directory, claim, again) = read(2);
    assert_eq!(again, blocks);
    // It goes on, and everything is judged anew, by what a process that dies may leave.
    directory.claim(claim, Fate::Kept).unwrap();
    drop(directory);
    let (directory, _, again) = read(2);
    assert_eq!(again, blocks);
    directory.close().unwrap();
    assert_eq!(read(3).2, blocks);
    blocks
}

/// A generated story, in CI. The sync of a full segment fails and takes all of its records; a loss of power leaves the
/// segment after it. What stands there fits nothing, in `buffered` nobody promised it, and no person is needed.
#[test]
fn a_segment_behind_one_that_lost_all_its_records_is_dropped() {
    let mut dropped = 0;
    for (shift, seed) in (0..2).flat_map(|shift| (0..20).map(move |seed| (shift, seed))) {
        let disk = MemoryDisk::default();
        let mut model = Model::new(Mode::Buffered);
        let (mut directory, _) = start(&disk, 1, &model).unwrap();
        // What a failed sync leaves depends on whether its number is even: a hole, or nothing at all.
        let epochs = std::iter::repeat_n(Step::Epoch, shift);
        for each in epochs.chain([Step::Anew(4), Step::Append(2, 950), Step::Append(2, 950)]) {
            step(&mut directory, &mut model, &each).unwrap();
        }
        let second = "life-000002/journal-000000000002";
        let whole = length(&disk, second);
        // Make the mark, then the sync.
        disk.fail(2, Fault::Io);
        let error = step(&mut directory, &mut model, &Step::Append(2, 950)).unwrap_err();
        assert!(error.to_string().contains("cannot sync life-000002/journal-000000000001"), "{error}");
        disk.crash(Loss::Suffix, seed);
        let emptied = length(&disk, "life-000002/journal-000000000001") == record::SEGMENT_HEAD;
        dropped += usize::from(emptied && length(&disk, second) == whole);
        for _ in 0..2 {
            let (_, found) =
                Directory::open(disk.clone(), opening(2)).unwrap_or_else(|error| panic!("{seed}: {error}"));
            let found = found.unwrap();
            assert!(matches!(found.kept, Kept::No(_)));
            assert_eq!(found.snapshot.unwrap().head().position.index, 4);
            assert_eq!(found.blocks, []);
        }
    }
    assert!(dropped > 0, "no loss left the second segment without the first one's records");
}

/// Where the oldest segment does not go on from a snapshot, no loss of power explains it: snapshots are durable before
/// what they contain is removed. Neither where the records that would tell are lost.
#[test]
fn a_journal_that_begins_beyond_its_snapshots_is_damage_even_after_a_power_loss() {
    for left in [None, Some(record::SEGMENT_HEAD)] {
        let disk = MemoryDisk::default();
        let mut model = Model::new(Mode::Buffered);
        let (mut directory, _) = start(&disk, 1, &model).unwrap();
        for each in [Step::Anew(4), Step::Append(2, 950), Step::Append(2, 950)] {
            step(&mut directory, &mut model, &each).unwrap();
        }
        disk.remove("life-000002/snapshot-00000000000000000004").unwrap();
        let first = "life-000002/journal-000000000001";
        cut_power(&disk, first, left.unwrap_or(length(&disk, first)));
        match Directory::open(disk, opening(2)).map(|_| ()) {
            Err(JournalError::Damaged { file, what, .. }) => {
                assert!(file == first && what.contains("no good snapshot that reaches so far"), "{file}: {what}");
            }
            other => panic!("{left:?}: {other:?}"),
        }
    }
}

/// Nor has anybody lost anything whose process died: a segment that was begun, without a record, tells how far it went.
#[test]
fn records_that_are_missing_before_a_segment_without_any_are_damage() {
    let (disk, mut directory) = begun();
    directory.write(appended(vec![block(1, 1, 2, 40)]), 0).unwrap();
    let left = length(&disk, FIRST);
    directory.write(appended(vec![block(1, 3, 2, 1000)]), 0).unwrap();
    // Create, reserve, head, sync, directory: then it dies before the record.
    disk.fail(6, Fault::KillBefore);
    directory.write(appended(vec![block(1, 5, 2, 40)]), 0).unwrap_err();
    assert_eq!(length(&disk, SECOND), record::SEGMENT_HEAD);
    disk.crash(Loss::Process, 1);
    cut_power(&disk, FIRST, left);
    match Directory::open(disk, opening(1)).map(|_| ()) {
        Err(JournalError::Damaged { file, .. }) => assert_eq!(file, SECOND),
        other => panic!("{other:?}"),
    }
}

/// A segment that was synced has lost nothing: if its records are missing, that is damage, however the last run ended.
#[test]
fn records_that_are_missing_from_a_synced_segment_are_damage() {
    let (disk, mut directory) = begun();
    for first in [1, 3, 5] {
        directory.write(appended(vec![block(1, first, 2, 1000)]), 0).unwrap();
    }
    assert!(length(&disk, "life-000001/journal-000000000003") > 0);
    cut_power(&disk, FIRST, record::SEGMENT_HEAD);
    match Directory::open(disk, opening(2)).map(|_| ()) {
        Err(JournalError::Damaged { file, .. }) => assert_eq!(file, SECOND),
        other => panic!("{other:?}"),
    }
}

/// What is found where of the first segment only this is left, and all of the second one.
fn found_behind(left: Vec<Write>, lost_and_later: Vec<Vec<Write>>) -> Vec<(u64, Index, Index)> {
    let (disk, mut directory) = begun();
    directory.write(left, 0).unwrap();
    let left = length(&disk, FIRST);
    for writes in lost_and_later {
        directory.write(writes, 0).unwrap();
    }
    assert!(length(&disk, SECOND) > record::SEGMENT_HEAD, "the first segment was not full");
    cut_power(&disk, FIRST, left);
    found(&disk)
}

/// A reader's finding. What was cut comes back, since the cut is lost with what followed it, and ends with the very index
/// that the next segment goes on from: an entry of another epoch. Were it taken for that one, the replica would hold a log
/// that never was, and its last entry would vouch for it.
#[test]
fn entries_do_not_follow_what_took_another_entrys_place() {
    let left = appended(vec![block(1, 1, 6, 40), block(1, 7, 2, 40)]);
    let lost = after_a_cut(at(1, 6), vec![block(2, 7, 2, 1000)]);
    let later = appended(vec![block(2, 9, 11, 40), block(3, 20, 3, 40)]);
    assert_eq!(found_behind(left, vec![lost, later]), [(1, 1, 6), (1, 7, 8)]);
}

/// The same, where what was cut is of a later epoch than what took its place: no falling epoch, and no person.
#[test]
fn a_tail_of_a_later_epoch_that_comes_back_before_a_segment_needs_no_person() {
    let left = appended(vec![block(1, 1, 10, 40), block(5, 11, 2, 40)]);
    let lost = [appended(vec![block(5, 13, 7, 40)]), after_a_cut(at(1, 10), vec![block(3, 11, 2, 1000)])];
    let later = appended(vec![block(3, 13, 8, 40)]);
    assert_eq!(found_behind(left, lost.into_iter().chain([later]).collect()), [(1, 1, 10), (5, 11, 12)]);
}

/// Only the cut is lost, which filled the segment. The next one goes on from before it: what was cut is the end.
#[test]
fn a_segment_behind_a_cut_that_is_lost_is_dropped() {
    let left = appended(vec![block(1, 1, 6, 40), block(1, 7, 2, 685)]);
    let lost_and_later = after_a_cut(at(1, 6), vec![block(2, 7, 2, 40)]);
    assert_eq!(found_behind(left, vec![lost_and_later]), [(1, 1, 6), (1, 7, 8)]);
}

/// A start that drops a journal beside its snapshot may end at any call of that: the next one drops the rest of it.
#[test]
fn a_start_that_dies_while_it_drops_a_journal_is_followed_by_one_that_needs_no_person() {
    let (before, mut directory) = begun();
    directory.write(appended(vec![block(1, 1, 4, 40), block(5, 5, 5, 300)]), 0).unwrap();
    directory.write(appended(vec![block(5, 10, 3, 40)]), 0).unwrap();
    assert!(length(&before, SECOND) > record::SEGMENT_HEAD);
    let left = length(&before, SECOND);
    directory.write(after_a_cut(at(1, 4), vec![block(3, 5, 6, 40)]), 0).unwrap();
    snapshot(&mut directory, at(3, 8)).unwrap();
    directory.install_snapshot(at(3, 8), 0).unwrap();
    drop(directory);
    cut_power(&before, SECOND, left);
    for call in 1.. {
        let disk = before.image();
        disk.fail(call, Fault::KillAfter);
        let died = Directory::open(disk.clone(), opening(2)).is_err() || disk.is_dead();
        disk.crash(Loss::Process, call);
        assert_eq!(found(&disk), [], "after a death at call {call}");
        if !died {
            assert!(call > 5, "{call}");
            break;
        }
    }
}

/// A fuzzer's finding. A cut names the entry that it keeps by epoch and index; one that stands there under another epoch, or
/// not at all, is damage, and not the end of a log that nothing can follow.
#[test]
fn a_cut_that_keeps_what_is_not_there_is_damage() {
    for (keep, good) in [(at(1, 4), true), (at(2, 4), false), (at(0, 4), false), (at(1, 7), false), (at(1, 0), false)] {
        let (disk, mut directory) = begun();
        directory.write(appended(vec![block(1, 1, 6, 40)]), 0).unwrap();
        let bytes = disk.content(FIRST).unwrap();
        let head = record::SegmentHead::decode(&bytes).unwrap();
        let mut file = disk.open(FIRST).unwrap();
        disk.append(&mut file, &record::cut(head.seed(), keep).parts()).unwrap();
        match Directory::open(disk, opening(1)) {
            Ok((_, found)) => assert!(good && found.unwrap().blocks.last().unwrap().last() == keep.index, "{keep:?}"),
            Err(JournalError::Damaged { file, offset, .. }) => {
                assert!(!good && file == FIRST && offset == bytes.len() as u64, "{keep:?}: {file} at {offset}");
            }
            Err(error) => panic!("{keep:?}: {error}"),
        }
    }
}

/// A head of an earlier version is shorter: it is neither damage nor the trace of a crash, and nothing is removed.
#[test]
fn an_earlier_version_is_called_by_its_name_however_the_last_run_ended() {
    for (boot, segments) in [(1, 1), (2, 1), (2, 3)] {
        let (disk, mut directory) = begun();
        for first in 0..segments {
            directory.write(appended(vec![block(1, 1 + 2 * first, 2, 1000)]), 0).unwrap();
        }
        let files: Vec<String> = disk.files().into_iter().filter(|file| file.contains("/journal-")).collect();
        for file in &files {
            let bytes = disk.content(file).unwrap();
            let mut earlier = [&bytes[..8], &2u32.to_le_bytes(), &bytes[12..40]].concat();
            earlier.extend(crc32c::crc32c(&earlier).to_le_bytes());
            earlier.extend(&bytes[record::SEGMENT_HEAD..]);
            disk.remove(file).unwrap();
            let mut written = disk.create(file).unwrap();
            disk.append(&mut written, &[&earlier]).unwrap();
        }
        match Directory::open(disk.clone(), opening(boot)).map(|_| ()) {
            Err(JournalError::Version { found, .. }) => assert_eq!(found, "journal format 2"),
            other => panic!("{segments} segments, boot {boot}: {other:?}"),
        }
        assert!(files.iter().all(|file| disk.content(file).is_some_and(|content| content.len() > 1000)));
    }
}

/// A joiner's journal has begun and holds no record. When its snapshot is damaged it is that which is named, and in
/// `buffered` after a loss of power nobody is asked.
#[test]
fn a_damaged_snapshot_behind_which_nothing_was_recorded_is_named() {
    for (mode, boot) in [(Mode::Sync, 1), (Mode::Buffered, 2)] {
        let disk = MemoryDisk::default();
        let mut model = Model::new(mode);
        let (mut directory, _) = start(&disk, 1, &model).unwrap();
        snapshot(&mut directory, at(1, 7)).unwrap();
        directory.install_snapshot(at(1, 7), 0).unwrap();
        // Create, reserve, head, sync, directory: then it dies before the record.
        disk.fail(6, Fault::KillBefore);
        model.log = vec![(1, Bytes::new()); 7];
        step(&mut directory, &mut model, &Step::Append(1, 10)).unwrap_err();
        assert_eq!(length(&disk, FIRST), record::SEGMENT_HEAD);
        disk.crash(Loss::Process, 1);
        let path = format!("life-000001/{}", snapshot::name(7));
        disk.flip(&path, length(&disk, &path) - 9, 1);
        match (mode, Directory::open(disk, opening(boot))) {
            (Mode::Sync, Err(JournalError::Damaged { file, .. })) => assert_eq!(file, path),
            (Mode::Buffered, Ok((_, Some(found)))) => {
                assert!(matches!(found.kept, Kept::No(_)) && found.snapshot.is_none() && found.blocks.is_empty());
            }
            (_, other) => panic!("{mode}: {other:?}"),
        }
    }
}
