//! A counted B+tree whose nodes are shared until they are written to: the one structure under the keyspace, hashes,
//! sets, lists, sorted sets and deadlines.
//!
//! * A clone is a snapshot: it copies one pointer. A later write copies the nodes on its path, once, and nothing else.
//! * Every inner node counts what lies below each child, so the element at a rank is found in O(log n): a random
//!   choice depends on the content alone, and a list is a tree without an order.
//! * No table grows with the data. A node has at most [`WIDTH`] entries; nothing is ever rehashed.
//! * Nodes may be thinner than a textbook's B+tree would have them: a removal merges neighbours that fit into one
//!   node, and cutting off an end leaves the nodes along the cut as they are. Leaves are all equally deep.
//!
//! What the entries are, and their order, is not here: see [`Entry`] and [`Probe`].

mod iter;
mod node;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::Arc;

pub(super) use iter::Iter;
use node::{End, Gap, Inner, Lean, Node, Rank, Seek};

/// Entries of a leaf, or children of an inner node, at most.
const WIDTH: usize = 64;
/// A node that falls below is merged with a neighbour, where both fit.
const THIN: usize = 16;
/// A merged node has at most so many entries, so that the next insertion does not split it again.
const MERGED: usize = 48;

/// What a tree holds. Cloning it must be cheap: a write under a snapshot clones a leaf.
pub(super) trait Entry: Clone {
    /// What separates two neighbouring children: at most everything to its right, more than everything to its left.
    type Bound: Clone;

    /// A bound between two neighbours, as small as possible.
    fn bound(left: &Self, right: &Self) -> Self::Bound;
}

/// A place in the order of entries.
pub(super) trait Probe<T: Entry> {
    /// Where `entry` lies as seen from the place: `Less` is before it.
    fn entry(&self, entry: &T) -> Ordering;
    /// Where `bound` lies as seen from the place; `Less` and `Equal` both mean that the place is right of it.
    fn bound(&self, bound: &T::Bound) -> Ordering;

    /// The slot of the entry that the place calls equal, or where it would stand. A probe that can guess where to look
    /// has its own; `span` is what it wrote down on the way.
    fn slot(&self, entries: &[T], span: &Span) -> Result<usize, usize> {
        let _ = span;
        entries.binary_search_by(|entry| self.entry(entry))
    }

    /// How many of `bounds` the place is right of. A probe that has its own [`Probe::slot`] narrows `span` to what lies
    /// between the two next to it.
    fn child(&self, bounds: &[T::Bound], span: &mut Span) -> usize {
        let _ = span;
        bounds.partition_point(|bound| self.bound(bound) != Ordering::Greater)
    }

    /// Where among `count` entries [`Probe::slot`] begins to look, or [`Probe::child`] among bounds; below `count`, unless
    /// that is 0.
    fn first_look(&self, count: usize, span: &Span) -> usize {
        let _ = span;
        count / 2
    }
}

/// Searches that go down a tree side by side.
pub(super) const ABREAST: usize = 16;

/// What the entries below a node lie between, as a probe measures it.
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Looks for the entry that a probe calls equal.
struct By<'p, P> {
    probe: &'p P,
    span: Span,
}

impl<'p, P> By<'p, P> {
    fn new(probe: &'p P) -> Self {
        Self { probe, span: Span { from: 0, to: u64::MAX } }
    }
}

impl<T: Entry, P: Probe<T>> Seek<T> for By<'_, P> {
    fn child(&mut self, inner: &Inner<T>) -> usize {
        self.probe.child(&inner.bounds, &mut self.span)
    }

    fn slot(&mut self, entries: &[T]) -> Result<usize, usize> {
        self.probe.slot(entries, &self.span)
    }
}

/// The tree. Ranks count from 0.
pub(super) struct Tree<T: Entry> {
    len: usize,
    root: Option<Arc<Node<T>>>,
}

