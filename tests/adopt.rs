//! Arbiters that lose everything: the pair goes on serving, cannot change, and is known again after `cutover adopt`.

mod support;

use cutover_arbiter::record::Change;
use nix::sys::signal::Signal;
use support::group::SOON;
use support::redis::text;
use support::{DevGroup, Options};

#[test]
fn arbiters_that_come_back_empty_are_told_of_the_group_by_adopt() {
    let mut group = DevGroup::start(&Options::default());
    let before = group.wait_in_sync(2);
    let (primary, backup) = (group.primary(), group.backup());
    group.redis(&primary).must(&["SET", "kept", "1"]);

    group.kill_arbiters(Signal::SIGKILL);
    for process in group.processes().into_iter().filter(|process| process.kind == "arbiter") {
        std::fs::remove_dir_all(group.data().join("data").join(&process.name)).expect("it is dead; its data are ours");
    }
    // `dev` starts them again, with nothing.
    group.wait_until("arbiters that know no group", SOON, |group| match group.record() {
        Err(error) if error == "no such group" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(group.redis(&primary).must(&["GET", "kept"]), text("1"), "an intact pair needs no arbiter");

    let data = group.data().to_str().expect("a path of text").to_owned();
    let status = group.cutover(&["status", "--data", &data]);
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    assert_eq!(status.status.code(), Some(4), "{said}");
    assert!(said.contains("adopt"), "{said}");

    let http = format!("127.0.0.1:{}", group.process(&primary).http.expect("a port for http"));
    let adopted = group.cutover(&["adopt", "--data", &data, "--http", &http]);
    assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
    let after = group.wait_in_sync(2);
    assert!(after.epoch > before.epoch, "{after:?}");
    let adoption = &group.history()[0].record;
    assert!(matches!(adoption.last_change.change, Change::Adopt { .. }), "{adoption:?}");
    assert!(adoption.epoch > before.epoch, "{adoption:?}");
    assert_eq!(group.redis(&primary).must(&["GET", "kept"]), text("1"));

    // A group that the arbiters know is not adopted twice.
    let again = group.cutover(&["adopt", "--data", &data, "--http", &http]);
    assert_eq!(again.status.code(), Some(4), "{}", String::from_utf8_lossy(&again.stderr));

    // The pair is whole: its backup takes over with everything.
    group.kill(&primary, Signal::SIGKILL);
    group.wait_for_record("the backup to take over", |record| record.primary.replica.as_str() == backup);
    // The arbiters know it some milliseconds before the new primary does.
    group.wait_until_it_serves(&backup);
    assert_eq!(group.redis(&backup).must(&["GET", "kept"]), text("1"));
    group.wait_in_sync(2);
    group.verify();
}
