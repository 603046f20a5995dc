//! A small group as a model: real replica cores, the register machine as one atomic arbiter, connections that keep their
//! own order and nothing else, clocks that move only when a step says so.
//!
//! What is abstract: a step is a turn of one replica. A dial succeeds or fails at once; a timer fires whenever the
//! search lets it, whatever the other replicas' clocks say; a snapshot travels in one piece; a message that is never
//! delivered is lost. What a reply waits for is released at the end of a turn, as the daemon does.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use cutover::protocol::SessionId;
use cutover::protocol::peer::{self, PeerControl, PeerMessage};
use cutover::replica::{
    Config, CreateOptions, Disposition, Event, Hold, Input, Limits, LinkId, Now, Origin, Outbox, Output, Rebuilt,
    Refused, Replica, Request, Role, opened_session,
};
use cutover_arbiter::record::{Addresses, Answer, Command, Epoch, GroupRecord, Proposal, Registers};

use super::disk::Disk;
use super::ghost::Ghost;
use super::oath::Oath;
use super::scenario::Scenario;
use super::search::{BOOT, Fold, Seen, WALL};
use super::tiny::{READ, Tiny};

/// Whom a reply is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whom {
    Writer(u8),
    /// Everything that had been answered before it asked, as bits, and the last index it saw.
    Reader {
        answered: u32,
        saw: u64,
    },
}

#[derive(Debug, Clone, Hash)]
pub struct Held {
    pub whom: Whom,
    pub hold: Hold,
    pub reply: Vec<u8>,
}

#[derive(Clone)]
pub struct Node {
    pub core: Option<Replica<Tiny>>,
    pub life: u8,
    pub now: Duration,
    pub timers: u8,
    pub held: Vec<Held>,
    pub disk: Disk,
    pub oath: Oath,
    pub accepted: LinkId,
    pub digest: u64,
}

#[derive(Clone)]
pub enum Item {
    Message(PeerMessage),
    Closed,
}

/// One connection; what stands in `queues[0]` goes to `ends[0]`.
#[derive(Clone)]
pub struct Wire {
    pub ends: [(usize, LinkId); 2],
    pub open: [bool; 2],
    pub queues: [VecDeque<(Item, u64)>; 2],
}

#[derive(Clone)]
pub struct Asked {
    pub by: usize,
    pub life: u8,
    pub proposal: Proposal,
    pub answer: Option<Answer>,
    pub given_up: bool,
}

#[derive(Clone, Copy, Hash)]
pub struct Left {
    pub reads: u8,
    pub crashes: u8,
    pub breaks: u8,
    pub pauses: u8,
    pub lost_answers: u8,
    pub switchovers: u8,
}

#[derive(Clone)]
pub struct World {
    pub nodes: Vec<Rc<Node>>,
    pub links: BTreeMap<usize, Rc<Wire>>,
    pub next_link: usize,
    pub registers: Rc<Registers>,
    pub asked: Vec<Rc<Asked>>,
    pub reads: Vec<(usize, u8, u64)>,
    pub ghost: Rc<Ghost>,
    pub session: SessionId,
    pub writes: BTreeMap<u8, u8>,
    pub left: Left,
}

fn name(node: usize) -> &'static str {
    ["a", "b", "c"][node]
}

fn node_of(address: &str) -> usize {
    (0..3).find(|node| name(*node) == address).expect("an address of ours")
}

/// What one turn of a replica begins with.
pub enum Work {
    Input(Box<Input>),
    Write { operation: u8, connection: u64, lowest: u8 },
    Ask,
    OpenSession,
    Nothing,
}

impl Work {
    pub fn input(input: Input) -> Self {
        Work::Input(Box::new(input))
    }
}

impl World {
    pub fn empty(scenario: &Scenario) -> Self {
        let node = |_| {
            Rc::new(Node {
                core: None,
                life: 0,
                now: Duration::from_secs(BOOT),
                timers: 0,
                held: Vec::new(),
                disk: Disk::default(),
                oath: Oath::default(),
                accepted: 0,
                digest: 0,
            })
        };
        let Scenario { reads, crashes, breaks, pauses, lost_answers, switchovers, .. } = *scenario;
        Self {
            nodes: (0..scenario.replicas).map(node).collect(),
            links: BTreeMap::new(),
            next_link: 1,
            registers: Rc::default(),
            asked: Vec::new(),
            reads: Vec::new(),
            ghost: Rc::default(),
            session: SessionId { epoch: Epoch(0), index: 0 },
            writes: BTreeMap::new(),
            left: Left { reads, crashes, breaks, pauses, lost_answers, switchovers },
        }
    }

