//! A joiner: the snapshot it is given, chunk by chunk, until it can follow the log.

use cutover_arbiter::planted;
use cutover_arbiter::record::Epoch;

use crate::machine::{Restore, StateMachine};
use crate::protocol::peer::{Chunk, Handshake, Part};

use super::follow::{Following, Stage};
use super::log::Log;
use super::state::{CoreSnapshot, State};
use super::{Event, LinkId, Outbox, Replica, Stance};

/// Progress is told each time so many bytes have come.
pub(super) const PROGRESS_BYTES: u64 = 64 * 1024 * 1024;

/// A snapshot as far as it has come.
#[derive(Clone, Hash)]
pub(super) struct Receiving<R> {
    pub(super) link: LinkId,
    pub(super) handshake: Handshake,
    epoch: Epoch,
    next_chunk: u64,
    bytes: u64,
    core: Vec<u8>,
    restore: Option<R>,
}

impl<R> std::fmt::Debug for Receiving<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Receiving(link {}, epoch {}, {} chunks)", self.link, self.epoch, self.next_chunk)
    }
}

impl<R: Restore> Receiving<R> {
    pub(super) fn new(link: LinkId, handshake: Handshake, epoch: Epoch, restore: R) -> Self {
        Self { link, handshake, epoch, next_chunk: 0, bytes: 0, core: Vec::new(), restore: Some(restore) }
    }

    /// Takes the next chunk; at the last one gives the finished state.
    fn take(&mut self, chunk: &Chunk) -> Result<Option<(CoreSnapshot, R::Machine)>, String> {
        if chunk.head.number != self.next_chunk {
            return Err(format!("chunk {} came where {} was next", chunk.head.number, self.next_chunk));
        }
        self.next_chunk += 1;
        self.bytes += chunk.bytes.len() as u64;
        if chunk.head.part == Part::Core {
            self.core.extend_from_slice(&chunk.bytes);
            return Ok(None);
        }
        let restore = self.restore.as_mut().ok_or("a chunk followed the last one")?;
        if !chunk.bytes.is_empty() {
            restore.chunk(&chunk.bytes)?;
        }
        if !chunk.head.last {
            return Ok(None);
        }
        let machine = self.restore.take().ok_or("a chunk followed the last one")?.finish()?;
        let core: CoreSnapshot = postcard::from_bytes(&self.core).map_err(|error| error.to_string())?;
        if core.applied.index != chunk.head.index {
            return Err("its head and the state in it name different indexes".to_owned());
        }
        Ok(Some((core, machine)))
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
        let before = receiving.bytes;
        let taken = receiving.take(&chunk);
        let bytes = receiving.bytes;
        let handshake = receiving.handshake;
        let epoch = receiving.epoch;
        follow.excuse_transfer(now);
        let replica = self.config.name.clone();
        match taken {
            Err(reason) => {
                self.event(out, Event::PeerRefused { replica: "the snapshot's source".to_owned(), reason });
                self.drop_upstream(out);
            }
            Ok(None) => {
                if before / PROGRESS_BYTES != bytes / PROGRESS_BYTES {
                    let of = chunk.head.estimated_bytes.max(bytes);
                    self.event(out, Event::TransferProgress { replica, bytes, of });
                }
            }
            Ok(Some((core, machine))) => {
                let index = core.applied.index;
                self.adopt(core, machine, out);
                let Stance::Follow(follow) = &mut self.role else { return };
                follow.unproven = (!planted!("H4b")).then_some(index);
                follow.stage =
                    Stage::Following(Following { link, handshake, epoch, verified: index, round: 0, ack_due: true });
                self.event(out, Event::TransferDone { replica, bytes, index });
            }
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
