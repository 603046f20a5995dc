//! The fault atlas: what may be harmed. Released data is never destroyed altogether at the declared durability: `memory`
//! survives the loss of any one process, `buffered` that of all processes at once, `sync` that of all machines. And the
//! faults of replicas and their disks.

use cutover::journal::Kept;
use cutover::journal::memory_disk::{Fault as DiskFault, Loss, MemoryDisk};
use cutover::replica::Input;
use cutover_arbiter::record::{Change, Incarnation, Index, Member, Mode, Proposal};
use rand::RngExt;

use super::counters::{Fault, Must};
use super::faults::{Undo, both};
use super::world::{Event, Id, Local, Time, Weather, World};

/// How often it is looked whether an older image has been found to be one.
const APART: Time = 150_000;

/// What a fault takes from a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Its process: what is in memory.
    Process,
    /// Its machine: what is not synced, too.
    Machine,
    /// Everything, or for good.
    Data,
}

impl World {
    /// Whether the group survives this, whatever change under way is granted next.
    pub fn may_harm(&self, harmed: &[Id], harm: Harm) -> bool {
        let Some(group) = harmed.first().and_then(|id| self.group_of(*id)).map(|group| &self.groups[group]) else {
            return true;
        };
        let Some(record) = group.record().filter(|_| !group.forgotten && !group.raising && group.seized.is_none())
        else {
            return false;
        };
        let copies: Vec<&Member> = record
            .in_sync
            .iter()
            .filter(|member| {
                let id = self.id_of(&member.addresses.peer);
                self.keeps(id, member.incarnation, harmed.contains(&id).then_some(harm))
            })
            .collect();
        let primary = &record.primary.replica;
        !copies.is_empty()
            && group.proposals.iter().all(|(_, _, proposal)| match &proposal.change {
                Change::TakeOver => copies.iter().any(|member| member.replica != *primary),
                Change::Remove { replica, .. } => copies.iter().any(|member| member.replica != *replica),
                _ => true,
            })
    }

    /// Whether the group survives that this replica's process is gone for good.
    pub fn may_lose(&self, id: Id) -> bool {
        self.may_harm(&[id], Harm::Data)
    }

    /// Whether this life of a replica keeps its copy, in memory or on disk.
    fn keeps(&self, id: Id, incarnation: Incarnation, harm: Option<Harm>) -> bool {
        let (replica, mode) = (self.replica(id), self.mode_of(id));
        let lives = replica.core.as_ref().is_some_and(|core| core.incarnation() == incarnation) && !replica.stopping;
        let hardware = &replica.hardware;
        // An older image that has not caught up yet.
        let set_back = self.groups[replica.group].lives.get(&id).is_some_and(|life| life.exempt);
        match harm {
            _ if set_back => false,
            None if lives => true,
            Some(Harm::Data) => false,
            _ if mode == Mode::Memory || hardware.rotten || hardware.restored => false,
            _ if mode == Mode::Buffered && (hardware.armed || hardware.failed()) => false,
            harm => {
                let loss = if harm == Some(Harm::Machine) { Loss::Everything } else { Loss::Process };
                let found = self.would_find(id, loss, 1).and_then(Result::ok);
                found.is_some_and(|found| found.kept == Kept::Yes && found.claim.incarnation == incarnation)
            }
        }
    }

    fn of_group(&self, group: usize) -> Vec<Id> {
        self.replica_ids().filter(|id| self.replica(*id).group == group).collect()
    }

    /// A replica of a group that keeps journals, more often than not a primary.
    fn some_journal(&mut self) -> Option<Id> {
        for _ in 0..8 {
            let id = self.some_replica();
            if self.mode_of(id) != Mode::Memory {
                return Some(id);
            }
        }
        None
    }

    fn comes_back(&mut self, id: Id) {
        let after = match self.random.random_range(0..3) {
            0 => self.random.random_range(5_000..200_000),
            _ => self.random.random_range(200_000..4_000_000),
        };
        self.schedule(after, Event::Restart(id));
    }

    pub fn inject_into_replica(&mut self, fault: Fault, length: Time) -> bool {
        let id = match fault.needs_a_journal().then(|| self.some_journal()) {
            Some(Some(id)) => id,
            Some(None) => return false,
            None => self.some_replica(),
        };
        match fault {
            Fault::Switchover => {
                self.take(id, Local::Input(Input::Switchover { to: None, ticket: 1 }));
                if self.random.random_bool(0.5) {
                    self.take(id, Local::Input(Input::Mark { ticket: 2 }));
                }
                true
            }
            Fault::CrashAll => self.crash_all(id),
            Fault::PowerAll => self.power_all(id),
            Fault::DiesAtDisk => self.dies_at_disk(id),
            Fault::DiskError => self.disk_error(id),
            Fault::DiskFull => self.disk_full(id, length),
            Fault::BitRot => self.bit_rot(id),
            Fault::Emptied => self.emptied(id),
            Fault::OldImage => self.image_taken(id),
            _ => self.harm_one(id, fault),
        }
    }

