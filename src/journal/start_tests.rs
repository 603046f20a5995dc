//! What a start makes of a directory, told one by one.

use super::*;

#[test]
fn who_restarts_before_it_knows_its_group_keeps_its_journal_where_it_belongs() {
    let disk = MemoryDisk::default();
    let unknown = Claim { incarnation: Incarnation(1), group_id: None, mode: None, epoch: Epoch(0) };
    let (mut directory, _) = Directory::open(disk.clone(), opening(1)).unwrap();
    directory.claim(unknown, Fate::Kept).unwrap();
    drop(directory);
    let (mut directory, found) = Directory::open(disk.clone(), opening(1)).unwrap();
    assert!(found.is_some());
    directory.claim(claim(2, Mode::Sync, 1), Fate::Kept).unwrap();
    directory.write(vec![Write { cut: None, blocks: vec![block(1, 1, 3, 20)] }], 0).unwrap();
    drop(directory);
    let (_, found) = Directory::open(disk, opening(1)).unwrap();
    let found = found.unwrap();
    assert_eq!((found.kept, entries(&found.blocks).len()), (Kept::Yes, 3));
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
