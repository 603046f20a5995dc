//! How a replica begins from what it finds on its disk.

use bytes::Bytes;
use cutover_arbiter::planted;
use cutover_arbiter::record::{Incarnation, Index};

use crate::machine::StateMachine;
use crate::protocol::entry::Block;

use super::durable::Durable;
use super::fence::Fences;
use super::log::Log;
use super::state::{CoreSnapshot, State};
use super::{Claim, Config, Event, Now, Outbox, Replica, Stance, draw};

/// What an earlier life left, read back and checked.
#[derive(Debug)]
pub struct Restored<M> {
    /// What it was.
    pub claim: Claim,
    /// Why its promises may not hold any more; `None` when they certainly do, and its incarnation goes on.
    pub lost: Option<&'static str>,
    /// The newest snapshot: the core's own part, and the machine made from the rest.
    pub snapshot: Option<(Bytes, M)>,
    /// The entries after it, all of them durable.
    pub blocks: Vec<Block>,
    /// Up to here they were known to be committed.
    pub commit: Index,
}

impl<M: StateMachine> Replica<M> {
    /// A replica that goes on from what it had on disk. What was committed is executed at once; the rest waits for a
    /// primary's word, or for its own `Resume` or `TakeOver`.
    ///
    /// # Errors
    /// The snapshot is of another version, or entries do not join.
    pub fn restart(
        now: Now,
        config: Config,
        make: fn() -> M,
        restored: Restored<M>,
        out: &mut Outbox<M>,
    ) -> Result<Self, String> {
        let mut this = Self::new(now, config, make);
        let Restored { claim, lost, snapshot, blocks, commit } = restored;
        if lost.is_none() {
            this.incarnation = claim.incarnation;
        }
        if let Some((core, machine)) = snapshot {
            let core = CoreSnapshot::decode(&core)?;
            this.log = Log::after(core.applied, core.starts.clone());
            this.state = State::from_snapshot(core, machine);
        }
        let installed = this.state.applied.index;
        for block in blocks {
            let last = this.log.last();
            if block.first != last.index + 1 || block.epoch < last.epoch {
                return Err(format!("entry {} follows entry {}", block.first, last.index));
            }
            this.log.push(block);
        }
        let last = this.log.last();
        this.known_epoch = if planted!("H1") { last.epoch } else { claim.epoch.max(last.epoch) };
        this.fences = Fences::restored(&claim, last.epoch);
        this.disk = Durable::new(Claim { incarnation: this.incarnation, ..claim }, last.index, installed);
        this.restarted = true;
        if let Stance::Follow(follow) = &mut this.role {
            follow.set_commit(commit.min(last.index));
        }
        this.event(out, Event::Restarted { snapshot: installed, last: last.index, epoch: this.known_epoch, lost });
        if let Some(why) = lost {
            this.event(out, Event::NewIncarnation { incarnation: this.incarnation, why });
        }
        while this.apply_upto(commit.min(last.index), usize::MAX, out) {}
        this.log.trim_all(this.config.log_bytes, this.state.applied.index);
        Ok(this)
    }

    /// A new incarnation for the same state: it joins and never leads, and what it holds saves a transfer, or is all
    /// that an operator can still seize.
    pub(super) fn renew(&mut self, why: &'static str, out: &mut Outbox<M>) {
        self.drop_upstream(out);
        self.incarnation = Incarnation(draw(&mut self.random));
        self.own_requests.clear();
        self.proposal = None;
        self.event(out, Event::NewIncarnation { incarnation: self.incarnation, why });
    }
}
