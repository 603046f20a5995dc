//! Starts that end before they are done: what the next one reads it may believe, and what it believes must last.

use super::*;

/// Simulator's seed 506080. A start dies between renaming its identity and syncing that; the next one reads the new
/// identity, finds that it has nothing to change, and goes on. A power loss must not bring back the one before, with its
/// clean-shutdown mark of a journal that has long gone on.
#[test]
fn a_start_after_one_that_died_does_not_bring_back_the_clean_mark() {
    for mode in [Mode::Sync, Mode::Buffered] {
        let disk = MemoryDisk::default();
        let mut model = Model::new(mode);
        let (mut directory, _) = start(&disk, 1, &model).unwrap();
        step(&mut directory, &mut model, &Step::Append(1, 100)).unwrap();
        directory.close().unwrap();
        for at in 1.. {
            let (disk, mut model) = (disk.image(), Model { becoming: Vec::new(), ..model.clone() });
            disk.fail(at, Fault::KillAfter);
            let died = start(&disk, 1, &model).is_err() || disk.is_dead();
            disk.crash(Loss::Process, at);
            let (mut directory, _) = start(&disk, 1, &model).unwrap();
            step(&mut directory, &mut model, &Step::Append(1, 100)).unwrap();
            model.becoming.clear();
            disk.crash(Loss::Everything, at);
            let (directory, found) = start(&disk, 2, &model).unwrap_or_else(|error| panic!("{mode}, {at}: {error}"));
            assert_eq!(directory.identity().unwrap().ended, None);
            assert_eq!(found.unwrap().kept, mode == Mode::Sync, "{mode}, {at}: closed in order it was not");
            if !died {
                break;
            }
        }
    }
}

/// Simulator's seed 601822. A joiner has acknowledged everything up to its snapshot, and its journal has not begun: when
/// that snapshot is damaged it holds nothing of what it promised, however often it is started.
#[test]
fn a_damaged_snapshot_that_nothing_replaces_is_damage() {
    let disk = MemoryDisk::default();
    let mut model = Model::new(Mode::Sync);
    let (mut directory, _) = start(&disk, 1, &model).unwrap();
    let position = Position { epoch: Epoch(1), index: 7 };
    snapshot(&mut directory, position).unwrap();
    directory.install_snapshot(position, 0).unwrap();
    model.becoming.clear();
    let path = format!("life-000001/{}", snapshot::name(7));
    disk.flip(&path, disk.content(&path).unwrap().len() - 9, 1);
    for _ in 0..2 {
        match start(&disk, 1, &model).map(|_| ()) {
            Err(JournalError::Damaged { file, .. }) => assert_eq!(file, path),
            other => panic!("{other:?}"),
        }
    }
}
