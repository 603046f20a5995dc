//! S3, S4, S6, S8, S11: what every copy holds.

use cutover::replica::EntryAt;
use cutover_arbiter::record::{Epoch, Index};

use crate::canon::{Core, Group, Life};
use crate::replicas::SimReplica;
use crate::world::{Id, Verdict};

impl Group {
    /// S4: every released entry is held by every replica that the newest record allows to take over, as long as it
    /// lives; with an admission, the joiner too (S5).
    pub fn s4_released_is_held(&mut self, replicas: &[SimReplica], first: Id) -> Verdict {
        let Some(record) = self.record().cloned().filter(|_| self.seized.is_none()) else { return Ok(()) };
        let end = self.end();
        let primary = first + record.primary.addresses.peer[1..].parse::<usize>().unwrap_or_default();
        for member in &record.in_sync {
            let number = member.addresses.peer[1..].parse::<usize>().unwrap_or_default();
            let Some(core) = replicas[number].core.as_ref() else { continue };
            if core.incarnation() != member.incarnation {
                continue;
            }
            let verified = self.verify(first + number, core)?;
            if let Some(life) = self.lives.get_mut(&(first + number)).filter(|life| life.exempt) {
                // What was committed and not released while too few were in sync is missed by the arbiters, too.
                // And what it had acknowledged and was not released yet is missed by its primary alone.
                let heard = self.heard.get(&(primary, member.incarnation)).map_or(0, |heard| heard.verified);
                life.exempt = verified < end || core.vitals().last < record.last_change.commit.index.max(heard);
                continue;
            }
            if verified < end {
                return Err(format!(
                    "S4: {} is in sync in epoch {} and holds {verified} of {end} released entries",
                    member.replica, record.epoch
                ));
            }
        }
        Ok(())
    }

    /// S4: nobody throws away what it holds while the newest record lets it lead.
    pub fn s4_nothing_in_sync_is_thrown_away(&self, id: Id, core: &Core, why: &str) -> Verdict {
        let name = core.status().name;
        // An older image takes a new life for what it was when it asked, also if it has caught up since.
        let was_old = |life: &Life| life.was_image && why.contains("its data is older");
        let Some(life) = self.lives.get(&id).filter(|life| !(life.diverged || life.exempt || was_old(life))) else {
            return Ok(());
        };
        // One that was seized, and has not heard of it, may follow whom the operator took for dead.
        match self.record().filter(|_| self.seized.is_none()) {
            Some(record) if record.has(&name, life.incarnation) => {
                Err(format!("S4: {name}, in sync in epoch {}, throws its state away: {why}", record.epoch))
            }
            _ => Ok(()),
        }
    }

    /// S4: who acknowledges has applied nothing that may have to be undone: nothing beyond what it knows to be
    /// committed, but for what it executed itself as a primary.
    pub fn s4_acknowledged_is_committed_or_undone(&self, id: Id, core: &Core) -> Verdict {
        let vitals = core.vitals();
        let Some(life) = self.lives.get(&id) else { return Ok(()) };
        if vitals.applied > vitals.committed.max(life.executed) {
            return Err(format!(
                "S4: {} acknowledges, has applied {} and knows of {} committed",
                core.status().name,
                vitals.applied,
                vitals.committed
            ));
        }
        Ok(())
    }

    /// S6: equal digests at equal marks.
    pub fn s6_equality(&mut self, id: Id, epoch: Epoch, index: Index, digest: u64) -> Verdict {
        let digests = self.digests.entry((epoch, index)).or_default();
        digests.push((id, digest));
        if digests.iter().any(|(_, other)| *other != digests[0].1) {
            return Err(format!("S6: digests at {index} of epoch {epoch} differ: {digests:?}"));
        }
        Ok(())
    }

    /// S6, after every turn: who has applied a released entry has the running hash that its primary had there.
    pub fn s6_running_hash(&self, id: Id, core: &Core) -> Verdict {
        let vitals = core.vitals();
        let verified = self.lives.get(&id).is_some_and(|life| life.verified >= vitals.applied);
        match self.at(vitals.applied) {
            Some(entry) if verified && vitals.times != (entry.time, entry.ceiling) => Err(format!(
                "S6: {} has times {:?} at {}, the canon says {:?}",
                core.status().name,
                vitals.times,
                vitals.applied,
                (entry.time, entry.ceiling)
            )),
            Some(entry) if verified && entry.check != vitals.check && !is_below(core, vitals.applied) => {
                Err(format!("S6: {} has another running hash at {}", core.status().name, vitals.applied))
            }
            _ => Ok(()),
        }
    }

    /// S8: epochs never fall along the log, and every one was granted.
    pub fn s8_shape(&self, index: Index, epoch: Epoch) -> Verdict {
        let before = self.canon.last().map_or(Epoch(0), |last| last.epoch);
        if epoch < before || epoch.0 > self.newest_epoch() || epoch.0 == 0 {
            return Err(format!("S8: the entry at {index} is of epoch {epoch}, after one of epoch {before}"));
        }
        Ok(())
    }

    /// S11: captured times never fall along the log.
    pub fn s11_logical_time(&self, index: Index, time: u64) -> Verdict {
        match self.canon.last() {
            Some(last) if time < last.time => {
                Err(format!("S11: the entry at {index} is of {time}, after one of {}", last.time))
            }
            _ => Ok(()),
        }
    }
}

fn is_below(core: &Core, index: Index) -> bool {
    core.entry_at(index) == EntryAt::Below
}
