//! What goes wrong, how strongly, and for how long.
//!
//! Deliberately not here: what may be harmed without losing released data altogether, and the faults of replicas and
//! their disks (`harm`).

use cutover::journal::memory_disk::MemoryDisk;
use cutover_arbiter::record::Mode;
use rand::RngExt;

use super::arbiters::Store;
use super::counters::{Fault, Must};
use super::invariants::raft::RaftGhost;
use super::network::ConnId;
use super::world::{Event, Id, Kind, SWITCHOVER_TIMEOUT, Time, Weather, World};

/// What ends by itself.
#[derive(Debug)]
pub enum Undo {
    Heal {
        links: Vec<(Id, Id)>,
        era: u32,
    },
    /// Not yet cut; then for so long.
    Cut {
        links: Vec<(Id, Id)>,
        length: Time,
        era: u32,
    },
    Flap {
        links: Vec<(Id, Id)>,
        cut: bool,
        left: u32,
        era: u32,
    },
    Slow(Vec<(Id, Id)>),
    Lossy(Vec<(Id, Id)>),
    Starve(Id),
    ArbiterDisk(Id),
    ReplicaDisk(Id),
    Replies,
    Suspended {
        id: Id,
        life: u64,
        length: Time,
    },
    /// A link that comes and goes, and a disk that hangs, until everything is healed.
    FlapsOn {
        links: Vec<(Id, Id)>,
        cut: bool,
        era: u32,
    },
    Hangs(Id, u32),
    /// A machine that stood still takes what was sent to it.
    Thaw(Id),
    Reset(ConnId),
    Inject(Fault),
    /// What was planned for a disk is not done any more.
    Disarm(Id),
    /// There is room on a disk again.
    Room(Id),
    /// A damaged directory is moved away.
    MoveAway(Id),
    /// A replica with an older image of its data is kept from the arbiters.
    Apart {
        id: Id,
        links: Vec<(Id, Id)>,
        era: u32,
    },
    /// An older image of a replica's data takes its place.
    Restore {
        id: Id,
        image: MemoryDisk,
        tries: u32,
    },
}

/// A connection to a machine that lost power is found to be dead after so long, by whoever has nothing to send on it.
const KEEPALIVE: Time = 5_000_000;

impl World {
    /// The weather changes: stormy and quiet windows follow each other.
    pub fn change_weather(&mut self) {
        if self.weather == Weather::Over {
            return;
        }
        let stormy = self.weather == Weather::Quiet;
        self.weather = if stormy { Weather::Stormy } else { Weather::Quiet };
        let length = if stormy { 4_000_000..14_000_000 } else { 1_500_000..5_000_000 };
        let length = self.random.random_range(length);
        self.schedule(length, Event::Weather);
        if stormy {
            self.schedule(1_000, Event::Fault);
        }
    }

    /// One fault, and when the next one comes.
    pub fn fault(&mut self) {
        if self.weather != Weather::Stormy {
            return;
        }
        let fault = self.swarm.fault(&mut self.random);
        self.inject(fault);
        let gap = self.random.random_range(0..self.swarm.gap * 2);
        self.schedule(gap, Event::Fault);
    }

    /// A fault within moments of a cut-over.
    pub fn second_fault(&mut self, _group: usize) {
        if self.weather == Weather::Stormy && self.swarm.has(Fault::AfterCutOver) && self.random.random_bool(0.4) {
            self.report.injected(Fault::AfterCutOver);
            let fault = self.swarm.fault(&mut self.random);
            let after = self.random.random_range(0..30_000);
            self.schedule(after, Event::Undo(Undo::Inject(fault)));
        }
    }

