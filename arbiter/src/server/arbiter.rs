//! The loop of one arbiter: what happens goes into Raft, what Raft says is done. It owns the registers, and nothing it
//! does waits: the disk has a thread, every connection a task.
//!
//! A turn takes in all that is ready and runs what comes out in order. An answer to a proposal comes from applying its log entry and from nowhere else.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::callers::Callers;
use super::connection::{NO_LEADER, Shared};
use super::disk::{Disk, Durable};
use super::event::Event;
use super::link::Link;
use super::metrics::Metrics;
use super::options::{Options, ServeError};
use super::peer::ToPeer;
use super::questions::{Asker, Place, Questions};
use crate::protocol::{ArbiterRole, ArbiterStatus, Question, Reply};
use crate::raft::{Entry, Input, LogIndex, Nanos, NodeId, Output, Raft, Role, Snapshot};
use crate::record::{Answer, Command, Registers};

/// A question without a reply is told to retry after this long; its caller has long asked elsewhere, too.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most events taken in one turn.
const TURN: usize = 256;
/// A question that was moved this often goes back to its caller.
const MOST_MOVES: u32 = 8;

pub(super) struct Arbiter {
    pub(super) id: NodeId,
    pub(super) members: Vec<(u64, String)>,
    pub(super) raft: Raft,
    pub(super) registers: Registers,
    pub(super) applied: LogIndex,
    pub(super) links: BTreeMap<NodeId, Link>,
    pub(super) disk: Disk,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) callers: Callers,
    pub(super) questions: Questions,
    pub(super) outputs: VecDeque<Output>,
    pub(super) snapshot_wanted: Option<LogIndex>,
    /// Nanoseconds of Raft's clock are counted from here.
    pub(super) start: Instant,
}

/// What the loop is given to start with.
pub(super) struct Parts {
    pub(super) raft: Raft,
    pub(super) links: BTreeMap<NodeId, Link>,
    pub(super) disk: Disk,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) start: Instant,
}

impl Arbiter {
    pub(super) fn new(options: &Options, parts: Parts) -> Self {
        let Parts { raft, links, disk, shared, metrics, start } = parts;
        Self {
            id: options.id,
            members: options.peers.clone(),
            raft,
            registers: Registers::default(),
            applied: 0,
            links,
            disk,
            shared,
            metrics,
            callers: Callers::default(),
            questions: Questions::default(),
            outputs: VecDeque::new(),
            snapshot_wanted: None,
            start,
        }
    }

