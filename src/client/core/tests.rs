//! One scripted story per fault. The test plays arbiters, replicas and clock.

use cutover_arbiter::record::{
    Addresses, Change, Epoch, GroupId, Incarnation, LastChange, Member, Mode, Position, RequestId,
};

use super::*;
use crate::protocol::client::{Receipt, Refusal};

fn member(name: &str) -> Member {
    let addresses = Addresses { client: format!("{name}:1"), ..Addresses::default() };
    Member { replica: name.parse().expect("a name"), incarnation: Incarnation(7), addresses }
}

pub(in crate::client) fn record(epoch: u64, primary: &str, change: Change) -> GroupRecord {
    GroupRecord {
        group: "orders".parse().expect("a name"),
        group_id: GroupId(1),
        epoch: Epoch(epoch),
        mode: Mode::Memory,
        min_in_sync: 1,
        primary: member(primary),
        in_sync: vec![member("r1"), member("r2")],
        last_change: LastChange { change, proposer: None, request: RequestId(0), commit: Position::default() },
    }
}

pub(super) fn config(window: usize) -> Config {
    Config {
        name: "test".into(),
        machine: None,
        session_timeout: Duration::from_secs(300),
        connect_timeout: Duration::from_secs(1),
        window,
    }
}

fn receipt() -> Receipt {
    Receipt { epoch: Epoch(1), index: 9, copies: 2, mode: Mode::Memory }
}

const SESSION: SessionId = SessionId { epoch: Epoch(1), index: 5 };
const DEADLINE: Duration = Duration::from_secs(10);

fn at(sequence: Sequence) -> RequestRef {
    RequestRef { session: SESSION, sequence }
}

struct Script {
    core: Core,
    now: Moment,
    tickets: Ticket,
}

impl Script {
    fn new() -> Self {
        Self { core: Core::new(config(8), record(1, "r1", Change::TakeOver)), now: Moment::ZERO, tickets: 0 }
    }

    /// A client whose session is open at r1 in epoch 1.
    fn serving() -> Self {
        let mut script = Self::new();
        assert_eq!(dialled(&script.step(Input::Tick)).as_deref(), Some("r1:1"));
        let sent = script.welcome(1, "r1", Change::TakeOver);
        assert_eq!(sent, vec![FromClient::Open { timeout_ms: 300_000 }]);
        script.receive(ToClient::Opened { session: SESSION, receipt: receipt() });
        script
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.core.step(self.now, input, &mut out);
        out
    }

    fn receive(&mut self, message: ToClient) -> Vec<Output> {
        self.step(Input::Received(self.core.connection, message))
    }

    fn lose(&mut self) -> Vec<Output> {
        self.step(Input::Lost { connection: self.core.connection, problem: "reset".into() })
    }

    fn submit(&mut self, body: &'static str) -> (Ticket, Vec<Output>) {
        self.tickets += 1;
        let (ticket, deadline) = (self.tickets, self.now + DEADLINE);
        let operation = Bytes::from_static(body.as_bytes());
        (ticket, self.step(Input::Submit { ticket, operation, write: true, deadline }))
    }

    fn ask(&mut self, request: RequestRef) -> (Ticket, Vec<Output>) {
        self.tickets += 1;
        let (ticket, deadline) = (self.tickets, self.now + DEADLINE);
        (ticket, self.step(Input::Ask { ticket, request, deadline }))
    }

    fn pass(&mut self, time: Duration) -> Vec<Output> {
        self.now += time;
        self.step(Input::Tick)
    }

    /// Lets time pass up to the next attempt, and expects one.
    fn next_dial(&mut self) -> String {
        self.now = self.core.next_deadline().expect("something is due");
        dialled(&self.step(Input::Tick)).expect("an attempt")
    }

    /// The dialled replica accepts and welcomes; returns what the client sends then.
    fn welcome(&mut self, epoch: u64, primary: &str, change: Change) -> Vec<FromClient> {
        let hello = self.step(Input::Connected(self.core.connection));
        assert!(matches!(sent(&hello)[..], [FromClient::Hello { .. }]), "{hello:?}");
        let record = Box::new(record(epoch, primary, change));
        sent(&self.receive(ToClient::Welcome { record, max_request: 1 << 20 }))
    }

