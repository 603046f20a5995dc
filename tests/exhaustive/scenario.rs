//! What may happen in a search, how often, and what a step does.

use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use cutover::replica::{Admission, Input, Replica};
use cutover_arbiter::record::Mode;

use super::search::{Fold, Model, Seen};
use super::world::{Item, Whom, Work, World, what};

/// What may happen in a search, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub replicas: usize,
    /// Replicas that the primary keeps in sync.
    pub copies: usize,
    /// How many are in sync when the search begins.
    pub in_sync: usize,
    /// How far the next one is.
    pub next: Next,
    pub min_in_sync: u8,
    /// Logged operations.
    pub writes: u8,
    /// Whether each may be asked a second time.
    pub retries: bool,
    pub reads: u8,
    pub crashes: u8,
    /// Connections that break.
    pub breaks: u8,
    /// Replicas that are stopped for a while.
    pub pauses: u8,
    /// Timers that fire, for each replica.
    pub timers: [u8; 3],
    /// Proposals that are given up and may be granted all the same.
    pub lost_answers: u8,
    pub switchovers: u8,
    pub mode: Mode,
    /// Whether writes to the disk take a step of their own; in mode `memory` nobody waits for them.
    pub slow_disk: bool,
    /// Whether a replica that comes back finds what its disk holds, and keeps its incarnation.
    pub journal: bool,
    /// The search begins when the primary has died with an operation that only the second of three holds, which has
    /// just been granted the group; the third has noticed nothing.
    pub succeeded: bool,
}

/// How far the first replica that is not in sync has come when the search begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Its process has just been started.
    Started,
    /// It holds everything, and its primary is about to admit it.
    Spare,
}

#[derive(Debug, Clone)]
#[expect(dead_code, reason = "read when the way to a violation is shown")]
pub enum Step {
    /// The next message of a connection arrives.
    Deliver {
        link: usize,
        to: usize,
        what: &'static str,
    },
    /// A replica's next timer fires.
    Timer(usize),
    /// The arbiter decides a proposal.
    Decide {
        by: usize,
        what: &'static str,
        at: usize,
    },
    /// Its answer arrives.
    Answered {
        by: usize,
        at: usize,
    },
    /// It is given up; it may still be decided.
    GivenUp {
        by: usize,
        at: usize,
    },
    /// The arbiter answers a read of the record.
    Read {
        by: usize,
        at: usize,
    },
    /// The watch shows the newest record.
    Watch(usize),
    /// The journal is done.
    Persisted(usize),
    /// A client asks for a logged operation.
    Write {
        operation: u8,
        of: usize,
    },
    /// A client asks for the list.
    Ask {
        of: usize,
    },
    Crash(usize),
    Restart(usize),
    Break {
        link: usize,
    },
    Pause(usize),
    Switchover(usize),
}

impl Scenario {
    /// Lets everything happen that needs no fault, in one order, until `done`; the primary's heartbeat comes last.
    fn settle(&self, mut world: World, done: impl Fn(&World) -> bool) -> World {
        let mut seen = Seen::default();
        while !done(&world) {
            let quiet = |step: &&Step| {
                matches!(step, Step::Deliver { .. } | Step::Decide { .. } | Step::Answered { .. } | Step::Read { .. })
            };
            let steps = self.steps(&world);
            let heartbeat = steps.iter().find(|step| matches!(step, Step::Timer(0)));
            let step = steps.iter().find(quiet).or(heartbeat).expect("something is left to do");
            world = self.take(&world, step, &mut seen).expect("nothing goes wrong without a fault").unwrap_or(world);
        }
        world
    }
}

impl Scenario {
    /// What is under way arrives, and nothing else happens.
    fn delivered(&self, mut world: World) -> World {
        let mut seen = Seen::default();
        let deliver = |step: &Step| matches!(step, Step::Deliver { .. });
        while let Some(step) = self.steps(&world).into_iter().find(deliver) {
            world = self.take(&world, &step, &mut seen).expect("nothing goes wrong without a fault").unwrap_or(world);
        }
        world
    }
}

impl Scenario {
    /// The primary dies with an operation that only the second replica has got, and that one takes over.
    fn succession(&self, mut world: World) -> World {
        let seen = &mut Seen::default();
        let mut take = |scenario: &Scenario, world: &mut World, step: &Step| {
            let next = scenario.take(world, step, seen).expect("nothing goes wrong on the way to the beginning");
            *world = next.expect("a step that can be taken");
        };
        take(self, &mut world, &Step::Write { operation: 1, of: 0 });
        let of_the_second = |step: &&Step| match step {
            Step::Deliver { to, .. } => *to == 1,
            Step::Persisted(at) => *at == 1,
            Step::Decide { by, .. } | Step::Answered { by, .. } | Step::Read { by, .. } => *by == 1,
            _ => false,
        };
        while let Some(step) = self.steps(&world).iter().find(of_the_second) {
            take(self, &mut world, step);
        }
        world.crash(0);
        while world.nodes[1].core.as_ref().is_some_and(|core| core.vitals().leads.is_none()) {
            let steps = self.steps(&world);
            let step = steps.iter().find(of_the_second).expect("it takes over without the third");
            take(self, &mut world, step);
        }
        world
    }
}

