//! The primary: the required set, commit, rounds, release.
//!
//! What must hold (the output rule, O1 and O4): an index is committed when this replica's own journal and every
//! required member have it, acknowledged in the present epoch; a round is confirmed when every required member has
//! acknowledged a message that carried it. *Required* is the in-sync set, joint with the replica of an `Admit` in
//! flight. A `Remove` in flight changes nothing: that backup is required until the arbiter has spoken.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cutover_arbiter::planted;
use cutover_arbiter::record::{
    Change, Epoch, GroupId, GroupRecord, Incarnation, Index, Member, Mode, Position, ReplicaName,
};

use crate::machine::StateMachine;
use crate::protocol::client::SessionId;
use crate::protocol::entry::{self, Block, Control, Payload};
use crate::protocol::peer::{Round, TransferId, WaitsFor};

use super::durable::Handed;
use super::few::Few;
use super::followers::Follower;
use super::members::{Backoff, HandOver, Standing};
use super::proposals::Grant;
use super::reads::Reads;
use super::transfers::Transfer;
use super::{Admission, Event, Hold, LinkId, Outbox, Release, Replica, Stance, state};

/// Removals that one `Expire` entry may make.
const EXPIRE_BUDGET: u32 = 256;
/// How far ahead of the clock a ceiling is set, in microseconds.
const CEILING_AHEAD: u64 = 2_000_000;

/// A member's own among the standings: asked for several times in each turn, for which a key of the map would have to be
/// made.
pub(super) fn standing_of<'a, S>(
    mut standings: impl Iterator<Item = (&'a (ReplicaName, Incarnation), S)>,
    member: &Member,
) -> Option<S> {
    let is_its = |life: &(ReplicaName, Incarnation)| life.1 == member.incarnation && life.0 == member.replica;
    standings.find(|(life, _)| is_its(life)).map(|(_, standing)| standing)
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Primary {
    pub(super) epoch: Epoch,
    /// The `EpochStart` is durable: this replica may send, propose, admit and serve.
    pub(super) serving: bool,
    /// From when the cut-over counts.
    since: Duration,
    drained: u64,
    first_of_epoch: Index,
    pub(super) commit: Index,
    /// What is committed waits for another replica's acknowledgement, not for this replica's own disk.
    others_lag: bool,
    /// Commit as far as clients may see it: stands still while too few replicas are in sync.
    released: Index,
    /// The last round sent.
    pub(super) round: Round,
    pub(super) confirmed: Round,
    /// What each required member acknowledged in this epoch.
    pub(super) standings: Few<(ReplicaName, Incarnation), Standing>,
    /// Included in the required set before its `Admit` is proposed, until the answer.
    pub(super) joint: Option<Member>,
    /// Until when a replica in the joint set that was not proposed yet may catch up.
    pub(super) joint_until: Duration,
    pub(super) followers: Few<LinkId, Follower>,
    pub(super) builder: Builder,
    /// A read of this turn needs a round.
    pub(super) round_wanted: bool,
    pub(super) confirm: Confirm,
    pub(super) handover: Option<HandOver>,
    /// A linearisable read that must succeed before this replica is admitted.
    pub(super) admitting: Option<(u64, Member)>,
    pub(super) admit_again_at: Duration,
    pub(super) backoff: BTreeMap<ReplicaName, Backoff>,
    /// State transfers under way, and broken ones that may go on.
    pub(super) transfers: BTreeMap<TransferId, Transfer>,
    /// By their rate, no chunk is read before this.
    pub(super) pace_at: Duration,
    /// Those that could not keep up with the log: when they may have a snapshot again.
    pub(super) slow: BTreeMap<ReplicaName, Backoff>,
    /// The newest connection of each session.
    pub(super) connections: BTreeMap<SessionId, u64>,
    /// Reads of sessions that may be asked again; a later entry of the session carries them.
    pub(super) reads: Reads,
    pub(super) full: bool,
    /// Since when something executed waits for the commit, which has not moved in that time.
    commit_since: Option<Duration>,
    /// The highest round that something waits for, and since when no round was confirmed.
    round_due: Round,
    round_since: Option<Duration>,
    last_sent: Duration,
}

/// A primary that was stopped executes and releases nothing before it knows that it still is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Confirm {
    /// Nothing to confirm.
    No,
    /// To be begun at the end of this turn.
    Due,
    /// Waiting for a round of the members.
    Round(Round),
    /// Alone: waiting for the arbiters.
    Read(u64),
    /// Alone, and the arbiters did not answer: ask again then.
    Again(Duration),
}

