//! What an observer of everything knows: the one sequence of entries of which something was released, and what each
//! client was told. The invariants have the names that the project gives them.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use cutover::replica::{EntryAt, Replica};
use cutover_arbiter::record::{Epoch, GroupRecord, Proposal, RequestId};

use super::search::Seen;
use super::tiny::Tiny;
use super::world::{Held, Whom};

#[derive(Debug, Clone, Default)]
pub struct Ghost {
    /// Entries of which an output was released, with everything before them, from index 1.
    canon: Vec<EntryAt>,
    /// The reply that each write got.
    told: BTreeMap<u8, Vec<u8>>,
    /// The highest epoch in which anything was released.
    epoch: Epoch,
    /// Who leads in each epoch, and in which life of his process.
    pub reigns: BTreeMap<Epoch, (usize, u8)>,
    /// What was ever asked of the arbiters. Deliberately not in the hash: it decides nothing.
    asked: BTreeMap<RequestId, Proposal>,
}

impl Hash for Ghost {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for entry in &self.canon {
            if let EntryAt::Is(epoch, bytes) = entry {
                (epoch, bytes).hash(hasher);
            }
        }
        (&self.told, self.canon.len(), &self.reigns).hash(hasher);
    }
}

impl Ghost {
    /// Everything up to here was released before the search begins.
    pub fn begin(&mut self, primary: &Replica<Tiny>, released: u64) {
        self.canon = (1..=released).map(|index| primary.entry_at(index)).collect();
        self.epoch = primary.release().epoch;
    }

    /// S1: a request asks for one thing.
    pub fn proposes(&mut self, who: &str, proposal: &Proposal) -> Result<(), String> {
        let first = self.asked.entry(proposal.request).or_insert_with(|| proposal.clone());
        if (first.expected_epoch, &first.change) == (proposal.expected_epoch, &proposal.change) {
            return Ok(());
        }
        Err(format!(
            "S1: {who} proposes {} by the request that asked for {}",
            proposal.change.name(),
            first.change.name()
        ))
    }

    /// The writes that were answered, as bits.
    pub fn answered(&self) -> u32 {
        self.told.keys().fold(0, |bits, operation| bits | 1 << operation)
    }

    pub fn is_answered(&self, operation: u8) -> bool {
        self.told.contains_key(&operation)
    }

    pub fn lowest_unanswered(&self) -> u8 {
        (1..).find(|operation| !self.is_answered(*operation)).unwrap_or(1)
    }

    /// O1, O4, S2, S3, S7 and S13 at the instant of a release.
    pub fn released(
        &mut self,
        at: usize,
        core: &Replica<Tiny>,
        held: Held,
        min_in_sync: u8,
        seen: &mut Seen,
    ) -> Result<(), String> {
        let who = ["a", "b", "c"][at];
        let epoch = core.release().epoch;
        let upto = match held.whom {
            Whom::Writer(_) => held.hold.index,
            Whom::Reader { saw, .. } => saw,
        };
        let before = self.canon.len() as u64;
        for index in 1..=upto {
            let own = core.entry_at(index);
            match self.canon.get(index as usize - 1) {
                _ if own == EntryAt::Missing => {
                    return Err(format!("O1: {who} releases {upto} in {epoch:?} and does not hold {index}"));
                }
                Some(canon) if differ(canon, &own) => {
                    return Err(format!("S3: {who} releases {upto} in {epoch:?} over another entry at {index}"));
                }
                Some(_) => {}
                None => self.canon.push(own),
            }
        }
        if upto > before && epoch < self.epoch {
            return Err(format!("S2: {who} releases {upto} in {epoch:?}, after a release in {:?}", self.epoch));
        }
        self.epoch = self.epoch.max(epoch);
        let in_sync = core.record().map_or(0, |record| record.in_sync.len());
        if matches!(held.whom, Whom::Writer(_)) && in_sync < usize::from(min_in_sync) {
            return Err(format!("O1: {who} releases {upto} with {in_sync} in sync"));
        }
        let list = &core.machine().list;
        if let Some(twice) = list.iter().find(|one| list.iter().filter(|other| other == one).count() > 1) {
            return Err(format!("S7: {who} executed {twice} twice: {list:?}"));
        }
        self.heard(who, held, seen)
    }

    fn heard(&mut self, who: &str, held: Held, seen: &mut Seen) -> Result<(), String> {
        match held.whom {
            Whom::Writer(operation) => {
                seen.note(if held.hold.round > 0 {
                    "a retry is answered from the table"
                } else {
                    "a write is answered"
                });
                let first = self.told.entry(operation).or_insert_with(|| held.reply.clone());
                if *first != held.reply {
                    return Err(format!("S7: {operation} was answered {first:?}, and by {who} {:?}", held.reply));
                }
            }
            Whom::Reader { answered, .. } => {
                seen.note("a read is answered");
                let missing = (1..32).find(|bit| answered & 1 << bit != 0 && !held.reply.contains(bit));
                if let Some(missing) = missing {
                    return Err(format!("S13: {who} answers a read without {missing}, answered before it was asked"));
                }
            }
        }
        Ok(())
    }

    /// S4: who may take over holds everything released, as durably as it was said.
    pub fn held_by(&self, who: &str, core: &Replica<Tiny>, durable: u64, record: &GroupRecord) -> Result<(), String> {
        for (canon, index) in self.canon.iter().zip(1..) {
            let own = core.entry_at(index);
            if index > durable || own == EntryAt::Missing || differ(canon, &own) {
                let what = if differ(canon, &own) { "holds another" } else { "lacks" };
                return Err(format!("S4: {who}, in sync in {:?}, {what} entry {index}, released", record.epoch));
            }
        }
        Ok(())
    }
}

fn differ(canon: &EntryAt, own: &EntryAt) -> bool {
    matches!((canon, own), (EntryAt::Is(..), EntryAt::Is(..))) && canon != own
}
