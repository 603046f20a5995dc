//! One connection beside a primary that is alone, with the arbiters and the disk in the hands of the test.

use std::time::Duration;

use bytes::BytesMut;
use cutover_arbiter::record::{Addresses, Command, GroupId, GroupRecord, Mode, Registers};

use super::*;
use crate::machine::kv::{self, KeyValue};
use crate::protocol::client::{FromClient, Outcome, Refusal, ToClient, WINDOW_BYTES, WINDOW_REQUESTS};
use crate::replica::{Config, CreateOptions, Hold, Input, Limits, Now, Output, Release};

/// A primary that has made its group and is alone in it.
struct Alone {
    core: Replica<KeyValue>,
    registers: Registers,
    /// Its disk does nothing.
    hangs: bool,
}

impl Alone {
    fn new(min_in_sync: u8) -> Self {
        let millis = Duration::from_millis;
        let config = Config {
            name: "a".parse().unwrap(),
            addresses: Addresses { peer: "a".to_owned(), ..Addresses::default() },
            group: "g".parse().unwrap(),
            create: Some(CreateOptions { mode: Mode::Buffered, min_in_sync }),
            copies: 2,
            suspect_after: millis(500),
            drop_backup_after: millis(350),
            heartbeat: millis(125),
            switchover_timeout: millis(3000),
            propose_again_after: millis(200),
            readmit_after: millis(100),
            log_bytes: 10_000,
            unacknowledged_bytes: 1 << 20,
            append_bytes: 5_000,
            snapshot_bytes: u64::MAX,
            journal_stall_limit: Duration::from_secs(60),
            limits: Limits::default(),
            seed: [7; 32],
        };
        let now = Now { boot: Duration::from_secs(1), wall: 1_700_000_000_000_000 };
        let core = Replica::new(now, config, KeyValue::default);
        let mut alone = Self { core, registers: Registers::default(), hangs: false };
        alone.core.begin(now);
        alone.settle(Outbox::default());
        assert_eq!(alone.core.admission(), Admission::Open);
        alone
    }

    /// Ends a turn.
    fn settle(&mut self, mut out: Outbox<KeyValue>) {
        self.core.end(&mut out);
        while !out.outputs.is_empty() {
            for output in std::mem::take(&mut out.outputs) {
                let input = match output {
                    Output::Persist { sequence, .. } | Output::Claim { sequence, .. } if !self.hangs => {
                        Input::Persisted { sequence }
                    }
                    Output::Propose(proposal) => {
                        let request = proposal.request;
                        let answer = self.registers.apply(Command { proposal: *proposal, at_ms: 1 });
                        Input::Answer { request, answer }
                    }
                    Output::Read { ticket } => {
                        Input::Read { ticket, record: self.registers.get(&"g".parse().unwrap()).cloned() }
                    }
                    _ => continue,
                };
                self.core.step(input, &mut out);
                self.core.end(&mut out);
            }
        }
    }

    /// Hands a message to a connection, and ends the turn.
    fn take(&mut self, port: &mut Library, message: FromClient) -> Taken {
        let (mut reply, mut outbox, admission) = (Vec::new(), Outbox::default(), self.core.admission());
        let desk = Desk { core: &mut self.core, admission: &admission, reply: &mut reply, outbox: &mut outbox };
        let taken = port.take(message, Terms { group: &"g".parse().unwrap(), max_request: 1000 }, desk);
        self.settle(outbox);
        taken
    }

    fn execute(&mut self, port: &mut Direct<u8>, operation: &[u8], output: &mut BytesMut) -> Executed {
        let (mut reply, mut outbox, admission) = (Vec::new(), Outbox::default(), self.core.admission());
        let desk = Desk { core: &mut self.core, admission: &admission, reply: &mut reply, outbox: &mut outbox };
        let executed = port.execute(operation, desk, (0, 1), output, |neutral, out| out.extend_from_slice(neutral));
        self.settle(outbox);
        executed
    }