/// How far somebody is, in its own words of this epoch.
#[derive(Debug, Clone, Copy)]
struct Heard {
    /// It holds every entry up to here.
    index: Index,
    round: Round,
}

/// The entries of the present turn.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Builder {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u32,
    first: Index,
}

/// Room that the builder keeps from turn to turn, in bytes.
const BUILDER_KEEPS: usize = 64 * 1024;

impl Builder {
    /// The entries, in hardly more memory than they need: the log keeps them for long. A large block, which has grown to
    /// what it needs, is handed on as it is: another copy of it would cost more than all the rest.
    fn take_bytes(&mut self) -> Bytes {
        let spare = self.bytes.capacity() - self.bytes.len();
        if self.bytes.len() > BUILDER_KEEPS && spare < self.bytes.len() / 16 {
            return Bytes::from(std::mem::take(&mut self.bytes));
        }
        let bytes = Bytes::copy_from_slice(&self.bytes);
        self.bytes.clear();
        self.bytes.shrink_to(BUILDER_KEEPS);
        bytes
    }
}

impl Primary {
    pub(super) fn new(now: Duration, epoch: Epoch, since: Duration, drained: u64, commit: Index, first: Index) -> Self {
        Self {
            epoch,
            serving: false,
            since,
            drained,
            first_of_epoch: first,
            commit,
            released: 0,
            round: 0,
            confirmed: 0,
            standings: Few::default(),
            joint: None,
            joint_until: now,
            followers: Few::default(),
            builder: Builder { first, ..Builder::default() },
            others_lag: false,
            round_wanted: false,
            confirm: Confirm::No,
            handover: None,
            admitting: None,
            admit_again_at: now,
            backoff: BTreeMap::new(),
            transfers: BTreeMap::new(),
            pace_at: now,
            slow: BTreeMap::new(),
            connections: BTreeMap::new(),
            reads: Reads::default(),
            full: false,
            commit_since: None,
            round_due: 0,
            round_since: None,
            last_sent: now,
        }
    }

    /// A grant that leaves it alone in sync, and was long in coming, may be old news.
    pub(super) fn granted(&mut self, record: &GroupRecord, grant: Grant) {
        if record.in_sync.len() == 1 && grant != Grant::Prompt && self.confirm == Confirm::No && !planted!("P15") {
            self.confirm = Confirm::Due;
        }
    }

    /// The deadline of the planned cut-over under way.
    pub(super) fn handed_over_until(&self) -> Option<Duration> {
        self.handover.as_ref().map(|handover| handover.deadline)
    }

    /// True when this member has acknowledged everything up to `last` in this epoch.
    pub(super) fn has_all(&self, member: &Member, last: Index) -> bool {
        self.standings.get(&member.life()).is_some_and(|standing| standing.acknowledged >= last)
    }

    pub(super) fn woken(&mut self, late: Duration) {
        for standing in self.standings.values_mut() {
            standing.excuse(late);
        }
        for follower in self.followers.values_mut() {
            follower.pause(late);
        }
        self.commit_since = self.commit_since.map(|since| since + late);
        self.round_since = self.round_since.map(|since| since + late);
        self.confirm = if planted!("P15") { Confirm::No } else { Confirm::Due };
    }

    /// True when something waits to be forwarded, and nothing has to be seen to before.
    pub(super) fn forwards(&self) -> bool {
        let news = self.builder.count > 0 || self.round_wanted;
        let plain = self.serving && self.confirm == Confirm::No && self.handover.is_none();
        // Who catches up would be sent two turns' worth in one.
        news && plain && !self.followers.values().any(Follower::is_catching_up)
    }

