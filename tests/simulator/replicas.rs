//! The shell of one replica: the production core (`cutover::replica`), driven in turns as the daemon drives it, with a
//! simulated disk, connections and clients.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::time::Duration;

use cutover::journal::memory_disk::MemoryDisk;
use cutover::machine::{Changes, Snapshot};
use cutover::protocol::peer::{Append, PeerMessage, TransferId};
use cutover::replica::{Admission, Encoding, EntryAt, Event as CoreEvent, Input, Outbox, Output, Rebuilt, StopReason};
use cutover_arbiter::protocol::Question;
use cutover_arbiter::record::{Incarnation, Mode};
use rand::RngExt;

use super::asking::Purpose;
use super::canon::{Core, Machine};
use super::counters::{Fault, Must};
use super::disks::{DiskThread, Hardware};
use super::doors::{Door, Wanted, message};
use super::invariants::duties::Duties;
use super::leaky;
use super::network::{ConnId, Payload, Port};
use super::world::{Event, Id, Local, Time, Weather, World, as_ask};

/// A core that is due at once so often in a row keeps a whole processor busy for nothing.
const SPINS: u32 = 200;
/// A starved follower applies in one of so many turns.
const STARVED: Time = 31;
/// Of so many releases, one is followed by a look at what the disks would give back.
const SAMPLED: u32 = 40;

pub struct SimReplica {
    pub group: usize,
    pub core: Option<Core>,
    pub inbox: VecDeque<Input>,
    pub requests: VecDeque<(ConnId, Wanted)>,
    /// What its disk has done and it was not woken for.
    pub unheard: Vec<Input>,
    pub doors: BTreeMap<ConnId, Door>,
    pub numbers: u64,
    /// What outlives its process.
    pub hardware: Hardware,
    pub thread: Option<DiskThread>,
    /// Older states that were made of what is on its disk.
    pub rebuilt: Vec<Rebuilt<Machine>>,
    /// When it heard of its primary last, and how long it had stood still by then.
    pub heard: (Time, Time),
    /// What its duties hang on.
    pub duties: Duties,
    /// A transfer to this replica is under way.
    pub receiving: bool,
    /// Since when its proposals are counted, and how many they were.
    pub proposed: (Time, u32),
    /// Turns in a row after which it was due at once.
    spins: u32,
    /// It was asked to stop.
    pub stopping: bool,
    /// The next operation that its machine applies leaks.
    pub leaks: bool,
    /// The next operation that it applies in a cut-over leaks.
    pub leaks_in_a_drain: bool,
    /// It did.
    pub leaked_in_a_drain: bool,
    /// An older image of this life took the place of its data, and only its primary knows better.
    pub apart: Option<Incarnation>,
    /// Marks that were placed, for the judge of the end.
    pub marked: Option<u64>,
}

impl SimReplica {
    pub fn new(group: usize, disk: Option<MemoryDisk>) -> Self {
        Self {
            group,
            core: None,
            inbox: VecDeque::new(),
            requests: VecDeque::new(),
            unheard: Vec::new(),
            doors: BTreeMap::new(),
            numbers: 0,
            hardware: Hardware::new(disk),
            thread: None,
            rebuilt: Vec::new(),
            heard: (0, 0),
            duties: Duties::default(),
            receiving: false,
            proposed: (0, 0),
            spins: 0,
            stopping: false,
            leaks: false,
            leaks_in_a_drain: false,
            leaked_in_a_drain: false,
            apart: None,
            marked: None,
        }
    }

    pub fn serves(&self) -> bool {
        self.core.as_ref().is_some_and(|core| core.admission() == Admission::Open)
    }
}

impl World {
    pub fn replica_dies(&mut self, number: usize) {
        let id = self.arbiters.len() + number;
        if std::mem::take(&mut self.replicas[number].receiving) {
            self.report.saw(Must::TransferAborted);
        }
        self.disk_dies(id, self.processes[id].silent);
        let replica = &mut self.replicas[number];
        replica.core = None;
        replica.inbox.clear();
        replica.unheard.clear();
        replica.rebuilt.clear();
        replica.requests.clear();
        replica.doors.clear();
        let ghost = &mut self.groups[replica.group];
        if let Some(life) = ghost.lives.remove(&id) {
            ghost.resting.insert(id, life);
        }
    }