    /// A connection with a session of its own.
    fn opened(&mut self, number: u64) -> Library {
        let mut port = Library::new(number);
        assert!(matches!(
            self.take(&mut port, hello(None)),
            Taken::Welcomed(ToClient::Welcome { max_request: 1000, .. })
        ));
        assert!(matches!(self.take(&mut port, FromClient::Open { timeout_ms: 60_000 }), Taken::Executed(_)));
        assert!(matches!(&self.released(&mut port)[..], [ToClient::Opened { .. }]));
        port
    }

    fn released(&self, port: &mut Library) -> Vec<ToClient> {
        let (release, mut told) = (self.core.release(), Vec::new());
        port.release(&release, |answer, bytes| told.push(answer.message(bytes, &release)));
        told
    }
}

fn hello(session: Option<crate::protocol::SessionId>) -> FromClient {
    FromClient::Hello {
        group: "g".parse().unwrap(),
        name: "c".to_owned(),
        machine: None,
        session,
        oldest_unanswered: 1,
        record: None,
    }
}

fn request(sequence: u64, operation: Vec<u8>) -> FromClient {
    FromClient::Request { sequence, lowest_unanswered: 1, write: true, operation: operation.into() }
}

fn set() -> Vec<u8> {
    kv::request("SET", &[b"key", b"value"])
}

#[test]
fn hello_comes_first_and_once() {
    let mut alone = Alone::new(1);
    let mut port = Library::new(1);
    for early in [request(1, set()), FromClient::KeepAlive, FromClient::Open { timeout_ms: 1 }] {
        assert!(matches!(alone.take(&mut port, early), Taken::Leave(None)));
    }
    assert!(!port.introduced());
    let mut port = alone.opened(2);
    assert!(matches!(alone.take(&mut port, hello(None)), Taken::Leave(None)));
}

#[test]
fn who_means_another_group_or_machine_is_a_stranger() {
    let mut alone = Alone::new(1);
    let FromClient::Hello { name, session, oldest_unanswered, record, group, .. } = hello(None) else { unreachable!() };
    let other = crate::machine::Identity { name: "tickets".to_owned(), version: 1 };
    let machine = FromClient::Hello {
        group: group.clone(),
        name: name.clone(),
        machine: Some(other),
        session,
        oldest_unanswered,
        record: record.clone(),
    };
    let another = "another".parse().unwrap();
    let group = FromClient::Hello { group: another, name, machine: None, session, oldest_unanswered, record };
    for message in [machine, group] {
        let mut port = Library::new(1);
        assert!(matches!(alone.take(&mut port, message), Taken::Stranger { .. }));
        assert!(!port.introduced());
    }
}

#[test]
fn a_refused_request_refuses_the_later_ones_of_its_connection() {
    let mut alone = Alone::new(1);
    let mut port = Library::new(1);
    assert!(matches!(alone.take(&mut port, hello(None)), Taken::Welcomed(_)));
    let taken = alone.take(&mut port, request(1, set()));
    assert!(matches!(taken, Taken::Tell(ToClient::Refused { sequence: 1, reason: Refusal::NoSession })));
    // The next one would be executed if the first were forgotten.
    let taken = alone.take(&mut port, FromClient::Open { timeout_ms: 60_000 });
    assert!(matches!(taken, Taken::Tell(ToClient::Refused { sequence: 0, reason: Refusal::Fenced })));
    assert_eq!(alone.core.status().sessions, 0);
}

#[test]
fn a_refusal_does_not_pass_what_waits() {
    let mut alone = Alone::new(1);
    let mut port = alone.opened(1);
    alone.hangs = true;
    assert!(matches!(alone.take(&mut port, request(1, set())), Taken::Executed(_)));
    // Another session is opened with a longer life than anyone may have: refused without a hold.
    assert!(matches!(alone.take(&mut port, FromClient::Open { timeout_ms: u64::MAX }), Taken::Done));
    assert!(matches!(alone.take(&mut port, request(2, set())), Taken::Done));
    assert!(alone.released(&mut port).is_empty());
    assert_eq!(port.parts(), 3);
    // Once the disk has it, all leave in their order.
    let release = Release { commit: u64::MAX, round: u64::MAX, ..alone.core.release() };
    let mut told = Vec::new();
    port.release(&release, |answer, bytes| told.push(answer.message(bytes, &release)));
    assert!(matches!(
        &told[..],
        [
            ToClient::Reply { sequence: 1, .. },
            ToClient::Refused { sequence: 0, reason: Refusal::TimeoutTooLong { .. } },
            ToClient::Refused { sequence: 2, reason: Refusal::Fenced },
        ]
    ));
}

