//! The register machine that Raft replicates: all groups' records and the changes they went through.
//!
//! Pure: the same commands in the same order give the same records, answers and snapshots on every arbiter. The only
//! time it knows is the one in the command, captured by the leader that proposed it.
//!
//! Deliberately not here: which change is legal (`rules`), and who is told of it (`server`).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::rules::decide;
use super::{Answer, Change, Epoch, GroupName, GroupRecord, HistoryItem, Proposal, RefusalReason, RequestId};

/// The most groups one arbiter cluster serves. Times [`HISTORY_BYTES`], it stays below what a Raft snapshot may be.
pub const MAX_GROUPS: usize = 500;
/// Granted changes remembered for each group, seizures not counted: a repeated request among them gets its first
/// answer.
pub const HISTORY: usize = 128;
/// Seizures remembered for each group, which is for ever; one more is refused.
pub const MAX_SEIZURES: usize = 100;
/// The most bytes of one group's history in a snapshot. A pair's 128 changes need about 90 KiB; a group whose records
/// are so large that they need more remembers fewer, never fewer than [`LEAST_HISTORY`].
pub const HISTORY_BYTES: usize = 112 * 1024;
/// What a group with the largest records still remembers.
pub const LEAST_HISTORY: usize = 8;

const COMMAND_VERSION: u8 = 2;
/// The format before: without a floor at its end, which nobody could ask for.
const FLOORLESS: u8 = 1;
const SNAPSHOT_VERSION: u8 = 1;

/// What stands in a log entry: a proposal, and when the leader saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Wall clock of the leader that proposed the entry, in milliseconds since 1970.
    pub at_ms: u64,
    /// What is asked.
    pub proposal: Proposal,
}

/// Bytes that should have been a command or a snapshot and are not. On every arbiter alike, so there is no going on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by another version of the software.
    #[error("a {what} of format {found}, this arbiter knows format {known}; run the newest version that ran here")]
    Version {
        /// A command or a snapshot.
        what: &'static str,
        /// Its format.
        found: u8,
        /// The format this software writes and reads.
        known: u8,
    },
    /// Not readable at all.
    #[error("a {what} of {length} bytes cannot be read: {reason}")]
    Malformed {
        /// A command or a snapshot.
        what: &'static str,
        /// How long it is, in bytes.
        length: usize,
        /// What the decoder said.
        reason: String,
    },
}

impl Command {
    /// As the log stores it.
    pub fn encode(&self) -> Bytes {
        encode(COMMAND_VERSION, self)
    }

    /// From the log.
    ///
    /// # Errors
    /// The bytes are no command of this version or the one before.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        match bytes.split_first() {
            Some((&FLOORLESS, body)) => {
                let floor = postcard::to_allocvec(&Epoch(0)).expect("a number is plain data");
                decode("command", COMMAND_VERSION, &[&[COMMAND_VERSION], body, &floor].concat())
            }
            _ => decode("command", COMMAND_VERSION, bytes),
        }
    }
}

/// One group: its record and how it came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Register {
    record: GroupRecord,
    /// Oldest first, the present record last.
    history: Vec<HistoryItem>,
}

impl Register {
    fn granted(&self, request: RequestId) -> Option<&GroupRecord> {
        self.history.iter().rev().map(|item| &item.record).find(|record| record.last_change.request == request)
    }

    fn seizures(&self) -> usize {
        self.history.iter().filter(|item| is_seizure(&item.record)).count()
    }

    fn push(&mut self, item: HistoryItem) {
        self.record = item.record.clone();
        self.history.push(item);
        let size = |item: &HistoryItem| postcard::to_allocvec(item).map_or(0, |bytes| bytes.len());
        let mut bytes: usize = self.history.iter().map(size).sum();
        let mut ordinary = self.history.len() - self.seizures();
        while ordinary > HISTORY || (bytes > HISTORY_BYTES && ordinary > LEAST_HISTORY) {
            let Some(oldest) = self.history.iter().position(|item| !is_seizure(&item.record)) else { return };
            bytes -= size(&self.history.remove(oldest));
            ordinary -= 1;
        }
    }
}