    fn reply(&mut self, sequence: Sequence, reply: &'static str) -> Vec<Output> {
        self.receive(ToClient::Reply { sequence, reply: reply.into(), receipt: receipt() })
    }
}

fn dialled(out: &[Output]) -> Option<String> {
    out.iter().find_map(|output| match output {
        Output::Dial { address, .. } => Some(address.clone()),
        _ => None,
    })
}

fn sent(out: &[Output]) -> Vec<FromClient> {
    out.iter()
        .filter_map(|output| match output {
            Output::Send(_, message) => Some(message.clone()),
            _ => None,
        })
        .collect()
}

fn answers(out: &[Output]) -> Vec<(Ticket, Result<&[u8], &OperationError>)> {
    out.iter()
        .filter_map(|output| match output {
            Output::Answer(ticket, result) => Some((*ticket, result.as_ref().map(|reply| &reply.bytes[..]))),
            _ => None,
        })
        .collect()
}

fn told(out: &[Output]) -> Vec<(Ticket, Result<Outcome, OperationError>)> {
    out.iter()
        .filter_map(|output| match output {
            Output::Told(ticket, result) => Some((*ticket, result.clone())),
            _ => None,
        })
        .collect()
}

fn request(sequence: Sequence, lowest_unanswered: Sequence, body: &'static str) -> FromClient {
    FromClient::Request { sequence, lowest_unanswered, write: true, operation: body.into() }
}

fn asked(sequence: Sequence) -> FromClient {
    FromClient::Outcome { ticket: sequence, sequence }
}

#[test]
fn a_lost_reply_is_asked_for_again_under_the_same_sequence() {
    let mut script = Script::serving();
    let (first, out) = script.submit("a");
    assert_eq!(sent(&out), [request(1, 1, "a")]);
    assert_eq!(dialled(&script.lose()).as_deref(), Some("r1:1"), "the known primary is tried at once");
    assert_eq!(script.welcome(1, "r1", Change::TakeOver), [request(1, 1, "a")]);
    assert_eq!(answers(&script.reply(1, "A")), [(first, Ok(&b"A"[..]))]);
    assert_eq!(answers(&script.reply(1, "A")), [], "a second copy of the reply answers nobody");
}

#[test]
fn a_reply_too_long_for_a_frame_is_told_and_not_asked_for_again() {
    let mut script = Script::serving();
    let (first, _) = script.submit("range");
    let outcome = Outcome::Executed { reply: None };
    let out = script.receive(ToClient::OutcomeIs { ticket: 0, sequence: 1, outcome });
    let [(answered, Err(error))] = answers(&out)[..] else { panic!("{out:?}") };
    assert_eq!((answered, error), (first, &OperationError::ReplyTooLong { request: at(1) }));
    assert!(!error.has_no_side_effects() && !error.is_retryable());
    let (_, out) = script.submit("next");
    assert_eq!(sent(&out), [request(2, 2, "next")]);
    assert_eq!(dialled(&script.lose()).as_deref(), Some("r1:1"));
    assert_eq!(script.welcome(1, "r1", Change::TakeOver), [request(2, 2, "next")]);
}

#[test]
fn cut_over_in_the_middle_of_pipelined_requests_resends_the_unanswered_in_order() {
    let mut script = Script::serving();
    for body in ["a", "b", "c", "d"] {
        script.submit(body);
    }
    script.reply(1, "A");
    script.reply(3, "C");
    // The old primary is silent, not gone: only the watch tells.
    let out = script.step(Input::Record(Box::new(record(2, "r2", Change::TakeOver))));
    assert!(out.contains(&Output::HangUp(1)), "{out:?}");
    assert_eq!(dialled(&out).as_deref(), Some("r2:1"));
    let hello = script.step(Input::Connected(2));
    assert!(
        matches!(&sent(&hello)[..], [FromClient::Hello { session: Some(SESSION), oldest_unanswered: 2, .. }]),
        "{hello:?}"
    );
    let welcome = ToClient::Welcome { record: Box::new(record(2, "r2", Change::TakeOver)), max_request: 1 << 20 };
    assert_eq!(sent(&script.receive(welcome)), [request(2, 2, "b"), request(4, 2, "d")]);
    let late = ToClient::Reply { sequence: 2, reply: "old".into(), receipt: receipt() };
    assert_eq!(script.step(Input::Received(1, late)), [], "the old connection is of no interest");
    let (_, out) = script.submit("e");
    assert_eq!(sent(&out), [request(5, 2, "e")]);
}

