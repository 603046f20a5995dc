//! What each follower of a primary is sent: the handshake, a snapshot if it needs one (`transfers`), then the log; and
//! what happens to one for which too much of the log would have to be kept.

use std::collections::VecDeque;
use std::time::Duration;

use cutover_arbiter::planted;
use cutover_arbiter::record::{Addresses, Epoch, Index, Member, ReplicaName};

use crate::machine::StateMachine;
use crate::protocol::entry::Block;
use crate::protocol::peer::{
    Ack, Append, AppendHead, Handshake, Held, Hello, PeerControl, PeerMessage, PeerRefusal, Plan, Purpose, Resume,
    TransferId, TransferReason, WaitsFor, Welcome,
};

use super::durable::Durable;
use super::log::Log;
use super::members::Standing;
use super::primary::standing_of;
use super::{Event, FollowerStatus, Link, LinkId, Outbox, Output, Replica, Role, Stance};

/// Most followers of one primary.
const MOST_FOLLOWERS: usize = 16;
/// Heartbeats that pass between two of a follower that nothing waits for.
const SELDOM: u32 = 4;
/// Silence after which a follower is let go, in times of `suspect_after`.
const SILENCE: u32 = 20;
/// Entries on their way to one follower, in bytes, beyond which it is sent no more until it acknowledges.
pub const IN_FLIGHT_BYTES: usize = 32 * 1024 * 1024;

/// Blocks that one follower is sent in one turn, at most: what clients wait meanwhile.
const BLOCKS_PER_TURN: usize = 128;

#[derive(Debug, Clone, Hash)]
pub(super) struct Follower {
    pub(super) member: Member,
    pub(super) handshake: Handshake,
    pub(super) phase: Phase,
    /// Next index to send.
    pub(super) next: Index,
    /// The most that it acknowledged on this link.
    pub(super) acknowledged: Index,
    /// What it acknowledged last: once it is not in sync any more it goes by what it applied, and that may be less.
    pub(super) shows: Index,
    pub(super) applied: Index,
    pub(super) heard: Duration,
    /// When it was sent something last, and in which epoch and with which commit.
    told: (Duration, Epoch, Index),
    /// Last index and bytes of what is on its way.
    in_flight: VecDeque<(Index, usize)>,
    in_flight_bytes: usize,
    /// Entries from `next` on that were read back from disk, since the log in memory begins later.
    ahead: VecDeque<Block>,
    /// The next ones are being read, under this ticket.
    reading: Option<u64>,
    /// There was more for it than a turn has time for.
    cut_short: bool,
}

#[derive(Debug, Clone, Hash)]
pub(super) enum Phase {
    /// Gets the log as it grows.
    Streaming {
        /// When it first lacked no more than one that is required may.
        near_since: Option<Duration>,
    },
    /// Gets a snapshot first.
    Sending {
        /// Which of the primary's transfers.
        transfer: TransferId,
    },
    /// Will discard its state and come back in a new life.
    Leaving,
}

fn is_far((log, disk): (&Log, &Durable), on_disk: bool, index: Index, limit: u64) -> bool {
    if on_disk { disk.bytes_beyond(index) > limit } else { !log.is_near(index, limit as usize) }
}

impl Follower {
    /// The index after which log entries are kept for it, while any is on its way to it. What a joiner needs is kept for
    /// its transfer.
    pub(super) fn keeps_log_after(&self) -> Option<Index> {
        (self.streams() && !self.in_flight.is_empty()).then(|| self.next.saturating_sub(1))
    }

    /// The index after which its entries are kept on disk, where they are read back from if they have left the memory.
    fn keeps_journal_after(&self) -> Option<Index> {
        self.streams().then(|| self.next.saturating_sub(1))
    }

    /// It has its snapshot, and gets the log from here on.
    pub(super) fn begins_to_stream(&mut self) {
        self.phase = Phase::Streaming { near_since: None };
        self.told = <_>::default();
    }

    /// This process stood still for so long: it knows nothing of that time.
    pub(super) fn pause(&mut self, late: Duration) {
        self.heard += late;
        if let Phase::Streaming { near_since: Some(since) } = &mut self.phase {
            *since += late;
        }
    }

    pub(super) fn streams(&self) -> bool {
        matches!(self.phase, Phase::Streaming { .. })
    }

