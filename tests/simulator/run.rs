//! One seed from beginning to end: a group is made, the storm, then the liveness phases: a random core heals and the
//! rest stays broken; all arbiters stop; everything heals. In the end the books are closed.

use cutover::history::linear;
use cutover::replica::Input;
use cutover_arbiter::record::Mode;
use rand::RngExt;

use super::canon::Core;
use super::counters::{Fault, Must, Report};
use super::faults::{Undo, both};
use super::trace::Show;
use super::world::{Event, Id, Kind, Local, Time, Verdict, World};

/// A healed core settles within this: the longest wait is the back-off of a replica that was removed often.
const PATIENCE: Time = 90_000_000;
/// Every run has at least so many operations, and faults, and lasts at least so long.
const OPERATIONS: u64 = 500;
const FAULTS: u64 = 5;
const LENGTH: Time = 60_000_000;

/// Runs a seed. The trace comes along for whoever compares two.
pub fn run(seed: u64, show: Show) -> (Result<Report, String>, World) {
    let mut world = World::new(seed, show);
    let result = world.live().map(|()| {
        world.report.seeds = 1;
        world.report.simulated = world.now;
        world.report.clone()
    });
    (result, world)
}

impl World {
    fn live(&mut self) -> Verdict {
        self.say_swarm();
        self.run_for(3_000_000)?;
        if self.groups.iter().any(|group| group.records.is_empty()) {
            return Err("the group was not made in three quiet seconds".to_owned());
        }
        self.schedule(1, Event::Weather);
        if self.swarm.modes.iter().any(|mode| *mode != Mode::Memory) {
            self.schedule(1, Event::Operator);
        }
        let end = self.now + self.swarm.storm;
        self.run_until(end)?;
        while self.report.faults() < FAULTS {
            self.run_for(2_000_000)?;
        }
        self.core_heals()?;
        self.everything_heals()?;
        if self.random.random_bool(0.35) {
            self.arbiters_away()?;
        }
        while self.report.asked < OPERATIONS || self.now < LENGTH {
            self.run_for(1_000_000)?;
        }
        self.close_the_books()
    }

    fn run_for(&mut self, length: Time) -> Verdict {
        self.run_until(self.now + length)
    }

    fn say_swarm(&mut self) {
        let text = format!("{:?}", self.swarm);
        self.say(|| text);
    }

    /// Waits until the core has settled and stays so for three seconds, whatever the broken rest does (L4, L5). The
    /// reason why not is the failure.
    fn settle(&mut self, what: &str) -> Verdict {
        let since = self.now;
        loop {
            while let Some(why) = self.pending(since) {
                self.give_up(since, || format!("{what}: {why}"))?;
                self.run_for(200_000)?;
            }
            let epochs = self.epochs();
            self.run_for(3_000_000)?;
            if epochs == self.epochs() && self.pending(since).is_none() {
                return Ok(());
            }
            self.give_up(since, || format!("L4: the epochs went from {epochs:?} on within three seconds"))?;
        }
    }

    fn give_up(&self, since: Time, why: impl FnOnce() -> String) -> Verdict {
        if self.now <= since + PATIENCE {
            return Ok(());
        }
        Err(format!("{} (not settled {} s after the core healed)", why(), PATIENCE / 1_000_000))
    }

    fn epochs(&self) -> Vec<u64> {
        self.groups.iter().map(|group| group.newest_epoch()).collect()
    }

    /// A random core heals, the rest stays broken: L1, L2, L4, L5.
    fn core_heals(&mut self) -> Verdict {
        self.calm_down();
        let forgotten = self.groups.iter().any(|group| group.forgotten);
        let broken = if self.random.random_bool(0.65) && !forgotten { self.choose_broken() } else { Vec::new() };
        self.say(|| format!("== the core heals, {broken:?} stay broken"));
        if !broken.is_empty() {
            self.report.saw(Must::BrokenRest);
        }
        for id in &broken {
            self.processes[*id].in_core = false;
        }
        for id in broken {
            self.break_for_good(id);
        }
        self.restart_core();
        if self.processes.iter().all(|process| process.in_core) && self.random.random_bool(0.5) {
            self.flaps_for_good();
        }
        self.settle("L1, L2")
    }

    /// A link between two replicas comes and goes for as long as this phase lasts: the group goes on, and the epochs
    /// come to an end (L4).
    fn flaps_for_good(&mut self) {
        let links = self.links_for(Fault::PairLink);
        self.say(|| format!("== but for a link that flaps, {links:?}"));
        self.flapping = true;
        self.undo(Undo::FlapsOn { links, cut: false, era: self.era });
    }

