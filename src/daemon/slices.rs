//! Long work of the loop, a slice of it in each turn: snapshots on their way to joiners, chunks that a joiner has put into
//! its machine, and entries that a follower applies.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::file_disk::FileDisk;
use super::reactor::Source;
use super::turn::Shell;
use crate::journal::Older;
use crate::machine::StateMachine;
use crate::replica::{Input, Rebuilt, TransferRoom};

/// Bytes of snapshots that one turn hands on.
const TRANSFER_PER_TURN: usize = 64 << 10;
/// For so long a follower applies entries at the end of a turn, a batch more or less.
const APPLYING: Duration = Duration::from_micros(250);

impl<M: StateMachine> Shell<M> {
    /// Takes back what came of a joiner's snapshot on its way into the machine.
    pub(super) fn take_decoded(&mut self) {
        if !self.sources.take(Source::Workers) {
            return;
        }
        let context = &mut Context::from_waker(&self.wakers.workers);
        while let Poll::Ready(Some(decoded)) = self.workers.poll_decoded(context) {
            self.core.decoded(decoded, &mut self.outbox);
        }
        while let Poll::Ready(Some(rebuilt)) = self.workers.poll_rebuilt(context) {
            self.core.rebuilt(rebuilt, &mut self.outbox);
        }
    }

    /// Has an older state made of what is on disk.
    pub(super) fn go_back(&mut self, older: Older<FileDisk>) {
        let ticket = older.ticket;
        if let Err(error) = self.workers.go_back(older, self.core.maker()) {
            let why = format!("no thread for it: {error}");
            self.core.rebuilt(Rebuilt::failed(ticket, why), &mut self.outbox);
        }
    }

    /// Feeds snapshots to the core, as far as it asks for them, and no more in one turn than clients would notice.
    pub(super) fn feed_transfers(&mut self) {
        self.sources.take(Source::Transfers);
        if self.transfers.is_empty() {
            return;
        }
        let waker = self.wakers.transfers.clone();
        let context = &mut Context::from_waker(&waker);
        let mut transfers = std::mem::take(&mut self.transfers);
        let mut left = TRANSFER_PER_TURN;
        transfers.retain(|&transfer, pieces| {
            loop {
                match self.core.transfer_room(transfer) {
                    TransferRoom::Gone => return false,
                    TransferRoom::Full => return true,
                    TransferRoom::Open if left == 0 => {
                        self.sources.add(Source::Transfers);
                        return true;
                    }
                    TransferRoom::Open => {}
                }
                match pieces.poll_next(context) {
                    Poll::Pending => return true,
                    // Only a snapshot that panicked ends without a last piece.
                    Poll::Ready(None) => {
                        self.step(Input::TransferFailed { transfer });
                        return false;
                    }
                    Poll::Ready(Some(piece)) => {
                        left = left.saturating_sub(piece.bytes.len());
                        self.step(Input::Snapshot { transfer, piece });
                    }
                }
            }
        });
        self.transfers.append(&mut transfers);
    }

    /// A follower catches up with what is committed, now that its acknowledgement has left; true when more waits.
    pub(super) fn apply(&mut self) -> bool {
        let behind = self.core.apply(&mut self.outbox);
        if behind {
            let began = Instant::now();
            // The disk may have written what an acknowledgement waits for: that goes first.
            while began.elapsed() < APPLYING && self.messages.is_empty() && self.core.apply(&mut self.outbox) {}
        }
        self.run_outputs();
        if !self.dirty.is_empty() {
            self.flush();
        }
        behind
    }
}
