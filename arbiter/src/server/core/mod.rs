//! The decisions of one arbiter around its Raft: which question goes where, what counts as its answer, what the
//! registers become, and who is to be told. Sans-IO: time, messages and finished writes come in through
//! [`Arbiter::step`], everything that should happen comes out as plain [`Output`]s, to be run in order.
//!
//! An answer to a proposal comes from applying that proposal's own log entry, and from nowhere else: not from a local
//! look at the registers, not from a leader's word that the entry stands in its log. A question that cannot be
//! answered here moves to the leader, at most once from arbiter to arbiter, and goes back to its caller as
//! [`Reply::Retry`], which is no answer, when it has moved too often or waited too long.
//!
//! Deliberately not here: sockets, connections and their limits, the disk, metrics (the shell), and Raft itself.

mod questions;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::protocol::{ArbiterRole, ArbiterStatus, Question, Reply};
use crate::raft::{
    self, Config, Entry, LogIndex, Message, Nanos, NodeId, PersistBatch, Raft, Restored, Role, Snapshot,
};
use crate::record::{Answer, CodecError, Command, GroupName, GroupRecord, Registers};

use questions::{Asker, Place, Questions};

/// Numbers the connections of one process, never twice.
pub type ConnectionId = u64;

/// A question without a reply is told to retry after this long; its caller has long asked elsewhere, too.
const PATIENCE: Nanos = 2_000_000_000;
/// A question that was moved this often goes back to its caller.
const MOST_MOVES: u32 = 8;

/// The time, read by the shell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, as Raft counts it.
    pub clock: Nanos,
    /// The wall clock in milliseconds since 1970, for people who read a history; a leader captures it in the entry.
    pub wall_ms: u64,
}

