use std::io::ErrorKind;

use super::*;
use crate::journal::DiskError;

fn good() -> ReplicaSettings {
    ReplicaSettings {
        name: Some("r1".into()),
        group: Some("demo".into()),
        arbiters: Some(vec!["127.0.0.1:7440".into()]),
        data: Some("/tmp/r1".into()),
        ..ReplicaSettings::defaults()
    }
}

fn refused(settings: ReplicaSettings) -> String {
    resolve(settings, Some(Path::new("replica.toml"))).unwrap_err().message
}

fn millis(millis: u64) -> Option<Span> {
    Some(Span(Duration::from_millis(millis)))
}

#[test]
fn the_defaults_fit_each_other() {
    let config = resolve(good(), None).unwrap();
    assert_eq!(config.listen.redis, "127.0.0.1:7400");
    assert_eq!(config.advertised, config.listen);
    assert_eq!(config.create, None);
}

#[test]
fn timers_that_do_not_fit_are_refused_with_the_reason() {
    let late_drop = refused(ReplicaSettings { drop_backup_after: millis(600), ..good() });
    assert!(late_drop.contains("the primary must be the first to notice"), "{late_drop}");
    let slow_heart = refused(ReplicaSettings { heartbeat: millis(200), ..good() });
    assert!(slow_heart.contains("one late acknowledgement"), "{slow_heart}");
    assert!(refused(ReplicaSettings { min_in_sync: Some(3), ..good() }).contains("from 1 to copies (2)"));
    assert!(refused(ReplicaSettings { append_bytes: Some(Size(1 << 30)), ..good() }).contains("append-bytes"));
    let long = refused(ReplicaSettings { max_request: Some(Size(60 << 20)), ..good() });
    assert!(long.contains("max-request (60MiB) is above its ceiling of 57606144 bytes"), "{long}");
    assert!(long.contains("append-bytes (1MiB) takes from it"), "{long}");
    assert!(refused(ReplicaSettings { log_bytes: Some(Size(1 << 20)), ..good() }).contains("log-bytes (1MiB)"));
}

#[test]
fn an_unknown_durability_is_refused_by_name() {
    let message = refused(ReplicaSettings { durability: Some("durable".into()), ..good() });
    assert!(message.contains("durability 'durable' is unknown; use memory, buffered or sync"), "{message}");
    let stall = refused(ReplicaSettings { journal_stall_limit: millis(100), ..good() });
    assert!(stall.contains("disks pause now and then"), "{stall}");
}

#[test]
fn a_replica_that_listens_everywhere_must_say_how_it_is_reached() {
    let everywhere = ReplicaSettings { bind: Some("0.0.0.0".parse().unwrap()), ..good() };
    assert!(refused(everywhere.clone()).contains("--advertise"));
    let config = resolve(ReplicaSettings { advertise: Some("db1".into()), ..everywhere }, None).unwrap();
    assert_eq!(config.listen.peer, "0.0.0.0:7430");
    assert_eq!(config.advertised.peer, "db1:7430");
}

#[test]
fn a_port_that_is_not_wanted_is_empty_and_two_ports_are_never_the_same() {
    let config = resolve(ReplicaSettings { redis_port: Some(0), ..good() }, None).unwrap();
    assert_eq!((config.listen.redis.as_str(), config.advertised.redis.as_str()), ("", ""));
    assert!(refused(ReplicaSettings { peer_port: Some(0), ..good() }).contains("cannot do without"));
    assert!(refused(ReplicaSettings { peer_port: Some(7400), ..good() }).contains("two ports listen on"));
}

#[test]
fn what_is_missing_is_named_with_every_way_to_give_it() {
    let failure = resolve(ReplicaSettings { group: None, ..good() }, None).unwrap_err();
    assert_eq!(failure.code, ExitCode::Usage);
    assert!(failure.message.contains("CUTOVER_GROUP"), "{failure}");
}

#[test]
fn only_what_a_person_must_see_to_is_not_started_again() {
    let journal = |error| RunError::Data(DataError::Journal { directory: "/srv/r1".into(), error });
    let damaged = JournalError::Damaged { file: "f".into(), offset: 7, what: "no record".into() };
    let foreign = JournalError::Foreign { theirs: "r2".into(), ours: "r1".into() };
    let version = JournalError::Version { file: "f".into(), found: "2".into(), known: "1".into() };
    for error in [damaged, foreign, version] {
        assert_eq!(code(&journal(error)), ExitCode::Configuration);
    }
    let disk = |error: std::io::Error| code(&journal(DiskError::new("write to", "f", &error).into()));
    for (kind, expected) in [
        (ErrorKind::ReadOnlyFilesystem, ExitCode::Configuration),
        (ErrorKind::PermissionDenied, ExitCode::Configuration),
        (ErrorKind::StorageFull, ExitCode::StateRefuses),
        (ErrorKind::QuotaExceeded, ExitCode::StateRefuses),
    ] {
        assert_eq!(disk(kind.into()), expected, "{kind}");
    }
    // EIO
    assert_eq!(disk(std::io::Error::from_raw_os_error(5)), ExitCode::StateRefuses);
    let taken = DataError::Taken { directory: "/srv/r1".into(), holder: String::new() };
    assert_eq!(code(&RunError::Data(taken)), ExitCode::StateRefuses);
}
