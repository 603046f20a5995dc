//! The in-sync set as its primary tends it: suspicion of backups, removal, admission of spares, hand-over.

use std::time::Duration;

use cutover_arbiter::planted;
use cutover_arbiter::record::{Change, Index, Member, ReplicaName};

use crate::machine::StateMachine;
use crate::protocol::entry::{Control, Payload};
use crate::protocol::peer::{Ack, PeerControl, Round};

use super::followers::{Follower, Phase};
use super::primary::{Confirm, Primary};
use super::{Admission, Config, Event, Link, LinkId, Outbox, Output, Replica, Stance};

/// A follower that lacks no more bytes of log than this can be required at once: clients do not notice it.
const VERY_NEAR: usize = 64 * 1024;
/// For so many times `suspect_after` a follower is let come rather near, though not so near as that.
const LET_COME: u32 = 10;
/// Longest wait before a removed replica is admitted again.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// A member that stayed so long is forgiven its earlier removals.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// What a required member acknowledged in this epoch, and when it was last heard.
#[derive(Debug, Clone, Hash)]
pub(super) struct Standing {
    pub(super) acknowledged: Index,
    pub(super) round: Round,
    /// The highest index it ever acknowledged to this primary: it may never show less.
    pub(super) shown: Index,
    heard: Duration,
    /// Since when it has entries that it does not acknowledge.
    behind_since: Option<Duration>,
    suspected: Option<&'static str>,
    /// It was heard, but what it holds cannot be joined to this log.
    unusable: bool,
}

impl Standing {
    pub(super) fn new(now: Duration) -> Self {
        Self { acknowledged: 0, round: 0, shown: 0, heard: now, behind_since: None, suspected: None, unusable: false }
    }

    pub(super) fn excuse(&mut self, late: Duration) {
        self.heard += late;
        self.behind_since = self.behind_since.map(|since| since + late);
    }

    /// Acknowledgements of an older epoch do not count.
    pub(super) fn new_epoch(&mut self) {
        self.acknowledged = 0;
        self.round = 0;
    }

    pub(super) fn connected(&mut self, now: Duration) {
        self.heard = now;
        self.suspected = None;
        self.unusable = false;
    }

    /// It dialled, and must discard state before it can make progress: no sign of life of what is waited for.
    pub(super) fn cannot_be_joined(&mut self) {
        self.unusable = true;
    }

    pub(super) fn acknowledge(&mut self, now: Duration, ack: &Ack, sent: Index) {
        let progress = ack.verified > self.acknowledged;
        self.acknowledged = self.acknowledged.max(ack.verified);
        self.round = self.round.max(ack.round);
        self.shown = self.shown.max(ack.verified);
        self.heard = now;
        self.suspected = None;
        if self.acknowledged >= sent {
            self.behind_since = None;
        } else if progress || self.behind_since.is_none() {
            self.behind_since = Some(now);
        }
    }

    /// When it becomes suspect if nothing more is heard.
    pub(super) fn suspect_at(&self, config: &Config) -> Duration {
        if self.suspected.is_some() {
            // Already told; what follows is up to the arbiters.
            return Duration::MAX;
        }
        let silent = self.heard + config.drop_backup_after;
        self.behind_since.map_or(silent, |since| silent.min(since + config.suspect_after * 4))
    }
}

/// How long a replica that was removed must wait for its next admission.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Backoff {
    pub(super) until: Duration,
    delay: Duration,
}

impl Backoff {
    pub(super) fn removed(&mut self, now: Duration, first: Duration) {
        self.delay =
            if self.is_forgiven(now) || self.delay.is_zero() { first } else { (self.delay * 2).min(LONGEST_BACKOFF) };
        self.until = now + if planted!("P27") { Duration::ZERO } else { self.delay };
    }

    pub(super) fn is_forgiven(&self, now: Duration) -> bool {
        now > self.until + FORGIVEN_AFTER
    }
}

