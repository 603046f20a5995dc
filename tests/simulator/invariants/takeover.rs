//! O2, O3, S9, S12, H17: what a replica owes when it follows and when it becomes primary.

use cutover::protocol::peer::{Ack, PeerMessage};
use cutover::replica::Input;
use cutover_arbiter::record::Epoch;

use crate::canon::{Core, Group};
use crate::world::{Id, SUSPECT_AFTER, Time, Verdict, World};

impl Group {
    /// O2: a new primary applied everything that it holds before it takes new input, and holds everything that it ever
    /// acknowledged and did not lose to a later epoch.
    pub fn o2_closure(&mut self, id: Id, core: &Core, epoch: Epoch) -> Verdict {
        let vitals = core.vitals();
        let Some(life) = self.lives.get(&id) else { return Ok(()) };
        let (name, acknowledged) = (core.status().name, life.acknowledged.1);
        if vitals.applied != vitals.last {
            return Err(format!(
                "O2: {name} serves in epoch {epoch} with {} of {} applied",
                vitals.applied, vitals.last
            ));
        }
        if vitals.last <= acknowledged && acknowledged > 0 {
            return Err(format!(
                "O2: {name} serves in epoch {epoch} from {}, and has acknowledged {acknowledged}",
                vitals.last
            ));
        }
        Ok(())
    }

    /// O3: who knows of a grant acknowledges nothing of an earlier epoch; who asked to take over acknowledges only
    /// after a fresh handshake.
    pub fn o3_ack_fence(&mut self, id: Id, core: &Core, ack: &Ack) -> Verdict {
        let (name, known) = (core.status().name, core.vitals().known_epoch);
        if ack.epoch < known {
            return Err(format!("O3: {name} acknowledges in epoch {} and knows of epoch {known}", ack.epoch));
        }
        let Some(life) = self.lives.get_mut(&id) else { return Ok(()) };
        if ack.epoch < life.acknowledged.0 {
            return Err(format!("O3: {name} acknowledges in epoch {} after {}", ack.epoch, life.acknowledged.0));
        }
        if life.fenced.is_some_and(|welcomes| life.welcomes <= welcomes) {
            return Err(format!("O3: {name} asked to take over and acknowledges {} without a handshake", ack.verified));
        }
        life.fenced = None;
        life.acknowledged = (ack.epoch, life.acknowledged.1.max(ack.verified));
        Ok(())
    }

    /// S9: a replica acknowledges what its disk has said that it holds, in mode `memory` what stands in its log.
    pub fn s9_acknowledged_is_persisted(&self, id: Id, core: &Core, ack: &Ack) -> Verdict {
        if !self.lives.contains_key(&id) {
            return Ok(());
        }
        let holds = self.has_durably(id, core);
        if ack.verified > holds {
            return Err(format!("S9: replica {id} acknowledges {} and has persisted {holds}", ack.verified));
        }
        Ok(())
    }

    /// S12: after a divergence, or an error of its disk, no acknowledgement and no release by that life.
    pub fn s12_fail_stop(&self, id: Id, core: &Core) -> Verdict {
        match self.lives.get(&id) {
            Some(life) if life.diverged && life.incarnation == core.incarnation() => {
                Err(format!("S12: {} goes on after a divergence", core.status().name))
            }
            Some(life) if life.failed => Err(format!("S12: {} goes on after its disk failed", core.status().name)),
            _ => Ok(()),
        }
    }
}

impl World {
    /// A replica is about to take an input: whether it is a word of its primary.
    pub fn hears(&mut self, id: Id, core: &Core, input: &Input) {
        if let Input::Peer(_, PeerMessage::Append(append)) = input
            && append.head.epoch >= core.vitals().known_epoch
            && core.record().is_none_or(|record| append.head.epoch >= record.epoch)
        {
            let heard = (self.now, self.stood_still(id));
            self.replica_mut(id).heard = heard;
        }
    }

    /// H17: silence of the primary counts only while its backup ran itself. Three quarters of what it takes are left to
    /// what a backup cannot know of its own absence: up to its next deadline, a quarter, each time that it stands still.
    pub fn h17_silence_is_not_its_own(&self, id: Id) -> Verdict {
        self.listened(id, self.replica(id).heard, SUSPECT_AFTER, "its primary")
    }

    /// Whether it ran itself for long enough to call `whom` silent, whom it heard then, having stood still for so long.
    pub fn listened(&self, id: Id, (heard, stood): (Time, Time), limit: Time, whom: &str) -> Verdict {
        let stood = self.stood_still(id).saturating_sub(stood);
        let ran = (self.now - heard).saturating_sub(stood);
        if stood > 0 && ran < limit / 4 {
            return Err(format!(
                "H17: {} calls {whom} silent after {} us, in {ran} of which it ran itself",
                self.processes[id].name,
                self.now - heard
            ));
        }
        Ok(())
    }
}