    /// A hand-over is proposed: the arbiters may decide it only once its proposer has given up waiting and gone on, and is
    /// without its successor.
    pub fn delay_a_hand_over(&mut self, from: Id, to: Id) {
        if self.weather != Weather::Stormy || !self.swarm.has(Fault::AfterCutOver) || self.random.random_bool(0.3) {
            return;
        }
        self.report.injected(Fault::AfterCutOver);
        let arbiters: Vec<Id> = self.arbiter_ids().collect();
        let among: Vec<_> = pairs(&arbiters).into_iter().flat_map(both).collect();
        let length = SWITCHOVER_TIMEOUT + self.random.random_range(0..1_500_000);
        let after = SWITCHOVER_TIMEOUT - self.random.random_range(0..400_000);
        self.cut_for(among, length, self.era);
        let lonely = self.random.random_range(length - after..length - after + 500_000);
        let cut = Undo::Cut { links: both((from, to)).to_vec(), length: lonely, era: self.era };
        self.schedule(after, Event::Undo(cut));
    }

    fn cut_for(&mut self, links: Vec<(Id, Id)>, length: Time, era: u32) {
        self.cut(&links);
        self.schedule(length, Event::Undo(Undo::Heal { links, era }));
    }

    /// Short, or about as long as the timeouts, or long.
    fn length(&mut self) -> Time {
        let range = match self.random.random_range(0..10) {
            0..3 => 1_000..60_000,
            3..7 => 60_000..900_000,
            _ => 900_000..5_000_000,
        };
        self.random.random_range(range)
    }

    fn any(&mut self, ids: std::ops::Range<Id>) -> Id {
        self.random.random_range(ids)
    }

    /// A replica, more often than not a primary.
    pub fn some_replica(&mut self) -> Id {
        let group = self.random.random_range(0..self.groups.len());
        let primary = self.groups[group].record().map(|record| record.primary.addresses.peer.clone());
        match primary {
            Some(address) if self.random.random_bool(0.5) => self.id_of(&address),
            _ => self.any(self.replica_ids()),
        }
    }

    /// Any process, a replica more often than not.
    fn someone(&mut self) -> Id {
        match self.random.random_range(0..10) {
            0..6 => self.some_replica(),
            6..9 => self.any(self.arbiter_ids()),
            _ => self.any(self.client_ids()),
        }
    }

    pub fn inject(&mut self, fault: Fault) {
        if self.groups.iter().any(|group| group.records.is_empty()) {
            return;
        }
        let length = self.length();
        let done = match fault {
            Fault::CrashReplica | Fault::PowerReplica | Fault::Shutdown | Fault::Switchover | Fault::Leak => {
                self.inject_into_replica(fault, length)
            }
            Fault::ArbitersForget => self.arbiters_forget(),
            _ if fault.needs_a_journal() => self.inject_into_replica(fault, length),
            Fault::CrashArbiter
            | Fault::CrashLeader
            | Fault::ArbitersDown
            | Fault::ArbitersRestart
            | Fault::ArbiterDiskError
            | Fault::ArbiterDiskSlow
            | Fault::LoseReplies => self.inject_into_arbiters(fault, length),
            Fault::DiskSlow | Fault::DiskHang => self.inject_into_disk(fault, length),
            Fault::Pause
            | Fault::PauseMidTurn
            | Fault::Freeze
            | Fault::Suspend
            | Fault::Starve
            | Fault::WallJump
            | Fault::ClientStopped => self.inject_into_process(fault, length),
            Fault::AfterCutOver | Fault::TransferBroken => false,
            _ => self.inject_into_network(fault, length),
        };
        if done {
            self.report.injected(fault);
            self.say(|| format!("-- {} for {length} us", fault.text()));
        }
    }