#[test]
fn two_cut_overs_during_one_request_are_reported_instead_of_a_third_try() {
    let mut script = Script::serving();
    let (ticket, _) = script.submit("poison");
    script.step(Input::Record(Box::new(record(2, "r2", Change::TakeOver))));
    assert_eq!(script.welcome(2, "r2", Change::TakeOver), [request(1, 1, "poison")]);
    script.lose();
    script.step(Input::Record(Box::new(record(3, "r1", Change::TakeOver))));
    script.step(Input::Connected(script.core.connection));
    let welcome = ToClient::Welcome { record: Box::new(record(3, "r1", Change::TakeOver)), max_request: 1 << 20 };
    let out = script.receive(welcome);
    let [(answered, Err(OperationError::Poisonous { request, .. }))] = answers(&out)[..] else { panic!("{out:?}") };
    assert_eq!((answered, *request), (ticket, at(1)));
    assert_eq!(sent(&out), [asked(1)], "its outcome is asked for, which closes it");
}

#[test]
fn two_planned_hand_overs_poison_nothing() {
    let hand_over = |to: &str| Change::HandOver { to: to.parse().expect("a name"), incarnation: Incarnation(7) };
    let mut script = Script::serving();
    script.submit("a");
    for (epoch, primary, welcome) in [
        (2, "r2", Change::Resume),
        (4, "r1", Change::Resume),
        (6, "r2", Change::Admit { member: member("r3") }),
        (8, "r1", Change::Resume),
    ] {
        // Whoever is handed the group proposes a `Resume` before it serves, and may have admitted somebody since.
        script.step(Input::Record(Box::new(record(epoch, primary, hand_over(primary)))));
        assert_eq!(script.welcome(epoch + 1, primary, welcome), [request(1, 1, "a")]);
    }
}

#[test]
fn a_primary_that_was_handed_the_group_and_dies_twice_poisons_all_the_same() {
    let hand_over = Change::HandOver { to: "r2".parse().expect("a name"), incarnation: Incarnation(7) };
    let mut script = Script::serving();
    script.submit("poison");
    script.step(Input::Record(Box::new(record(2, "r2", hand_over))));
    assert_eq!(script.welcome(3, "r2", Change::Resume), [request(1, 1, "poison")]);
    for epoch in [4, 5] {
        // It came back from its disk, and resumes.
        script.step(Input::Record(Box::new(record(epoch, "r2", Change::Resume))));
        let sent = script.welcome(epoch, "r2", Change::Resume);
        assert_eq!(sent, [if epoch == 4 { request(1, 1, "poison") } else { asked(1) }]);
    }
}

#[test]
fn a_second_redirect_does_not_make_a_loss_of_the_first() {
    let mut script = Script::serving();
    script.submit("a");
    for epoch in [2, 3, 4] {
        // The primary is deposed and says so, twice; only then the new one is known.
        script.receive(ToClient::Redirect { record: None });
        script.next_dial();
        script.step(Input::Connected(script.core.connection));
        script.receive(ToClient::Redirect { record: None });
        let primary = if epoch % 2 == 0 { "r2" } else { "r1" };
        script.step(Input::Record(Box::new(record(epoch, primary, Change::TakeOver))));
        assert_eq!(script.welcome(epoch, primary, Change::TakeOver), [request(1, 1, "a")]);
    }
}

#[test]
fn a_new_life_of_the_same_primary_is_dialled_anew_and_an_admission_is_not() {
    let mut script = Script::serving();
    let out = script.step(Input::Record(Box::new(record(2, "r1", Change::Admit { member: member("r2") }))));
    assert_eq!(dialled(&out), None);
    let out = script.step(Input::Record(Box::new(record(3, "r1", Change::Resume))));
    assert_eq!(dialled(&out).as_deref(), Some("r1:1"));
}

