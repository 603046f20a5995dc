//! The journal read while it is written.

use super::*;

#[test]
fn entries_are_read_back_while_the_journal_is_written_whatever_was_cut_or_removed() {
    let disk = MemoryDisk::default();
    let (mut directory, _) = Directory::open(disk, opening(1)).unwrap();
    let mut model = Model::new(Mode::Buffered);
    directory.claim(model.claim(), Fate::Kept).unwrap();
    let mut steps = vec![Step::Append(3, 100), Step::Append(7, 300), Step::CutAppend(4, 2), Step::Append(5, 200)];
    steps.extend([Step::Twice(6), Step::CutAppend(1, 9), Step::Append(40, 150), Step::CutAppend(30, 2)]);
    steps.extend([Step::Append(1, 5), Step::Append(20, 90)]);
    for next in &steps {
        step(&mut directory, &mut model, next).unwrap();
        let last = model.log.len() as u64;
        for from in 1..=last {
            for upto in [from, last.min(from + 4), last] {
                let blocks = directory.reader().read(&wanted(&model, from, upto)).unwrap();
                let found = entries(&blocks);
                let held = &model.log[from as usize - 1..upto as usize];
                assert!(!found.is_empty() && held.starts_with(&found), "{from} to {upto} after {next:?}");
                assert_eq!(blocks[0].first, from);
            }
        }
    }
    // A snapshot makes segments superfluous, but not those that somebody is still to be sent.
    for keep in [10, u64::MAX] {
        let position = model.last();
        snapshot(&mut directory, position).unwrap();
        directory.install_snapshot(position, keep).unwrap();
        let found = directory.reader().read(&wanted(&model, 11, 12)).unwrap();
        assert_eq!(found.is_empty(), keep > 10, "kept from {keep} on");
        step(&mut directory, &mut model, &Step::Append(40, 100)).unwrap();
    }
}

/// The starts of the epochs are those of the log, as its owner knows them.
fn wanted(model: &Model, from: Index, upto: Index) -> Wanted {
    let mut starts: Vec<(Epoch, Index)> = Vec::new();
    for (index, (epoch, _)) in (1..).zip(&model.log) {
        if starts.last().is_none_or(|(last, _)| last.0 != *epoch) {
            starts.push((Epoch(*epoch), index));
        }
    }
    Wanted { from, upto, starts }
}