    pub fn replica_takes(&mut self, number: usize, local: Local) {
        let id = self.arbiters.len() + number;
        match local {
            Local::DiskDone => return self.disk_done(id),
            Local::SnapshotPiece { ticket } => return self.snapshot_piece(id, ticket),
            Local::Older { ticket } => return self.older_made(id, ticket),
            _ => {}
        }
        let replica = &mut self.replicas[number];
        match local {
            Local::Input(input) => replica.inbox.push_back(input),
            Local::Dialled { port: Port::Peer(link), conn, refused } => replica.inbox.push_back(match conn {
                Some(_) => Input::Dialled(link),
                None => Input::DialFailed { link, refused },
            }),
            Local::Accepted { conn, port, accepted } => match port {
                Port::Peer(_) => replica.inbox.push_back(Input::Accepted(accepted)),
                Port::Library(_) => {
                    replica.numbers += 1;
                    replica.doors.insert(conn, Door::new(Some(replica.numbers)));
                }
                Port::Redis(_) => _ = replica.doors.insert(conn, Door::new(None)),
            },
            Local::Ended { link, port: Port::Peer(_), .. } => replica.inbox.push_back(Input::LinkClosed(link)),
            Local::Ended { conn, .. } => {
                let waits = replica.requests.iter().any(|(other, _)| *other == conn);
                match replica.doors.get_mut(&conn) {
                    Some(door) if waits => door.gone = true,
                    _ => _ = replica.doors.remove(&conn),
                }
            }
            Local::Client { conn, payload: Payload::Redis(operation), .. } => {
                replica.requests.push_back((conn, Wanted::Redis(operation)));
            }
            Local::Client { conn, payload, .. } => {
                replica.requests.extend(as_ask(payload).map(|message| (conn, Wanted::Library(message))));
            }
            Local::Dialled { .. } | Local::Stored { .. } | Local::Record(_) => {}
            Local::DiskDone | Local::SnapshotPiece { .. } | Local::Older { .. } => {}
        }
    }

    pub fn replica_turn(&mut self, number: usize) {
        let id = self.arbiters.len() + number;
        let Some(mut core) = self.replicas[number].core.take() else { return };
        let now = self.processes[id].clock.now(self.now);
        let requests = self.replicas[number].requests.len();
        self.turn_begins(id, &core);
        core.begin(now);
        if requests > 0 && core.vitals().leads.is_some() && core.admission() == Admission::Paused {
            self.report.saw(Must::WokeWithRequests);
        }
        let mut out = Outbox::default();
        let mut stopped = None;
        let replica = &mut self.replicas[number];
        mem::take(&mut replica.unheard).into_iter().rev().for_each(|input| replica.inbox.push_front(input));
        self.step_all(id, &mut core, &mut out, &mut stopped);
        // Like the shell: who has nothing to execute releases before anything else.
        if self.replicas[number].requests.is_empty() {
            self.release_covered(id, &mut core);
        }
        self.serve(id, &mut core, &mut out);
        core.forward(&mut out);
        self.run_outputs(id, &mut core, &mut out, &mut stopped);
        loop {
            core.end(&mut out);
            self.run_outputs(id, &mut core, &mut out, &mut stopped);
            if self.replicas[number].inbox.is_empty() {
                break;
            }
            self.step_all(id, &mut core, &mut out, &mut stopped);
        }
        self.release(id, &mut core);
        // What cannot be served any more is answered before the turn is over.
        if core.admission() == Admission::Closed {
            self.serve(id, &mut core, &mut out);
        }
        let mut behind = self.apply(id, &mut core, &mut out);
        self.run_outputs(id, &mut core, &mut out, &mut stopped);
        behind |= !self.replicas[number].inbox.is_empty();
        behind |= !self.replicas[number].unheard.is_empty() && !core.may_learn_late_of_its_disk();
        behind |= !self.replicas[number].requests.is_empty() && core.admission() != Admission::Paused;
        let group = self.replicas[number].group;
        let verdict = self.groups[group].turn_ended(id, &core, now);
        self.check(verdict);
        let verdict = self.confirms_before_it_executes(id, &core);
        self.check(verdict);
        let verdict = self.waits_while_it_hands_over(id, &core);
        self.check(verdict);
        let deadline = core.rest();
        self.replicas[number].core = Some(core);
        self.look_at_all(group);
        if let Some(reason) = stopped {
            return self.replica_stopped(id, &reason);
        }
        if behind {
            self.wake(id);
        }
        if deadline.is_some_and(|deadline| deadline <= now.boot) {
            self.replicas[number].spins += 1;
            if self.replicas[number].spins > SPINS {
                let picture = self.picture(id);
                return self.check(Err(format!("it is due at once, again and again: {picture}")));
            }
        } else {
            self.replicas[number].spins = 0;
        }
        if let Some(deadline) = deadline.filter(|deadline| *deadline < Duration::from_secs(1_000_000)) {
            let at = self.processes[id].clock.when(self.now, deadline.as_micros() as Time + 1);
            self.wake_at(id, at);
        }
    }

