//! What one replica has promised, and what that forbids it: O3, S4, S8, S10 and H1, by the names that the project gives
//! them. It outlives the process; whatever a life promised ends with its incarnation.

use std::collections::BTreeMap;

use cutover::protocol::peer::{Ack, PeerControl, PeerMessage};
use cutover::replica::{Event, Input, Output, Replica, Role};
use cutover_arbiter::record::{Change, Epoch, GroupRecord, Incarnation, Index};

use super::tiny::Tiny;

#[derive(Debug, Clone, Default, Hash)]
pub struct Oath {
    life: Option<Incarnation>,
    /// It asked to take over, and has had no handshake since.
    fenced: bool,
    /// The highest epoch in which it promised anything.
    epoch: Epoch,
    /// It acknowledged something, or executed it as a primary.
    holds: bool,
    /// What each member has acknowledged to it as a primary of its present epoch.
    heard: BTreeMap<Incarnation, Index>,
}

impl Oath {
    fn renew(&mut self, core: &Replica<Tiny>) {
        if self.life != Some(core.incarnation()) {
            *self = Self { life: Some(core.incarnation()), ..Self::default() };
        }
    }

    /// A process has begun.
    pub fn begins(&mut self, who: &str, core: &Replica<Tiny>) -> Result<(), String> {
        self.renew(core);
        self.fenced = false;
        self.heard.clear();
        if core.vitals().known_epoch < self.epoch {
            return Err(format!("H1: {who} promised in {:?} and knows of {:?}", self.epoch, core.vitals().known_epoch));
        }
        Ok(())
    }

    pub fn takes(&mut self, core: &Replica<Tiny>, input: &Input) {
        match input {
            Input::Peer(_, PeerMessage::Control(PeerControl::Welcome(_))) => self.fenced = false,
            Input::Peer(_, PeerMessage::Ack(ack)) if core.vitals().leads == Some(ack.epoch) => {
                let heard = self.heard.entry(ack.incarnation).or_default();
                *heard = ack.verified.max(*heard);
            }
            _ => {}
        }
    }

    pub fn says(&mut self, who: &str, core: &Replica<Tiny>, output: &Output<Tiny>) -> Result<(), String> {
        match output {
            Output::Propose(proposal) if proposal.change == Change::TakeOver => self.fenced = true,
            Output::Send(_, PeerMessage::Ack(ack)) => self.acknowledges(who, core, ack)?,
            _ => {}
        }
        Ok(())
    }

    fn acknowledges(&mut self, who: &str, core: &Replica<Tiny>, ack: &Ack) -> Result<(), String> {
        self.renew(core);
        let known = core.vitals().known_epoch;
        if ack.epoch < known {
            return Err(format!("O3: {who} acknowledges in {:?} and knows of {known:?}", ack.epoch));
        }
        if self.fenced {
            return Err(format!("O3: {who} asked to take over and acknowledges {}", ack.verified));
        }
        self.epoch = self.epoch.max(ack.epoch);
        self.holds |= ack.verified > 0;
        Ok(())
    }

    /// Something happened; `record` is the newest one granted.
    pub fn event(&mut self, who: &str, event: &Event, record: Option<&GroupRecord>) -> Result<(), String> {
        match event {
            Event::Role { to: Role::Primary, .. } => self.heard.clear(),
            Event::NewIncarnation { why, .. } => {
                let named =
                    |life| record.is_some_and(|record| record.in_sync.iter().any(|member| member.incarnation == life));
                if self.holds && self.life.is_some_and(named) {
                    return Err(format!("S4: {who}, in sync, throws its state away: {why}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The end of a turn.
    pub fn ends(&mut self, who: &str, core: &Replica<Tiny>) -> Result<(), String> {
        self.renew(core);
        let vitals = core.vitals();
        if self.holds && vitals.last == 0 {
            return Err(format!("S10: {who} has thrown its state away and keeps its incarnation"));
        }
        if vitals.leads.is_some() {
            self.holds |= vitals.last > 0;
        }
        Ok(())
    }

    /// O1: everybody in sync has acknowledged in this epoch what is released.
    pub fn releases(&mut self, who: &str, core: &Replica<Tiny>, upto: Index) -> Result<(), String> {
        self.epoch = self.epoch.max(core.release().epoch);
        let Some(record) = core.record() else { return Ok(()) };
        for member in record.in_sync.iter().filter(|member| member.incarnation != core.incarnation()) {
            let heard = self.heard.get(&member.incarnation).copied().unwrap_or_default();
            if heard < upto {
                return Err(format!(
                    "O1: {who} releases {upto} in {:?}, {} has acknowledged {heard}",
                    core.release().epoch,
                    member.replica
                ));
            }
        }
        Ok(())
    }
}
