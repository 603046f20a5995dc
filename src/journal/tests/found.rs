//! Stories that were once found by chance, each with what was wrong.

use super::*;

/// In `buffered` a loss of power took the tail of a sealed segment, and the next one began with a cut to beyond it: the
/// journal believed that it ended there, and its first append was a gap.
#[test]
fn a_cut_beyond_what_a_loss_of_power_left_ends_the_journal() {
    let script = [
        Step::Epoch,
        Step::Append(3, 602),
        Step::Append(2, 191),
        Step::CutAppend(1, 2),
        Step::CutAppend(1, 2),
        Step::Append(2, 1218),
        Step::Append(1, 0),
        Step::Append(4, 420),
        Step::Snapshot(1),
        Step::Epoch,
        Step::Twice(1),
        Step::CutAppend(3, 1),
        Step::Append(1, 312),
        Step::Twice(3),
        Step::Append(3, 226),
        Step::Twice(3),
        Step::Append(1, 226),
        Step::CutAppend(1, 1),
    ];
    let disk = MemoryDisk::default();
    disk.fail(92, Fault::Io);
    let mut model = Model::new(Mode::Buffered);
    let ended = run(&disk, &mut model, &script);
    disk.crash(Loss::Subset, 1_455_206_366_786_904_471);
    check(&disk, 2, &model, Mode::Buffered, Fault::Io, Loss::Subset, &said(&ended));
}