    /// True when what its disk has done need not wake it.
    pub fn sleeps_on(&self, id: Id) -> bool {
        let replica = self.replica(id);
        let nothing_else = replica.inbox.is_empty() && replica.rebuilt.is_empty();
        nothing_else && replica.core.as_ref().is_some_and(Core::may_learn_late_of_its_disk)
    }

    /// A follower applies what is committed; its machine may leak, unless it holds the last copy.
    fn apply(&mut self, id: Id, core: &mut Core, out: &mut Outbox<Machine>) -> bool {
        if self.processes[id].starved > 0 && !self.now.is_multiple_of(STARVED) {
            // It acknowledges first, and then there is no time left.
            return core.vitals().leads.is_none() && core.vitals().applied < core.vitals().committed;
        }
        if !self.replica(id).leaks || !self.may_lose(id) {
            return core.apply(out);
        }
        let (behind, leaked) = leaky::with_a_leak(|| core.apply(out));
        if leaked {
            self.replica_mut(id).leaks = false;
            self.notice_leak(id, true);
        }
        behind
    }

    fn replica_stopped(&mut self, id: Id, reason: &StopReason) {
        let name = self.name(id);
        let after = match reason {
            StopReason::Asked => {
                // Asked to stop while it was the only copy: that is its operator's word, and the end of this group
                // where only memory holds it.
                let verdict = self.stops_after_its_successor(id);
                self.check(verdict);
                let group = self.replica(id).group;
                self.groups[group].lost |= self.mode_of(id) == Mode::Memory && !self.may_lose(id);
                self.disk_closes(id);
                self.random.random_range(50_000..3_000_000)
            }
            StopReason::Journal(_) if self.replica(id).hardware.failed() => {
                self.report.saw(Must::StoppedByDisk);
                self.random.random_range(200_000..3_000_000)
            }
            StopReason::Untrusted(_) if self.replica(id).leaked_in_a_drain => {
                self.report.saw(Must::Untrusted);
                self.kill(id, false);
                // As the words say, a person has it begin with an empty directory.
                let replica = self.replica_mut(id);
                replica.hardware.disk = replica.hardware.disk.as_ref().map(|_| MemoryDisk::nameless());
                let group = replica.group;
                self.groups[group].resting.remove(&id);
                self.random.random_range(200_000..3_000_000)
            }
            _ => return self.check(Err(format!("{name} stopped: {reason}"))),
        };
        self.kill(id, false);
        self.schedule(after, Event::Restart(id));
    }

    fn step_all(&mut self, id: Id, core: &mut Core, out: &mut Outbox<Machine>, stopped: &mut Option<StopReason>) {
        let group = self.replica(id).group;
        for rebuilt in mem::take(&mut self.replica_mut(id).rebuilt) {
            core.rebuilt(rebuilt, out);
            self.run_outputs(id, core, out, stopped);
        }
        while let Some(input) = self.replica_mut(id).inbox.pop_front() {
            self.hears(id, core, &input);
            self.duties_begin(id, core, &input);
            let ghost = &mut self.groups[group];
            if ghost.takes(id, core, &input) {
                self.report.saw(Must::StaleAck);
            }
            self.step(id, core, input, out);
            self.run_outputs(id, core, out, stopped);
            self.groups[group].executes(id, core);
            self.may_be_confirmed(id, core);
            let verdict = self.keeps_the_joint_set(id, core);
            self.check(verdict);
            let verdict = self.h16_who_cannot_release_is_suspected(id);
            self.check(verdict);
        }
    }