    /// One process, with its machine or without, or in order.
    fn harm_one(&mut self, id: Id, fault: Fault) -> bool {
        let harm = match fault {
            Fault::PowerReplica => Harm::Machine,
            Fault::Leak => Harm::Data,
            _ => Harm::Process,
        };
        if !self.processes[id].alive || !self.may_harm(&[id], harm) {
            return false;
        }
        if fault == Fault::Leak {
            self.replica_mut(id).leaks = true;
            self.replica_mut(id).leaks_in_a_drain = true;
            return true;
        }
        if fault == Fault::Shutdown {
            self.replica_mut(id).stopping = true;
            self.take(id, Local::Input(Input::Shutdown));
            return true;
        }
        self.kill(id, harm == Harm::Machine);
        self.comes_back(id);
        true
    }

    /// F1: every process of a group dies in the same instant.
    fn crash_all(&mut self, id: Id) -> bool {
        let all = self.of_group(self.replica(id).group);
        if !self.may_harm(&all, Harm::Process) {
            return false;
        }
        for id in all {
            if self.processes[id].alive {
                self.kill(id, false);
                self.comes_back(id);
            }
        }
        true
    }

    /// F4: every machine of a group loses power in the same instant, whether its process lived or not. What `buffered`
    /// had acknowledged may be gone then, and must be missed.
    fn power_all(&mut self, id: Id) -> bool {
        let (group, mode) = (self.replica(id).group, self.mode_of(id));
        let all = self.of_group(group);
        let ghost = &self.groups[group];
        let waits = ghost.forgotten || ghost.raising || ghost.seized.is_some();
        if waits || (mode != Mode::Buffered && !self.may_harm(&all, Harm::Machine)) {
            return false;
        }
        for id in all {
            if self.processes[id].alive {
                self.kill(id, true);
                self.comes_back(id);
            } else {
                self.power_lost(id);
            }
        }
        self.report.saw_if(mode == Mode::Sync, Must::AllPowerSync);
        true
    }

    /// F2: the process dies before, in the middle of, or after one of the next steps of its disk.
    fn dies_at_disk(&mut self, id: Id) -> bool {
        let kills = [DiskFault::KillBefore, DiskFault::KillWithin, DiskFault::KillAfter];
        let (at, kill) = (self.random.random_range(1..=30), kills[self.random.random_range(0..kills.len())]);
        self.plan(id, at, kill)
    }

    fn plan(&mut self, id: Id, at: u64, fault: DiskFault) -> bool {
        let alive = self.processes[id].alive;
        let disk = self.replica(id).hardware.disk.as_ref().filter(|_| alive);
        disk.map(|disk| disk.fail(at, fault)).is_some()
    }

    /// F7: one of the next calls fails, once. What a failed sync should have written the system forgets.
    fn disk_error(&mut self, id: Id) -> bool {
        let most = if self.random.random_bool(0.5) { 6 } else { 40 };
        let at = self.random.random_range(1..=most);
        if !self.may_harm(&[id], Harm::Data) || !self.plan(id, at, DiskFault::Io) {
            return false;
        }
        self.replica_mut(id).hardware.armed = true;
        self.schedule(1_500_000, Event::Undo(Undo::Disarm(id)));
        true
    }

    /// F10: no more than a little fits for a while.
    fn disk_full(&mut self, id: Id, length: Time) -> bool {
        if !self.may_harm(&[id], Harm::Data) {
            return false;
        }
        let room = self.random.random_range(0..3_000);
        let Some(disk) = &self.replica(id).hardware.disk else { return false };
        disk.set_capacity(Some(disk.used() + room));
        self.schedule(length, Event::Undo(Undo::Room(id)));
        true
    }