    /// True while there is room on its link, and in this turn, of which it has had `sent` bytes.
    fn may_be_sent(&self, sent: usize, most: usize) -> bool {
        self.in_flight_bytes < IN_FLIGHT_BYTES && sent < most
    }

    /// True when it was sent as much as it may be in a turn, and lacks more.
    pub(super) fn is_catching_up(&self) -> bool {
        self.cut_short
    }

    /// True when it is to be sent more in the next turn, whatever else happens.
    pub(super) fn waits_for_a_turn(&self) -> bool {
        self.cut_short && self.streams() && self.reading.is_none() && self.in_flight_bytes < IN_FLIGHT_BYTES
    }

    /// True when there is nothing to tell it and it was told so not long ago: enough for one that suspects nobody, and
    /// for whose acknowledgement nobody waits.
    fn may_wait(&self, (now, epoch, commit): (Duration, Epoch, Index), heartbeat: Duration) -> bool {
        self.streams() && (epoch, commit) == (self.told.1, self.told.2) && now < self.told.0 + heartbeat * SELDOM
    }

    /// Sends the block that is next; returns its bytes.
    fn send<M: StateMachine>(&mut self, link: LinkId, head: AppendHead, block: Block, out: &mut Outbox<M>) -> usize {
        let bytes = block.bytes.len();
        self.next = block.last() + 1;
        self.in_flight.push_back((block.last(), bytes));
        self.in_flight_bytes += bytes;
        out.outputs.push(Output::Send(link, PeerMessage::Append(Append { head, block: Some(block) })));
        bytes
    }
}

impl<M: StateMachine> Replica<M> {
    /// First message of a dialer.
    pub(super) fn hello(&mut self, link: LinkId, hello: Hello, out: &mut Outbox<M>) {
        if !self.disk.knows(self.incarnation) {
            // A new incarnation is shown to nobody before it is durable.
            self.close(link, out);
            self.links.remove(&link);
            return;
        }
        if let Err(reason) = self.check_hello(&hello) {
            let replica = hello.from.replica.to_string();
            self.event(out, Event::PeerRefused { replica, reason: reason.to_string() });
            return self.refuse(link, reason, out);
        }
        if let Some(record) = hello.record {
            self.learn_from_peer(*record, out);
        }
        if !self.links.contains_key(&link) {
            return;
        }

        match hello.purpose {
            Purpose::Probe => {
                let alive = PeerControl::Alive {
                    replica: self.config.name.clone(),
                    incarnation: self.incarnation,
                    record: self.shown_record(),
                };
                self.send(link, alive, out);
                self.close(link, out);
                self.links.remove(&link);
            }
            Purpose::Follow { held, resume } => {
                let serves = match &self.role {
                    Stance::Primary(primary) => primary.serving && hello.epoch <= primary.epoch,
                    _ => false,
                };
                if serves {
                    self.take_follower(link, hello.from, &held, resume, out)
                } else {
                    self.refuse(link, PeerRefusal::NotPrimary, out)
                }
            }
        }
    }

    fn check_hello(&self, hello: &Hello) -> Result<(), PeerRefusal> {
        let machine = M::identity();
        if hello.group != self.config.group {
            return Err(PeerRefusal::WrongGroup(self.config.group.clone()));
        }
        if hello.machine != machine {
            return Err(PeerRefusal::WrongMachine(machine));
        }
        let ours = self.state.group_id.or(self.record.as_ref().map(|record| record.group_id));
        if let (Some(ours), Some(theirs)) = (ours, hello.group_id)
            && ours != theirs
        {
            return Err(PeerRefusal::WrongGroupId(ours));
        }
        if hello.from.replica == self.config.name {
            return Err(PeerRefusal::NameTaken);
        }
        Ok(())
    }

