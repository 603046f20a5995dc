//! An outside oracle for the arbiters' Raft core: crate `raft` 0.7 (TiKV's, after etcd's) fed the same schedules.
//!
//! ```console
//! $ cargo raft-oracle                      # 100 seeds; ROUNDS and FROM choose others, SEED one alone
//! ```
//!
//! Both clusters live in virtual time with a disk that answers at once. A schedule, drawn from the seed, is a list of
//! [`Act`]s: links are cut and healed, arbiters restart, commands are proposed, an arbiter's election timer fires. After
//! each act time passes until nothing moves any more, and then these must be **equal**:
//!
//! - who leads (each that believes it), and who follows whom;
//! - who won which election: terms map onto each other one to one, in order, and each has the same leader;
//! - every log, entry by entry, committed or not: which command, of which (mapped) term;
//! - what is committed: the sequence, and the commit index of everyone who has a leader;
//! - whether a proposal is taken.
//!
//! What **may differ**, and why:
//!
//! - *Numbers of terms.* Our pre-vote tells the receiver the sender's term, theirs does not; so an arbiter that was away
//!   may learn a term one attempt earlier here. A timer therefore fires up to three times in an act, with time passing in
//!   between, and terms are compared through the map.
//! - *Who times out.* Theirs draws timeouts from a random source of its own; it is given timeouts that never end, and
//!   both are told who stands. Who hears a leader does not stand, in either.
//! - *The commit index after a restart.* Theirs stores it, ours learns it again from a leader; so it is compared where
//!   there is one.
//! - *How many messages it takes*: windows, probes and heartbeats are not compared, only where they lead.
//!
//! Not compared: snapshots (both are kept from taking any), read-index, change of membership.

mod ours;
mod theirs;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// An arbiter.
pub type Id = u64;

/// Links that carry nothing, as unordered pairs.
pub type Cuts = BTreeSet<(Id, Id)>;

/// True when the two can hear each other.
pub fn joined(cuts: &Cuts, one: Id, other: Id) -> bool {
    !cuts.contains(&(one.min(other), one.max(other)))
}

/// What happens in a schedule.
#[derive(Debug, Clone)]
enum Act {
    /// Exactly these links are cut from now on.
    Cut(Cuts),
    /// This arbiter's election timer fires, if it hears no leader.
    Stand(Id),
    /// This one is asked to take a command.
    Propose(Id, u64),
    /// Links are cut and, before anyone notices, this one is asked to take two commands.
    Strand(Id, Cuts, u64),
    /// This one loses what it had not written, and starts again.
    Restart(Id),
}

/// One arbiter as both sides show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub leads: bool,
    pub leader: Option<Id>,
    pub term: u64,
    pub commit: u64,
    /// Term and command of each entry; a no-op is `None`.
    pub log: Vec<(u64, Option<u64>)>,
}

/// A cluster that can be driven by acts.
pub trait Side {
    /// Whether the command was taken.
    fn propose(&mut self, id: Id, command: u64) -> bool;
    /// The election timer of one arbiter fires. False if it hears a leader, so that it does not.
    fn stand(&mut self, id: Id) -> bool;
    fn restart(&mut self, id: Id);
    fn cut(&mut self, cuts: &Cuts);
    /// Three election timeouts pass; only leaders act.
    fn pass(&mut self);
    fn show(&self, id: Id) -> Shown;
}

/// What a run must have met, or it compares nothing.
#[derive(Debug, Default)]
struct Met {
    acts: u64,
    elections: u64,
    elections_lost: u64,
    commands_committed: u64,
    commands_overwritten: u64,
    leaders_given_up: u64,
    restarts: u64,
}

struct Comparison {
    size: Id,
    ours: ours::Cluster,
    theirs: theirs::Cluster,
    /// Our term to theirs.
    terms: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, Id>,
    /// Commands of everything that was ever committed.
    canon: Vec<Option<u64>>,
    before: BTreeMap<Id, Shown>,
}

impl Comparison {
    fn new(size: Id) -> Self {
        Self {
            size,
            ours: ours::Cluster::new(size),
            theirs: theirs::Cluster::new(size),
            terms: BTreeMap::from([(0, 0)]),
            leaders: BTreeMap::new(),
            canon: Vec::new(),
            before: BTreeMap::new(),
        }
    }

    fn act(&mut self, act: &Act, met: &mut Met) -> Result<(), String> {
        met.acts += 1;
        match act {
            Act::Cut(cuts) => {
                self.ours.cut(cuts);
                self.theirs.cut(cuts);
            }
            Act::Restart(id) => {
                met.restarts += 1;
                self.ours.restart(*id);
                self.theirs.restart(*id);
            }
            Act::Propose(id, command) => self.propose(*id, *command)?,
            Act::Strand(id, cuts, command) => {
                self.ours.cut(cuts);
                self.theirs.cut(cuts);
                self.propose(*id, *command)?;
                self.propose(*id, *command + 1_000)?;
            }
            Act::Stand(id) => self.election(*id, met)?,
        }
        self.ours.pass();
        self.theirs.pass();
        self.compare(met)
    }

    fn propose(&mut self, id: Id, command: u64) -> Result<(), String> {
        let (here, there) = (self.ours.propose(id, command), self.theirs.propose(id, command));
        if here == there {
            return Ok(());
        }
        Err(format!("arbiter {id}: command taken: {here} here, {there} there"))
    }

