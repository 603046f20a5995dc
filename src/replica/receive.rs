//! A joiner: the snapshot it is given, chunk by chunk, until it can follow the log.
//!
//! Chunks become a machine elsewhere: [`Decoding`] is work for any thread of the shell, and what comes of it is handed
//! back through [`Replica::decoded`]. A link that breaks on the way ends nothing: what has come is kept aside, and the
//! next `Hello` names the chunk that is wanted. If the primary cannot go on with it, it is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use cutover_arbiter::planted;
use cutover_arbiter::record::{Epoch, Index};

use crate::machine::{Restore, StateMachine};
use crate::protocol::peer::{Chunk, Handshake, Part, PeerControl, Resume, TransferId};

use super::follow::{Follow, Following, Stage};
use super::log::Log;
use super::state::{CoreSnapshot, State};
use super::transfers::{Meter, TransferStatus};
use super::{Event, LinkId, Outbox, Output, Replica, Stance};

/// So many chunks go into the machine at a time, or so many bytes: far less than the primary sends unasked, so that it
/// never waits for what is held back here.
const AT_ONCE: usize = 4;
const AT_ONCE_BYTES: usize = 128 << 10;

/// Chunks of a snapshot, and the machine in the making that they go into: to be run on a thread that may take its
/// time, and given back through [`Replica::decoded`].
#[derive(Clone, Hash)]
pub struct Decoding<R> {
    ticket: u64,
    restore: R,
    chunks: Vec<Bytes>,
}

impl<R> std::fmt::Debug for Decoding<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoding({} chunks)", self.chunks.len())
    }
}

/// What came of a [`Decoding`].
#[derive(Clone, Hash)]
pub struct Decoded<R> {
    ticket: u64,
    chunks: u64,
    result: Result<R, String>,
}

impl<R> std::fmt::Debug for Decoded<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoded({} chunks, failed: {:?})", self.chunks, self.result.as_ref().err())
    }
}

impl<R: Restore> Decoding<R> {
    /// Does the work, and calls `between` after each chunk: nobody need wait for more than one. A machine that panics
    /// over a chunk refuses it.
    pub fn run(self, mut between: impl FnMut()) -> Decoded<R> {
        let Self { ticket, mut restore, chunks } = self;
        let count = chunks.len() as u64;
        let work = move || {
            for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                restore.chunk(chunk)?;
                between();
            }
            Ok(restore)
        };
        let result =
            catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the machine panicked over it".into()));
        Decoded { ticket, chunks: count, result }
    }
}

/// A snapshot as far as it has come.
#[derive(Clone, Hash)]
pub(super) struct Receiving<R> {
    /// The link it comes on; means nothing while it is kept aside.
    pub(super) link: LinkId,
    pub(super) handshake: Handshake,
    epoch: Epoch,
    transfer: TransferId,
    ticket: u64,
    /// Number of the next chunk to come, and of the next one that is not in the machine.
    next: u64,
    taken: u64,
    core: Vec<u8>,
    /// Chunks that wait for the machine.
    waiting: Vec<Bytes>,
    all_came: bool,
    /// The machine in the making; `None` while it is with a [`Decoding`].
    restore: Option<R>,
    /// Index that the chunks name.
    index: Index,
    meter: Meter,
}

impl<R> std::fmt::Debug for Receiving<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Receiving(link {}, epoch {}, {} of {} chunks)", self.link, self.epoch, self.taken, self.next)
    }
}

impl<R: Restore> Receiving<R> {
    pub(super) fn new(
        (link, handshake, epoch): (LinkId, Handshake, Epoch),
        (transfer, ticket): (TransferId, u64),
        now: Duration,
        restore: R,
    ) -> Self {
        Self {
            link,
            handshake,
            epoch,
            transfer,
            ticket,
            next: 0,
            taken: 0,
            core: Vec::new(),
            waiting: Vec::new(),
            all_came: false,
            restore: Some(restore),
            index: 0,
            meter: Meter::new(now, 0),
        }
    }

    /// Where it would go on.
    pub(super) fn resume(&self) -> Resume {
        Resume { transfer: self.transfer, next: self.next }
    }

