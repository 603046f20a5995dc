//! What was asked of the disk and what it has done: entries, cuts, claims, snapshots.
//!
//! What must hold: nothing is acknowledged, committed or released that waits here; a new incarnation is shown to nobody
//! before it is durable; a joiner's snapshot is in place before the first entry after it is journalled, and both before
//! anything is acknowledged; after an error of the disk nothing of all this happens any more (S12).

use std::collections::VecDeque;
use std::time::Duration;

use cutover_arbiter::planted;
use cutover_arbiter::record::{Epoch, Index, Mode, Position};

use crate::journal::Later;
use crate::machine::StateMachine;
use crate::protocol::entry::Block;

use super::{Claim, Event, Input, Outbox, Output, Replica, Stance, StopReason, Stopping};

/// Requests under way at a disk that keeps up.
const FEW: usize = 64;

/// A snapshot on its way to the disk.
#[derive(Debug, Clone, Copy, Hash)]
struct Taken {
    ticket: u64,
    position: Position,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// Another thread writes it beside.
    Writing,
    /// It is beside, and waits for its last entry to be committed.
    Written,
    /// It is being put into place.
    Installing,
}

/// Something that the disk was asked for and has not done.
#[derive(Debug, Clone, Copy, Hash)]
enum Step {
    /// Entries up to here.
    Entries(Index),
    Claim(Claim),
    /// A snapshot of this index in its place; the journal has every entry after the second.
    Snapshot(Index, Index),
}

/// What became of entries, or a cut of the log, that were to be made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// There were none.
    Nothing,
    /// In mode `memory` they are as durable as they will ever be, and no disk hears of them.
    Done,
    /// The disk has them and will tell.
    Waits,
}

#[derive(Debug, Clone, Hash)]
pub(super) struct Durable {
    next_sequence: u64,
    waiting: VecDeque<(u64, Step, Duration)>,
    /// The log is durable up to here.
    pub(super) persisted: Index,
    cut: Option<Position>,
    blocks: Vec<Block>,
    /// What the disk says that this replica is.
    claimed: Claim,
    /// What it was asked to say.
    asked: Claim,
    /// The state on disk is to be discarded with the next claim.
    anew: bool,
    snapshot: Option<Taken>,
    tickets: u64,
    /// Index of a snapshot beside that is not wanted any more.
    abandoned: Option<Index>,
    /// The state came by a transfer and its snapshot is not in place: no entry is journalled.
    joining: bool,
    /// Bytes journalled since the last snapshot was taken.
    grown: u64,
    /// Where snapshots were taken, oldest first, and the bytes journalled from the one before until then: what is kept of
    /// the journal for whoever is behind is counted by them.
    spans: VecDeque<(Index, u64)>,
    /// The newest snapshot in place.
    pub(super) installed: Index,
    /// Every entry after this one that was written is in the journal.
    pub(super) reaches: Index,
    /// The disk failed: nothing is promised any more.
    pub(super) failed: bool,
    /// A stall was acted upon.
    pub(super) stalled: bool,
}

impl Durable {
    pub(super) fn new(claimed: Claim, persisted: Index, installed: Index) -> Self {
        Self {
            next_sequence: 0,
            waiting: VecDeque::new(),
            persisted,
            cut: None,
            blocks: Vec::new(),
            claimed,
            asked: claimed,
            anew: false,
            snapshot: None,
            tickets: 0,
            abandoned: None,
            joining: false,
            grown: 0,
            spans: VecDeque::new(),
            installed,
            reaches: installed,
            failed: false,
            stalled: false,
        }
    }

    pub(super) fn append(&mut self, block: &Block) {
        self.blocks.push(block.clone());
    }

    /// Everything beyond `keep` goes.
    pub(super) fn cut(&mut self, keep: Position) {
        let blocks = std::mem::take(&mut self.blocks);
        self.blocks = blocks.iter().filter_map(|block| block.upto(keep.index)).collect();
        self.cut = Some(self.cut.filter(|cut| cut.index <= keep.index).unwrap_or(keep));
        self.persisted = self.persisted.min(keep.index);
        for (_, step, _) in &mut self.waiting {
            if let Step::Entries(last) = step {
                *last = (*last).min(keep.index);
            }
        }
    }

