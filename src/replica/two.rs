//! Two cores, with the links, the disks, the clock and the arbiters in the hands of a test.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use cutover_arbiter::record::{Addresses, Answer, Change, Command, GroupRecord, Index, Mode, Registers};

use super::{
    Admission, Config, CreateOptions, Decoding, Disposition, Encoding, Event, Hold, Input, Limits, LinkId, Now, Origin,
    Outbox, Output, Rebuilt, Replica, Request, Stance, StopReason, TransferRoom,
};
use crate::machine::kv::{self, KeyValue, Restore};
use crate::machine::{Snapshot as _, StateMachine};
use crate::protocol::entry::Block;
use crate::protocol::peer::{Part, PeerMessage, TransferId};

type Core = Replica<KeyValue>;
type View = <KeyValue as StateMachine>::Snapshot;

/// The replica that makes the group.
pub(super) const PRIMARY: usize = 0;
/// The other one.
pub(super) const JOINER: usize = 1;
/// After so long a disk hangs; longer than it takes to suspect a primary that cannot release.
pub(super) const STALL_LIMIT: Duration = Duration::from_millis(1000);
/// Their names, which are their addresses too.
const NAMES: [&str; 2] = ["a", "b"];

fn core(name: &str, now: Now, mode: Mode, limits: Limits) -> Core {
    let millis = Duration::from_millis;
    let config = Config {
        name: name.parse().unwrap(),
        addresses: Addresses { peer: name.to_owned(), ..Addresses::default() },
        group: "g".parse().unwrap(),
        create: (name == NAMES[PRIMARY]).then_some(CreateOptions { mode, min_in_sync: 1 }),
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
        journal_stall_limit: STALL_LIMIT,
        limits,
        seed: [name.as_bytes()[0]; 32],
    };
    Replica::new(now, config, KeyValue::default)
}

/// A connection, while it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wire {
    pub(super) dialler: usize,
    pub(super) dialled: LinkId,
    pub(super) accepted: LinkId,
}

impl Wire {
    fn end(self, who: usize) -> LinkId {
        if who == self.dialler { self.dialled } else { self.accepted }
    }
}

/// A primary and a joiner.
pub(super) struct Two {
    pub(super) cores: [Core; 2],
    pub(super) now: Now,
    registers: Registers,
    granted: Vec<Change>,
    wires: Vec<Wire>,
    accepted: LinkId,
    /// Snapshots, each with the piece that was read ahead to know whether it is the last.
    pub(super) snapshots: BTreeMap<TransferId, Encoding<View>>,
    /// Pieces that were read from snapshots, of all transfers.
    pub(super) read: usize,
    decodings: VecDeque<Decoding<Restore>>,
    /// The joiner's process is stopped.
    pub(super) stopped: bool,
    /// Whether the joiner's threads do their work.
    pub(super) decodes: bool,
    /// Whether the joiner's loop has time to apply what is committed.
    pub(super) applies: bool,
    /// Blocks that were sent in one turn, at most.
    pub(super) most_sent: usize,
    /// Whether the primary's shell reads snapshots.
    pub(super) reads: bool,
    /// Whose disk does not answer, and what it was asked meanwhile.
    pub(super) hangs: [bool; 2],
    asked: [Vec<u64>; 2],
    /// What each has journalled.
    journals: [Vec<Block>; 2],
    /// Nothing is found in them any more.
    pub(super) journals_gone: bool,
    /// How often something was read back from them.
    pub(super) read_back: usize,
    /// Bytes of a piece.
    pub(super) target: usize,
    pub(super) events: [Vec<Event>; 2],
    /// Why each stopped.
    pub(super) stops: [Option<StopReason>; 2],
    /// What goes from one to the other, in order.
    mail: VecDeque<(usize, Output<KeyValue>)>,
    carrying: bool,
    /// What the primary sends is so long that it is still coming.
    pub(super) coming: Option<Vec<(LinkId, PeerMessage)>>,
    /// Bytes of log that the follower lacked each time the primary asked the arbiters whether to admit it.
    pub(super) lacked: Vec<usize>,
}