    pub(super) fn admission(&self) -> Admission {
        let open = self.serving
            && self.confirm == Confirm::No
            && (self.handover.is_none() || planted!("ho_go_on"))
            && !self.full;
        if open { Admission::Open } else { Admission::Paused }
    }

    pub(super) fn release(&self, record: Option<&GroupRecord>) -> Release {
        let copies = record.map_or(1, |record| record.in_sync.len()).min(usize::from(u8::MAX)) as u8;
        let mode = record.map_or(Mode::Memory, |record| record.mode);
        Release { commit: self.released, round: self.confirmed, epoch: self.epoch, copies, mode, open: self.serving }
    }

    /// The next round, which something waits for from now on.
    fn await_round(&mut self, now: Duration) -> Round {
        self.round_wanted = true;
        self.round_due = self.round + 1;
        self.round_since.get_or_insert(now);
        self.round_due
    }

    /// What a member has acknowledged in this epoch.
    fn heard_from(&self, member: &Member) -> Heard {
        standing_of(self.standings.iter(), member)
            .map_or(Heard { index: 0, round: 0 }, |its| Heard { index: its.acknowledged, round: its.round })
    }

    /// Commit is what this replica's journal and every required member hold; it is released while enough are in sync.
    fn advance(&mut self, heard: Option<Heard>, persisted: Index, (in_sync, enough): (usize, bool), now: Duration) {
        let alone = in_sync == 1;
        let mut commit = if planted!("no_self_persist") { self.executed() } else { persisted };
        let mut confirmed = self.round;
        self.others_lag = false;
        if let Some(heard) = heard.filter(|_| !planted!("P5")) {
            commit = commit.min(heard.index);
            confirmed = confirmed.min(heard.round);
            self.others_lag = heard.index <= persisted;
        }
        if commit > self.commit {
            self.commit = commit;
            self.commit_since = (commit < self.executed()).then_some(now);
        }
        // A round of nobody in sync confirms nothing while the arbiters are asked (`begin_confirming`): a joiner's word
        // says nothing of what an operator did meanwhile.
        let confirms = !alone || self.confirm == Confirm::No;
        if confirmed > self.confirmed && confirms {
            self.confirmed = confirmed;
            self.round_since = (confirmed < self.round_due).then_some(now);
        }
        if let Confirm::Round(round) = self.confirm
            && self.confirmed >= round
            && confirms
        {
            self.confirm = Confirm::No;
        }
        if planted!("H3c") {
            commit = commit.max(self.first_of_epoch - 1);
        }
        // Whoever was stopped may have been replaced meanwhile, and what it waited for (its own disk, acknowledgements on
        // their way) have come all the same.
        let still_primary = self.confirm == Confirm::No;
        if enough && still_primary && (commit >= self.first_of_epoch || planted!("H3c")) {
            self.released = self.released.max(commit);
        }
    }

    /// What the outputs that wait are waiting for, as `follower` is to see it.
    pub(super) fn waits_for(&self, follower: &(ReplicaName, Incarnation), persisted: Index) -> WaitsFor {
        if self.commit_since.is_none() && self.round_since.is_none() {
            return WaitsFor::Primary;
        }
        if self.commit_since.is_some() && persisted <= self.commit {
            return WaitsFor::Primary;
        }
        let lags = self.standings.get(follower).is_some_and(|standing| {
            (self.commit_since.is_some() && standing.acknowledged <= self.commit)
                || (self.round_since.is_some() && standing.round <= self.confirmed)
        });
        if lags { WaitsFor::Receiver } else { WaitsFor::Another }
    }

    /// Index of the last entry executed.
    fn executed(&self) -> Index {
        self.builder.first + u64::from(self.builder.count) - 1
    }
}

impl<M: StateMachine> Replica<M> {
    /// Whose acknowledgement is needed beside this replica's own journal.
    pub(super) fn required(&self) -> Vec<(ReplicaName, Incarnation)> {
        let mut required: Vec<_> = self.required_members().map(Member::life).collect();
        required.sort();
        required.dedup();
        required
    }