impl<T: Entry> Clone for Tree<T> {
    fn clone(&self) -> Self {
        Self { len: self.len, root: self.root.clone() }
    }
}

impl<T: Entry> Default for Tree<T> {
    fn default() -> Self {
        Self { len: 0, root: None }
    }
}

/// What was cut off a tree, to be dropped where there is time for it.
pub(super) struct Cut<T: Entry>(#[expect(dead_code, reason = "held to be dropped")] Vec<Arc<Node<T>>>);

impl<T: Entry> Tree<T> {
    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// True without any entry.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry that `probe` calls equal.
    pub(super) fn get(&self, probe: &impl Probe<T>) -> Option<&T> {
        self.seek(By::new(probe))
    }

    /// The entry at `rank`.
    pub(super) fn at(&self, rank: usize) -> Option<&T> {
        if rank < self.len { self.seek(Rank(rank)) } else { None }
    }

    fn seek(&self, mut seek: impl Seek<T>) -> Option<&T> {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(entries) => return seek.slot(entries).ok().and_then(|slot| entries.get(slot)),
                Node::Inner(inner) => node = &inner.children[seek.child(inner)].node,
            }
        }
    }

    /// The entry that `probe` calls equal, to be changed without changing its place in the order.
    pub(super) fn get_mut(&mut self, probe: &impl Probe<T>) -> Option<&mut T> {
        self.seek_mut(By::new(probe))
    }

    /// The entry at `rank`, to be changed without changing its place in the order.
    pub(super) fn at_mut(&mut self, rank: usize) -> Option<&mut T> {
        if rank < self.len { self.seek_mut(Rank(rank)) } else { None }
    }

    fn seek_mut(&mut self, mut seek: impl Seek<T>) -> Option<&mut T> {
        let mut node = Arc::make_mut(self.root.as_mut()?);
        loop {
            match node {
                Node::Leaf(entries) => return seek.slot(entries).ok().and_then(|slot| entries.get_mut(slot)),
                Node::Inner(inner) => {
                    let child = seek.child(inner);
                    node = Arc::make_mut(&mut inner.children[child].node);
                }
            }
        }
    }

    /// Rank of the first entry that `probe` does not call less: where it stands or would stand.
    pub(super) fn rank(&self, probe: &impl Probe<T>) -> usize {
        let Some(mut node) = self.root.as_deref() else { return 0 };
        let mut before = 0;
        loop {
            match node {
                Node::Leaf(entries) => {
                    return before + entries.partition_point(|entry| probe.entry(entry) == Ordering::Less);
                }
                Node::Inner(inner) => {
                    let child = inner.bounds.partition_point(|bound| probe.bound(bound) == Ordering::Less);
                    before += inner.children[..child].iter().map(|child| child.count).sum::<usize>();
                    node = &inner.children[child].node;
                }
            }
        }
    }

    /// Reads all that searches for these places will read, so that they find it in the processor's caches. In a large
    /// tree each search waits for memory at every node, one wait after the other; going down side by side, step by step,
    /// the waits of [`ABREAST`] searches are one. (Group prefetching: S. Chen, A. Ailamaki, P. Gibbons and T. Mowry,
    /// "Improving hash join performance through prefetching", 2004. What is called prefetching there is reading here:
    /// nothing of a step depends on what the same step reads for another search.)
    pub(super) fn approach<P: Probe<T>>(&self, probes: &[P]) {
        let Some(root) = self.root.as_deref() else { return };
        let mut read = 0;
        for group in probes.chunks(ABREAST) {
            let whole = [const { Span { from: 0, to: u64::MAX } }; ABREAST];
            let mut ways = whole.map(|span| (root, span));
            let ways = &mut ways[..group.len()];
            // Leaves are all equally deep.
            while let (Node::Inner(_), _) = ways[0] {
                for ((node, span), probe) in ways.iter().zip(group) {
                    if let Node::Inner(inner) = *node {
                        let at = probe.first_look(inner.bounds.len(), span);
                        read ^= inner.bounds.get(at).map_or(0, |bound| probe.bound(bound) as usize);
                        read ^= inner.children[at].count;
                    }
                }
                for ((node, span), probe) in ways.iter_mut().zip(group) {
                    if let Node::Inner(inner) = *node {
                        *node = &inner.children[probe.child(&inner.bounds, span)].node;
                    }
                }
                for (node, _) in ways.iter() {
                    read ^= node.width();
                }
            }
            for ((node, span), probe) in ways.iter().zip(group) {
                if let Node::Leaf(entries) = *node {
                    // The last one, too: an insertion moves all from its place on.
                    for at in [probe.first_look(entries.len(), span), entries.len().saturating_sub(1)] {
                        read ^= entries.get(at).map_or(0, |entry| probe.entry(entry) as usize);
                    }
                }
            }
            for ((node, span), probe) in ways.iter().zip(group) {
                if let Node::Leaf(entries) = *node {
                    read ^= probe.slot(entries, span).unwrap_or_default();
                }
            }
        }
        std::hint::black_box(read);
    }

    /// Puts `entry`, which must not be there yet, where `probe` says.
    pub(super) fn insert(&mut self, probe: &impl Probe<T>, entry: T) {
        self.insert_seeking(By::new(probe), Lean::Middle, entry);
    }

    /// Puts `entry` at the end; filling a tree this way leaves full nodes.
    pub(super) fn push_back(&mut self, entry: T) {
        self.insert_seeking(End, Lean::Back, entry);
    }

    /// Puts `entry` before the first.
    pub(super) fn push_front(&mut self, entry: T) {
        self.insert_seeking(Gap(0), Lean::Front, entry);
    }

    fn insert_seeking(&mut self, seek: impl Seek<T>, lean: Lean, entry: T) {
        self.len += 1;
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(vec![entry])));
            return;
        };
        if let Some(split) = node::insert(root, seek, lean, entry) {
            let left = node::Child { count: self.len - split.right.count, node: root.clone() };
            self.root =
                Some(Arc::new(Node::Inner(Inner { bounds: vec![split.bound], children: vec![left, split.right] })));
        }
    }

    /// Takes out the entry that `probe` calls equal.
    pub(super) fn remove(&mut self, probe: &impl Probe<T>) -> Option<T> {
        self.get(probe)?;
        self.remove_seeking(By::new(probe))
    }

    /// Takes out the entry at `rank`.
    pub(super) fn remove_at(&mut self, rank: usize) -> Option<T> {
        if rank < self.len { self.remove_seeking(Rank(rank)) } else { None }
    }

    fn remove_seeking(&mut self, seek: impl Seek<T>) -> Option<T> {
        let removed = node::remove(self.root.as_mut()?, seek)?;
        self.len -= 1;
        self.lower();
        Some(removed)
    }

    /// Keeps the entries of ranks `from..to` and returns what was cut off; O(log n).
    pub(super) fn keep(&mut self, from: usize, to: usize) -> Cut<T> {
        let to = to.min(self.len);
        let mut cut = Vec::new();
        if from >= to {
            cut.extend(self.root.take());
            self.len = 0;
        } else if let Some(root) = &mut self.root {
            node::keep(root, from, to, &mut cut);
            self.len = to - from;
            self.lower();
        }
        Cut(cut)
    }

    /// Takes away levels that the tree no longer needs.
    fn lower(&mut self) {
        if self.len == 0 {
            self.root = None;
        }
        while let Some(Node::Inner(inner)) = self.root.as_deref()
            && let [only] = inner.children.as_slice()
        {
            self.root = Some(only.node.clone());
        }
    }

    /// The entries from `rank` on, in order.
    pub(super) fn iter_from(&self, rank: usize) -> Iter<'_, T> {
        Iter::new(if rank < self.len { self.root.as_deref() } else { None }, rank)
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> Iter<'_, T> {
        self.iter_from(0)
    }
}