fn is_seizure(record: &GroupRecord) -> bool {
    matches!(record.last_change.change, Change::Seize { .. })
}

/// All groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    groups: BTreeMap<GroupName, Register>,
}

impl Registers {
    /// Decides one proposal. A request that was granted gets its first answer. A refusal needs no memory: while the epoch
    /// stands the record is the same, and with it the decision; after that the epoch that the proposal expects has gone
    /// by. (One that expects an epoch to come could be granted later; nobody expects what he has not been shown.)
    pub fn apply(&mut self, command: Command) -> Answer {
        let Command { at_ms, proposal } = command;
        let full = self.groups.len() >= MAX_GROUPS;
        let register = self.groups.get_mut(&proposal.group);
        if let Some(first) =
            register.as_ref().and_then(|register| register.granted(proposal.request)).filter(|_| !planted!("P3"))
        {
            return repeated(first, &proposal);
        }
        let record = register.as_ref().map(|register| &register.record);
        let decided = decide(record, &proposal).and_then(|new| match &register {
            Some(register) if is_seizure(&new) && register.seizures() >= MAX_SEIZURES => {
                Err(RefusalReason::NotAllowed(format!("the group was seized {MAX_SEIZURES} times; make a new group")))
            }
            _ => Ok(new),
        });
        match (decided, register) {
            (Err(reason), register) => {
                Answer::Refused { record: register.map(|register| register.record.clone()), reason }
            }
            (Ok(record), Some(register)) => {
                register.push(HistoryItem { at_ms, record: record.clone() });
                Answer::Granted(record)
            }
            (Ok(_), None) if full => Answer::Refused {
                record: None,
                reason: RefusalReason::NotAllowed(format!("these arbiters serve {MAX_GROUPS} groups, the limit")),
            },
            (Ok(record), None) => {
                let history = vec![HistoryItem { at_ms, record: record.clone() }];
                self.groups.insert(proposal.group, Register { record: record.clone(), history });
                Answer::Granted(record)
            }
        }
    }

    /// The group's record.
    pub fn get(&self, group: &GroupName) -> Option<&GroupRecord> {
        self.groups.get(group).map(|register| &register.record)
    }

    /// What is remembered of the group's changes, oldest first; empty when there is no such group.
    pub fn history(&self, group: &GroupName) -> &[HistoryItem] {
        self.groups.get(group).map_or(&[], |register| &register.history)
    }

    /// Every group's record, by name.
    pub fn records(&self) -> impl Iterator<Item = &GroupRecord> {
        self.groups.values().map(|register| &register.record)
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// True when there is no group.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Everything, as a Raft snapshot carries it.
    pub fn encode(&self) -> Bytes {
        encode(SNAPSHOT_VERSION, self)
    }

    /// From a Raft snapshot.
    ///
    /// # Errors
    /// The bytes are no snapshot of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode("snapshot", SNAPSHOT_VERSION, bytes)
    }
}

/// The first answer, unless the id stands for something else now: then the proposer is at fault, and an answer to
/// the one must not pass for an answer to the other.
fn repeated(first: &GroupRecord, proposal: &Proposal) -> Answer {
    if first.last_change.change == proposal.change && first.last_change.proposer == proposal.proposer {
        Answer::Granted(first.clone())
    } else {
        Answer::Refused {
            record: Some(first.clone()),
            reason: RefusalReason::NotAllowed(format!(
                "request {} was granted for another change; every proposal needs an id of its own",
                proposal.request
            )),
        }
    }
}

fn encode<T: Serialize>(version: u8, value: &T) -> Bytes {
    postcard::to_extend(value, vec![version])
        .expect("postcard writes every type of the record: none has a sequence of unknown length")
        .into()
}

fn decode<T: serde::de::DeserializeOwned>(what: &'static str, known: u8, bytes: &[u8]) -> Result<T, CodecError> {
    let malformed = |reason: String| CodecError::Malformed { what, length: bytes.len(), reason };
    let Some((&found, body)) = bytes.split_first() else { return Err(malformed(String::from("it is empty"))) };
    if found != known {
        return Err(CodecError::Version { what, found, known });
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(malformed(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(malformed(error.to_string())),
    }
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