    pub fn record(&self) -> Option<&GroupRecord> {
        self.registers.get(&"g".parse().expect("a good name"))
    }

    pub fn start(&mut self, scenario: &Scenario, at: usize, seen: &mut Seen) -> Result<(), String> {
        let seconds = Duration::from_secs;
        let node = Rc::make_mut(&mut self.nodes[at]);
        node.life += 1;
        let config = Config {
            name: name(at).parse().expect("a good name"),
            addresses: Addresses { peer: name(at).to_owned(), ..Addresses::default() },
            group: "g".parse().expect("a good name"),
            create: (at == 0 && node.life == 1)
                .then_some(CreateOptions { mode: scenario.mode, min_in_sync: scenario.min_in_sync }),
            copies: scenario.copies,
            suspect_after: seconds(180),
            drop_backup_after: seconds(150),
            heartbeat: seconds(200),
            switchover_timeout: seconds(200_000),
            propose_again_after: seconds(50),
            readmit_after: seconds(10),
            log_bytes: 1 << 20,
            unacknowledged_bytes: 1 << 20,
            append_bytes: 1 << 16,
            snapshot_bytes: 1 << 30,
            journal_stall_limit: seconds(100_000),
            limits: Limits::default(),
            seed: [at as u8 * 16 + node.life; 32],
        };
        let now = Now { boot: node.now, wall: WALL };
        let mut out = Outbox::default();
        let core = match node.disk.restored().filter(|_| scenario.journal) {
            Some(restored) => Replica::restart(now, config, Tiny::default, restored, &mut out)?,
            None => Replica::new(now, config, Tiny::default),
        };
        node.disk.begins(core.claim());
        node.oath.begins(name(at), &core)?;
        node.core = Some(core);
        self.turn(scenario, at, Work::Nothing, seen)
    }

    /// One turn of a replica, and the turns that follow from its dials.
    pub fn turn(&mut self, scenario: &Scenario, at: usize, work: Work, seen: &mut Seen) -> Result<(), String> {
        let mut works = VecDeque::from([(at, work)]);
        while let Some((at, work)) = works.pop_front() {
            self.one_turn(scenario, at, work, seen, &mut works)?;
        }
        Ok(())
    }

    fn one_turn(
        &mut self,
        scenario: &Scenario,
        at: usize,
        work: Work,
        seen: &mut Seen,
        works: &mut VecDeque<(usize, Work)>,
    ) -> Result<(), String> {
        let mut node = (*self.nodes[at]).clone();
        let Some(mut core) = node.core.take() else { return Ok(()) };
        let mut out = Outbox::default();
        core.begin(Now { boot: node.now, wall: WALL });
        match work {
            Work::Input(input) => {
                node.oath.takes(&core, &input);
                core.step(*input, &mut out);
            }
            Work::Nothing => {}
            work => self.request(&mut node, &mut core, &work, &mut out)?,
        }
        core.forward(&mut out);
        loop {
            core.end(&mut out);
            if !self.run(scenario, (at, &mut node), &mut core, &mut out, seen, works)? {
                break;
            }
        }
        while core.apply(&mut out) {}
        self.run(scenario, (at, &mut node), &mut core, &mut out, seen, works)?;
        core.rest();
        let release = core.release();
        let held = std::mem::take(&mut node.held);
        let (go, stay) = held.into_iter().partition(|held: &Held| release.covers(held.hold));
        node.held = stay;
        node.oath.ends(name(at), &core)?;
        for held in go {
            let upto = if let Whom::Reader { saw, .. } = held.whom { saw } else { held.hold.index };
            node.oath.releases(name(at), &core, upto)?;
            Rc::make_mut(&mut self.ghost).released(at, &core, held, scenario.min_in_sync, seen)?;
        }
        let mut fold = Fold::since(node.now.as_nanos(), 0);
        core.hash(&mut fold);
        (&node.held, node.timers, &node.disk, &node.oath, node.life).hash(&mut fold);
        node.digest = fold.finish();
        node.core = Some(core);
        self.nodes[at] = Rc::new(node);
        Ok(())
    }

