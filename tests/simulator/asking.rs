//! How a replica or a client asks the arbiters, as `arbiter/src/client` does it over sockets: one arbiter first, the
//! next one soon after if it stays silent, until a reply comes or patience ends. Any number of attempts is safe, since
//! every question can be repeated; what matters here is that attempts overlap, get lost, and arrive late.
//!
//! Watches, too: subscribed again after every break, told the present record then.

use std::collections::BTreeSet;

use cutover::replica::Input;
use cutover_arbiter::protocol::{Question, Reply};
use cutover_arbiter::raft::NodeId;
use cutover_arbiter::record::{Answer, RequestId};
use rand::RngExt;

use super::counters::Must;
use super::network::Packet;
use super::world::{Event, Id, Local, Time, World};

/// An arbiter that has not answered in this time is joined by the next one.
const HEDGE: Time = 50_000;
/// All were asked: they are asked again after this.
const ATTEMPT: Time = 1_000_000;
/// A question is given up after this.
const PATIENCE: Time = 2_000_000;

/// What a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A replica's test-and-set.
    Propose(RequestId),
    /// A replica's linearisable read.
    Read(u64),
    /// A client wants its first record.
    First,
    /// The operator's seizure or adoption of this group.
    Operate(usize),
}

#[derive(Debug)]
pub struct Ask {
    pub asker: Id,
    pub purpose: Purpose,
    question: Question,
    open: BTreeSet<Id>,
    next: Id,
    failed: u32,
    /// The one step that is due; any other is stale.
    step: u64,
    give_up: Time,
    /// The newest epoch granted when it was first asked: a linearisable read shows no less.
    pub floor: u64,
}

impl World {
    pub fn ask(&mut self, asker: Id, purpose: Purpose, question: Question) {
        self.next_ask += 1;
        let number = self.next_ask;
        let next = self.random.random_range(self.arbiter_ids());
        let known = self.group_of(asker).map(|group| &self.groups[group]).filter(|group| !group.forgotten);
        let floor = known.map_or(0, super::canon::Group::newest_epoch);
        let give_up = self.now + PATIENCE;
        self.asks.insert(
            number,
            Ask { asker, purpose, question, open: BTreeSet::new(), next, failed: 0, step: 0, give_up, floor },
        );
        self.schedule(10, Event::AskStep(number, 0));
    }

    /// The next attempt, or the end of patience.
    pub fn ask_step(&mut self, number: u64, step: u64) {
        let arbiters = self.arbiters.len();
        let Some(ask) = self.asks.get_mut(&number).filter(|ask| ask.step == step) else { return };
        let asker = ask.asker;
        let stopped_until = self.processes[asker].stopped_until;
        if stopped_until > self.now {
            return self.schedule_at(stopped_until, Event::AskStep(number, step));
        }
        if self.now >= ask.give_up {
            let Some(ask) = self.asks.remove(&number) else { return };
            return self.unanswered(asker, ask.purpose);
        }
        if ask.open.len() == arbiters {
            ask.open.clear();
        }
        let target = (0..arbiters).map(|step| (ask.next + step) % arbiters).find(|at| !ask.open.contains(at));
        let Some(target) = target else { return };
        ask.open.insert(target);
        ask.next = (target + 1) % arbiters;
        let wait = if ask.open.len() < arbiters { HEDGE } else { ATTEMPT };
        let question = ask.question.clone();
        let at = (self.now + wait).min(ask.give_up);
        self.packet(asker, target, Packet::Ask { ask: number, question });
        self.schedule_at(at, Event::AskStep(number, step));
    }

    fn unanswered(&mut self, asker: Id, purpose: Purpose) {
        match purpose {
            Purpose::Propose(request) => self.take(asker, Local::Input(Input::Unanswered(request))),
            Purpose::Read(ticket) => self.take(asker, Local::Input(Input::ReadFailed { ticket })),
            Purpose::First => self.client_asks_for_record(asker),
            Purpose::Operate(group) => self.operated(group, false),
        }
    }

    pub fn reply_arrives(&mut self, number: u64, from: Id, leader: Option<NodeId>, reply: Reply) {
        let lost = self.lost_replies > 0 && self.random.random_range(0..100) < self.lost_replies;
        let Some(ask) = self.asks.get_mut(&number) else { return };
        if lost {
            let is_remove =
                matches!(&ask.question, Question::TestAndSet(proposal) if proposal.change.name() == "remove");
            if is_remove && matches!(reply, Reply::Answer(Answer::Granted(_))) {
                self.report.saw(Must::LostRemove);
            }
            return;
        }
        let verdict = self.groups.iter().try_for_each(|group| group.s1_first_answer(&ask.question, &reply));
        ask.open.remove(&from);
        if let Some(leader) = leader {
            ask.next = leader as Id - 1;
        }
        if let Err(why) = verdict {
            return self.check(Err(why));
        }
        let Some(ask) = self.asks.get_mut(&number) else { return };
        if let Reply::Retry { .. } = reply {
            ask.failed += 1;
            ask.step += 1;
            let step = ask.step;
            let all = u64::from(ask.failed).is_multiple_of(self.arbiters.len() as u64);
            return self.schedule(if all { 50_000 } else { 10 }, Event::AskStep(number, step));
        }
        let Some(ask) = self.asks.remove(&number) else { return };
        self.judge_reply(&ask, &reply);
        match (ask.purpose, reply) {
            (Purpose::Propose(request), Reply::Answer(answer)) => {
                self.take(ask.asker, Local::Input(Input::Answer { request, answer }));
            }
            (Purpose::Read(ticket), Reply::Record(record)) => {
                self.take(ask.asker, Local::Input(Input::Read { ticket, record }));
            }
            (Purpose::First, Reply::Record(Some(record))) => self.take(ask.asker, Local::Record(Box::new(record))),
            (Purpose::Operate(group), reply) => self.operated(group, matches!(reply, Reply::Answer(_))),
            _ => self.unanswered(ask.asker, ask.purpose),
        }
    }

    /// A watch begins, or begins again.
    pub fn watch_again(&mut self, from: Id, life: u64, arbiter: Id) {
        if self.processes[from].life != life || !self.processes[from].alive {
            return;
        }
        if !self.net.is_open(from, arbiter) || !self.processes[arbiter].alive {
            let after = self.random.random_range(50_000..1_000_000);
            return self.schedule(after, Event::Watch { from, life, arbiter });
        }
        self.packet(from, arbiter, Packet::Watch);
    }

    /// An arbiter tells a watcher, or finds that it cannot: the connection is made again later.
    pub fn tell_watcher(&mut self, arbiter: Id, watcher: Id, record: cutover_arbiter::record::GroupRecord) {
        if self.net.is_open(arbiter, watcher) && self.processes[watcher].alive {
            return self.packet(arbiter, watcher, Packet::Record(record));
        }
        self.arbiters[arbiter].watchers.remove(&watcher);
        let life = self.processes[watcher].life;
        let after = self.random.random_range(50_000..1_500_000);
        self.schedule(after, Event::Watch { from: watcher, life, arbiter });
    }
}
