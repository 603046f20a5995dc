//! What a replica owes by the rules of design section 4 themselves, at the moment at which each binds, whether or not
//! anything comes of breaking it in this run: a rule that guards against three faults at once is broken long before the
//! three have met. Which rule is held by what, and which seed finds it broken: `tests/rules.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cutover::protocol::peer::{AppendHead, PeerControl, PeerMessage, Plan, WaitsFor, Welcome};
use cutover::replica::{Admission, EntryAt, Event, Input, LinkId, Release, Role};
use cutover_arbiter::record::{
    Answer, Change, Epoch, GroupRecord, Incarnation, Index, Proposal, ReplicaName, RequestId,
};

use crate::canon::{self, Core, Group};
use crate::counters::Must;
use crate::workload;
use crate::world::{Id, SUSPECT_AFTER, SWITCHOVER_TIMEOUT, Time, Verdict, World};

/// As the replicas of the simulator are configured.
const DROP_BACKUP_AFTER: Time = 350_000;
/// A primary is due at every heartbeat (125 ms): one that had no turn for so long has missed one, and knows it.
const STOOD_STILL: Time = 300_000;
/// For so long a joiner may be required without having been proposed.
const JOINT: Time = 2 * SUSPECT_AFTER;
/// A wall clock that is off by less says nothing about slewing, in microseconds.
const FAR: i64 = 1_000_000;
/// A larger backlog is not looked through at every acknowledgement.
const LOOKED_THROUGH: usize = 64 * 1024;
/// Of what a backup may lag, a joiner may lag a part of this size.
const JOINS_WITHIN: usize = 64;
/// In so many turns a deadline may be past without having been minded.
const OVERDUE: u32 = 3;
/// Over so much boot time the slew must show.
const SLEWED: Time = 2_000_000;

/// A primary has so many times `suspect_after` to remove a third replica that keeps its outputs waiting.
const OTHERS_PATIENCE: Time = 8;
/// A backup that hears for so long that its primary cannot release suspects it: two heartbeats, and as many again that
/// were lost or late.
const STUCK: Time = 625_000;

/// What a life's clock was when it was looked at.
#[derive(Debug, Clone, Copy)]
pub struct ClockSeen {
    leads: Epoch,
    boot: Time,
    clock: u64,
    /// Since when the wall clock has been far away on the same side: boot clock, group clock, side.
    since: (Time, u64, i64),
}

/// What would confirm a primary that stood still.
#[derive(Debug)]
struct Unconfirmed {
    /// The last round that it had sent by then: a later one, of every member.
    round: u64,
    /// Reads of the record that it has asked the arbiters for since: any of them.
    reads: BTreeSet<u64>,
    /// What might be released then.
    release: Release,
}

/// An `Admit` that a primary has proposed.
#[derive(Debug)]
struct Admitting {
    request: RequestId,
    epoch: Epoch,
    replica: ReplicaName,
    life: Incarnation,
}

/// When a replica heard what its duties hang on; by its own boot clock where not said otherwise.
#[derive(Debug, Default)]
pub struct Duties {
    /// The arbiters answered a read.
    arbiters: Option<Time>,
    /// It was asked to stop while it led this epoch with a backup.
    to_stop: Option<(Time, Epoch)>,
    /// It began a planned cut-over for another reason.
    hands_over: Option<Time>,
    /// Its last turn.
    turn: Option<Time>,
    /// It has asked, in this epoch, to admit this life, and nothing has told it since that it need not wait for that one.
    admits: Option<Admitting>,
    /// Its last request to take over, until it is answered.
    takes_over: Option<RequestId>,
    /// A planned cut-over by it, known by epoch and deadline, and the last entry that it had executed then.
    waits_at: Option<((Epoch, std::time::Duration), Index)>,
    /// When it was refused, in virtual time.
    refused: Option<Time>,
    /// Since when, and when last, it has heard from its primary, each time, that this cannot release, through no fault of
    /// its own.
    stuck: Option<(Time, Time)>,
    /// It stood still while it led, and has not confirmed since that it still does.
    unconfirmed: Option<Unconfirmed>,
    /// When each follower was heard, in virtual time, and how long this replica had stood still by then.
    heard: BTreeMap<(ReplicaName, Incarnation), (Time, Time)>,
}