    /// The state is gone: what was asked for it says nothing any more.
    pub(super) fn forget(&mut self) {
        // A joiner that loses an unproven snapshot keeps its life; what the disk has of it, or is about to have, would be
        // followed by the next one with a gap.
        let begun = self.waiting.iter().any(|(_, step, _)| !matches!(step, Step::Claim(_)));
        self.anew |= begun || self.installed > 0 || self.persisted > 0;
        self.waiting.retain(|(_, step, _)| matches!(step, Step::Claim(_)));
        self.blocks.clear();
        (self.cut, self.persisted, self.installed, self.grown, self.joining) = (None, 0, 0, 0, false);
        self.reaches = 0;
        self.spans.clear();
        self.abandoned = self.snapshot.take().map(|taken| taken.position.index).or(self.abandoned);
    }

    /// True when the disk is asked for entries and for nothing else, and has not failed.
    pub(super) fn waits_for_entries_only(&self) -> bool {
        let plain = self.waiting.iter().take(FEW).all(|(_, step, _)| matches!(step, Step::Entries(_)));
        plain && self.waiting.len() <= FEW && !self.failed
    }

    /// Bytes journalled since the last snapshot was taken.
    pub(super) fn bytes_grown(&self) -> u64 {
        self.grown
    }

    /// So many bytes at least were journalled after `index`; none is certain of what came after the newest snapshot.
    pub(super) fn bytes_beyond(&self, index: Index) -> u64 {
        let place = self.spans.partition_point(|(taken, _)| *taken < index);
        let later = self.spans.range(place.min(self.spans.len())..).skip(1).map(|(_, bytes)| bytes).sum::<u64>();
        if place < self.spans.len() { later + self.grown } else { 0 }
    }

    fn snapshot_taken(&mut self, index: Index) {
        self.spans.push_back((index, std::mem::take(&mut self.grown)));
    }

    /// The next claim begins with nothing.
    pub(super) fn begin_anew(&mut self) {
        self.anew = true;
        self.abandoned = None;
    }

    /// True when the disk says that this is the life of the state.
    pub(super) fn knows(&self, incarnation: cutover_arbiter::record::Incarnation) -> bool {
        self.claimed.incarnation == incarnation || planted!("shown_early")
    }

    fn ask(&mut self, now: Duration, step: Step) -> u64 {
        self.next_sequence += 1;
        self.waiting.push_back((self.next_sequence, step, now));
        self.next_sequence
    }

    /// Hands what is new to the disk. A claim that only names an epoch goes after the entries, which name it too.
    fn flush<M: StateMachine>(&mut self, now: Duration, claim: Claim, commit: Index, out: &mut Outbox<M>) -> Handed {
        if self.failed {
            return Handed::Nothing;
        }
        self.abandon(out);
        let first = Claim { epoch: self.asked.epoch, ..claim } != self.asked || self.anew || self.cut.is_some();
        if first {
            self.claim(now, claim, out);
        }
        let handed = self.flush_entries(now, (claim.mode, commit), out);
        if !first {
            self.claim(now, claim, out);
        }
        handed
    }

    /// Before any other snapshot is taken, which might be of the same index.
    fn abandon<M: StateMachine>(&mut self, out: &mut Outbox<M>) {
        if let Some(index) = self.abandoned.take() {
            out.outputs.push(Output::AbandonSnapshot { index });
        }
    }

    fn flush_entries<M: StateMachine>(
        &mut self,
        now: Duration,
        (mode, commit): (Option<Mode>, Index),
        out: &mut Outbox<M>,
    ) -> Handed {
        let last = self.blocks.last().map(Block::last).or(self.cut.map(|cut| cut.index));
        let Some(last) = last.filter(|_| !self.joining) else { return Handed::Nothing };
        // Behind anything else that the disk was asked for they wait for that.
        if mode == Some(Mode::Memory) && self.waiting.is_empty() {
            self.cut = None;
            self.blocks.clear();
            self.persisted = self.persisted.max(last);
            return Handed::Done;
        }
        let sequence = self.ask(now, Step::Entries(last));
        let (cut, blocks) = (self.cut.take(), std::mem::take(&mut self.blocks));
        self.grown += blocks.iter().map(|block| block.bytes.len() as u64).sum::<u64>();
        out.outputs.push(Output::Persist { sequence, cut, blocks, commit });
        Handed::Waits
    }

    fn claim<M: StateMachine>(&mut self, now: Duration, claim: Claim, out: &mut Outbox<M>) {
        if claim == self.asked && !self.anew {
            return;
        }
        self.asked = claim;
        let sequence = self.ask(now, Step::Claim(claim));
        let anew = std::mem::take(&mut self.anew);
        out.outputs.push(Output::Claim { sequence, claim, anew });
    }

    /// True when this was asked for and is not done.
    pub(super) fn waits_for(&self, sequence: u64) -> bool {
        self.waiting.back().is_some_and(|(last, ..)| *last >= sequence)
            && self.waiting.front().is_some_and(|(first, ..)| *first <= sequence)
    }