impl Model for Scenario {
    type State = World;
    type Step = Step;

    fn initial(&self) -> World {
        let mut seen = Seen::default();
        let quick = Scenario { slow_disk: false, ..*self };
        let mut world = World::empty(self);
        Rc::make_mut(&mut world.nodes[0]).timers = 100;
        let in_sync = |world: &World| world.record().map_or(0, |record| record.in_sync.len());
        for at in 0..self.replicas {
            world.start(&quick, at, &mut seen).expect("it starts");
            if at < self.in_sync {
                world = quick.settle(world, |world| in_sync(world) == at + 1 && world.is_quiet());
            }
            if at + 1 == self.in_sync {
                world.turn(&quick, 0, Work::OpenSession, &mut seen).expect("a session");
                // The first read sets a ceiling for the clock; those of the search need none.
                world.turn(&quick, 0, Work::Ask, &mut seen).expect("a read");
                world = quick.settle(world, World::is_quiet);
            } else if at == self.in_sync && self.next == Next::Spare {
                let near = |world: &World| world.reads.iter().any(|(by, ..)| *by == 0);
                world = quick.settle(world, near);
                // Time has passed, and the reads of the search need a ceiling.
                world.turn(&quick, 0, Work::Ask, &mut seen).expect("a read");
                world = quick.delivered(world);
            }
        }
        let primary = world.nodes[0].core.as_ref().expect("it was started");
        let released = primary.release().commit;
        Rc::make_mut(&mut world.ghost).begin(primary, released);
        for (node, timers) in world.nodes.iter_mut().zip(self.timers) {
            Rc::make_mut(node).timers = timers;
        }
        if self.succeeded { self.succession(world) } else { world }
    }

    fn steps(&self, world: &World) -> Vec<Step> {
        let mut steps = Vec::new();
        for (link, wire) in &world.links {
            for side in [0, 1] {
                if let Some((item, _)) = wire.queues[side].front().filter(|_| wire.open[side]) {
                    steps.push(Step::Deliver { link: *link, to: wire.ends[side].0, what: what(item) });
                }
            }
            if world.left.breaks > 0 && wire.open == [true; 2] {
                steps.push(Step::Break { link: *link });
            }
        }
        for (at, asked) in world.asked.iter().enumerate() {
            let by = asked.by;
            let listens = world.nodes[by].life == asked.life && world.nodes[by].core.is_some();
            match &asked.answer {
                None => steps.push(Step::Decide { by, what: asked.proposal.change.name(), at }),
                Some(_) if listens && !asked.given_up => steps.push(Step::Answered { by, at }),
                Some(_) => {}
            }
            if listens && !asked.given_up && world.left.lost_answers > 0 {
                steps.push(Step::GivenUp { by, at });
            }
        }
        steps.extend(world.reads.iter().enumerate().map(|(at, (by, ..))| Step::Read { by: *by, at }));
        for (at, node) in world.nodes.iter().enumerate() {
            let Some(core) = &node.core else {
                if node.life > 0 {
                    steps.push(Step::Restart(at));
                }
                continue;
            };
            if core.record().map(|record| record.epoch) < world.record().map(|record| record.epoch) {
                steps.push(Step::Watch(at));
            }
            if !node.disk.is_idle() {
                steps.push(Step::Persisted(at));
            }
            if node.timers > 0 && core.next_deadline().is_some() {
                steps.push(Step::Timer(at));
                if world.left.pauses > 0 {
                    steps.push(Step::Pause(at));
                }
            }
            if core.admission() == Admission::Open {
                self.client_steps(world, at, &mut steps);
                if world.left.switchovers > 0 {
                    steps.push(Step::Switchover(at));
                }
            }
            if world.left.crashes > 0 {
                steps.push(Step::Crash(at));
            }
        }
        steps
    }