impl Group {
    /// Epochs are durable: what begins with an `EpochStart` begins with it on the own disk; nothing is sent, welcomed,
    /// proposed or served before. (A primary's own changes of membership begin with none.)
    pub fn epoch_began_durably(&self, id: Id, core: &Core, epoch: Epoch, does: &str) -> Verdict {
        let begins = self
            .granted(epoch)
            .is_some_and(|record| !matches!(record.last_change.change, Change::Remove { .. } | Change::Admit { .. }));
        if !begins || !self.lives.contains_key(&id) {
            return Ok(());
        }
        let on_disk = self.has_durably(id, core);
        match core.epoch_at(on_disk) {
            Some(named) if named >= epoch => Ok(()),
            named => Err(format!(
                "epochs: {} {does} in epoch {epoch}; its own disk has entries up to {on_disk}, of epoch {}",
                core.status().name,
                named.unwrap_or_default()
            )),
        }
    }

    /// Epochs are durable: what is released in one is released once the own disk names it.
    pub fn released_durably(&self, id: Id, core: &Core, epoch: Epoch) -> Verdict {
        let Some(life) = self.lives.get(&id) else { return Ok(()) };
        let named = core.epoch_at(self.has_durably(id, core)).unwrap_or_default().max(life.claimed);
        if named >= epoch {
            return Ok(());
        }
        Err(format!("epochs: {} releases in epoch {epoch}, its own disk names {named}", core.status().name))
    }

    /// Rejoin: a new life is shown to nobody before it is durable.
    pub fn shows_a_durable_life(&self, id: Id, core: &Core) -> Verdict {
        match self.replaced.get(&id).filter(|before| before.incarnation != core.incarnation()) {
            Some(_) => Err(format!("rejoin: {} shows a life that is not on its disk", core.status().name)),
            None => Ok(()),
        }
    }

    /// H14: who dials or is dialled is shown the newest record.
    pub fn shows_its_record(&self, core: &Core, shown: Option<&GroupRecord>) -> Verdict {
        let (known, shown) = (core.record().map(|record| record.epoch), shown.map(|record| record.epoch));
        if shown >= known {
            return Ok(());
        }
        let name = core.status().name;
        Err(format!("H14: {name} knows the record of epoch {} and does not show it", known.unwrap_or_default()))
    }

    /// Rejoin: a snapshot is put into place once its index is committed, or an operator has chosen who has it.
    pub fn installs_what_is_committed(&self, core: &Core, index: Index) -> Verdict {
        let vitals = core.vitals();
        let chosen = core.record().is_some_and(|record| {
            let by_operator = matches!(record.last_change.change, Change::Seize { .. } | Change::Adopt { .. });
            by_operator && record.primary.incarnation == core.incarnation()
        });
        if index <= vitals.committed || chosen || (vitals.leads.is_some() && self.reign > 0) {
            return Ok(());
        }
        let (name, committed) = (core.status().name, vitals.committed);
        Err(format!("rejoin: {name} puts a snapshot of {index} into place, {committed} are known to be committed"))
    }

    /// Rejoin: who is required and shows less than it had acknowledged to this very primary is not taken.
    pub fn shows_what_it_acknowledged(&self, id: Id, core: &Core, link: LinkId, welcome: &Welcome) -> Verdict {
        let (Plan::Delta { common }, Some((name, life, _))) = (&welcome.plan, self.followers.get(&(id, link))) else {
            return Ok(());
        };
        let heard = self.heard.get(&(id, *life)).copied().unwrap_or_default();
        let required = core.record().is_some_and(|record| record.has(name, *life));
        if required && *common < heard.verified {
            return Err(format!(
                "rejoin: {} takes {name} back, which shows {common} and had acknowledged {}",
                core.status().name,
                heard.verified
            ));
        }
        Ok(())
    }

