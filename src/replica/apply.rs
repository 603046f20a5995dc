//! Applying: entries of the log in the machine, in order, each exactly once, a bounded number at a time.
//!
//! Deliberately not here: up to where it may go (`follow`), and what a primary executes (`requests`).

use cutover_arbiter::record::Index;

use crate::machine::StateMachine;
use crate::protocol::entry;

use super::follow::Stage;
use super::{Event, Outbox, Output, Replica, Stance, state};

/// Committed entries applied per call of [`Replica::apply`]; a large one counts as several.
const APPLY_BATCH: usize = 256;
/// Entries of which the machine is told before they are applied.
const APPROACHED: usize = 32;
/// So many bytes of an entry count as one more.
const APPLY_BYTES: usize = 256;

impl<M: StateMachine> Replica<M> {
    /// Applies committed entries on a follower, at most a batch of them; true when more are waiting. Called after the
    /// turn's acknowledgement has left, and again in the next turn while it says true.
    pub fn apply(&mut self, out: &mut Outbox<M>) -> bool {
        let Stance::Follow(follow) = &self.role else { return false };
        let (upto, life, before) = (follow.may_apply(), self.incarnation, self.state.applied.index);
        let mut more = self.apply_upto(upto, APPLY_BATCH, out);
        // Having diverged, it shows its new life to nobody before the disk knows of it, and is handed to the disk at the
        // end of a turn: one must come, although nobody may ever speak to it again.
        more |= self.incarnation != life;
        // Without progress nothing more can be said: then the next commit wakes it.
        if self.state.applied.index > before
            && self.may_say_more(more)
            && let Stance::Follow(follow) = &mut self.role
            && let Stage::Following(following) = &mut follow.stage
        {
            following.ack_due = true;
            more = true;
        }
        if !self.garbage.is_empty() {
            out.outputs.push(Output::Discard(std::mem::take(&mut self.garbage)));
        }
        more
    }

    /// Applies log entries up to `upto`, until they have cost `budget`, in small entries; true when more are waiting.
    pub(super) fn apply_upto(&mut self, upto: Index, budget: usize, out: &mut Outbox<M>) -> bool {
        let (mut left, mut approached) = (budget, 0);
        while self.state.applied.index < upto && left > 0 {
            let next = self.state.applied.index + 1;
            let Some(block) = self.log.from(next).and_then(|mut blocks| blocks.next()).cloned() else {
                self.diverged(next, "the log does not hold what was committed".to_owned(), out);
                return false;
            };
            let Some(block) = block.from(next).and_then(|block| block.upto(upto)) else { return false };
            let mut entries = block.entries();
            while left > 0
                && let Some(entry) = entries.next()
            {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(malformed) => {
                        self.diverged(malformed.index, malformed.to_string(), out);
                        return false;
                    }
                };
                left = left.saturating_sub(1 + entry::size(&entry.payload) / APPLY_BYTES);
                if entry.index > approached {
                    approached = self.approach(&entry, entries.clone(), block.last());
                }
                if !self.apply_one(&entry, out) {
                    return false;
                }
            }
        }
        self.state.applied.index < upto
    }

    /// Tells the machine of the entries that will be applied next: `entry`, the `rest` of its block, and those after
    /// `last`, which ends that. Returns the last one that was told of.
    fn approach(&self, entry: &entry::Entry<'_>, rest: entry::Entries<'_>, last: Index) -> Index {
        fn operation<'a>(entry: &entry::Entry<'a>) -> &'a [u8] {
            match entry.payload {
                entry::Payload::Operation { operation, .. } => operation,
                entry::Payload::Control(_) => &[],
            }
        }
        let later = self.log.from(last + 1).into_iter().flatten().flat_map(entry::Block::entries);
        let mut operations = [&[][..]; APPROACHED];
        operations[0] = operation(entry);
        let mut told = 1;
        for (slot, entry) in operations[1..].iter_mut().zip(rest.chain(later).map_while(Result::ok)) {
            *slot = operation(&entry);
            told += 1;
        }
        if told > 1 {
            self.state.machine.approach(&operations[..told]);
        }
        entry.index + told as Index - 1
    }

    fn apply_one(&mut self, entry: &entry::Entry<'_>, out: &mut Outbox<M>) -> bool {
        let executed = self.state.apply(entry, &mut self.garbage, &mut self.scratch.reply);
        if let Some(panic) = executed.panic {
            let operation = state::describe::<M>(&entry.payload);
            self.event(out, Event::Poisonous { index: entry.index, operation, panic });
        }
        if executed.check != entry.check {
            let why = executed.capture.map(|failed| format!(" ({failed})")).unwrap_or_default();
            self.diverged(entry.index, state::describe::<M>(&entry.payload) + &why, out);
            return false;
        }
        if let entry::Payload::Control(entry::Control::Mark { .. }) = entry.payload {
            self.digest(out);
        }
        true
    }

    pub(super) fn digest(&self, out: &mut Outbox<M>) {
        out.outputs.push(Output::Digest {
            index: self.state.applied.index,
            core: Box::new(self.state.core_digest()),
            snapshot: self.state.machine.snapshot(),
        });
    }
}
