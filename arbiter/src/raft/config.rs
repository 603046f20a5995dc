//! What an arbiter's Raft is told at its start, and the limits that follow from the size of a frame.

use super::{Members, NodeId};
use crate::wire::DEFAULT_LIMIT;

/// Monotonic time in nanoseconds since a point that only this process knows; an input, never read here.
pub type Nanos = u64;

/// The largest proposal, in bytes: one entry always travels whole.
pub const MAX_ENTRY_BYTES: usize = 16 * 1024 * 1024;

/// The largest snapshot, in bytes: it travels in one frame, with room left for its head.
pub const MAX_SNAPSHOT_BYTES: usize = DEFAULT_LIMIT - 1024 * 1024;

/// Most append messages with entries on their way to one follower.
pub(super) const MAX_INFLIGHT_MESSAGES: usize = 64;

/// Most reads that wait for a round.
pub(super) const MAX_WAITING_READS: usize = 64 * 1024;

/// Parameters of one arbiter's Raft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This arbiter.
    pub id: NodeId,
    /// All arbiters, this one among them: 1, 3 or 5.
    pub members: Vec<NodeId>,
    /// Shortest and longest election timeout; each wait is drawn between them.
    pub election_timeout: (Nanos, Nanos),
    /// How often an idle leader is heard from.
    pub heartbeat: Nanos,
    /// Bytes of entries in one append message; a single larger entry still travels.
    pub max_append_bytes: usize,
    /// The core asks for a snapshot when so many entries were applied since the last.
    pub snapshot_after_entries: u64,
    /// Proposals are rejected while more bytes than this wait to be committed.
    pub max_uncommitted_bytes: usize,
    /// Seeds the election timers; arbiters with equal seeds still differ by their id.
    pub seed: u64,
}

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number of members other than 1, 3 or 5.
    #[error(
        "{count} arbiters: use 1, 3 or 5. An even number survives no more failures than one fewer and stops sooner; more than 5 only makes every decision slower"
    )]
    MemberCount {
        /// How many were given.
        count: usize,
    },
    /// A member was given twice.
    #[error("arbiter {id} is named twice among the members; give each arbiter its own id")]
    Duplicate {
        /// The id.
        id: NodeId,
    },
    /// 0 as an id.
    #[error("0 cannot be the id of an arbiter: ids begin at 1")]
    Zero,
    /// The arbiter is not among the members.
    #[error("arbiter {id} is not among the members {members:?}; add it, or correct its id")]
    NotAMember {
        /// This arbiter.
        id: NodeId,
        /// Those given.
        members: Vec<NodeId>,
    },
    /// Timers that cannot work together.
    #[error(
        "heartbeat {heartbeat} ns, election timeout {low} to {high} ns: the heartbeat must be above 0 and at most half of the shortest timeout, so that one lost message deposes nobody, and the longest timeout must be above the shortest, so that two candidates do not collide for ever"
    )]
    Timers {
        /// Given heartbeat.
        heartbeat: Nanos,
        /// Given shortest timeout.
        low: Nanos,
        /// Given longest timeout.
        high: Nanos,
    },
    /// A limit of 0, or one beyond what a frame carries.
    #[error("{name} is {given}: it must be between 1 and {most}")]
    Limit {
        /// Which parameter.
        name: &'static str,
        /// What was given.
        given: u64,
        /// The largest value.
        most: u64,
    },
}

impl Config {
    /// Checks the parameters against each other.
    ///
    /// # Errors
    /// The first thing that cannot work, with the reason.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !matches!(self.members.len(), 1 | 3 | 5) {
            return Err(ConfigError::MemberCount { count: self.members.len() });
        }
        let mut sorted = self.members.clone();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::Duplicate { id: pair[0] });
        }
        if sorted.first() == Some(&0) {
            return Err(ConfigError::Zero);
        }
        if !self.members.contains(&self.id) {
            return Err(ConfigError::NotAMember { id: self.id, members: self.members.clone() });
        }
        let (low, high) = self.election_timeout;
        if self.heartbeat == 0 || self.heartbeat > low / 2 || high <= low || high > Nanos::MAX / 4 {
            return Err(ConfigError::Timers { heartbeat: self.heartbeat, low, high });
        }
        let limits = [
            ("max_append_bytes", self.max_append_bytes as u64, MAX_ENTRY_BYTES as u64),
            ("snapshot_after_entries", self.snapshot_after_entries, u64::MAX / 4),
            ("max_uncommitted_bytes", self.max_uncommitted_bytes as u64, 1 << 40),
        ];
        match limits.into_iter().find(|(_, given, most)| *given == 0 || given > most) {
            Some((name, given, most)) => Err(ConfigError::Limit { name, given, most }),
            None => Ok(()),
        }
    }

    pub(super) fn member_set(&self) -> Members {
        Members::new(self.members.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(members: Vec<NodeId>) -> Config {
        Config {
            id: 1,
            members,
            election_timeout: (100, 200),
            heartbeat: 20,
            max_append_bytes: 1024,
            snapshot_after_entries: 10,
            max_uncommitted_bytes: 1024,
            seed: 1,
        }
    }

    #[test]
    fn an_even_number_of_arbiters_is_refused_with_the_reason() {
        for count in [0, 2, 4, 6, 7] {
            let error = config((1..=count).collect()).validate().expect_err("must be refused");
            assert!(error.to_string().contains("survives no more failures"), "{error}");
        }
        for count in [1, 3, 5] {
            assert_eq!(config((1..=count).collect()).validate(), Ok(()));
        }
    }

    #[test]
    fn members_and_timers_are_checked() {
        assert_eq!(config(vec![1, 2, 2]).validate(), Err(ConfigError::Duplicate { id: 2 }));
        assert_eq!(config(vec![0, 1, 2]).validate(), Err(ConfigError::Zero));
        assert!(matches!(config(vec![2, 3, 4]).validate(), Err(ConfigError::NotAMember { .. })));
        let slow = Config { heartbeat: 60, ..config(vec![1]) };
        assert!(matches!(slow.validate(), Err(ConfigError::Timers { .. })));
        let none = Config { max_append_bytes: 0, ..config(vec![1]) };
        assert!(matches!(none.validate(), Err(ConfigError::Limit { name: "max_append_bytes", .. })));
    }
}
