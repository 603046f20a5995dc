//! State transfers as the primary sees them: what of a snapshot is on its way, how fast it may go, and how long a
//! broken one is kept so that its joiner can go on where it stopped.
//!
//! ```text
//!                 chunks read by the shell while `transfer_room` is open
//!   start ──► sending ◄──────────────► sending … all read ──► all taken: the log follows, the transfer is forgotten
//!                │  ▲
//!       link lost│  │the same life dials again and names the chunk it wants
//!                ▼  │
//!              broken ──► its time is over, or the log after it has grown too long: forgotten
//! ```
//!
//! A chunk that was read is kept until the joiner says that it is in its machine, and no more than [`WINDOW`] bytes of
//! them: that is the flow control, and all that going on elsewhere needs. What is to be encoded is an [`Encoding`], which a
//! thread of the shell reads. Deliberately not here: the joiner's side (`receive`).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use cutover_arbiter::planted;
use cutover_arbiter::record::{Epoch, Index, Member};
use serde::{Deserialize, Serialize};

use crate::journal::Later;
use crate::machine::{Progress, Snapshot, StateMachine};
use crate::protocol::peer::{Chunk, ChunkHead, Handshake, Part, PeerMessage, Resume, TransferId, TransferReason};

use super::followers::Phase;
use super::{Event, LinkId, Outbox, Output, Replica, Stance, draw};

/// Progress is told each time so many bytes have gone or come.
pub(super) const PROGRESS_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of chunks that the joiner has not taken, beyond which no more are read.
const WINDOW: usize = 8 * 1024 * 1024;
/// Transfers at once, broken ones that are kept among them.
const MOST: usize = 16;
/// What a transfer below its rate may make up for.
const CATCH_UP: Duration = Duration::from_millis(5);

/// How a transfer goes, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferStatus {
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes in all, roughly.
    pub of_bytes: u64,
    /// The machine's entries so far: keys, for the built-in one.
    pub entries: u64,
    /// Entries in all.
    pub of_entries: u64,
    /// Bytes per second since it began.
    pub bytes_per_s: u64,
    /// Time left at that rate, in milliseconds; unknown at the beginning.
    pub left_ms: Option<u64>,
}

/// Whether the shell should read the next chunk of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferRoom {
    /// Yes.
    Open,
    /// Not now: the joiner has not taken what was sent, the rate is used up, or the link is broken.
    Full,
    /// Never again: drop it.
    Gone,
}

/// Counts what went or came.
#[derive(Debug, Clone, Hash)]
pub(super) struct Meter {
    started: Duration,
    estimated: u64,
    pub(super) bytes: u64,
    progress: Progress,
}

impl Meter {
    pub(super) fn new(started: Duration, estimated: u64) -> Self {
        Self { started, estimated, bytes: 0, progress: Progress::default() }
    }

    /// Counts a chunk; true when it is time to tell.
    pub(super) fn count(&mut self, bytes: usize, progress: Progress, estimated: u64) -> bool {
        let before = self.bytes;
        self.bytes += bytes as u64;
        (self.progress, self.estimated) = (progress, estimated);
        before / PROGRESS_BYTES != self.bytes / PROGRESS_BYTES
    }

    pub(super) fn status(&self, now: Duration) -> TransferStatus {
        let Progress { entries, of_entries } = self.progress;
        let took = now.saturating_sub(self.started);
        // Entries tell better than an estimate of bytes how much is left.
        let scaled = |value: u128| (entries > 0).then(|| value * u128::from(of_entries) / u128::from(entries));
        let of_bytes = scaled(self.bytes.into()).map_or(self.estimated, |bytes| bytes as u64).max(self.bytes);
        let whole_ms = scaled(took.as_millis());
        TransferStatus {
            bytes: self.bytes,
            of_bytes,
            entries,
            of_entries,
            bytes_per_s: (u128::from(self.bytes) * 1000 / took.as_millis().max(1)) as u64,
            left_ms: whole_ms.map(|whole| whole.saturating_sub(took.as_millis()) as u64),
        }
    }
}

/// A piece of a snapshot on its way to a joiner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Of what.
    pub part: Part,
    /// The piece.
    pub bytes: Bytes,
    /// How much of the machine the pieces up to and with this one contain.
    pub progress: Progress,
    /// True for the last piece.
    pub last: bool,
}

