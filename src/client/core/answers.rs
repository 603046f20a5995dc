//! What becomes of requests: replies, outcomes, refusals, deadlines, the end of a session.

use bytes::Bytes;
use cutover_arbiter::planted;

use super::window::{Operation, State};
use super::{Core, Event, Moment, Output, Ticket};
use crate::client::api::{OperationError, Reply, RequestRef};
use crate::protocol::client::{Outcome, Receipt, Refusal, Sequence};

impl Core {
    pub(super) fn on_reply(
        &mut self,
        now: Moment,
        sequence: Sequence,
        reply: Bytes,
        receipt: Receipt,
        out: &mut Vec<Output>,
    ) {
        if sequence >= self.window.next() {
            self.route.refused();
            self.down(now, format!("the replica answered request {sequence}, which was never sent"), out);
            return;
        }
        self.route.progressed();
        self.unannounced_bytes += reply.len();
        match self.window.settle(sequence) {
            Some(State::Live(operation)) => {
                self.answer(operation.ticket, operation.deadline, Ok(Reply { bytes: reply, receipt }), out);
            }
            Some(State::GivenUp { .. }) => self.tell(sequence, Outcome::Executed { reply: Some(reply) }, out),
            // A second answer to the same sequence is the same answer.
            Some(State::Settled) | None => {}
        }
    }

    pub(super) fn on_outcome(&mut self, now: Moment, sequence: Sequence, outcome: Outcome, out: &mut Vec<Output>) {
        self.route.progressed();
        if outcome == Outcome::Expired {
            self.end_session(out);
            self.down(now, String::from("the session expired"), out);
            return;
        }
        match self.window.get_mut(sequence).map(|slot| &slot.state) {
            Some(State::GivenUp { .. }) => {
                self.window.settle(sequence);
                self.tell(sequence, outcome, out);
            }
            // Nobody asks for the outcome of what its caller waits for: this is the answer to the request itself.
            Some(State::Live(_)) if outcome == (Outcome::Executed { reply: None }) => self.too_long(sequence, out),
            _ => {}
        }
    }

    /// The request was executed, and its reply fits into no frame.
    fn too_long(&mut self, sequence: Sequence, out: &mut Vec<Output>) {
        let Some(session) = self.session.as_ref().map(|session| session.id) else { return };
        if let Some(State::Live(operation)) = self.window.settle(sequence) {
            let error = OperationError::ReplyTooLong { request: RequestRef { session, sequence } };
            self.answer(operation.ticket, operation.deadline, Err(error), out);
        }
    }

    /// Remembers what became of a request that was given up, and tells whoever asks.
    fn tell(&mut self, sequence: Sequence, outcome: Outcome, out: &mut Vec<Output>) {
        let Some(session) = &self.session else { return };
        let settled = RequestRef { session: session.id, sequence };
        self.settled.insert(settled, outcome.clone());
        self.questions.retain(|ticket, (request, deadline)| {
            if *request == settled {
                self.deadlines.remove(&(*deadline, *ticket));
                out.push(Output::Told(*ticket, Ok(outcome.clone())));
            }
            *request != settled
        });
    }

    /// The replica refuses this request and all later ones on this connection; a new one resends them in order.
    pub(super) fn on_refused(&mut self, now: Moment, sequence: Sequence, reason: Refusal, out: &mut Vec<Output>) {
        let problem = format!("refused: {reason}");
        match reason {
            Refusal::SessionExpired => {
                self.account(sequence, &reason);
                self.end_session(out);
            }
            Refusal::NotEnoughReplicas { .. }
            | Refusal::WindowFull
            | Refusal::NoSession
            | Refusal::TooManySessions { .. }
            | Refusal::TimeoutTooLong { .. } => {
                self.account(sequence, &reason);
                self.route.refused();
            }
            // Says nothing about older connections, nor whether a newer one executed it.
            Refusal::Fenced => {}
            Refusal::Cancelled => self.decide(sequence, reason, Outcome::NotExecuted, out),
            Refusal::Acknowledged => self.decide(sequence, reason, Outcome::Executed { reply: None }, out),
        }
        self.down(now, problem, out);
    }