    /// The same, as they stand in the record and in what was asked for; it is asked for several times in each turn. The
    /// one to be admitted may be named twice.
    pub(super) fn required_members(&self) -> impl Iterator<Item = &Member> {
        let (members, joint) = match &self.role {
            Stance::Primary(primary) => {
                (self.record.as_ref().map_or(&[][..], |record| &record.in_sync), primary.joint.as_ref())
            }
            _ => (&[][..], None),
        };
        let leaving = match self.proposal.as_ref().map(|pending| &pending.proposal.change) {
            Some(Change::Remove { replica, .. }) if planted!("P2") => Some(replica),
            _ => None,
        };
        let others = members.iter().filter(|member| !self.is_me(member));
        others.chain(joint.filter(|_| !planted!("no_joint"))).filter(move |member| leaving != Some(&member.replica))
    }

    /// What all of them have acknowledged; `None` while nobody's word is needed.
    fn heard_from_required(&self) -> Option<Heard> {
        let Stance::Primary(primary) = &self.role else { return None };
        let each = self.required_members().map(|member| primary.heard_from(member));
        each.reduce(|all, one| Heard { index: all.index.min(one.index), round: all.round.min(one.round) })
    }

    /// First entry of an epoch: nothing is sent, proposed, admitted or served before it is durable.
    pub(super) fn start_epoch(&mut self, group_id: GroupId, genesis: bool, out: &mut Outbox<M>) {
        let mut reply = std::mem::take(&mut self.scratch.reply);
        reply.clear();
        self.execute(&Payload::Control(Control::EpochStart { group_id, genesis }), &mut reply, out);
        self.scratch.reply = reply;
        self.seal_block();
        if self.flush_to_disk(out) != Handed::Done {
            self.after_persist(out);
        }
    }

    /// A change of this primary's own was granted: a new epoch, the same primary. Acknowledgements of the old epoch do
    /// not count in it, so an empty append goes out at once.
    pub(super) fn membership_changed(&mut self, record: &GroupRecord, grant: Grant, out: &mut Outbox<M>) {
        self.seal_block();
        let now = self.now.boot;
        let Stance::Primary(primary) = &mut self.role else { return };
        primary.epoch = record.epoch;
        primary.builder.first = self.log.last().index + 1;
        primary.joint = None;
        primary.admitting = None;
        primary.granted(record, grant);
        let members = &record.in_sync;
        primary.standings.retain(|(replica, incarnation), _| {
            members.iter().any(|member| &member.replica == replica && member.incarnation == *incarnation)
        });
        for standing in primary.standings.values_mut().filter(|_| !planted!("ack_any_epoch")) {
            standing.new_epoch();
        }
        primary.round_wanted = true;
        match &record.last_change.change {
            Change::Remove { replica, .. } => {
                let backoff = primary.backoff.entry(replica.clone()).or_default();
                backoff.removed(now, self.config.readmit_after);
                self.event(out, Event::Removed { replica: replica.clone(), epoch: record.epoch });
            }
            Change::Admit { member } => {
                let standing = Standing::new(now);
                primary.standings.insert_if_absent(member.life(), || standing);
                self.event(out, Event::Admitted { replica: member.replica.clone(), epoch: record.epoch });
            }
            _ => {}
        }
        self.advance_commit();
    }

