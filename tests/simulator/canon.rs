//! The ghost of one group: what an observer of everything knows. Above all the *canon*, the one sequence of entries of
//! which an output was released, with everything before them, and a machine of its own that has executed it.
//!
//! What must hold of it stands in `invariants`; here is only how it grows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cutover::machine::kv::KeyValue;
use cutover::machine::{Changes, Env, Garbage, ReadEnv, ReadOutcome, StateMachine, seeded};
use cutover::protocol::SessionId;
use cutover::protocol::entry::{Block, Control, Entry, Payload};
use cutover::replica::{EntryAt, LinkId, Replica};
use cutover_arbiter::record::{
    Epoch, GroupName, GroupRecord, Incarnation, Index, Position, Proposal, ReplicaName, RequestId,
};

use super::invariants::durable::Asked;
pub use super::invariants::durable::Return;
use super::invariants::duties::ClockSeen;
use super::leaky::Leaky;
use super::workload::{FLEETING, KEYS, Key, is_fleeting};
use super::world::{Id, Time, Verdict};

/// The machine that replicas run; the canon's own never leaks.
pub type Machine = Leaky;
pub type Core = Replica<Machine>;

/// A released entry.
#[derive(Debug, Clone)]
pub struct Canonical {
    pub epoch: Epoch,
    pub bytes: Bytes,
    /// The running hash that its primary computed.
    pub check: u64,
    pub time: u64,
    /// Up to where reads may show the clock.
    pub ceiling: u64,
    /// What executing it replies.
    pub reply: Vec<u8>,
}

/// The present life of a replica's state.
#[derive(Debug, Clone)]
pub struct Life {
    pub incarnation: Incarnation,
    /// Up to here it is known to hold what the canon holds.
    pub verified: Index,
    /// The highest index it acknowledged, and in which epoch.
    pub acknowledged: (Epoch, Index),
    /// Handshakes that it completed.
    pub welcomes: u64,
    /// It asked to take over after so many handshakes.
    pub fenced: Option<u64>,
    /// Its machine was made to leak once.
    pub leaked: bool,
    /// Its execution differed from its primary's.
    pub diverged: bool,
    /// Up to here it executed as a primary, whatever became of that.
    pub executed: Index,
    /// Up to here it might release while enough replicas were in sync.
    pub enough: Index,
    /// Which beginning of a process this is, of all in the group.
    pub birth: u64,
    /// The highest epoch in which it promised anything.
    pub promised: Epoch,
    /// The highest epoch that its disk names as one that it knows of.
    pub claimed: Epoch,
    /// A change of its own began this epoch, and nobody has been told.
    pub owes: Option<Epoch>,
    /// Its clock when it was looked at last.
    pub clock: Option<ClockSeen>,
    /// Its disk failed: nothing is promised any more.
    pub failed: bool,
    /// It goes on from an older image, of which nothing can be expected before it has caught up.
    pub exempt: bool,
    /// It began as one.
    pub was_image: bool,
    /// What its disk was asked for, by sequence.
    pub writing: BTreeMap<u64, Asked>,
    pub persisted: Index,
    /// What was given to the disk, or stood in a log in mode `memory`, beyond the canon: a log may be trimmed before its replies are released.
    pub written: BTreeMap<Index, (Epoch, Bytes)>,
    /// Entries up to here came by a snapshot.
    pub base: Index,
    pub log_limit: usize,
}

/// What a primary heard of one follower in its present epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard {
    pub epoch: Epoch,
    pub verified: Index,
    pub round: u64,
}