    /// F6: a bit of its data changes, where it must be noticed: not in the last records, which a crash may have torn.
    fn bit_rot(&mut self, id: Id) -> bool {
        let Some(disk) = self.replica(id).hardware.disk.clone() else { return false };
        if !self.may_harm(&[id], Harm::Data) {
            return false;
        }
        // A loss of power may yet make another record the last one: only what follows on the device counts.
        let durable = disk.image();
        durable.crash(Loss::Everything, 0);
        let sync = self.groups[self.replica(id).group].record().is_some_and(|record| record.mode == Mode::Sync);
        let Some((path, within)) = self.where_to_rot(if sync { &durable } else { &disk }) else { return false };
        if disk.content(&path).is_none_or(|content| content.len() < within) {
            return false;
        }
        let (byte, bit) = (self.random.random_range(0..within), self.random.random_range(0..8));
        disk.flip(&path, byte, bit);
        self.replica_mut(id).hardware.rotten = true;
        let name = self.name(id);
        self.say(|| format!("a bit of {path} of {name} flips, at {byte}"));
        true
    }

    /// F6: a bit of each snapshot changes, while something is to be made of them.
    pub fn snapshots_rot(&mut self, id: Id) {
        let Some(disk) = self.replica(id).hardware.disk.clone().filter(|_| self.may_lose(id)) else { return };
        for path in disk.files().iter().filter(|path| path.starts_with("life-") && path.contains("/snapshot-")) {
            let length = disk.content(path).map_or(0, |content| content.len());
            disk.flip(path, length / 2, 3);
            self.replica_mut(id).hardware.rotten = true;
        }
        self.report.injected(Fault::BitRot);
    }

    /// A file, and how many of its bytes from the beginning may rot.
    fn where_to_rot(&mut self, disk: &MemoryDisk) -> Option<(String, usize)> {
        let files = disk.files();
        let path = files.get(self.random.random_range(0..files.len().max(1)))?.clone();
        if path.starts_with("set-aside") || path.ends_with(".new") {
            return None;
        }
        let content = disk.content(&path)?;
        // The last segment may have been begun in vain, and the one before it is the last.
        let mut last_two =
            files.iter().rev().filter(|file| file.starts_with("life-") && file.contains("/journal-")).take(2);
        let within = if last_two.any(|file| *file == path) {
            let heads: Vec<usize> =
                content.windows(4).enumerate().filter(|(_, bytes)| bytes == b"rec1").map(|(at, _)| at).collect();
            heads.len().checked_sub(2).map_or(0, |at| heads[at])
        } else {
            content.len()
        };
        (within > 0).then_some((path, within))
    }

    /// F11: its disk was replaced by an empty one.
    fn emptied(&mut self, id: Id) -> bool {
        if !self.may_harm(&[id], Harm::Data) {
            return false;
        }
        if self.processes[id].alive {
            let silent = self.random.random_bool(0.5);
            self.kill(id, silent);
            self.comes_back(id);
        }
        let hardware = &mut self.replica_mut(id).hardware;
        hardware.disk = Some(MemoryDisk::nameless());
        (hardware.rotten, hardware.restored, hardware.marked) = (false, false, false);
        let group = self.replica(id).group;
        self.groups[group].resting.remove(&id);
        true
    }

    /// F12: what its disk holds now will be put in the place of what it holds then.
    fn image_taken(&mut self, id: Id) -> bool {
        // More often than not of a backup, whose primary may be the only one to know better.
        let backup = self.groups[self.replica(id).group].record().and_then(|record| {
            let backups = record.in_sync.iter().filter(|member| member.replica != record.primary.replica);
            backups.map(|member| self.id_of(&member.addresses.peer)).next()
        });
        let id = backup.filter(|_| self.random.random_bool(0.6)).unwrap_or(id);
        let Some(image) = self.replica(id).hardware.disk.as_ref().map(MemoryDisk::image) else { return false };
        // Soon, only its primary knows better; later, so do the arbiters.
        let soon = self.random.random_bool(0.5);
        let after = self.random.random_range(if soon { 20_000..300_000 } else { 300_000..3_000_000 });
        self.schedule(after, Event::Undo(Undo::Restore { id, image, tries: 20 }));
        true
    }

    /// Puts an image into place once that is a fault within the guarantee, or gives it up.
    pub fn restore(&mut self, id: Id, image: MemoryDisk, tries: u32) {
        if !self.restore_image(id, &image) && tries > 0 {
            self.schedule(400_000, Event::Undo(Undo::Restore { id, image, tries: tries - 1 }));
        }
    }