#[test]
fn past_its_deadline_an_operation_is_unknown_and_its_late_reply_is_its_outcome() {
    let mut script = Script::serving();
    let (first, _) = script.submit("a");
    let out = script.pass(DEADLINE);
    let [(answered, Err(OperationError::Unknown { request: named, .. }))] = answers(&out)[..] else {
        panic!("{out:?}")
    };
    assert_eq!((answered, *named), (first, at(1)));
    let (_, out) = script.submit("b");
    assert_eq!(sent(&out), [request(2, 1, "b")], "the unknown one is still announced as unanswered");
    let (question, out) = script.ask(at(1));
    assert_eq!(sent(&out), [asked(1)]);
    let executed = Outcome::Executed { reply: Some("A".into()) };
    assert_eq!(told(&script.reply(1, "A")), [(question, Ok(executed.clone()))]);
    let (again, out) = script.ask(at(1));
    assert_eq!(told(&out), [(again, Ok(executed))], "settled once, the same for ever");
    let (_, out) = script.submit("c");
    assert_eq!(sent(&out), [request(3, 2, "c")]);
}

#[test]
fn an_operation_past_its_deadline_is_never_sent_again_but_asked_for_in_its_place() {
    let mut script = Script::serving();
    script.submit("a");
    script.now += Duration::from_secs(1);
    let (second, _) = script.submit("b");
    script.pass(DEADLINE - Duration::from_secs(1));
    script.lose();
    assert_eq!(script.welcome(1, "r1", Change::TakeOver), [asked(1), request(2, 1, "b")]);
    let (question, out) = script.ask(at(1));
    assert_eq!(sent(&out), [], "it is asked already on this connection");
    let out = script.receive(ToClient::OutcomeIs { ticket: 1, sequence: 1, outcome: Outcome::NotExecuted });
    assert_eq!(told(&out), [(question, Ok(Outcome::NotExecuted))]);
    assert_eq!(answers(&script.reply(2, "B")), [(second, Ok(&b"B"[..]))]);
}

#[test]
fn a_question_without_an_answer_stays_unknown_and_can_be_asked_again() {
    let mut script = Script::serving();
    script.submit("a");
    script.pass(DEADLINE);
    let (question, _) = script.ask(at(1));
    let out = script.pass(DEADLINE);
    assert!(matches!(told(&out)[..], [(ticket, Err(OperationError::Unknown { .. }))] if ticket == question));
    script.ask(at(1));
    let out = script.receive(ToClient::OutcomeIs { ticket: 1, sequence: 1, outcome: Outcome::NotExecuted });
    assert_eq!(told(&out).len(), 1);
}

#[test]
fn an_operation_that_no_connection_carried_was_certainly_not_executed() {
    let mut script = Script::new();
    script.step(Input::Tick);
    let (ticket, _) = script.submit("a");
    script.lose();
    let mut out = Vec::new();
    while answers(&out).is_empty() {
        script.now = script.core.next_deadline().expect("something is due");
        out = script.step(Input::Tick);
        if dialled(&out).is_some() {
            out.extend(script.lose());
        }
    }
    let [(answered, Err(error))] = answers(&out)[..] else { panic!("{out:?}") };
    assert_eq!((answered, script.now), (ticket, DEADLINE));
    assert!(matches!(error, OperationError::NotSent { last_problem } if last_problem == "reset"), "{error}");
    assert!(error.has_no_side_effects() && error.is_retryable());
}

#[test]
fn session_expired_leaves_what_was_sent_unknown_and_opens_another_for_the_rest() {
    let mut script = Script::serving();
    let (sent_once, _) = script.submit("a");
    script.pass(DEADLINE);
    let (question, _) = script.ask(at(1));
    let (sent_twice, _) = script.submit("b");
    script.lose();
    script.step(Input::Connected(script.core.connection));
    // While the greeting is under way another operation comes; nothing ever carried it.
    let (fresh, _) = script.submit("c");
    let out = script.receive(ToClient::Refused { sequence: 0, reason: Refusal::SessionExpired });
    assert_eq!(answers(&out), [(sent_twice, Err(&OperationError::SessionExpired { request: at(2) }))]);
    assert_eq!(told(&out), [(question, Ok(Outcome::Expired))]);
    assert!(sent_once < fresh && sent_twice < fresh);
    script.next_dial();
    let open = script.welcome(1, "r1", Change::TakeOver);
    assert_eq!(open, [FromClient::Open { timeout_ms: 300_000 }]);
    let next = SessionId { epoch: Epoch(1), index: 77 };
    let out = script.receive(ToClient::Opened { session: next, receipt: receipt() });
    assert_eq!(sent(&out), [request(1, 1, "c")]);
    let (later, out) = script.ask(at(2));
    assert_eq!(told(&out), [(later, Ok(Outcome::Expired))]);
}