    fn take(&self, world: &World, step: &Step, seen: &mut Seen) -> Result<Option<World>, String> {
        let mut world = world.clone();
        let (at, work) = match *step {
            Step::Deliver { link, to, .. } => (to, world.deliver(link, to).map(Work::input)),
            Step::Decide { at, .. } => {
                world.decide(at, seen);
                (0, None)
            }
            Step::Answered { by, at } => {
                let asked = world.asked.remove(at);
                let answer = asked.answer.clone().expect("it was decided");
                (by, Some(Work::input(Input::Answer { request: asked.proposal.request, answer })))
            }
            Step::GivenUp { by, at } => {
                world.left.lost_answers -= 1;
                let request = world.asked[at].proposal.request;
                if world.asked[at].answer.is_some() {
                    world.asked.remove(at);
                } else {
                    Rc::make_mut(&mut world.asked[at]).given_up = true;
                }
                (by, Some(Work::input(Input::Unanswered(request))))
            }
            Step::Read { by, at } => {
                let (_, _, ticket) = world.reads.remove(at);
                let record = world.record().cloned();
                (by, Some(Work::input(Input::Read { ticket, record })))
            }
            Step::Watch(at) => (at, world.record().cloned().map(|record| Work::input(Input::Record(record)))),
            Step::Persisted(at) => {
                let node = Rc::make_mut(&mut world.nodes[at]);
                let sequence = node.disk.work().expect("it was asked for something");
                (at, Some(Work::input(Input::Persisted { sequence })))
            }
            Step::Write { operation, of } => {
                let connection = 1 + world.writes.values().map(|asked| u64::from(*asked)).sum::<u64>();
                let again = world.writes.entry(operation).or_default();
                *again += 1;
                if *again > 1 {
                    seen.note("a write is asked again");
                }
                (of, Some(Work::Write { operation, connection, lowest: world.ghost.lowest_unanswered() }))
            }
            Step::Ask { of } => {
                world.left.reads -= 1;
                (of, Some(Work::Ask))
            }
            Step::Timer(at) | Step::Pause(at) => {
                let deadline = world.nodes[at].core.as_ref().and_then(Replica::next_deadline);
                let node = Rc::make_mut(&mut world.nodes[at]);
                node.now = node.now.max(deadline.expect("it has one"));
                if matches!(step, Step::Pause(_)) {
                    world.left.pauses -= 1;
                    node.now += Duration::from_secs(2_000);
                } else {
                    node.timers -= 1;
                }
                (at, Some(Work::Nothing))
            }
            Step::Crash(at) => {
                world.left.crashes -= 1;
                world.crash(at);
                (at, None)
            }
            Step::Restart(at) => {
                world.start(self, at, seen)?;
                (at, None)
            }
            Step::Break { link } => {
                world.left.breaks -= 1;
                let wire = Rc::make_mut(world.links.get_mut(&link).expect("it is there"));
                for queue in &mut wire.queues {
                    queue.clear();
                    queue.push_back((Item::Closed, 1));
                }
                (0, None)
            }
            Step::Switchover(at) => {
                world.left.switchovers -= 1;
                (at, Some(Work::input(Input::Switchover { to: None, ticket: 1 })))
            }
        };
        if let Some(work) = work {
            world.turn(self, at, work, seen)?;
        }
        world.check()?;
        Ok(Some(world))
    }

    fn digest(&self, world: &World) -> u64 {
        let mut fold = Fold::since(0, 0);
        world.nodes.iter().for_each(|node| node.digest.hash(&mut fold));
        // What has no order must not get one from when it came about.
        let links = world.links.values().map(|wire| {
            let queue = |side: usize| wire.queues[side].iter().map(|(_, digest)| *digest).collect::<Vec<_>>();
            Fold::of(&(wire.ends, wire.open, queue(0), queue(1)))
        });
        let asked = world
            .asked
            .iter()
            .map(|asked| Fold::of(&(asked.by, asked.life, &asked.proposal, &asked.answer, asked.given_up)));
        let reads = world.reads.iter().map(Fold::of);
        (sum(links), sum(asked), sum(reads)).hash(&mut fold);
        (world.record(), &*world.ghost, &world.writes, world.left).hash(&mut fold);
        fold.finish()
    }
}

fn sum(digests: impl Iterator<Item = u64>) -> u64 {
    digests.fold(0, u64::wrapping_add)
}

impl Scenario {
    fn client_steps(&self, world: &World, of: usize, steps: &mut Vec<Step>) {
        for operation in 1..=self.writes {
            let asked = world.writes.get(&operation).copied().unwrap_or(0);
            let waits = world.nodes[of].held.iter().any(|held| held.whom == Whom::Writer(operation));
            if asked < 1 + u8::from(self.retries) && !waits && !world.ghost.is_answered(operation) {
                steps.push(Step::Write { operation, of });
            }
            if asked == 0 {
                break;
            }
        }
        if world.left.reads > 0 {
            steps.push(Step::Ask { of });
        }
    }
}
