//! Single cores, driven by hand: one story each, named for its fault.

use std::time::Duration;

use cutover::machine::kv::{self, KeyValue};
use cutover::protocol::SessionId;
use cutover::protocol::client::{Refusal, WINDOW_REQUESTS};
use cutover::protocol::entry::Block;
use cutover::protocol::peer::{Append, AppendHead, PeerControl, PeerMessage, Plan, WaitsFor, Welcome};
use cutover::replica::{
    Admission, Claim, Config, CreateOptions, Disposition, Event, FenceRefused, Input, Limits, LinkId, Now, Origin,
    Outbox, Output, Refused, Replica, Request, Restored, opened_session,
};
use cutover_arbiter::record::{
    Addresses, Answer, Change, Command, Epoch, GroupId, GroupRecord, Mode, Position, Proposal, Registers, RequestId,
};

mod fences;

/// Every story, for whoever plants a bug that one of them must find.
#[cfg(feature = "planted")]
pub const ALL: &[fn()] = &[
    a_lone_primary_that_was_stopped_executes_nothing_before_the_arbiters_confirm_it,
    arbiters_that_came_back_empty_fence_a_primary_which_keeps_its_state,
    one_that_an_operator_made_primary_resumes_after_a_restart_and_no_two_lives_share_an_epoch,
    a_stranger_of_another_group_with_the_same_name_stops_nobody,
    outcomes_of_what_was_never_asked_close_no_more_than_a_window,
    a_log_is_not_shortened_within_its_epoch,
    a_session_that_was_lost_by_an_operators_word_is_not_the_next_one_at_its_index,
    an_answer_from_before_it_was_adopted_fences_nobody,
    fences::a_grant_on_its_way_reaches_nobody_behind_a_fence,
];

struct Lone {
    core: Replica<KeyValue>,
    registers: Registers,
    now: Now,
    reads: Vec<u64>,
    dials: Vec<LinkId>,
    events: Vec<Event>,
    /// What its fences were answered.
    fenced: Vec<Result<Epoch, FenceRefused>>,
    /// What its switchovers came to.
    switchovers: Vec<Result<GroupRecord, String>>,
    /// What its disk holds.
    blocks: Vec<Block>,
    claim: Option<Claim>,
}

fn config(mode: Mode) -> Config {
    let millis = Duration::from_millis;
    Config {
        name: "a".parse().expect("a good name"),
        addresses: Addresses { peer: "a:1".to_owned(), ..Addresses::default() },
        group: "g".parse().expect("a good name"),
        create: Some(CreateOptions { mode, min_in_sync: 1 }),
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
    }
}

impl Lone {
    /// A primary alone in its group.
    fn new() -> Self {
        Self::durable(Mode::Memory)
    }

    /// The arbiters show it the record that they have.
    fn is_confirmed(&mut self) {
        let ticket = self.reads.pop().expect("it asks whether it still is primary");
        let record = self.record();
        self.turn(1, Some(Input::Read { ticket, record }));
    }

    fn durable(mode: Mode) -> Self {
        let now = Now { boot: Duration::from_secs(1), wall: 1_700_000_000_000_000 };
        let mut lone = Self {
            core: Replica::new(now, config(mode), KeyValue::default),
            registers: Registers::default(),
            now,
            reads: Vec::new(),
            dials: Vec::new(),
            events: Vec::new(),
            fenced: Vec::new(),
            switchovers: Vec::new(),
            blocks: Vec::new(),
            claim: None,
        };
        lone.turn(0, None);
        let ticket = lone.reads.pop().expect("a replica without a record asks for it");
        lone.turn(0, Some(Input::Read { ticket, record: None }));
        assert_eq!(lone.core.admission(), Admission::Open);
        lone
    }

