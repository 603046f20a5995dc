//! S4, S9, S10, S12, H1 across restarts: what a replica promised is on its disk, or its life is over.

use cutover::journal::memory_disk::{Loss, MemoryDisk};
use cutover::journal::{Directory, Found, Kept};
use cutover::protocol::entry::Block;
use cutover::replica::{Claim, EntryAt, Output};
use cutover_arbiter::record::{Epoch, Index, Member, Mode};
use rand::RngExt;

use crate::canon::{Core, Group, Life, Machine};
use crate::counters::Must;
use crate::world::{Id, Verdict, World};

/// How a process comes back.
#[derive(Debug, Clone, Copy)]
pub struct Return {
    /// Of its group.
    pub mode: Mode,
    /// Its machine lost power.
    pub rebooted: bool,
    /// The last process left the mark of an orderly end.
    pub marked: bool,
    /// An older image of its data stands in its place: nothing can be expected of it.
    pub image: bool,
}

/// What a disk was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub last: Index,
    pub claim: Option<Claim>,
}

impl Group {
    /// A core asks its disk for something.
    pub fn asks_disk(&mut self, id: Id, output: &Output<Machine>) {
        let none: &[Block] = &[];
        match output {
            Output::Persist { sequence, cut, blocks, .. } => {
                let last = blocks.last().map_or(0, Block::last);
                self.writes(id, *sequence, cut.map(|cut| cut.index), blocks, Asked { last, claim: None });
            }
            Output::Claim { sequence, claim, anew } => {
                let asked = Asked { last: 0, claim: Some(*claim) };
                self.writes(id, *sequence, anew.then_some(0), none, asked);
            }
            Output::InstallSnapshot { sequence, position, .. } => {
                self.writes(id, *sequence, None, none, Asked { last: position.index, claim: None });
            }
            _ => {}
        }
    }

    /// A disk says that it has done everything up to this.
    pub fn persisted(&mut self, id: Id, upto: u64) {
        let Some(life) = self.lives.get_mut(&id) else { return };
        while let Some(first) = life.writing.first_entry().filter(|first| *first.key() <= upto) {
            let Asked { last, claim } = first.remove();
            life.persisted = life.persisted.max(last);
            if let Some(claim) = claim.filter(|claim| claim.incarnation == life.incarnation) {
                life.claimed = life.claimed.max(claim.epoch);
                self.replaced.remove(&id);
            }
        }
    }

    /// Up to where a replica has all entries as durably as its mode says: by its disk's word, or, where a log in memory is
    /// all that is promised, by what stands in that.
    pub fn has_durably(&self, id: Id, core: &Core) -> Index {
        let disk = self.lives.get(&id).map_or(0, |life| life.persisted.max(life.base));
        let in_memory = core.record().is_some_and(|record| record.mode == Mode::Memory);
        if in_memory { core.vitals().held } else { disk }
    }

    /// A process comes back, with what it found on its disk. True when its life goes on.
    ///
    /// # Errors
    /// S9: it goes on without something that it had promised, or a life that was over goes on. S10: it claims a life
    /// that it cannot prove.
    pub fn returns(&mut self, id: Id, core: &Core, log_limit: usize, how: Return) -> Result<bool, String> {
        let (name, incarnation, last) = (core.status().name, core.incarnation(), core.vitals().last);
        let (resting, replaced) = (self.resting.remove(&id), self.replaced.remove(&id));
        let mut written = resting.as_ref().map(|life| life.written.clone()).filter(|_| last > 0).unwrap_or_default();
        let known = self.known.contains(&incarnation);
        let before = [resting, replaced].into_iter().flatten().find(|life| life.incarnation == incarnation);
        let Some(before) = before.filter(|_| !how.image) else {
            if known && !how.image {
                return Err(format!("S9: {name} goes on with a life that was over"));
            }
            // What it lost it holds no more, and may hold again what it had cut.
            written.retain(|index, (epoch, bytes)| match core.entry_at(*index) {
                EntryAt::Below => true,
                there => there == EntryAt::Is(*epoch, bytes.clone()),
            });
            if how.image {
                self.forgets_what_it_heard(&name, incarnation);
            }
            self.born(id, name, incarnation, log_limit);
            if let Some(life) = self.lives.get_mut(&id) {
                (life.written, life.persisted, life.exempt) = (written, last, how.image);
                life.was_image |= how.image;
                life.claimed = core.vitals().known_epoch;
            }
            return Ok(known);
        };
        s10_proven(&name, how)?;
        before.s9_promised_is_there(core)?;
        // What it had asked its disk for in vain is not there, and what it had cut may be.
        written.retain(|index, (epoch, bytes)| match core.entry_at(*index) {
            EntryAt::Below => true,
            there => there == EntryAt::Is(*epoch, bytes.clone()),
        });
        self.living.insert(name, incarnation);
        self.births += 1;
        let life = Life {
            verified: 0,
            persisted: last,
            base: 0,
            failed: false,
            birth: self.births,
            diverged: false,
            leaked: false,
            claimed: core.vitals().known_epoch,
            owes: None,
            clock: None,
            ..before
        };
        self.lives.insert(id, Life { writing: Default::default(), written, ..life });
        self.stale = true;
        Ok(true)
    }

    /// H1, after every turn: who promised anything in an epoch never forgets it.
    pub fn h1_epoch_is_remembered(&self, id: Id, core: &Core) -> Verdict {
        let (known, promised) = (core.vitals().known_epoch, self.lives.get(&id).map_or(Epoch(0), |life| life.promised));
        if known < promised {
            return Err(format!("H1: {} knows of epoch {known} and promised in {promised}", core.status().name));
        }
        Ok(())
    }