impl Two {
    pub(super) fn new(limits: Limits) -> Self {
        Self::of_mode(Mode::Memory, limits)
    }

    pub(super) fn of_mode(mode: Mode, limits: Limits) -> Self {
        let now = Now { boot: Duration::from_secs(1), wall: 1_700_000_000_000_000 };
        let mut two = Self {
            cores: NAMES.map(|name| core(name, now, mode, limits)),
            now,
            registers: Registers::default(),
            granted: Vec::new(),
            wires: Vec::new(),
            accepted: 0,
            snapshots: BTreeMap::new(),
            read: 0,
            most_sent: 0,
            decodings: VecDeque::new(),
            stopped: false,
            decodes: true,
            applies: true,
            reads: true,
            hangs: [false; 2],
            asked: [Vec::new(), Vec::new()],
            journals: [Vec::new(), Vec::new()],
            journals_gone: false,
            read_back: 0,
            target: 1000,
            events: [Vec::new(), Vec::new()],
            stops: [None, None],
            mail: VecDeque::new(),
            carrying: false,
            coming: None,
            lacked: Vec::new(),
        };
        two.turn(PRIMARY, None);
        assert_eq!(two.cores[PRIMARY].admission(), Admission::Open);
        two
    }

    /// A write of so many bytes on the primary; when its reply may be released.
    pub(super) fn write(&mut self, key: &str, bytes: usize) -> Hold {
        self.write_on(PRIMARY, key, bytes)
    }

    pub(super) fn write_on(&mut self, who: usize, key: &str, bytes: usize) -> Hold {
        let operation = kv::request("SET", &[key.as_bytes(), &vec![b'v'; bytes]]);
        let (mut out, mut reply) = (Outbox::default(), Vec::new());
        self.cores[who].begin(self.now);
        let request = Request::Operation { origin: Origin::Direct, operation: &operation };
        let disposition = self.cores[who].request(request, &mut reply, &mut out);
        self.finish(who, out);
        match disposition {
            Disposition::Reply { hold, .. } => hold,
            other => panic!("{other:?}"),
        }
    }

    /// Another limit for disks that hang.
    pub(super) fn stall_after(&mut self, limit: Duration) {
        for core in &mut self.cores {
            core.config.journal_stall_limit = limit;
        }
    }