    fn turn(&mut self, after_ms: u64, input: Option<Input>) {
        self.now.boot += Duration::from_millis(after_ms);
        let mut out = Outbox::default();
        self.core.begin(self.now);
        if let Some(input) = input {
            self.core.step(input, &mut out);
        }
        loop {
            self.core.end(&mut out);
            let outputs = std::mem::take(&mut out.outputs);
            let mut news = false;
            for output in outputs {
                match output {
                    Output::Persist { sequence, blocks, .. } => {
                        self.blocks.extend(blocks);
                        self.core.step(Input::Persisted { sequence }, &mut out);
                        news = true;
                    }
                    Output::Claim { sequence, claim, .. } => {
                        self.claim = Some(claim);
                        self.core.step(Input::Persisted { sequence }, &mut out);
                        news = true;
                    }
                    Output::Propose(proposal) => {
                        let request = proposal.request;
                        let answer = self.registers.apply(Command { proposal: *proposal, at_ms: 1 });
                        assert!(matches!(answer, Answer::Granted(_)));
                        self.core.step(Input::Answer { request, answer }, &mut out);
                        news = true;
                    }
                    Output::Read { ticket } => self.reads.push(ticket),
                    Output::Dial { link, .. } => self.dials.push(link),
                    Output::Event(event) => self.events.push(event),
                    Output::Fenced { result, .. } => self.fenced.push(result),
                    Output::SwitchoverEnded { result, .. } => self.switchovers.push(result.map(|record| *record)),
                    _ => {}
                }
            }
            if !news {
                return;
            }
        }
    }

    fn write(&mut self) -> Disposition {
        let operation = kv::request("INCR", &[b"n"]);
        let request = Request::Operation { origin: Origin::Direct, operation: &operation };
        self.core.request(request, &mut Vec::new(), &mut Outbox::default())
    }

    /// It is killed and comes back from its disk, in the same life.
    fn restart(&mut self) {
        let restored = Restored {
            claim: self.claim.expect("it has said who it is"),
            lost: None,
            snapshot: None,
            blocks: self.blocks.clone(),
            commit: 0,
        };
        let mut out = Outbox::default();
        self.core = Replica::restart(self.now, config(Mode::Buffered), KeyValue::default, restored, &mut out)
            .expect("its disk is whole");
        self.reads.clear();
        self.turn(1, None);
        let ticket = self.reads.pop().expect("it asks for the record");
        let record = self.record();
        self.turn(1, Some(Input::Read { ticket, record }));
    }

    /// An operator's word.
    fn seize(&mut self) {
        assert!(matches!(self.seize_above(0), Answer::Granted(_)));
    }

    /// An operator raises the group above a fence, for its primary.
    fn seize_above(&mut self, floor: u64) -> Answer {
        let record = self.record().expect("there is a group");
        let proposal = Proposal {
            group: record.group.clone(),
            expected_epoch: record.epoch,
            request: RequestId(5),
            proposer: None,
            change: Change::Seize { member: record.primary.clone() },
            commit: Position::default(),
            held: Position::default(),
            floor: Epoch(floor),
        };
        self.registers.apply(Command { proposal, at_ms: 1 })
    }

    fn ask(&mut self, request: Request<'_>, reply: &mut Vec<u8>) -> Disposition {
        self.core.request(request, reply, &mut Outbox::default())
    }

    fn record(&self) -> Option<GroupRecord> {
        self.registers.get(&"g".parse().expect("a good name")).cloned()
    }
}

/// One that follows a primary, told by hand what that says.
struct Follower {
    it: Lone,
    record: GroupRecord,
    link: LinkId,
    handshake: u64,
}

impl Follower {
    fn of(primary: &Lone) -> Self {
        let record = primary.record().expect("there is a group");
        let addresses = Addresses { peer: "b:1".to_owned(), ..Addresses::default() };
        let config = Config { name: "b".parse().expect("a good name"), addresses, create: None, ..config(record.mode) };
        let mut it = Lone {
            core: Replica::new(primary.now, config, KeyValue::default),
            registers: primary.registers.clone(),
            now: primary.now,
            reads: Vec::new(),
            dials: Vec::new(),
            events: Vec::new(),
            fenced: Vec::new(),
            switchovers: Vec::new(),
            blocks: Vec::new(),
            claim: None,
        };
        it.turn(0, None);
        let ticket = it.reads.pop().expect("a replica without a record asks for it");
        it.turn(0, Some(Input::Read { ticket, record: Some(record.clone()) }));
        Self { it, record, link: 0, handshake: 0 }
    }

    fn hears(&mut self, message: PeerMessage) {
        self.it.turn(1, Some(Input::Peer(self.link, message)));
    }