/// A planned cut-over.
#[derive(Debug, Clone, Hash)]
pub(super) struct HandOver {
    pub(super) to: Member,
    /// Whom to tell; `None` when it is this replica's own shutdown.
    pub(super) ticket: Option<u64>,
    pub(super) deadline: Duration,
    stage: HandOverStage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum HandOverStage {
    /// Waiting until the successor has acknowledged everything.
    Draining,
    /// Asking whether the arbiters answer at all.
    Reading(u64),
    /// Proposed.
    Proposed,
}

impl<M: StateMachine> Replica<M> {
    /// Suspects the required members that are silent or stuck, and proposes their removal, one at a time.
    pub(super) fn watch_members(&mut self, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let Stance::Primary(primary) = &self.role else { return };
        let due = |standing: &Standing| standing.suspected.is_some() || now >= standing.suspect_at(&self.config);
        if !primary.serving || !primary.standings.values().any(due) {
            return;
        }
        let required = self.required();
        let members: Vec<_> = self.record.iter().flat_map(|record| &record.in_sync).map(Member::life).collect();
        let Stance::Primary(primary) = &mut self.role else { return };
        let mut news = Vec::new();
        let mut remove = None;
        for key in required {
            let Some(standing) = primary.standings.get_mut(&key) else { continue };
            if standing.suspected.is_none() && now >= standing.suspect_at(&self.config) {
                let silent = now >= standing.heard + self.config.drop_backup_after;
                standing.suspected = Some(match silent {
                    true if standing.unusable => "its state cannot be joined to the group's log",
                    true => "silent",
                    false => "does not persist what it is sent",
                });
                news.push((key.0.clone(), standing.suspected.unwrap_or_default()));
            }
            if standing.suspected.is_some() && members.contains(&key) {
                remove.get_or_insert(key);
            }
        }
        for (replica, why) in news {
            self.event(out, Event::Suspected { replica, why });
        }
        if let Some((replica, incarnation)) = remove
            && self.proposal.is_none()
        {
            self.propose(Change::Remove { replica, incarnation }, out);
        }
    }

    fn suspect_member(&mut self, member: &Member, why: &'static str, out: &mut Outbox<M>) {
        let Stance::Primary(primary) = &mut self.role else { return };
        let key = member.life();
        let Some(standing) = primary.standings.get_mut(&key) else { return };
        if standing.suspected.is_none() {
            standing.suspected = Some(why);
            self.event(out, Event::Suspected { replica: member.replica.clone(), why });
        }
        self.watch_members(out);
    }

    /// The connection of a required member is gone: see whether its process lives.
    pub(super) fn probe_member(&mut self, member: Member, out: &mut Outbox<M>) {
        if self.required().contains(&member.life()) {
            let address = member.addresses.peer.clone();
            self.dial(&address, Link::Probe { member, accepted: false }, out);
        }
    }

    /// A probe found no life: refused, or accepted by a dying process's backlog and closed without a word.
    pub(super) fn probe_lost(&mut self, member: &Member, refused: bool, accepted: bool, out: &mut Outbox<M>) {
        // A dial that merely timed out says nothing: silence decides.
        if refused {
            self.suspect_member(member, "its process is gone (connection refused)", out);
        } else if accepted {
            self.suspect_member(member, "its process closed the connection before a handshake", out);
        }
    }

    pub(super) fn probed(&mut self, link: LinkId, member: &Member, answer: PeerControl, out: &mut Outbox<M>) {
        self.links.remove(&link);
        self.close(link, out);
        if let PeerControl::Alive { replica, incarnation, record } = answer {
            if let Some(record) = record {
                self.learn_from_peer(*record, out);
            }
            if replica == member.replica && incarnation != member.incarnation {
                let Stance::Primary(primary) = &self.role else { return };
                if primary.joint.as_ref() == Some(member) {
                    self.forget_joint();
                }
                self.suspect_member(member, "another life answers at its address", out);
            }
        }
    }

    /// A replica dials in a life that is not the one in the required set: the old life is gone, unless this dial is
    /// older than it looks. A late `Hello` must not make a living replica leave the joint set, whose `Admit` may have
    /// been granted: whether the one in the joint set is gone, a fresh dial to its address tells.
    pub(super) fn another_life(&mut self, dialer: &Member, out: &mut Outbox<M>) {
        let old = self
            .record
            .as_ref()
            .and_then(|record| record.member(&dialer.replica))
            .filter(|member| member.incarnation != dialer.incarnation)
            .cloned();
        let Stance::Primary(primary) = &mut self.role else { return };
        let joint = primary
            .joint
            .clone()
            .filter(|joint| joint.replica == dialer.replica && joint.incarnation != dialer.incarnation);
        if let Some(joint) = joint {
            self.probe_member(joint, out);
        }
        if let Some(old) = old {
            self.suspect_member(&old, "it came back in another life", out);
        }
    }

