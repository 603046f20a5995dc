//! State transfers between two cores, with the links, the disk and the arbiters in the hands of the test.

use std::collections::{BTreeMap, VecDeque};

use super::super::{Admission, Config, CreateOptions, Decoding, Disposition, Input, Limits, Now, Origin, Request};
use super::*;
use crate::machine::kv::{self, KeyValue, Restore};
use crate::protocol::peer::PeerControl;
use cutover_arbiter::record::{Addresses, Command, Epoch, GroupRecord, Mode, Registers};

type Core = Replica<KeyValue>;
type View = <KeyValue as StateMachine>::Snapshot;

/// A piece that was read, and how far the reading is then.
type Ahead = (Vec<u8>, Progress);

const PRIMARY: usize = 0;
const JOINER: usize = 1;

fn core(name: &str, now: Now, limits: Limits) -> Core {
    let millis = Duration::from_millis;
    let config = Config {
        name: name.parse().unwrap(),
        addresses: Addresses { peer: name.to_owned(), ..Addresses::default() },
        group: "g".parse().unwrap(),
        create: (name == "a").then_some(CreateOptions { mode: Mode::Memory, min_in_sync: 1 }),
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
        limits,
        seed: [name.as_bytes()[0]; 32],
    };
    Replica::new(now, config, KeyValue::default)
}

/// A primary and a joiner.
struct Two {
    cores: [Core; 2],
    now: Now,
    registers: Registers,
    /// The joiner's link and the primary's end of it, while it holds.
    link: Option<(LinkId, LinkId)>,
    accepted: LinkId,
    /// Snapshots, each with the piece that was read ahead to know whether it is the last.
    snapshots: BTreeMap<TransferId, (View, Option<Ahead>)>,
    /// Pieces that were read from snapshots, of all transfers.
    read: usize,
    decodings: VecDeque<Decoding<Restore>>,
    /// The joiner's process is stopped.
    stopped: bool,
    /// What the joiner's disk has not done while it is slow; `None` when it is not.
    owed: Option<Vec<u64>>,
    /// Whether the joiner's threads do their work.
    decodes: bool,
    /// Whether the primary's shell reads snapshots.
    reads: bool,
    /// Bytes of a piece.
    target: usize,
    events: [Vec<Event>; 2],
    /// What goes from one to the other, in order.
    mail: VecDeque<(usize, Output<KeyValue>)>,
    carrying: bool,
}

impl Two {
    fn new(limits: Limits) -> Self {
        let now = Now { boot: Duration::from_secs(1), wall: 1_700_000_000_000_000 };
        let mut two = Self {
            cores: [core("a", now, limits), core("b", now, limits)],
            now,
            registers: Registers::default(),
            link: None,
            accepted: 0,
            snapshots: BTreeMap::new(),
            read: 0,
            decodings: VecDeque::new(),
            stopped: false,
            owed: None,
            decodes: true,
            reads: true,
            target: 1000,
            events: [Vec::new(), Vec::new()],
            mail: VecDeque::new(),
            carrying: false,
        };
        two.turn(PRIMARY, None);
        assert_eq!(two.cores[PRIMARY].admission(), Admission::Open);
        two
    }

    /// A write of so many bytes on the primary.
    fn write(&mut self, key: &str, bytes: usize) {
        let operation = kv::request("SET", &[key.as_bytes(), &vec![b'v'; bytes]]);
        let (mut out, mut reply) = (Outbox::default(), Vec::new());
        self.cores[PRIMARY].begin(self.now);
        let request = Request::Operation { origin: Origin::Direct, operation: &operation };
        let disposition = self.cores[PRIMARY].request(request, &mut reply, &mut out);
        assert!(matches!(disposition, Disposition::Reply { .. }), "{disposition:?}");
        self.finish(PRIMARY, out);
    }