    fn take_follower(
        &mut self,
        link: LinkId,
        member: Member,
        held: &Held,
        resume: Option<Resume>,
        out: &mut Outbox<M>,
    ) {
        self.seal_block();
        self.another_life(&member, out);
        let now = self.now.boot;
        let common = self.log.common(held);
        let Stance::Primary(primary) = &mut self.role else { return };
        let key = member.life();
        let acknowledged = primary.standings.get(&key).map_or(0, |standing| standing.shown);
        if common < acknowledged && !planted!("takes_less") {
            return self.refuse(link, PeerRefusal::LostState { acknowledged, shown: common }, out);
        }
        let resume = self.resumable(&member, resume);
        let plan = self.plan(common, held, resume);
        if let Plan::Transfer { .. } = plan
            && let Some(refusal) = self.must_wait(&member.replica)
        {
            return self.refuse(link, refusal, out);
        }
        let Stance::Primary(primary) = &mut self.role else { return };
        // A newer connection of the same replica replaces its older ones.
        let older: Vec<LinkId> = primary
            .followers
            .iter()
            .filter(|(_, follower)| follower.member.replica == member.replica)
            .map(|(link, _)| *link)
            .collect();
        if primary.followers.len() - older.len() >= MOST_FOLLOWERS {
            return self.refuse(link, PeerRefusal::TooMany, out);
        }
        let resumed = resume.map(|resume| resume.transfer);
        primary.transfers.retain(|id, transfer| transfer.member.replica != member.replica || Some(*id) == resumed);
        for old in older {
            primary.followers.remove(&old);
            self.links.remove(&old);
            out.outputs.push(Output::Close(old));
        }
        self.handshakes += 1;
        let handshake = self.handshakes;
        let follower = Follower {
            member: member.clone(),
            handshake,
            phase: Phase::Streaming { near_since: None },
            next: common + 1,
            acknowledged: 0,
            shows: 0,
            applied: held.applied,
            heard: now,
            told: <_>::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            cut_short: false,
            ahead: VecDeque::new(),
            reading: None,
        };
        let Stance::Primary(primary) = &mut self.role else { return };
        let epoch = primary.epoch;
        primary.followers.insert(link, follower);
        primary.round_wanted = true;
        // One that must discard state first makes no progress: if it cannot go back by itself it has to be removed.
        if let Some(standing) = primary.standings.get_mut(&key) {
            match plan {
                Plan::Delta { .. } => standing.connected(now),
                Plan::Transfer { .. } | Plan::Resume(_) => standing.cannot_be_joined(),
            }
        }
        self.links.insert(link, Link::Follower);
        let Some(record) = self.record.clone() else { return };
        let welcome = Welcome {
            from: self.config.name.clone(),
            incarnation: self.incarnation,
            group_id: record.group_id,
            epoch,
            handshake,
            record: Box::new(record),
            plan: plan.clone(),
        };
        self.send(link, PeerControl::Welcome(Box::new(welcome)), out);
        match plan {
            Plan::Transfer { reason, transfer } if held.last == 0 => {
                self.start_transfer((link, transfer), member, reason, out);
            }
            Plan::Transfer { .. } => self.follower_waits(link),
            Plan::Resume(resume) => self.resume_transfer(link, resume, out),
            Plan::Delta { common } => {
                let entries = self.log.last().index - common;
                self.event(out, Event::DeltaRejoin { replica: member.replica, common, entries });
            }
        }
    }

    /// How this follower gets what it misses.
    fn plan(&mut self, common: Index, held: &Held, resume: Option<Resume>) -> Plan {
        let reason = if held.last == 0 {
            match resume {
                Some(resume) => return Plan::Resume(resume),
                None => TransferReason::Empty,
            }
        } else if common < self.reach() {
            TransferReason::LogTooShort
        } else if common < held.applied {
            TransferReason::Diverged { common }
        } else {
            return Plan::Delta { common };
        };
        Plan::Transfer { reason, transfer: self.name_transfer() }
    }

    /// One that could not keep up gets its next snapshot only after a wait.
    fn must_wait(&self, replica: &ReplicaName) -> Option<PeerRefusal> {
        let Stance::Primary(primary) = &self.role else { return None };
        let wait = primary.slow.get(replica)?.until.checked_sub(self.now.boot).filter(|wait| !wait.is_zero())?;
        let log_bytes = self.most_kept();
        Some(PeerRefusal::FellBehind { log_bytes, wait_ms: u64::from(super::millis(wait)) })
    }

    /// Bytes of the log, in memory or on disk, that are kept for whoever is not required.
    pub(super) fn most_kept(&self) -> u64 {
        let limits = &self.config.limits;
        if self.log_is_on_disk() { limits.transfer_journal_bytes } else { limits.transfer_log_bytes as u64 }
    }