    /// The next replica to admit and when, if the group has fewer copies than it should.
    pub(super) fn wants_to_admit(&self, primary: &Primary) -> Option<(Member, Duration)> {
        let record = self.record.as_ref()?;
        let idle = primary.serving
            && self.proposal.is_none()
            && primary.admitting.is_none()
            && primary.joint.is_none()
            && primary.handover.is_none()
            && self.stopping.is_none()
            && record.in_sync.len() < self.config.copies;
        if !idle {
            return None;
        }
        primary
            .followers
            .values()
            .filter(|follower| self.is_near(follower, self.near_enough(follower)))
            .filter(|follower| record.member(&follower.member.replica).is_none())
            .map(|follower| {
                let wait =
                    primary.backoff.get(&follower.member.replica).map_or(Duration::ZERO, |backoff| backoff.until);
                (follower.member.clone(), wait.max(primary.admit_again_at))
            })
            .min_by_key(|(member, at)| (*at, member.replica.clone()))
    }

    /// How much of the log a follower may lack to be made required. All outputs wait until it has the rest: so one that
    /// has just begun to get the log is first let come very near. Under load it may never come so near, since nothing
    /// waits for it; then it need not come so near, and in the end it is required from where it is.
    pub(super) fn near_enough(&self, follower: &Follower) -> usize {
        let most = self.most_lacking();
        let Phase::Streaming { near_since } = follower.phase else { return most };
        match near_since.map_or(Duration::ZERO, |since| self.now.boot.saturating_sub(since)) {
            short if short < self.config.suspect_after => VERY_NEAR.min(most),
            // What it lacks it has not applied either: so much takes it a moment, not a second.
            longer if longer < self.config.suspect_after * LET_COME => VERY_NEAR.max(most / 16).min(most),
            _ => most,
        }
    }

    /// What is lacking beyond this is not got within a moment, while outputs wait.
    pub(super) fn most_lacking(&self) -> usize {
        self.config.unacknowledged_bytes / 4
    }

    fn is_near(&self, follower: &Follower, limit: usize) -> bool {
        let alive = self.now.boot < follower.heard + self.config.drop_backup_after;
        alive && follower.streams() && follower.shows > 0 && self.log.is_near(follower.shows, limit)
    }

    /// Admits a follower, in three steps: ask whether the arbiters answer at all (the joint set binds from the
    /// proposal on, and must not bind for ever while nobody can answer); make the follower required; once it holds
    /// everything committed, propose.
    pub(super) fn admit_a_spare(&mut self, out: &mut Outbox<M>) {
        self.admit_the_joint(out);
        let Stance::Primary(primary) = &self.role else { return };
        let now = self.now.boot;
        let Some((member, _)) = self.wants_to_admit(primary).filter(|(_, at)| *at <= now) else { return };
        let ticket = self.read_record(out);
        let Stance::Primary(primary) = &mut self.role else { return };
        primary.admitting = Some((ticket, member));
    }

    /// The arbiters answered a read of the primary's.
    pub(super) fn primary_read_answered(&mut self, ticket: u64, out: &mut Outbox<M>) {
        let Stance::Primary(primary) = &mut self.role else { return };
        if primary.confirm == Confirm::Read(ticket) {
            // Had the record moved on, this replica would not be primary any more.
            primary.confirm = Confirm::No;
        }
        if let Some((_, member)) = primary.admitting.take_if(|(waiting, _)| *waiting == ticket) {
            self.require(member);
        }
        self.handover_read(ticket, true, out);
    }

    /// Spare → joint: from here on nothing is released without it.
    fn require(&mut self, member: Member) {
        let now = self.now.boot;
        let until = now + self.config.suspect_after * 2;
        let free = self.proposal.is_none();
        let Stance::Primary(primary) = &self.role else { return };
        let ready = |follower: &&Follower| follower.member == member && self.is_near(follower, self.most_lacking());
        let shown = primary.followers.values().find(ready).map(|follower| follower.acknowledged);
        let Some(shown) = shown.filter(|_| free && primary.handover.is_none()) else { return };
        let Stance::Primary(primary) = &mut self.role else { return };
        // What it acknowledged as a spare may have been in an older epoch: it counts once it is said again.
        let standing = Standing { shown, ..Standing::new(now) };
        primary.standings.insert(member.life(), standing);
        primary.joint = Some(member);
        primary.joint_until = until;
        primary.round_wanted = true;
    }