    fn turn(&mut self, who: usize, input: Option<Input>) {
        let mut out = Outbox::default();
        self.cores[who].begin(self.now);
        if let Some(input) = input {
            self.cores[who].step(input, &mut out);
        }
        if who == PRIMARY && self.reads {
            self.feed(&mut out);
        }
        if who == JOINER && self.decodes {
            for decoding in std::mem::take(&mut self.decodings) {
                self.cores[JOINER].decoded(decoding.run(), &mut out);
            }
        }
        self.finish(who, out);
    }

    /// The primary's shell: reads snapshots as far as there is room.
    fn feed(&mut self, out: &mut Outbox<KeyValue>) {
        for transfer in self.snapshots.keys().copied().collect::<Vec<_>>() {
            while self.cores[PRIMARY].transfer_room(transfer) == TransferRoom::Open {
                let (snapshot, ahead) = self.snapshots.get_mut(&transfer).unwrap();
                let mut read = || Some((snapshot.next_chunk(self.target)?, snapshot.progress()));
                let (bytes, progress) = ahead.take().or_else(&mut read).unwrap();
                *ahead = read();
                let (bytes, last) = (Bytes::from(bytes), ahead.is_none());
                self.read += 1;
                self.cores[PRIMARY].step(Input::Snapshot { transfer, bytes, progress, last }, out);
            }
            if self.cores[PRIMARY].transfer_room(transfer) == TransferRoom::Gone {
                self.snapshots.remove(&transfer);
            }
        }
    }

    fn finish(&mut self, who: usize, mut out: Outbox<KeyValue>) {
        self.cores[who].end(&mut out);
        let mut later = VecDeque::new();
        while !out.outputs.is_empty() {
            for output in std::mem::take(&mut out.outputs) {
                match output {
                    Output::Persist { sequence, .. }
                    | Output::Claim { sequence, .. }
                    | Output::InstallSnapshot { sequence, .. } => {
                        if let Some(owed) = self.owed.as_mut().filter(|_| who == JOINER) {
                            owed.push(sequence);
                            continue;
                        }
                        self.cores[who].step(Input::Persisted { sequence }, &mut out);
                        self.cores[who].end(&mut out);
                    }
                    Output::Propose(proposal) => {
                        let request = proposal.request;
                        let answer = self.registers.apply(Command { proposal, at_ms: 1 });
                        self.cores[who].step(Input::Answer { request, answer }, &mut out);
                        self.cores[who].end(&mut out);
                    }
                    Output::Read { ticket } => {
                        let record = self.record();
                        self.cores[who].step(Input::Read { ticket, record }, &mut out);
                        self.cores[who].end(&mut out);
                    }
                    Output::Transfer { transfer, snapshot } => {
                        self.snapshots.insert(transfer, (snapshot, None));
                    }
                    Output::Decode(decoding) => self.decodings.push_back(decoding),
                    Output::Event(event) => self.events[who].push(event),
                    other => later.push_back(other),
                }
            }
        }
        self.cores[who].apply(&mut out);
        self.mail.extend(later.into_iter().map(|output| (who, output)));
        if !std::mem::replace(&mut self.carrying, true) {
            while let Some((who, output)) = self.mail.pop_front() {
                self.carry(who, output);
            }
            self.carrying = false;
        }
    }

