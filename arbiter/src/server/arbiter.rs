//! The loop of one arbiter: what happens goes into the core, what the core says is done. It owns the connections, and
//! nothing it does waits: the disk has a thread, every connection a task.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::callers::Callers;
use super::connection::{NO_LEADER, Shared};
use super::core::{self, Input, Now, Output};
use super::disk::{Disk, Durable};
use super::event::Event;
use super::link::Link;
use super::metrics::Metrics;
use super::options::{Options, ServeError};
use super::peer::ToPeer;
use crate::alarm::{Alarm, Awaited};
use crate::protocol::{ArbiterStatus, Question, Reply};
use crate::raft::{Nanos, NodeId};
use crate::record::Answer;

/// Most events taken in one turn.
const TURN: usize = 256;

pub(super) struct Arbiter {
    members: Vec<(u64, String)>,
    core: core::Arbiter,
    links: BTreeMap<NodeId, Link>,
    disk: Disk,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    callers: Callers,
    alarm: Awaited,
    /// Nanoseconds of the core's clock are counted from here.
    start: Instant,
}

/// What the loop is given to start with.
pub(super) struct Parts {
    pub(super) core: core::Arbiter,
    pub(super) links: BTreeMap<NodeId, Link>,
    pub(super) disk: Disk,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) alarm: Awaited,
    pub(super) start: Instant,
}

impl Arbiter {
    pub(super) fn new(options: &Options, parts: Parts) -> Self {
        let Parts { core, links, disk, shared, metrics, alarm, start } = parts;
        let members = options.peers.clone();
        Self { members, core, links, disk, shared, metrics, callers: Callers::default(), alarm, start }
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
        self.step(Input::Tick)?;
        loop {
            self.set_alarm().map_err(timer)?;
            tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                done = durable.recv() => {
                    let gone = || ServeError::System { what: "write", error: io::Error::other("the store's thread ended") };
                    self.step(Input::Persisted { upto: done.ok_or_else(gone)?? })?;
                }
                _ = events.recv_many(&mut batch, TURN) => {
                    for event in batch.drain(..) {
                        self.take(event)?;
                    }
                }
                rung = self.alarm.rung() => {
                    rung.map_err(timer)?;
                    self.step(Input::Tick)?;
                }
            }
        }
    }

    /// Rings when the core is due next.
    fn set_alarm(&mut self) -> io::Result<()> {
        let due = Duration::from_nanos(self.core.next_deadline()).saturating_sub(self.start.elapsed());
        let now = Alarm::clock();
        self.alarm.set(now, now + due)
    }

    fn now(&self) -> Now {
        let clock: Nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Now { clock, wall_ms: wall_clock_ms() }
    }

    /// Takes one input in and does what comes of it, in order.
    fn step(&mut self, input: Input) -> Result<(), ServeError> {
        let mut out = Vec::new();
        self.core.step(self.now(), input, &mut out)?;
        for output in out {
            if let Some(ticket) = self.perform(output) {
                self.step(Input::NotForwarded { ticket })?;
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<(), ServeError> {
        match event {
            Event::Opened { connection, outbox } => self.callers.opened(connection, outbox),
            Event::Closed { connection } => self.callers.closed(connection),
            Event::Ask { connection, id, question } => return self.ask(connection, id, question),
            Event::Watch { connection, group } => {
                let record = self.core.registers().get(&group);
                self.callers.watch(connection, group, record);
            }
            Event::Unwatch { connection, group } => self.callers.unwatch(connection, &group),
            Event::PeerConnected { from } => {
                if let Some(link) = self.links.get(&from) {
                    link.nudge();
                }
            }
            Event::Raft { from, message } => return self.step(Input::Raft { from, message }),
            Event::Forward { from, ticket, question } => {
                return self.step(Input::Forward { from, ticket, question: *question });
            }
            Event::Forwarded { ticket, reply } => return self.step(Input::Forwarded { ticket, reply }),
            Event::Status { answer } => {
                self.metrics.callers(self.callers.len());
                // Whoever asked may have gone.
                let _ = answer.send(self.status());
            }
        }
        Ok(())
    }

    fn ask(&mut self, connection: u64, id: u64, question: Question) -> Result<(), ServeError> {
        self.metrics.question(&question);
        if !self.callers.asked(connection) {
            self.callers.refused(connection, id, self.shared.leader(), "too many open questions");
            return Ok(());
        }
        if question == Question::Status {
            let status = Reply::Status(self.status());
            self.callers.replied(connection, id, self.shared.leader(), status);
            return Ok(());
        }
        self.step(Input::Ask { connection, id, question })
    }

    /// Does what the core says. Gives the ticket of a question that cannot be passed on now.
    fn perform(&mut self, output: Output) -> Option<u64> {
        match output {
            Output::Persist(batch) => self.disk.write(batch),
            Output::Raft { to, message } => {
                if let Some(link) = self.links.get_mut(&to) {
                    // Raft repeats what is lost.
                    let _ = link.send(&ToPeer::Raft(message));
                }
            }
            Output::Forward { to, ticket, question } => {
                let forward = ToPeer::Forward { ticket, question: Box::new(question) };
                if !self.links.get_mut(&to).is_some_and(|link| link.send(&forward)) {
                    return Some(ticket);
                }
            }
            Output::Forwarded { to, ticket, reply } => {
                if let Some(link) = self.links.get_mut(&to) {
                    // A lost reply is asked for again by its caller.
                    let _ = link.send(&ToPeer::Forwarded { ticket, reply: Box::new(reply) });
                }
            }
            Output::Reply { connection, id, reply } => {
                self.callers.replied(connection, id, self.shared.leader(), reply);
            }
            Output::Record(record) => self.callers.tell(&record),
            Output::Event(event) => self.event(event),
        }
        None
    }

    fn event(&mut self, event: core::Event) {
        match event {
            core::Event::Decided { group, change, answer, news } => {
                self.metrics.answer(change, &answer);
                match &*answer {
                    Answer::Granted(record) if news => {
                        let primary = &record.primary.replica;
                        tracing::info!(%group, epoch = %record.epoch, change, %primary, "record.granted");
                    }
                    Answer::Granted(_) => {}
                    Answer::Refused { reason, .. } => tracing::info!(%group, change, %reason, "record.refused"),
                }
            }
            core::Event::Restored { index, groups } => tracing::info!(index, groups, "snapshot.restored"),
            core::Event::SnapshotRefused { index, bytes, limit } => {
                tracing::error!(index, bytes, limit, "snapshot.refused: too large; no further change can be granted");
            }
            core::Event::Leadership { leader, term } => {
                self.shared.leader.store(leader.unwrap_or(NO_LEADER), Ordering::Relaxed);
                self.metrics.leader_changed();
                tracing::info!(term, leader = leader.unwrap_or(NO_LEADER), "leader.changed");
            }
        }
    }

    fn status(&self) -> ArbiterStatus {
        self.core.status(&self.members)
    }
}

fn timer(error: io::Error) -> ServeError {
    ServeError::System { what: "use its timer", error }
}

/// Milliseconds since 1970, for people who read a history.
#[expect(clippy::disallowed_methods, reason = "the arbiter's one reading of the wall clock; the core takes it as data")]
fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