pub struct Group {
    pub name: GroupName,
    /// What was granted, by epoch.
    pub records: Vec<GroupRecord>,
    /// When the newest was.
    pub record_at: Time,
    pub requests: BTreeMap<RequestId, Epoch>,
    pub canon: Vec<Canonical>,
    /// What was in the canon until an operator's word lost it: a later one may bring it back.
    pub former: BTreeMap<(Epoch, Index), Bytes>,
    pub lives: BTreeMap<Id, Life>,
    /// The last lives of processes that are gone: their disks may bring them back.
    pub resting: BTreeMap<Id, Life>,
    /// Lives that ended for a new one which is not on disk yet.
    pub replaced: BTreeMap<Id, Life>,
    /// Every life there ever was.
    pub known: BTreeSet<Incarnation>,
    /// The newest life of each replica.
    pub living: BTreeMap<ReplicaName, Incarnation>,
    /// What a joiner's snapshot contains beyond the canon.
    pub inherited: BTreeMap<Incarnation, BTreeMap<Index, (Epoch, Bytes)>>,
    pub heard: BTreeMap<(Id, Incarnation), Heard>,
    /// Who follows on a primary's link, and by which handshake.
    pub followers: BTreeMap<(Id, LinkId), (ReplicaName, Incarnation, u64)>,
    /// Every proposal ever made for the epoch after the present one.
    pub proposals: Vec<(Id, Incarnation, Proposal)>,
    /// Those of the turn at hand, whose rounds were confirmed before.
    pub fresh: BTreeSet<RequestId>,
    /// Requests that were ever made.
    pub asked: BTreeSet<RequestId>,
    /// Requests of which their proposer has heard that they were refused.
    pub refused: BTreeSet<RequestId>,
    /// Which life of a process reigns in an epoch.
    pub reigns: BTreeMap<Epoch, u64>,
    pub births: u64,
    /// What executing (session, sequence) replied, and where.
    pub sessions: BTreeMap<(SessionId, u64), (Vec<u8>, Position)>,
    /// Sequences that were closed before they came.
    pub closed: BTreeMap<(SessionId, u64), Index>,
    /// What reading a key replies from an index on.
    versions: BTreeMap<Key, Vec<(Index, Vec<u8>)>>,
    /// Where something was written that is to be there for a while, and until when.
    fleeting: Vec<(Index, u64)>,
    /// Of how many turns entries stand behind a deadline that nobody has minded: the epoch and the time of the last.
    pub overdue: (u32, Epoch, u64),
    machine: KeyValue,
    garbage: Vec<Garbage>,
    /// The newest position that any client was answered from.
    pub answered: Index,
    /// The newest clock that any client was told.
    pub clock_told: u64,
    pub released_epoch: Epoch,
    pub last_release: Time,
    pub releases: u64,
    /// Digests at marks, by epoch and index.
    pub digests: BTreeMap<(Epoch, Index), Vec<(Id, u64)>>,
    /// Something changed that S4 must be looked at for.
    pub stale: bool,
    /// The only copy was stopped by order.
    pub lost: bool,
    /// How often an operator has seized or adopted; each time the canon began anew.
    pub reign: u32,
    /// The epoch in which the last of them began.
    pub reign_began: Epoch,
    /// An operator has granted this epoch to somebody who has not begun it: what is lost is not known yet.
    pub seized: Option<Epoch>,
    /// The operator waits for an answer.
    pub operating: bool,
    /// A primary that the operator takes for dead: it stands still until the arbiters have answered the seizure.
    pub taken_for_dead: Option<(Id, Proposal)>,
    /// Whom the operator has fenced, before it lets the arbiters adopt anybody.
    pub fencing: Option<super::operator::Fencing>,
    /// The arbiters have lost what they had granted.
    pub forgotten: bool,
    /// They are back with it, and whoever was fenced meanwhile stands above the record: the operator raises it, and
    /// whoever it means to raise it for must not be lost.
    pub raising: bool,
}

impl Group {
    pub fn new(number: usize) -> Self {
        Self {
            name: format!("group{number}").parse().expect("a good name"),
            records: Vec::new(),
            record_at: 0,
            requests: BTreeMap::new(),
            canon: Vec::new(),
            former: BTreeMap::new(),
            lives: BTreeMap::new(),
            resting: BTreeMap::new(),
            replaced: BTreeMap::new(),
            known: BTreeSet::new(),
            living: BTreeMap::new(),
            inherited: BTreeMap::new(),
            heard: BTreeMap::new(),
            followers: BTreeMap::new(),
            proposals: Vec::new(),
            fresh: BTreeSet::new(),
            asked: BTreeSet::new(),
            refused: BTreeSet::new(),
            reigns: BTreeMap::new(),
            births: 0,
            sessions: BTreeMap::new(),
            closed: BTreeMap::new(),
            versions: BTreeMap::new(),
            fleeting: Vec::new(),
            overdue: (0, Epoch(0), 0),
            machine: KeyValue::default(),
            garbage: Vec::new(),
            answered: 0,
            clock_told: 0,
            released_epoch: Epoch(0),
            last_release: 0,
            releases: 0,
            digests: BTreeMap::new(),
            stale: false,
            lost: false,
            reign: 0,
            reign_began: Epoch::default(),
            seized: None,
            operating: false,
            taken_for_dead: None,
            fencing: None,
            forgotten: false,
            raising: false,
        }
    }

    pub fn record(&self) -> Option<&GroupRecord> {
        self.records.last()
    }

    pub fn newest_epoch(&self) -> u64 {
        self.records.len() as u64
    }

    pub fn granted(&self, epoch: Epoch) -> Option<&GroupRecord> {
        let record = self.records.get(usize::try_from(epoch.0.checked_sub(1)?).ok()?);
        record.filter(|record| record.epoch == epoch)
    }

    /// The last canonical index.
    pub fn end(&self) -> Index {
        self.canon.len() as Index
    }