#[test]
fn a_newer_connection_fences_the_older_one() {
    let mut alone = Alone::new(1);
    let mut older = alone.opened(1);
    let mut newer = Library::new(2);
    assert!(matches!(alone.take(&mut newer, hello(older.session())), Taken::Welcomed(_)));
    let taken = alone.take(&mut older, request(1, set()));
    assert!(matches!(taken, Taken::Tell(ToClient::Refused { sequence: 1, reason: Refusal::Fenced })));
    assert!(matches!(alone.take(&mut newer, request(1, set())), Taken::Executed(_)));
}

#[test]
fn a_session_that_is_gone_is_told_in_the_handshake() {
    let mut alone = Alone::new(1);
    let mut port = Library::new(1);
    let session = crate::protocol::SessionId { epoch: cutover_arbiter::record::Epoch(1), index: 999 };
    assert!(matches!(alone.take(&mut port, hello(Some(session))), Taken::Refused(_)));
    assert!(port.introduced(), "it said who it is");
    let told = alone.released(&mut port);
    assert!(matches!(&told[..], [ToClient::Refused { sequence: 0, reason: Refusal::SessionExpired }]));
}

/// A session is named by a position in its group's log, and the logs of all groups begin alike: a client of a group that
/// was made anew under its old name must not go on with the session of another.
#[test]
fn a_session_of_an_earlier_group_of_the_same_name_is_gone() {
    let mut alone = Alone::new(1);
    let mut theirs = alone.opened(1);
    let record = alone.core.record().cloned().map(|record| GroupRecord { group_id: GroupId(77), ..record });
    let FromClient::Hello { group, name, machine, oldest_unanswered, .. } = hello(None) else { unreachable!() };
    let session = theirs.session();
    let hello = FromClient::Hello { group, name, machine, session, oldest_unanswered, record: record.map(Box::new) };
    let mut port = Library::new(2);
    let taken = alone.take(&mut port, hello);
    assert!(matches!(taken, Taken::Tell(ToClient::Refused { sequence: 0, reason: Refusal::SessionExpired })));
    // Whose it is goes on with it.
    assert!(matches!(alone.take(&mut theirs, request(1, set())), Taken::Executed(_)));
}

/// What others asked may wait for as long as too few are in sync; who is refused because of that must not.
#[test]
fn too_few_in_sync_is_told_at_once() {
    let mut alone = Alone::new(2);
    let mut port = Library::new(1);
    assert!(matches!(alone.take(&mut port, hello(None)), Taken::Welcomed(_)));
    let taken = alone.take(&mut port, FromClient::Open { timeout_ms: 60_000 });
    assert!(matches!(taken, Taken::Tell(ToClient::Refused { reason: Refusal::NotEnoughReplicas { .. }, .. })));
    let (mut direct, mut output) = (Direct::default(), BytesMut::new());
    assert!(matches!(alone.execute(&mut direct, &set(), &mut output), Executed::Refused(None)));
    assert!(output.starts_with(b"-NOREPLICAS "), "{output:?}");
    assert!(!direct.owes());
}

/// What became of `sequence`, asked as the library asks it on a new connection.
fn outcome(alone: &mut Alone, number: u64, session: crate::protocol::SessionId, oldest: u64, sequence: u64) -> Outcome {
    let mut port = Library::new(number);
    let FromClient::Hello { group, name, machine, record, .. } = hello(None) else { unreachable!() };
    let hello = FromClient::Hello { group, name, machine, session: Some(session), oldest_unanswered: oldest, record };
    assert!(matches!(alone.take(&mut port, hello), Taken::Welcomed(_)));
    assert!(matches!(alone.take(&mut port, FromClient::Outcome { ticket: sequence, sequence }), Taken::Executed(_)));
    match alone.released(&mut port).pop() {
        Some(ToClient::OutcomeIs { sequence: about, outcome, .. }) if about == sequence => outcome,
        other => panic!("{other:?}"),
    }
}

