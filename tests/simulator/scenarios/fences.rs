//! An operator's fence, at one core: what it refuses, what it keeps, and how a group gets out from behind it.

use cutover::replica::{FURTHEST, Role};
use cutover_arbiter::record::Member;

use super::*;

impl Lone {
    /// An operator asks for a fence; the arbiters, asked first, show this.
    fn is_fenced(&mut self, epoch: u64, shown: Option<GroupRecord>) -> Result<Epoch, FenceRefused> {
        self.reads.clear();
        self.turn(1, Some(fence(epoch)));
        if let Some(ticket) = self.reads.pop() {
            self.turn(1, Some(Input::Read { ticket, record: shown }));
        }
        self.fenced.pop().expect("it answers")
    }

    /// Another is in sync, too, by the arbiters' word, and has acknowledged nothing yet.
    fn has_a_backup(&mut self) -> Member {
        let record = self.record().expect("there is a group");
        let mut member = record.primary.clone();
        member.replica = "b".parse().expect("a good name");
        member.addresses.peer = "b:1".to_owned();
        let proposal = Proposal {
            group: record.group.clone(),
            expected_epoch: record.epoch,
            request: RequestId(7),
            proposer: Some(record.primary.life()),
            change: Change::Admit { member: member.clone() },
            commit: Position::default(),
            held: Position::default(),
            floor: Epoch(0),
        };
        let Answer::Granted(record) = self.registers.apply(Command { proposal, at_ms: 1 }) else { panic!() };
        self.turn(1, Some(Input::Record(record)));
        assert_eq!(self.core.status().role, Role::Primary, "it resumes");
        member
    }
}

fn fence(epoch: u64) -> Input {
    Input::Fence { epoch: Epoch(epoch), until: Duration::MAX, ticket: epoch }
}

/// Seed 903124: the arbiters granted, lost everything, and let another be adopted before the grant arrived.
#[test]
pub fn a_grant_on_its_way_reaches_nobody_behind_a_fence() {
    let mut lone = Lone::durable(Mode::Buffered);
    assert!(matches!(lone.write(), Disposition::Reply { .. }));
    lone.turn(1, None);
    let refused = lone.is_fenced(2, None);
    assert_eq!(refused, Err(FenceRefused::TooLow { known: Epoch(1) }), "a grant of 2 may be on its way");
    assert_eq!(lone.core.admission(), Admission::Open);
    assert_eq!(lone.is_fenced(17, None), Ok(Epoch(1)));
    assert_eq!((lone.core.admission(), lone.core.status().epoch), (Admission::Closed, Epoch(17)));
    assert_eq!(lone.is_fenced(17, None), Ok(Epoch(1)), "a second attempt");
    let granted = GroupRecord { epoch: Epoch(2), ..lone.record().expect("there is a group") };
    lone.turn(1, Some(Input::Record(granted.clone())));
    assert_eq!((lone.core.admission(), lone.core.status().epoch), (Admission::Closed, Epoch(17)));
    lone.restart();
    lone.turn(1, Some(Input::Record(granted.clone())));
    assert_eq!((lone.core.admission(), lone.core.status().epoch), (Admission::Closed, Epoch(17)), "its disk knows");

    let mut other = granted.primary.clone();
    other.replica = "b".parse().expect("a good name");
    other.addresses.peer = "b:1".to_owned();
    let adopted = GroupRecord { epoch: Epoch(17), primary: other.clone(), in_sync: vec![other], ..granted };
    lone.dials.clear();
    lone.turn(1, Some(Input::Record(adopted)));
    assert_eq!((lone.core.status().fenced_from, lone.dials.len()), (None, 1), "it follows who was adopted");
}

/// Seed 903180, with a restart between the attempts: the second one fenced elsewhere, since nothing told the first one's
/// fence from an epoch that was granted, and whoever was fenced above the first one's adoption did not follow it.
#[test]
fn a_restart_knows_a_fence_from_an_epoch_that_was_granted() {
    let mut lone = Lone::durable(Mode::Buffered);
    assert_eq!(lone.is_fenced(17, None), Ok(Epoch(1)));
    lone.restart();
    let status = lone.core.status();
    assert_eq!((status.epoch, status.fenced_from, status.role), (Epoch(17), Some(Epoch(1)), Role::Fenced));
    let shown = [(status.epoch, status.fenced_from), (Epoch(1), None)];
    assert_eq!(
        cutover::replica::fence_epoch(shown.into_iter()),
        Epoch(17),
        "the second attempt goes on with the first"
    );
    assert!(matches!(lone.seize_above(18), Answer::Granted(_)));
    let record = lone.record().expect("there is a group");
    lone.turn(1, Some(Input::Record(record)));
    assert_eq!(lone.claim.expect("it has said who it is").fenced_from, None, "and that it is over");
    lone.restart();
    assert_eq!((lone.core.status().fenced_from, lone.core.admission()), (None, Admission::Open));
}

/// Whoever asked for it meant other arbiters, or no longer has a reason.
#[test]
fn nobody_is_fenced_whose_arbiters_know_the_group() {
    let mut lone = Lone::durable(Mode::Buffered);
    let record = lone.record();
    let refused = FenceRefused::ArbitersKnow { shown: Epoch(1), known: Epoch(1) };
    assert_eq!(lone.is_fenced(17, record), Err(refused));
    assert_eq!((lone.core.admission(), lone.core.status().epoch), (Admission::Open, Epoch(1)));
    // That they cannot be asked is no reason against it.
    lone.turn(1, Some(fence(17)));
    let ticket = lone.reads.pop().expect("they are asked");
    lone.turn(1, Some(Input::ReadFailed { ticket }));
    assert_eq!(lone.fenced.pop(), Some(Ok(Epoch(1))));
}