#[test]
fn session_expired_on_first_sight_executes_nothing_and_costs_nothing() {
    let mut script = Script::serving();
    script.submit("a");
    script.submit("b");
    let out = script.receive(ToClient::Refused { sequence: 1, reason: Refusal::SessionExpired });
    assert_eq!(answers(&out), [], "the only connection that carried them says that they were not executed");
    script.welcome(1, "r1", Change::TakeOver);
    let next = SessionId { epoch: Epoch(1), index: 77 };
    let out = script.receive(ToClient::Opened { session: next, receipt: receipt() });
    assert_eq!(sent(&out), [request(1, 1, "a"), request(2, 1, "b")]);
}

#[test]
fn replicas_that_redirect_in_a_circle_are_asked_with_growing_pauses() {
    let mut script = Script::new();
    script.step(Input::Tick);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        script.step(Input::Connected(script.core.connection));
        let out = script.receive(ToClient::Redirect { record: Some(Box::new(record(1, "r2", Change::TakeOver))) });
        assert_eq!(dialled(&out), None, "an equal epoch is no news");
        let before = script.now;
        script.next_dial();
        pauses.push((script.now - before).as_millis());
    }
    assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256]);
    script.step(Input::Connected(script.core.connection));
    let out = script.receive(ToClient::Redirect { record: Some(Box::new(record(2, "r2", Change::TakeOver))) });
    assert_eq!(dialled(&out).as_deref(), Some("r2:1"), "a higher epoch is followed at once");
}

#[test]
fn a_dead_primary_is_tried_in_short_steps_and_the_watch_ends_the_pause() {
    let mut script = Script::serving();
    script.submit("a");
    script.lose();
    let mut tried = Vec::new();
    for _ in 0..5 {
        script.lose();
        let before = script.now;
        tried.push((script.next_dial(), (script.now - before).as_millis()));
    }
    let tried: Vec<_> = tried.iter().map(|(address, pause)| (address.as_str(), *pause)).collect();
    assert_eq!(tried, [("r1:1", 2), ("r1:1", 4), ("r2:1", 8), ("r1:1", 16), ("r1:1", 32)]);
    script.lose();
    let out = script.step(Input::Record(Box::new(record(2, "r2", Change::TakeOver))));
    assert_eq!(dialled(&out).as_deref(), Some("r2:1"));
}

#[test]
fn a_watch_that_goes_backwards_is_ignored() {
    let mut script = Script::serving();
    script.step(Input::Record(Box::new(record(3, "r2", Change::TakeOver))));
    let old = script.step(Input::Record(Box::new(record(2, "r1", Change::TakeOver))));
    assert_eq!(old, []);
    assert_eq!(script.core.route.record().epoch, Epoch(3));
}