    fn request(
        &mut self,
        node: &mut Node,
        core: &mut Replica<Tiny>,
        work: &Work,
        out: &mut Outbox<Tiny>,
    ) -> Result<(), String> {
        let mut reply = Vec::new();
        let session = self.session;
        let (answered, saw) = (self.ghost.answered(), core.status().applied);
        let (disposition, whom) = match *work {
            Work::Write { operation, connection, lowest } => {
                let (sequence, lowest_unanswered) = (u64::from(operation), u64::from(lowest));
                let origin = Origin::Session { session, sequence, lowest_unanswered, connection };
                let request = Request::Operation { origin, operation: &[operation] };
                (core.request(request, &mut reply, out), Whom::Writer(operation))
            }
            Work::Ask => {
                let request = Request::Operation { origin: Origin::Direct, operation: &[READ] };
                (core.request(request, &mut reply, out), Whom::Reader { answered, saw })
            }
            _ => {
                let request = Request::OpenSession { timeout: 1 << 36, connection: 0 };
                core.request(request, &mut reply, out);
                self.session = opened_session(&reply).expect("a primary that serves opens a session");
                return Ok(());
            }
        };
        match disposition {
            Disposition::Reply { hold, .. } => {
                // A read may have appended a new ceiling first.
                let saw = core.status().applied;
                let whom = if let Whom::Reader { answered, .. } = whom { Whom::Reader { answered, saw } } else { whom };
                node.held.push(Held { whom, hold, reply });
            }
            Disposition::Deferred { .. }
            | Disposition::Refused(Refused::Paused | Refused::Unread | Refused::NotPrimary) => {}
            Disposition::Refused(Refused::Reason { reason, .. }) => match reason {
                cutover::protocol::client::Refusal::NotEnoughReplicas { .. } => {}
                reason => return Err(format!("S7: {whom:?} is refused: {reason}")),
            },
        }
        Ok(())
    }

    /// Runs what came out of a core; true when the core must be asked again.
    fn run(
        &mut self,
        scenario: &Scenario,
        (at, node): (usize, &mut Node),
        core: &mut Replica<Tiny>,
        out: &mut Outbox<Tiny>,
        seen: &mut Seen,
        works: &mut VecDeque<(usize, Work)>,
    ) -> Result<bool, String> {
        let mut news = false;
        for output in std::mem::take(&mut out.outputs) {
            node.oath.says(name(at), core, &output)?;
            let Some(output) = node.disk.asked(output) else { continue };
            match output {
                Output::Dial { link, address } => self.dial((at, link), node_of(&address), works),
                Output::Send(link, message) => self.send((at, link), message),
                Output::Close(link) => self.hang_up((at, link)),
                Output::Propose(proposal) => {
                    Rc::make_mut(&mut self.ghost).proposes(name(at), &proposal)?;
                    let known = self.asked.iter().position(|asked| asked.proposal.request == proposal.request);
                    if known.is_none_or(|known| self.asked[known].by != at) {
                        let life = node.life;
                        let asked = Asked { by: at, life, proposal: *proposal, answer: None, given_up: false };
                        self.asked.push(Rc::new(asked));
                    } else if let Some(known) = known {
                        Rc::make_mut(&mut self.asked[known]).given_up = false;
                    }
                }
                Output::Read { ticket } => self.reads.push((at, node.life, ticket)),
                Output::Snapshot { ticket, core: own, snapshot, .. } => {
                    node.disk.beside(own.make(), snapshot);
                    core.step(Input::SnapshotWritten { ticket }, out);
                    news = true;
                }
                Output::ReadLog { ticket, .. } => core.step(Input::LogRead { ticket, blocks: Vec::new() }, out),
                Output::GoBack { ticket, .. } => {
                    core.rebuilt(Rebuilt::failed(ticket, "there is no such disk here".to_owned()), out);
                    news = true;
                }
                Output::Transfer { transfer, mut encoding } => {
                    while let Some(piece) = encoding.next_piece(1 << 16) {
                        core.step(Input::Snapshot { transfer, piece }, out);
                    }
                    news = true;
                }
                Output::Decode(decoding) => {
                    core.decoded(decoding.run(|| ()), out);
                    news = true;
                }
                Output::Deposed => node.held.clear(),
                Output::Event(event) => {
                    node.oath.event(name(at), &event, self.record())?;
                    self.reigns(at, node.life, &event)?;
                    happened(&event, seen)?;
                }
                Output::Stop(reason) => return Err(format!("S12: {} stopped: {reason}", name(at))),
                Output::Persist { .. }
                | Output::Claim { .. }
                | Output::InstallSnapshot { .. }
                | Output::AbandonSnapshot { .. }
                | Output::Digest { .. }
                | Output::MarkPlaced { .. }
                | Output::Fenced { .. }
                | Output::SwitchoverEnded { .. }
                | Output::Discard(_) => {}
            }
        }
        while let Some(sequence) = if scenario.slow_disk { None } else { node.disk.work() } {
            core.step(Input::Persisted { sequence }, out);
            news = true;
        }
        Ok(news)
    }