    /// It dials, and is offered to go on from `common`.
    fn is_welcomed(&mut self, common: u64) {
        if self.it.dials.is_empty() {
            self.it.turn(5_000, None);
        }
        self.link = self.it.dials.pop().expect("it dials its primary");
        self.handshake += 1;
        self.it.turn(1, Some(Input::Dialled(self.link)));
        let GroupRecord { group_id, epoch, ref primary, .. } = self.record;
        self.hears(PeerMessage::Control(PeerControl::Welcome(Box::new(Welcome {
            from: primary.replica.clone(),
            incarnation: primary.incarnation,
            group_id,
            epoch,
            handshake: self.handshake,
            record: Box::new(self.record.clone()),
            plan: Plan::Delta { common },
        }))));
    }

    fn is_sent(&mut self, block: Block) {
        let head = AppendHead {
            group_id: self.record.group_id,
            epoch: self.record.epoch,
            handshake: self.handshake,
            round: 1,
            commit: 0,
            clock: 1,
            journal_age_ms: 0,
            output_age_ms: 0,
            output_waits_for: WaitsFor::Another,
        };
        self.hears(PeerMessage::Append(Append { head, block: Some(block) }));
    }
}

#[test]
fn a_log_is_not_shortened_within_its_epoch() {
    let mut primary = Lone::durable(Mode::Buffered);
    for _ in 0..3 {
        assert!(matches!(primary.write(), Disposition::Reply { .. }));
        primary.turn(1, None);
    }
    let mut follower = Follower::of(&primary);
    follower.is_welcomed(0);
    for block in primary.blocks.clone() {
        follower.is_sent(block);
    }
    let last = follower.it.core.vitals().last;
    assert_eq!(last, primary.core.vitals().last, "it follows");
    let link = follower.link;
    follower.it.turn(1, Some(Input::LinkClosed(link)));
    // Nobody who made these entries would say so: a second life of the primary has an epoch of its own.
    follower.is_welcomed(last - 1);
    assert_eq!(follower.it.core.vitals().last, last, "what it acknowledged in this epoch stays");
    assert!(follower.it.events.iter().any(|event| matches!(event, Event::PeerRefused { .. })));
}

#[test]
fn a_lone_primary_that_was_stopped_executes_nothing_before_the_arbiters_confirm_it() {
    let mut lone = Lone::new();
    lone.turn(10_000, None);
    assert_eq!(lone.core.admission(), Admission::Paused, "P15: what was buffered while it was stopped waits");
    assert!(matches!(lone.write(), Disposition::Refused(Refused::Paused)));
    let ticket = lone.reads.pop().expect("alone, it asks the arbiters");
    let record = lone.record();
    lone.turn(1, Some(Input::Read { ticket, record }));
    assert!(matches!(lone.write(), Disposition::Reply { .. }));
}

#[test]
fn arbiters_that_came_back_empty_fence_a_primary_which_keeps_its_state() {
    let mut lone = Lone::new();
    assert!(matches!(lone.write(), Disposition::Reply { .. }));
    lone.turn(1, None);
    let held = lone.core.status().applied;
    lone.turn(10_000, None);
    let ticket = lone.reads.pop().expect("alone, it asks the arbiters");
    lone.turn(1, Some(Input::Read { ticket, record: None }));
    assert_eq!(lone.core.admission(), Admission::Closed, "H10");
    assert!(lone.events.iter().any(|event| matches!(event, Event::ArbitersForgot { .. })));
    assert_eq!(lone.core.status().applied, held, "the last copy is kept for an operator to adopt");
}

/// Seed 508685: fenced by it, the only copy would have stayed so for ever, since its record said that it is primary.
#[test]
fn what_was_read_before_an_operator_spoke_fences_nobody() {
    let mut lone = Lone::new();
    lone.turn(10_000, None);
    let before = lone.reads.pop().expect("alone, it asks the arbiters");
    lone.seize();
    let record = lone.record().expect("there is a group");
    lone.turn(1, Some(Input::Record(record)));
    assert_eq!((lone.core.status().epoch, lone.core.admission()), (Epoch(3), Admission::Open), "it resumed");
    lone.reads.clear();
    lone.turn(1, Some(Input::Read { ticket: before, record: None }));
    assert_eq!(lone.core.admission(), Admission::Open);
    assert!(!lone.events.iter().any(|event| matches!(event, Event::ArbitersForgot { .. })));
    let now = lone.reads.pop().expect("it asks again");
    lone.turn(1, Some(Input::Read { ticket: now, record: None }));
    assert_eq!(lone.core.admission(), Admission::Closed, "H10: what they show now counts");
}

