//! The disk of a replica: the production journal (`cutover::journal`) over a disk in memory that survives its process,
//! loses what was not synced when its machine does, fails, fills up and rots.
//!
//! The disk's thread is mirrored in time only: one thing after the other, each done after a while, or not while the
//! disk hangs. What is done, and what of it at once, the production code says (`Job`, `Keeper`, `Writing`).

use std::collections::VecDeque;

use cutover::journal::memory_disk::{Fault as DiskFault, Loss, MemoryDisk};
use cutover::journal::{BootId, Directory, Done, Job, JournalError, Keeper, Older, Opening, Work, Writing};
use cutover::machine::StateMachine;
use cutover::replica::{Input, Output, Rebuilt};
use cutover_arbiter::record::Mode;
use rand::RngExt;

use super::canon::{Core, Machine};
use super::counters::{Fault, Must};
use super::world::{Event, Id, Local, Time, Weather, World};

type Snap = <Machine as StateMachine>::Snapshot;

/// The disk of a replica whose seed draws one that answers at once takes no longer than this.
const AT_ONCE: Time = 200;
/// Making an older state of what is on disk takes no longer than this.
const BACK: Time = 300_000;
/// A process that stops waits no longer for its disk.
const PATIENCE: Time = 10_000_000;

/// A replica's machine, as far as it outlives a process.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// Without one there is no data directory.
    pub disk: Option<MemoryDisk>,
    pub boot: BootId,
    /// Added to the longest write while the disk is slow.
    pub slow: Time,
    /// Nothing is done before this.
    pub hung_until: Time,
    /// A bit of it was flipped that must be noticed.
    pub rotten: bool,
    /// A call of it will fail soon.
    pub armed: bool,
    /// The last process left the mark of an orderly end.
    pub marked: bool,
    /// Power was lost since the last process began.
    pub rebooted: bool,
    /// An older image of its data was put in its place.
    pub restored: bool,
    /// Errors of the disk that were there when the process began.
    pub errors: u64,
}

impl Hardware {
    pub fn new(disk: Option<MemoryDisk>) -> Self {
        Self {
            disk,
            boot: 1,
            slow: 0,
            hung_until: 0,
            rotten: false,
            armed: false,
            marked: false,
            rebooted: false,
            restored: false,
            errors: 0,
        }
    }

    /// True when the disk has failed a call since the process began.
    pub fn failed(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.errors() > self.errors)
    }
}

/// The thread of a process that owns its data directory, and the one that writes a snapshot.
pub struct DiskThread {
    keeper: Keeper<MemoryDisk>,
    queue: VecDeque<Work<Snap>>,
    doing: Option<Job<Snap>>,
    writing: Option<Writing<MemoryDisk, Snap>>,
    /// An older state is to be made of this.
    older: Option<Older<MemoryDisk>>,
    /// With this a new life begins with nothing, and what the disk has is replaced.
    replaced: Option<u64>,
    ended: bool,
}

impl DiskThread {
    pub fn new(directory: Directory<MemoryDisk>) -> Self {
        let keeper = Keeper::new(directory);
        Self { keeper, queue: VecDeque::new(), doing: None, writing: None, older: None, replaced: None, ended: false }
    }

    fn next(&mut self) -> Option<Job<Snap>> {
        let first = self.queue.pop_front()?;
        let (job, after) = Job::gather(first, || self.queue.pop_front());
        after.into_iter().for_each(|work| self.queue.push_front(work));
        Some(job)
    }
}

/// Whether a life has left any entries.
fn has_state(disk: &MemoryDisk) -> bool {
    disk.files().iter().any(|file| file.starts_with("life-") && file.contains("/journal-"))
}

/// Whether the state of an earlier life was set aside.
fn has_state_aside(disk: &MemoryDisk) -> bool {
    disk.files().iter().any(|file| file.starts_with("set-aside-"))
}

impl World {
    pub fn mode_of(&self, id: Id) -> Mode {
        self.group_of(id).map_or(Mode::Memory, |group| self.swarm.modes[group])
    }

    pub fn opening(&self, id: Id, salt: u64) -> Opening {
        let replica = self.replica(id);
        Opening {
            group: self.groups[replica.group].name.clone(),
            replica: self.name(id).parse().expect("a good name"),
            machine: Machine::identity(),
            boot: replica.hardware.boot,
            salt,
            segment_bytes: self.swarm.segment_bytes,
        }
    }

