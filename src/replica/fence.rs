//! An operator's fence: before a group is made known to arbiters that lost their data, every other replica of it
//! promises to do nothing in any epoch that the lost arbiters may have granted.
//!
//! What must hold: a grant may be on its way, so what a replica knows now is not enough. Whoever proposed expects an
//! epoch that it knows, and its grant is of the next one; a fence two above what it knows is above that, too. From the
//! fence on, the replica serves, acknowledges, proposes and learns nothing of a lower epoch, across restarts: it is told
//! only once the disk knows of it.
//!
//! Deliberately not here: who is fenced, and who becomes primary, which is the operator's (`cutover adopt`).

use std::time::Duration;

use cutover_arbiter::planted;
use cutover_arbiter::record::Epoch;

use crate::machine::StateMachine;

use super::{Claim, Event, Outbox, Output, Replica};

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

/// How far above what a replica knows it is fenced by one request. One that was away for years differs from the others by
/// millions of epochs; a mistaken number must not make it useless for ever.
pub const FURTHEST: u64 = 1 << 32;

/// Why there is no fence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FenceRefused {
    /// A grant that is on its way might be of that epoch.
    #[error("it knows epoch {known}, and a fence is {LEAST_AHEAD} above that at least; ask again")]
    TooLow {
        /// The highest epoch it knows.
        known: Epoch,
    },
    /// No group gets there.
    #[error(
        "it knows epoch {known}, and a fence is {FURTHEST} above that at most; begin with that one, or ask for less"
    )]
    TooHigh {
        /// The highest epoch it knows.
        known: Epoch,
    },
    /// Nothing is lost, so nobody is adopted.
    #[error(
        "its arbiters know the group in epoch {shown}, and it knows of nothing newer ({known}), so nothing was lost that \
         would have to be adopted, and it is not fenced. Make sure that --arbiters names the arbiters that this replica \
         asks, and look at `cutover status`; if it is in the way all the same, stop it for good"
    )]
    ArbitersKnow {
        /// The epoch of the record that they show.
        shown: Epoch,
        /// The highest epoch it knows.
        known: Epoch,
    },
    /// Its operator has given it up, and may have gone on without it.
    #[error("it came too late, and does nothing; ask again")]
    Late,
    /// More than so many are not waited for.
    #[error("{WAITING} fences wait already; ask again later")]
    Busy,
}

/// Fences of this replica.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Fences {
    /// What was known before the first of them; `None` once a record stands above them. A restart remembers it: it tells
    /// the next attempt which epoch is the first one's.
    before: Option<Epoch>,
    /// The arbiters are asked first whether they have lost the group at all.
    asked: Vec<Asked>,
    /// Not durable yet: whom to tell, and of which epoch.
    waiting: Vec<(u64, Epoch)>,
    /// The epoch of the record that the arbiters show below the fence; 0 for none.
    shown: Option<Epoch>,
}

#[derive(Debug, Clone, Hash)]
struct Asked {
    read: u64,
    known: Epoch,
    ticket: u64,
    epoch: Epoch,
    until: Duration,
}

impl Fences {
    /// As a restart finds them; `last` is the epoch of the last entry held.
    pub(super) fn restored(claim: &Claim, last: Epoch) -> Self {
        Self { before: claim.fenced_from.filter(|_| last < claim.epoch), ..Self::default() }
    }
}

impl<M: StateMachine> Replica<M> {
    /// Nothing below `epoch` any more, unless that is refused. Answered by [`Output::Fenced`] once it is durable.
    ///
    /// An adoption is for arbiters that lost their data. So they are asked first, linearisably: a watch is one arbiter's
    /// word, which may have kept what the majority lost, and what they said before says nothing. That they cannot be
    /// reached is no reason against it: the new ones may have other addresses.
    pub(super) fn fence(&mut self, epoch: Epoch, until: Duration, ticket: u64, out: &mut Outbox<M>) {
        let known = self.known_epoch;
        let refused = match self.fences.asked.len() + self.fences.waiting.len() < WAITING {
            false => Some(FenceRefused::Busy),
            true if self.now.boot >= until => Some(FenceRefused::Late),
            // A second attempt of what was promised already.
            true if self.fences.before.is_some() && epoch == known => return self.fences.waiting.push((ticket, epoch)),
            true => self.may_fence(epoch).err(),
        };
        if let Some(refused) = refused {
            return out.outputs.push(Output::Fenced { ticket, result: Err(refused) });
        }
        let read = self.read_record(out);
        self.fences.asked.push(Asked { read, known, ticket, epoch, until });
    }

    fn may_fence(&self, epoch: Epoch) -> Result<(), FenceRefused> {
        let known = self.known_epoch;
        match epoch.0.saturating_sub(known.0) {
            ..LEAST_AHEAD => Err(FenceRefused::TooLow { known }),
            LEAST_AHEAD..=FURTHEST => Ok(()),
            _ => Err(FenceRefused::TooHigh { known }),
        }
    }

    /// What the arbiters show to a read of this ticket; `None` when there is no such group, or nobody answers.
    pub(super) fn fence_after_read(&mut self, read: u64, shown: Option<Epoch>, out: &mut Outbox<M>) {
        let Some(at) = self.fences.asked.iter().position(|asked| asked.read == read) else { return };
        let Asked { known, ticket, epoch, until, .. } = self.fences.asked.swap_remove(at);
        let refused = match shown {
            // Given up meanwhile, it must not come true later.
            _ if self.now.boot >= until => Some(FenceRefused::Late),
            Some(shown) if shown >= known => Some(FenceRefused::ArbitersKnow { shown, known }),
            // News, which the operator has not seen: perhaps the adoption itself.
            _ if self.known_epoch > known => Some(FenceRefused::TooLow { known: self.known_epoch }),
            _ => self.may_fence(epoch).err(),
        };
        match refused {
            Some(refused) => out.outputs.push(Output::Fenced { ticket, result: Err(refused) }),
            None => self.fence_now(epoch, ticket, out),
        }
    }

    fn fence_now(&mut self, epoch: Epoch, ticket: u64, out: &mut Outbox<M>) {
        let known = self.known_epoch;
        self.fences.before.get_or_insert(known);
        self.fences.waiting.push((ticket, epoch));
        if planted!("unfenced") {
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

    /// While a fence is in force: the epoch of the record that the arbiters show below it, 0 for none.
    pub(super) fn shown_below_fence(&self) -> Option<Epoch> {
        self.fences.shown.filter(|_| self.fences.before.is_some())
    }

    /// A record stands at or above every fence.
    pub(super) fn fence_is_over(&mut self) {
        (self.fences.before, self.fences.shown) = (None, None);
    }

    /// The arbiters show less than the fence: their adoption was not finished, or they came back with what they had. This
    /// replica stays away all the same, since the adoption may still be granted; an operator must go on with it.
    pub(super) fn fence_stands(&mut self, shown: Epoch, out: &mut Outbox<M>) {
        if self.fences.shown.replace(shown) != Some(shown) {
            self.event(out, Event::FenceStands { fence: self.known_epoch, shown });
        }
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
