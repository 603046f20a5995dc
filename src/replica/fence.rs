//! An operator's fence: before a group is made known to arbiters that lost their data, every other replica of it
//! promises to do nothing in any epoch that the lost arbiters may have granted.
//!
//! What must hold: a grant may be on its way, so what a replica knows now is not enough. Whoever proposed expects an
//! epoch that it knows, and its grant is of the next one; a fence two above what it knows is above that, too. From the
//! fence on, the replica serves, acknowledges, proposes and learns nothing of a lower epoch, across restarts: it is told
//! only once the disk knows of it.
//!
//! Deliberately not here: who is fenced, and who becomes primary, which is the operator's (`cutover adopt`).

use cutover_arbiter::planted;
use cutover_arbiter::record::Epoch;

use crate::machine::StateMachine;

use super::{Event, Outbox, Output, Replica};

/// How far above every epoch that is shown an operator fences: a dead replica's last grants, and the clients that heard
/// of them, are below it, too.
const AHEAD: u64 = 16;

/// The least distance: one for a grant that is on its way.
const LEAST_AHEAD: u64 = 2;

/// Fences asked for at a time that wait for the disk; more are refused.
const WAITING: usize = 16;

/// Where an operator fences replicas that show these epochs, each with what it knows without a fence while one is in
/// force. An attempt that was broken off is gone on with at the same epoch: its adoption may still be granted, and whoever
/// was fenced above that would not follow.
pub fn fence_epoch(shown: impl Iterator<Item = (Epoch, Option<Epoch>)> + Clone) -> Epoch {
    let highest = shown.clone().map(|(epoch, _)| epoch).max().unwrap_or_default();
    let fence = shown.clone().filter(|(_, without)| without.is_some()).map(|(epoch, _)| epoch).max();
    let known = shown.map(|(epoch, without)| without.unwrap_or(epoch)).max().unwrap_or_default();
    match fence {
        Some(fence) if fence == highest && fence.0 >= known.0.saturating_add(LEAST_AHEAD) => fence,
        _ => Epoch(highest.0.saturating_add(AHEAD)),
    }
}

/// Fences of this life.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Fences {
    /// What was known before the first of them; `None` once a record stands above them.
    before: Option<Epoch>,
    /// Not durable yet: whom to tell, and of which epoch.
    waiting: Vec<(u64, Epoch)>,
}

impl<M: StateMachine> Replica<M> {
    /// Nothing below `epoch` any more. Answered by [`Output::Fenced`] once that is durable.
    pub(super) fn fence(&mut self, epoch: Epoch, ticket: u64, out: &mut Outbox<M>) {
        let known = self.known_epoch;
        let again = self.fences.before.is_some() && epoch == known;
        let high_enough = again || epoch.0 >= known.0.saturating_add(LEAST_AHEAD);
        if !high_enough || self.fences.waiting.len() == WAITING {
            return out.outputs.push(Output::Fenced { ticket, result: Err(known) });
        }
        self.fences.before.get_or_insert(known);
        self.fences.waiting.push((ticket, epoch));
        if again || planted!("unfenced") {
            return;
        }
        self.event(out, Event::FencedByOperator { known, epoch });
        self.known_epoch = epoch;
        // What was proposed expects an epoch that is over.
        self.proposal = None;
        self.own_requests.clear();
        self.primary_to_follower(epoch, out);
        self.drop_upstream(out);
    }

    /// The highest epoch known without an operator's fence, while one is in force.
    pub(super) fn fenced_from(&self) -> Option<Epoch> {
        self.fences.before
    }

    /// A record stands at or above every fence.
    pub(super) fn fence_is_over(&mut self) {
        self.fences.before = None;
    }

    /// Tells the operator of every fence that a restart would remember.
    pub(super) fn answer_fences(&mut self, out: &mut Outbox<M>) {
        if self.fences.waiting.is_empty() {
            return;
        }
        let before = self.fences.before.unwrap_or(self.known_epoch);
        for (ticket, epoch) in std::mem::take(&mut self.fences.waiting) {
            if self.epoch_is_durable(epoch) || planted!("unfenced") {
                out.outputs.push(Output::Fenced { ticket, result: Ok(before) });
            } else {
                self.fences.waiting.push((ticket, epoch));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(shown: &[(u64, Option<u64>)]) -> u64 {
        fence_epoch(shown.iter().map(|(epoch, without)| (Epoch(*epoch), without.map(Epoch)))).0
    }

    #[test]
    fn it_is_above_every_grant_that_may_be_on_its_way() {
        assert!(fence(&[(4, None), (5, None)]) >= 7, "who knows 5 may hear of 6");
    }

    /// Seed 903180: the first attempt's adoption was granted late, and those who had been fenced above it stayed away.
    #[test]
    fn a_second_attempt_fences_where_the_first_did() {
        assert_eq!(fence(&[(5, None), (20, Some(4))]), 20);
        assert!(fence(&[(19, None), (20, Some(4))]) > 21, "a grant of 20 may be on its way");
        assert!(fence(&[(30, None), (20, Some(4))]) > 31);
    }
}
