//! L1 to L7: what must happen in a healed core within bounded simulated time, and the reason why it has not.

use cutover::replica::Role;
use cutover_arbiter::record::{Change, GroupRecord, Mode};

use crate::canon::{Core, Group};
use crate::clients::Manner;
use crate::world::{Id, Time, Verdict, World};

impl Group {
    /// L6: a slow follower costs bounded memory: the log keeps what it may, and what a required member has not
    /// acknowledged, which pushes back on clients at a limit.
    pub fn l6_memory_is_bounded(&self, id: Id, core: &Core) -> Verdict {
        let Some(life) = self.lives.get(&id) else { return Ok(()) };
        let (held, limit) = (core.vitals().log_bytes, life.log_limit + SLACK);
        if held > limit {
            return Err(format!("L6: the log of {} has {held} bytes, the limits allow {limit}", core.status().name));
        }
        Ok(())
    }
}

/// What one turn may add beyond the limits, and what a transfer or a spare's stream keeps, in bytes.
const SLACK: usize = 256 * 1024;

/// Proposals of one replica within a second that are too many: nothing changes so fast.
const FLOOD: u32 = 60;

impl World {
    /// L4: whoever is refused asks again after a while, not at once.
    pub fn l4_no_flood_of_proposals(&mut self, id: Id) {
        let (now, name) = (self.now, self.name(id));
        let (since, count) = &mut self.replica_mut(id).proposed;
        if now > *since + 1_000_000 {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count > FLOOD {
            self.check(Err(format!("L4: {name} has proposed {FLOOD} changes within a second")));
        }
    }

    /// Why the healed core has not settled, or `None` when it has: L1 (redundancy restored, every client answered), L2
    /// (one eligible replica serves), L7 (nobody is stuck). `since` is when it was healed.
    pub fn pending(&self, since: Time) -> Option<String> {
        (0..self.groups.len()).find_map(|group| self.group_pending(group, since))
    }

    fn group_pending(&self, group: usize, since: Time) -> Option<String> {
        let ghost = &self.groups[group];
        let Some(record) = ghost.record() else { return Some(format!("group {group} was never made")) };
        if ghost.lost {
            return None;
        }
        if ghost.forgotten {
            return Some(format!("the arbiters have forgotten group {group}, and nobody was adopted"));
        }
        if !self.has_eligible(record) {
            return self.may_be_helped(group, record);
        }
        let core: Vec<Id> =
            self.replica_ids().filter(|id| self.replica(*id).group == group && self.processes[*id].in_core).collect();
        let primary = self.id_of(&record.primary.addresses.peer);
        if !core.contains(&primary) || !self.lives(primary, record) {
            return Some(format!("{} is still named primary in epoch {}", record.primary.replica, record.epoch));
        }
        if !self.replica(primary).serves() {
            return Some(format!("{} does not serve: {:?}", record.primary.replica, self.picture(primary)));
        }
        let wanted = if self.flapping { 1 } else { self.swarm.copies.min(core.len()) };
        if let Some(member) = record.in_sync.iter().find(|member| !core.contains(&self.id_of(&member.addresses.peer))) {
            return Some(format!("{} is broken and still in sync", member.replica));
        }
        if record.in_sync.len() < wanted {
            let pictures: Vec<_> = core.iter().map(|id| self.picture(*id)).collect();
            return Some(format!("{} of {wanted} replicas are in sync: {pictures:?}", record.in_sync.len()));
        }
        let role = |id: &Id| self.replica(*id).core.as_ref().map(|core| core.status().role);
        let settled = |id: &Id| matches!(role(id), Some(Role::Primary | Role::Backup | Role::Spare));
        if let Some(id) = core.iter().find(|id| !settled(id) && !self.flapping) {
            return Some(format!("{:?}", self.picture(*id)));
        }
        if record.in_sync.len() < usize::from(record.min_in_sync) {
            return None;
        }
        self.unanswered_client(group, since)
    }

    fn unanswered_client(&self, group: usize, since: Time) -> Option<String> {
        self.client_ids()
            .filter(|id| self.processes[*id].in_core && self.group_of(*id) == Some(group))
            .find(|id| {
                let client = &self.clients[*id - self.client_ids().start];
                client.manner != Manner::Stubborn && client.last_answer <= since
            })
            .map(|id| format!("{} has had no answer since {:.3}", self.name(id), since as f64 / 1e6))
    }

    /// L3: whether a group of living replicas has to serve without arbiters: who was handed the group asks them for an
    /// epoch of its own first, and who is alone and was stopped asks them, too.
    pub fn has_to_serve(&self, group: usize) -> bool {
        let Some(record) = self.groups[group].record() else { return false };
        let handed = matches!(record.last_change.change, Change::HandOver { .. });
        let enough = record.in_sync.len() >= usize::from(record.min_in_sync).max(2);
        !handed && enough && !self.groups[group].lost && self.has_eligible(record)
    }

    /// L3: why a group that has to serve without arbiters does not.
    pub fn does_not_serve(&self, group: usize, since: Time) -> Option<String> {
        if !self.has_to_serve(group) {
            return None;
        }
        let group_ids = || self.replica_ids().filter(|id| self.replica(*id).group == group);
        if !group_ids().any(|id| self.replica(id).serves()) {
            return Some(format!("nobody serves: {:?}", group_ids().map(|id| self.picture(id)).collect::<Vec<_>>()));
        }
        self.unanswered_client(group, since)
    }

    /// Whether anybody in the healed core may lead: a living member of the in-sync set. A change that was under way
    /// when the core was chosen may have left the only one outside.
    fn has_eligible(&self, record: &GroupRecord) -> bool {
        record.in_sync.iter().any(|member| {
            let id = self.id_of(&member.addresses.peer);
            let core = self.replica(id).core.as_ref();
            self.processes[id].in_core && core.is_some_and(|core| core.incarnation() == member.incarnation)
        })
    }

    /// Nobody may lead: the operator can seize the group once everyone in sync is up again, and must be told to.
    fn may_be_helped(&self, group: usize, record: &GroupRecord) -> Option<String> {
        let ids: Vec<Id> = record.in_sync.iter().map(|member| self.id_of(&member.addresses.peer)).collect();
        if self.swarm.modes[group] == Mode::Memory || ids.iter().any(|id| !self.processes[*id].in_core) {
            return None;
        }
        let pictures: Vec<_> = ids.iter().map(|id| self.picture(*id)).collect();
        Some(format!("nobody may lead in epoch {}: {pictures:?}", record.epoch))
    }

    fn lives(&self, id: Id, record: &GroupRecord) -> bool {
        self.replica(id).core.as_ref().is_some_and(|core| core.incarnation() == record.primary.incarnation)
    }

    pub fn picture(&self, id: Id) -> String {
        let Some(core) = self.replica(id).core.as_ref() else { return format!("{} is dead", self.name(id)) };
        let status = core.status();
        format!(
            "{} {:?} epoch {} index {} committed {} proposing {:?} admission {:?} stopped until {}",
            status.name,
            status.role,
            status.epoch,
            status.index,
            status.committed,
            status.proposing,
            core.admission(),
            self.processes[id].stopped_until as f64 / 1e6,
        )
    }
}
