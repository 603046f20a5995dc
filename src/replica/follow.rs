//! A follower: it dials the primary, finds the common point and appends. What it acknowledges and whom it suspects have
//! files of their own (`acknowledge`, `suspicion`).
//!
//! What must hold: from the moment it knows of a higher epoch, or has asked to take over, it follows nothing of a lower
//! one (O3); it applies up to min(commit, verified).

use std::mem;
use std::time::Duration;

use cutover_arbiter::planted;
use cutover_arbiter::record::{Change, Epoch, Incarnation, Index};

use crate::machine::StateMachine;
use crate::protocol::entry::Block;
use crate::protocol::peer::{
    Append, Handshake, Hello, PeerControl, PeerRefusal, Plan, Purpose, Round, TransferReason, Welcome,
};

use super::back::GoingBack;
use super::durable::Handed;
use super::receive::Receiving;
use super::{Event, Link, LinkId, Outbox, Replica, Role, Stance};

/// Wait before dialling again, doubled up to the longest.
const REDIAL_FIRST: Duration = Duration::from_millis(5);
const REDIAL_LONGEST: Duration = Duration::from_millis(500);

/// A follower's own state; `R` is a machine in the making, for one that is given a snapshot.
#[derive(Debug, Clone, Hash)]
pub(super) struct Follow<R> {
    pub(super) stage: Stage<R>,
    /// Last sign of life from the primary that the record names.
    heard: Duration,
    /// When a whole message came.
    pub(super) heard_whole: Duration,
    /// Last sign of life on the present link, or its beginning.
    pub(super) patience: Duration,
    retry_at: Option<Duration>,
    redial: Duration,
    /// Which in-sync member is dialled next, for one that is not in sync itself.
    turn: usize,
    /// Since when and why the primary is suspected.
    pub(super) suspicion: Option<(Duration, &'static str)>,
    /// Since when the primary says that its outputs wait without progress.
    stuck_since: Option<Duration>,
    /// A take-over was asked for and no handshake since: nothing may be acknowledged.
    pub(super) fenced: bool,
    commit: Index,
    /// The state came by a snapshot of this index, which is not known to be committed yet: nothing may be
    /// acknowledged, and the state is worth nothing if the link breaks.
    pub(super) unproven: Option<Index>,
    /// What came of a transfer whose link broke: it may go on from there.
    pub(super) kept: Option<Box<Receiving<R>>>,
    /// The last acknowledgement said less than it could, only up to here, since so much waits to be applied.
    pub(super) held_back: Option<Index>,
    /// It has tried in vain to make its state anew from its own disk.
    pub(super) cannot_go_back: bool,
    /// Since when it keeps a state of which its primary has no use.
    kept_since: Option<Duration>,
    /// Was primary or in sync in an earlier epoch of this life.
    pub(super) was_in_sync: bool,
    /// The state was made anew from this replica's own disk, and no primary has been met since.
    went_back: bool,
}

#[derive(Debug, Clone, Hash)]
pub(super) enum Stage<R> {
    /// No connection.
    Idle,
    /// Dialled.
    Dialling(LinkId),
    /// `Hello` sent.
    Greeting(LinkId),
    /// In the stream.
    Following(Following),
    /// A snapshot is coming.
    Receiving(Box<Receiving<R>>),
    /// No connection: the state is being made anew from this replica's own disk.
    GoingBack(GoingBack),
}

impl<R> Stage<R> {
    pub(super) fn link(&self) -> Option<LinkId> {
        match self {
            Stage::Idle | Stage::GoingBack(_) => None,
            Stage::Dialling(link) | Stage::Greeting(link) => Some(*link),
            Stage::Following(following) => Some(following.link),
            Stage::Receiving(receiving) => Some(receiving.link),
        }
    }
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Following {
    pub(super) link: LinkId,
    pub(super) handshake: Handshake,
    pub(super) epoch: Epoch,
    /// The log agrees with this primary's, in this epoch, up to here.
    pub(super) verified: Index,
    pub(super) round: Round,
    pub(super) ack_due: bool,
    /// What the last acknowledgement could say.
    pub(super) told: Index,
    /// When that was.
    pub(super) told_at: Duration,
}

impl<R> Follow<R> {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            stage: Stage::Idle,
            heard: now,
            heard_whole: now,
            patience: now,
            retry_at: Some(now),
            redial: REDIAL_FIRST,
            turn: 0,
            suspicion: None,
            stuck_since: None,
            fenced: false,
            commit: 0,
            unproven: None,
            kept: None,
            held_back: None,
            cannot_go_back: false,
            kept_since: None,
            was_in_sync: false,
            went_back: false,
        }
    }

