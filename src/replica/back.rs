//! Going back: a follower that executed what lost a cut-over makes its state anew from what its own disk has, instead of
//! having all of it sent again.
//!
//! What is made is what a restart of the process would make of the same directory, up to what is known to be committed
//! and common to both logs. Nothing is discarded for it, neither in memory nor on disk, before the new state is
//! complete: log and journal stay as they are, the lost tail in them too, until a handshake cuts it like that of anybody
//! who had not executed it. So the life goes on, a death on the way leaves an ordinary restart, and whatever else
//! happens meanwhile (another primary, a take-over of its own) finds the replica as it was.
//!
//! One is made at a time. Who has turned to another primary meanwhile, and must go back there too, waits for the same
//! one: it reaches no further than what was committed, which every later primary has. And it is not waited for for ever:
//! a disk that does not give it up leaves a state transfer.
//!
//! Deliberately not here: the common point (the primary's word, `followers`), and the cut (`follow`).

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use cutover_arbiter::record::Index;

use crate::journal::{Disk, Older};
use crate::machine::StateMachine;

use super::follow::Stage;
use super::persist::read_snapshot;
use super::state::{CoreSnapshot, State};
use super::{Event, Outbox, Output, Replica, Stance};

/// An older state may take so many times as long as a disk may stall, and more for what it has to read.
const PATIENCE: u32 = 10;
/// Bytes of state and journal for which a second more is waited: far less than any disk reads and any machine executes,
/// also where other work goes first.
const BYTES_PER_SECOND: u64 = 4 << 20;

/// A state that is being made anew.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct GoingBack {
    ticket: u64,
    common: Index,
    until: Duration,
}

impl GoingBack {
    pub(super) fn until(&self) -> Duration {
        self.until
    }

    /// Nothing was heard while this loop did not run.
    pub(super) fn excuse(&mut self, late: Duration) {
        self.until += late;
    }
}

/// What another thread is at.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct Rebuilding {
    ticket: u64,
    upto: Index,
    /// Nobody can use it any more.
    superseded: bool,
}

impl Rebuilding {
    /// The log after it goes on from the older state, and is needed once more.
    pub(super) fn keeps_log_after(self, applied: Index) -> Index {
        if self.superseded { applied } else { self.upto.min(applied) }
    }

    pub(super) fn superseded(self) -> Self {
        Self { superseded: true, ..self }
    }
}

/// What came of an [`Output::GoBack`].
pub struct Rebuilt<M> {
    ticket: u64,
    /// The state, and the index of the snapshot that it was begun with.
    result: Result<(State<M>, Index), String>,
}

impl<M> std::fmt::Debug for Rebuilt<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rebuilt(failed: {:?})", self.result.as_ref().err())
    }
}

impl<M: StateMachine> Rebuilt<M> {
    /// Nothing came of it.
    pub fn failed(ticket: u64, why: String) -> Self {
        Self { ticket, result: Err(why) }
    }

    /// Does the work, and calls `between` after each step: nobody need wait for more than one. The newest snapshot is
    /// tried first; one that is damaged or gone leaves the next older one, and at last the journal from its beginning.
    /// `make` makes an empty machine.
    pub fn run<D: Disk>(older: &Older<D>, make: fn() -> M, mut between: impl FnMut()) -> Self {
        let mut reasons = Vec::new();
        let candidates = older.snapshots().iter().copied().map(Some).chain([None]);
        for snapshot in candidates {
            let work = || {
                let state = match snapshot {
                    Some(index) => begin(older, index, &mut between)?,
                    None => State::new(make()),
                };
                replay(older, state, &mut between)
            };
            let made = catch_unwind(AssertUnwindSafe(work));
            match made.unwrap_or_else(|_| Err("the machine panicked over it".to_owned())) {
                Ok(state) => return Self { ticket: older.ticket, result: Ok((state, snapshot.unwrap_or_default())) },
                Err(why) => reasons.push(match snapshot {
                    Some(index) => format!("from the snapshot of {index}: {why}"),
                    None => format!("from the beginning of the journal: {why}"),
                }),
            }
        }
        Self::failed(older.ticket, reasons.join("; "))
    }
}

/// The state of a snapshot on disk.
fn begin<M: StateMachine, D: Disk>(
    older: &Older<D>,
    index: Index,
    between: &mut impl FnMut(),
) -> Result<State<M>, String> {
    let reader = older.snapshot(index).map_err(|error| error.to_string())?;
    let position = reader.head().position;
    let (core, machine) = read_snapshot::<M, D>(reader, between).map_err(|error| error.to_string())?;
    let core = CoreSnapshot::decode(&core)?;
    if core.applied != position {
        return Err("its head and the state in it name different entries".to_owned());
    }
    Ok(State::from_snapshot(core, machine))
}