    /// A restored older image of a member in sync is within the guarantee only while somebody knows better: the arbiters
    /// by the commit position of the last change, or a primary that had its acknowledgements.
    fn restore_image(&mut self, id: Id, image: &MemoryDisk) -> bool {
        let Some(record) = self.groups[self.replica(id).group].record().cloned() else { return false };
        let before = self.replica_mut(id).hardware.disk.replace(image.clone());
        let found = self.would_find(id, Loss::Process, 1).and_then(Result::ok);
        self.replica_mut(id).hardware.disk = before;
        let Some(found) = found else { return false };
        let life = found.claim.incarnation;
        let named = record.in_sync.iter().any(|member| member.incarnation == life);
        let base = found.snapshot.as_ref().map_or(0, |snapshot| snapshot.head().position.index);
        let last = found.blocks.last().map_or(base, |block| block.last());
        let known_better = self.of_group(self.replica(id).group).len() == 2 && last < record.last_change.commit.index;
        let proposed = self.groups[self.replica(id).group]
            .proposals
            .iter()
            .any(|(_, _, proposal)| matches!(&proposal.change, Change::Admit { member } if member.incarnation == life));
        let by_primary = named && !known_better && self.primary_knows_better(id, life, last);
        if proposed || (named && !known_better && !by_primary) || !self.may_harm(&[id], Harm::Data) {
            return false;
        }
        if self.processes[id].alive {
            self.kill(id, false);
            let after = self.random.random_range(2_000..300_000);
            self.schedule(after, Event::Restart(id));
        }
        let hardware = &mut self.replica_mut(id).hardware;
        hardware.disk = Some(image.clone());
        (hardware.restored, hardware.rotten, hardware.marked) = (true, false, false);
        let name = self.name(id);
        self.say(|| format!("{name} gets an older image of its data, up to {last}"));
        if by_primary {
            self.keep_apart(id, life);
        }
        true
    }

    /// Whether the primary of the newest epoch has had acknowledgements of this life beyond `last`, and nothing that was
    /// asked for makes it anything but a backup.
    fn primary_knows_better(&self, id: Id, life: Incarnation, last: Index) -> bool {
        let ghost = &self.groups[self.replica(id).group];
        let Some(record) = ghost.record() else { return false };
        let primary = self.id_of(&record.primary.addresses.peer);
        let leads = self.replica(primary).core.as_ref().is_some_and(|core| core.vitals().leads == Some(record.epoch));
        let heard = ghost.heard.get(&(primary, life)).is_some_and(|heard| heard.verified > last);
        let asked = |(by, _, proposal): &(Id, Incarnation, Proposal)| {
            *by == id || matches!(proposal.change, Change::HandOver { .. })
        };
        let stormy = self.weather != Weather::Over;
        primary != id && leads && heard && stormy && !ghost.proposals.iter().any(asked)
    }

    /// Only its primary knows better than this image: until that has told it, or it has caught up, no arbiter may hear
    /// of it, nor of its primary, which would have it removed before it is there again.
    fn keep_apart(&mut self, id: Id, life: Incarnation) {
        let record = self.groups[self.replica(id).group].record();
        let apart: Vec<Id> =
            record.map(|record| self.id_of(&record.primary.addresses.peer)).into_iter().chain([id]).collect();
        let links: Vec<(Id, Id)> =
            self.arbiter_ids().flat_map(|arbiter| apart.iter().flat_map(move |one| both((*one, arbiter)))).collect();
        self.cut(&links);
        self.replica_mut(id).apart = Some(life);
        self.schedule(APART, Event::Undo(Undo::Apart { id, links, era: self.era }));
    }

    /// Whether an older image in a replica's place may still be taken for what it is not.
    fn is_set_back(&self, id: Id) -> bool {
        let ghost = &self.groups[self.replica(id).group];
        let (life, now) = (self.replica(id).apart, ghost.lives.get(&id));
        life.is_some_and(|life| {
            let named = ghost.record().is_some_and(|record| record.in_sync.iter().any(|it| it.incarnation == life));
            named && now.is_none_or(|now| now.incarnation == life && now.exempt)
        })
    }

    pub fn no_longer_apart(&mut self, id: Id, links: Vec<(Id, Id)>) {
        if self.is_set_back(id) {
            return self.schedule(APART, Event::Undo(Undo::Apart { id, links, era: self.era }));
        }
        self.replica_mut(id).apart = None;
        self.heal(&links);
    }

    /// Every fault ends: an image that nobody has found to be old is taken away by whoever put it there.
    pub fn takes_images_away(&mut self, id: Id) {
        let set_back = self.is_set_back(id);
        self.replica_mut(id).apart = None;
        if set_back {
            self.kill(id, false);
            self.net.forget_packets_from(id);
            self.replica_mut(id).hardware.disk = Some(MemoryDisk::nameless());
            let group = self.replica(id).group;
            self.groups[group].resting.remove(&id);
            self.schedule(1_000, Event::Restart(id));
        }
    }
}