    /// A follower that becomes primary applies what it holds; its machine may leak then, too.
    fn step(&mut self, id: Id, core: &mut Core, input: Input, out: &mut Outbox<Machine>) {
        if !self.replica(id).leaks_in_a_drain || core.vitals().leads.is_some() || !self.may_lose(id) {
            return core.step(input, out);
        }
        let ((), leaked) = leaky::with_a_leak(|| core.step(input, out));
        let replica = self.replica_mut(id);
        (replica.leaks_in_a_drain, replica.leaked_in_a_drain) = (!leaked, leaked);
        self.notice_leak(id, leaked);
    }

    fn notice_leak(&mut self, id: Id, leaked: bool) {
        let group = self.replica(id).group;
        if let Some(life) = self.groups[group].lives.get_mut(&id) {
            life.leaked |= leaked;
        }
    }

    fn release(&mut self, id: Id, core: &mut Core) {
        self.release_covered(id, core);
        let group = self.replica(id).group;
        self.groups[group].fresh.clear();
    }

    fn release_covered(&mut self, id: Id, core: &mut Core) {
        let release = core.release();
        if !release.open {
            return;
        }
        let group = self.replica(id).group;
        let first = self.arbiters.len();
        let conns: Vec<ConnId> =
            self.replica(id).doors.iter().filter(|(_, door)| door.owes()).map(|(conn, _)| *conn).collect();
        let (mut ready, mut looked) = (Vec::new(), false);
        for conn in conns {
            let Some(door) = self.replica_mut(id).doors.get_mut(&conn) else { continue };
            ready.extend(door.covered(&release).into_iter().map(|held| (conn, held)));
        }
        for (conn, held) in ready {
            let verdict = self.groups[group].releases(id, core, &release, &held, &self.replicas, first);
            self.check(verdict);
            self.groups[group].last_release = self.now;
            self.send(conn, id, message(&held, &release));
            looked |= self.random.random_range(0..SAMPLED) == 0;
        }
        if looked && self.swarm.modes[group] != Mode::Memory {
            self.s4_released_is_durable(group);
        }
    }