    /// Silence while this loop did not run is its own. It is no excuse for a link of which nothing is left to read: a
    /// fresh one accuses nobody, and tells what was missed.
    pub(super) fn excuse(&mut self, late: Duration) {
        self.heard += late;
        self.heard_whole += late;
        self.stuck_since = self.stuck_since.map(|since| since + late);
        self.kept_since = self.kept_since.map(|since| since + late);
        if let Stage::GoingBack(going) = &mut self.stage {
            going.excuse(late);
        }
    }

    /// The primary's silence is counted anew.
    pub(super) fn be_patient(&mut self, now: Duration) {
        self.heard = now;
    }

    /// A chunk of a snapshot is a sign of life.
    pub(super) fn excuse_transfer(&mut self, now: Duration) {
        self.heard = now;
        self.patience = now;
    }

    pub(super) fn heard(&self) -> Duration {
        self.heard
    }

    pub(super) fn commit(&self) -> Index {
        self.commit
    }

    pub(super) fn set_commit(&mut self, commit: Index) {
        self.commit = self.commit.max(commit);
        if self.unproven.is_some_and(|index| index <= self.commit) {
            self.unproven = None;
        }
    }

    /// A handshake begins: no more than this is known to be committed of what follows. Only a seizure can have made it less
    /// than was known before, and what an operator gave up says nothing of the entries that took its place.
    fn begin_commit(&mut self, commit: Index) {
        self.commit = self.commit.min(commit);
    }

    /// The state was made anew, up to what is committed and in common with the primary's log.
    pub(super) fn went_back_to(&mut self, common: Index) {
        self.commit = self.commit.min(common);
        self.went_back = true;
    }

    pub(super) fn going_back(&self) -> Option<&GoingBack> {
        match &self.stage {
            Stage::GoingBack(going) => Some(going),
            _ => None,
        }
    }

    /// The state is gone, and with it what was known of it.
    pub(super) fn forget_commit(&mut self) {
        self.commit = 0;
        self.another_story();
    }

    /// How far entries may be applied: min(commit, verified).
    pub(super) fn may_apply(&self) -> Index {
        match &self.stage {
            Stage::Following(following) if self.unproven.is_none() => self.commit.min(following.verified),
            _ => 0,
        }
    }

    /// No connection any more; what came of a snapshot is kept aside.
    pub(super) fn idle(&mut self) {
        if let Stage::Receiving(receiving) = std::mem::replace(&mut self.stage, Stage::Idle) {
            self.kept = Some(receiving);
        }
    }

    pub(super) fn dials(&self, link: LinkId) -> bool {
        matches!(self.stage, Stage::Dialling(dialled) if dialled == link)
    }

    pub(super) fn dial_later(&mut self, now: Duration) {
        self.stage = Stage::Idle;
        self.retry_at = Some(now + self.redial);
        self.redial = (self.redial * 2).min(REDIAL_LONGEST);
    }

    fn dial_at(&mut self, at: Duration) {
        self.stage = Stage::Idle;
        self.retry_at = Some(at);
    }

    pub(super) fn dial_now(&mut self, now: Duration) {
        self.stage = Stage::Idle;
        self.retry_at = Some(now);
        self.redial = REDIAL_FIRST;
    }
}

impl<M: StateMachine> Replica<M> {
    /// True when the newest record names this life as a backup, and no operator has fenced it since.
    pub(super) fn is_backup(&self) -> bool {
        self.fenced_from().is_none()
            && self.record.as_ref().is_some_and(|record| {
                record.has(&self.config.name, self.incarnation)
                    && !record.is_primary(&self.config.name, self.incarnation)
            })
    }