/// Executes the journal after it; what each entry computes must be what its primary computed.
fn replay<M: StateMachine, D: Disk>(
    older: &Older<D>,
    mut state: State<M>,
    between: &mut impl FnMut(),
) -> Result<State<M>, String> {
    let (mut garbage, mut reply) = (Vec::new(), Vec::new());
    while state.applied.index < older.upto() {
        let next = state.applied.index + 1;
        let blocks = older.entries(next).map_err(|error| error.to_string())?;
        if blocks.is_empty() {
            return Err(format!("the journal does not hold entry {next}"));
        }
        for block in blocks {
            for entry in block.entries() {
                let entry = entry.map_err(|malformed| malformed.to_string())?;
                let executed = state.apply(&entry, &mut garbage, &mut reply);
                if executed.check != entry.check {
                    return Err(format!("executing entry {} again gives another result", entry.index));
                }
            }
            garbage.clear();
            between();
        }
    }
    Ok(state)
}

impl<M: StateMachine> Replica<M> {
    /// Begins to go back to `common` or below, if this replica's own disk may have what that takes. True when it does;
    /// it follows nobody meanwhile.
    pub(super) fn goes_back(&mut self, common: Index, out: &mut Outbox<M>) -> bool {
        // Only over what was never committed: a snapshot on disk may reach as far as that, and must stay true.
        let running = self.rebuilding;
        let upto = running.map_or(self.commit_position().index, |running| running.upto);
        let applied = self.state.applied.index;
        // What is executed beyond it stands in the log in memory, and goes on from there.
        let may = common >= upto
            && running.is_none_or(|running| !running.superseded)
            && self.log_is_on_disk()
            && self.disk.knows(self.incarnation)
            && (self.log.base()..applied).contains(&upto)
            && upto <= self.disk.persisted;
        if !may {
            return false;
        }
        self.next_ticket += 1;
        let ticket = running.map_or(self.next_ticket, |running| running.ticket);
        let bytes = self.state.machine.memory() + self.disk.bytes_grown();
        let until =
            self.now.boot + self.config.journal_stall_limit * PATIENCE + Duration::from_secs(bytes / BYTES_PER_SECOND);
        let Stance::Follow(follow) = &mut self.role else { return false };
        follow.stage = Stage::GoingBack(GoingBack { ticket, common, until });
        // Its primary has just been heard, and has a little longer to remove it than it has to call that silent.
        follow.be_patient(self.now.boot);
        self.event(out, Event::GoesBack { common, applied });
        if running.is_none() {
            let starts = self.log.starts().to_vec();
            self.rebuilding = Some(Rebuilding { ticket, upto, superseded: false });
            out.outputs.push(Output::GoBack { ticket, upto, starts });
        }
        true
    }

    /// The older state does not come: a state transfer instead.
    pub(super) fn give_up_going_back(&mut self, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let Stance::Follow(follow) = &mut self.role else { return };
        if follow.going_back().is_none_or(|going| now < going.until) {
            return;
        }
        self.cannot_go_back("it was not made in time; does the disk still answer?".to_owned(), out);
    }

    fn cannot_go_back(&mut self, why: String, out: &mut Outbox<M>) {
        self.event(out, Event::CannotGoBack { why });
        if let Stance::Follow(follow) = &mut self.role {
            follow.cannot_go_back = true;
        }
        self.state_cannot_be_joined(out);
    }

    /// What makes an empty machine.
    pub fn maker(&self) -> fn() -> M {
        self.make
    }

    /// Takes back what came of an [`Output::GoBack`].
    pub fn rebuilt(&mut self, rebuilt: Rebuilt<M>, out: &mut Outbox<M>) {
        let now = self.now.boot;
        let Rebuilt { ticket, result } = rebuilt;
        self.rebuilding.take_if(|running| running.ticket == ticket);
        let asked = match &mut self.role {
            Stance::Follow(follow) => match follow.stage {
                Stage::GoingBack(going) if going.ticket == ticket => {
                    follow.dial_now(now);
                    Some(going.common)
                }
                _ => None,
            },
            _ => None,
        };
        let Some(common) = asked else {
            // Another primary, or an end, came between.
            return self.garbage.push(Box::new(result));
        };
        match result {
            Err(why) => self.cannot_go_back(why, out),
            Ok((state, snapshot)) => {
                let applied = state.applied.index;
                let old = mem::replace(&mut self.state, state);
                self.garbage.push(Box::new(old));
                if let Stance::Follow(follow) = &mut self.role {
                    follow.went_back_to(common);
                }
                self.event(out, Event::WentBack { snapshot, applied });
            }
        }
    }
}

#[cfg(test)]
#[path = "back_tests.rs"]
mod tests;