    /// True when more than `limit` bytes of the log are kept for one that has it up to `index`.
    pub(super) fn is_far(&self, index: Index, limit: u64) -> bool {
        is_far((&self.log, &self.disk), self.log_is_on_disk(), index, limit)
    }

    /// A joiner, or a follower that is not required, that would make the log too long is given up: the log is kept for
    /// as long as somebody needs it, but not at any price.
    pub(super) fn give_up_the_slow(&mut self, out: &mut Outbox<M>) {
        let limit = self.most_kept();
        // Looked at only when the log is too long, which it is for somebody's sake.
        let on_disk = self.log_is_on_disk();
        let long = match on_disk {
            true => self.needed_after().is_some_and(|index| self.is_far(index, limit)),
            false => self.log.bytes() as u64 > limit,
        };
        if !long {
            return;
        }
        let (now, first) = (self.now.boot, self.config.readmit_after);
        let required = self.required();
        let Stance::Primary(primary) = &mut self.role else { return };
        primary.slow.retain(|_, backoff| !backoff.is_forgiven(now));
        let (log, disk) = (&self.log, &self.disk);
        let far = |index: Index| is_far((log, disk), on_disk, index, limit);
        let mut slow: Vec<ReplicaName> = Vec::new();
        primary.transfers.retain(|_, transfer| {
            let keep = !far(transfer.index);
            if !keep {
                slow.push(transfer.member.replica.clone());
            }
            keep
        });
        let lagging = primary.followers.values().filter(|follower| {
            let key = follower.member.life();
            let after = if on_disk { follower.keeps_journal_after() } else { follower.keeps_log_after() };
            !required.contains(&key) && after.is_some_and(far)
        });
        slow.extend(lagging.map(|follower| follower.member.replica.clone()));
        for replica in slow {
            let Stance::Primary(primary) = &mut self.role else { return };
            primary.slow.entry(replica.clone()).or_default().removed(now, first);
            let links: Vec<LinkId> = primary
                .followers
                .iter()
                .filter(|(_, it)| it.member.replica == replica)
                .map(|(link, _)| *link)
                .collect();
            let wait = self.must_wait(&replica);
            for link in links {
                if let Some(refusal) = wait.clone() {
                    self.refuse(link, refusal, out);
                }
                self.follower_lost(link, out);
            }
            self.event(out, Event::FellBehind { replica, log_bytes: limit });
        }
    }

    /// One that still has state to discard will come back in a new life; nothing is sent to it.
    fn follower_waits(&mut self, link: LinkId) {
        let Stance::Primary(primary) = &mut self.role else { return };
        if let Some(follower) = primary.followers.get_mut(&link) {
            follower.phase = Phase::Leaving;
            follower.next = Index::MAX;
        }
    }

    /// An acknowledgement. One of another epoch, life, handshake or group is stale and says nothing.
    pub(super) fn ack(&mut self, link: LinkId, ack: Ack) {
        let now = self.now.boot;
        let last = self.log.last().index;
        let group_id = self.record.as_ref().map(|record| record.group_id);
        let most_lacking = self.most_lacking();
        let Stance::Primary(primary) = &mut self.role else { return };
        let Some(follower) = primary.followers.get_mut(&link) else { return };
        follower.heard = now;
        let good = (ack.epoch == primary.epoch || planted!("ack_any_epoch"))
            && ack.handshake == follower.handshake
            && ack.incarnation == follower.member.incarnation
            && Some(ack.group_id) == group_id
            && ack.verified <= last
            && ack.round <= primary.round;
        if !good {
            return;
        }
        follower.acknowledged = follower.acknowledged.max(ack.verified);
        follower.shows = ack.verified;
        follower.applied = ack.applied;
        if let Phase::Streaming { near_since: near_since @ None } = &mut follower.phase
            && self.log.is_near(ack.verified, most_lacking)
        {
            *near_since = Some(now);
        }
        while let Some((_, bytes)) = follower.in_flight.front().filter(|(index, _)| *index <= ack.verified) {
            follower.in_flight_bytes -= bytes;
            follower.in_flight.pop_front();
        }
        let sent = follower.next.saturating_sub(1);
        let joint = primary.joint.as_ref().is_some_and(|member| member.incarnation == ack.incarnation);
        if joint {
            primary.standings.insert_if_absent(follower.member.life(), || Standing::new(now));
        }
        if let Some(standing) = standing_of(primary.standings.iter_mut(), &follower.member) {
            standing.acknowledge(now, &ack, sent);
            self.advance_commit();
        }
    }