/// Its epochs were lower, so the old record was kept for ever.
#[test]
fn a_group_made_anew_is_followed_whatever_its_epoch_and_ends_the_session() {
    let mut script = Script::new();
    script.step(Input::Tick);
    script.welcome(9, "r1", Change::TakeOver);
    script.receive(ToClient::Opened { session: SESSION, receipt: receipt() });
    let (carried, _) = script.submit("carried");
    let anew = |epoch, primary: &str| GroupRecord { group_id: GroupId(2), ..record(epoch, primary, Change::TakeOver) };
    // A stranger's word for it is no reason for anything.
    let strange = script.receive(ToClient::Redirect { record: Some(Box::new(anew(10, "r2"))) });
    assert!(answers(&strange).is_empty() && script.core.session.is_some(), "{strange:?}");

    let out = script.step(Input::Record(Box::new(anew(1, "r2"))));
    assert_eq!(dialled(&out).as_deref(), Some("r2:1"));
    assert!(out.contains(&Output::Record(Box::new(anew(1, "r2")))));
    let expired = OperationError::SessionExpired { request: at(1) };
    assert_eq!(answers(&out), vec![(carried, Err(&expired))], "of what was carried nobody can know");
    let (later, _) = script.submit("later");
    let hello = script.step(Input::Connected(script.core.connection));
    assert!(matches!(&sent(&hello)[..], [FromClient::Hello { session: None, .. }]), "{hello:?}");
    let record = Box::new(anew(1, "r2"));
    let opening = sent(&script.receive(ToClient::Welcome { record, max_request: 1 << 20 }));
    assert_eq!(opening, vec![FromClient::Open { timeout_ms: 300_000 }]);
    // The new group's first session is called as the old one was: its outcomes would be taken for the old one's.
    let again = sent(&script.receive(ToClient::Opened { session: SESSION, receipt: receipt() }));
    assert_eq!(again, vec![FromClient::Open { timeout_ms: 300_000 }]);
    let session = SessionId { epoch: Epoch(1), index: 6 };
    let out = script.receive(ToClient::Opened { session, receipt: receipt() });
    assert_eq!(sent(&out), vec![request(1, 1, "later")]);
    assert_eq!(answers(&script.reply(1, "done")), vec![(later, Ok(&b"done"[..]))]);
    // What replicas of the old group still say leads nowhere.
    let (_, asked) = script.ask(at(1));
    assert_eq!(told(&asked)[0].1, Ok(Outcome::Expired));
}

#[test]
fn a_deposed_primary_that_still_welcomes_is_left() {
    let mut script = Script::serving();
    script.step(Input::Record(Box::new(record(3, "r2", Change::TakeOver))));
    script.submit("a");
    let sent = script.welcome(1, "r1", Change::TakeOver);
    assert_eq!(sent, []);
    assert!(script.core.problem.contains("epoch 3 is known"), "{}", script.core.problem);
}

#[test]
fn a_refused_request_and_those_behind_it_are_sent_again_in_order() {
    let mut script = Script::serving();
    for body in ["a", "b", "c"] {
        script.submit(body);
    }
    let refused = Refusal::NotEnoughReplicas { in_sync: 1, min_in_sync: 2 };
    let out = script.receive(ToClient::Refused { sequence: 2, reason: refused });
    assert!(out.contains(&Output::HangUp(1)) && dialled(&out).is_none(), "{out:?}");
    script.next_dial();
    let again = script.welcome(1, "r1", Change::TakeOver);
    assert_eq!(again, [request(1, 1, "a"), request(2, 1, "b"), request(3, 1, "c")]);
}

#[test]
fn refused_until_its_deadline_is_certainly_not_executed_unless_a_silent_connection_carried_it_too() {
    let refused = Refusal::NotEnoughReplicas { in_sync: 1, min_in_sync: 2 };
    for lost_before in [false, true] {
        let mut script = Script::serving();
        script.submit("a");
        if lost_before {
            script.lose();
            script.welcome(1, "r1", Change::TakeOver);
        }
        script.receive(ToClient::Refused { sequence: 1, reason: refused.clone() });
        let out = script.pass(DEADLINE);
        let [(_, Err(error))] = answers(&out)[..] else { panic!("{out:?}") };
        assert_eq!(error.has_no_side_effects(), !lost_before, "{error}");
    }
}

#[test]
fn fenced_by_a_newer_connection_of_ones_own_reconnects() {
    let mut script = Script::serving();
    script.submit("a");
    let out = script.receive(ToClient::Refused { sequence: 1, reason: Refusal::Fenced });
    assert_eq!(dialled(&out).as_deref(), Some("r1:1"));
    assert_eq!(script.welcome(1, "r1", Change::TakeOver), [request(1, 1, "a")]);
}

#[test]
fn a_handshake_without_an_answer_is_given_up() {
    let mut script = Script::new();
    script.step(Input::Tick);
    script.step(Input::Connected(1));
    let out = script.pass(Duration::from_secs(1));
    assert!(out.contains(&Output::HangUp(1)), "{out:?}");
    assert_eq!(dialled(&out).as_deref(), Some("r1:1"));
}

