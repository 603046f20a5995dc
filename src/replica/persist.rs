//! What each output means for the disk, and how a core begins on a data directory: the same for every shell.
//!
//! Deliberately not here: what must wait for the disk (`durable`), and what is done to the files (`journal`).

use bytes::Bytes;
use cutover_arbiter::record::Mode;

use crate::journal::{
    Directory, Disk, Fate, Found, JournalError, Kept, SnapshotPart, SnapshotReader, Wanted, Work, Write,
};
use crate::machine::{Restore as _, StateMachine};

use super::{Config, Now, Outbox, Output, Replica, Restored};

/// Why a core cannot begin with what is on its disk.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The disk failed, or a file is damaged.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A snapshot that the machine or the core cannot read, or entries that do not join it.
    #[error("{0}")]
    Unreadable(String),
}

/// What the shell does with an output that is for the disk.
#[derive(Debug)]
pub struct DiskTask<S> {
    /// Done as soon as it is asked for, which the core does not know yet: told to it in this turn.
    pub done: Option<u64>,
    /// For the disk's queue.
    pub work: Option<Work<S>>,
}

impl<M: StateMachine> Restored<M> {
    /// Reads everything that was found into memory.
    ///
    /// # Errors
    /// A snapshot cannot be read.
    pub fn read<D: Disk>(found: Found<D>) -> Result<Self, BeginError> {
        let lost = match found.kept {
            Kept::Yes => None,
            Kept::No(why) => Some(why),
        };
        let snapshot = found.snapshot.map(|reader| read_snapshot(reader, || ())).transpose()?;
        Ok(Self { claim: found.claim, lost, snapshot, blocks: found.blocks, commit: found.commit })
    }
}

/// Reads a snapshot back; calls `between` after each piece.
pub(super) fn read_snapshot<M: StateMachine, D: Disk>(
    mut reader: SnapshotReader<D>,
    mut between: impl FnMut(),
) -> Result<(Bytes, M), BeginError> {
    let (mut core, mut restore) = (Vec::new(), M::restore());
    while let Some(part) = reader.part()? {
        match part {
            SnapshotPart::Core(bytes) => core.extend_from_slice(&bytes),
            SnapshotPart::Machine(bytes) if bytes.is_empty() => {}
            SnapshotPart::Machine(bytes) => restore.chunk(&bytes).map_err(BeginError::Unreadable)?,
        }
        between();
    }
    Ok((core.into(), restore.finish().map_err(BeginError::Unreadable)?))
}

impl<M: StateMachine> Replica<M> {
    /// Begins on a data directory, with what was found in it. What this replica is, is durable when this returns, and
    /// only then may it take part in anything.
    ///
    /// # Errors
    /// The disk fails, or what was found does not fit this version.
    pub fn begin_on<D: Disk>(
        directory: &mut Directory<D>,
        restored: Option<Restored<M>>,
        (now, config, make): (Now, Config, fn() -> M),
        out: &mut Outbox<M>,
    ) -> Result<Self, BeginError> {
        let core = match restored {
            Some(restored) => Self::restart(now, config, make, restored, out).map_err(BeginError::Unreadable)?,
            None => Self::new(now, config, make),
        };
        directory.claim(core.claim(), Fate::Kept)?;
        Ok(core)
    }

    /// What an output asks of the disk; `None` for one that asks nothing of it. In mode `memory` nothing waits for the
    /// disk, and only what this replica is, is written at all.
    pub fn disk_task(&self, output: Output<M>) -> Option<DiskTask<M::Snapshot>> {
        let (sequence, work) = match output {
            Output::Persist { sequence, cut, blocks, commit } => {
                (Some(sequence), Work::Write { sequence, write: Write { cut, blocks }, commit })
            }
            Output::Claim { sequence, claim, anew } => {
                let fate = if anew { Fate::SetAside } else { Fate::Kept };
                (Some(sequence), Work::Claim { sequence, claim, fate })
            }
            Output::InstallSnapshot { sequence, position, keep } => {
                (Some(sequence), Work::Install { sequence, position, keep })
            }
            Output::ReadLog { ticket, from, upto, starts } => {
                (None, Work::Read { ticket, wanted: Wanted { from, upto, starts } })
            }
            Output::GoBack { ticket, upto, starts } => {
                (None, Work::GoBack { ticket, wanted: Wanted { from: 0, upto, starts } })
            }
            Output::Snapshot { ticket, position, core, snapshot } => {
                (None, Work::Snapshot { ticket, position, core, snapshot })
            }
            Output::AbandonSnapshot { index } => (None, Work::Abandon(index)),
            _ => return None,
        };
        let in_memory = self.mode() == Mode::Memory;
        let written = !in_memory || matches!(work, Work::Claim { .. });
        let done = sequence.filter(|sequence| in_memory && self.disk.waits_for(*sequence));
        Some(DiskTask { done, work: written.then_some(work) })
    }

    /// How durably this replica holds what it acknowledges.
    pub fn mode(&self) -> Mode {
        self.claim().mode.unwrap_or(Mode::Memory)
    }
}