/// A snapshot that is encoded for a joiner, piece by piece, by a thread that may take its time: the core's own state
/// first, which many sessions make large, then the machine's.
pub struct Encoding<S> {
    core: Option<Later>,
    /// What is left of the core's state.
    own: Bytes,
    snapshot: S,
    /// One chunk is read ahead, to know the last.
    ahead: Option<(Vec<u8>, Progress)>,
    complete: bool,
}

impl<S> std::fmt::Debug for Encoding<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoding").field("complete", &self.complete).finish()
    }
}

impl<S: Snapshot> Encoding<S> {
    /// Of both parts.
    pub fn new(core: Later, snapshot: S) -> Self {
        Self { core: Some(core), own: Bytes::new(), snapshot, ahead: None, complete: false }
    }

    /// The next piece, of about `target` bytes, or `None` after the last.
    pub fn next_piece(&mut self, target: usize) -> Option<Piece> {
        if let Some(core) = self.core.take() {
            self.own = core.make();
            self.ahead = self.read(target);
        }
        if !self.own.is_empty() {
            let bytes = self.own.split_to(self.own.len().min(target.max(1)));
            return Some(Piece { part: Part::Core, bytes, progress: Progress::default(), last: false });
        }
        if self.complete {
            return None;
        }
        // A machine without any chunk still has a last piece.
        let (bytes, progress) = self.ahead.take().unwrap_or_default();
        self.ahead = self.read(target);
        self.complete = self.ahead.is_none();
        Some(Piece { part: Part::Machine, bytes: bytes.into(), progress, last: self.complete })
    }

    fn read(&mut self, target: usize) -> Option<(Vec<u8>, Progress)> {
        Some((self.snapshot.next_chunk(target)?, self.snapshot.progress()))
    }
}

/// A piece that was read and not yet taken by the joiner.
#[derive(Debug, Clone, Hash)]
struct Waiting {
    number: u64,
    piece: Piece,
}

/// A transfer's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Line {
    Up(LinkId),
    /// Broken; kept until then.
    Down(Duration),
}

impl Line {
    fn link(self) -> Option<LinkId> {
        match self {
            Line::Up(link) => Some(link),
            Line::Down(_) => None,
        }
    }

    fn kept_until(self) -> Option<Duration> {
        match self {
            Line::Up(_) => None,
            Line::Down(until) => Some(until),
        }
    }
}

/// A state transfer to one life of one replica.
#[derive(Debug, Clone, Hash)]
pub(super) struct Transfer {
    pub(super) member: Member,
    /// Of the last entry in the snapshot: the log after it is kept.
    pub(super) index: Index,
    line: Line,
    window: VecDeque<Waiting>,
    window_bytes: usize,
    /// Number of the next chunk to be read.
    next: u64,
    /// The last chunk was read.
    complete: bool,
    estimated: u64,
    meter: Meter,
}

impl Transfer {
    fn add(&mut self, piece: Piece) {
        self.window_bytes += piece.bytes.len();
        self.complete = piece.last;
        self.window.push_back(Waiting { number: self.next, piece });
        self.next += 1;
    }

    /// The joiner has every chunk below `next`.
    fn taken(&mut self, next: u64) {
        while let Some(taken) = self.window.front().filter(|waiting| waiting.number < next) {
            self.window_bytes -= taken.piece.bytes.len();
            self.window.pop_front();
        }
    }

    fn message(&self, Waiting { number, piece }: &Waiting, epoch: Epoch, handshake: Handshake) -> PeerMessage {
        let head = ChunkHead {
            epoch,
            handshake,
            number: *number,
            part: piece.part,
            index: self.index,
            last: piece.last,
            estimated_bytes: self.estimated,
            progress: piece.progress,
        };
        PeerMessage::Chunk(Chunk { head, bytes: piece.bytes.clone() })
    }

    /// True when nothing is on its way that the joiner could be silent about.
    pub(super) fn owes_nothing(&self) -> bool {
        self.window.is_empty()
    }

    fn has_room(&self) -> bool {
        matches!(self.line, Line::Up(_)) && !self.complete && self.window_bytes < WINDOW
    }

    pub(super) fn status(&self, now: Duration) -> TransferStatus {
        self.meter.status(now)
    }
}

