//! When a group waits for an operator: nobody can lead any more, and a person must decide.

use cutover_arbiter::record::Member;

use crate::machine::StateMachine;

use super::{Event, Outbox, Replica};

impl<M: StateMachine> Replica<M> {
    /// Every in-sync member came back without its state: nobody can lead, and a person must decide.
    pub(super) fn check_waits_for_seize(&mut self, out: &mut Outbox<M>) {
        let Some(record) = &self.record else { return };
        let gone = |member: &Member| {
            let life = if member.replica == self.config.name {
                Some(self.incarnation)
            } else {
                self.met.get(&member.replica).copied()
            };
            life.is_some_and(|life| life != member.incarnation)
        };
        let waits = record.in_sync.iter().all(gone);
        if waits && !self.waits_for_seize {
            self.event(out, Event::WaitsForSeize { holds: self.log.last().index });
        }
        self.waits_for_seize = waits;
    }
}

#[cfg(test)]
#[path = "seizure_tests.rs"]
mod tests;