    /// One append per block and follower, or an empty one when a round or a heartbeat is due. All messages of a call
    /// carry the same round.
    pub(super) fn feed_followers(&mut self, out: &mut Outbox<M>) {
        let Some(group_id) = self.record.as_ref().map(|record| record.group_id) else { return };
        let heartbeat = self.heartbeat_due();
        let (clock, journal_age_ms, output_age_ms) =
            (self.clock.now().max(self.state.time), self.disk.age_ms(self.now.boot), self.output_age_ms());
        let append_bytes = self.config.append_bytes;
        let (last, reach) = (self.log.last().index, self.reach());
        let persisted = self.disk.persisted;
        // Whom it waits for matters only once it has waited.
        let late = output_age_ms >= super::millis(self.config.heartbeat);
        let Stance::Primary(primary) = &mut self.role else { return };
        let waits_for: Vec<WaitsFor> = match late {
            true => primary
                .followers
                .values()
                .map(|follower| primary.waits_for(&follower.member.life(), persisted))
                .collect(),
            false => Vec::new(),
        };
        let news = primary.followers.values().any(|follower| follower.streams() && follower.next <= last);
        if !primary.serving || !(news || heartbeat || primary.round_wanted) {
            return;
        }
        let round_wanted = std::mem::take(&mut primary.round_wanted);
        primary.round += 1;
        let mut behind = Vec::new();
        let (word, interval) = ((self.now.boot, primary.epoch, primary.commit), self.config.heartbeat);
        let joint = primary.joint.as_ref().map(Member::life);
        for (at, (link, follower)) in primary.followers.iter_mut().enumerate() {
            let head = AppendHead {
                group_id,
                epoch: primary.epoch,
                handshake: follower.handshake,
                round: primary.round,
                commit: primary.commit,
                clock,
                journal_age_ms,
                output_age_ms,
                output_waits_for: waits_for.get(at).copied().unwrap_or(WaitsFor::Primary),
            };
            let most = append_bytes * 4;
            // A message costs the loop about as much as some kilobytes do, however short it is. Who was away or has just been
            // given a snapshot misses tens of thousands of them.
            let least = (most / BLOCKS_PER_TURN).max(1);
            let mut sent = 0;
            if follower.streams() && follower.next <= last {
                while follower.may_be_sent(sent, most)
                    && let Some(block) = follower.ahead.pop_front()
                {
                    sent += follower.send(*link, head, block, out).max(least);
                }
                match self.log.from(follower.next) {
                    _ if !follower.ahead.is_empty() || follower.reading.is_some() => {}
                    Some(blocks) => {
                        for block in blocks {
                            if !follower.may_be_sent(sent, most) {
                                break;
                            }
                            let Some(block) = block.from(follower.next) else { continue };
                            sent += follower.send(*link, head, block, out).max(least);
                        }
                    }
                    None if follower.next > reach => behind.push(*link),
                    // Its place in the log is gone: it must come again, for a snapshot.
                    None => {
                        out.outputs.push(Output::Close(*link));
                        continue;
                    }
                }
            }
            follower.cut_short = sent >= most && follower.next <= last;
            let waits = || {
                let life = follower.member.life();
                let required = joint.as_ref() == Some(&life) || primary.standings.contains_key(&life);
                !required && follower.may_wait(word, interval)
            };
            if sent > 0 {
                follower.told = word;
            // Of its own: while another one is sent all that it missed, there is no turn in which nobody is sent anything.
            } else if (heartbeat || round_wanted || word.0 >= follower.told.0 + interval) && !waits() {
                follower.told = word;
                out.outputs.push(Output::Send(*link, PeerMessage::Append(Append { head, block: None })));
            }
        }
        for link in behind {
            self.read_back(link, out);
        }
        self.sent_now();
        // With nobody to acknowledge it a round is confirmed by having been sent.
        if self.required_members().next().is_none() {
            self.advance_commit();
        }
    }