    /// Proposes the replica in the joint set, or gives it up while nothing was proposed.
    fn admit_the_joint(&mut self, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let Stance::Primary(primary) = &mut self.role else { return };
        let Some(joint) = primary.joint.clone().filter(|_| self.proposal.is_none()) else { return };
        let key = (joint.replica.clone(), joint.incarnation);
        let standing = primary.standings.get(&key).filter(|standing| standing.suspected.is_none());
        let follows = primary.followers.values().any(|follower| follower.member == joint);
        let wanted = follows && primary.handover.is_none() && self.stopping.is_none() && now < primary.joint_until;
        // A deposed primary may have executed what another member never heard of: were that one to take over, this one
        // would have to throw its state away, in sync.
        let undoes_nothing =
            primary.followers.values().any(|follower| follower.member == joint && follower.applied <= primary.commit);
        // What the others have confirmed may be released while the proposal is under way: rounds as well as entries.
        let has_all =
            |standing: &Standing| standing.acknowledged >= primary.commit.max(1) && standing.round >= primary.confirmed;
        match standing.filter(|_| wanted) {
            Some(standing) if (has_all(standing) && undoes_nothing) || planted!("P26") => {
                self.propose(Change::Admit { member: joint }, out);
            }
            Some(_) => {}
            None => {
                primary.admit_again_at = now + self.config.propose_again_after;
                if follows && primary.handover.is_none() {
                    // Outputs waited for it in vain.
                    primary.backoff.entry(joint.replica).or_default().removed(now, self.config.readmit_after);
                }
                self.forget_joint();
            }
        }
    }

    pub(super) fn forget_joint(&mut self) {
        let Stance::Primary(primary) = &mut self.role else { return };
        if let Some(joint) = primary.joint.take() {
            primary.standings.remove(&(joint.replica, joint.incarnation));
        }
        self.advance_commit();
    }

    pub(super) fn primary_read_failed(&mut self, ticket: u64, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let again = now + self.config.propose_again_after;
        let Stance::Primary(primary) = &mut self.role else { return };
        if primary.confirm == Confirm::Read(ticket) {
            primary.confirm = Confirm::Again(again);
        }
        if primary.admitting.take_if(|(waiting, _)| *waiting == ticket).is_some() {
            primary.admit_again_at = again;
        }
        self.handover_read(ticket, false, out);
    }

    /// A proposal of the primary's was refused: it leaves the joint set, or the hand-over ends.
    pub(super) fn primary_refused(&mut self, change: &Change, out: &mut Outbox<M>) {
        let again = self.now.boot + self.config.propose_again_after;
        let Stance::Primary(primary) = &mut self.role else { return };
        match change {
            Change::Admit { .. } => {
                primary.admit_again_at = again;
                self.forget_joint();
            }
            Change::HandOver { .. } => self.end_handover("the arbiters refused it", out),
            _ => {}
        }
    }

    /// A hand-over whose successor is gone comes to nothing: it keeps nobody from another one.
    pub(super) fn end_a_hopeless_handover(&mut self, out: &mut Outbox<M>) {
        let Stance::Primary(primary) = &self.role else { return };
        let Some(handover) = &primary.handover else { return };
        let life = handover.to.life();
        let member = self.record.as_ref().is_some_and(|record| record.has(&life.0, life.1));
        let trusted = primary.standings.get(&life).is_some_and(|standing| standing.suspected.is_none());
        if handover.stage != HandOverStage::Proposed && !(member && trusted) {
            self.end_handover("its successor does not answer any more", out);
        }
    }

    /// An operator (or this replica's own shutdown) asks for a planned cut-over.
    pub(super) fn switchover(&mut self, to: Option<ReplicaName>, ticket: u64, out: &mut Outbox<M>) {
        self.end_a_hopeless_handover(out);
        let chosen = self.choose_successor(to.as_ref());
        let deadline = self.now.boot + self.config.switchover_timeout;
        let ticket = (ticket != 0).then_some(ticket);
        match (chosen, &mut self.role) {
            (Ok(to), Stance::Primary(primary)) => {
                primary.handover = Some(HandOver { to, ticket, deadline, stage: HandOverStage::Draining });
                primary.round_wanted = true;
            }
            (Err(why), _) => {
                if let Some(ticket) = ticket {
                    out.outputs.push(Output::SwitchoverEnded { ticket, result: Err(why) });
                }
            }
            (Ok(_), _) => {}
        }
    }