    /// Executes a new entry and puts it into the block of this turn. Returns its index.
    pub(super) fn execute(&mut self, payload: &Payload<'_>, reply: &mut Vec<u8>, out: &mut Outbox<M>) -> Index {
        // An entry that would take the block over its limit begins one of its own: no block is longer than that, or than
        // one entry, and so fits into a frame.
        if self.builder_bytes() + entry::size(payload) > self.config.append_bytes {
            self.seal_block();
        }
        let Stance::Primary(primary) = &mut self.role else { return 0 };
        let time = self.clock.now().max(self.state.time);
        let at = Position { epoch: primary.epoch, index: primary.builder.first + u64::from(primary.builder.count) };
        self.scratch.captured.clear();
        let start = entry::begin(&mut primary.builder.bytes);
        let executed = self.state.execute(
            at,
            time,
            payload,
            self.config.limits.memory,
            &mut self.random,
            &mut self.scratch.captured,
            &mut self.garbage,
            reply,
        );
        entry::put(&mut primary.builder.bytes, time, payload, &self.scratch.captured);
        entry::finish(&mut primary.builder.bytes, start, executed.check);
        primary.builder.count += 1;
        primary.commit_since.get_or_insert(self.now.boot);
        if let Some(panic) = executed.panic {
            let operation = state::describe::<M>(payload);
            self.event(out, Event::Poisonous { index: at.index, operation, panic });
        }
        if let Payload::Control(Control::Mark { .. }) = payload {
            self.digest(out);
        }
        if self.builder_bytes() >= self.config.append_bytes {
            self.seal_block();
        }
        at.index
    }

    fn builder_bytes(&self) -> usize {
        match &self.role {
            Stance::Primary(primary) => primary.builder.bytes.len(),
            _ => 0,
        }
    }

    /// The entries so far become a block of the log.
    pub(super) fn seal_block(&mut self) {
        let Stance::Primary(primary) = &mut self.role else { return };
        if primary.builder.count == 0 {
            return;
        }
        let block = Block {
            epoch: primary.epoch,
            first: primary.builder.first,
            count: primary.builder.count,
            bytes: primary.builder.take_bytes(),
        };
        primary.builder.first += u64::from(primary.builder.count);
        primary.builder.count = 0;
        self.disk.append(&block);
        self.log.push(block);
    }

    /// The journal got further.
    pub(super) fn after_persist(&mut self, out: &mut Outbox<M>) {
        self.follower_persisted();
        let now = self.now.boot;
        let persisted = self.disk.persisted;
        let Stance::Primary(primary) = &mut self.role else { return };
        if !primary.serving && (persisted >= primary.first_of_epoch || planted!("serves_undurable")) {
            primary.serving = true;
            primary.round_wanted = true;
            let took = now.saturating_sub(primary.since);
            let event =
                Event::CutOver { epoch: primary.epoch, took_us: took.as_micros() as u64, drained: primary.drained };
            self.expect_members();
            self.event(out, event);
        }
        self.advance_commit();
    }

    /// Every in-sync member must show itself to a new primary within its patience.
    fn expect_members(&mut self) {
        let now = self.now.boot;
        let required = self.required();
        let Stance::Primary(primary) = &mut self.role else { return };
        for member in required {
            primary.standings.insert_if_absent(member, || Standing::new(now));
        }
    }

    /// Commit, confirmed round and what may be released, from the acknowledgements.
    pub(super) fn advance_commit(&mut self) {
        let heard = self.heard_from_required();
        let min_in_sync = self.record.as_ref().map_or(1, |record| usize::from(record.min_in_sync));
        let in_sync = self.record.as_ref().map_or(1, |record| record.in_sync.len());
        let enough = in_sync >= min_in_sync || planted!("H19");
        let (now, persisted) = (self.now.boot, self.disk.persisted);
        // A restart must not forget the epoch in which something was released.
        let serves = matches!(&self.role, Stance::Primary(primary)
            if primary.serving && self.epoch_is_durable(primary.epoch));
        match &mut self.role {
            Stance::Primary(primary) if serves => {
                let before = primary.commit;
                primary.advance(heard, persisted, (in_sync, enough), now);
                // Who is to be admitted may hold its word back until it has applied this, and knows of it only by an
                // append; there may be no news to send.
                primary.round_wanted |=
                    primary.commit > before && primary.joint.is_some() && primary.commit_since.is_some();
            }
            // Its own disk is what is waited for.
            Stance::Primary(primary) => primary.others_lag = false,
            Stance::Follow(_) | Stance::Stopped => {}
        }
    }

    /// True while the disk need not wake this replica for entries that it has written: before another one acknowledges
    /// more nothing can come of it, and that wakes this replica itself. (A loop that sleeps pays more for being woken
    /// than for everything else it does in a turn.)
    pub fn may_learn_late_of_its_disk(&self) -> bool {
        let Stance::Primary(primary) = &self.role else { return false };
        let plain = primary.serving && primary.handover.is_none() && self.stopping.is_none();
        plain && primary.others_lag && self.disk.waits_for_entries_only()
    }