    /// What goes from one to the other arrives at once, while the link holds.
    fn carry(&mut self, who: usize, output: Output<KeyValue>) {
        match output {
            Output::Dial { link, .. } => {
                assert_eq!(who, JOINER);
                self.accepted += 2;
                self.link = Some((link, self.accepted));
                self.turn(PRIMARY, Some(Input::Accepted(self.accepted)));
                self.turn(JOINER, Some(Input::Dialled(link)));
            }
            Output::Send(from, message) => match self.link {
                Some((dialled, accepted)) if who == JOINER && from == dialled => {
                    self.turn(PRIMARY, Some(Input::Peer(accepted, message)));
                }
                Some((dialled, accepted)) if who == PRIMARY && from == accepted => {
                    self.turn(JOINER, Some(Input::Peer(dialled, message)));
                }
                _ => {}
            },
            Output::Close(link) => match self.link {
                Some((dialled, accepted))
                    if [dialled, accepted][1 - who] == link || [accepted, dialled][who] == link =>
                {
                    self.cut();
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn record(&self) -> Option<GroupRecord> {
        self.registers.get(&"g".parse().unwrap()).cloned()
    }

    /// The link breaks.
    fn cut(&mut self) {
        if let Some((dialled, accepted)) = self.link.take() {
            self.turn(PRIMARY, Some(Input::LinkClosed(accepted)));
            self.turn(JOINER, Some(Input::LinkClosed(dialled)));
        }
    }

    /// Time goes by in small steps; both come when they are due.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now.boot += Duration::from_millis(1);
            self.turn(PRIMARY, None);
            if !self.stopped {
                self.turn(JOINER, None);
            }
        }
    }

    fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if so(self) {
                return;
            }
            self.pass(1);
        }
        panic!("never {what}; events {:#?}", self.events);
    }

    fn heard(&self, who: usize, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events[who].iter().filter(|event| wanted(event)).count()
    }

    fn in_sync(&self) -> bool {
        self.record().is_some_and(|record| record.in_sync.len() == 2)
    }

    /// Both copies are in sync and hold the same.
    fn assert_equal(&mut self) {
        self.until("in sync", Self::in_sync);
        self.pass(300);
        let all = |core: &Core| {
            let mut snapshot = core.machine().snapshot();
            std::iter::from_fn(|| snapshot.next_chunk(1 << 20)).collect::<Vec<_>>()
        };
        assert!(all(&self.cores[PRIMARY]) == all(&self.cores[JOINER]), "the copies differ");
        assert_eq!(self.cores[PRIMARY].status().applied, self.cores[JOINER].status().applied);
    }
}

fn started(event: &Event) -> bool {
    matches!(event, Event::TransferStarted { .. })
}

fn resumed(event: &Event) -> bool {
    matches!(event, Event::TransferResumed { chunk, .. } if *chunk > 1)
}

fn fell_behind(event: &Event) -> bool {
    matches!(event, Event::FellBehind { .. })
}

/// As slow as to last: a piece takes a millisecond.
fn slow() -> Limits {
    Limits { transfer_rate: Some(1_000_000), ..Limits::default() }
}

fn filled(limits: Limits, keys: usize, bytes: usize) -> Two {
    let mut two = Two::new(limits);
    two.reads = false;
    for key in 0..keys {
        two.write(&format!("key:{key}"), bytes);
    }
    two.turn(JOINER, None);
    two.until("transfer", |two| two.heard(PRIMARY, started) == 1);
    two.reads = true;
    two
}

#[test]
fn a_transfer_whose_link_breaks_goes_on_at_the_chunk_that_is_missing() {
    let mut two = filled(slow(), 200, 500);
    let mut breaks = 0;
    while !two.in_sync() {
        two.pass(20);
        if two.cores[JOINER].status().receiving.is_some() && breaks < 4 {
            two.write(&format!("meanwhile:{breaks}"), 10);
            two.cut();
            breaks += 1;
        }
    }
    assert!(breaks >= 3, "the transfer was too quick for this test");
    assert_eq!((two.heard(PRIMARY, started), two.heard(JOINER, started)), (1, 1), "never begun again");
    assert_eq!((two.heard(PRIMARY, resumed), two.heard(JOINER, resumed)), (breaks, breaks));
    let mut whole = two.cores[PRIMARY].machine().snapshot();
    let pieces = std::iter::from_fn(|| whole.next_chunk(1000)).count();
    assert!(two.read <= pieces, "{} pieces were read of a state that has {pieces}", two.read);
    two.assert_equal();
}