    /// The log in memory begins after what a follower needs next: that is read back from the journal.
    fn read_back(&mut self, link: LinkId, out: &mut Outbox<M>) {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let Stance::Primary(primary) = &mut self.role else { return };
        let Some(follower) = primary.followers.get_mut(&link) else { return };
        follower.reading = Some(ticket);
        let (from, upto, starts) = (follower.next, self.log.base(), self.log.starts().to_vec());
        out.outputs.push(Output::ReadLog { ticket, from, upto, starts });
    }

    /// What was read back. Nothing, or anything else than was asked for, is a journal that does not reach so far.
    pub(super) fn log_read(&mut self, ticket: u64, blocks: Vec<Block>, out: &mut Outbox<M>) {
        let Stance::Primary(primary) = &mut self.role else { return };
        let Some((&link, follower)) =
            primary.followers.iter_mut().find(|(_, follower)| follower.reading == Some(ticket))
        else {
            return;
        };
        follower.reading = None;
        let (mut next, log) = (follower.next, &self.log);
        let joins = blocks.iter().all(|block| {
            let fits =
                block.first == next && block.epoch == log.epoch_at(next) && block.epoch == log.epoch_at(block.last());
            next = block.last() + 1;
            fits
        });
        if joins && !blocks.is_empty() {
            follower.ahead = blocks.into();
            return;
        }
        let gone = follower.next;
        self.disk.reaches = self.disk.reaches.max(gone);
        self.close(link, out);
        self.link_lost(link, false, out);
    }

    /// The index after which entries must be kept, in memory or on disk, for whoever is not required.
    pub(super) fn needed_after(&self) -> Option<Index> {
        let Stance::Primary(primary) = &self.role else { return None };
        let streaming = primary.followers.values().filter_map(Follower::keeps_journal_after);
        streaming.chain(primary.transfers.values().map(|transfer| transfer.index)).min()
    }

    /// A follower that says nothing for long, and takes nothing of its snapshot, keeps the log from being trimmed and is
    /// let go. Whether one that is required leaves the in-sync set is another question.
    pub(super) fn drop_the_silent(&mut self, out: &mut Outbox<M>) {
        let (now, patience) = (self.now.boot, self.config.suspect_after * SILENCE);
        let Stance::Primary(primary) = &self.role else { return };
        let owes = |follower: &Follower| match &follower.phase {
            // A transfer that waits for its rate is not the joiner's silence.
            Phase::Sending { transfer } => primary.transfers.get(transfer).is_none_or(|it| !it.owes_nothing()),
            Phase::Streaming { .. } | Phase::Leaving => true,
        };
        let silent =
            primary.followers.iter().filter(|(_, follower)| now >= follower.heard + patience && owes(follower));
        for link in silent.map(|(link, _)| *link).collect::<Vec<_>>() {
            self.close(link, out);
            self.link_lost(link, false, out);
        }
    }

    pub(super) fn follower_lost(&mut self, link: LinkId, out: &mut Outbox<M>) {
        self.transfer_broken(link);
        let Stance::Primary(primary) = &mut self.role else { return };
        let Some(follower) = primary.followers.remove(&link) else { return };
        self.probe_member(follower.member, out);
    }

    pub(super) fn follower_status(&self, primary: &super::primary::Primary) -> Vec<FollowerStatus> {
        primary
            .followers
            .values()
            .map(|follower| {
                let in_sync = self
                    .record
                    .as_ref()
                    .is_some_and(|record| record.has(&follower.member.replica, follower.member.incarnation));
                let transfer = match &follower.phase {
                    Phase::Streaming { .. } | Phase::Leaving => None,
                    Phase::Sending { transfer } => {
                        primary.transfers.get(transfer).map(|transfer| transfer.status(self.now.boot))
                    }
                };
                let role = if in_sync {
                    Role::Backup
                } else if follower.streams() && follower.acknowledged >= primary.commit {
                    Role::Spare
                } else {
                    Role::Joining
                };
                let addresses: Addresses = follower.member.addresses.clone();
                FollowerStatus {
                    name: follower.member.replica.clone(),
                    incarnation: follower.member.incarnation,
                    addresses,
                    role,
                    acknowledged: follower.acknowledged,
                    applied: follower.applied,
                    silence: self.now.boot.saturating_sub(follower.heard),
                    transfer,
                }
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "read_back_tests.rs"]
mod tests;