    /// The hold of something that is not the reply of its own entry: computed from everything executed so far, and
    /// confirmed by a round that begins after now. Alone, with no change in flight, no round is needed.
    pub(super) fn hold_for_read(&mut self) -> Hold {
        let alone = self.record.as_ref().is_some_and(|record| record.in_sync.len() == 1)
            && (self.proposal.is_none() || planted!("H2"));
        let now = self.now.boot;
        let Stance::Primary(primary) = &mut self.role else { return Hold::default() };
        let mut index = if planted!("H3a") { primary.released } else { primary.executed() };
        if planted!("H3c") && index == primary.first_of_epoch {
            // What it drained is all that a read of a new primary saw.
            index -= 1;
        }
        if planted!("P16") || alone && (primary.joint.is_none() || planted!("H2")) {
            return Hold { index, round: 0 };
        }
        Hold { index, round: primary.await_round(now) }
    }

    /// The clock that a read may show: below a ceiling that is in the log. Reads renew it about once a second.
    pub(super) fn clock_for_read(&mut self, out: &mut Outbox<M>) -> u64 {
        let clock = self.clock.now().max(self.state.time);
        if clock + CEILING_AHEAD / 2 > self.state.ceiling {
            let until = clock + CEILING_AHEAD;
            let mut reply = Vec::new();
            self.execute(&Payload::Control(Control::Ceiling { until }), &mut reply, out);
        }
        clock
    }

    pub(super) fn end_primary(&mut self, out: &mut Outbox<M>) {
        self.expire(out);
        self.watch_members(out);
        if self.notice_a_stall(out) {
            self.switchover(None, 0, out);
        }
        self.drop_the_silent(out);
        self.forget_broken_transfers();
        self.continue_handover(out);
        self.admit_a_spare(out);
        // Any of these may have ended this replica's time as primary.
        if !matches!(self.role, Stance::Primary(_)) {
            return;
        }
        self.begin_confirming(out);
        self.forward_entries(out);
        self.tend_snapshots(out);
        self.forget_ended_sessions();
        self.give_up_the_slow(out);
        self.trim_log();
    }

    /// What was executed leaves, for the disk and for the followers.
    pub(super) fn forward_entries(&mut self, out: &mut Outbox<M>) {
        self.seal_block();
        if self.flush_to_disk(out) != Handed::Done {
            self.advance_commit();
        }
        self.feed_followers(out);
    }

    /// Removes what is past its deadline, by a logged entry with a captured time.
    fn expire(&mut self, out: &mut Outbox<M>) {
        let due = self.state.next_deadline().is_some_and(|deadline| deadline <= self.clock.now());
        if due && self.admission() == Admission::Open {
            let mut reply = Vec::new();
            self.execute(&Payload::Control(Control::Expire { budget: EXPIRE_BUDGET }), &mut reply, out);
        }
    }

    /// A stopped primary has woken: it asks its members, or alone the arbiters, whether it still is one.
    fn begin_confirming(&mut self, out: &mut Outbox<M>) {
        if matches!(&self.role, Stance::Primary(primary) if primary.confirm == Confirm::No) {
            return;
        }
        // A joiner is none of the members: no operator need know of it.
        let alone = self.record.as_ref().is_none_or(|record| record.in_sync.len() == 1);
        let now = self.now.boot;
        let Stance::Primary(primary) = &mut self.role else { return };
        let due = match primary.confirm {
            Confirm::Due => true,
            Confirm::Again(at) => at <= now,
            // Its last member left by this primary's own grant, or a member joined.
            Confirm::Round(_) => alone,
            Confirm::Read(_) | Confirm::No => false,
        };
        if !due {
            return;
        }
        if alone {
            let ticket = self.read_record(out);
            let Stance::Primary(primary) = &mut self.role else { return };
            primary.confirm = Confirm::Read(ticket);
        } else {
            primary.confirm = Confirm::Round(primary.await_round(now));
        }
    }