#[test]
fn no_number_makes_a_replica_useless_for_ever() {
    let mut lone = Lone::durable(Mode::Buffered);
    for epoch in [u64::MAX, 2 + FURTHEST] {
        assert_eq!(lone.is_fenced(epoch, None), Err(FenceRefused::TooHigh { known: Epoch(1) }));
    }
    assert_eq!(lone.core.admission(), Admission::Open);
    assert_eq!(lone.is_fenced(1 + FURTHEST, None), Ok(Epoch(1)));
}

#[test]
fn a_fence_that_was_given_up_while_the_arbiters_were_asked_does_nothing() {
    let mut lone = Lone::durable(Mode::Buffered);
    let until = lone.now.boot + Duration::from_millis(100);
    lone.turn(1, Some(Input::Fence { epoch: Epoch(17), until, ticket: 1 }));
    let ticket = lone.reads.pop().expect("they are asked");
    lone.turn(100, Some(Input::Read { ticket, record: None }));
    assert_eq!((lone.fenced.pop(), lone.core.status().epoch), (Some(Err(FenceRefused::Late)), Epoch(1)));
}

/// Fenced by an adoption that was broken off, and the arbiters came back with what they had: granted the next epoch, whoever
/// is seized would refuse its own grant.
#[test]
fn a_group_gets_out_from_behind_a_fence_above_its_record() {
    let mut lone = Lone::durable(Mode::Buffered);
    assert_eq!(lone.is_fenced(17, None), Ok(Epoch(1)));
    lone.events.clear();
    let record = lone.record().expect("there is a group");
    for _ in 0..2 {
        lone.turn(1, Some(Input::Record(record.clone())));
        let ticket = lone.reads.pop().expect("one arbiter may lag: all are asked");
        lone.turn(1, Some(Input::Read { ticket, record: Some(record.clone()) }));
    }
    let status = lone.core.status();
    assert_eq!((status.fenced_from, status.shown_below_fence), (Some(Epoch(1)), Some(Epoch(1))));
    let stands = Event::FenceStands { fence: Epoch(17), shown: Epoch(1) };
    assert_eq!(lone.events.iter().filter(|event| **event == stands).count(), 1, "told once");
    assert!(!lone.events.iter().any(|event| matches!(event, Event::ArbitersForgot { .. })));
    assert!(matches!(lone.seize_above(18), Answer::Granted(_)));
    let record = lone.record().expect("there is a group");
    lone.turn(1, Some(Input::Record(record)));
    let status = lone.core.status();
    assert_eq!((status.fenced_from, status.shown_below_fence, status.role), (None, None, Role::Primary));
    lone.is_confirmed();
    assert_eq!((lone.core.admission(), status.epoch), (Admission::Open, Epoch(18)));
}

/// It kept its state, and nobody else can lead: it must not take a restart, which would throw that away in mode `memory`.
#[test]
fn a_primary_resumes_when_arbiters_that_had_forgotten_it_are_back_with_what_they_had() {
    let mut lone = Lone::new();
    lone.turn(10_000, None);
    let ticket = lone.reads.pop().expect("alone, it asks the arbiters");
    lone.turn(1, Some(Input::Read { ticket, record: None }));
    assert_eq!(lone.core.admission(), Admission::Closed);
    let record = lone.record().expect("they had it all the time");
    lone.turn(1, Some(Input::Record(record)));
    assert_eq!((lone.core.admission(), lone.core.status().epoch), (Admission::Open, Epoch(2)));
}

#[test]
fn a_switchover_that_something_else_ended_is_no_success() {
    let mut lone = Lone::durable(Mode::Buffered);
    lone.has_a_backup();
    lone.turn(1, Some(Input::Switchover { to: None, ticket: 9 }));
    assert!(lone.switchovers.is_empty(), "b has acknowledged nothing yet");
    assert_eq!(lone.is_fenced(50, None), Ok(lone.record().expect("there is a group").epoch));
    let told = lone.switchovers.pop().expect("it has ended").expect_err("b leads nothing");
    assert!(told.contains("arbiters lost their data"), "that is what ended it: {told}");

    let mut lone = Lone::durable(Mode::Buffered);
    lone.has_a_backup();
    lone.turn(1, Some(Input::Switchover { to: None, ticket: 9 }));
    lone.turn(1, Some(fence(50)));
    let ticket = lone.reads.pop().expect("they are asked");
    lone.turn(1, Some(Input::ReadFailed { ticket }));
    let told = lone.switchovers.pop().expect("it has ended").expect_err("b leads nothing");
    assert!(told.contains("an operator's fence") && told.contains("cutover adopt"), "{told}");
}

#[test]
fn a_switchover_is_done_when_the_one_it_was_for_leads() {
    let told = |to: &str| {
        let mut lone = Lone::durable(Mode::Buffered);
        let b = lone.has_a_backup();
        lone.turn(1, Some(Input::Switchover { to: None, ticket: 9 }));
        let before = lone.record().expect("there is a group");
        let primary = Member { replica: to.parse().expect("a good name"), ..b };
        let epoch = Epoch(before.epoch.0 + 1);
        let record = GroupRecord { epoch, primary: primary.clone(), in_sync: vec![primary], ..before };
        lone.turn(1, Some(Input::Record(record)));
        lone.switchovers.pop().expect("it has ended")
    };
    assert_eq!(told("b").expect("b leads").primary.replica.as_str(), "b");
    let told = told("c").expect_err("it was not for c");
    assert!(told.contains("c became primary"), "{told}");
}