/// Reads are not logged: however many of them a session has had, the outcome of the next one can be asked for. Refused, it
/// would be asked again on every new connection, and nothing that comes after it would ever be taken.
#[test]
fn an_outcome_can_be_asked_for_behind_more_reads_than_a_window() {
    let mut alone = Alone::new(1);
    let mut port = alone.opened(1);
    let session = port.session().unwrap();
    let last = WINDOW_REQUESTS as u64 + 10;
    for sequence in 1..=last {
        let operation = kv::request("GET", &[b"key"]).into();
        let read = FromClient::Request { sequence, lowest_unanswered: sequence, write: false, operation };
        assert!(matches!(alone.take(&mut port, read), Taken::Executed(_)));
        assert_eq!(alone.released(&mut port).len(), 1);
    }
    // One more read is slow, and its time is over.
    let question = FromClient::Outcome { ticket: 0, sequence: last };
    assert!(matches!(alone.take(&mut port, question), Taken::Executed(_)));
    // The next one is lost with its connection.
    assert_eq!(outcome(&mut alone, 2, session, last + 1, last + 1), Outcome::NotExecuted);
}

/// What a question says of the replies that have arrived makes room, as in a request: a session that only asks does not
/// wedge itself after a window of answers.
#[test]
fn what_was_closed_is_forgotten_once_its_answer_has_arrived() {
    let mut alone = Alone::new(1);
    let session = alone.opened(1).session().unwrap();
    for sequence in 1..=2 * WINDOW_REQUESTS as u64 {
        assert_eq!(outcome(&mut alone, sequence + 1, session, sequence, sequence), Outcome::NotExecuted);
    }
}

#[test]
fn nothing_is_taken_behind_a_read_that_is_answered_elsewhere() {
    let mut alone = Alone::new(1);
    let mut port = alone.opened(1);
    let keys = kv::request("KEYS", &[b"*"]);
    let Taken::Elsewhere { ticket, work, .. } = alone.take(&mut port, request(1, keys.clone())) else { unreachable!() };
    assert!(port.is_blocked());
    assert!(alone.released(&mut port).is_empty(), "the slot is empty");
    let mut reply = Vec::new();
    work(&mut reply);
    port.fill(ticket, reply, &mut alone.core);
    assert!(port.is_blocked(), "not before it is released");
    assert!(matches!(&alone.released(&mut port)[..], [ToClient::Reply { sequence: 1, .. }]));
    assert!(!port.is_blocked());

    let (mut direct, mut output) = (Direct::default(), BytesMut::new());
    let Executed::Elsewhere { ticket, work, .. } = alone.execute(&mut direct, &keys, &mut output) else {
        unreachable!()
    };
    assert!(direct.is_blocked());
    let mut reply = Vec::new();
    work(&mut reply);
    direct.fill(ticket, reply);
    assert!(!direct.is_blocked());
    let mut kinds = Vec::new();
    direct.release(&alone.core.release(), |kind, _| kinds.push(*kind));
    assert_eq!(kinds, [1]);
}