    fn decide(&mut self, sequence: Sequence, reason: Refusal, outcome: Outcome, out: &mut Vec<Output>) {
        match self.window.settle(sequence) {
            Some(State::Live(operation)) => {
                self.answer(operation.ticket, operation.deadline, Err(OperationError::Refused(reason)), out);
            }
            Some(State::GivenUp { .. }) => self.tell(sequence, outcome, out),
            Some(State::Settled) | None => {}
        }
    }

    /// Notes that the present connection did not execute `first` nor anything after it. A refusal without a sequence
    /// says nothing about the others.
    fn account(&mut self, first: Sequence, reason: &Refusal) {
        let Some(connection) = self.link.serving().filter(|_| first > 0) else { return };
        for (_, slot) in self.window.iter_mut().filter(|(sequence, _)| *sequence >= first) {
            if let State::Live(Operation { trail, .. }) = &mut slot.state
                && trail.carrier == connection
            {
                trail.unaccounted = trail.unaccounted.saturating_sub(1);
                trail.refusal = Some(reason.clone());
            }
        }
    }

    /// The session is gone. What certainly was not executed goes on in the next one; of the rest nobody can know.
    pub(super) fn end_session(&mut self, out: &mut Vec<Output>) {
        let Some(session) = self.session.take() else { return };
        let mut kept = Vec::new();
        let mut unknown = 0;
        for (sequence, slot) in self.window.drain() {
            match slot.state {
                State::Live(mut operation) if operation.trail.unaccounted == 0 || planted!("P18-client") => {
                    operation.trail = Default::default();
                    kept.push(operation);
                }
                State::Live(operation) => {
                    unknown += 1;
                    let request = RequestRef { session: session.id, sequence };
                    self.answer(
                        operation.ticket,
                        operation.deadline,
                        Err(OperationError::SessionExpired { request }),
                        out,
                    );
                }
                State::GivenUp { .. } | State::Settled => {}
            }
        }
        for operation in kept.into_iter().rev() {
            self.queue.push_front(operation);
        }
        self.settled.end(session.id);
        for (ticket, (_, deadline)) in std::mem::take(&mut self.questions) {
            self.deadlines.remove(&(deadline, ticket));
            out.push(Output::Told(ticket, Ok(Outcome::Expired)));
        }
        out.push(Output::Event(Event::SessionExpired { session: session.id, unknown }));
    }

    /// The deadline of an operation or a question passed.
    pub(super) fn too_late(&mut self, ticket: Ticket, out: &mut Vec<Output>) {
        let last_problem = self.problem.clone();
        if let Some((request, _)) = self.questions.remove(&ticket) {
            out.push(Output::Told(ticket, Err(OperationError::Unknown { request, last_problem })));
        } else if let Some(sequence) = self.window.sequence_of(ticket) {
            let error = self.give_up(sequence, last_problem);
            out.extend(error.map(|error| Output::Answer(ticket, Err(error))));
        } else if let Ok(position) = self.queue.binary_search_by_key(&ticket, |operation| operation.ticket) {
            self.queue.remove(position);
            out.push(Output::Answer(ticket, Err(OperationError::NotSent { last_problem })));
        }
    }

    fn give_up(&mut self, sequence: Sequence, last_problem: String) -> Option<OperationError> {
        let session = self.session.as_ref()?.id;
        let slot = self.window.get_mut(sequence)?;
        let State::Live(operation) = &mut slot.state else { return None };
        if operation.trail.unaccounted == 0 || planted!("P11") {
            // Every connection that carried it said that it was not executed: its place is free.
            let refusal = operation.trail.refusal.take();
            self.window.settle(sequence);
            return Some(refusal.map_or(OperationError::NotSent { last_problem }, OperationError::Refused));
        }
        // The sequence keeps its place, so that the announced lowest unanswered one stays true.
        slot.state = State::GivenUp { asked: None };
        Some(OperationError::Unknown { request: RequestRef { session, sequence }, last_problem })
    }
}