    /// Everything up to this sequence is done.
    fn done(&mut self, sequence: u64) {
        while let Some((_, step, _)) = self.waiting.front().copied().filter(|(waiting, ..)| *waiting <= sequence) {
            self.waiting.pop_front();
            match step {
                Step::Entries(last) => self.persisted = self.persisted.max(last),
                Step::Claim(claim) => self.claimed = claim,
                Step::Snapshot(index, reaches) => {
                    self.snapshot = None;
                    self.installed = index;
                    self.reaches = self.reaches.max(reaches);
                    self.persisted = self.persisted.max(index);
                    self.joining = false;
                }
            }
        }
        if self.waiting.is_empty() {
            self.stalled = false;
        }
    }

    /// Since when the oldest of what is asked for waits.
    pub(super) fn since(&self) -> Option<Duration> {
        self.waiting.front().map(|(_, _, since)| *since)
    }

    pub(super) fn age_ms(&self, now: Duration) -> u32 {
        self.since().map_or(0, |since| super::millis(now.saturating_sub(since)))
    }
}

impl<M: StateMachine> Replica<M> {
    /// What this replica is, as a restart must know it. The shell makes it durable before the first turn.
    pub fn claim(&self) -> Claim {
        let known = &self.disk.asked;
        let record = self.record.as_ref();
        Claim {
            incarnation: self.incarnation,
            group_id: record.map(|record| record.group_id).or(self.state.group_id).or(known.group_id),
            mode: record.map(|record| record.mode).or(known.mode),
            // What the log names need not be said twice; a joiner's is not on disk yet.
            epoch: if self.known_epoch > self.log.last().epoch || self.disk.joining {
                self.known_epoch.max(known.epoch)
            } else {
                known.epoch
            },
            fenced_from: self.fenced_from(),
        }
    }