    fn election(&mut self, id: Id, met: &mut Met) -> Result<(), String> {
        let mut stood = false;
        for _ in 0..3 {
            let (here, there) = (self.ours.stand(id), self.theirs.stand(id));
            if !stood && here != there {
                return Err(format!("arbiter {id} hears no leader: {here} here, {there} there"));
            }
            stood |= here;
            self.ours.pass();
            self.theirs.pass();
        }
        let won = self.ours.show(id).leads;
        met.elections_lost += u64::from(stood && !won);
        Ok(())
    }

    fn compare(&mut self, met: &mut Met) -> Result<(), String> {
        for id in 1..=self.size {
            let (here, there) = (self.ours.show(id), self.theirs.show(id));
            let differ = |what: &str| format!("arbiter {id}: {what} differs\n  here:  {here:?}\n  there: {there:?}");
            if (here.leads, here.leader) != (there.leads, there.leader) {
                return Err(differ("the leader"));
            }
            if here.leader.is_some() && here.commit != there.commit {
                return Err(differ("the commit index"));
            }
            let commands = |shown: &Shown| shown.log.iter().map(|(_, command)| *command).collect::<Vec<_>>();
            if commands(&here) != commands(&there) {
                return Err(differ("the log"));
            }
            for ((term, _), (other, _)) in here.log.iter().zip(&there.log) {
                self.same_term(*term, *other).map_err(|why| format!("{why}\n{}", differ("the terms of the log")))?;
            }
            if here.leads {
                self.same_term(here.term, there.term).map_err(|why| format!("{why}\n{}", differ("the term")))?;
                let known = self.leaders.insert(here.term, id);
                met.elections += u64::from(known.is_none());
                if known.is_some_and(|known| known != id) {
                    return Err(differ("the leader of a term"));
                }
            }
            self.committed(id, &here, met)?;
            if let Some(before) = self.before.insert(id, here.clone()) {
                met.leaders_given_up += u64::from(before.leads && !here.leads);
                let kept = before.log.iter().zip(&here.log).take_while(|(one, other)| one == other).count();
                met.commands_overwritten += (before.log.len() - kept) as u64;
            }
        }
        Ok(())
    }

    /// Terms map one to one, in order.
    fn same_term(&mut self, here: u64, there: u64) -> Result<(), String> {
        let known = *self.terms.entry(here).or_insert(there);
        let below = self.terms.range(..here).next_back().is_none_or(|(_, other)| *other < there);
        let above = self.terms.range(here + 1..).next().is_none_or(|(_, other)| *other > there);
        if known == there && below && above {
            return Ok(());
        }
        Err(format!("term {here} here is {there} there, and it was {known}: {:?}", self.terms))
    }

    fn committed(&mut self, id: Id, shown: &Shown, met: &mut Met) -> Result<(), String> {
        for (place, (_, command)) in shown.log.iter().take(shown.commit as usize).enumerate() {
            match self.canon.get(place) {
                Some(known) if known == command => {}
                Some(known) => {
                    return Err(format!("arbiter {id}: {known:?} was committed at {}, now {command:?}", place + 1));
                }
                None => {
                    met.commands_committed += u64::from(command.is_some());
                    self.canon.push(*command);
                }
            }
        }
        Ok(())
    }
}

fn cuts(random: &mut ChaCha8Rng, size: Id) -> Cuts {
    let pairs = |keep: &mut dyn FnMut(Id, Id) -> bool| {
        let all = (1..=size).flat_map(|one| (one + 1..=size).map(move |other| (one, other)));
        all.filter(|(one, other)| keep(*one, *other)).collect::<Cuts>()
    };
    match random.random_range(0..10) {
        0..4 => Cuts::new(),
        4..7 => {
            let lonely = random.random_range(1..=size);
            pairs(&mut |one, other| one == lonely || other == lonely)
        }
        7..9 => {
            let side: u64 = random.random_range(0..1 << size);
            pairs(&mut |one, other| (side >> one ^ side >> other) & 1 == 1)
        }
        _ => pairs(&mut |_, _| random.random_bool(0.4)),
    }
}

fn run(seed: u64, met: &mut Met) -> Result<(), String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let size = if seed.is_multiple_of(2) { 3 } else { 5 };
    let mut comparison = Comparison::new(size);
    let mut history = Vec::new();
    for number in 0..80 {
        let id = random.random_range(1..=size);
        let leads = (1..=size).find(|id| comparison.ours.show(*id).leads);
        // Mostly of a leader: others take none.
        let asked = leads.filter(|_| random.random_bool(0.8)).unwrap_or(id);
        let act = match random.random_range(0..10) {
            0..2 => Act::Cut(cuts(&mut random, size)),
            2..5 => Act::Stand(id),
            5..7 => Act::Propose(asked, number),
            7..9 => Act::Strand(asked, cuts(&mut random, size), number),
            _ => Act::Restart(id),
        };
        history.push(format!("{act:?}"));
        comparison
            .act(&act, met)
            .map_err(|why| format!("seed {seed}, {size} arbiters: {}\n{why}", history.join("; ")))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let (from, rounds) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (number("FROM").unwrap_or(1), number("ROUNDS").unwrap_or(100)),
    };
    let mut met = Met::default();
    for seed in from..from + rounds {
        if let Err(why) = run(seed, &mut met) {
            eprintln!("{why}\nreplay: SEED={seed} cargo raft-oracle");
            return ExitCode::FAILURE;
        }
    }
    println!("{rounds} seeds from {from}, everything equal: {met:?}");
    let Met { elections, elections_lost, commands_committed, commands_overwritten, leaders_given_up, .. } = met;
    let enough = [elections, elections_lost, commands_committed, commands_overwritten, leaders_given_up];
    if rounds >= 100 && enough.contains(&0) {
        eprintln!("something that must happen did not: the comparison is worth nothing");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