    /// S8: one life of one replica in each epoch.
    fn reigns(&mut self, at: usize, life: u8, event: &Event) -> Result<(), String> {
        let Event::Role { to: Role::Primary, epoch, .. } = event else { return Ok(()) };
        let first = Rc::make_mut(&mut self.ghost).reigns.entry(*epoch).or_insert((at, life)).to_owned();
        if first == (at, life) {
            return Ok(());
        }
        Err(format!(
            "S8: {}, life {life}, leads in {epoch:?}, and so did {}, life {}",
            name(at),
            name(first.0),
            first.1
        ))
    }

    fn dial(&mut self, from: (usize, LinkId), to: usize, works: &mut VecDeque<(usize, Work)>) {
        if self.nodes[to].core.is_none() {
            works.push_back((from.0, Work::input(Input::DialFailed { link: from.1, refused: true })));
            return;
        }
        let callee = Rc::make_mut(&mut self.nodes[to]);
        callee.accepted += 2;
        let accepted = callee.accepted;
        let wire = Wire { ends: [from, (to, accepted)], open: [true; 2], queues: Default::default() };
        self.links.insert(self.next_link, Rc::new(wire));
        self.next_link += 1;
        works.push_back((to, Work::input(Input::Accepted(accepted))));
        works.push_back((from.0, Work::input(Input::Dialled(from.1))));
    }

    fn link_of(&self, end: (usize, LinkId)) -> Option<(usize, usize)> {
        self.links.iter().find_map(|(id, wire)| {
            let side = wire.ends.iter().position(|other| *other == end)?;
            wire.open[side].then_some((*id, side))
        })
    }

    fn send(&mut self, from: (usize, LinkId), message: PeerMessage) {
        let Some((id, side)) = self.link_of(from) else { return };
        let wire = Rc::make_mut(self.links.get_mut(&id).expect("just found"));
        if wire.open[1 - side] {
            let digest = digest_of(&message);
            wire.queues[1 - side].push_back((Item::Message(message), digest));
        }
    }

    /// This end is gone; the other one hears of it after what was sent before.
    fn hang_up(&mut self, end: (usize, LinkId)) {
        let Some((id, side)) = self.link_of(end) else { return };
        let wire = Rc::make_mut(self.links.get_mut(&id).expect("just found"));
        wire.open[side] = false;
        wire.queues[side].clear();
        if wire.open[1 - side] {
            wire.queues[1 - side].push_back((Item::Closed, 1));
        } else {
            self.links.remove(&id);
        }
    }

    pub fn deliver(&mut self, id: usize, to: usize) -> Option<Input> {
        let wire = Rc::make_mut(self.links.get_mut(&id)?);
        let side = wire.ends.iter().position(|end| end.0 == to)?;
        let link = wire.ends[side].1;
        match wire.queues[side].pop_front()?.0 {
            Item::Message(message) => Some(Input::Peer(link, message)),
            Item::Closed => {
                wire.open[side] = false;
                if !wire.open[1 - side] {
                    self.links.remove(&id);
                }
                Some(Input::LinkClosed(link))
            }
        }
    }

