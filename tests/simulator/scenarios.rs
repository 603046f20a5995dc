//! Single cores, driven by hand: one story each, named for its fault.

use std::time::Duration;

use cutover::machine::kv::{self, KeyValue};
use cutover::replica::{
    Admission, Config, CreateOptions, Disposition, Event, Input, Limits, Now, Origin, Outbox, Output, Refused, Replica,
    Request,
};
use cutover_arbiter::record::{Addresses, Answer, Command, GroupRecord, Mode, Registers};

struct Lone {
    core: Replica<KeyValue>,
    registers: Registers,
    now: Now,
    reads: Vec<u64>,
    events: Vec<Event>,
}

impl Lone {
    /// A primary alone in its group.
    fn new() -> Self {
        let millis = Duration::from_millis;
        let config = Config {
            name: "a".parse().expect("a good name"),
            addresses: Addresses { peer: "a:1".to_owned(), ..Addresses::default() },
            group: "g".parse().expect("a good name"),
            create: Some(CreateOptions { mode: Mode::Memory, min_in_sync: 1 }),
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
        let now = Now { boot: millis(1000), wall: 1_700_000_000_000_000 };
        let core = Replica::new(now, config, KeyValue::default);
        let mut lone = Self { core, registers: Registers::default(), now, reads: Vec::new(), events: Vec::new() };
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
                    Output::Persist { sequence, .. } | Output::Claim { sequence, .. } => {
                        self.core.step(Input::Persisted { sequence }, &mut out);
                        news = true;
                    }
                    Output::Propose(proposal) => {
                        let request = proposal.request;
                        let answer = self.registers.apply(Command { proposal, at_ms: 1 });
                        assert!(matches!(answer, Answer::Granted(_)));
                        self.core.step(Input::Answer { request, answer }, &mut out);
                        news = true;
                    }
                    Output::Read { ticket } => self.reads.push(ticket),
                    Output::Event(event) => self.events.push(event),
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

    fn record(&self) -> Option<GroupRecord> {
        self.registers.get(&"g".parse().expect("a good name")).cloned()
    }
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
