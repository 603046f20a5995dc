//! Arbiters that lose everything: the pair goes on serving, cannot change, and is known again after `cutover adopt`.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use cutover_arbiter::record::Change;
use nix::sys::signal::Signal;
use support::group::{SOON, get};
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

/// Kills the arbiters and lets `dev` start them again, each with another directory for its data: this does it.
fn restart_arbiters(group: &mut DevGroup, change: impl Fn(&Path)) {
    group.kill_arbiters(Signal::SIGKILL);
    for process in group.processes().into_iter().filter(|process| process.kind == "arbiter") {
        change(&group.data().join("data").join(&process.name));
    }
}

fn forgotten(group: &mut DevGroup) {
    group.wait_until("arbiters that know no group", SOON, |group| match group.record() {
        Err(error) if error == "no such group" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// They come back empty, an adoption is begun and broken off, and then they come back with what they had: whoever was
/// fenced stands above all that they grant.
#[test]
fn arbiters_that_come_back_with_what_they_had_raise_the_group_above_a_fence() {
    let mut group = DevGroup::start(&Options::default());
    let before = group.wait_in_sync(2);
    let (primary, backup) = (group.primary(), group.backup());
    group.redis(&primary).must(&["SET", "kept", "1"]);
    let http =
        |group: &DevGroup, name: &str| format!("127.0.0.1:{}", group.process(name).http.expect("a port for http"));
    let (primary_http, backup_http) = (http(&group, &primary), http(&group, &backup));
    let fence = |epoch: u64| format!("/fence?group={}&epoch={epoch}&until={}", group.name(), u64::MAX);
    let (far, near) = (fence(u64::MAX), fence(before.epoch.0 + 16));

    // A mistaken operator deposes nobody, for a while or for ever.
    let refused = post(&primary_http, &far);
    assert!(refused.starts_with("HTTP/1.1 409") && refused.contains("at most"), "{refused}");
    let refused = post(&primary_http, &near);
    assert!(refused.starts_with("HTTP/1.1 409") && refused.contains("its arbiters know the group"), "{refused}");
    assert_eq!(group.redis(&primary).must(&["GET", "kept"]), text("1"));

    let aside = |data: &Path| data.with_extension("aside");
    restart_arbiters(&mut group, |data| std::fs::rename(data, aside(data)).expect("it is dead; its data are ours"));
    forgotten(&mut group);
    let fenced = post(&backup_http, &near);
    assert!(fenced.starts_with("HTTP/1.1 200"), "{fenced}");
    restart_arbiters(&mut group, |data| {
        std::fs::remove_dir_all(data).expect("it is dead; its data are ours");
        std::fs::rename(aside(data), data).expect("what it had");
    });

    // One of them goes on alone, and the other says why it stays away, and what ends that.
    group.wait_until_it_serves(&primary);
    let says = group.wait_until("the reason why it stays away", SOON, |group| {
        let answer = get(&http(group, &backup), "/readyz").map_err(|error| error.to_string())?;
        if answer.contains("the arbiters know the group in epoch") { Ok(answer) } else { Err(answer) }
    });
    assert!(says.starts_with("HTTP/1.1 503") && says.contains("cutover adopt --group"), "{says}");
    assert!(group.logs().contains("replica.stays_fenced"));
    group.wait_for_record("the backup's removal", |record| record.in_sync.len() == 1);
    let data = group.data().to_str().expect("a path of text").to_owned();
    let status = group.cutover(&["status", "--data", &data]);
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains(&format!("{backup} stays away: an operator's fence")), "{said}");

    let adopt = |group: &DevGroup, http: &str| group.cutover(&["adopt", "--data", &data, "--http", http]);
    let refused = adopt(&group, &backup_http);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(4), "it may lack what the other acknowledged alone: {said}");
    assert!(said.contains(&format!("choose one in sync ({primary})")), "{said}");
    let raised = adopt(&group, &primary_http);
    assert!(raised.status.success(), "{}", String::from_utf8_lossy(&raised.stderr));
    let after = group.wait_in_sync(2);
    assert!(after.epoch.0 > before.epoch.0 + 16 && after.primary.replica.as_str() == primary, "{after:?}");
    assert_eq!(group.redis(&primary).must(&["GET", "kept"]), text("1"));
    let again = adopt(&group, &primary_http);
    assert_eq!(again.status.code(), Some(4), "{}", String::from_utf8_lossy(&again.stderr));
    group.verify();
}

#[test]
fn arbiters_that_come_back_empty_are_told_of_the_group_by_adopt() {
    let mut group = DevGroup::start(&Options::default());
    let before = group.wait_in_sync(2);
    let (primary, backup) = (group.primary(), group.backup());
    group.redis(&primary).must(&["SET", "kept", "1"]);

    restart_arbiters(&mut group, |data| std::fs::remove_dir_all(data).expect("it is dead; its data are ours"));
    forgotten(&mut group);
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