impl<M: StateMachine> Replica<M> {
    /// A consistent snapshot of everything executed, for a follower that holds nothing; the log after it follows.
    pub(super) fn start_transfer(
        &mut self,
        (link, id): (LinkId, TransferId),
        member: Member,
        reason: TransferReason,
        out: &mut Outbox<M>,
    ) {
        let core = self.state.core_snapshot(self.log.starts());
        let snapshot = self.state.machine.snapshot();
        let index = core.applied.index;
        let estimated = snapshot.estimated_bytes().saturating_add(self.state.sessions.bytes());
        let now = self.now.boot;
        let Stance::Primary(primary) = &mut self.role else { return };
        if primary.transfers.len() >= MOST {
            // The one whose time is over first makes room; those with a link are as few as there are followers.
            let kept = |(id, transfer): (&TransferId, &Transfer)| Some((transfer.line.kept_until()?, *id));
            let first = primary.transfers.iter().filter_map(kept).min();
            first.and_then(|(_, id)| primary.transfers.remove(&id));
        }
        let Some(follower) = primary.followers.get_mut(&link) else { return };
        follower.next = index + 1;
        follower.phase = Phase::Sending { transfer: id };
        let transfer = Transfer {
            member: member.clone(),
            index,
            line: Line::Up(link),
            window: VecDeque::new(),
            window_bytes: 0,
            next: 0,
            complete: false,
            estimated,
            meter: Meter::new(now, estimated),
        };
        primary.transfers.insert(id, transfer);
        let encoding = Encoding::new(Later::new(move || core.encode()), snapshot);
        out.outputs.push(Output::Transfer { transfer: id, encoding });
        self.event(out, Event::TransferStarted { replica: member.replica, reason });
    }

    /// A name for a transfer that none of another life or primary has, so that nobody goes on with the wrong one.
    pub(super) fn name_transfer(&mut self) -> TransferId {
        draw(&mut self.random) as TransferId
    }

    /// The transfer that `member` asks to go on with, if it can.
    pub(super) fn resumable(&self, member: &Member, resume: Option<Resume>) -> Option<Resume> {
        let resume = resume?;
        let Stance::Primary(primary) = &self.role else { return None };
        let transfer = primary.transfers.get(&resume.transfer)?;
        let first = transfer.window.front().map_or(transfer.next, |waiting| waiting.number);
        let same = transfer.member.replica == member.replica && transfer.member.incarnation == member.incarnation;
        (same && (first..=transfer.next).contains(&resume.next)).then_some(resume)
    }

    /// Goes on with a transfer on a new link: what of it was read and did not arrive is sent again.
    pub(super) fn resume_transfer(&mut self, link: LinkId, resume: Resume, out: &mut Outbox<M>) {
        let Stance::Primary(primary) = &mut self.role else { return };
        let Some(follower) = primary.followers.get_mut(&link) else { return };
        let Some(transfer) = primary.transfers.get_mut(&resume.transfer) else { return };
        transfer.line = Line::Up(link);
        transfer.taken(resume.next);
        follower.next = transfer.index + 1;
        follower.phase = Phase::Sending { transfer: resume.transfer };
        for waiting in &transfer.window {
            out.outputs.push(Output::Send(link, transfer.message(waiting, primary.epoch, follower.handshake)));
        }
        let (replica, bytes) = (transfer.member.replica.clone(), transfer.meter.bytes);
        self.event(out, Event::TransferResumed { replica, chunk: resume.next, bytes });
        self.end_transfer_if_taken(link, out);
    }

    /// Whether the shell should read the next chunk of this snapshot now.
    pub fn transfer_room(&self, transfer: TransferId) -> TransferRoom {
        let Stance::Primary(primary) = &self.role else { return TransferRoom::Gone };
        match primary.transfers.get(&transfer) {
            None => TransferRoom::Gone,
            Some(transfer) if transfer.complete => TransferRoom::Gone,
            Some(transfer) if transfer.has_room() && primary.pace_at <= self.now.boot => TransferRoom::Open,
            Some(_) => TransferRoom::Full,
        }
    }

