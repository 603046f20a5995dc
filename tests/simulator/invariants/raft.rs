//! R1 to R11: the arbiters' Raft, and what their callers are told.
//!
//! The production core hides its entries; what it hands to its disk, and what it still has in memory, is compared as it
//! comes. R5 (state machine safety) is S1 here: the registers are the state machine. R9 has no subject yet.

use std::collections::BTreeMap;

use cutover_arbiter::protocol::Reply;
use cutover_arbiter::raft::{AppendOutcome, Ballot, Entry, HardState, LogIndex, Message, PersistBatch, Role, Term};
use cutover_arbiter::server::core::{Event, Output};

use crate::arbiters::SimArbiter;
use crate::asking::Ask;
use crate::world::{Id, Verdict, World};

/// What an observer of all arbiters knows.
#[derive(Debug, Default)]
pub struct RaftGhost {
    leaders: BTreeMap<Term, Id>,
    /// Every entry ever made, with the term before it.
    made: BTreeMap<(LogIndex, Term), (Entry, Option<Term>)>,
    committed: BTreeMap<LogIndex, Term>,
    commits: BTreeMap<Id, LogIndex>,
    applied: BTreeMap<Id, LogIndex>,
    led: BTreeMap<Id, Term>,
}

/// The term of what the arbiter holds at `index` in memory. What is compacted away was compared before.
fn term_at(arbiter: &SimArbiter, index: LogIndex) -> Option<Term> {
    let raft = arbiter.core.as_ref()?.raft_core();
    raft.entry(index).map(|entry| entry.term)
}

impl RaftGhost {
    pub fn restarts(&mut self, id: Id) {
        self.commits.remove(&id);
        self.applied.remove(&id);
        self.led.remove(&id);
    }

    /// After every step of an arbiter, before its outputs are carried out.
    pub fn stepped(&mut self, id: Id, arbiters: &[SimArbiter]) -> Verdict {
        let Some(core) = &arbiters[id].core else { return Ok(()) };
        let raft = core.raft_core();
        if raft.role() == Role::Leader {
            self.r1_one_leader_per_term(id, raft.term())?;
            if self.led.insert(id, raft.term()) != Some(raft.term()) {
                self.r4_leader_completeness(id, &arbiters[id])?;
            }
        }
        self.r7_commit(id, arbiters)?;
        self.r8_applied_never_falls(id, raft.applied())
    }

    fn r1_one_leader_per_term(&mut self, id: Id, term: Term) -> Verdict {
        match self.leaders.insert(term, id) {
            Some(other) if other != id => Err(format!("R1: a{} and a{} lead in term {term}", other + 1, id + 1)),
            _ => Ok(()),
        }
    }

    /// R2: what arbiters write: one entry per index and term, and before it the same one everywhere.
    pub fn handed(&mut self, id: Id, batch: &PersistBatch) -> Verdict {
        let mut before: Option<Term> = None;
        for entry in &batch.entries {
            let known = self.made.entry((entry.index, entry.term)).or_insert_with(|| (entry.clone(), before));
            if known.0 != *entry {
                return Err(format!("R2: a{} holds another entry {} of term {}", id + 1, entry.index, entry.term));
            }
            match (known.1, before) {
                (Some(one), Some(other)) if one != other => {
                    return Err(format!("R2: before entry {} of term {} stand two", entry.index, entry.term));
                }
                (None, Some(_)) => known.1 = before,
                _ => {}
            }
            before = Some(entry.term);
        }
        Ok(())
    }

    /// R4: who is elected holds everything that is committed.
    fn r4_leader_completeness(&self, id: Id, arbiter: &SimArbiter) -> Verdict {
        let Some(raft) = arbiter.core.as_ref().map(|core| core.raft_core()) else { return Ok(()) };
        if self.leaders.keys().next_back() != Some(&raft.term()) {
            return Ok(());
        }
        let last = self.committed.keys().next_back().copied().unwrap_or(0);
        if raft.last_index() < last {
            return Err(format!("R4: a{} leads with {} entries, {last} are committed", id + 1, raft.last_index()));
        }
        for (index, term) in self.committed.range(raft.snapshot_index() + 1..) {
            if term_at(arbiter, *index).is_some_and(|held| held != *term) {
                return Err(format!("R4: a{} leads without the committed entry {index}", id + 1));
            }
        }
        Ok(())
    }

