//! How a replica's process begins: the production recovery over what its disk holds; and what becomes of one that
//! cannot begin.

use std::time::Duration;

use cutover::journal::memory_disk::{Fault as DiskFault, MemoryDisk};
use cutover::journal::{Directory, JournalError};
use cutover::replica::{
    BeginError, Config, CreateOptions, Event as CoreEvent, Limits, Outbox, Output, Replica, Restored,
};
use cutover_arbiter::record::{Addresses, Mode};
use rand::{Rng, RngExt};

use super::canon::{Core, Machine, Return};
use super::counters::Must;
use super::disks::DiskThread;
use super::faults::Undo;
use super::world::{Event, Id, SUSPECT_AFTER, Weather, World};

/// A core that has begun, the thread of its disk, and what it has to say.
type Begun = (Core, Option<DiskThread>, Outbox<Machine>);

impl World {
    pub fn start_replica(&mut self, number: usize) {
        let id = self.arbiters.len() + number;
        let config = self.replica_config(number);
        let (group, limit) = (self.replicas[number].group, config.log_bytes + config.unacknowledged_bytes);
        self.fault_in_recovery(id);
        let replica = &mut self.replicas[number];
        replica.stopping = false;
        replica.leaks = false;
        (replica.leaks_in_a_drain, replica.leaked_in_a_drain) = (false, false);
        replica.hardware.errors = replica.hardware.disk.as_ref().map_or(0, MemoryDisk::errors);
        let (mut core, thread, mut out) = match self.begin_replica(id, config) {
            Ok(begun) => begun,
            Err(error) => return self.start_failed(id, &error),
        };
        let mode = self.swarm.modes[group];
        let hardware = &mut self.replicas[number].hardware;
        let how = Return { mode, rebooted: hardware.rebooted, marked: hardware.marked, image: hardware.restored };
        (hardware.rebooted, hardware.marked, hardware.restored, hardware.rotten) = (false, false, false, false);
        let verdict = self.groups[group].returns(id, &core, limit, how);
        match verdict {
            Ok(true) => self.notice_restart(id, &core, how, &out),
            Ok(false) => {}
            Err(why) => self.check(Err(why)),
        }
        let heard = (self.now, self.stood_still(id));
        let replica = &mut self.replicas[number];
        replica.thread = thread;
        replica.numbers = 0;
        replica.heard = heard;
        replica.duties = Default::default();
        replica.receiving = false;
        let mut stopped = None;
        self.run_outputs(id, &mut core, &mut out, &mut stopped);
        self.replicas[number].core = Some(core);
    }

    /// Counts what a restart with a kept incarnation shows.
    fn notice_restart(&mut self, id: Id, core: &Core, how: Return, out: &Outbox<Machine>) {
        self.report.saw(Must::KeptItsLife);
        self.report.saw_if(how.rebooted && how.mode == Mode::Sync, Must::SurvivedPowerLoss);
        let from_snapshot = |output: &Output<Machine>| matches!(output, Output::Event(CoreEvent::Restarted { snapshot, .. }) if *snapshot > 0);
        self.report.saw_if(out.outputs.iter().any(from_snapshot), Must::SnapshotUsed);
        let (name, last) = (self.name(id), core.vitals().last);
        self.say(|| format!("{name} goes on from its journal, up to {last}"));
    }

    fn replica_config(&mut self, number: usize) -> Config {
        let id = self.arbiters.len() + number;
        let group = self.replicas[number].group;
        let first = self.replicas.iter().position(|replica| replica.group == group) == Some(number);
        let mut seed = [0; 32];
        self.random.fill_bytes(&mut seed);
        let millis = Duration::from_millis;
        let name = self.name(id);
        let swarm = &self.swarm;
        let copies = swarm.copies.min(swarm.groups[group]);
        let mode = swarm.modes[group];
        Config {
            name: name.parse().expect("a good name"),
            addresses: Addresses { peer: name.clone(), client: name.clone(), redis: name, http: String::new() },
            group: self.groups[group].name.clone(),
            create: (first && self.processes[id].life == 1)
                .then_some(CreateOptions { mode, min_in_sync: swarm.min_in_sync.min(copies as u8) }),
            copies,
            suspect_after: millis(SUSPECT_AFTER / 1000),
            drop_backup_after: millis(350),
            heartbeat: millis(125),
            switchover_timeout: millis(3000),
            propose_again_after: millis(200),
            readmit_after: millis(100),
            log_bytes: swarm.log_bytes,
            unacknowledged_bytes: swarm.unacknowledged_bytes,
            append_bytes: swarm.append_bytes,
            snapshot_bytes: swarm.snapshot_bytes,
            journal_stall_limit: millis(swarm.stall_ms),
            limits: Limits {
                transfer_log_bytes: swarm.log_bytes,
                transfer_journal_bytes: swarm.snapshot_bytes,
                ..Limits::default()
            },
            seed,
        }
    }