    pub fn run_outputs(
        &mut self,
        id: Id,
        core: &mut Core,
        out: &mut Outbox<Machine>,
        stopped: &mut Option<StopReason>,
    ) {
        let group = self.replica(id).group;
        self.groups[group].remembers(id, core);
        let mut outputs: VecDeque<_> = std::mem::take(&mut out.outputs).into();
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Dial { link, address } => {
                    let to = self.id_of(&address);
                    self.dial(id, Port::Peer(link), to);
                }
                Output::Send(link, message) => {
                    let verdict = self.groups[group].sends(id, core, link, &message);
                    self.check(verdict);
                    if let PeerMessage::Ack(ack) = &message {
                        let verdict = self.acknowledges_what_it_can_apply(core, ack.verified);
                        self.check(verdict);
                    }
                    if let Some(conn) = self.net.conn_of(id, link) {
                        self.say_message(id, conn, &message);
                        self.send(conn, id, Payload::Peer(message));
                    }
                }
                Output::Close(link) => {
                    if let Some(conn) = self.net.conn_of(id, link) {
                        self.close(conn, id);
                    }
                }
                Output::Propose(proposal) => {
                    self.l4_no_flood_of_proposals(id);
                    self.say(|| format!("r proposes {} at {}", proposal.change.name(), proposal.expected_epoch));
                    if !self.groups[group].asked.contains(&proposal.request) {
                        self.proposes_anew(id, &proposal);
                    }
                    let verdict = self.groups[group].proposes(id, core, &proposal);
                    self.check(verdict);
                    self.ask(id, Purpose::Propose(proposal.request), Question::TestAndSet(proposal));
                }
                Output::Read { ticket } => {
                    self.reads_the_record(id, ticket);
                    let question = Question::Read(self.groups[group].name.clone());
                    self.ask(id, Purpose::Read(ticket), question);
                }
                output @ (Output::Persist { .. }
                | Output::Claim { .. }
                | Output::InstallSnapshot { .. }
                | Output::ReadLog { .. }
                | Output::GoBack { .. }
                | Output::Snapshot { .. }
                | Output::AbandonSnapshot { .. }) => self.disk_asked(id, core, output),
                Output::Transfer { transfer, encoding } => self.transfer(id, transfer, encoding),
                Output::Decode(decoding) => core.decoded(decoding.run(|| ()), out),
                Output::Digest { index, core: own, snapshot } => self.digest(id, core, index, own(), snapshot),
                Output::MarkPlaced { index, .. } => self.replica_mut(id).marked = index,
                Output::Fenced { ticket, result } => self.fenced(id, ticket, result),
                Output::Deposed => self.drop_held(id, core),
                Output::Event(event) => self.core_event(id, core, &event),
                Output::Stop(reason) => *stopped = Some(reason),
                Output::SwitchoverEnded { .. } | Output::Discard(_) => {}
            }
            outputs.extend(std::mem::take(&mut out.outputs));
        }
    }

    /// Handshakes and entries, for whoever reads the trace; heartbeats and acknowledgements would drown them.
    fn say_message(&mut self, id: Id, conn: ConnId, message: &PeerMessage) {
        let name = self.name(id);
        match message {
            PeerMessage::Control(control) => self.say(|| format!("{name} on {conn}: {control:.160?}")),
            PeerMessage::Append(Append { head, block: Some(block) }) => {
                self.say(|| format!("{name} on {conn}: {} to {} in {}", block.first, block.last(), head.epoch));
            }
            _ => {}
        }
    }

    fn transfer(&mut self, id: Id, transfer: TransferId, mut encoding: Encoding<impl Snapshot>) {
        let (target, mut at) = (self.swarm.chunk, 100);
        while let Some(piece) = encoding.next_piece(target) {
            at += self.random.random_range(100..8_000);
            self.local(at, id, Local::Input(Input::Snapshot { transfer, piece }));
        }
        if self.weather == Weather::Stormy && self.swarm.has(Fault::TransferBroken) && self.random.random_bool(0.4) {
            self.report.injected(Fault::TransferBroken);
            let after = self.random.random_range(0..=at + 2_000);
            for conn in self.net.conns_of(id, None) {
                self.schedule(after, Event::Undo(super::faults::Undo::Reset(conn)));
            }
        }
    }

    fn digest(&mut self, id: Id, core: &Core, index: u64, own: u64, mut snapshot: impl Snapshot) {
        let mut changes = Changes::default();
        changes.word(own);
        while let Some(chunk) = snapshot.next_chunk(4096) {
            changes.write(&chunk);
        }
        // On the primary the entry is not in the log yet; its epoch is the one in which it serves.
        let epoch = match core.entry_at(index) {
            EntryAt::Is(epoch, _) => epoch,
            _ => core.release().epoch,
        };
        let group = self.replica(id).group;
        let verdict = self.groups[group].s6_equality(id, epoch, index, changes.state());
        if self.groups[group].digests.get(&(epoch, index)).is_some_and(|digests| digests.len() > 1) {
            self.report.saw(Must::Digests);
        }
        self.check(verdict);
    }

    /// Counts by what somebody was suspected.
    fn notice_suspicion(&mut self, why: &str, by_primary: bool) {
        let seen = match why {
            _ if why.contains("refused") => [Must::SuspectedGone, Must::MemberGone],
            _ if why.contains("closed the connection") => [Must::SuspectedClosed, Must::MemberClosed],
            _ if why.contains("another life answers") => [Must::SuspectedLife, Must::MemberLife],
            _ if why.contains("came back") => [Must::MemberCameBack; 2],
            _ if why.contains("does not persist") => [Must::DoesNotPersist; 2],
            _ => return,
        };
        self.report.saw(seen[usize::from(by_primary)]);
    }

    fn core_event(&mut self, id: Id, core: &Core, event: &CoreEvent) {
        let name = self.name(id);
        self.say(|| format!("{name} {event:?}"));
        let group = self.replica(id).group;
        // A disk that rots may take what going back needs: then all is sent again, to a life that claims nothing.
        if let CoreEvent::NewIncarnation { why, .. } = event
            && !self.replica(id).hardware.rotten
        {
            let verdict = self.groups[group].s4_nothing_in_sync_is_thrown_away(id, core, why);
            self.check(verdict);
        }
        let verdict = self.groups[group].event(id, core, event);
        self.check(verdict);
        if let CoreEvent::Suspected { why, .. } = event {
            self.replica_mut(id).duties.suspected();
            self.notice_suspicion(why, core.vitals().leads.is_some());
        }
        match event {
            CoreEvent::CutOver { drained, .. } => {
                self.report.saw(Must::CutOver);
                if *drained > 0 && core.vitals().last > self.groups[group].end() + 1 {
                    self.report.saw(Must::NeverReleased);
                }
                self.second_fault(group);
            }
            CoreEvent::Granted { change: "hand_over", .. } => {
                self.report.saw(Must::SwitchedOver);
                let failed = self.groups[group].lives.get(&id).is_some_and(|life| life.failed);
                self.report.saw_if(failed, Must::DiskHandOver);
            }
            CoreEvent::Granted { change: "resume", .. } => self.report.saw(Must::Resumed),
            CoreEvent::Admitted { .. } => self.report.saw(Must::Admitted),
            CoreEvent::TransferStarted { replica, .. } if replica.as_str() == name => {
                let before = std::mem::replace(&mut self.replica_mut(id).receiving, true);
                self.report.saw_if(before, Must::TransferAborted);
            }
            CoreEvent::TransferDone { replica, .. } if replica.as_str() == name => {
                self.replica_mut(id).receiving = false;
                // Who was never in sync joins, and does not come back.
                let returns = self.groups[group].records.iter().any(|record| record.member(replica).is_some());
                self.report.saw_if(returns, Must::FullRejoin);
            }
            CoreEvent::FellBehind { .. } => self.report.saw(Must::FellBehind),
            CoreEvent::DeltaRejoin { .. } => self.report.saw(Must::DeltaRejoin),
            CoreEvent::TailCut { .. } => self.report.saw(Must::TailCut),
            CoreEvent::Diverged { .. } if self.groups[group].lives.get(&id).is_some_and(|life| life.leaked) => {
                self.report.saw(Must::Diverged);
            }
            CoreEvent::Restarted { lost: Some(why), .. } if !why.contains("memory") => {
                self.report.saw(Must::LostItsLife);
                self.report.saw_if(why.contains("a sync of its disk failed"), Must::SyncLost);
            }
            CoreEvent::NewIncarnation { why, .. }
                if why.contains("knows of acknowledgements") || why.contains("image") =>
            {
                self.report.saw(Must::ImageRefused);
            }
            CoreEvent::Suspected { replica, why: "silent" } if core.vitals().leads.is_some() => {
                let verdict = self.h17_of_a_primary(id, core, replica);
                self.check(verdict);
            }
            CoreEvent::Suspected { why: "silent", .. } => {
                self.suspects_silence(id);
                let verdict = self.h17_silence_is_not_its_own(id);
                self.check(verdict);
            }
            CoreEvent::JournalStalled { .. } => self.report.saw(Must::Stalled),
            CoreEvent::KeepsState { .. } => self.report.saw(Must::KeptState),
            CoreEvent::WentBack { snapshot, .. } => {
                self.report.saw(Must::WentBack);
                self.report.saw_if(*snapshot > 0, Must::WentBackToSnapshot);
            }
            CoreEvent::CannotGoBack { .. } => self.report.saw(Must::CouldNotGoBack),
            CoreEvent::SnapshotInstalled { .. } => self.report.saw(Must::SnapshotInstalled),
            CoreEvent::Diverged { index, operation } => {
                self.check(Err(format!("S6: {name} diverged at {index}: {operation}")));
            }
            _ => {}
        }
    }
}