/// It was refused as executed, its reply gone, although the reply had been there before the write was taken.
#[test]
fn a_read_that_another_thread_answered_is_told_again_behind_the_write_that_followed_it() {
    let mut alone = Alone::new(1);
    let mut port = alone.opened(1);
    let session = port.session().unwrap();
    let keys = kv::request("KEYS", &[b"*"]);
    let Taken::Elsewhere { ticket, work, .. } = alone.take(&mut port, request(1, keys.clone())) else { unreachable!() };
    let mut reply = Vec::new();
    work(&mut reply);
    port.fill(ticket, reply, &mut alone.core);
    let first = alone.released(&mut port);
    assert!(matches!(&first[..], [ToClient::Reply { sequence: 1, .. }]));
    // The reply is lost on its way; the write behind it was sent before, and is executed.
    assert!(matches!(alone.take(&mut port, request(2, set())), Taken::Executed(_)));
    alone.released(&mut port);

    let mut again = Library::new(2);
    assert!(matches!(alone.take(&mut again, hello(Some(session))), Taken::Welcomed(_)));
    assert!(matches!(alone.take(&mut again, request(1, keys)), Taken::Executed(_)));
    let (ToClient::Reply { reply: before, .. }, [ToClient::Reply { sequence: 1, reply: after, .. }]) =
        (&first[0], &alone.released(&mut again)[..])
    else {
        panic!("no reply")
    };
    assert_eq!(before, after, "not run again behind the write");
}

/// The whole replica waited with it.
#[test]
fn whoever_has_too_much_unread_waits_alone() {
    let mut alone = Alone::new(1);
    let (mut greedy, mut other) = (alone.opened(1), alone.opened(2));
    let big = vec![b'x'; WINDOW_BYTES / 64];
    assert!(matches!(alone.take(&mut other, request(1, kv::request("SET", &[b"big", &big]))), Taken::Executed(_)));
    alone.released(&mut other);
    let get = kv::request("GET", &[b"big"]);
    // Nothing is released from here on: what is read after a write waits for it.
    alone.hangs = true;
    assert!(matches!(alone.take(&mut other, request(2, set())), Taken::Executed(_)));
    for sequence in 1..=65 {
        assert!(matches!(alone.take(&mut greedy, request(sequence, get.clone())), Taken::Executed(_)));
    }
    let behind = alone.take(&mut greedy, request(66, set()));
    assert!(matches!(behind, Taken::Behind(FromClient::Request { sequence: 66, .. })));
    assert!(matches!(alone.take(&mut other, request(3, set())), Taken::Executed(_)), "nobody else waits");
}

#[test]
fn who_is_owed_an_answer_hears_nothing_more_when_the_replica_is_deposed() {
    let mut alone = Alone::new(1);
    let (mut owed, mut quiet, mut output) = (Direct::default(), Direct::<u8>::default(), BytesMut::new());
    let mut port = alone.opened(1);
    alone.hangs = true;
    assert!(matches!(alone.execute(&mut owed, &set(), &mut output), Executed::Held(Some(_))));
    assert!(matches!(alone.take(&mut port, request(1, set())), Taken::Executed(_)));
    assert_eq!(owed.deposed(), Parting::Close);
    assert_eq!(quiet.deposed(), Parting::Keep);
    assert!(matches!(port.deposed(&alone.core), ToClient::Redirect { record: Some(_) }));
    // Not even when all of it turns out to be committed.
    let release = Release { commit: u64::MAX, round: u64::MAX, ..alone.core.release() };
    owed.release(&release, |_, _| panic!("it was dropped"));
    port.release(&release, |_, _| panic!("it was dropped"));
    assert!(output.is_empty());
}

#[test]
fn a_replica_that_does_not_serve_says_so_behind_what_waits() {
    let mut alone = Alone::new(1);
    let (mut direct, mut output) = (Direct::default(), BytesMut::new());
    direct.wait_for(Hold { index: 1 << 40, round: 0 }, 0);
    let mut outbox = Outbox::default();
    // Its disk fails: it serves nobody any more.
    alone.core.step(Input::JournalFailed { reason: "a test".to_owned() }, &mut outbox);
    assert_eq!(alone.core.admission(), Admission::Closed);
    assert!(matches!(alone.execute(&mut direct, &set(), &mut output), Executed::NotServing));
    assert!(output.is_empty(), "something is to be told before it");
    let mut fresh = Direct::default();
    assert!(matches!(alone.execute(&mut fresh, &set(), &mut output), Executed::NotServing));
    assert!(output.starts_with(b"-READONLY "), "{output:?}");
    let mut port = Library::new(1);
    assert!(matches!(alone.take(&mut port, hello(None)), Taken::Leave(Some(ToClient::Redirect { .. }))));
}