    fn inject_into_arbiters(&mut self, fault: Fault, length: Time) -> bool {
        let mut ids: Vec<Id> = self.arbiter_ids().collect();
        let leads = |world: &World, id: Id| {
            world.arbiters[id].core.as_ref().is_some_and(|core| core.raft_core().leader() == Some(World::node_of(id)))
        };
        match fault {
            Fault::CrashArbiter => ids = vec![self.any(self.arbiter_ids())],
            Fault::CrashLeader => ids.retain(|id| leads(self, *id)),
            Fault::ArbitersDown => {
                let keep = self.random.random_range(0..ids.len());
                ids.rotate_left(keep);
                ids.truncate(ids.len() / 2 + 1);
            }
            Fault::ArbiterDiskError => {
                let id = self.any(self.arbiter_ids());
                self.arbiters[id].fails = self.processes[id].alive;
                return self.processes[id].alive;
            }
            Fault::ArbiterDiskSlow => {
                let id = self.any(self.arbiter_ids());
                self.arbiters[id].slow = self.random.random_range(20_000..800_000);
                self.schedule(length, Event::Undo(Undo::ArbiterDisk(id)));
                return true;
            }
            Fault::LoseReplies => {
                self.lost_replies = self.random.random_range(20..=100);
                self.schedule(length, Event::Undo(Undo::Replies));
                return true;
            }
            _ => {}
        }
        for id in &ids {
            self.kill(*id, false);
            let spread = self.random.random_range(0..300_000);
            self.schedule(length + spread, Event::Restart(*id));
        }
        !ids.is_empty()
    }

    /// All arbiters lose their data: nothing of what they were asked or told one another is under way any more when they
    /// come back.
    fn arbiters_forget(&mut self) -> bool {
        let busy =
            |group: &super::canon::Group| group.forgotten || group.raising || group.seized.is_some() || group.lost;
        if self.groups.iter().any(busy) || self.report.seen(Must::Adopted) > 0 {
            return false;
        }
        // Somebody must be left to be adopted.
        let holds = |id: Id| {
            let replica = self.replica(id);
            let readable = || self.mode_of(id) != Mode::Memory && !replica.hardware.rotten;
            replica.core.as_ref().map_or_else(readable, |core| core.claim().group_id.is_some())
        };
        if !(0..self.groups.len())
            .all(|group| self.replica_ids().any(|id| self.replica(id).group == group && holds(id)))
        {
            return false;
        }
        self.keep_what_arbiters_have();
        for id in self.arbiter_ids() {
            self.kill(id, false);
            self.arbiters[id].store = Store::default();
            let after = self.random.random_range(3_000_000..4_500_000);
            self.schedule(after, Event::Restart(id));
        }
        self.forget_packets();
        self.raft = RaftGhost::default();
        for group in &mut self.groups {
            group.forgotten = true;
            group.proposals.clear();
            group.requests.clear();
        }
        // What was asked before and is answered afterwards shows nothing of it.
        for ask in self.asks.values_mut() {
            ask.floor = 0;
        }
        true
    }

    fn inject_into_disk(&mut self, fault: Fault, length: Time) -> bool {
        let id = self.some_replica();
        let (now, slow) = (self.now, self.random.random_range(5_000..300_000));
        let disk = &mut self.replica_mut(id).hardware;
        if fault == Fault::DiskHang {
            disk.hung_until = now + length;
        } else {
            disk.slow = slow;
            self.schedule(length, Event::Undo(Undo::ReplicaDisk(id)));
        }
        true
    }

    fn inject_into_process(&mut self, fault: Fault, length: Time) -> bool {
        let id = if fault == Fault::ClientStopped { self.any(self.client_ids()) } else { self.someone() };
        match fault {
            Fault::PauseMidTurn => self.processes[id].stop_mid_turn = Some(length),
            Fault::Freeze => {
                // What was sent to it is sent again, after a while.
                let thaw = self.now + length + self.random.random_range(20_000..400_000);
                let process = &mut self.processes[id];
                process.frozen_until = process.frozen_until.max(thaw);
                let thaw = process.frozen_until;
                self.schedule_at(thaw, Event::Undo(Undo::Thaw(id)));
                self.stop(id, length);
            }
            Fault::Suspend if self.processes[id].stopped_until > self.now => return false,
            Fault::Suspend => {
                // Its clock is right before it runs on.
                let life = self.processes[id].life;
                self.processes[id].suspended_until = self.now + length;
                self.schedule(length, Event::Undo(Undo::Suspended { id, life, length }));
                self.stop(id, length);
            }
            Fault::Starve => {
                self.processes[id].starved = self.random.random_range(2_000..250_000);
                self.schedule(length * 2, Event::Undo(Undo::Starve(id)));
            }
            Fault::WallJump => {
                let by = self.random.random_range(-7_200_000_000..=7_200_000_000);
                self.processes[id].clock.jump(by);
            }
            _ => self.stop(id, length),
        }
        true
    }