    fn choose_successor(&self, to: Option<&ReplicaName>) -> Result<Member, String> {
        let Stance::Primary(primary) = &self.role else {
            return Err("this replica is not the primary; ask the primary".to_owned());
        };
        if primary.handover.is_some() {
            return Err("a switchover is in progress".to_owned());
        }
        let backups = self.record.iter().flat_map(|record| &record.in_sync).filter(|member| !self.is_me(member));
        let found = match to {
            Some(name) if name == &self.config.name => return Err(format!("{name} is the primary already")),
            Some(name) => backups.clone().find(|member| &member.replica == name),
            None => backups.clone().max_by_key(|member| {
                let standing = primary.standings.get(&member.life());
                standing.map(|standing| (standing.suspected.is_none(), standing.acknowledged))
            }),
        };
        found.cloned().ok_or_else(|| match to {
            Some(name) => format!("{name} is not in sync; wait until `cutover status` shows it so"),
            None => "no backup is in sync; wait until `cutover status` shows one".to_owned(),
        })
    }

    pub(super) fn continue_handover(&mut self, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let last = self.last_index();
        let free = self.proposal.is_none();
        // What its own disk does not take the successor holds, and commits with whoever is in sync then.
        let given_up = self.disk.failed || self.disk_hangs();
        let Stance::Primary(primary) = &self.role else { return };
        let Some(handover) = &primary.handover else { return };
        if now >= handover.deadline {
            let why = match handover.stage {
                HandOverStage::Proposed => "the arbiters did not answer in time; it may still happen",
                HandOverStage::Reading(_) => "the arbiters did not answer in time",
                HandOverStage::Draining => "the backup did not acknowledge everything in time",
            };
            return self.end_handover(why, out);
        }
        let member = self.record.as_ref().is_some_and(|it| it.has(&handover.to.replica, handover.to.incarnation));
        if !member && handover.stage != HandOverStage::Proposed {
            return self.end_handover("its successor was removed", out);
        }
        let drained = primary.has_all(&handover.to, last) || planted!("hands_over_early");
        if handover.stage == HandOverStage::Draining
            && drained
            && free
            && (primary.commit >= last || given_up || planted!("hands_over_early"))
        {
            let ticket = self.read_record(out);
            let Stance::Primary(primary) = &mut self.role else { return };
            if let Some(handover) = &mut primary.handover {
                handover.stage = HandOverStage::Reading(ticket);
            }
        }
    }

    fn handover_read(&mut self, ticket: u64, answered: bool, out: &mut Outbox<M>) {
        let last = self.last_index();
        let Stance::Primary(primary) = &mut self.role else { return };
        let Some(handover) = primary.handover.as_ref().filter(|it| it.stage == HandOverStage::Reading(ticket)) else {
            return;
        };
        // In another epoch than when the arbiters were asked it has not said so yet.
        let still = primary.has_all(&handover.to, last) || planted!("hands_over_early");
        let Some(handover) = &mut primary.handover else { return };
        if answered && still && self.proposal.is_none() {
            handover.stage = HandOverStage::Proposed;
            let change = Change::HandOver { to: handover.to.replica.clone(), incarnation: handover.to.incarnation };
            self.propose(change, out);
        } else {
            handover.stage = HandOverStage::Draining;
        }
    }

    fn end_handover(&mut self, why: &str, out: &mut Outbox<M>) {
        let Stance::Primary(primary) = &mut self.role else { return };
        let Some(handover) = primary.handover.take() else { return };
        if let Some(ticket) = handover.ticket {
            out.outputs.push(Output::SwitchoverEnded { ticket, result: Err(why.to_owned()) });
        }
    }

    /// Places a mark: every replica computes its digest there.
    pub(super) fn mark(&mut self, ticket: u64, out: &mut Outbox<M>) {
        let index = (self.admission() == Admission::Open).then(|| {
            let mut reply = Vec::new();
            self.execute(&Payload::Control(Control::Mark { ticket }), &mut reply, out)
        });
        out.outputs.push(Output::MarkPlaced { ticket, index });
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
