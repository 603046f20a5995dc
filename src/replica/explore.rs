//! What an exhaustive search needs of a replica: a copy, and a hash of all that decides what it does next.
//!
//! Deliberately not in the hash: the configuration, which is constant, and the generator, of which only fresh ids and
//! captured values come. A search over states takes two replicas that differ in nothing else for one.

use std::hash::{Hash, Hasher};

use super::{Replica, StateMachine};

impl<M: StateMachine + Clone> Clone for Replica<M>
where
    M::Restore: Clone,
{
    /// A replica that would do the same from here on. What waits to be dropped stays with the first.
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            make: self.make,
            now: self.now,
            expected: self.expected,
            random: self.random.clone(),
            incarnation: self.incarnation,
            state: self.state.clone(),
            log: self.log.clone(),
            clock: self.clock.clone(),
            record: self.record.clone(),
            known_epoch: self.known_epoch,
            role: self.role.clone(),
            disk: self.disk.clone(),
            proposal: self.proposal.clone(),
            own_requests: self.own_requests.clone(),
            links: self.links.clone(),
            met: self.met.clone(),
            next_link: self.next_link,
            next_ticket: self.next_ticket,
            reads: self.reads.clone(),
            handshakes: self.handshakes,
            garbage: Vec::new(),
            scratch: self.scratch.clone(),
            waits_for_seize: self.waits_for_seize,
            acknowledgement_put_off: self.acknowledgement_put_off,
            restarted: self.restarted,
            stopping: self.stopping.clone(),
            fences: self.fences.clone(),
            rebuilding: self.rebuilding,
        }
    }
}

impl<M: StateMachine + Hash> Hash for Replica<M>
where
    M::Restore: Hash,
{
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self { config: _, make: _, random: _, garbage: _, scratch: _, .. } = self;
        let Self { now, expected, incarnation, state, log, clock, record, known_epoch, role, disk, .. } = self;
        let Self { proposal, own_requests, links, met, next_link: _, next_ticket: _, reads, handshakes, .. } = self;
        let Self { waits_for_seize, acknowledgement_put_off, restarted, stopping, fences, rebuilding, .. } = self;
        (now.boot, expected, incarnation, state, log, clock, record, known_epoch, role, disk).hash(hasher);
        (proposal, own_requests, links, met, reads, handshakes).hash(hasher);
        (waits_for_seize, acknowledgement_put_off, restarted, stopping, fences, rebuilding).hash(hasher);
    }
}