    /// It goes on, on a new link.
    pub(super) fn goes_on(&mut self, link: LinkId, handshake: Handshake, epoch: Epoch) {
        (self.link, self.handshake, self.epoch) = (link, handshake, epoch);
    }

    pub(super) fn status(&self, now: Duration) -> TransferStatus {
        self.meter.status(now)
    }

    /// Takes the next chunk; true when it is time to tell of the progress.
    fn take(&mut self, chunk: Chunk) -> Result<bool, String> {
        let head = chunk.head;
        if head.number != self.next || self.all_came {
            return Err(format!("chunk {} came where {} was next", head.number, self.next));
        }
        self.next += 1;
        self.index = head.index;
        let tell = self.meter.count(chunk.bytes.len(), head.progress, head.estimated_bytes);
        match head.part {
            Part::Core if self.taken + 1 == self.next => {
                self.core.extend_from_slice(&chunk.bytes);
                self.taken = self.next;
            }
            Part::Core => return Err("a piece of the core's state followed the machine's".to_owned()),
            Part::Machine => {
                self.waiting.push(chunk.bytes);
                self.all_came = head.last;
            }
        }
        Ok(tell)
    }

    /// What waits for the machine, if it is here to take it and it is worth the way.
    fn work(&mut self) -> Option<Decoding<R>> {
        let enough = self.all_came
            || self.waiting.len() >= AT_ONCE
            || self.waiting.iter().map(Bytes::len).sum::<usize>() >= AT_ONCE_BYTES;
        if self.waiting.is_empty() || !enough {
            return None;
        }
        let restore = self.restore.take()?;
        Some(Decoding { ticket: self.ticket, restore, chunks: std::mem::take(&mut self.waiting) })
    }

    fn is_complete(&self) -> bool {
        self.all_came && self.taken == self.next
    }

    /// Both parts of the state, once everything is there.
    fn finish(self) -> Result<(CoreSnapshot, R::Machine), String> {
        let machine = self.restore.ok_or("the machine is not complete")?.finish()?;
        let core = CoreSnapshot::decode(&self.core)?;
        if core.applied.index != self.index {
            return Err("its chunks and the state in them name different indexes".to_owned());
        }
        Ok((core, machine))
    }
}

impl<R: Restore> Follow<R> {
    /// How the transfer goes that this replica gets.
    pub(super) fn transfer_status(&self, now: Duration) -> Option<TransferStatus> {
        match &self.stage {
            Stage::Receiving(receiving) => Some(receiving.status(now)),
            _ => self.kept.as_ref().map(|kept| kept.status(now)),
        }
    }
}

impl<M: StateMachine> Replica<M> {
    pub(super) fn chunk(&mut self, link: LinkId, chunk: Chunk, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let known_epoch = self.known_epoch;
        let Stance::Follow(follow) = &mut self.role else { return };
        let Stage::Receiving(receiving) = &mut follow.stage else { return };
        if receiving.link != link || receiving.handshake != chunk.head.handshake {
            return;
        }
        if chunk.head.epoch < known_epoch && receiving.epoch < known_epoch {
            // A higher epoch began; the transfer is of no use unless its primary goes on, which a new handshake tells.
            return self.drop_upstream(out);
        }
        let before = receiving.taken;
        let taken = receiving.take(chunk);
        let (work, status) = (receiving.work(), receiving.status(now));
        let told = (receiving.taken > before)
            .then_some(PeerControl::Taken { handshake: receiving.handshake, next: receiving.taken });
        follow.excuse_transfer(now);
        let replica = self.config.name.clone();
        match taken {
            Err(reason) => return self.refuse_snapshot(reason, out),
            Ok(true) => self.event(out, Event::TransferProgress { replica, status }),
            Ok(false) => {}
        }
        // Pieces of the core's state are only kept: the next ones may come at once.
        if let Some(told) = told {
            self.send(link, told, out);
        }
        out.outputs.extend(work.map(Output::Decode));
    }