    /// An output that may be for the disk. It is given back when it is not.
    pub fn disk_asked(&mut self, id: Id, core: &Core, output: Output<Machine>) {
        let group = self.replica(id).group;
        self.groups[group].asks_disk(id, &output);
        if let Output::InstallSnapshot { position, .. } = &output {
            let verdict = self.groups[group].installs_what_is_committed(core, position.index);
            self.check(verdict);
        }
        let anew = match &output {
            Output::Claim { sequence, anew: true, .. } => Some(*sequence),
            _ => None,
        };
        let Some(task) = core.disk_task(output) else { return };
        let replica = self.replica_mut(id);
        if let Some(thread) = &mut replica.thread {
            thread.replaced = anew.or(thread.replaced);
        }
        replica.inbox.extend(task.done.map(|sequence| Input::Persisted { sequence }));
        if let (Some(thread), Some(work)) = (&mut replica.thread, task.work)
            && !thread.ended
        {
            thread.queue.push_back(work);
            self.disk_goes_on(id);
        }
    }

    fn disk_goes_on(&mut self, id: Id) {
        let (now, longest) = (self.now, self.swarm.disk.max(AT_ONCE));
        let replica = self.replica_mut(id);
        let from = now.max(replica.hardware.hung_until);
        let longest = longest + replica.hardware.slow;
        let Some(thread) = replica.thread.as_mut().filter(|thread| thread.doing.is_none()) else { return };
        thread.doing = thread.next();
        if thread.doing.is_some() {
            let takes = self.random.random_range(1..=longest);
            self.local(from - now + takes, id, Local::DiskDone);
        }
    }

    /// The disk is through with what it was doing.
    pub fn disk_done(&mut self, id: Id) {
        let replica = self.replica_mut(id);
        let Some(thread) = replica.thread.as_mut() else { return };
        let Some(job) = thread.doing.take() else { return };
        let has_state = replica.hardware.disk.as_ref().is_some_and(has_state);
        let result = thread.keeper.run(job);
        if let Ok(Done::Persisted(sequence)) = &result
            && thread.replaced.take_if(|replaced| *replaced <= *sequence).is_some()
            && has_state
            && replica.hardware.disk.as_ref().is_some_and(|disk| !has_state_aside(disk))
        {
            let name = self.name(id);
            return self.check(Err(format!("rejoin: {name} deletes the state that it replaces")));
        }
        let failed = self.replica(id).hardware.failed();
        match result {
            _ if self.died_at_disk(id) => return,
            Ok(_) if failed => {
                let name = self.name(id);
                return self
                    .check(Err(format!("S12: the disk of {name} failed, and its journal says that it has not")));
            }
            Ok(Done::Persisted(sequence)) => self.replica_mut(id).unheard.push(Input::Persisted { sequence }),
            Ok(Done::Begun(writing)) => {
                let ticket = writing.ticket;
                if let Some(thread) = &mut self.replica_mut(id).thread {
                    thread.writing = Some(writing);
                }
                self.next_piece(id, ticket);
            }
            Ok(Done::Reading(reading)) => match reading.run() {
                Ok(blocks) => {
                    let input = Input::LogRead { ticket: reading.ticket, blocks };
                    self.replica_mut(id).inbox.push_back(input);
                }
                Err(error) => return self.disk_failed(id, &error.into()),
            },
            Ok(Done::Older(older)) => {
                let ticket = older.ticket;
                if let Some(thread) = &mut self.replica_mut(id).thread {
                    thread.older = Some(older);
                }
                let takes = self.random.random_range(1..=BACK);
                self.local(takes, id, Local::Older { ticket });
            }
            Ok(Done::Abandoned(index)) => {
                if let Some(thread) = &mut self.replica_mut(id).thread {
                    thread.writing.take_if(|writing| writing.index == index);
                }
            }
            Ok(Done::Closed) => {}
            Err(error) => return self.disk_failed(id, &error),
        }
        self.disk_goes_on(id);
    }

    fn next_piece(&mut self, id: Id, ticket: u64) {
        let longest = self.swarm.disk.max(AT_ONCE) + self.replica(id).hardware.slow;
        let takes = self.random.random_range(1..=longest);
        self.local(takes, id, Local::SnapshotPiece { ticket });
    }

    /// The other thread of the disk writes a piece of a snapshot.
    pub fn snapshot_piece(&mut self, id: Id, ticket: u64) {
        let chunk = self.swarm.chunk;
        let Some(thread) = self.replica_mut(id).thread.as_mut() else { return };
        let Some(mut writing) = thread.writing.take_if(|writing| writing.ticket == ticket) else { return };
        let written = match writing.step(chunk) {
            Ok(true) => {
                thread.writing = Some(writing);
                return self.next_piece(id, ticket);
            }
            Ok(false) => writing.finish(),
            Err(error) => Err(error),
        };
        match written {
            _ if self.died_at_disk(id) => {}
            Ok(_) => self.replica_mut(id).inbox.push_back(Input::SnapshotWritten { ticket }),
            Err(error) => self.disk_failed(id, &error.into()),
        }
    }

