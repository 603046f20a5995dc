//! The connection: dialled, greeted, served on, lost, and made again.

use cutover_arbiter::record::{Epoch, GroupRecord};

use super::route::{Life, begins_tenure};
use super::window::{Operation, State, Trail};
use super::{Connection, Core, Event, Moment, Output, Session};
use crate::client::api::{OperationError, RequestRef};
use crate::protocol::client::{FromClient, SessionId, ToClient};

/// Cut-overs after which an operation is reported instead of sent again.
const MOST_CUT_OVERS: u8 = 2;

/// How the one connection stands; each state has only what is legal in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// There is none. Dialled again at `retry_at`, or when a newer record is told.
    Down { retry_at: Option<Moment> },
    /// Being made.
    Dialing { connection: Connection, address: String, until: Moment },
    /// `Hello` was sent.
    Greeting { connection: Connection, address: String, until: Moment },
    /// `Open` was sent. No deadline: a session opened twice stays until it expires.
    Opening { connection: Connection, address: String, primary: Primary },
    /// Requests may be sent.
    Serving { connection: Connection, primary: Primary },
}

/// Who welcomed us, and in which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Primary {
    life: Life,
    epoch: Epoch,
}

impl Link {
    pub(super) fn connection(&self) -> Option<Connection> {
        match self {
            Link::Down { .. } => None,
            Link::Dialing { connection, .. }
            | Link::Greeting { connection, .. }
            | Link::Opening { connection, .. }
            | Link::Serving { connection, .. } => Some(*connection),
        }
    }

    pub(super) fn serving(&self) -> Option<Connection> {
        match self {
            Link::Serving { connection, .. } => Some(*connection),
            _ => None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        match self {
            Link::Down { retry_at } => *retry_at,
            Link::Dialing { until, .. } | Link::Greeting { until, .. } => Some(*until),
            Link::Opening { .. } | Link::Serving { .. } => None,
        }
    }

    /// Somebody waits now: the next attempt is made at `latest` at the latest.
    pub(super) fn hasten(&mut self, latest: Moment) {
        if let Link::Down { retry_at: Some(retry_at) } = self {
            *retry_at = latest.min(*retry_at);
        }
    }

    /// True when `record` says that this connection leads to the wrong replica, or to a past life of the right one.
    fn is_outdated_by(&self, record: &GroupRecord) -> bool {
        match self {
            Link::Down { .. } => true,
            Link::Dialing { address, .. } | Link::Greeting { address, .. } => {
                *address != record.primary.addresses.client
            }
            Link::Opening { primary, .. } | Link::Serving { primary, .. } => {
                primary.life != Life::of_primary(record) || (primary.epoch < record.epoch && begins_tenure(record))
            }
        }
    }
}

impl Trail {
    pub(super) fn carried_by(&mut self, connection: Connection, tenure: u64) {
        self.unaccounted += 1;
        self.carrier = connection;
        self.tenure = tenure;
        self.given_back = false;
    }
}

impl Core {
    /// What the arbiters say.
    pub(super) fn on_record(&mut self, now: Moment, record: &GroupRecord, out: &mut Vec<Output>) {
        if self.route.is_another_group(record) && !self.closed {
            return self.begin_anew(now, record, out);
        }
        if self.learn(record, out) && self.link.is_outdated_by(record) {
            if !matches!(self.link, Link::Down { .. }) {
                self.problem = format!("epoch {} began: {}", record.epoch, record.last_change.change.name());
                self.hang_up(out);
            }
            self.dial(now, out);
        }
    }

    /// The arbiters lost everything and the group was made anew, whatever its epoch. Only their word counts: a replica of
    /// the old one may live on and say what it knows. The session was the old group's, and an id of the new one may be
    /// the same: it ends here. Of what it carried nobody can know; the rest goes on in a session of the new group.
    fn begin_anew(&mut self, now: Moment, record: &GroupRecord, out: &mut Vec<Output>) {
        self.hang_up(out);
        self.problem = format!("the group was made anew, as {}", record.group_id);
        self.link = Link::Down { retry_at: None };
        self.route.begin_anew(record);
        out.push(Output::Record(Box::new(record.clone())));
        self.end_session(out);
        self.dial(now, out);
    }

    /// Takes note of a newer record and tells it.
    pub(super) fn learn(&mut self, record: &GroupRecord, out: &mut Vec<Output>) -> bool {
        let newer = !self.closed && self.route.learn(record);
        if newer {
            out.push(Output::Record(Box::new(record.clone())));
        }
        newer
    }