    /// Runs until `shutdown` completes or nothing more can be promised.
    pub(super) async fn run(
        &mut self,
        mut events: mpsc::Receiver<Event>,
        mut durable: mpsc::UnboundedReceiver<Durable>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        tokio::pin!(shutdown);
        let mut batch = Vec::with_capacity(TURN);
        self.step(Input::Tick);
        self.work()?;
        loop {
            let raft = self.start + Duration::from_nanos(self.raft.next_deadline());
            let wake = self.questions.next_deadline().map_or(raft, |question| question.min(raft));
            tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                done = durable.recv() => {
                    let gone = || ServeError::System { what: "write", error: io::Error::other("the store's thread ended") };
                    self.step(Input::Persisted { upto: done.ok_or_else(gone)?? });
                }
                _ = events.recv_many(&mut batch, TURN) => {
                    for event in batch.drain(..) {
                        self.take(event);
                    }
                }
                () = sleep_until(wake) => self.step(Input::Tick),
            }
            self.work()?;
            let now = Instant::now();
            while let Some(ticket) = self.questions.overdue(now) {
                self.retry(ticket, "no answer from a majority of the arbiters in time");
            }
        }
    }

    fn now(&self) -> Nanos {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.raft.step(self.now(), input, &mut out);
        self.outputs.extend(out);
    }

    /// Runs what Raft gave out, in order, and what follows from it.
    fn work(&mut self) -> Result<(), ServeError> {
        while let Some(output) = self.outputs.pop_front() {
            self.perform(output)?;
        }
        Ok(())
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Opened { connection, outbox } => self.callers.opened(connection, outbox),
            Event::Closed { connection } => self.callers.closed(connection),
            Event::Ask { connection, id, question } => self.ask(connection, id, question),
            Event::Watch { connection, group } => {
                let record = self.registers.get(&group);
                self.callers.watch(connection, group, record);
            }
            Event::Unwatch { connection, group } => self.callers.unwatch(connection, &group),
            Event::PeerConnected { from } => {
                if let Some(link) = self.links.get(&from) {
                    link.nudge();
                }
            }
            Event::Raft { from, message } => self.step(Input::Message { from, message }),
            Event::Forward { from, ticket, question } => self.accept(Asker::Peer { from, ticket }, *question),
            Event::Forwarded { ticket, reply } => match *reply {
                // The one we thought leads does not, or cannot now: wait for the next leader, or for time.
                Reply::Retry { .. } if self.raft.leader().is_none() => self.park(ticket),
                reply => self.finish(ticket, reply),
            },
            Event::Status { answer } => {
                self.metrics.callers(self.callers.len());
                // Whoever asked may have gone.
                let _ = answer.send(self.status());
            }
        }
    }

    fn ask(&mut self, connection: u64, id: u64, question: Question) {
        self.metrics.question(&question);
        if !self.callers.asked(connection) {
            return self.callers.refused(connection, id, self.shared.leader(), "too many open questions");
        }
        if question == Question::Status {
            let status = Reply::Status(self.status());
            return self.callers.replied(connection, id, self.shared.leader(), status);
        }
        self.accept(Asker::Caller { connection, id }, question);
    }

    fn accept(&mut self, asker: Asker, question: Question) {
        match self.questions.add(asker, question, Instant::now() + PATIENCE) {
            Some(ticket) => self.dispatch(ticket),
            None => self.reply(asker, Reply::Retry { reason: String::from("too many questions are open here") }),
        }
    }

    /// Sends a question where it can be answered now.
    fn dispatch(&mut self, ticket: u64) {
        let leader = self.raft.leader();
        let Some(open) = self.questions.get_mut(ticket) else { return };
        open.moves += 1;
        if open.moves > MOST_MOVES {
            return self.retry(ticket, "the leader changes too often");
        }
        match (leader, open.asker) {
            (Some(leader), _) if leader == self.id => {
                open.place = Place::Raft;
                let input = match &open.question {
                    Question::TestAndSet(proposal) => {
                        let command = Command { at_ms: wall_clock_ms(), proposal: (**proposal).clone() };
                        Input::Propose { ticket, data: command.encode() }
                    }
                    _ => Input::Read { ticket },
                };
                self.step(input);
            }
            (_, Asker::Peer { .. }) => self.retry(ticket, "the arbiter that was asked does not lead"),
            (Some(leader), Asker::Caller { .. }) => {
                open.place = Place::Forwarded;
                let forward = ToPeer::Forward { ticket, question: Box::new(open.question.clone()) };
                if !self.links.get_mut(&leader).is_some_and(|link| link.send(&forward)) {
                    self.retry(ticket, "the leader cannot be reached from this arbiter at the moment");
                }
            }
            (None, Asker::Caller { .. }) => open.place = Place::Parked,
        }
    }

    fn park(&mut self, ticket: u64) {
        if let Some(open) = self.questions.get_mut(ticket) {
            open.place = Place::Parked;
        }
    }

    fn retry(&mut self, ticket: u64, reason: &str) {
        self.finish(ticket, Reply::Retry { reason: reason.to_owned() });
    }

    fn finish(&mut self, ticket: u64, reply: Reply) {
        if let Some(open) = self.questions.remove(ticket) {
            self.reply(open.asker, reply);
        }
    }

    fn reply(&mut self, asker: Asker, reply: Reply) {
        match asker {
            Asker::Caller { connection, id } => self.callers.replied(connection, id, self.shared.leader(), reply),
            Asker::Peer { from, ticket } => {
                if let Some(link) = self.links.get_mut(&from) {
                    // A lost reply is asked for again by its caller.
                    let _ = link.send(&ToPeer::Forwarded { ticket, reply: Box::new(reply) });
                }
            }
        }
    }

    fn perform(&mut self, output: Output) -> Result<(), ServeError> {
        match output {
            Output::Persist(batch) => self.disk.write(batch),
            Output::Send { to, message } => {
                if let Some(link) = self.links.get_mut(&to) {
                    // Raft repeats what is lost.
                    let _ = link.send(&ToPeer::Raft(message));
                }
            }
            Output::Apply { entries } => {
                for entry in entries {
                    self.apply(entry)?;
                }
                self.snapshot_if_wanted();
            }
            Output::Restore { snapshot } => self.restore(&snapshot)?,
            Output::TakeSnapshot { index } => {
                self.snapshot_wanted = Some(index);
                self.snapshot_if_wanted();
            }
            Output::SnapshotRefused { index, bytes, limit } => {
                tracing::error!(index, bytes, limit, "snapshot.refused: too large; no further change can be granted");
            }
            Output::Proposed { ticket, index, term } => self.questions.proposed(ticket, index, term),
            Output::Rejected { ticket, leader } | Output::ReadRejected { ticket, leader } => {
                if leader == Some(self.id) {
                    self.retry(ticket, "too much waits to be committed; is a majority of the arbiters running?");
                } else {
                    self.dispatch(ticket);
                }
            }
            Output::ReadReady { ticket, .. } => self.read(ticket),
            Output::Leadership { leader, term } => self.leadership(leader, term),
        }
        Ok(())
    }

    fn apply(&mut self, entry: Entry) -> Result<(), ServeError> {
        self.applied = entry.index;
        let proposed = self.questions.applied(entry.index);
        if !entry.data.is_empty() {
            let command = Command::decode(&entry.data)?;
            let (group, change) = (command.proposal.group.clone(), command.proposal.change.name());
            let before = self.registers.get(&group).map(|record| record.epoch);
            let answer = self.registers.apply(command);
            self.metrics.answer(change, &answer);
            match &answer {
                Answer::Granted(record) if before < Some(record.epoch) => {
                    tracing::info!(%group, epoch = %record.epoch, change, primary = %record.primary.replica, "record.granted");
                    self.callers.tell(record);
                }
                Answer::Granted(_) => {}
                Answer::Refused { reason, .. } => tracing::info!(%group, change, %reason, "record.refused"),
            }
            if let Some((term, ticket)) = proposed
                && term == entry.term
            {
                self.finish(ticket, Reply::Answer(answer));
                return Ok(());
            }
        }
        if let Some((_, ticket)) = proposed {
            // Another entry took its place: it never will be done, so it may be proposed again.
            self.dispatch(ticket);
        }
        Ok(())
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), ServeError> {
        self.registers = Registers::decode(&snapshot.data)?;
        self.applied = snapshot.meta.index;
        self.questions.jumped(self.applied);
        self.registers.records().for_each(|record| self.callers.tell(record));
        tracing::info!(index = self.applied, groups = self.registers.len(), "snapshot.restored");
        Ok(())
    }

    fn snapshot_if_wanted(&mut self) {
        if self.snapshot_wanted.is_some_and(|index| self.applied >= index) {
            self.snapshot_wanted = None;
            self.step(Input::SnapshotTaken { index: self.applied, data: self.registers.encode() });
        }
    }

    fn read(&mut self, ticket: u64) {
        let Some(open) = self.questions.get_mut(ticket) else { return };
        let reply = match &open.question {
            Question::Read(group) => Reply::Record(self.registers.get(group).cloned()),
            Question::History(group) => Reply::History(self.registers.history(group).to_vec()),
            Question::Groups => Reply::Groups(self.registers.records().cloned().collect()),
            Question::Status => Reply::Status(self.status()),
            Question::TestAndSet(_) => return,
        };
        self.finish(ticket, reply);
    }

    /// Questions follow the leader. One that was proposed here may be in the log already; proposing it again is safe,
    /// for the request id decides once.
    fn leadership(&mut self, leader: Option<NodeId>, term: u64) {
        self.shared.leader.store(leader.unwrap_or(NO_LEADER), Ordering::Relaxed);
        self.metrics.leader_changed();
        tracing::info!(term, leader = leader.unwrap_or(NO_LEADER), "leader.changed");
        if leader.is_none() {
            return;
        }
        for ticket in self.questions.tickets() {
            let here = self.raft.leader() == Some(self.id);
            if self.questions.get_mut(ticket).is_some_and(|open| open.place != Place::Raft || !here) {
                self.dispatch(ticket);
            }
        }
    }

    fn status(&self) -> ArbiterStatus {
        ArbiterStatus {
            id: self.id,
            role: match self.raft.role() {
                Role::Leader => ArbiterRole::Leader,
                Role::Follower => ArbiterRole::Follower,
                Role::Candidate | Role::PreCandidate => ArbiterRole::Candidate,
            },
            term: self.raft.term(),
            leader: self.raft.leader(),
            commit: self.raft.commit(),
            applied: self.applied,
            groups: self.registers.len() as u64,
            members: self.members.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Milliseconds since 1970, for people who read a history.
#[expect(
    clippy::disallowed_methods,
    reason = "the arbiter's one reading of the wall clock; the register takes it as data"
)]
fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