    fn choose_broken(&mut self) -> Vec<Id> {
        let mut broken = Vec::new();
        let arbiters = self.arbiters.len();
        let minority = self.random.random_range(0..=(arbiters - 1) / 2);
        let from = self.random.random_range(0..arbiters);
        broken.extend((0..minority).map(|step| (from + step) % arbiters));
        for group in 0..self.groups.len() {
            let Some(record) = self.groups[group].record().cloned() else { continue };
            let eligible: Vec<Id> = record
                .in_sync
                .iter()
                .filter(|member| {
                    let replica = self.replica(self.id_of(&member.addresses.peer));
                    let lives = |core: &Core| core.incarnation() == member.incarnation;
                    replica.core.as_ref().is_some_and(lives) && !replica.stopping
                })
                .map(|member| self.id_of(&member.addresses.peer))
                .collect();
            // An operator who took the primary for dead has yet to hear whose group it is, and may need any of them.
            if eligible.is_empty() || self.groups[group].taken_for_dead.is_some() {
                continue;
            }
            let stays = eligible[self.random.random_range(0..eligible.len())];
            for id in self.replica_ids() {
                if id != stays && self.replica(id).group == group && self.random.random_bool(0.4) {
                    broken.push(id);
                }
            }
        }
        if self.random.random_bool(0.2) {
            broken.push(self.random.random_range(self.client_ids()));
        }
        broken
    }

    /// Dead, alone, deaf, dumb, or without a disk that answers.
    fn break_for_good(&mut self, id: Id) {
        let all: Vec<Id> = (0..self.processes.len()).collect();
        let sound = self.replica_ids().filter(|id| self.processes[*id].in_core).count();
        let mode = self.random.random_range(0..5);
        let links = self.around(id, &all);
        match mode {
            0 if self.may_lose(id) => {
                self.processes[id].gone = true;
                let silent = self.random.random_bool(0.5);
                self.kill(id, silent);
            }
            2 if sound > 1 => {
                let deaf: Vec<_> = links.into_iter().filter(|(_, to)| *to == id).collect();
                self.cut(&deaf);
                self.schedule(1_500_000, Event::ResetIfCut(deaf));
            }
            3 if sound > 1 => {
                let dumb: Vec<_> = links.into_iter().filter(|(from, _)| *from == id).collect();
                self.cut(&dumb);
                self.schedule(1_500_000, Event::ResetIfCut(dumb));
            }
            4 if sound > 1 && self.keeps_a_journal(id) => self.undo(Undo::Hangs(id, self.era)),
            _ => self.cut(&links),
        }
    }

    fn keeps_a_journal(&self, id: Id) -> bool {
        matches!(self.kind(id), Kind::Replica(_)) && self.mode_of(id) != Mode::Memory
    }

    fn restart_core(&mut self) {
        for id in 0..self.processes.len() {
            if self.processes[id].in_core && !self.processes[id].alive {
                self.processes[id].gone = false;
                self.schedule(1_000, Event::Restart(id));
            }
        }
    }

    /// Everything heals: L7.
    fn everything_heals(&mut self) -> Verdict {
        self.say(|| "== everything heals".to_owned());
        self.calm_down();
        self.flapping = false;
        for process in &mut self.processes {
            process.in_core = true;
        }
        self.restart_core();
        self.settle("L7")
    }

    /// L3: without arbiters an intact pair goes on; once it breaks, too, both stop.
    fn arbiters_away(&mut self) -> Verdict {
        let intact = |world: &World, group: usize| {
            let ghost = &world.groups[group];
            !ghost.lost && ghost.record().is_some_and(|record| record.in_sync.len() > 1)
        };
        if !(0..self.groups.len()).all(|group| intact(self, group)) {
            return Ok(());
        }
        if self.random.random_bool(0.6) {
            self.disturb();
            let after = self.random.random_range(0..1_200_000);
            self.run_for(after)?;
        }
        self.say(|| "== all arbiters stop".to_owned());
        for id in self.arbiter_ids() {
            self.processes[id].gone = true;
            self.kill(id, false);
        }
        self.run_for(1_500_000)?;
        self.goes_on_without_arbiters()?;
        self.say(|| "== the pair breaks, too".to_owned());
        let replicas: Vec<Id> = self.replica_ids().collect();
        for id in &replicas {
            let links = self.around(*id, &replicas);
            self.cut(&links);
        }
        self.run_for(2_500_000)?;
        let released = |world: &World| {
            let pairs =
                world.groups.iter().filter(|group| group.record().is_some_and(|record| record.in_sync.len() > 1));
            pairs.map(|group| group.end()).collect::<Vec<_>>()
        };
        let before = released(self);
        self.run_for(1_500_000)?;
        if before != released(self) {
            return Err("L3: a broken pair without arbiters goes on releasing".to_owned());
        }
        for id in self.arbiter_ids() {
            self.processes[id].gone = false;
        }
        self.everything_heals()
    }