    pub(super) fn turn(&mut self, who: usize, input: Option<Input>) {
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
                self.cores[JOINER].decoded(decoding.run(|| ()), &mut out);
            }
        }
        self.finish(who, out);
    }

    /// The primary's shell: reads snapshots as far as there is room.
    fn feed(&mut self, out: &mut Outbox<KeyValue>) {
        for transfer in self.snapshots.keys().copied().collect::<Vec<_>>() {
            while self.cores[PRIMARY].transfer_room(transfer) == TransferRoom::Open {
                let piece = self.snapshots.get_mut(&transfer).unwrap().next_piece(self.target).unwrap();
                self.read += usize::from(piece.part == Part::Machine);
                self.cores[PRIMARY].step(Input::Snapshot { transfer, piece }, out);
            }
            if self.cores[PRIMARY].transfer_room(transfer) == TransferRoom::Gone {
                self.snapshots.remove(&transfer);
            }
        }
    }

    pub(super) fn finish(&mut self, who: usize, mut out: Outbox<KeyValue>) {
        self.cores[who].end(&mut out);
        let sent = |output: &&Output<KeyValue>| matches!(output, Output::Send(_, PeerMessage::Append(append)) if append.block.is_some());
        self.most_sent = self.most_sent.max(out.outputs.iter().filter(sent).count());
        let mut later = VecDeque::new();
        while !out.outputs.is_empty() {
            for output in std::mem::take(&mut out.outputs) {
                let answer = match output {
                    Output::ReadLog { ticket, from, upto, .. } => {
                        self.read_back += 1;
                        Input::LogRead { ticket, blocks: self.journalled(who, from, upto) }
                    }
                    Output::Persist { sequence, cut, blocks, .. } => {
                        self.journal(who, cut.map(|cut| cut.index), blocks);
                        self.asked[who].push(sequence);
                        if self.hangs[who] {
                            continue;
                        }
                        Input::Persisted { sequence }
                    }
                    Output::Claim { sequence, .. } | Output::InstallSnapshot { sequence, .. } => {
                        self.asked[who].push(sequence);
                        if self.hangs[who] {
                            continue;
                        }
                        Input::Persisted { sequence }
                    }
                    Output::Snapshot { ticket, .. } => Input::SnapshotWritten { ticket },
                    Output::GoBack { ticket, .. } => {
                        self.cores[who].rebuilt(Rebuilt::failed(ticket, "no disk".to_owned()), &mut out);
                        continue;
                    }
                    Output::Propose(proposal) => {
                        let (request, change) = (proposal.request, proposal.change.clone());
                        let answer = self.registers.apply(Command { proposal: *proposal, at_ms: 1 });
                        self.granted.extend(matches!(answer, Answer::Granted(_)).then_some(change));
                        Input::Answer { request, answer }
                    }
                    Output::Read { ticket } => {
                        self.lacked.extend((who == PRIMARY).then(|| self.lacking()).flatten());
                        Input::Read { ticket, record: self.record() }
                    }
                    Output::Transfer { transfer, encoding } => {
                        self.snapshots.insert(transfer, encoding);
                        continue;
                    }
                    Output::Decode(decoding) => {
                        self.decodings.push_back(decoding);
                        continue;
                    }
                    Output::Event(event) => {
                        self.events[who].push(event);
                        continue;
                    }
                    Output::Stop(reason) => {
                        self.stops[who] = Some(reason);
                        continue;
                    }
                    other => {
                        later.push_back(other);
                        continue;
                    }
                };
                self.cores[who].step(answer, &mut out);
                self.cores[who].end(&mut out);
            }
        }
        if who == PRIMARY || self.applies {
            self.cores[who].apply(&mut out);
        }
        self.cores[who].rest();
        self.mail.extend(later.into_iter().map(|output| (who, output)));
        if !std::mem::replace(&mut self.carrying, true) {
            while let Some((who, output)) = self.mail.pop_front() {
                self.carry(who, output);
            }
            self.carrying = false;
            // A process that ended has no connections.
            while let Some(wire) = self.wires.first().copied().filter(|_| self.stops != [None, None]) {
                self.lose(wire);
            }
        }
    }

    fn journal(&mut self, who: usize, cut: Option<Index>, blocks: Vec<Block>) {
        let journal = &mut self.journals[who];
        if let Some(keep) = cut {
            *journal = journal.iter().filter_map(|block| block.upto(keep)).collect();
        }
        journal.extend(blocks);
    }

    /// Two blocks at a time.
    fn journalled(&self, who: usize, from: Index, upto: Index) -> Vec<Block> {
        let blocks = self.journals[who].iter().filter(|block| block.last() >= from && !self.journals_gone);
        blocks.filter_map(|block| block.from(from)?.upto(upto)).take(2).collect()
    }

    /// A disk that hung does what it was asked meanwhile.
    pub(super) fn disk_answers(&mut self, who: usize) {
        self.hangs[who] = false;
        for sequence in std::mem::take(&mut self.asked[who]) {
            self.turn(who, Some(Input::Persisted { sequence }));
        }
    }

    /// What goes from one to the other arrives at once, while the link holds.
    fn carry(&mut self, who: usize, output: Output<KeyValue>) {
        let other = 1 - who;
        match output {
            Output::Dial { link, .. } if self.stops[other].is_some() => {
                self.turn(who, Some(Input::DialFailed { link, refused: true }));
            }
            Output::Dial { link, address } => {
                assert_eq!(address, NAMES[other]);
                self.accepted += 2;
                self.wires.push(Wire { dialler: who, dialled: link, accepted: self.accepted });
                self.turn(other, Some(Input::Accepted(self.accepted)));
                self.turn(who, Some(Input::Dialled(link)));
            }
            Output::Send(from, message) => {
                if let Some(wire) = self.wires.iter().copied().find(|wire| wire.end(who) == from) {
                    match &mut self.coming {
                        Some(coming) if who == PRIMARY => coming.push((wire.end(other), message)),
                        _ => self.turn(other, Some(Input::Peer(wire.end(other), message))),
                    }
                }
            }
            Output::Close(link) => {
                if let Some(wire) = self.wires.iter().copied().find(|wire| wire.end(who) == link) {
                    self.lose(wire);
                }
            }
            _ => {}
        }
    }

    pub(super) fn record(&self) -> Option<GroupRecord> {
        self.registers.get(&"g".parse().unwrap()).cloned()
    }

    /// True when the arbiters ever granted such a change.
    pub(super) fn was_granted(&self, wanted: impl Fn(&Change) -> bool) -> bool {
        self.granted.iter().any(wanted)
    }

    /// The joiner's link to its primary, which breaks and nobody notices.
    pub(super) fn take_wire(&mut self) -> Option<Wire> {
        let at = self.wires.iter().position(|wire| wire.dialler == JOINER)?;
        Some(self.wires.remove(at))
    }

    /// All that was coming is whole.
    pub(super) fn came(&mut self) {
        for (link, message) in self.coming.take().into_iter().flatten() {
            self.turn(JOINER, Some(Input::Peer(link, message)));
        }
    }

    /// It is there again, as if nothing had happened.
    pub(super) fn put_wire(&mut self, wire: Wire) {
        self.wires.push(wire);
    }

    pub(super) fn wire(&self) -> Option<Wire> {
        self.wires.iter().copied().find(|wire| wire.dialler == JOINER)
    }

    fn lose(&mut self, wire: Wire) {
        self.wires.retain(|other| *other != wire);
        for who in [PRIMARY, JOINER] {
            self.turn(who, Some(Input::LinkClosed(wire.end(who))));
        }
    }

    /// The joiner's link breaks.
    pub(super) fn cut(&mut self) {
        if let Some(wire) = self.wire() {
            self.lose(wire);
        }
    }

    /// Time goes by in small steps; both come when they are due.
    pub(super) fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now.boot += Duration::from_millis(1);
            self.turn(PRIMARY, None);
            if !self.stopped {
                self.turn(JOINER, None);
            }
        }
    }

    pub(super) fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if so(self) {
                return;
            }
            self.pass(1);
        }
        panic!("never {what}; events {:#?}", self.events);
    }

    pub(super) fn heard(&self, who: usize, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events[who].iter().filter(|event| wanted(event)).count()
    }

    pub(super) fn in_sync(&self) -> bool {
        self.record().is_some_and(|record| record.in_sync.len() == 2)
    }

    /// Bytes of log that the follower has not acknowledged.
    fn lacking(&self) -> Option<usize> {
        let Stance::Primary(primary) = &self.cores[PRIMARY].role else { return None };
        let acknowledged = primary.followers.values().next()?.acknowledged;
        let blocks = self.cores[PRIMARY].log.from(acknowledged + 1)?;
        Some(blocks.map(|block| block.bytes.len()).sum())
    }

    /// Both copies are in sync and hold the same.
    pub(super) fn assert_equal(&mut self) {
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

/// A turn of a replica whose disk does everything at once.
pub(super) fn turn(core: &mut Replica<KeyValue>, now: Now, input: Input) -> Vec<Output<KeyValue>> {
    let (mut out, mut all) = (Outbox::default(), Vec::new());
    core.begin(now);
    core.step(input, &mut out);
    core.end(&mut out);
    while !out.outputs.is_empty() {
        for output in std::mem::take(&mut out.outputs) {
            if let Output::Claim { sequence, .. } | Output::Persist { sequence, .. } = &output {
                core.step(Input::Persisted { sequence: *sequence }, &mut out);
                core.end(&mut out);
            }
            all.push(output);
        }
    }
    core.rest();
    all
}

/// The link of the dial among these.
pub(super) fn dialled(outputs: &[Output<KeyValue>]) -> LinkId {
    let dial = |output: &Output<KeyValue>| match output {
        Output::Dial { link, .. } => Some(*link),
        _ => None,
    };
    outputs.iter().find_map(dial).expect("a dial")
}