    /// True when this replica's group is known to keep no journal.
    pub(super) fn in_memory(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.mode == Mode::Memory)
    }

    /// True when this replica's group keeps journals.
    fn keeps_journal(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.mode != Mode::Memory)
    }

    /// True when what the log in memory no longer holds can be read back.
    pub(super) fn log_is_on_disk(&self) -> bool {
        self.keeps_journal() && !self.disk.failed && !self.disk.joining
    }

    /// Index before the first entry that a follower can be sent, from memory or from disk.
    pub(super) fn reach(&self) -> Index {
        if self.log_is_on_disk() { self.log.base().min(self.disk.reaches) } else { self.log.base() }
    }

    /// Hands what is new to the disk, and sees to what follows from it at once.
    pub(super) fn flush_to_disk(&mut self, out: &mut Outbox<M>) -> Handed {
        let (claim, commit) = (self.claim(), self.commit_position().index);
        let handed = self.disk.flush(self.now.boot, claim, commit, out);
        if handed == Handed::Done {
            self.after_persist(out);
        }
        handed
    }

    /// True when the disk names this life and an epoch at least as high: what is promised in it survives a restart.
    pub(super) fn epoch_is_durable(&self, epoch: Epoch) -> bool {
        let named = self.disk.claimed.epoch.max(self.log.epoch_at(self.disk.persisted));
        self.disk.knows(self.incarnation) && named >= epoch && !self.disk.failed
    }

    pub(super) fn persisted(&mut self, sequence: u64, out: &mut Outbox<M>) {
        let installed = self.disk.installed;
        self.disk.done(sequence);
        if self.disk.installed > installed {
            self.event(out, Event::SnapshotInstalled { index: self.disk.installed });
        }
        self.after_persist(out);
    }

    /// A joiner's state is complete in memory; on disk its snapshot comes first.
    pub(super) fn journal_joins(&mut self, out: &mut Outbox<M>) {
        let index = self.state.applied.index;
        if !self.keeps_journal() {
            self.disk.persisted = index;
            return;
        }
        self.disk.joining = true;
        self.take_snapshot(out);
    }

    fn take_snapshot(&mut self, out: &mut Outbox<M>) {
        let core = self.state.core_snapshot(self.log.starts());
        let core = Later::new(move || core.encode());
        let position = self.state.applied;
        self.disk.abandon(out);
        self.disk.tickets += 1;
        let ticket = self.disk.tickets;
        self.disk.snapshot_taken(position.index);
        self.disk.snapshot = Some(Taken { ticket, position, stage: Stage::Writing });
        out.outputs.push(Output::Snapshot { ticket, position, core, snapshot: self.state.machine.snapshot() });
    }

    /// Takes a snapshot when the journal has grown by enough, and puts a written one into place once it is committed.
    pub(super) fn tend_snapshots(&mut self, out: &mut Outbox<M>) {
        let goes_back = matches!(&self.role, Stance::Follow(follow) if follow.going_back().is_some());
        if self.disk.failed || goes_back {
            // What a state is being made of stays where it is.
            return;
        }
        match self.disk.snapshot {
            None => {
                let enough = self.config.snapshot_bytes.max(self.state.machine.memory() / 2);
                let may = match &self.role {
                    Stance::Primary(primary) => primary.serving,
                    Stance::Follow(follow) => follow.unproven.is_none(),
                    Stance::Stopped => false,
                };
                let new = self.state.applied.index > self.disk.installed;
                if may && new && self.disk.grown >= enough && self.keeps_journal() && !self.disk.joining {
                    self.take_snapshot(out);
                }
            }
            Some(taken) if taken.stage == Stage::Written => self.put_into_place(taken, out),
            Some(_) => {}
        }
    }

    fn put_into_place(&mut self, taken: Taken, out: &mut Outbox<M>) {
        let Position { epoch, index } = taken.position;
        let stands = index <= self.log.last().index && self.log.epoch_at(index) == epoch;
        // An operator may choose a joiner that does not know yet whether its snapshot is committed: by that word it is.
        let chosen = self.disk.joining && matches!(self.role, Stance::Primary(_));
        if !stands {
            // Executed, never committed, and cut since.
            self.disk.snapshot = None;
            out.outputs.push(Output::AbandonSnapshot { index });
        } else if chosen || self.commit_position().index >= index {
            self.disk.snapshot = Some(Taken { stage: Stage::Installing, ..taken });
            // The journal goes back to the snapshot before this one, if there is one, and to what somebody still needs.
            let covered = if self.disk.installed == 0 { index } else { self.disk.installed };
            let keep = self.needed_after().map_or(covered, |needed| needed.min(covered));
            self.disk.spans.retain(|(taken, _)| *taken >= keep);
            let sequence = self.disk.ask(self.now.boot, Step::Snapshot(index, keep));
            out.outputs.push(Output::InstallSnapshot { sequence, position: taken.position, keep });
        }
    }

    /// The shell has written a snapshot beside what is there.
    pub(super) fn snapshot_written(&mut self, ticket: u64) {
        if let Some(taken) = self.disk.snapshot.as_mut().filter(|taken| taken.ticket == ticket) {
            taken.stage = Stage::Written;
        }
    }

    /// An error of the disk is final: nothing more is acknowledged or released, a healthy backup takes over, and this
    /// process ends.
    pub(super) fn journal_failed(&mut self, reason: String, out: &mut Outbox<M>) {
        if std::mem::replace(&mut self.disk.failed, true) {
            return;
        }
        self.event(out, Event::JournalFailed { reason: reason.clone() });
        let reason = StopReason::Journal(reason);
        let has_backup = self.record.as_ref().is_some_and(|record| record.in_sync.len() > 1);
        if matches!(self.role, Stance::Primary(_)) && has_backup {
            let deadline = self.now.boot + self.config.suspect_after * 2;
            self.stopping = Some(Stopping { deadline, reason });
            self.step(Input::Switchover { to: None, ticket: 0 }, out);
        } else {
            self.stop(reason, out);
        }
    }

    /// True while the disk has not answered for longer than it may.
    pub(super) fn disk_hangs(&self) -> bool {
        self.disk.since().is_some_and(|since| self.now.boot >= since + self.config.journal_stall_limit)
    }

    /// When a hanging disk must be acted upon.
    pub(super) fn stall_deadline(&self) -> Option<Duration> {
        self.disk.since().filter(|_| !self.disk.stalled).map(|since| since + self.config.journal_stall_limit)
    }

    /// A disk hangs: a primary hands over, a backup leaves. True when this has just been found.
    pub(super) fn notice_a_stall(&mut self, out: &mut Outbox<M>) -> bool {
        if self.disk.stalled || !self.disk_hangs() {
            return false;
        }
        self.disk.stalled = true;
        self.event(out, Event::JournalStalled { age_ms: self.disk.age_ms(self.now.boot) });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::kv::KeyValue;
    use crate::protocol::entry::{Payload, begin, finish, put};
    use cutover_arbiter::record::Incarnation;

    const CLAIM: Claim =
        Claim { incarnation: Incarnation(1), group_id: None, mode: None, epoch: Epoch(1), fenced_from: None };

    fn block(first: Index, count: u32) -> Block {
        let mut bytes = Vec::new();
        for _ in 0..count {
            let start = begin(&mut bytes);
            put(&mut bytes, 1, &Payload::Operation { mark: None, carried: vec![], operation: b"x" }, b"");
            finish(&mut bytes, start, 0);
        }
        Block { epoch: Epoch(1), first, count, bytes: bytes.into() }
    }

    fn flush(durable: &mut Durable, claim: Claim) -> Vec<Output<KeyValue>> {
        let mut out = Outbox::default();
        durable.flush(Duration::ZERO, claim, 0, &mut out);
        out.outputs
    }

    #[test]
    fn a_cut_inside_a_block_that_was_not_handed_over_keeps_its_head() {
        let mut durable = Durable::new(CLAIM, 0, 0);
        durable.append(&block(1, 4));
        durable.cut(Position { epoch: Epoch(1), index: 2 });
        let outputs = flush(&mut durable, CLAIM);
        let [Output::Persist { blocks, sequence, .. }] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!((blocks[0].first, blocks[0].last()), (1, 2));
        durable.done(*sequence);
        assert_eq!(durable.persisted, 2);
    }

    #[test]
    fn in_memory_entries_are_done_at_once_unless_something_is_asked_before_them() {
        let memory = Claim { mode: Some(Mode::Memory), ..CLAIM };
        let mut durable = Durable::new(memory, 0, 0);
        durable.append(&block(1, 4));
        durable.cut(Position { epoch: Epoch(1), index: 2 });
        durable.append(&block(3, 1));
        assert!(flush(&mut durable, memory).is_empty());
        assert_eq!(durable.persisted, 3);
        durable.cut(Position { epoch: Epoch(1), index: 1 });
        assert!(flush(&mut durable, memory).is_empty());
        assert_eq!(durable.persisted, 1);
        // A claim goes first, and they wait for it.
        durable.append(&block(2, 1));
        let outputs = flush(&mut durable, Claim { incarnation: Incarnation(2), ..memory });
        assert!(matches!(outputs[..], [Output::Claim { .. }, Output::Persist { .. }]), "{outputs:?}");
        assert_eq!(durable.persisted, 1);
        durable.done(2);
        assert_eq!(durable.persisted, 2);
    }

    #[test]
    fn a_group_that_is_made_anew_with_a_journal_has_its_first_entries_in_it() {
        let mut durable = Durable::new(Claim { mode: Some(Mode::Memory), ..CLAIM }, 0, 0);
        durable.append(&block(1, 1));
        let outputs = flush(&mut durable, Claim { mode: Some(Mode::Sync), ..CLAIM });
        let [Output::Claim { .. }, Output::Persist { blocks, .. }] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(blocks.last().map(Block::last), Some(1));
        assert_eq!(durable.persisted, 0);
    }

    #[test]
    fn what_a_cut_took_is_not_persisted_by_a_late_answer() {
        let mut durable = Durable::new(CLAIM, 0, 0);
        durable.append(&block(1, 4));
        flush(&mut durable, CLAIM);
        durable.cut(Position { epoch: Epoch(1), index: 1 });
        durable.done(1);
        assert_eq!(durable.persisted, 1);
    }

    #[test]
    fn a_new_life_is_claimed_before_its_entries_and_a_mere_epoch_after() {
        let mut durable = Durable::new(CLAIM, 0, 0);
        durable.append(&block(1, 1));
        let later = Claim { epoch: Epoch(2), ..CLAIM };
        let outputs = flush(&mut durable, later);
        assert!(matches!(outputs[..], [Output::Persist { .. }, Output::Claim { anew: false, .. }]), "{outputs:?}");
        durable.forget();
        durable.begin_anew();
        durable.append(&block(1, 1));
        let outputs = flush(&mut durable, Claim { incarnation: Incarnation(2), ..later });
        assert!(matches!(outputs[..], [Output::Claim { anew: true, .. }, Output::Persist { .. }]), "{outputs:?}");
        assert!(!durable.knows(Incarnation(2)));
        // What the old life waited for says nothing of the new one.
        durable.done(3);
        assert!(durable.knows(Incarnation(2)));
        assert_eq!(durable.persisted, 0);
        durable.done(4);
        assert_eq!(durable.persisted, 1);
    }

    #[test]
    fn nothing_is_asked_of_a_disk_that_failed() {
        let mut durable = Durable::new(CLAIM, 0, 0);
        durable.failed = true;
        durable.append(&block(1, 1));
        assert!(flush(&mut durable, CLAIM).is_empty());
    }
}

#[cfg(test)]
#[path = "stall_tests.rs"]
mod stall_tests;
