//! A joiner: the snapshot it is given, chunk by chunk, until it can follow the log.
//!
//! Chunks become a machine elsewhere: [`Decoding`] is work for any thread of the shell, and what comes of it is handed
//! back through [`Replica::decoded`]. A link that breaks on the way ends nothing: what has come is kept aside, and the
//! next `Hello` names the chunk that is wanted. If the primary cannot go on with it, it is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use cutover_arbiter::record::{Epoch, Index};

use crate::machine::{Restore, StateMachine};
use crate::protocol::peer::{Chunk, Handshake, Part, PeerControl, Resume, TransferId};

use super::follow::{Follow, Following, Stage};
use super::log::Log;
use super::state::{CoreSnapshot, State};
use super::transfers::{Meter, TransferStatus};
use super::{Event, LinkId, Outbox, Output, Replica, Stance};

/// Chunks of a snapshot, and the machine in the making that they go into: to be run on a thread that may take its
/// time, and given back through [`Replica::decoded`].
pub struct Decoding<M: StateMachine> {
    ticket: u64,
    restore: M::Restore,
    chunks: Vec<Bytes>,
    last: bool,
}

impl<M: StateMachine> std::fmt::Debug for Decoding<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoding").field("chunks", &self.chunks.len()).field("last", &self.last).finish()
    }
}

/// What came of a [`Decoding`].
pub struct Decoded<M: StateMachine> {
    ticket: u64,
    chunks: u64,
    result: Result<Restored<M>, String>,
}

impl<M: StateMachine> std::fmt::Debug for Decoded<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoded").field("chunks", &self.chunks).field("failed", &self.result.as_ref().err()).finish()
    }
}

enum Restored<M: StateMachine> {
    Part(M::Restore),
    Whole(M),
}

impl<M: StateMachine> Decoding<M> {
    /// Does the work. A machine that panics over a chunk refuses it.
    pub fn run(self) -> Decoded<M> {
        let Self { ticket, mut restore, chunks, last } = self;
        let count = chunks.len() as u64;
        let work = move || -> Result<Restored<M>, String> {
            for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                restore.chunk(chunk)?;
            }
            Ok(if last { Restored::Whole(restore.finish()?) } else { Restored::Part(restore) })
        };
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the machine panicked over it".into()));
        Decoded { ticket, chunks: count, result }
    }
}

pub(super) struct Receiving<M: StateMachine> {
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
    /// Chunks that wait for the machine, the last of all among them or not.
    waiting: Vec<Bytes>,
    all_came: bool,
    making: Making<M>,
    /// Index that the chunks name.
    index: Index,
    meter: Meter,
}

/// The machine in the making.
enum Making<M: StateMachine> {
    Here(M::Restore),
    /// With a [`Decoding`].
    Elsewhere,
    Done(M),
}

impl<M: StateMachine> Receiving<M> {
    pub(super) fn new(
        (link, handshake, epoch): (LinkId, Handshake, Epoch),
        transfer: TransferId,
        ticket: u64,
        now: Duration,
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
            making: Making::Here(M::restore()),
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

    /// What waits for the machine, if it is here to take it.
    fn work(&mut self) -> Option<Decoding<M>> {
        if self.waiting.is_empty() || !matches!(self.making, Making::Here(_)) {
            return None;
        }
        let Making::Here(restore) = std::mem::replace(&mut self.making, Making::Elsewhere) else { return None };
        let chunks = std::mem::take(&mut self.waiting);
        Some(Decoding { ticket: self.ticket, restore, chunks, last: self.all_came })
    }

    /// Both parts of the state, once everything is there.
    fn finish(self) -> Result<(CoreSnapshot, M), String> {
        let Making::Done(machine) = self.making else { return Err("the machine is not complete".to_owned()) };
        let core: CoreSnapshot = postcard::from_bytes(&self.core).map_err(|error| error.to_string())?;
        if core.applied.index != self.index {
            return Err("its chunks and the state in them name different indexes".to_owned());
        }
        Ok((core, machine))
    }
}

impl<M: StateMachine> Follow<M> {
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
        let taken = receiving.take(chunk);
        let (work, status) = (receiving.work(), receiving.status(now));
        follow.excuse_transfer(now);
        let replica = self.config.name.clone();
        match taken {
            Err(reason) => return self.refuse_snapshot(reason, out),
            Ok(true) => self.event(out, Event::TransferProgress { replica, status }),
            Ok(false) => {}
        }
        out.outputs.extend(work.map(Output::Decode));
    }

    /// Takes back what came of an [`Output::Decode`].
    pub fn decoded(&mut self, decoded: Decoded<M>, out: &mut Outbox<M>) {
        let Decoded { ticket, chunks, result } = decoded;
        let Stance::Follow(follow) = &mut self.role else { return self.garbage.push(Box::new(result.map(Restored::boxed))) };
        let (kept, receiving) = match &mut follow.stage {
            Stage::Receiving(receiving) => (false, Some(receiving)),
            _ => (true, follow.kept.as_mut()),
        };
        let Some(receiving) = receiving.filter(|receiving| receiving.ticket == ticket) else {
            return self.garbage.push(Box::new(result.map(Restored::boxed)));
        };
        match result {
            Err(reason) => return self.refuse_snapshot(reason, out),
            Ok(Restored::Part(restore)) => receiving.making = Making::Here(restore),
            Ok(Restored::Whole(machine)) => receiving.making = Making::Done(machine),
        }
        receiving.taken += chunks;
        let work = receiving.work();
        let (link, handshake, next) = (receiving.link, receiving.handshake, receiving.taken);
        out.outputs.extend(work.map(Output::Decode));
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
            Stage::Receiving(receiving) if matches!(receiving.making, Making::Done(_)) => receiving,
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
                self.adopt(core, machine);
                let Stance::Follow(follow) = &mut self.role else { return };
                follow.unproven = Some(index);
                follow.stage =
                    Stage::Following(Following { link, handshake, epoch, verified: index, round: 0, ack_due: true });
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
            self.garbage.push(Box::new((kept.making.boxed(), kept.core)));
        }
    }

    fn adopt(&mut self, core: CoreSnapshot, machine: M) {
        self.forget_state();
        let index: Index = core.applied.index;
        self.log = Log::after(core.applied, core.starts.clone());
        self.clock.raise(core.time);
        self.state = State::from_snapshot(core, machine);
        self.disk.persisted = index;
    }
}

/// Something that may be large, on its way to where it is dropped.
type Large = Box<dyn std::any::Any + Send>;

impl<M: StateMachine> Restored<M> {
    fn boxed(self) -> Large {
        match self {
            Restored::Part(restore) => Box::new(restore),
            Restored::Whole(machine) => Box::new(machine),
        }
    }
}

impl<M: StateMachine> Making<M> {
    fn boxed(self) -> Option<Large> {
        match self {
            Making::Here(restore) => Some(Box::new(restore)),
            Making::Elsewhere => None,
            Making::Done(machine) => Some(Box::new(machine)),
        }
    }
}