    /// True when the newest record names this life primary, but not by its own request: it must `Resume` first.
    pub(super) fn is_elect(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.is_primary(&self.config.name, self.incarnation))
    }

    pub(super) fn follow_role(&self, follow: &Follow<M::Restore>) -> Role {
        // A take-over that was asked for before the primary came back stays open, and is no one's role any more.
        let taking_over = self.proposal.as_ref().is_some_and(|pending| match pending.proposal.change {
            Change::TakeOver => follow.suspicion.is_some(),
            Change::Resume | Change::Create { .. } => true,
            _ => false,
        });
        match &follow.stage {
            _ if self.fenced_from().is_some() => Role::Fenced,
            _ if taking_over || self.is_elect() => Role::TakingOver,
            _ if self.is_backup() => match follow.kept_since {
                None => Role::Backup,
                Some(_) => Role::Joining,
            },
            Stage::Receiving(_) | Stage::GoingBack(_) => Role::Joining,
            Stage::Following(following) if follow.unproven.is_none() && following.verified >= follow.commit => {
                Role::Spare
            }
            Stage::Following(_) => Role::Joining,
            _ if follow.was_in_sync => Role::Fenced,
            _ if self.log.is_empty() => Role::Starting,
            _ => Role::Joining,
        }
    }

    pub(super) fn follow_deadline(&self, follow: &Follow<M::Restore>) -> Option<Duration> {
        let may_suspect = self.may_suspect(follow);
        let suspect = may_suspect.then(|| follow.heard + self.config.suspect_after);
        let awake = may_suspect.then(|| self.awake_at(follow));
        let lost = follow.stage.link().map(|_| follow.patience + self.config.suspect_after * 4);
        let retry = (matches!(follow.stage, Stage::Idle) && self.may_dial()).then_some(follow.retry_at).flatten();
        let back = follow.going_back().map(GoingBack::until);
        [suspect, awake, lost, retry, back].into_iter().flatten().min()
    }

    pub(super) fn end_follow(&mut self, out: &mut Outbox<M>) {
        self.check_silence(out);
        self.give_up_going_back(out);
        self.dial_upstream(out);
        if self.notice_a_stall(out) {
            // It cannot acknowledge; better that everybody knows at once.
            self.drop_upstream(out);
        }
        let handed = self.flush_to_disk(out) == Handed::Waits;
        self.tend_snapshots(out);
        self.acknowledge_now_or_soon(handed, out);
        let applied = self.state.applied.index;
        let floor = self.rebuilding.map_or(applied, |running| running.keeps_log_after(applied));
        self.log.trim(self.config.log_bytes, floor);
    }

    /// Ends the connection to the primary and dials again soon.
    pub(super) fn drop_upstream(&mut self, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let Stance::Follow(follow) = &mut self.role else { return };
        let link = follow.stage.link();
        follow.idle();
        follow.dial_later(now);
        let discard = follow.unproven.take().is_some();
        if let Some(link) = link {
            self.links.remove(&link);
            self.close(link, out);
        }
        if discard {
            self.forget_state();
        }
    }

    /// A new incarnation is shown to nobody before it is durable: the old one might come back after it. And a disk that
    /// hangs takes no entries. Named primary by another's request, it dials nobody either: its `Resume` must be answered.
    fn may_dial(&self) -> bool {
        self.disk.knows(self.incarnation) && !self.disk_hangs() && !self.is_elect()
    }

    /// Dials the primary, or, when this replica is not in sync, the in-sync members in turn: any of them shows the
    /// newest record it knows.
    fn dial_upstream(&mut self, out: &mut Outbox<M>) {
        let (now, backup, may) = (self.now.boot, self.is_backup(), self.may_dial());
        let Stance::Follow(follow) = &mut self.role else { return };
        if !may || !matches!(follow.stage, Stage::Idle) || follow.retry_at.is_none_or(|at| at > now) {
            return;
        }
        let Some(record) = &self.record else {
            follow.retry_at = Some(now + REDIAL_LONGEST);
            self.read_record(out);
            return;
        };
        let mut candidates = vec![&record.primary];
        if !backup {
            candidates.extend(record.in_sync.iter().filter(|member| member.replica != record.primary.replica));
        }
        candidates.retain(|member| member.replica != self.config.name && !member.addresses.peer.is_empty());
        if candidates.is_empty() {
            follow.retry_at = Some(now + REDIAL_LONGEST);
            return;
        }
        let address = candidates[follow.turn % candidates.len()].addresses.peer.clone();
        follow.turn = (follow.turn + 1) % candidates.len();
        let link = self.dial(&address, Link::Upstream, out);
        if planted!("P6") {
            self.cut_tail(self.commit_position().index.max(self.state.applied.index), out);
        }
        let Stance::Follow(follow) = &mut self.role else { return };
        follow.stage = Stage::Dialling(link);
        follow.patience = now;
    }

    pub(super) fn greet(&mut self, link: LinkId, purpose: Purpose, out: &mut Outbox<M>) {
        let hello = Hello {
            machine: M::identity(),
            group: self.config.group.clone(),
            group_id: self.state.group_id,
            from: self.myself(),
            epoch: self.known_epoch,
            record: self.shown_record(),
            purpose,
        };
        self.send(link, PeerControl::Hello(Box::new(hello)), out);
    }

    /// The connection to the primary is gone, or never was.
    pub(super) fn upstream_lost(&mut self, link: LinkId, refused: bool, out: &mut Outbox<M>) {
        let Stance::Follow(follow) = &mut self.role else { return };
        if follow.stage.link() != Some(link) {
            return;
        }
        let early = matches!(follow.stage, Stage::Greeting(_));
        let established = matches!(follow.stage, Stage::Following(_) | Stage::Receiving(_));
        self.drop_upstream(out);
        let now = self.now.boot;
        let Stance::Follow(follow) = &mut self.role else { return };
        if established {
            // A broken connection is not a dead process: the re-dial tells.
            follow.dial_now(now);
        } else if refused {
            self.suspect("its process is gone (connection refused)", out);
        } else if early {
            self.suspect("its process closed the connection before a handshake", out);
        }
    }

    /// What the replica at the other end of an upstream link answers to a `Hello`.
    pub(super) fn upstream(&mut self, link: LinkId, answer: PeerControl, out: &mut Outbox<M>) {
        let Stance::Follow(follow) = &mut self.role else { return };
        if follow.stage.link() != Some(link) {
            return;
        }
        match answer {
            PeerControl::Welcome(welcome) => self.welcomed(link, *welcome, out),
            PeerControl::Refuse { replica, incarnation, reason, record } => {
                self.refused_upstream((replica, incarnation), reason, record, out);
            }
            _ => self.drop_upstream(out),
        }
    }

    fn refused_upstream(
        &mut self,
        (replica, incarnation): (cutover_arbiter::record::ReplicaName, Incarnation),
        reason: PeerRefusal,
        record: Option<Box<cutover_arbiter::record::GroupRecord>>,
        out: &mut Outbox<M>,
    ) {
        self.drop_upstream(out);
        if let Some(record) = record {
            self.learn_from_peer(*record, out);
        }
        // By the newest record, its own included: the primary of an older one is nobody's concern any more.
        let other_life = self
            .record
            .as_ref()
            .is_some_and(|known| known.primary.replica == replica && known.primary.incarnation != incarnation);
        if self.record.as_ref().is_some_and(|record| record.member(&replica).is_some()) {
            self.met.insert(replica.clone(), incarnation);
        }
        match reason {
            PeerRefusal::LostState { .. } => {
                if !self.is_elect() {
                    self.renew("the primary knows of acknowledgements that this replica does not hold", out);
                }
            }
            PeerRefusal::FellBehind { log_bytes, wait_ms } => {
                self.forget_kept();
                let retry_at = self.now.boot + Duration::from_millis(wait_ms);
                if let Stance::Follow(follow) = &mut self.role {
                    follow.retry_at = Some(retry_at);
                }
                let reason = PeerRefusal::FellBehind { log_bytes, wait_ms }.to_string();
                self.event(out, Event::PeerRefused { replica: replica.to_string(), reason });
            }
            PeerRefusal::NotPrimary => {
                if other_life {
                    self.suspect("another life answers at its address", out);
                }
            }
            other => {
                let reason = other.to_string();
                self.event(out, Event::PeerRefused { replica: replica.to_string(), reason });
            }
        }
        self.check_waits_for_seize(out);
    }

    fn welcomed(&mut self, link: LinkId, welcome: Welcome, out: &mut Outbox<M>) {
        if welcome.epoch < self.known_epoch || self.state.group_id.is_some_and(|id| id != welcome.group_id) {
            return self.drop_upstream(out);
        }
        self.learn_from_peer(*welcome.record.clone(), out);
        let now = self.now.boot;
        let applied = self.state.applied.index;
        let last = self.log.last();
        let empty = self.log.is_empty();
        let Stance::Follow(follow) = &mut self.role else { return };
        if follow.stage.link() != Some(link) || welcome.epoch < self.known_epoch {
            return;
        }
        if let Plan::Resume(resume) = welcome.plan {
            return self.transfer_goes_on((link, welcome.handshake, welcome.epoch), resume, out);
        }
        // What was kept of a broken transfer is of no use.
        self.forget_kept();
        let Stance::Follow(follow) = &mut self.role else { return };
        let may_go_back = !follow.cannot_go_back;
        match welcome.plan {
            Plan::Resume(_) => {}
            Plan::Delta { common } => {
                let cuts_own_epoch = common < last.index && last.epoch >= welcome.epoch && !planted!("cut_same_epoch");
                if common < applied || common > last.index || common < self.log.base() || cuts_own_epoch {
                    let reason = format!("offers to go on from {common}, which this log cannot do");
                    self.event(out, Event::PeerRefused { replica: welcome.from.to_string(), reason });
                    return self.drop_upstream(out);
                }
                follow.stage = Stage::Following(Following {
                    link,
                    handshake: welcome.handshake,
                    epoch: welcome.epoch,
                    verified: common,
                    round: 0,
                    ack_due: true,
                    told: 0,
                    told_at: now,
                });
                follow.begin_commit(common);
                follow.welcomed(now);
                let went_back = mem::take(&mut follow.went_back);
                self.cut_tail(common, out);
                let from = match (went_back, self.restarted) {
                    (true, _) => "its snapshot and journal",
                    (false, true) => "its journal",
                    (false, false) => "its memory",
                };
                self.event(out, Event::Rejoined { common, from });
            }
            Plan::Transfer { reason, .. } if !empty => {
                // One that waits to be removed hears it again and again.
                if follow.kept_since.is_none() {
                    let primary = welcome.from;
                    self.event(out, Event::NeedsTransfer { primary, reason });
                }
                self.drop_upstream(out);
                if let TransferReason::Diverged { common } = reason
                    && may_go_back
                    && self.goes_back(common, out)
                {
                    return;
                }
                self.state_cannot_be_joined(out);
            }
            Plan::Transfer { reason, transfer } => {
                self.next_ticket += 1;
                let names = (transfer, self.next_ticket);
                let receiving = Receiving::new((link, welcome.handshake, welcome.epoch), names, now, M::restore());
                follow.begin_commit(0);
                follow.stage = Stage::Receiving(Box::new(receiving));
                follow.welcomed(now);
                let replica = self.config.name.clone();
                self.event(out, Event::TransferStarted { replica, reason });
            }
        }
    }

    /// What it holds is of no use to its primary: state is to be discarded, and first a new incarnation, so that what the
    /// old one promised is never expected of this one. While the group counts on it as a copy it is kept, though, until
    /// its primary, which hears of no progress, has had it removed. One that cannot is no better than one that cannot
    /// release: this replica, which can be primary, asks to take over then.
    pub(super) fn state_cannot_be_joined(&mut self, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let counts = self.record.as_ref().filter(|record| record.has(&self.config.name, self.incarnation));
        let primary = counts.map(|record| record.primary.replica.clone());
        let Some(primary) = primary.filter(|_| !planted!("discards_in_sync")) else {
            self.begin_anew("its state cannot be joined to the group's log", out);
            if let Stance::Follow(follow) = &mut self.role {
                follow.dial_now(now);
            }
            return;
        };
        let (patience, soon) = (self.others_patience(), self.config.suspect_after / 4);
        let Stance::Follow(follow) = &mut self.role else { return };
        follow.dial_at(now + soon);
        let news = follow.kept_since.is_none();
        if now >= *follow.kept_since.get_or_insert(now) + patience {
            return self.suspect("it does not remove this replica, of whose state it has no use", out);
        }
        // It has just been heard.
        follow.be_patient(now);
        follow.suspicion = None;
        if news {
            self.event(out, Event::KeepsState { primary });
        }
    }

    fn cut_tail(&mut self, keep: Index, out: &mut Outbox<M>) {
        let entries = self.log.cut(keep);
        if entries > 0 {
            self.disk.cut(self.log.last());
            self.event(out, Event::TailCut { keep, entries });
        }
    }

    /// Entries or a heartbeat.
    pub(super) fn append(&mut self, link: LinkId, append: Append, out: &mut Outbox<M>) {
        let (now, known_epoch) = (self.now.boot, self.known_epoch);
        let head = append.head;
        let Stance::Follow(follow) = &mut self.role else { return };
        if follow.stage.link() != Some(link) {
            return;
        }
        let Stage::Following(following) = &mut follow.stage else {
            // Heartbeats while a snapshot comes.
            follow.excuse_transfer(now);
            return;
        };
        if head.handshake != following.handshake || self.state.group_id.is_some_and(|id| id != head.group_id) {
            return;
        }
        if (head.epoch < following.epoch || head.epoch < known_epoch) && !planted!("epoch_lower_ok") {
            // Sent before its primary knew of the epoch that is known here; nothing of a lower epoch is followed. An
            // entry in it would be missing for ever, so the common point is found anew, under the epoch to come.
            if append.block.is_some() {
                self.drop_upstream(out);
                if let Stance::Follow(follow) = &mut self.role {
                    follow.dial_now(now);
                }
            }
            return;
        }
        following.epoch = head.epoch;
        following.round = following.round.max(head.round);
        following.ack_due = true;
        let verified = following.verified;
        follow.sign_of_life(now);
        self.known_epoch = head.epoch;
        if !planted!("H8") {
            self.clock.follow(head.clock);
        }
        self.restarted = false;
        // Not at the first word: what waited in a clogged link, or while this replica was stopped, is old news, and
        // this replica's own acknowledgement may be what the primary waited for.
        let stuck = self.is_stuck(&head) && !planted!("H16");
        // Only a backup can do anything about it; anyone else goes on, or it would lose the entries that came along.
        let stuck = stuck && self.is_backup();
        let Stance::Follow(follow) = &mut self.role else { return };
        follow.stuck_since = stuck.then(|| follow.stuck_since.unwrap_or(now));
        if follow.stuck_since.is_some_and(|since| now >= since + self.config.heartbeat * 2) {
            return self.suspect("it cannot release what it executes", out);
        }
        if let Some(block) = append.block {
            self.append_block(verified, block, head.epoch, out);
        }
        if let Stance::Follow(follow) = &mut self.role {
            follow.set_commit(head.commit);
        }
    }

    fn append_block(&mut self, verified: Index, block: Block, epoch: Epoch, out: &mut Outbox<M>) {
        let mut verified = verified;
        if planted!("P24") && block.first > verified + 1 {
            verified = block.first - 1;
            self.state.applied.index = verified;
            self.log = super::log::Log::after(self.state.applied, self.log.starts().to_vec());
        }
        let fits = block.first <= verified + 1 && block.epoch <= epoch && self.log.last().index == verified;
        let Some(block) = block.from(verified + 1).filter(|_| fits) else {
            if !fits {
                let reason = format!("sends entries from {} where {} is next", block.first, verified + 1);
                self.event(out, Event::PeerRefused { replica: "the primary".to_owned(), reason });
                self.drop_upstream(out);
            }
            // Otherwise a duplicate: everything in it is held already.
            return;
        };
        if block.epoch < self.log.last().epoch {
            return self.drop_upstream(out);
        }
        let last = block.last();
        self.disk.append(&block);
        self.log.push(block);
        let Stance::Follow(follow) = &mut self.role else { return };
        if let Stage::Following(following) = &mut follow.stage {
            following.verified = last;
        }
    }

    /// This replica computed something else than the primary, or cannot read what it should apply. It takes a new
    /// incarnation at once, so that it never leads, and comes back by state transfer only.
    pub(super) fn diverged(&mut self, index: Index, operation: String, out: &mut Outbox<M>) {
        self.event(out, Event::Diverged { index, operation });
        self.drop_upstream(out);
        if planted!("H4c") {
            return;
        }
        self.begin_anew("its execution differs from the primary's", out);
        let now = self.now.boot;
        if let Stance::Follow(follow) = &mut self.role {
            follow.dial_now(now);
        }
    }
}

impl<R> Follow<R> {
    /// A handshake or a message of the primary: it lives. Not yet a reason to acknowledge after a take-over was asked
    /// for; only a fresh handshake is, and that is what the first call after one comes from.
    fn sign_of_life(&mut self, now: Duration) {
        (self.heard, self.heard_whole) = (now, now);
        self.patience = now;
        self.redial = REDIAL_FIRST;
        self.suspicion = None;
        self.fenced &= planted!("H13");
        self.turn = 0;
    }

    /// A handshake begins a new story.
    pub(super) fn welcomed(&mut self, now: Duration) {
        self.sign_of_life(now);
        self.another_story();
        self.stuck_since = None;
    }

    /// What could not be done with this state, or for that primary, says nothing any more.
    fn another_story(&mut self) {
        self.cannot_go_back = false;
        self.kept_since = None;
    }

    /// The record names another primary: its silence begins now.
    pub(super) fn retarget(&mut self, now: Duration) {
        self.another_story();
        self.heard = now;
        self.suspicion = None;
        self.turn = 0;
        self.dial_now(now);
    }
}
