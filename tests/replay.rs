//! Bytes of an old epoch, recorded on the wire and said again after a cut-over: they are refused, and nothing else
//! happens.

mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use cutover::daemon::status::StatusBody;
use cutover::protocol::peer::{self, Append, Hello, PeerControl, PeerMessage, PeerRefusal, Purpose};
use cutover::replica::Role;
use cutover_arbiter::record::Epoch;
use cutover_arbiter::wire::{DEFAULT_LIMIT, FrameDecoder, Port};
use nix::sys::signal::Signal;
use support::group::SOON;
use support::guest::Guest;
use support::recorder::{Conversation, Recorder};
use support::{DevGroup, Options};

/// Who hears nonsense closes long before.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);
/// Entries of the old epoch that must have been recorded.
const ENTRIES: u64 = 200;

/// Whole messages; a recording may end in the middle of one.
fn messages(bytes: &[u8]) -> Vec<PeerMessage> {
    let (decoder, mut rest) = (FrameDecoder::new(Port::Peer, DEFAULT_LIMIT), BytesMut::from(bytes));
    let bodies = std::iter::from_fn(|| decoder.decode(&mut rest).expect("frames of a replica"));
    bodies.map(|body| peer::decode(&body).expect("messages of a replica")).collect()
}

fn frames<'a>(messages: impl Iterator<Item = &'a PeerMessage>) -> Vec<u8> {
    let mut out = BytesMut::new();
    messages.for_each(|message| peer::encode(message, &mut out));
    out.to_vec()
}

/// Entries of an epoch that its primary sent.
fn entries(said: &[Conversation], epoch: Epoch) -> u64 {
    let of = |message: &PeerMessage| match message {
        PeerMessage::Append(Append { block: Some(block), .. }) if block.epoch == epoch => u64::from(block.count),
        _ => 0,
    };
    said.iter().flat_map(|conversation| messages(&conversation.back)).map(|message| of(&message)).sum()
}

fn follows(message: &PeerMessage) -> bool {
    let PeerMessage::Control(PeerControl::Hello(hello)) = message else { return false };
    matches!(**hello, Hello { purpose: Purpose::Follow { .. }, .. })
}

/// Says this and gives all that is answered until the other side closes, which it must.
fn say(port: u16, bytes: &[u8]) -> Vec<PeerMessage> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    let mut writer = stream.try_clone().expect("a second handle on a socket");
    let bytes = bytes.to_vec();
    // What closes early may not want to hear it all.
    let writing = std::thread::spawn(move || drop(writer.write_all(&bytes)));
    stream.set_read_timeout(Some(CLOSED_WITHIN)).expect("a socket takes a time-out");
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("not closed after {:?}: {error}", messages(&answer)),
    }
    writing.join().expect("no panic");
    messages(&answer)
}

#[test]
fn what_was_said_in_an_old_epoch_changes_nothing_when_it_is_said_again() {
    let replica_options = ["--handshake-timeout", "500ms"].map(String::from).to_vec();
    let mut group = DevGroup::start(&Options { replica_options, ..Options::default() });
    let before = group.wait_in_sync(2);
    let (old, new) = (group.primary(), group.backup());
    let port = |group: &DevGroup, name: &str| group.process(name).peer.expect("a port for replicas");
    let recorder = Recorder::before(port(&group, &old));
    let route = format!("{}=127.0.0.1:{}", before.primary.addresses.peer, recorder.port());
    // A spare, so that it lives through the cut-over and is the same in the next epoch.
    let guest = Guest::join(&group, &["--route", &route], &[]);
    let load = group.torture();
    group.wait_until("enough of the old epoch", SOON, |_| match entries(&recorder.said(), before.epoch) {
        ENTRIES.. => Ok(()),
        few => Err(format!("{few} entries")),
    });

    group.kill(&old, Signal::SIGKILL);
    group.wait_for_record("a cut-over", |record| record.primary.replica.as_str() == new);
    // Everyone is back and at rest, so that nobody's return is taken for an effect.
    let record = group.wait_until("everyone in the new epoch", SOON, |group| {
        let record = group.record()?;
        let all = [group.status(&old)?, group.status(&new)?, guest.status()?];
        let settled = |status: &StatusBody| {
            status.epoch == record.epoch.0 && matches!(status.role, Role::Primary | Role::Backup | Role::Spare)
        };
        if record.in_sync.len() == 2 && all.iter().all(settled) { Ok(record) } else { Err(format!("{all:#?}")) }
    });
    let handshakes = |group: &DevGroup| {
        let logs = group.logs();
        ["transfer.started", "rejoin.delta"].map(|event| logs.matches(&format!(r#""message":"{event}""#)).count())
    };
    let before_replay = handshakes(&group);

    let said = recorder.said();
    let by_follower: Vec<PeerMessage> = said.iter().flat_map(|conversation| messages(&conversation.there)).collect();
    let by_primary: Vec<PeerMessage> = said.iter().flat_map(|conversation| messages(&conversation.back)).collect();
    assert!(by_follower.iter().any(follows), "{by_follower:?}");
    let hello = frames(by_follower.iter().filter(|message| follows(message)));
    let acknowledgements = frames(by_follower.iter().filter(|message| matches!(message, PeerMessage::Ack(_))));
    let appends = frames(by_primary.iter().filter(|message| matches!(message, PeerMessage::Append(_))));
    for port in [port(&group, &new), port(&group, &old), guest.peer_port()] {
        for conversation in &said {
            for bytes in [&conversation.there, &conversation.back] {
                refused(&say(port, bytes));
            }
        }
        for bytes in [&acknowledgements, &appends] {
            assert_eq!(say(port, bytes), [], "nobody introduced himself");
        }
    }
    // In this epoch it has acknowledged more than it showed when it had nothing.
    let answer = say(port(&group, &new), &hello);
    let lost = |message: &PeerMessage| {
        let PeerMessage::Control(PeerControl::Refuse { reason, .. }) = message else { return false };
        matches!(reason, PeerRefusal::LostState { .. })
    };
    assert!(answer.iter().any(lost), "{answer:?}");

    group.wait_for_load();
    assert_eq!(group.record().expect("a record"), record);
    assert_eq!(handshakes(&group), before_replay, "nobody had to join anew");
    load.finish();
    group.verify();
    assert!(!group.logs().contains("panicked"));
}

/// Nothing but why not.
fn refused(answer: &[PeerMessage]) {
    let refusal = |message: &PeerMessage| matches!(message, PeerMessage::Control(PeerControl::Refuse { .. }));
    assert!(answer.iter().all(refusal), "{answer:?}");
}