    /// A thread of its own makes an older state of what is on disk by now.
    pub fn older_made(&mut self, id: Id, ticket: u64) {
        let Some(thread) = self.replica_mut(id).thread.as_mut() else { return };
        let Some(older) = thread.older.take_if(|older| older.ticket == ticket) else { return };
        if self.weather == Weather::Stormy && self.swarm.has(Fault::BitRot) && self.random.random_bool(0.3) {
            self.snapshots_rot(id);
        }
        self.replica_mut(id).rebuilt.push(Rebuilt::run(&older, Machine::default, || ()));
    }

    fn disk_failed(&mut self, id: Id, error: &JournalError) {
        let name = self.name(id);
        self.say(|| format!("{name}: {error}"));
        if !self.replica(id).hardware.failed() {
            return self.check(Err(format!("S12: the journal of {name} failed on a sound disk: {error}")));
        }
        let replica = self.replica_mut(id);
        replica.stopping = true;
        replica.inbox.push_back(Input::JournalFailed { reason: error.to_string() });
        if let Some(thread) = &mut replica.thread {
            (thread.ended, thread.doing, thread.writing) = (true, None, None);
            thread.queue.clear();
        }
    }

    /// The process died at a step of its disk (F2). True when it did.
    fn died_at_disk(&mut self, id: Id) -> bool {
        let dead = self.replica(id).hardware.disk.as_ref().is_some_and(MemoryDisk::is_dead);
        if dead {
            self.report.saw(Must::DiedAtDisk);
            self.kill(id, false);
            let after = self.random.random_range(5_000..1_500_000);
            self.schedule(after, Event::Restart(id));
        }
        dead
    }

    /// A process dies, or its machine does: what it was writing may be there in part.
    pub fn disk_dies(&mut self, id: Id, with_machine: bool) {
        let within = self.random.random_bool(0.7);
        let (at, fault) = (
            self.random.random_range(1..=4),
            [DiskFault::KillBefore, DiskFault::KillWithin, DiskFault::KillAfter][self.random.random_range(0..3)],
        );
        let replica = self.replica_mut(id);
        if let (Some(mut thread), Some(disk)) = (replica.thread.take(), &replica.hardware.disk)
            && let Some(job) = thread.doing.take().filter(|_| within && !disk.is_dead())
        {
            disk.fail(at, fault);
            // Whatever became of it, nobody hears.
            let _ = thread.keeper.run(job);
        }
        if with_machine {
            self.power_lost(id);
        } else if let Some(disk) = &self.replica(id).hardware.disk {
            disk.crash(Loss::Process, 0);
        }
    }

    /// What was not synced is lost: all of it, all but a prefix, or any part. Another run of its system begins.
    pub fn power_lost(&mut self, id: Id) {
        let loss = [Loss::Everything, Loss::Suffix, Loss::Suffix, Loss::Subset][self.random.random_range(0..4)];
        let (seed, boot) = (self.random.random(), self.random.random());
        let hardware = &mut self.replica_mut(id).hardware;
        (hardware.boot, hardware.rebooted) = (boot, true);
        if let Some(disk) = &hardware.disk {
            disk.crash(loss, seed);
        }
        let name = self.name(id);
        self.say(|| format!("the machine of {name} loses power: {loss:?}"));
    }

    /// What was planned for a disk is not done any more.
    pub fn disarm(&mut self, id: Id) {
        let hardware = &mut self.replica_mut(id).hardware;
        hardware.armed = false;
        if let Some(disk) = &hardware.disk {
            disk.plan_nothing();
        }
    }

    /// There is room again.
    pub fn room_again(&mut self, id: Id) {
        if let Some(disk) = &self.replica(id).hardware.disk {
            disk.set_capacity(None);
        }
    }

    /// A process stops in order: what it asked of the disk is done, and the mark is left.
    pub fn disk_closes(&mut self, id: Id) {
        let now = self.now;
        let replica = self.replica_mut(id);
        if replica.hardware.hung_until > now + PATIENCE {
            return;
        }
        let Some(thread) = replica.thread.as_mut().filter(|thread| !thread.ended) else { return };
        thread.queue.push_back(Work::Close);
        let mut next = thread.doing.take().or_else(|| thread.next());
        while let Some(job) = next {
            match thread.keeper.run(job) {
                Ok(Done::Closed) => replica.hardware.marked = true,
                Ok(_) => {}
                Err(_) => return,
            }
            next = thread.next();
        }
    }
}