    /// Something that changes the membership, or is about to when the arbiters stop.
    fn disturb(&mut self) {
        let length = self.random.random_range(300_000..900_000);
        let group = self.random.random_range(0..self.groups.len());
        let Some(record) = self.groups[group].record().cloned() else { return };
        let primary = self.id_of(&record.primary.addresses.peer);
        let backups: Vec<Id> = record
            .in_sync
            .iter()
            .map(|member| self.id_of(&member.addresses.peer))
            .filter(|id| *id != primary)
            .collect();
        let backup = backups[self.random.random_range(0..backups.len())];
        let mode = self.random.random_range(0..5);
        self.say(|| format!("== disturbed, {mode}"));
        match mode {
            0 => self.take(primary, Local::Input(Input::Switchover { to: None, ticket: 1 })),
            1 => self.stop(backup, length),
            2 => self.stop(primary, length),
            3 => {
                // What it asks for is heard, and the answer is not.
                let links: Vec<_> = self.arbiter_ids().map(|arbiter| (arbiter, primary)).collect();
                self.cut(&links);
                self.stop(backup, length);
                self.schedule(3_000_000, Event::Undo(Undo::Heal { links, era: self.era }));
            }
            _ => {
                let links = both((primary, backup)).to_vec();
                self.cut(&links);
                self.schedule(length, Event::Undo(Undo::Heal { links, era: self.era }));
            }
        }
    }

    /// L3: every replica lives and the arbiters are gone: whatever was asked of them and whoever has heard of a grant,
    /// the group serves. (Who was handed the group has to ask them first; who is alone and was stopped, too.)
    fn goes_on_without_arbiters(&mut self) -> Verdict {
        let since = self.now;
        let mut why = None;
        while self.now < since + 12_000_000 {
            self.run_for(250_000)?;
            why = (0..self.groups.len()).find_map(|group| self.does_not_serve(group, since));
            if why.is_none() {
                let judged = (0..self.groups.len()).any(|group| self.has_to_serve(group));
                self.report.saw_if(judged, Must::PairWithoutArbiters);
                return Ok(());
            }
        }
        Err(format!("L3: an intact group does not go on without arbiters: {}", why.unwrap_or_default()))
    }

    /// After everything: equal digests, and the history of all clients.
    fn close_the_books(&mut self) -> Verdict {
        for group in 0..self.groups.len() {
            let Some(record) = self.groups[group].record().cloned() else { continue };
            if self.groups[group].lost {
                continue;
            }
            let primary = self.id_of(&record.primary.addresses.peer);
            self.replica_mut(primary).marked = None;
            self.take(primary, Local::Input(Input::Mark { ticket: 9 }));
            self.run_for(2_000_000)?;
            let index = self.replica(primary).marked.ok_or("L7: the primary did not place a mark")?;
            let digests = self.groups[group].digests.iter().rev().find(|((_, at), _)| *at == index);
            let count = digests.map_or(0, |(_, digests)| digests.len());
            if count < record.in_sync.len() {
                return Err(format!("L7: {count} of {} digests at the mark", record.in_sync.len()));
            }
        }
        self.s13_linearisable()
    }

    /// S13: the complete history of all clients, by a checker that knows nothing of the canon. What it cannot decide is
    /// counted, and a batch with more than a few of them fails; the canon has judged those answer by answer.
    fn s13_linearisable(&mut self) -> Verdict {
        let calls: Vec<_> = self
            .clients
            .iter()
            .flat_map(|client| client.history.iter().filter_map(|asked| asked.call(client.group)))
            .collect();
        match linear::check(&calls, linear::BOUND) {
            linear::Verdict::Yes => Ok(()),
            linear::Verdict::Undecided { .. } => {
                self.report.undecided += 1;
                Ok(())
            }
            verdict @ linear::Verdict::No(_) => Err(format!("S13: linearisable: {verdict}")),
        }
    }
}
