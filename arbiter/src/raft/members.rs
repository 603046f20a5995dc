//! The set of arbiters and what a majority of it is: the one place that membership change will have to touch.

use std::collections::BTreeSet;

use super::NodeId;

/// The voting arbiters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members(BTreeSet<NodeId>);

impl Members {
    /// The given arbiters.
    pub fn new(ids: impl IntoIterator<Item = NodeId>) -> Self {
        Self(ids.into_iter().collect())
    }

    /// Whether `id` is one of them.
    pub fn contains(&self, id: NodeId) -> bool {
        self.0.contains(&id)
    }

    /// All of them except `id`, in order.
    pub fn others(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().copied().filter(move |&member| member != id)
    }

    /// Whether the members in `set` are a majority. Who is in the set but not a member does not count.
    pub fn is_quorum(&self, set: &BTreeSet<NodeId>) -> bool {
        self.0.intersection(set).count() * 2 > self.0.len()
    }

    /// The greatest value that every member of some quorum has reached, where `reached` tells each member's.
    pub fn quorum_value(&self, reached: impl Fn(NodeId) -> u64) -> u64 {
        let values: BTreeSet<u64> = self.0.iter().map(|&id| reached(id)).collect();
        values
            .into_iter()
            .rev()
            .find(|&value| self.is_quorum(&self.0.iter().copied().filter(|&id| reached(id) >= value).collect()))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_do_not_count_towards_a_quorum() {
        let members = Members::new([1, 2, 3]);
        assert!(!members.is_quorum(&[1, 7, 8, 9].into()));
        assert!(members.is_quorum(&[1, 3].into()));
        assert!(Members::new([5]).is_quorum(&[5].into()));
    }

    #[test]
    fn quorum_value_is_what_a_majority_reached() {
        let members = Members::new([1, 2, 3, 4, 5]);
        let value = |values: [u64; 5]| members.quorum_value(|id| values[id as usize - 1]);
        assert_eq!(value([9, 1, 4, 4, 2]), 4);
        assert_eq!(value([9, 9, 0, 0, 0]), 0);
        assert_eq!(value([3, 3, 3, 3, 3]), 3);
    }
}