    fn inject_into_network(&mut self, fault: Fault, length: Time) -> bool {
        let (links, era) = (self.links_for(fault), self.era);
        if links.is_empty() {
            return false;
        }
        match fault {
            Fault::Slow => {
                let by = self.random.random_range(10_000..400_000);
                links.iter().for_each(|(from, to)| self.net.slow(*from, *to, by));
                self.schedule(length, Event::Undo(Undo::Slow(links)));
            }
            Fault::Lossy => {
                let percent = self.random.random_range(5..60);
                links.iter().for_each(|(from, to)| self.net.lossy(*from, *to, percent));
                self.schedule(length, Event::Undo(Undo::Lossy(links)));
            }
            Fault::Reset => {
                for (from, to) in links {
                    for conn in self.net.conns_of(from, Some(to)) {
                        self.reset(conn);
                    }
                }
            }
            Fault::Flap => {
                let left = self.random.random_range(4..20);
                self.cut(&links);
                self.schedule(20_000, Event::Undo(Undo::Flap { links, cut: true, left, era }));
            }
            _ => {
                self.cut(&links);
                if self.random.random_bool(0.5) {
                    let after = self.random.random_range(0..2_000_000);
                    self.schedule(after, Event::ResetIfCut(links.clone()));
                }
                self.schedule(length, Event::Undo(Undo::Heal { links, era }));
            }
        }
        true
    }

    pub fn links_for(&mut self, fault: Fault) -> Vec<(Id, Id)> {
        let all: Vec<Id> = (0..self.processes.len()).collect();
        match fault {
            Fault::Isolate => {
                let one = self.someone();
                self.around(one, &all)
            }
            Fault::Split | Fault::Lossy => {
                let side: Vec<bool> = all.iter().map(|_| self.random.random_bool(0.5)).collect();
                let apart = |a: Id, b: Id| side[a] != side[b];
                pairs(&all).into_iter().filter(|(a, b)| apart(*a, *b)).flat_map(both).collect()
            }
            Fault::ArbitersAway => {
                let one = self.some_replica();
                self.arbiter_ids().flat_map(|arbiter| both((one, arbiter))).collect()
            }
            Fault::OneWay | Fault::Slow => {
                let (one, other) = (self.someone(), self.someone());
                if one == other { Vec::new() } else { vec![(one, other)] }
            }
            Fault::Flap if self.random.random_bool(0.4) => {
                let one = self.some_replica();
                self.around(one, &all)
            }
            Fault::Reset if self.random.random_bool(0.5) => {
                let one = self.someone();
                self.around(one, &all)
            }
            _ => {
                // Between a primary and another replica of its group.
                let one = self.some_replica();
                let group = self.replica(one).group;
                let others: Vec<Id> =
                    self.replica_ids().filter(|id| *id != one && self.replica(*id).group == group).collect();
                let other = others[self.random.random_range(0..others.len())];
                both((one, other)).to_vec()
            }
        }
    }

    pub fn around(&self, one: Id, all: &[Id]) -> Vec<(Id, Id)> {
        all.iter().filter(|other| **other != one).flat_map(|other| both((one, *other))).collect()
    }