#[test]
fn what_is_lost_with_a_link_is_sent_again() {
    let mut two = filled(slow(), 200, 500);
    two.pass(20);
    // The joiner's threads stand still: what has come waits there, what is on its way is lost with the link.
    two.decodes = false;
    two.pass(20);
    let link = two.link.take().unwrap();
    two.pass(20);
    two.turn(PRIMARY, Some(Input::LinkClosed(link.1)));
    two.turn(JOINER, Some(Input::LinkClosed(link.0)));
    two.decodes = true;
    two.assert_equal();
    assert_eq!((two.heard(PRIMARY, started), two.heard(PRIMARY, resumed)), (1, 1));
}

#[test]
fn a_broken_transfer_is_not_kept_for_ever() {
    let mut two = filled(Limits { transfer_keep: Duration::from_millis(200), ..slow() }, 200, 500);
    two.pass(20);
    let (dialled, accepted) = two.link.take().unwrap();
    two.turn(PRIMARY, Some(Input::LinkClosed(accepted)));
    two.pass(300);
    assert!(two.snapshots.is_empty(), "the snapshot is let go");
    two.turn(JOINER, Some(Input::LinkClosed(dialled)));
    two.assert_equal();
    assert_eq!((two.heard(PRIMARY, started), two.heard(PRIMARY, resumed)), (2, 0));
}

#[test]
fn a_joiner_that_takes_nothing_is_sent_no_more_than_the_window() {
    let mut two = filled(Limits::default(), 20, 1 << 20);
    two.target = 100_000;
    two.decodes = false;
    two.pass(500);
    let status = two.cores[PRIMARY].status().followers[0].transfer.unwrap();
    assert!((WINDOW as u64..WINDOW as u64 + 200_000).contains(&status.bytes), "{status:?}");
    assert!(status.left_ms.is_some() && status.of_bytes > 19 << 20, "{status:?}");
    two.decodes = true;
    two.assert_equal();
}

#[test]
fn a_transfer_keeps_to_its_rate() {
    let mut two = filled(slow(), 200, 500);
    two.pass(50);
    let sent = two.cores[PRIMARY].status().followers[0].transfer.unwrap().bytes;
    assert!((40_000..80_000).contains(&sent), "{sent} bytes in 50 ms at 1 MB/s");
    let shown = two.cores[JOINER].status().receiving.unwrap();
    assert!(shown.entries > 50 && shown.entries < 150 && shown.of_entries == 200, "{shown:?}");
    two.assert_equal();
}

#[test]
fn a_joiner_for_which_the_log_grows_too_long_is_given_up_and_slows_nobody() {
    let mut two = filled(Limits { transfer_log_bytes: 50_000, ..slow() }, 20, 500);
    two.decodes = false;
    for round in 0..300 {
        two.write(&format!("round:{round}"), 1000);
        two.pass(1);
        assert_eq!(two.cores[PRIMARY].admission(), Admission::Open, "clients never wait for a joiner");
        assert!(two.cores[PRIMARY].status().log_bytes < 60_000, "{}", two.cores[PRIMARY].status().log_bytes);
    }
    let given_up = two.heard(PRIMARY, fell_behind);
    assert!((1..4).contains(&given_up), "given up {given_up} times: each time the wait doubles");
    let told = |event: &Event| matches!(event, Event::PeerRefused { reason, .. } if reason.contains("50000 bytes"));
    assert!(two.heard(JOINER, told) >= 1, "the joiner is told why");
    two.decodes = true;
    two.assert_equal();
}

#[test]
fn a_spare_that_lags_does_not_keep_the_log_for_ever() {
    let mut two = Two::new(Limits { transfer_log_bytes: 8 << 20, ..Limits::default() });
    two.turn(JOINER, None);
    two.until("in sync", Two::in_sync);
    // Its process is stopped, and it is removed; it lags on as a follower that acknowledges nothing, with more and more
    // on its way to it.
    let link = two.link.take();
    two.stopped = true;
    two.until("alone", |two| !two.in_sync());
    for _ in 0..50 {
        two.write("key", 1 << 20);
        assert!(two.cores[PRIMARY].status().log_bytes < 10 << 20, "{}", two.cores[PRIMARY].status().log_bytes);
    }
    assert_eq!(two.heard(PRIMARY, fell_behind), 1);
    two.stopped = false;
    two.turn(JOINER, Some(Input::LinkClosed(link.unwrap().0)));
    two.assert_equal();
}