    pub fn decide(&mut self, at: usize, seen: &mut Seen) {
        let asked = Rc::make_mut(&mut self.asked[at]);
        let before = self.registers.get(&asked.proposal.group).map(|record| record.epoch);
        let registers = Rc::make_mut(&mut self.registers);
        let answer = registers.apply(Command { proposal: asked.proposal.clone(), at_ms: 1 });
        match &answer {
            Answer::Granted(record) if Some(record.epoch) != before => {
                seen.note(record.last_change.change.name());
                if asked.given_up {
                    seen.note("granted after it was given up");
                }
            }
            Answer::Granted(_) => seen.note("granted, and asked again"),
            Answer::Refused { .. } => seen.note("refused"),
        }
        asked.answer = Some(answer);
    }

    pub fn crash(&mut self, at: usize) {
        let node = Rc::make_mut(&mut self.nodes[at]);
        node.core = None;
        node.held.clear();
        node.disk.crash();
        node.digest = Fold::of(&(node.life, &node.disk));
        let dead: Vec<_> = self.links.values().flat_map(|wire| wire.ends).filter(|(node, _)| *node == at).collect();
        for end in dead {
            self.hang_up(end);
        }
        self.reads.retain(|(by, ..)| *by != at);
    }

    /// Nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        let silent = |wire: &Rc<Wire>| wire.queues.iter().all(VecDeque::is_empty);
        self.links.values().all(silent) && self.asked.is_empty() && self.reads.is_empty()
    }

    pub fn check(&self) -> Result<(), String> {
        let Some(record) = self.record() else { return Ok(()) };
        for member in &record.in_sync {
            let holder = node_of(&member.addresses.peer);
            let Some(node) = self.nodes.get(holder) else { continue };
            let core = node.core.as_ref().filter(|core| core.incarnation() == member.incarnation);
            let Some(core) = core else { continue };
            self.ghost.held_by(name(holder), core, node.disk.durable(), record)?;
        }
        Ok(())
    }
}

/// Two messages that differ only in the clock they carry are one.
fn digest_of(message: &PeerMessage) -> u64 {
    let mut message = message.clone();
    if let PeerMessage::Append(append) = &mut message {
        append.head.clock = 0;
    }
    let mut bytes = BytesMut::new();
    peer::encode(&message, &mut bytes);
    let mut fold = Fold::since(0, 0);
    fold.write(&bytes);
    fold.finish()
}

fn happened(event: &Event, seen: &mut Seen) -> Result<(), String> {
    match event {
        Event::CutOver { drained: 1.., .. } => seen.note("cut-over with a tail to drain"),
        Event::CutOver { .. } => seen.note("serves"),
        Event::Deposed { .. } => seen.note("deposed"),
        Event::Suspected { .. } => seen.note("suspected"),
        Event::TransferDone { .. } => seen.note("transfer done"),
        Event::DeltaRejoin { entries: 1.., .. } => seen.note("delta rejoin"),
        Event::TailCut { .. } => seen.note("tail cut"),
        Event::NewIncarnation { .. } => seen.note("new incarnation"),
        Event::PeerRefused { .. } => seen.note("peer refused"),
        Event::Diverged { index, .. } => return Err(format!("S6: diverged at {index}")),
        _ => {}
    }
    Ok(())
}

pub fn what(item: &Item) -> &'static str {
    match item {
        Item::Closed => "closed",
        Item::Message(PeerMessage::Append(append)) if append.block.is_some() => "entries",
        Item::Message(PeerMessage::Append(_)) => "an empty append",
        Item::Message(PeerMessage::Ack(_)) => "an acknowledgement",
        Item::Message(PeerMessage::Chunk(_)) => "a chunk",
        Item::Message(PeerMessage::Control(control)) => match control {
            PeerControl::Hello(_) => "hello",
            PeerControl::Welcome(_) => "welcome",
            PeerControl::Alive { .. } => "alive",
            PeerControl::Refuse { .. } => "refuse",
            PeerControl::Record(_) => "a record",
            PeerControl::Taken { .. } => "chunks taken",
        },
    }
}
