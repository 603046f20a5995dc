//! What a follower acknowledges, and when.
//!
//! What must hold: it acknowledges what it verified against this primary and has as durably as the mode says, never the
//! end of its log; and from the moment it knows of a higher epoch, or has asked to take over, nothing of a lower one (O3).

use cutover_arbiter::planted;

use crate::machine::StateMachine;
use crate::protocol::peer::{Ack, PeerMessage};

use super::durable::Handed;
use super::follow::Stage;
use super::{Outbox, Output, Replica, Stance};

/// Before a follower is in sync it acknowledges unapplied entries only up to this part of what a backup may. With more
/// behind it, it would be counted on, and every client would wait for it, while it still works off what it missed.
const JOINS_WITHIN: usize = 64;
/// So many bytes more, or half of all that may wait, are worth an acknowledgement of their own.
const STEP: usize = 512 << 10;

impl<M: StateMachine> Replica<M> {
    /// What has just been handed to the journal may be durable before this turn is over: one acknowledgement then, not
    /// two. It is put off once and no more, or a steady stream of entries would put it off for ever; and not at all when
    /// something became durable in the meantime, for which somebody waits.
    pub(super) fn acknowledge_now_or_soon(&mut self, handed: bool, out: &mut Outbox<M>) {
        let put_off = handed && !std::mem::take(&mut self.acknowledgement_put_off) && !self.can_acknowledge_more();
        self.acknowledgement_put_off = put_off;
        if !put_off {
            self.acknowledge(out);
        }
    }

    /// In mode `memory` nothing is to be waited for, unless the disk was asked for something before.
    pub(super) fn acknowledge_ahead(&mut self, out: &mut Outbox<M>) {
        if self.flush_to_disk(out) != Handed::Waits {
            self.acknowledge(out);
        }
    }

    fn can_acknowledge_more(&self) -> bool {
        let Stance::Follow(follow) = &self.role else { return false };
        let Stage::Following(following) = &follow.stage else { return false };
        following.verified.min(self.disk.persisted) > follow.held_back.unwrap_or(following.told)
    }

    /// One acknowledgement, when one is due, of what is verified and persisted.
    fn acknowledge(&mut self, out: &mut Outbox<M>) {
        let (persisted, incarnation, applied) = (self.disk.persisted, self.incarnation, self.state.applied.index);
        let journal_age_ms = self.disk.age_ms(self.now.boot);
        let (known_epoch, now) = (self.known_epoch, self.now.boot);
        let held = self.log.last().index;
        // What is acknowledged may be committed, and more is sent: beyond this much of it unapplied, the primary has to
        // wait, and its clients with it.
        let bounded = self.log.within(applied, self.may_lag());
        let Some(group_id) = self.record.as_ref().map(|record| record.group_id) else { return };
        let Stance::Follow(follow) = &self.role else { return };
        // A restart must not forget the epoch in which something was acknowledged.
        let durable = matches!(&follow.stage, Stage::Following(following) if self.epoch_is_durable(following.epoch));
        let Stance::Follow(follow) = &mut self.role else { return };
        if follow.fenced || follow.unproven.is_some() || !durable {
            return;
        }
        let Stage::Following(following) = &mut follow.stage else { return };
        // A higher epoch is known: nothing of this one is acknowledged again (O3).
        if !following.ack_due || (following.epoch < known_epoch && !planted!("epoch_lower_ok")) {
            return;
        }
        following.ack_due = false;
        let verified = following.verified.min(persisted);
        (following.told, following.told_at) = (verified, now);
        follow.held_back = (bounded < verified).then_some(bounded);
        let ack = Ack {
            group_id,
            epoch: following.epoch,
            incarnation,
            handshake: following.handshake,
            verified: if planted!("ack_held") { held } else { verified.min(bounded) },
            round: following.round,
            applied,
            journal_age_ms,
        };
        out.outputs.push(Output::Send(following.link, PeerMessage::Ack(ack)));
    }

    /// Bytes of entries that may be acknowledged and not be applied.
    fn may_lag(&self) -> usize {
        let in_sync = self.record.as_ref().is_some_and(|record| record.has(&self.config.name, self.incarnation));
        let backlog = self.config.unacknowledged_bytes;
        if in_sync { backlog } else { backlog / JOINS_WITHIN }
    }

    /// Entries were applied; nothing is left to apply at present, or there is. True when the last acknowledgement was
    /// held back for them, and a further one says a good part more: not after every few, since each wakes the primary.
    pub(super) fn may_say_more(&self, left: bool) -> bool {
        let (applied, limit) = (self.state.applied.index, self.may_lag());
        let Stance::Follow(follow) = &self.role else { return false };
        let Some(told) = follow.held_back.filter(|_| matches!(follow.stage, Stage::Following(_))) else { return false };
        let good_part = || self.log.within(applied, limit - (limit / 2).min(STEP)) >= told;
        !left || (good_part() && self.log.within(applied, limit) > told)
    }

    /// Something became durable: there is more to acknowledge.
    pub(super) fn follower_persisted(&mut self) {
        if let Stance::Follow(follow) = &mut self.role
            && let Stage::Following(following) = &mut follow.stage
        {
            following.ack_due = true;
        }
    }
}