    pub(super) fn hang_up(&mut self, out: &mut Vec<Output>) {
        if let Some(connection) = self.link.connection() {
            out.push(Output::HangUp(connection));
        }
    }

    /// The connection is over; the next attempt follows after the pause that is due.
    pub(super) fn down(&mut self, now: Moment, problem: String, out: &mut Vec<Output>) {
        self.hang_up(out);
        out.push(Output::Event(Event::Down { problem: problem.clone() }));
        self.problem = problem;
        let pause = self.route.pause(!self.is_idle());
        if pause.is_zero() {
            self.dial(now, out);
        } else {
            self.link = Link::Down { retry_at: Some(now + pause) };
        }
    }

    fn dial(&mut self, now: Moment, out: &mut Vec<Output>) {
        match self.route.target().map(str::to_owned) {
            Some(address) => {
                self.connection += 1;
                out.push(Output::Dial { connection: self.connection, address: address.clone() });
                let until = now + self.config.connect_timeout;
                self.link = Link::Dialing { connection: self.connection, address, until };
            }
            None => {
                let primary = &self.route.record().primary.replica;
                self.problem = format!("the primary, {primary}, has no port for clients; give it one");
                self.link = Link::Down { retry_at: None };
            }
        }
    }

    pub(super) fn on_link_deadline(&mut self, now: Moment, out: &mut Vec<Output>) {
        let timeout = self.config.connect_timeout;
        match &self.link {
            Link::Down { .. } => self.dial(now, out),
            Link::Dialing { address, .. } => {
                let problem = format!("{address} accepts no connection within {timeout:?}");
                self.down(now, problem, out);
            }
            Link::Greeting { address, .. } => {
                let problem = format!("{address} does not answer the handshake within {timeout:?}");
                self.down(now, problem, out);
            }
            Link::Opening { .. } | Link::Serving { .. } => {}
        }
    }

    pub(super) fn on_connected(&mut self, now: Moment, connection: Connection, out: &mut Vec<Output>) {
        let Link::Dialing { connection: dialled, address, .. } = &self.link else { return };
        if *dialled != connection {
            return;
        }
        self.announced = self.window.base();
        self.announce_at = None;
        self.unannounced_bytes = 0;
        let hello = FromClient::Hello {
            group: self.route.record().group.clone(),
            name: self.config.name.clone(),
            machine: self.config.machine.clone(),
            session: self.session.as_ref().map(|session| session.id),
            oldest_unanswered: self.announced,
            record: Some(Box::new(self.route.record().clone())),
        };
        out.push(Output::Send(connection, hello));
        let until = now + self.config.connect_timeout;
        self.link = Link::Greeting { connection, address: address.clone(), until };
    }

    pub(super) fn on_message(&mut self, now: Moment, connection: Connection, message: ToClient, out: &mut Vec<Output>) {
        match (&self.link, message) {
            (_, ToClient::Redirect { record }) => self.on_redirect(now, connection, record.as_deref(), out),
            (_, ToClient::Refused { sequence, reason }) => self.on_refused(now, sequence, reason, out),
            (Link::Greeting { .. }, ToClient::Welcome { record, max_request }) => {
                self.on_welcome(now, connection, &record, max_request, out);
            }
            (Link::Opening { .. }, ToClient::Opened { session, .. }) => self.on_opened(now, session, out),
            (Link::Serving { .. }, ToClient::Reply { sequence, reply, receipt }) => {
                self.on_reply(now, sequence, reply, receipt, out);
            }
            (Link::Serving { .. }, ToClient::OutcomeIs { sequence, outcome, .. }) => {
                self.on_outcome(now, sequence, outcome, out);
            }
            (Link::Serving { .. }, ToClient::Alive) => {
                if let Some(session) = &mut self.session {
                    session.renew_at = now + self.config.session_timeout / 3;
                    session.renewing = None;
                }
                self.route.progressed();
            }
            (_, message) => {
                let kind = match message {
                    ToClient::Welcome { .. } => "a second welcome",
                    ToClient::Opened { .. } => "a session that was not asked for",
                    _ => "an answer before the handshake was over",
                };
                self.route.refused();
                self.down(now, format!("the replica sent {kind}"), out);
            }
        }
    }