    /// R3 and R7: committed prefixes agree; commit never falls; a leader commits by counting only entries of its own
    /// term, that a quorum of disks holds.
    fn r7_commit(&mut self, id: Id, arbiters: &[SimArbiter]) -> Verdict {
        let Some(raft) = arbiters[id].core.as_ref().map(|core| core.raft_core()) else { return Ok(()) };
        let (commit, before) = (raft.commit(), self.commits.get(&id).copied().unwrap_or(0));
        if commit < before {
            return Err(format!("R7: the commit of a{} fell from {before} to {commit}", id + 1));
        }
        if commit == before {
            return Ok(());
        }
        self.commits.insert(id, commit);
        for index in before + 1..=commit {
            let Some(term) = term_at(&arbiters[id], index) else { continue };
            match self.committed.insert(index, term) {
                Some(known) if known != term => {
                    return Err(format!("R3: entry {index} was committed of term {known} and of term {term}"));
                }
                _ => {}
            }
        }
        if raft.role() != Role::Leader {
            return Ok(());
        }
        let Some(term) = term_at(&arbiters[id], commit) else { return Ok(()) };
        if term != raft.term() {
            return Err(format!("R7: a{} committed entry {commit} of the old term {term} by counting", id + 1));
        }
        let holders = arbiters.iter().filter(|arbiter| arbiter.store.holds(commit, term)).count();
        if holders * 2 <= arbiters.len() {
            return Err(format!("R6: {holders} disks hold entry {commit}, which a{} calls committed", id + 1));
        }
        Ok(())
    }

    fn r8_applied_never_falls(&mut self, id: Id, applied: LogIndex) -> Verdict {
        match self.applied.insert(id, applied) {
            Some(before) if applied < before => Err(format!("R8: a{} went back from {before} to {applied}", id + 1)),
            _ => Ok(()),
        }
    }

    /// R8: the registers never go back to a snapshot of less than they held `before` the step. (Raft's own index may
    /// rise all the same, so `r8_applied_never_falls` does not see this.)
    pub fn r8_restored(&self, id: Id, before: LogIndex, out: &[Output]) -> Verdict {
        let restored = out.iter().find_map(|output| match output {
            Output::Event(Event::Restored { index, .. }) if *index < before => Some(index),
            _ => None,
        });
        restored.map_or(Ok(()), |index| Err(format!("R8: a{} restored {index} over {before}", id + 1)))
    }

    /// R6: what a message promises is durable before it leaves.
    pub fn r6_durable_before_send(&self, id: Id, to: Id, message: &Message, arbiters: &[SimArbiter]) -> Verdict {
        let store = &arbiters[id].store;
        if store.hard.term < message.term() {
            return Err(format!(
                "R6: a{} speaks in term {}, its disk knows {}",
                id + 1,
                message.term(),
                store.hard.term
            ));
        }
        let voted = |vote: Id| store.hard == HardState { term: message.term(), vote: Some(World::node_of(vote)) };
        match message {
            Message::Vote { .. } if !voted(id) => Err(format!("R6: a{} stands before its own vote is durable", id + 1)),
            Message::VoteReply { ballot: Ballot::Granted, .. } if !voted(to) => {
                Err(format!("R6: the vote of a{} is not durable", id + 1))
            }
            Message::AppendReply { term, outcome: AppendOutcome::Accepted { matched }, .. }
            | Message::InstallSnapshotReply { term, matched, .. } => {
                let leader = arbiters[to].core.as_ref().filter(|core| core.raft_core().term() == *term);
                let at = leader.and_then(|_| term_at(&arbiters[to], *matched));
                match at {
                    Some(at) if !store.holds(*matched, at) => {
                        Err(format!("R6: a{} acknowledges {matched} and does not hold it", id + 1))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// R11: term and vote on a disk only ever go forward.
    pub fn r11_vote_cleared_only_with_the_term(&self, id: Id, old: &HardState, batch: &PersistBatch) -> Verdict {
        let Some(new) = batch.hard_state else { return Ok(()) };
        let kept = new.term > old.term || (new.term == old.term && (old.vote.is_none() || old.vote == new.vote));
        if kept { Ok(()) } else { Err(format!("R11: a{} went from {old:?} to {new:?}", id + 1)) }
    }
}

impl World {
    /// R10: a linearisable read shows no less than what was granted when it was asked.
    pub fn judge_reply(&mut self, ask: &Ask, reply: &Reply) {
        let Reply::Record(record) = reply else { return };
        let shown = record.as_ref().map_or(0, |record| record.epoch.0);
        if shown < ask.floor {
            self.check(Err(format!("R10: a read shows epoch {shown}, epoch {} was granted before it", ask.floor)));
        }
    }
}