#[test]
fn one_that_an_operator_made_primary_resumes_after_a_restart_and_no_two_lives_share_an_epoch() {
    let mut lone = Lone::durable(Mode::Buffered);
    lone.seize();
    lone.restart();
    assert_eq!(lone.core.status().epoch, Epoch(2), "the operator's word makes it primary");
    assert_eq!(lone.core.admission(), Admission::Paused, "another word may have followed it");
    lone.is_confirmed();
    assert_eq!(lone.core.admission(), Admission::Open);
    lone.restart();
    assert_eq!(lone.core.admission(), Admission::Open);
    assert_eq!(lone.core.status().epoch, Epoch(3), "P10: a follower may hold entries of epoch 2 that its disk lost");
}

#[test]
fn a_stranger_of_another_group_with_the_same_name_stops_nobody() {
    let mut lone = Lone::new();
    let record = lone.record().expect("there is a group");
    let theirs = GroupRecord { group_id: GroupId(77), epoch: Epoch(9), ..record };
    lone.turn(1, Some(Input::Accepted(2)));
    let message = PeerMessage::Control(PeerControl::Record(Box::new(theirs)));
    lone.turn(1, Some(Input::Peer(2, message)));
    assert_eq!(lone.core.admission(), Admission::Open, "only the arbiters can say that");
}

#[test]
fn outcomes_of_what_was_never_asked_close_no_more_than_a_window() {
    let mut lone = Lone::new();
    let mut reply = Vec::new();
    let open = Request::OpenSession { timeout: 60_000_000, connection: 1 };
    assert!(matches!(lone.ask(open, &mut reply), Disposition::Reply { .. }));
    let session: SessionId = opened_session(&reply).expect("it is open");
    let mut closed = 0;
    for sequence in (1..=2 * WINDOW_REQUESTS as u64).chain([u64::MAX]) {
        match lone.ask(Request::Outcome { session, sequence, lowest_unanswered: 1 }, &mut Vec::new()) {
            Disposition::Reply { .. } => closed += 1,
            Disposition::Refused(Refused::Reason { reason: Refusal::WindowFull, .. }) => {}
            _ => panic!("sequence {sequence} is neither closed nor refused"),
        }
        lone.turn(0, None);
    }
    assert_eq!(closed, WINDOW_REQUESTS, "each is kept on every copy for as long as its session lives");
}

#[test]
fn a_session_that_was_lost_by_an_operators_word_is_not_the_next_one_at_its_index() {
    let open = || Request::OpenSession { timeout: 60_000_000, connection: 1 };
    let mut lone = Lone::durable(Mode::Buffered);
    let kept = lone.blocks.len();
    assert!(matches!(lone.write(), Disposition::Reply { .. }));
    let mut reply = Vec::new();
    assert!(matches!(lone.ask(open(), &mut reply), Disposition::Reply { .. }));
    let lost: SessionId = opened_session(&reply).expect("it is open");
    lone.turn(1, None);
    // The machine loses power, and what was not synced with it; an operator makes it primary all the same.
    lone.blocks.truncate(kept);
    lone.seize();
    lone.restart();
    lone.is_confirmed();
    let mut reply = Vec::new();
    assert!(matches!(lone.ask(open(), &mut reply), Disposition::Reply { .. }));
    let next: SessionId = opened_session(&reply).expect("it is open");
    assert_eq!(next.index, lost.index, "the story needs the same index");
    assert_ne!(next, lost, "H6: whoever has the lost one would be answered from another client's");
    let back = lone.ask(Request::Attach { session: lost, connection: 2 }, &mut Vec::new());
    assert!(matches!(back, Disposition::Refused(Refused::Reason { reason: Refusal::SessionExpired, .. })));
}

#[test]
fn an_answer_from_before_it_was_adopted_fences_nobody() {
    let mut lone = Lone::new();
    lone.turn(10_000, None);
    let asked = lone.reads.pop().expect("alone, it asks the arbiters");
    // They had lost their data and say so, late: by then an operator has let them adopt it.
    lone.seize();
    let record = lone.record().expect("there is a group");
    lone.turn(1, Some(Input::Record(record)));
    lone.turn(1, Some(Input::Read { ticket: asked, record: None }));
    assert!(!lone.events.iter().any(|event| matches!(event, Event::ArbitersForgot { .. })));
    assert!(lone.core.status().epoch > Epoch(1), "it goes on by the operator's word");
}