    /// Takes back what came of an [`Output::Decode`].
    pub fn decoded(&mut self, decoded: Decoded<M::Restore>, out: &mut Outbox<M>) {
        let Decoded { ticket, chunks, result } = decoded;
        let (kept, receiving) = match &mut self.role {
            Stance::Follow(follow) => match &mut follow.stage {
                Stage::Receiving(receiving) => (false, Some(receiving)),
                _ => (true, follow.kept.as_mut()),
            },
            _ => (true, None),
        };
        let Some(receiving) = receiving.filter(|receiving| receiving.ticket == ticket) else {
            // Of a transfer that nobody goes on with.
            return self.garbage.push(Box::new(result));
        };
        match result {
            Err(reason) => return self.refuse_snapshot(reason, out),
            Ok(restore) => receiving.restore = Some(restore),
        }
        receiving.taken += chunks;
        let (link, handshake, next) = (receiving.link, receiving.handshake, receiving.taken);
        out.outputs.extend(receiving.work().map(Output::Decode));
        if !kept {
            self.send(link, PeerControl::Taken { handshake, next }, out);
            self.complete(out);
        }
    }

    /// The snapshot becomes this replica's state, if all of it is there.
    pub(super) fn complete(&mut self, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let Stance::Follow(follow) = &mut self.role else { return };
        let stage = std::mem::replace(&mut follow.stage, Stage::Idle);
        let receiving = match stage {
            Stage::Receiving(receiving) if receiving.is_complete() => receiving,
            other => return follow.stage = other,
        };
        let (link, handshake, epoch, status) =
            (receiving.link, receiving.handshake, receiving.epoch, receiving.status(now));
        match receiving.finish() {
            Err(reason) => {
                follow.stage = Stage::Greeting(link);
                self.refuse_snapshot(reason, out);
            }
            Ok((core, machine)) => {
                let index = core.applied.index;
                self.adopt(core, machine, out);
                let Stance::Follow(follow) = &mut self.role else { return };
                follow.unproven = (!planted!("H4b")).then_some(index);
                follow.stage = Stage::Following(Following {
                    link,
                    handshake,
                    epoch,
                    verified: index,
                    round: 0,
                    ack_due: true,
                    told: 0,
                    told_at: self.now.boot,
                });
                let replica = self.config.name.clone();
                self.event(out, Event::TransferDone { replica, status, index });
            }
        }
    }

    /// The primary goes on with the transfer that this replica kept, from the chunk it asked for.
    pub(super) fn transfer_goes_on(
        &mut self,
        (link, handshake, epoch): (LinkId, Handshake, Epoch),
        resume: Resume,
        out: &mut Outbox<M>,
    ) {
        let now = self.now.boot;
        let Stance::Follow(follow) = &mut self.role else { return };
        let Some(mut kept) = follow.kept.take_if(|kept| kept.resume() == resume) else {
            return self.refuse_snapshot("goes on with a transfer that this replica does not have".to_owned(), out);
        };
        kept.goes_on(link, handshake, epoch);
        let (next, bytes) = (kept.taken, kept.meter.bytes);
        follow.stage = Stage::Receiving(kept);
        follow.welcomed(now);
        self.event(out, Event::TransferResumed { replica: self.config.name.clone(), chunk: resume.next, bytes });
        self.send(link, PeerControl::Taken { handshake, next }, out);
        self.complete(out);
    }

    fn refuse_snapshot(&mut self, reason: String, out: &mut Outbox<M>) {
        self.event(out, Event::PeerRefused { replica: "the snapshot's source".to_owned(), reason });
        self.drop_upstream(out);
        self.forget_kept();
    }

    /// Drops, elsewhere, what came of a transfer that broke.
    pub(super) fn forget_kept(&mut self) {
        if let Stance::Follow(follow) = &mut self.role
            && let Some(kept) = follow.kept.take()
        {
            self.garbage.push(kept);
        }
    }

    /// The snapshot becomes this replica's state.
    fn adopt(&mut self, core: CoreSnapshot, machine: M, out: &mut Outbox<M>) {
        self.forget_state();
        self.log = Log::after(core.applied, core.starts.clone());
        self.clock.raise(core.time);
        self.state = State::from_snapshot(core, machine);
        self.journal_joins(out);
    }
}