    fn begin_replica(&mut self, id: Id, config: Config) -> Result<Begun, BeginError> {
        let now = self.processes[id].clock.now(self.now);
        let mut out = Outbox::default();
        let Some(disk) = self.replica(id).hardware.disk.clone() else {
            return Ok((Replica::new(now, config, Machine::default), None, out));
        };
        let salt = self.random.random();
        let (mut directory, found) = Directory::open(disk, self.opening(id, salt))?;
        let name = self.name(id);
        for note in found.iter().flat_map(|found| &found.notes) {
            self.report.saw_if(note.contains("bytes were cut"), Must::TornTail);
            self.say(|| format!("{name} mends its journal: {note}"));
        }
        let restored = found.map(Restored::read).transpose()?;
        let core = Replica::begin_on(&mut directory, restored, (now, config, Machine::default), &mut out)?;
        Ok((core, Some(DiskThread::new(directory)), out))
    }

    /// A crash or an error in the middle of the recovery itself.
    fn fault_in_recovery(&mut self, id: Id) {
        let disk = self.replica(id).hardware.disk.clone();
        let may = self.weather == Weather::Stormy && self.swarm.dies_in_recovery && self.mode_of(id) != Mode::Memory;
        let Some(disk) = disk.filter(|_| may) else { return };
        if self.random.random_bool(0.25) {
            let faults = [DiskFault::KillBefore, DiskFault::KillWithin, DiskFault::KillAfter, DiskFault::Io];
            let (at, fault) = (self.random.random_range(1..=24), faults[self.random.random_range(0..faults.len())]);
            // An error may take what was only written.
            if fault != DiskFault::Io {
                disk.fail(at, fault);
            } else if self.may_lose(id) {
                disk.fail(at, fault);
                self.replica_mut(id).hardware.armed = true;
                self.schedule(1_500_000, Event::Undo(Undo::Disarm(id)));
            }
        }
    }

    /// A process that could not begin is gone again. Its supervisor starts it anew; a person is needed only where
    /// something was damaged.
    fn start_failed(&mut self, id: Id, error: &BeginError) {
        let name = self.name(id);
        self.say(|| format!("{name} cannot start: {error}"));
        self.processes[id].alive = false;
        let hardware = &self.replica(id).hardware;
        let Some(disk) = hardware.disk.clone() else { return };
        let (failed, rotten) = (hardware.failed(), hardware.rotten);
        if disk.is_dead() {
            disk.crash(cutover::journal::memory_disk::Loss::Process, 0);
            self.report.saw(Must::DiedInRecovery);
            let after = self.random.random_range(5_000..300_000);
            return self.schedule(after, Event::Restart(id));
        }
        match error {
            BeginError::Journal(JournalError::Disk(_)) if failed => {
                let after = self.random.random_range(200_000..1_500_000);
                self.schedule(after, Event::Restart(id));
            }
            BeginError::Journal(JournalError::Damaged { .. } | JournalError::Version { .. }) if rotten => {
                self.report.saw(Must::DamageRefused);
                self.replica_mut(id).hardware.rotten = true;
                let after = self.random.random_range(300_000..3_000_000);
                self.schedule(after, Event::Undo(Undo::MoveAway(id)));
            }
            _ => self.check(Err(format!("S9: {name} needs a person to start, and nothing was damaged: {error}"))),
        }
    }

    /// An operator moves a damaged directory away, as the message says; the replica starts empty.
    pub fn move_away(&mut self, id: Id) {
        if self.processes[id].alive || !self.replica(id).hardware.rotten {
            // Somebody has done so before.
            return;
        }
        let hardware = &mut self.replica_mut(id).hardware;
        hardware.disk = Some(MemoryDisk::nameless());
        (hardware.rotten, hardware.restored) = (false, false);
        let group = self.replica(id).group;
        self.groups[group].resting.remove(&id);
        self.schedule(1_000, Event::Restart(id));
    }
}