    /// What is kept of sessions beside their table.
    fn forget_ended_sessions(&mut self) {
        let release = self.release();
        let Stance::Primary(primary) = &mut self.role else { return };
        let sessions = &self.state.sessions;
        if primary.connections.len() > 2 * sessions.len() + 64 {
            primary.connections.retain(|session, _| sessions.contains(*session));
        }
        let most = self.config.limits.session_bytes;
        primary.reads.retain(|session| sessions.contains(session), sessions.len(), most);
        if planted!("until_released") {
            primary.reads.forget_released(&release);
        }
    }

    /// No entry goes that a required member has not acknowledged, or that a follower in the stream still needs.
    fn trim_log(&mut self) {
        let heard = self.heard_from_required();
        let (log_bytes, limit) = (self.config.log_bytes, self.config.unacknowledged_bytes);
        let Stance::Primary(primary) = &mut self.role else { return };
        let mut floor = heard.map_or(primary.commit, |heard| primary.commit.min(heard.index));
        let acknowledged = floor;
        let streaming = primary.followers.values().filter_map(Follower::keeps_log_after);
        let transfers = primary.transfers.values().map(|transfer| transfer.index);
        floor = streaming.chain(transfers).fold(floor, Index::min);
        self.log.trim(log_bytes, floor);
        if self.log_is_on_disk() {
            // Whoever is not required may be sent it from there.
            self.log.trim(self.config.limits.transfer_log_bytes.max(log_bytes), acknowledged.min(self.disk.persisted));
        }
        // In a new epoch nobody has acknowledged anything; what was trimmed they held in an older one.
        let waiting = !self.log.is_near(acknowledged.max(self.log.base()), limit);
        if let Stance::Primary(primary) = &mut self.role {
            primary.full = waiting;
        }
    }

    /// For how long outputs have waited without any progress. What waits only for more copies is not counted: no
    /// other primary could release it either.
    pub(super) fn output_age_ms(&self) -> u32 {
        let Stance::Primary(primary) = &self.role else { return 0 };
        let since = primary.commit_since.into_iter().chain(primary.round_since).min();
        since.map_or(0, |since| super::millis(self.now.boot.saturating_sub(since)))
    }

    pub(super) fn primary_deadline(&self, primary: &Primary) -> Option<Duration> {
        // Alone, too, and before its `EpochStart` is durable, when it sends nothing and suspects nobody: only a loop that
        // is due often can tell that it was stopped.
        let serving = primary.serving;
        let last = if serving { primary.last_sent } else { self.now.boot };
        let heartbeat = Some(last + self.config.heartbeat);
        let members = primary.standings.values().map(|standing| standing.suspect_at(&self.config)).min();
        let members = members.filter(|_| serving);
        let handover = primary.handover.as_ref().map(|handover| handover.deadline);
        let confirm = match primary.confirm {
            Confirm::Again(at) => Some(at),
            Confirm::Due => Some(self.now.boot),
            _ => None,
        };
        let open = primary.admission() == Admission::Open;
        let expire = self.state.next_deadline().filter(|_| open).map(|deadline| {
            self.now.boot + Duration::from_micros(deadline.saturating_sub(self.clock.now())) + Duration::from_millis(1)
        });
        let admit = self.wants_to_admit(primary).map(|(_, at)| at);
        let transfer = self.transfer_deadline(primary);
        let cut_short = serving && primary.followers.values().any(Follower::waits_for_a_turn);
        let cut_short = cut_short.then_some(self.now.boot);
        [heartbeat, members, handover, confirm, expire, admit, transfer, cut_short].into_iter().flatten().min()
    }

    pub(super) fn sent_now(&mut self) {
        let now = self.now.boot;
        if let Stance::Primary(primary) = &mut self.role {
            primary.last_sent = now;
        }
    }

    pub(super) fn heartbeat_due(&self) -> bool {
        match &self.role {
            Stance::Primary(primary) => self.now.boot >= primary.last_sent + self.config.heartbeat,
            _ => false,
        }
    }
}