#[test]
fn received_replies_are_announced_once_when_no_request_does_it() {
    let mut script = Script::serving();
    script.submit("a");
    script.reply(1, "A");
    assert_eq!(sent(&script.pass(ANNOUNCE_AFTER)), [FromClient::Acknowledge { below: 2 }]);
    assert_eq!(sent(&script.pass(ANNOUNCE_AFTER)), []);
    let due = script.core.next_deadline().expect("the renewal");
    assert!(due > script.now + Duration::from_secs(90), "nothing polls");
}

#[test]
fn large_replies_are_announced_at_once() {
    let mut script = Script::serving();
    script.submit("a");
    let reply = Bytes::from(vec![0; ANNOUNCE_BYTES]);
    let out = script.receive(ToClient::Reply { sequence: 1, reply, receipt: receipt() });
    assert_eq!(sent(&out), [FromClient::Acknowledge { below: 2 }]);
}

#[test]
fn a_session_is_renewed_at_a_third_of_its_timeout_and_again_when_the_renewal_was_lost() {
    let mut script = Script::serving();
    let third = Duration::from_secs(100);
    assert_eq!(sent(&script.pass(third)), [FromClient::KeepAlive]);
    assert_eq!(script.core.next_deadline(), None, "one renewal at a time");
    script.lose();
    assert_eq!(script.welcome(1, "r1", Change::TakeOver), [FromClient::KeepAlive]);
    script.receive(ToClient::Alive);
    assert_eq!(script.core.next_deadline(), Some(script.now + third));
}

#[test]
fn a_full_window_holds_new_operations_back_until_the_oldest_is_settled() {
    let mut script = Script::serving();
    for _ in 0..8 {
        script.submit("a");
    }
    let (_, out) = script.submit("late");
    assert_eq!(sent(&out), []);
    script.reply(2, "B");
    assert_eq!(sent(&script.reply(1, "A")), [request(9, 3, "late")]);
}

#[test]
fn an_operation_over_the_limit_is_refused_before_it_is_sent() {
    let mut script = Script::serving();
    let operation = Bytes::from(vec![0; 1 << 20]);
    let out = script.step(Input::Submit { ticket: 1, operation, write: true, deadline: DEADLINE });
    assert!(matches!(answers(&out)[..], [(1, Err(OperationError::TooLarge { .. }))]), "{out:?}");
    assert!(script.core.is_idle());
}

#[test]
fn nonsense_from_a_replica_ends_the_connection_and_nothing_else() {
    let nonsense = [
        ToClient::Reply { sequence: 99, reply: Bytes::new(), receipt: receipt() },
        ToClient::Opened { session: SESSION, receipt: receipt() },
        ToClient::Welcome { record: Box::new(record(9, "r1", Change::TakeOver)), max_request: 1 },
    ];
    for message in nonsense {
        let mut script = Script::serving();
        script.submit("a");
        let out = script.receive(message);
        assert!(out.contains(&Output::HangUp(1)), "{out:?}");
        script.next_dial();
        assert_eq!(script.welcome(1, "r1", Change::TakeOver), [request(1, 1, "a")]);
    }
}

#[test]
fn closing_tells_everybody_what_is_known() {
    let mut script = Script::serving();
    let (carried, _) = script.submit("a");
    script.lose();
    let (waiting, _) = script.submit("b");
    let out = script.step(Input::Close);
    let answers = answers(&out);
    assert!(answers.contains(&(waiting, Err(&OperationError::Closed))), "{answers:?}");
    assert!(answers.iter().any(|(ticket, result)| *ticket == carried
        && matches!(result, Err(OperationError::Unknown { request, .. }) if *request == at(1))));
    let (after, out) = script.submit("c");
    assert!(matches!(out[..], [Output::Answer(ticket, Err(OperationError::Closed))] if ticket == after));
    assert_eq!(script.core.next_deadline(), None);
}

#[test]
fn an_outcome_of_a_stranger_is_not_guessed() {
    let mut script = Script::serving();
    let (question, out) = script.ask(at(44));
    assert_eq!(told(&out), [(question, Err(OperationError::Forgotten { request: at(44) }))]);
}