    /// The shell read the next piece of a snapshot.
    pub(super) fn snapshot_chunk(&mut self, id: TransferId, piece: Piece, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let Stance::Primary(primary) = &self.role else { return };
        let Some(transfer) = primary.transfers.get(&id) else { return };
        // Whoever is given up because his log grows too long comes again for as slow a transfer: rather a fast one.
        let presses = self.is_far(transfer.index, self.most_kept() / 4);
        let Stance::Primary(primary) = &mut self.role else { return };
        let Some(transfer) = primary.transfers.get_mut(&id) else { return };
        let rate = self.config.limits.transfer_rate.filter(|_| !presses);
        let cost =
            Duration::from_secs_f64(piece.bytes.len() as f64 / rate.map_or(f64::INFINITY, |rate| rate.max(1) as f64));
        primary.pace_at = primary.pace_at.max(now.saturating_sub(CATCH_UP)) + cost;
        let tell = transfer.meter.count(piece.bytes.len(), piece.progress, transfer.estimated);
        transfer.add(piece);
        if let Some(link) = transfer.line.link()
            && let Some(follower) = primary.followers.get_mut(&link)
            && let Some(waiting) = transfer.window.back()
        {
            follower.heard = now;
            out.outputs.push(Output::Send(link, transfer.message(waiting, primary.epoch, follower.handshake)));
        }
        if tell {
            let (replica, status) = (transfer.member.replica.clone(), transfer.status(now));
            self.event(out, Event::TransferProgress { replica, status });
        }
    }

    /// A joiner has every chunk below `next` in its machine.
    pub(super) fn chunks_taken(&mut self, link: LinkId, handshake: Handshake, next: u64, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let Stance::Primary(primary) = &mut self.role else { return };
        let Some(follower) = primary.followers.get_mut(&link).filter(|it| it.handshake == handshake) else { return };
        follower.heard = now;
        let Phase::Sending { transfer } = follower.phase else { return };
        if let Some(transfer) = primary.transfers.get_mut(&transfer) {
            transfer.taken(next);
        }
        self.end_transfer_if_taken(link, out);
    }

    /// Everything was taken: the follower has the state, and the log follows.
    fn end_transfer_if_taken(&mut self, link: LinkId, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let Stance::Primary(primary) = &mut self.role else { return };
        let Some(follower) = primary.followers.get_mut(&link) else { return };
        let Phase::Sending { transfer: id } = follower.phase else { return };
        let done = primary.transfers.get(&id).is_some_and(|transfer| transfer.complete && transfer.window.is_empty());
        let Some(transfer) = done.then(|| primary.transfers.remove(&id)).flatten() else { return };
        follower.begins_to_stream();
        if planted!("P24") {
            follower.next = self.log.last().index + 1;
        }
        primary.slow.remove(&transfer.member.replica);
        let (replica, status) = (transfer.member.replica.clone(), transfer.status(now));
        self.event(out, Event::TransferDone { replica, status, index: transfer.index });
    }

    /// The link of a transfer is gone: it is kept for a while.
    pub(super) fn transfer_broken(&mut self, link: LinkId) {
        let until = self.now.boot + self.config.limits.transfer_keep;
        let Stance::Primary(primary) = &mut self.role else { return };
        if let Some(transfer) = primary.transfers.values_mut().find(|transfer| transfer.line == Line::Up(link)) {
            transfer.line = Line::Down(until);
        }
    }

    /// Its snapshot cannot be read any further: the joiner must come again, for another.
    pub(super) fn transfer_failed(&mut self, transfer: TransferId, out: &mut Outbox<M>) {
        let Stance::Primary(primary) = &mut self.role else { return };
        let line = primary.transfers.remove(&transfer).map(|transfer| transfer.line);
        if let Some(Line::Up(link)) = line {
            self.close(link, out);
            self.link_lost(link, false, out);
        }
    }

    /// Forgets what nobody came back for.
    pub(super) fn forget_broken_transfers(&mut self) {
        let now = self.now.boot;
        let Stance::Primary(primary) = &mut self.role else { return };
        primary.transfers.retain(|_, transfer| transfer.line.kept_until().is_none_or(|until| now < until));
    }

    /// When a transfer that only waits for its rate goes on, or a broken one is forgotten.
    pub(super) fn transfer_deadline(&self, primary: &super::primary::Primary) -> Option<Duration> {
        let due = |transfer: &Transfer| match transfer.line {
            Line::Down(until) => Some(until),
            Line::Up(_) => (transfer.has_room() && primary.pace_at > self.now.boot).then_some(primary.pace_at),
        };
        primary.transfers.values().filter_map(due).min()
    }
}

#[cfg(test)]
#[path = "transfers_tests.rs"]
mod tests;