#[test]
fn a_stranger_goes_on_with_nobodys_transfer() {
    let mut two = filled(slow(), 200, 500);
    two.pass(20);
    two.cut();
    let Stance::Primary(primary) = &two.cores[PRIMARY].role else { panic!("not primary") };
    let (id, transfer) = primary.transfers.iter().next().unwrap();
    let resume = Resume { transfer: *id, next: transfer.next };
    let mut other = transfer.member.clone();
    assert!(two.cores[PRIMARY].resumable(&other, Some(resume)).is_some());
    assert!(two.cores[PRIMARY].resumable(&other, Some(Resume { next: resume.next + 1, ..resume })).is_none());
    assert!(two.cores[PRIMARY].resumable(&other, Some(Resume { transfer: !id, ..resume })).is_none());
    other.incarnation.0 ^= 1;
    assert!(two.cores[PRIMARY].resumable(&other, Some(resume)).is_none(), "another life holds nothing of it");
    // An acknowledgement of another handshake takes nothing.
    let taken = PeerMessage::Control(PeerControl::Taken { handshake: 999, next: u64::MAX });
    two.until("linked", |two| two.link.is_some());
    let accepted = two.link.unwrap().1;
    two.turn(PRIMARY, Some(Input::Peer(accepted, taken)));
    two.assert_equal();
}

#[test]
fn sessions_beyond_the_limits_are_refused_by_name() {
    use super::super::Refused;
    use crate::protocol::client::Refusal;
    let limits = Limits { sessions: 2, session_timeout: Duration::from_secs(10), ..Limits::default() };
    let mut two = Two::new(limits);
    let mut open = |timeout_ms: u64| {
        let (mut out, mut reply) = (Outbox::default(), Vec::new());
        two.cores[PRIMARY].begin(two.now);
        let request = Request::OpenSession { timeout: timeout_ms * 1000, connection: 1 };
        let disposition = two.cores[PRIMARY].request(request, &mut reply, &mut out);
        two.finish(PRIMARY, out);
        match disposition {
            Disposition::Refused(Refused::Reason { reason, .. }) => Some(reason),
            _ => None,
        }
    };
    let long = Refusal::TimeoutTooLong { asked_ms: 10_001, longest_ms: 10_000 };
    assert_eq!(open(10_001), Some(long));
    assert_eq!((open(10_000), open(10_000)), (None, None));
    assert_eq!(open(10_000), Some(Refusal::TooManySessions { limit: 2 }));
}

#[test]
fn a_backup_whose_disk_is_slow_does_not_depose_the_primary_that_waits_for_it() {
    let mut two = filled(Limits::default(), 1, 10);
    two.until("in sync", Two::in_sync);
    two.pass(1000);
    two.owed = Some(Vec::new());
    two.write("key", 10);
    two.pass(1600);
    assert_eq!(two.heard(JOINER, |event| matches!(event, Event::Suspected { .. })), 0);
    for sequence in two.owed.take().unwrap() {
        two.turn(JOINER, Some(Input::Persisted { sequence }));
    }
    two.assert_equal();
    assert_eq!(two.record().unwrap().epoch, Epoch(2), "nobody was removed and nobody took over");
}

#[test]
fn a_backup_that_was_removed_and_stays_silent_is_waited_for_by_nobody() {
    let mut two = filled(Limits::default(), 1, 10);
    two.until("in sync", Two::in_sync);
    // Its process is stopped; its connection stands.
    two.stopped = true;
    let link = two.link.take();
    two.until("removed", |two| !two.in_sync());
    for _ in 0..3000 {
        two.write("key", 10);
        let release = two.cores[PRIMARY].release();
        assert_eq!(release.commit, two.cores[PRIMARY].status().index, "it is made required again and again");
        two.pass(1);
    }
    (two.stopped, two.link) = (false, link);
    two.assert_equal();
}
