//! The one change in flight, and what counts as its answer.
//!
//! An answer is `Granted` or `Refused` to that very request, or a record of a higher epoch. A time-out is none: the same
//! request is asked again, and binds until it is answered.

use std::time::Duration;

use cutover_arbiter::planted;
use cutover_arbiter::record::{Answer, Change, Epoch, GroupRecord, Proposal, RefusalReason, RequestId};

use crate::machine::StateMachine;

use super::{Event, Outbox, Output, Replica, Stance, draw};

/// Asked again after this even if nobody said that it is unanswered. The shell gives up long before; any number of
/// askings is safe.
const BACKSTOP: Duration = Duration::from_secs(30);

/// A proposal without an answer.
#[derive(Debug, Clone, Hash)]
pub(super) struct Pending {
    pub(super) proposal: Proposal,
    /// When it was asked for the first time.
    asked: Duration,
    /// When to ask again; `None` for a take-over that is left as it is.
    pub(super) repeat_at: Option<Duration>,
}

/// Late by more than this part of `suspect_after`, a loop counts as having been stopped, and an answer as old news.
pub(super) const LATE_PART: u32 = 4;

/// Whose request a record is the grant of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// Another's, or an operator's.
    NotMine,
    /// This replica's own, which has just asked.
    Prompt,
    /// This replica's own, which asked a while ago: it stood still since then, or nobody answered, or the arbiters
    /// remember what they said. Only a member can have been granted anything since, or an operator, who may have taken
    /// this replica for dead.
    Late,
}

impl<M: StateMachine> Replica<M> {
    /// What a record that was just granted is to this replica.
    pub(super) fn grant_of(&self, record: &GroupRecord) -> Grant {
        let request = record.last_change.request;
        if !self.own_requests.contains_key(&request) {
            return Grant::NotMine;
        }
        let since = |pending: &&Pending| self.now.boot.saturating_sub(pending.asked);
        let prompt = |pending: &&Pending| since(pending) <= self.config.suspect_after / LATE_PART;
        match self.proposal.as_ref().filter(|pending| pending.proposal.request == request).filter(prompt) {
            Some(_) => Grant::Prompt,
            None => Grant::Late,
        }
    }

    /// Proposes `change` at the newest epoch known. At most one change is in flight.
    pub(super) fn propose(&mut self, change: Change, out: &mut Outbox<M>) {
        if self.proposal.is_some() {
            return;
        }
        let mut request = RequestId(draw(&mut self.random));
        if planted!("reuse_req") {
            request = RequestId(self.config.name.as_str().bytes().fold(0, |all, byte| all << 8 | u128::from(byte)));
        }
        let expected_epoch = self.record.as_ref().map_or(Epoch(0), |record| record.epoch);
        let proposal = Proposal {
            group: self.config.group.clone(),
            expected_epoch,
            request,
            proposer: Some((self.config.name.clone(), self.incarnation)),
            change,
            commit: self.commit_position(),
            held: self.log.last(),
            floor: Epoch(0),
        };
        self.own_requests.insert(request, expected_epoch);
        self.proposal = Some(Pending {
            proposal: proposal.clone(),
            asked: self.now.boot,
            repeat_at: Some(self.now.boot + BACKSTOP),
        });
        out.outputs.push(Output::Propose(Box::new(proposal)));
    }

    /// Asks again what was given up without an answer. A take-over whose primary is back is not repeated, but stays
    /// open: it may still be granted.
    pub(super) fn repeat_proposal(&mut self, out: &mut Outbox<M>) {
        let primary_is_back = match &self.role {
            Stance::Follow(follow) => follow.suspicion.is_none(),
            _ => false,
        };
        let now = self.now.boot;
        let Some(pending) = &mut self.proposal else { return };
        if pending.repeat_at.is_none_or(|at| at > now) {
            return;
        }
        if primary_is_back && pending.proposal.change == Change::TakeOver {
            pending.repeat_at = None;
            return;
        }
        pending.repeat_at = Some(now + BACKSTOP);
        out.outputs.push(Output::Propose(Box::new(pending.proposal.clone())));
    }

    pub(super) fn unanswered(&mut self, request: RequestId) {
        let again = self.now.boot + self.config.propose_again_after;
        if let Some(pending) = self.proposal.as_mut().filter(|pending| pending.proposal.request == request) {
            pending.repeat_at = Some(again);
        }
    }

    pub(super) fn answered(&mut self, request: RequestId, answer: Answer, out: &mut Outbox<M>) {
        match answer {
            // A grant names its request: the record of another one is news, and no answer.
            Answer::Granted(record) => {
                if record.last_change.request != request {
                    self.unanswered(request);
                }
                self.learn(record, out);
            }
            Answer::Refused { record, reason } => {
                let Some(pending) = self.proposal.take_if(|pending| pending.proposal.request == request) else {
                    return;
                };
                let change = pending.proposal.change;
                self.own_requests.remove(&request);
                self.event(out, Event::Refused { change: change.name(), reason: reason.to_string() });
                let shown = record.as_ref().map_or(Epoch::default(), |record| record.epoch);
                let expected = pending.proposal.expected_epoch;
                if shown < expected && !planted!("H10") {
                    // A refusal comes from applying the request: it shows what the arbiters know as well as a read does.
                    self.arbiters_forgot(expected, shown, out);
                }
                let before = self.known_epoch;
                let old_image = matches!(reason, RefusalReason::OldImage { .. });
                if let Some(record) = record {
                    self.learn(record, out);
                }
                self.change_refused(&change, self.known_epoch > before, out);
                if old_image {
                    self.renew("its data is older than what the group has committed", out);
                    self.check_waits_for_seize(out);
                }
            }
        }
    }
}