    pub fn at(&self, index: Index) -> Option<&Canonical> {
        self.canon.get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    /// What the canonical entry at `index` asks for.
    pub fn look<T>(&self, index: Index, look: impl FnOnce(&Entry<'_>) -> T) -> Option<T> {
        let Canonical { epoch, bytes, .. } = self.at(index)?;
        let block = Block { epoch: *epoch, first: index, count: 1, bytes: bytes.clone() };
        block.entries().next()?.ok().as_ref().map(look)
    }

    /// A replica begins a life, of its process or of its state.
    pub fn born(&mut self, id: Id, name: ReplicaName, incarnation: Incarnation, log_limit: usize) {
        self.living.insert(name, incarnation);
        self.births += 1;
        self.known.insert(incarnation);
        let life = Life {
            incarnation,
            verified: 0,
            acknowledged: (Epoch(0), 0),
            welcomes: 0,
            fenced: None,
            leaked: false,
            diverged: false,
            executed: 0,
            enough: 0,
            birth: self.births,
            promised: Epoch(0),
            claimed: Epoch(0),
            owes: None,
            clock: None,
            failed: false,
            exempt: false,
            was_image: false,
            writing: BTreeMap::new(),
            persisted: 0,
            written: BTreeMap::new(),
            base: 0,
            log_limit,
        };
        self.lives.insert(id, life);
        self.stale = true;
    }

    /// What a replica holds at `index`; of what its log no longer has, what was given to its disk.
    pub fn holds(&self, id: Id, core: &Core, index: Index) -> EntryAt {
        let written = || self.lives.get(&id).and_then(|life| life.written.get(&index)).cloned();
        match core.entry_at(index) {
            EntryAt::Below => written()
                .or_else(|| self.was_canonical(core, index))
                .map_or(EntryAt::Below, |(epoch, bytes)| EntryAt::Is(epoch, bytes)),
            other => other,
        }
    }

    /// What a replica holds at `index` if that was in the canon of an earlier reign.
    pub fn was_canonical(&self, core: &Core, index: Index) -> Option<(Epoch, Bytes)> {
        let epoch = core.epoch_at(index)?;
        Some((epoch, self.former.get(&(epoch, index))?.clone()))
    }

    /// The last chunk of a snapshot at `index` goes out: what it contains beyond the canon is noted for who gets it.
    pub fn hands_on(&mut self, id: Id, core: &Core, link: LinkId, index: Index) {
        let Some((_, incarnation, _)) = self.followers.get(&(id, link)) else { return };
        let entries = (self.end() + 1..=index).filter_map(|at| match self.holds(id, core, at) {
            EntryAt::Is(epoch, bytes) => Some((at, (epoch, bytes))),
            _ => None,
        });
        let entries = entries.collect();
        self.inherited.insert(*incarnation, entries);
    }

    /// Compares what the replica holds with the canon, as far as it was not compared before. Returns up to where they
    /// are equal.
    ///
    /// # Errors
    /// S3: it holds something else there, of the same epoch. (Of another epoch it is a tail that lost a cut-over, even
    /// of a higher one, of which nothing was released.)
    pub fn verify(&mut self, id: Id, core: &Core) -> Result<Index, String> {
        let end = self.end();
        let Some(life) = self.lives.get_mut(&id) else { return Ok(0) };
        while life.verified < end {
            let index = life.verified + 1;
            let canonical = &self.canon[index as usize - 1];
            match core.entry_at(index) {
                EntryAt::Missing => break,
                EntryAt::Below if core.epoch_at(index).is_some_and(|epoch| epoch != canonical.epoch) => break,
                EntryAt::Below => life.verified = index,
                EntryAt::Is(epoch, bytes) => {
                    if epoch == canonical.epoch && bytes == canonical.bytes {
                        life.verified = index;
                    } else if epoch == canonical.epoch {
                        return Err(format!(
                            "S3: {} holds another entry at {index}, of epoch {epoch}, than the released one of epoch {}",
                            core.status().name,
                            canonical.epoch
                        ));
                    } else {
                        break;
                    }
                }
            }
        }
        Ok(life.verified)
    }

    /// The canon grows to `upto` by what the releasing primary holds.
    pub fn grow(&mut self, id: Id, core: &Core, upto: Index) -> Verdict {
        while self.end() < upto {
            let index = self.end() + 1;
            let EntryAt::Is(epoch, bytes) = self.holds(id, core, index) else {
                return Err(format!("O1: {} releases {index}, which it does not hold", core.status().name));
            };
            self.push(index, epoch, bytes)?;
        }
        Ok(())
    }

    /// Nothing was ever released.
    pub fn forget_canon(&mut self) {
        self.canon.clear();
        self.sessions.clear();
        self.closed.clear();
        self.versions.clear();
        self.fleeting.clear();
        self.machine = KeyValue::default();
    }

    pub fn push(&mut self, index: Index, epoch: Epoch, bytes: Bytes) -> Verdict {
        let block = Block { epoch, first: index, count: 1, bytes: bytes.clone() };
        let entry = block.entries().next().ok_or("S8: an empty entry")?.map_err(|error| error.to_string())?;
        let deadline = self.machine.next_deadline().filter(|deadline| *deadline + 2_000 < entry.time);
        self.is_removed_in_time((index, epoch), entry.time, deadline)?;
        self.s8_shape(index, epoch)?;
        self.s11_logical_time(index, entry.time)?;
        let before = self.canon.last().map_or(0, |last| last.check);
        let mut changes = Changes::resume(before);
        let mut reply = Vec::new();
        let mut env = Env::replay(entry.time, index, entry.captured, &mut changes, &mut self.garbage);
        let at = Position { epoch, index };
        match &entry.payload {
            Payload::Operation { mark, carried, operation } => {
                self.machine.apply(operation, &mut env, &mut reply);
                changes.word(index);
                changes.write(&reply);
                if changes.state() != entry.check {
                    return Err(format!("S6: executing {index} again gives another result than its primary's"));
                }
                if let Some(mark) = mark {
                    for (sequence, earlier) in carried {
                        self.sessions
                            .entry((mark.session, *sequence))
                            .or_insert_with(|| (earlier.unwrap_or_default().to_vec(), at));
                    }
                    self.s7_once(mark.session, mark.sequence, index)?;
                    self.sessions.insert((mark.session, mark.sequence), (reply.clone(), at));
                }
                self.note_versions(index, operation, entry.time);
                self.fleeting.extend(is_fleeting(operation).then_some((index, entry.time + FLEETING)));
            }
            Payload::Control(control) => match control {
                Control::EpochStart { genesis: true, .. } => self.machine.genesis(&mut env),
                Control::Expire { budget } => self.machine.expire(&mut env, *budget as usize),
                Control::CloseSequence { session, sequence, .. }
                    if !self.sessions.contains_key(&(*session, *sequence)) =>
                {
                    self.closed.insert((*session, *sequence), index);
                }
                _ => {}
            },
        }
        self.garbage.clear();
        let ceiling = match &entry.payload {
            Payload::Control(Control::Ceiling { until }) => *until,
            _ => 0,
        };
        let ceiling = ceiling.max(self.canon.last().map_or(0, |last| last.ceiling));
        self.canon.push(Canonical { epoch, bytes, check: entry.check, time: entry.time, ceiling, reply });
        self.stale = true;
        Ok(())
    }

    /// What the keys that this operation names read as from here on.
    fn note_versions(&mut self, index: Index, operation: &[u8], time: u64) {
        for key in KEYS {
            let name = key.name().as_bytes();
            if operation.windows(name.len()).any(|part| part == name) {
                let reply = read(&self.machine, &key.read(), time);
                self.versions.entry(key).or_default().push((index, reply));
            }
        }
    }

    /// Until when what was last written by `index` to be there for a while is to be there.
    pub fn fleeting(&self, index: Index) -> Option<u64> {
        let after = self.fleeting.partition_point(|(at, _)| *at <= index);
        self.fleeting.get(after.checked_sub(1)?).map(|(_, deadline)| *deadline)
    }

    /// What reading `key` at `index` replies.
    pub fn version(&self, key: Key, index: Index) -> Vec<u8> {
        let versions = self.versions.get(&key).map(Vec::as_slice).unwrap_or_default();
        let after = versions.partition_point(|(at, _)| *at <= index);
        match after.checked_sub(1) {
            Some(at) => versions[at].1.clone(),
            None => read(&KeyValue::default(), &key.read(), 1),
        }
    }

    /// Whether reading `key` replied so anywhere in a range.
    pub fn stood(&self, key: Key, range: std::ops::RangeInclusive<Index>, reply: &[u8]) -> bool {
        let versions = self.versions.get(&key).map(Vec::as_slice).unwrap_or_default();
        let within = versions.iter().filter(|(at, _)| range.contains(at)).any(|(_, version)| version == reply);
        within || self.version(key, *range.start()) == reply
    }
}

/// Runs a read on a machine.
pub fn read(machine: &KeyValue, operation: &[u8], time: u64) -> Vec<u8> {
    let mut reply = Vec::new();
    let mut random = seeded(1);
    let env = ReadEnv::new(time, &mut random);
    if let ReadOutcome::Deferred(work) = machine.read(operation, &env, &mut reply) {
        work(&mut reply);
    }
    reply
}
