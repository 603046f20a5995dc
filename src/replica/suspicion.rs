//! When a backup suspects its primary, and what it does then: it stops acknowledging and asks to take over.
//!
//! What must hold: silence counts only while this loop ran; a primary that waits for this replica's own disk is not to
//! blame for it. Suspicion by a refused dial is found where the dial is (`follow`).

use std::time::Duration;

use cutover_arbiter::planted;
use cutover_arbiter::record::Change;

use crate::machine::StateMachine;
use crate::protocol::peer::{AppendHead, WaitsFor};

use super::follow::{Follow, Stage};
use super::{Event, LinkId, Outbox, Replica, Stance};

/// A primary that waits for a third replica has so many times `suspect_after` to remove it: more than it takes to suspect
/// one that does not persist.
const OTHERS_PATIENCE: u32 = 8;

/// For so many times `suspect_after` parts of one message are signs of life, which is when a primary removes a backup that
/// does not acknowledge (`members`).
const PARTS: u32 = 4;

impl<M: StateMachine> Replica<M> {
    /// One whose disk hangs could not begin an epoch; the disk wakes it. One that is about to stop would leave the group
    /// to nobody: the other copies, and itself when it is back, can still take over from a primary that died.
    fn may_take_over(&self) -> bool {
        self.is_backup() && !self.disk_hangs() && self.stopping.is_none()
    }

    pub(super) fn may_suspect(&self, follow: &Follow<M::Restore>) -> bool {
        self.may_take_over() && follow.suspicion.is_none()
    }

    /// When a loop that runs is back at the latest. A backup need not be woken so often while it hears its primary, but
    /// silence that is longer than this in one piece was not listened to.
    pub(super) fn due_back(&self, deadline: Option<Duration>) -> Option<Duration> {
        let listens = matches!(&self.role, Stance::Follow(follow) if self.may_suspect(follow));
        let listens = listens.then(|| self.now.boot + self.config.heartbeat);
        deadline.into_iter().chain(listens).min()
    }

    /// A backup that hears its primary is awake; one that does not has to prove it. It is due soon after the heartbeat
    /// that should have come, and from then on as often as one should.
    pub(super) fn awake_at(&self, follow: &Follow<M::Restore>) -> Duration {
        let (now, heartbeat) = (self.now.boot, self.config.heartbeat);
        let overdue = follow.heard() + heartbeat + heartbeat / 4;
        if now < overdue { overdue } else { now + heartbeat }
    }

    /// Silence of the primary, as seen by a loop that did run.
    pub(super) fn check_silence(&mut self, out: &mut Outbox<M>) {
        let backup = self.is_backup();
        let now = self.now.boot;
        let Stance::Follow(follow) = &mut self.role else { return };
        let silence = now.saturating_sub(follow.heard());
        if follow.stage.link().is_some() && now >= follow.patience + self.config.suspect_after * 4 {
            // Nothing comes of this link; a new one may be luckier.
            self.drop_upstream(out);
        }
        if backup && silence >= self.config.suspect_after {
            self.suspect("silent", out);
        }
    }

    /// More of a message of the primary has come, and it is not whole yet. An entry of 32 MiB over a gigabit a second
    /// takes 270 ms, more than is left of `drop_backup_after` beside a heartbeat. Whoever sends it lives; and since no
    /// heartbeat can overtake it, this replica says meanwhile that it lives, too: it acknowledges again what it holds.
    ///
    /// Not without end: after four times `suspect_after` without a whole message parts say nothing any more. By then the
    /// primary removes whom it waits for; one that cannot, or whose frame was damaged and never ends, is suspected. (What
    /// followers send is small: no primary hears them in part.)
    pub(super) fn heard_in_part(&mut self, link: LinkId) {
        let (now, config, known_epoch) = (self.now.boot, &self.config, self.known_epoch);
        let Stance::Follow(follow) = &mut self.role else { return };
        let goes_on = now < follow.heard_whole + config.suspect_after * PARTS;
        let Stage::Following(following) = &mut follow.stage else { return };
        // Of a lower epoch than is known here nothing is heard, whole or in part.
        if following.link != link || following.epoch < known_epoch || !goes_on {
            return;
        }
        following.ack_due |= now >= following.told_at + config.heartbeat;
        follow.be_patient(now);
        follow.patience = now;
    }

    /// A backup suspects its primary: it stops acknowledging and asks to take over.
    pub(super) fn suspect(&mut self, why: &'static str, out: &mut Outbox<M>) {
        let Some(record) = self.record.clone().filter(|_| self.may_take_over()) else { return };
        let now = self.now.boot;
        let Stance::Follow(follow) = &mut self.role else { return };
        if let Some(pending) = &mut self.proposal {
            // Asked before; the primary had come back in the meantime, and is suspected anew.
            if follow.suspicion.is_some() || pending.proposal.change != Change::TakeOver {
                return;
            }
            pending.repeat_at.get_or_insert(now);
        }
        let first = follow.suspicion.is_none();
        follow.suspicion.get_or_insert((now, why));
        follow.fenced = true;
        if !planted!("P4") {
            self.drop_upstream(out);
        }
        if first {
            self.event(out, Event::Suspected { replica: record.primary.replica.clone(), why });
        }
        self.propose(Change::TakeOver, out);
    }

    /// How long a primary has to remove whoever keeps it waiting.
    pub(super) fn others_patience(&self) -> Duration {
        self.config.suspect_after * OTHERS_PATIENCE
    }

    /// Its acknowledgement waits for what it could have applied by now.
    pub(super) fn holds_back(&self) -> bool {
        let Stance::Follow(follow) = &self.role else { return false };
        follow.held_back.is_some() && self.state.applied.index < follow.may_apply()
    }

    /// True when the primary cannot release, and not for this replica's sake: another primary would wait for this disk
    /// just the same. A third replica that keeps it waiting is the primary's to remove, unless that takes too long.
    pub(super) fn is_stuck(&self, head: &AppendHead) -> bool {
        let patience = match head.output_waits_for {
            WaitsFor::Primary | WaitsFor::Receiver => self.config.suspect_after,
            WaitsFor::Another => self.others_patience(),
        };
        let mine =
            || self.disk.age_ms(self.now.boot) >= super::millis(self.config.suspect_after / 2) || self.holds_back();
        head.output_age_ms >= super::millis(patience) && !mine()
    }
}

#[cfg(test)]
#[path = "suspicion_tests.rs"]
mod tests;