    /// Cut-over: a replica outside `in_sync` never proposes. Switchover: only once the successor has acknowledged
    /// everything.
    pub fn may_propose(&self, id: Id, core: &Core, proposal: &Proposal) -> Verdict {
        let name = core.status().name;
        match &proposal.change {
            Change::TakeOver if !core.record().is_some_and(|record| record.has(&name, core.incarnation())) => {
                Err(format!("cut-over: {name} is not in sync and asks to take over"))
            }
            Change::HandOver { to, incarnation } if core.vitals().leads.is_some() => {
                let last = core.vitals().last;
                let heard = self.heard.get(&(id, *incarnation)).copied().unwrap_or_default();
                if heard.verified < last {
                    let has = heard.verified;
                    return Err(format!(
                        "switchover: {name} hands over to {to}, which has acknowledged {has} of {last}"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// After a change of its own is granted, the primary sends an empty append at once.
    pub fn owes_an_append(&mut self, id: Id, event: &Event) {
        if let Event::Removed { epoch, .. } | Event::Admitted { epoch, .. } = event
            && let Some(life) = self.lives.get_mut(&id)
        {
            life.owes = Some(*epoch);
        }
    }

    pub fn sent_an_append(&mut self, id: Id, epoch: Epoch) {
        if let Some(life) = self.lives.get_mut(&id) {
            life.owes = life.owes.filter(|owes| *owes > epoch);
        }
    }

    fn sends_at_once(&mut self, id: Id, core: &Core) -> Verdict {
        let Some(owes) = self.lives.get_mut(&id).and_then(|life| life.owes.take()) else { return Ok(()) };
        if core.vitals().leads == Some(owes) && !core.status().followers.is_empty() {
            return Err(format!("epochs: {} says nothing at the beginning of epoch {owes}", core.status().name));
        }
        Ok(())
    }

    /// Group clock: it goes by the boot clock, is slewed towards the wall clock by one part in a hundred at most, and is
    /// never stepped while one primary leads.
    fn clock_is_slewed(&mut self, id: Id, core: &Core, boot: Time, wall: u64) -> Verdict {
        let vitals = core.vitals();
        let (Some(life), clock) = (self.lives.get_mut(&id), vitals.clock) else { return Ok(()) };
        let Some(leads) = vitals.leads.filter(|_| clock > 0) else {
            life.clock = None;
            return Ok(());
        };
        let side = (wall as i64).saturating_sub(clock as i64);
        let side = if side.abs() > FAR { side.signum() } else { 0 };
        let before = life.clock.filter(|seen| seen.leads == leads);
        // A boot clock that was suspended with its machine may read less than before: the core goes by the highest.
        let boot = before.map_or(boot, |seen| boot.max(seen.boot));
        let since = before.map(|seen| seen.since).filter(|since| since.2 == side).unwrap_or((boot, clock, side));
        life.clock = Some(ClockSeen { leads, boot, clock, since });
        let Some(before) = before else { return Ok(()) };
        let (passed, moved) = (boot.saturating_sub(before.boot) as i64, clock as i64 - before.clock as i64);
        if (moved - passed).abs() > passed / 100 + 1 {
            let name = core.status().name;
            return Err(format!("group clock: that of {name} moves on by {moved} us in {passed} us"));
        }
        let (passed, moved) = (boot.saturating_sub(since.0) as i64, clock as i64 - since.1 as i64);
        if side != 0 && passed > SLEWED as i64 {
            life.clock = Some(ClockSeen { leads, boot, clock, since: (boot, clock, side) });
            if (moved - passed) * side < passed / 110 {
                let name = core.status().name;
                return Err(format!("group clock: that of {name} is not slewed: {moved} us in {passed} us"));
            }
        }
        Ok(())
    }

    /// After every turn.
    pub fn duties_of_a_turn(&mut self, id: Id, core: &Core, now: cutover::replica::Now) -> Verdict {
        self.sends_at_once(id, core)?;
        self.clock_is_slewed(id, core, micros(now.boot), now.wall)?;
        self.hides_what_is_past(id, core)
    }

    /// Deadlines: the primary appends an `Expire` once one is past. What it executes in one turn is of one time.
    pub fn is_removed_in_time(&mut self, (index, epoch): (Index, Epoch), time: u64, past: Option<u64>) -> Verdict {
        let (turns, of, last) = self.overdue;
        self.overdue = match past {
            None => (0, epoch, time),
            Some(_) if of != epoch => (1, epoch, time),
            Some(_) => (turns + u32::from(time > last), epoch, time),
        };
        match past.filter(|_| self.overdue.0 > OVERDUE) {
            Some(past) => Err(format!("deadlines: at {index}, of {time}, is still there what was to be until {past}")),
            None => Ok(()),
        }
    }

    /// Deadlines: a read hides what is past the clock, whether or not it has been removed. Looked at in the state of
    /// whoever has applied nothing beyond the canon.
    fn hides_what_is_past(&self, id: Id, core: &Core) -> Verdict {
        let vitals = core.vitals();
        let verified = self.lives.get(&id).is_some_and(|life| life.verified >= vitals.applied);
        let Some(deadline) = self.fleeting(vitals.applied).filter(|_| verified) else { return Ok(()) };
        // Shown until the millisecond of its deadline is over.
        if vitals.clock / 1_000 <= deadline / 1_000 + 1 || vitals.clock > deadline + SLEWED {
            return Ok(());
        }
        let shown = canon::read(core.machine().inner(), &workload::read_fleeting(), vitals.clock);
        if shown.starts_with(b"$") && !shown.starts_with(b"$-1") {
            let name = core.status().name;
            return Err(format!("deadlines: {name} shows at {} what is past {deadline}", vitals.clock));
        }
        Ok(())
    }

    /// What it had acknowledged before an older image of its data took its place says nothing of what it holds, where
    /// nobody counts on it.
    pub fn forgets_what_it_heard(&mut self, name: &ReplicaName, incarnation: Incarnation) {
        if !self.record().is_some_and(|record| record.has(name, incarnation)) {
            self.heard.retain(|(_, life), _| *life != incarnation);
        }
    }
}

impl Duties {
    /// It suspects somebody: what it does next is up to the arbiters.
    pub fn suspected(&mut self) {
        self.stuck = None;
    }
}

fn micros(time: Duration) -> Time {
    time.as_micros() as Time
}

impl World {
    fn boot(&self, id: Id) -> Time {
        self.processes[id].clock.boot(self.now)
    }

    /// A core is about to take an input that its duties hang on.
    pub fn duties_begin(&mut self, id: Id, core: &Core, input: &Input) {
        let (boot, heard, group) = (self.boot(id), (self.now, self.stood_still(id)), self.replica(id).group);
        match input {
            Input::Read { ticket, .. } => {
                let duties = &mut self.replica_mut(id).duties;
                duties.arbiters = Some(boot);
                duties.unconfirmed.take_if(|it| it.reads.contains(ticket));
            }
            Input::Switchover { .. } => self.replica_mut(id).duties.hands_over = Some(boot),
            Input::Peer(_, PeerMessage::Append(append)) if core.vitals().leads.is_none() => {
                self.hears_of_outputs(id, core, &append.head);
            }
            // A handshake begins a new story.
            Input::Peer(_, PeerMessage::Control(PeerControl::Welcome(_))) => self.replica_mut(id).duties.stuck = None,
            Input::Answer { request, answer } => self.proposal_answered(id, *request, answer),
            Input::Peer(_, PeerMessage::Control(PeerControl::Alive { replica, incarnation, .. })) => {
                let other = |it: &mut Admitting| it.replica == *replica && it.life != *incarnation;
                self.replica_mut(id).duties.admits.take_if(other);
            }
            Input::Shutdown => {
                let backed = core.record().is_some_and(|record| record.in_sync.len() > 1);
                let asked = core.vitals().leads.filter(|_| backed).map(|led| (boot, led));
                // Asked again, it goes on as it was first asked to.
                let to_stop = &mut self.replica_mut(id).duties.to_stop;
                *to_stop = to_stop.or(asked);
            }
            Input::Peer(link, _) if core.vitals().leads.is_some() => {
                if let Some((name, life, _)) = self.groups[group].followers.get(&(id, *link)).cloned() {
                    self.replica_mut(id).duties.heard.insert((name, life), heard);
                }
            }
            _ => {}
        }
    }

    fn proposal_answered(&mut self, id: Id, request: RequestId, answer: &Answer) {
        let (now, duties) = (self.now, &mut self.replica_mut(id).duties);
        duties.admits.take_if(|it| it.request == request);
        if duties.takes_over.take_if(|asked| *asked == request).is_some() && matches!(answer, Answer::Refused { .. }) {
            duties.refused = Some(now);
        }
    }

    /// A backup hears from its primary: whether it hears that this cannot release, through no fault of its own.
    fn hears_of_outputs(&mut self, id: Id, core: &Core, head: &AppendHead) {
        let (status, vitals, boot) = (core.status(), core.vitals(), self.boot(id));
        let patience = match head.output_waits_for {
            WaitsFor::Primary | WaitsFor::Receiver => SUSPECT_AFTER,
            WaitsFor::Another => SUSPECT_AFTER * OTHERS_PATIENCE,
        };
        let follows = status.role == Role::Backup && head.epoch == vitals.known_epoch;
        let mine = Time::from(status.journal_age_ms) * 1_000 >= SUSPECT_AFTER / 2 || vitals.held_back;
        let stuck = follows && !mine && Time::from(head.output_age_ms) * 1_000 >= patience;
        let duties = &mut self.replica_mut(id).duties;
        duties.stuck = stuck.then(|| (duties.stuck.map_or(boot, |(since, _)| since), boot));
    }

    /// H16: a backup suspects a primary that goes on without being able to release.
    pub fn h16_who_cannot_release_is_suspected(&self, id: Id) -> Verdict {
        match self.replica(id).duties.stuck {
            Some((since, heard)) if heard > since + STUCK => {
                let (name, for_us) = (self.name(id), heard - since);
                Err(format!("H16: {name} has heard for {for_us} us that its primary cannot release"))
            }
            _ => Ok(()),
        }
    }

    /// Acknowledgement: the unapplied backlog is bounded: no more is acknowledged than may wait to be applied, but always
    /// a block. Who is not in sync is held to a part of that: clients must not wait for it while it works off the rest.
    pub fn acknowledges_what_it_can_apply(&self, core: &Core, verified: Index) -> Verdict {
        if self.swarm.unacknowledged_bytes > LOOKED_THROUGH {
            return Ok(());
        }
        let applied = core.vitals().applied;
        let bytes = |index| match core.entry_at(index) {
            EntryAt::Is(_, bytes) => bytes.len(),
            _ => 0,
        };
        let block = self.swarm.append_bytes.max(bytes(applied + 1));
        let status = core.status();
        let in_sync = core.record().is_some_and(|record| record.has(&status.name, status.incarnation));
        let part = if in_sync { 1 } else { JOINS_WITHIN };
        let limit = (self.swarm.unacknowledged_bytes / part).max(block);
        let waits: usize = (applied + 1..=verified).map(bytes).sum();
        if waits > limit {
            let name = status.name;
            return Err(format!("backlog: {name} acknowledges {verified}, of which {waits} bytes wait to be applied"));
        }
        Ok(())
    }

    /// A core begins a turn.
    pub fn turn_begins(&mut self, id: Id, core: &Core) {
        let (boot, vitals) = (self.boot(id), core.vitals());
        let duties = &mut self.replica_mut(id).duties;
        let before = duties.turn.replace(boot);
        if before.is_some_and(|at| boot > at + STOOD_STILL) {
            duties.stuck = None;
        }
        if vitals.leads.is_some() && before.is_some_and(|at| boot > at + STOOD_STILL) {
            let release = core.release();
            duties.unconfirmed = Some(Unconfirmed { round: vitals.round, reads: BTreeSet::new(), release });
        }
    }

    /// A core asks the arbiters for the record.
    pub fn reads_the_record(&mut self, id: Id, ticket: u64) {
        if let Some(unconfirmed) = &mut self.replica_mut(id).duties.unconfirmed {
            unconfirmed.reads.insert(ticket);
        }
    }

    /// A core has taken an input: all its members may have acknowledged a round that began since it stood still, or it
    /// leads no more.
    pub fn may_be_confirmed(&mut self, id: Id, core: &Core) {
        let Some(unconfirmed) = &self.replica(id).duties.unconfirmed else { return };
        let ghost = &self.groups[self.replica(id).group];
        let members = core.record().into_iter().flat_map(|record| &record.in_sync);
        let mut others = members.filter(|member| member.incarnation != core.incarnation()).peekable();
        let round = |life| ghost.heard.get(&(id, life)).map_or(0, |heard| heard.round);
        let by_members = others.peek().is_some() && others.all(|member| round(member.incarnation) > unconfirmed.round);
        if by_members || core.vitals().leads.is_none() {
            self.replica_mut(id).duties.unconfirmed = None;
        } else if core.record().is_some_and(|record| record.in_sync.len() > 1)
            && let Some(unconfirmed) = &mut self.replica_mut(id).duties.unconfirmed
        {
            // A round that its members had confirmed before they were free to follow another was confirmed all the same.
            // One of nobody would not be.
            unconfirmed.release.round = core.release().round;
        }
    }

    /// Deposed primary: who stood still executes nothing before it has confirmed that it leads, with members by a round
    /// of all of them, alone by the arbiters.
    /// Nor does it release what it may not have released before.
    pub fn confirms_before_it_executes(&mut self, id: Id, core: &Core) -> Verdict {
        self.may_be_confirmed(id, core);
        let Some(unconfirmed) = &self.replica(id).duties.unconfirmed else { return Ok(()) };
        let (before, release) = (unconfirmed.release, core.release());
        let more = release.open && (release.commit > before.commit || release.round > before.round);
        let does = match core.admission() {
            Admission::Open => "serves",
            _ if more => "releases more",
            _ => return Ok(()),
        };
        let name = self.name(id);
        Err(format!(
            "waking: {name} stood still, and {does} without having confirmed its epoch ({} and round {}; before: {} and {})",
            release.commit, release.round, before.commit, before.round
        ))
    }

    /// Switchover: new requests wait, from when its successor is chosen until the hand-over is granted or given up.
    pub fn waits_while_it_hands_over(&mut self, id: Id, core: &Core) -> Verdict {
        let vitals = core.vitals();
        let now = vitals.leads.zip(vitals.hands_over).map(|hand_over| (hand_over, vitals.last));
        let before = std::mem::replace(&mut self.replica_mut(id).duties.waits_at, now);
        match (before, now) {
            (Some((before, last)), Some((now, executed))) if now == before && executed > last => {
                let name = self.name(id);
                Err(format!("switchover: {name} hands over, and executes {executed} after {last}"))
            }
            _ => Ok(()),
        }
    }

    /// A core has asked the arbiters for a change that it had not asked for before.
    pub fn proposes_anew(&mut self, id: Id, proposal: &Proposal) {
        self.arbiters_answer(id, proposal);
        let replica = self.replica_mut(id);
        match &proposal.change {
            Change::Admit { member } => {
                let ((replica_name, life), epoch) = (member.life(), proposal.expected_epoch);
                replica.duties.admits =
                    Some(Admitting { request: proposal.request, epoch, replica: replica_name, life });
            }
            Change::TakeOver => replica.duties.takes_over = Some(proposal.request),
            Change::HandOver { to, .. } => {
                let to = self.id_of(to.as_str());
                self.delay_a_hand_over(id, to);
            }
            _ => {}
        }
    }

    /// A backup calls its primary silent.
    pub fn suspects_silence(&mut self, id: Id) {
        let replica = self.replica_mut(id);
        let again = replica.duties.refused.take().is_some_and(|at| replica.heard.0 < at);
        self.report.saw_if(again, Must::SuspectedAgain);
    }

    /// New replica: the joint set binds from the proposal on, until the arbiters answer, another epoch is known, or the
    /// replica itself is found in another life.
    pub fn keeps_the_joint_set(&mut self, id: Id, core: &Core) -> Verdict {
        let vitals = core.vitals();
        let Some(admits) = &self.replica(id).duties.admits else { return Ok(()) };
        if vitals.leads != Some(admits.epoch) {
            self.replica_mut(id).duties.admits = None;
            return Ok(());
        }
        if vitals.joint == Some(admits.life) {
            return Ok(());
        }
        let name = self.name(id);
        Err(format!("joint: {name} waits no longer for {}, which it has asked to admit", admits.replica))
    }

    /// `Admit` and `HandOver` are proposed only while the arbiters answer.
    fn arbiters_answer(&mut self, id: Id, proposal: &Proposal) {
        if !matches!(proposal.change, Change::Admit { .. } | Change::HandOver { .. }) {
            return;
        }
        let (boot, answered) = (self.boot(id), self.replica(id).duties.arbiters);
        if answered.is_none_or(|at| boot > at + JOINT) {
            let (name, what) = (self.name(id), proposal.change.name());
            self.check(Err(format!("admission: {name} proposes {what} without knowing that the arbiters answer")));
        }
    }

    /// H17, of a primary: silence of a backup counts only while the primary ran itself.
    ///
    /// Another life of it may talk all the time: that is not the one which is waited for.
    pub fn h17_of_a_primary(&self, id: Id, core: &Core, suspected: &ReplicaName) -> Verdict {
        let members = core.record().into_iter().flat_map(|record| &record.in_sync);
        let lives = members.filter(|member| member.replica == *suspected).map(|member| member.incarnation);
        let mut verdict = Ok(());
        for life in lives.chain(core.vitals().joint) {
            let Some(heard) = self.replica(id).duties.heard.get(&(suspected.clone(), life)) else { continue };
            verdict = self.listened(id, *heard, DROP_BACKUP_AFTER, &suspected.to_string());
            if verdict.is_ok() {
                break;
            }
        }
        verdict
    }

    /// A primary that was asked to stop has seen its successor live, or could not hand over in time.
    pub fn stops_after_its_successor(&self, id: Id) -> Verdict {
        let replica = self.replica(id);
        let (Some((asked, led)), Some(core)) = (replica.duties.to_stop, replica.core.as_ref()) else { return Ok(()) };
        let boot = self.boot(id);
        let another = replica.duties.hands_over.is_some_and(|at| boot < at + SWITCHOVER_TIMEOUT + SUSPECT_AFTER);
        if core.vitals().known_epoch == led && boot < asked + SWITCHOVER_TIMEOUT && !another {
            return Err(format!("switchover: {} stops in epoch {led}, and nobody has taken its place", self.name(id)));
        }
        Ok(())
    }

    /// `min_in_sync` is checked before anything is executed.
    pub fn executed_with_enough(&mut self, id: Id, core: &Core, executed: (Index, Index)) {
        let Some(record) = core.record() else { return };
        if executed.1 > executed.0 && record.in_sync.len() < usize::from(record.min_in_sync) {
            let (name, has, wants) = (self.name(id), record.in_sync.len(), record.min_in_sync);
            self.check(Err(format!("min_in_sync: {name} executes a write with {has} in sync, {wants} are wanted")));
        }
    }
}
