//! Group records, the changes that a proposer may ask for, and the rules by which they are granted.
//!
//! The types stand in `types`; the register machine, which is what Raft replicates, stands in `register`,
//! with the rules of each change in `rules`. It is pure: the same commands in the same order give the same records and the same answers on every arbiter.

mod names;
mod register;
mod rules;
mod types;

pub use names::{GroupId, GroupName, Incarnation, NameError, ReplicaName, RequestId};
pub use register::{CodecError, Command, HISTORY, HISTORY_BYTES, LEAST_HISTORY, MAX_GROUPS, MAX_SEIZURES, Registers};
pub use rules::{MAX_ADDRESS, MAX_IN_SYNC, MAX_RISE};
pub use types::{
    Addresses, Answer, Change, Epoch, GroupRecord, HistoryItem, Index, LastChange, Member, Mode, Position, Proposal,
    RefusalReason,
};
