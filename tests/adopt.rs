//! Arbiters that lose everything: the pair goes on serving, cannot change, and is known again after `cutover adopt`.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use cutover_arbiter::record::Change;
use nix::sys::signal::Signal;
use support::group::SOON;
use support::redis::text;
use support::{DevGroup, Options};

fn post(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a replica's http port");
    let request = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("text");
    said
}

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
    // Whoever does not answer may run on unseen, with a grant of the lost arbiters on its way to him.
    group.kill(&backup, Signal::SIGSTOP);
    let adopt = ["adopt", "--data", &data, "--http", &http, "--timeout", "1s"];
    let refused = group.cutover(&adopt);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(said.contains(&backup) && said.contains("--fenced"), "{said}");
    let asserted = group.cutover(&[&adopt[..], &["--fenced", &backup]].concat());
    let said = String::from_utf8_lossy(&asserted.stderr).into_owned();
    assert_eq!(asserted.status.code(), Some(4), "{said}");
    assert!(said.contains("--accept-data-loss"), "it may have gone on alone before it was stopped: {said}");
    group.kill(&backup, Signal::SIGCONT);

    // A fence that was given up does not come true later.
    let before_fence = group.wait_until("the backup's answer", SOON, |group| group.status(&backup));
    let backup_http = format!("127.0.0.1:{}", group.process(&backup).http.expect("a port for http"));
    let late = post(&backup_http, &format!("/fence?group={}&epoch=1000&until=1", group.name()));
    assert!(late.starts_with("HTTP/1.1 409") && late.contains("too late"), "{late}");
    let stranger = post(&backup_http, &format!("/fence?group=another&epoch=1000&until={}", u64::MAX));
    assert!(stranger.starts_with("HTTP/1.1 409") && stranger.contains("of group"), "{stranger}");
    assert_eq!(group.status(&backup).expect("it runs").epoch, before_fence.epoch);

    // Fenced by an operator who then went away, it serves and acknowledges nothing.
    let fence = before_fence.epoch + 16;
    let fenced = post(&backup_http, &format!("/fence?group={}&epoch={fence}&until={}", group.name(), u64::MAX));
    assert!(fenced.starts_with("HTTP/1.1 200"), "{fenced}");
    let status = group.status(&backup).expect("it runs");
    assert_eq!((status.epoch, status.fenced_from), (fence, Some(before_fence.epoch)));
    assert_eq!(serde_json::json!(status.role), "fenced", "{status:?}");

    // The next attempt goes on at the same epoch.
    let adopted = group.cutover(&["adopt", "--data", &data, "--http", &http]);
    assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
    let said = String::from_utf8_lossy(&adopted.stdout).into_owned();
    assert!(said.contains(&format!("{backup} does nothing below epoch {fence}")), "{said}");
    let after = group.wait_in_sync(2);
    assert!(after.epoch > before.epoch, "{after:?}");
    let adoption = &group.history()[0].record;
    assert!(matches!(adoption.last_change.change, Change::Adopt { .. }), "{adoption:?}");
    assert_eq!((adoption.epoch.0, before.epoch.0 < fence), (fence, true), "{adoption:?}");
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
