//! Syncs that fail, of what had been acknowledged by being written: what the start after them makes of it. And a segment
//! that was hardly begun.

use super::super::memory_disk::{Fault, Loss, MemoryDisk};
use super::*;

/// In `buffered` what was only written goes with a failed sync. Whoever dies in a sync has lost nothing.
#[test]
fn a_failed_sync_ends_the_incarnation_if_it_lost_anything_and_needs_no_person() {
    let long = vec![Step::Append(3, 700); 30];
    let (mut syncs, mut ended) = (0, 0);
    for (at, script) in (1..=calls(Mode::Buffered)).flat_map(|at| [(at, script()), (at, long.clone())]) {
        for fault in [Fault::Io, Fault::KillBefore, Fault::KillWithin, Fault::KillAfter] {
            let disk = MemoryDisk::default();
            disk.fail(at, fault);
            let mut model = Model::new(Mode::Buffered);
            let _ = run(&disk, &mut model, &script);
            if !disk.call_name(at).starts_with("sync life") {
                continue;
            }
            syncs += 1;
            disk.crash(Loss::Process, at);
            // The first start may fail in its own syncs, and dies before it has said anything.
            let story = format!("{fault:?} at {at}, {}", disk.call_name(at));
            let opened = Directory::open(disk.clone(), opening(1)).map(|(_, found)| found.map(|found| found.kept));
            let (_, found) = start(&disk, 1, &model).unwrap_or_else(|error| panic!("{story}: {error}"));
            let found = found.unwrap_or_else(|| panic!("{story}: nothing was found"));
            assert_eq!(opened.unwrap() == Some(Kept::Yes), found.kept, "{story}: who looks does not change it");
            assert!(!found.kept || fits(&found, &model), "{story}: {found:?}");
            assert!(found.kept || fault == Fault::Io, "{story}: nothing was lost");
            ended += u32::from(!found.kept);
            // What became of it is durable, and no longer in doubt.
            assert!(!disk.files().iter().any(|file| file.contains("/doubt-")), "{story}");
        }
    }
    assert!(ended > 10, "{ended} of {syncs} syncs lost something");
}

#[test]
fn a_start_whose_own_sync_fails_is_followed_by_one_that_needs_no_person() {
    let before = MemoryDisk::default();
    let mut model = Model::new(Mode::Buffered);
    let (mut directory, _) = start(&before, 1, &model).unwrap();
    for each in &script()[..6] {
        step(&mut directory, &mut model, each).unwrap();
    }
    model.becoming.clear();
    let (mut failed, mut ended) = (0, 0);
    for at in 1..20 {
        let disk = before.image();
        disk.fail(at, Fault::Io);
        if start(&disk, 1, &model).is_ok() {
            break;
        }
        failed += 1;
        disk.crash(Loss::Process, at);
        let (_, found) = start(&disk, 1, &model).unwrap_or_else(|error| panic!("after call {at} failed: {error}"));
        let found = found.expect("its state");
        assert!(!found.kept || fits(&found, &model), "after call {at} failed: {found:?}");
        ended += u32::from(!found.kept);
    }
    assert!(failed > 5 && (1..failed).contains(&ended), "{failed} failed, {ended} lost something");
}

#[test]
fn a_segment_that_never_got_a_record_does_not_trouble_an_orderly_end() {
    let disk = MemoryDisk::default();
    let mut model = Model::new(Mode::Sync);
    let (mut directory, _) = start(&disk, 1, &model).unwrap();
    step(&mut directory, &mut model, &Step::Anew(4)).unwrap();
    // Create, reserve, head, sync, directory: then it dies before the record.
    disk.fail(6, Fault::KillBefore);
    step(&mut directory, &mut model, &Step::Append(1, 10)).unwrap_err();
    disk.crash(Loss::Process, 1);
    model.becoming.clear();
    for _ in 0..2 {
        let (directory, found) = start(&disk, 1, &model).unwrap();
        assert_eq!(found.unwrap().log, model.log);
        directory.close().unwrap();
    }
}

/// Who has found the last record bad, and cut it, ends before it has claimed another life; or ends before it has cut it,
/// in its own sync. The next start must not take what is left for all there was.
#[test]
fn a_bad_end_that_an_earlier_start_has_seen_still_ends_the_incarnation() {
    for fault in [Fault::Io, Fault::KillBefore, Fault::KillWithin, Fault::KillAfter] {
        let disk = MemoryDisk::default();
        let mut model = Model::new(Mode::Buffered);
        let (mut directory, _) = start(&disk, 1, &model).unwrap();
        for _ in 0..3 {
            step(&mut directory, &mut model, &Step::Append(1, 100)).unwrap();
        }
        // Now it is on the device, and goes bad there.
        drop(start(&disk, 1, &model).unwrap());
        let file = "life-000001/journal-000000000001";
        disk.flip(file, disk.content(file).unwrap().len() - 5, 3);
        for at in 1.. {
            let disk = disk.image();
            disk.fail(at, fault);
            let ended = Directory::open(disk.clone(), opening(1)).is_err() || disk.is_dead();
            disk.crash(Loss::Process, at);
            let (_, found) = Directory::open(disk.clone(), opening(1)).unwrap();
            assert!(matches!(found.unwrap().kept, Kept::No(_)), "{fault:?} at {at}: {}", disk.call_name(at));
            if !ended {
                break;
            }
        }
    }
}