/// What happens to an arbiter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Time has passed: look at the deadlines.
    Tick,
    /// Every batch up to this sequence is durable.
    Persisted {
        /// The last durable batch.
        upto: u64,
    },
    /// Another arbiter's Raft says something.
    Raft {
        /// Who, as the connection was authenticated.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// A caller asks.
    Ask {
        /// On which connection.
        connection: ConnectionId,
        /// Comes back with the reply.
        id: u64,
        /// What.
        question: Question,
    },
    /// Another arbiter passes a caller's question on, because this one leads.
    Forward {
        /// Which arbiter.
        from: NodeId,
        /// Its number for the question.
        ticket: u64,
        /// What is asked.
        question: Question,
    },
    /// The leader's reply to a question that was passed on.
    Forwarded {
        /// Of [`Output::Forward`].
        ticket: u64,
        /// What it said.
        reply: Box<Reply>,
    },
    /// An [`Output::Forward`] could not be sent.
    NotForwarded {
        /// Its ticket.
        ticket: u64,
    },
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Make this durable, then say [`Input::Persisted`]. Any error is final: stop the process.
    Persist(PersistBatch),
    /// Say this to another arbiter's Raft; it may be lost.
    Raft {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Pass a question on to the leader; say [`Input::NotForwarded`] if that cannot be done now.
    Forward {
        /// The leader.
        to: NodeId,
        /// Comes back with the reply.
        ticket: u64,
        /// What is asked.
        question: Question,
    },
    /// Reply to a question that another arbiter passed on; it may be lost.
    Forwarded {
        /// To whom.
        to: NodeId,
        /// Its number for the question.
        ticket: u64,
        /// What is replied.
        reply: Reply,
    },
    /// Reply to a caller, unless it has gone.
    Reply {
        /// On which connection.
        connection: ConnectionId,
        /// The question's number there.
        id: u64,
        /// What is replied.
        reply: Reply,
    },
    /// Tell everyone who watches this group.
    Record(GroupRecord),
    /// Something worth a line in the log.
    Event(Event),
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A proposal was decided, here as on every arbiter.
    Decided {
        /// Whose.
        group: GroupName,
        /// Name of the change.
        change: &'static str,
        /// How.
        answer: Box<Answer>,
        /// False when the answer repeats an earlier one.
        news: bool,
    },
    /// A snapshot became the registers' state.
    Restored {
        /// Where it stands in the log.
        index: LogIndex,
        /// How many groups it has.
        groups: usize,
    },
    /// A snapshot is too large to be kept: no further change can be granted.
    SnapshotRefused {
        /// Where it was taken.
        index: LogIndex,
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Another leader, or none.
    Leadership {
        /// Who leads.
        leader: Option<NodeId>,
        /// This arbiter's term.
        term: u64,
    },
}

/// One arbiter's decisions. *In*: [`new`](Arbiter::new), [`step`](Arbiter::step). *Time*:
/// [`next_deadline`](Arbiter::next_deadline). *Status*: the rest.
#[derive(Debug)]
pub struct Arbiter {
    id: NodeId,
    raft: Raft,
    registers: Registers,
    applied: LogIndex,
    questions: Questions,
    snapshot_wanted: Option<LogIndex>,
    now: Now,
    /// What Raft gave out and was not looked at yet.
    pending: VecDeque<raft::Output>,
    out: Vec<Output>,
}

impl Arbiter {
    /// An arbiter at its start, with what its store holds. Its first step is due at once. The seed of `config` must be
    /// another one in each life.
    ///
    /// # Panics
    /// When `config` is one that [`Config::validate`] refuses.
    pub fn new(now: Now, config: Config, restored: Restored) -> Self {
        Self {
            id: config.id,
            questions: Questions::new(config.seed),
            raft: Raft::new(now.clock, config, restored),
            registers: Registers::default(),
            applied: 0,
            snapshot_wanted: None,
            now,
            pending: VecDeque::new(),
            out: Vec::new(),
        }
    }

    /// Takes one input in and adds what is to be done to `out`.
    ///
    /// # Errors
    /// The log or a snapshot holds what this version cannot read. There is no going on.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) -> Result<(), CodecError> {
        self.now = now;
        match input {
            Input::Tick => self.raft(raft::Input::Tick),
            Input::Persisted { upto } => self.raft(raft::Input::Persisted { upto }),
            Input::Raft { from, message } => self.raft(raft::Input::Message { from, message }),
            Input::Ask { connection, id, question } => self.accept(Asker::Caller { connection, id }, question),
            Input::Forward { from, ticket, question } => self.accept(Asker::Peer { from, ticket }, question),
            Input::Forwarded { ticket, .. } if !self.questions.is_forwarded(ticket) => {}
            Input::Forwarded { ticket, reply } => match *reply {
                // The one we thought leads does not, or cannot now: wait for the next leader, or for time.
                Reply::Retry { .. } if self.raft.leader().is_none() => self.park(ticket),
                reply => self.finish(ticket, reply),
            },
            Input::NotForwarded { ticket } => {
                self.retry(ticket, "the leader cannot be reached from this arbiter at the moment");
            }
        }
        let done = self.work();
        while let Some(ticket) = self.questions.overdue(self.now.clock) {
            self.retry(ticket, "no answer from a majority of the arbiters in time");
        }
        out.append(&mut self.out);
        done
    }

    /// When [`Input::Tick`] is next of use.
    pub fn next_deadline(&self) -> Nanos {
        let raft = self.raft.next_deadline();
        self.questions.next_deadline().map_or(raft, |question| question.min(raft))
    }

    /// Its Raft, to be looked at.
    pub fn raft_core(&self) -> &Raft {
        &self.raft
    }

    /// The records, as far as they are applied here.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// How it stands.
    pub fn status(&self, members: &[(NodeId, String)]) -> ArbiterStatus {
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
            members: members.to_vec(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn raft(&mut self, input: raft::Input) {
        let mut out = Vec::new();
        self.raft.step(self.now.clock, input, &mut out);
        self.pending.extend(out);
    }

    /// Runs what Raft gave out, in order, and what follows from it.
    fn work(&mut self) -> Result<(), CodecError> {
        while let Some(output) = self.pending.pop_front() {
            self.perform(output)?;
        }
        Ok(())
    }

    fn accept(&mut self, asker: Asker, question: Question) {
        match self.questions.add(asker, question, self.now.clock + PATIENCE) {
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
                        let command = Command { at_ms: self.now.wall_ms, proposal: (**proposal).clone() };
                        raft::Input::Propose { ticket, data: command.encode() }
                    }
                    _ => raft::Input::Read { ticket },
                };
                self.raft(input);
            }
            (_, Asker::Peer { .. }) => self.retry(ticket, "the arbiter that was asked does not lead"),
            (Some(leader), Asker::Caller { .. }) => {
                open.place = Place::Forwarded;
                let question = open.question.clone();
                self.out.push(Output::Forward { to: leader, ticket, question });
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
        self.out.push(match asker {
            Asker::Caller { connection, id } => Output::Reply { connection, id, reply },
            // A lost reply is asked for again by its caller.
            Asker::Peer { from, ticket } => Output::Forwarded { to: from, ticket, reply },
        });
    }

    fn perform(&mut self, output: raft::Output) -> Result<(), CodecError> {
        match output {
            raft::Output::Persist(batch) => self.out.push(Output::Persist(batch)),
            raft::Output::Send { to, message } => self.out.push(Output::Raft { to, message }),
            raft::Output::Apply { entries } => {
                for entry in entries {
                    self.apply(&entry)?;
                }
                self.snapshot_if_wanted();
            }
            raft::Output::Restore { snapshot } => self.restore(&snapshot)?,
            raft::Output::TakeSnapshot { index } => {
                self.snapshot_wanted = Some(index);
                self.snapshot_if_wanted();
            }
            raft::Output::SnapshotRefused { index, bytes, limit } => {
                self.out.push(Output::Event(Event::SnapshotRefused { index, bytes, limit }));
            }
            raft::Output::Proposed { ticket, index, term } => self.questions.proposed(ticket, index, term),
            raft::Output::Rejected { ticket, leader } | raft::Output::ReadRejected { ticket, leader } => {
                if leader == Some(self.id) {
                    self.retry(ticket, "too much waits to be committed; is a majority of the arbiters running?");
                } else {
                    self.dispatch(ticket);
                }
            }
            raft::Output::ReadReady { ticket, .. } => self.read(ticket),
            raft::Output::Leadership { leader, term } => self.leadership(leader, term),
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), CodecError> {
        self.applied = entry.index;
        let proposed = self.questions.applied(entry.index);
        if !entry.data.is_empty() {
            let answer = self.decide(Command::decode(&entry.data)?);
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

    fn decide(&mut self, command: Command) -> Answer {
        let (group, change) = (command.proposal.group.clone(), command.proposal.change.name());
        let before = self.registers.get(&group).map(|record| record.epoch);
        let answer = self.registers.apply(command);
        let granted = match &answer {
            Answer::Granted(record) => Some(record).filter(|record| before < Some(record.epoch)),
            Answer::Refused { .. } => None,
        };
        let news = granted.is_some() || matches!(answer, Answer::Refused { .. });
        self.out.extend(granted.cloned().map(Output::Record));
        self.out.push(Output::Event(Event::Decided { group, change, answer: Box::new(answer.clone()), news }));
        answer
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), CodecError> {
        self.registers = Registers::decode(&snapshot.data)?;
        self.applied = snapshot.meta.index;
        self.questions.jumped(self.applied);
        self.out.extend(self.registers.records().cloned().map(Output::Record));
        let groups = self.registers.len();
        self.out.push(Output::Event(Event::Restored { index: self.applied, groups }));
        Ok(())
    }

    fn snapshot_if_wanted(&mut self) {
        if self.snapshot_wanted.is_some_and(|index| self.applied >= index) {
            self.snapshot_wanted = None;
            self.raft(raft::Input::SnapshotTaken { index: self.applied, data: self.registers.encode() });
        }
    }

    fn read(&mut self, ticket: u64) {
        let Some(open) = self.questions.get_mut(ticket) else { return };
        let reply = match &open.question {
            Question::Read(group) => Reply::Record(self.registers.get(group).cloned()),
            Question::History(group) => Reply::History(self.registers.history(group).to_vec()),
            Question::Groups => Reply::Groups(self.registers.records().cloned().collect()),
            // The shell answers it at once, without asking anyone.
            Question::Status | Question::TestAndSet(_) => return,
        };
        self.finish(ticket, reply);
    }

    /// Questions follow the leader. One that was proposed here may be in the log already; proposing it again is safe,
    /// for the request id decides once.
    fn leadership(&mut self, leader: Option<NodeId>, term: u64) {
        self.out.push(Output::Event(Event::Leadership { leader, term }));
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
}