    fn on_redirect(
        &mut self,
        now: Moment,
        connection: Connection,
        record: Option<&GroupRecord>,
        out: &mut Vec<Output>,
    ) {
        // The replica lives and gave back what this connection carried: no loss of it counts against that.
        for (_, slot) in self.window.iter_mut() {
            if let State::Live(Operation { trail, .. }) = &mut slot.state
                && trail.carrier == connection
            {
                trail.given_back = true;
            }
        }
        let newer = record.is_some_and(|record| self.learn(record, out));
        if !newer {
            // Only a higher epoch is followed at once, so replicas that point at each other cannot make us spin.
            self.route.refused();
        }
        self.down(now, String::from("the replica is not the primary"), out);
    }

    fn on_welcome(
        &mut self,
        now: Moment,
        connection: Connection,
        record: &GroupRecord,
        max_request: u64,
        out: &mut Vec<Output>,
    ) {
        let Link::Greeting { address, .. } = &self.link else { return };
        let address = address.clone();
        let life = Life::of_primary(record);
        self.learn(record, out);
        let known = self.route.record();
        if record.group_id != known.group_id {
            let problem = format!("{address} serves another group of this name ({})", record.group_id);
            self.route.refused();
            self.down(now, problem, out);
            return;
        }
        if record.epoch < known.epoch && life != Life::of_primary(known) {
            let problem = format!("{address} serves in epoch {}, but epoch {} is known", record.epoch, known.epoch);
            self.route.refused();
            self.down(now, problem, out);
            return;
        }
        self.route.welcomed_by(record);
        self.max_request = usize::try_from(max_request).unwrap_or(usize::MAX);
        let primary = Primary { life, epoch: record.epoch };
        if self.session.is_some() {
            self.serve(connection, address, primary, out);
        } else {
            let timeout_ms = u64::try_from(self.config.session_timeout.as_millis()).unwrap_or(u64::MAX);
            out.push(Output::Send(connection, FromClient::Open { timeout_ms }));
            self.link = Link::Opening { connection, address, primary };
        }
    }

    fn on_opened(&mut self, now: Moment, id: SessionId, out: &mut Vec<Output>) {
        let Link::Opening { connection, address, primary } = self.link.clone() else { return };
        if self.settled.ended(id) {
            // An earlier group's session had this name: whoever asks for its outcomes would be told of these. The next
            // one has another.
            let timeout_ms = u64::try_from(self.config.session_timeout.as_millis()).unwrap_or(u64::MAX);
            out.push(Output::Send(connection, FromClient::Open { timeout_ms }));
            return;
        }
        self.session = Some(Session { id, renew_at: now + self.config.session_timeout / 3, renewing: None });
        self.route.progressed();
        out.push(Output::Event(Event::SessionOpened(id)));
        self.serve(connection, address, primary, out);
    }

    /// Everything that is not settled goes out again, in order, before anything new.
    fn serve(&mut self, connection: Connection, address: String, primary: Primary, out: &mut Vec<Output>) {
        self.link = Link::Serving { connection, primary };
        self.report_poisonous(out);
        self.problem = format!("the primary at {address} has not answered yet");
        out.push(Output::Event(Event::Serving { address, resent: self.window.len() }));
        let lowest_unanswered = self.window.base();
        let tenure = self.route.tenure();
        for (sequence, slot) in self.window.iter_mut() {
            match &mut slot.state {
                State::Live(operation) => {
                    operation.trail.carried_by(connection, tenure);
                    let (write, operation) = (operation.write, operation.body.clone());
                    let request = FromClient::Request { sequence, lowest_unanswered, write, operation };
                    out.push(Output::Send(connection, request));
                }
                State::GivenUp { asked } => {
                    *asked = Some(connection);
                    out.push(Output::Send(connection, FromClient::Outcome { ticket: sequence, sequence }));
                }
                State::Settled => {}
            }
        }
    }

    /// Gives up what a second primary was lost with, before it is sent to a third.
    fn report_poisonous(&mut self, out: &mut Vec<Output>) {
        let Some(session) = self.session.as_ref().map(|session| session.id) else { return };
        let tenure = self.route.tenure();
        let after_loss = self.route.tenure_began_with_a_loss();
        for (sequence, slot) in self.window.iter_mut() {
            let State::Live(operation) = &mut slot.state else { continue };
            let trail = &mut operation.trail;
            if after_loss && trail.unaccounted > 0 && trail.tenure != tenure && !trail.given_back {
                trail.cut_overs += 1;
            }
            if trail.cut_overs >= MOST_CUT_OVERS {
                self.deadlines.remove(&(operation.deadline, slot.ticket));
                let request = RequestRef { session, sequence };
                let error = OperationError::Poisonous { request, last_problem: self.problem.clone() };
                out.push(Output::Answer(slot.ticket, Err(error)));
                slot.state = State::GivenUp { asked: None };
            }
        }
    }
}