    pub fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Heal { era, .. }
            | Undo::Cut { era, .. }
            | Undo::Flap { era, .. }
            | Undo::FlapsOn { era, .. }
            | Undo::Hangs(_, era)
            | Undo::Apart { era, .. }
                if era != self.era => {}
            Undo::Heal { links, .. } => self.heal(&links),
            Undo::Cut { links, length, era } => self.cut_for(links, length, era),
            Undo::Apart { id, links, .. } => self.no_longer_apart(id, links),
            Undo::Flap { links, cut, left, era } => {
                if cut {
                    self.heal(&links);
                } else {
                    self.cut(&links);
                }
                if left > 0 || !cut {
                    let after = self.random.random_range(10_000..400_000);
                    let left = left.saturating_sub(1);
                    self.schedule(after, Event::Undo(Undo::Flap { links, cut: !cut, left, era }));
                }
            }
            Undo::FlapsOn { links, cut, era } => {
                // Long enough to be suspected, then long enough to be taken back.
                let after = if cut { 150_000..1_200_000 } else { 400_000..900_000 };
                let after = self.random.random_range(after);
                if cut {
                    self.heal(&links);
                } else {
                    self.cut(&links);
                }
                self.schedule(after, Event::Undo(Undo::FlapsOn { links, cut: !cut, era }));
            }
            Undo::Hangs(id, era) => {
                let now = self.now;
                self.replica_mut(id).hardware.hung_until = now + 10_000_000;
                self.schedule(5_000_000, Event::Undo(Undo::Hangs(id, era)));
            }
            Undo::Slow(links) => links.iter().for_each(|(from, to)| self.net.slow(*from, *to, 0)),
            Undo::Lossy(links) => links.iter().for_each(|(from, to)| self.net.lossy(*from, *to, 0)),
            Undo::Starve(id) => self.processes[id].starved = 0,
            Undo::ArbiterDisk(id) => self.arbiters[id].slow = 0,
            Undo::ReplicaDisk(id) => self.replica_mut(id).hardware.slow = 0,
            Undo::Disarm(id) => self.disarm(id),
            Undo::Room(id) => self.room_again(id),
            Undo::MoveAway(id) => self.move_away(id),
            Undo::Restore { .. } if self.weather == Weather::Over => {}
            Undo::Restore { id, image, tries } => self.restore(id, image, tries),
            Undo::Replies => self.lost_replies = 0,
            // One that was started meanwhile did not stand still: its clock must not fall back.
            Undo::Suspended { id, life, length } => {
                if self.processes[id].life == life {
                    self.processes[id].clock.suspended(length);
                }
            }
            Undo::Thaw(id) => self.thaw(id),
            Undo::Reset(conn) => self.reset(conn),
            Undo::Inject(fault) => self.inject(fault),
        }
    }

    /// Every fault of the storm ends, but for the stops under way, which end by themselves.
    pub fn calm_down(&mut self) {
        self.weather = Weather::Over;
        self.era += 1;
        self.lost_replies = 0;
        // Before anything that such a replica has asked for comes out of its links.
        for id in self.replica_ids() {
            self.takes_images_away(id);
        }
        let all: Vec<Id> = (0..self.processes.len()).collect();
        for (a, b) in pairs(&all).into_iter().flat_map(both) {
            self.net.slow(a, b, 0);
            self.net.lossy(a, b, 0);
            while self.net.is_cut(a, b) {
                self.heal(&[(a, b)]);
            }
        }
        for conn in self.half_open() {
            self.schedule(KEEPALIVE, Event::Undo(Undo::Reset(conn)));
        }
        for id in all {
            self.processes[id].starved = 0;
            self.processes[id].stop_mid_turn = None;
            match self.kind(id) {
                Kind::Arbiter(_) => self.arbiters[id].slow = 0,
                Kind::Replica(_) => {
                    let now = self.now;
                    self.replica_mut(id).leaks = false;
                    self.replica_mut(id).leaks_in_a_drain = false;
                    let disk = &mut self.replica_mut(id).hardware;
                    disk.slow = 0;
                    disk.hung_until = disk.hung_until.min(now + 100_000);
                    self.disarm(id);
                    self.room_again(id);
                }
                Kind::Client(_) => {}
            }
        }
    }
}

fn pairs(all: &[Id]) -> Vec<(Id, Id)> {
    all.iter().flat_map(|a| all.iter().filter(move |b| a < *b).map(move |b| (*a, *b))).collect()
}

pub fn both((a, b): (Id, Id)) -> [(Id, Id); 2] {
    [(a, b), (b, a)]
}