    /// What a disk holds beyond or against what was released; `None` when all of it is there.
    fn lacks(&self, found: &Found<MemoryDisk>) -> Option<String> {
        let base = found.snapshot.as_ref().map_or(0, |snapshot| snapshot.head().position.index);
        let last = found.blocks.last().map_or(base, Block::last);
        if last < self.end() {
            return Some(format!("ends with {last} of {} released entries", self.end()));
        }
        for block in &found.blocks {
            for index in block.first.max(base + 1)..=block.last().min(self.end()) {
                let one = block.from(index).and_then(|block| block.upto(index));
                let same = one
                    .zip(self.at(index))
                    .is_some_and(|(one, canonical)| (one.epoch, &one.bytes) == (canonical.epoch, &canonical.bytes));
                if !same {
                    return Some(format!("holds another entry than the released one at {index}"));
                }
            }
        }
        None
    }
}

/// S10, S9: what cannot be proven ends a life.
fn s10_proven(name: &impl std::fmt::Display, how: Return) -> Verdict {
    match how.mode {
        Mode::Memory => Err(format!("S10: {name} goes on with its life, of which mode memory keeps nothing")),
        Mode::Buffered if how.rebooted && !how.marked => {
            Err(format!("S10: {name} goes on with its life in mode buffered after its machine lost power"))
        }
        _ => Ok(()),
    }
}

impl Life {
    /// S9: what it acknowledged, and what its disk had said that it holds, is there; so are the epochs that it promised
    /// in.
    fn s9_promised_is_there(&self, core: &Core) -> Verdict {
        let (name, vitals) = (core.status().name, core.vitals());
        let promised = self.persisted.max(self.acknowledged.1);
        if vitals.last < promised {
            return Err(format!(
                "S9: {name} comes back in the same life with {} entries; {promised} were durable, {} acknowledged",
                vitals.last, self.acknowledged.1
            ));
        }
        if vitals.known_epoch < self.promised {
            return Err(format!(
                "H1: {name} comes back in the same life and knows of epoch {}; it promised in {}",
                vitals.known_epoch, self.promised
            ));
        }
        let kept = |(index, (epoch, bytes)): (&Index, &(Epoch, bytes::Bytes))| match core.entry_at(*index) {
            EntryAt::Is(other, theirs) => (other, &theirs) == (*epoch, bytes),
            _ => true,
        };
        match self.written.iter().filter(|(index, _)| **index <= promised).find(|entry| !kept(*entry)) {
            Some((index, _)) => Err(format!("S9: {name} comes back with another entry at {index}")),
            None => Ok(()),
        }
    }
}

impl World {
    /// What a restart of this replica would find, after its machine lost power or only its process died. On a copy.
    pub fn would_find(&self, id: Id, loss: Loss, seed: u64) -> Option<Result<Found<MemoryDisk>, String>> {
        let image = self.replica(id).hardware.disk.as_ref()?.image();
        let mut opening = self.opening(id, seed);
        if loss != Loss::Process {
            image.crash(loss, seed);
            opening.boot ^= 1;
        }
        match Directory::open(image, opening) {
            Ok((_, found)) => found.map(Ok),
            Err(error) => Some(Err(error.to_string())),
        }
    }

    /// S4 at the declared durability: every released entry is held by the journal of every replica that the newest record
    /// allows to take over, not just by its memory. Sampled: recovery is tried on copies of the disks.
    pub fn s4_released_is_durable(&mut self, group: usize) {
        let mode = self.swarm.modes[group];
        let seized = self.groups[group].seized.is_some();
        let Some(record) = self.groups[group].record().cloned().filter(|_| mode != Mode::Memory && !seized) else {
            return;
        };
        let loss = if mode == Mode::Sync { Loss::Subset } else { Loss::Process };
        for member in &record.in_sync {
            let seed = self.random.random();
            let verdict = self.s4_of(group, member, loss, seed);
            self.check(verdict);
        }
        self.report.saw(Must::JournalsRead);
    }

    fn s4_of(&self, group: usize, member: &Member, loss: Loss, seed: u64) -> Verdict {
        let id = self.id_of(&member.addresses.peer);
        let (hardware, core) = (&self.replica(id).hardware, self.replica(id).core.as_ref());
        let ghost = &self.groups[group];
        let exempt = ghost.lives.get(&id).or(ghost.resting.get(&id)).is_none_or(|life| life.exempt || life.failed);
        if exempt || hardware.rotten || hardware.failed() || hardware.restored {
            return Ok(());
        }
        let lives = core.is_some_and(|core| core.incarnation() == member.incarnation);
        let dead = !self.processes[id].alive;
        let found = match self.would_find(id, loss, seed) {
            Some(Ok(found)) => found,
            Some(Err(why)) => return Err(format!("S9: the directory of {} cannot be read: {why}", member.replica)),
            None if lives => return Err(format!("S4: {} is in sync and has nothing on its disk", member.replica)),
            None => return Ok(()),
        };
        let goes_on = found.kept == Kept::Yes && found.claim.incarnation == member.incarnation;
        if lives && !goes_on {
            return Err(format!("S4: {} is in sync, and its life would end with its process", member.replica));
        }
        match ghost.lacks(&found).filter(|_| goes_on && (lives || dead)) {
            Some(what) => {
                Err(format!("S4: {} may lead in epoch {}, and its disk {what}", member.replica, ghost.newest_epoch()))
            }
            None => Ok(()),
        }
    }
}
