//! Nodes of the tree: splitting, merging, cutting. A node is changed in place when nobody else holds it, and copied
//! first when a snapshot does (`Arc::make_mut`).

use std::sync::Arc;

use super::{Entry, MERGED, THIN, WIDTH};

#[derive(Clone)]
pub(super) enum Node<T: Entry> {
    Leaf(Vec<T>),
    Inner(Inner<T>),
}

#[derive(Clone)]
pub(super) struct Inner<T: Entry> {
    /// `bounds[i]` lies between child `i` and child `i + 1`.
    pub(super) bounds: Vec<T::Bound>,
    pub(super) children: Vec<Child<T>>,
}

pub(super) struct Child<T: Entry> {
    /// Entries below.
    pub(super) count: usize,
    pub(super) node: Arc<Node<T>>,
}

impl<T: Entry> Clone for Child<T> {
    fn clone(&self) -> Self {
        Self { count: self.count, node: self.node.clone() }
    }
}

/// How to go down: which child, and at last which slot (`Err` is the slot where it would stand).
pub(super) trait Seek<T: Entry> {
    fn child(&mut self, inner: &Inner<T>) -> usize;
    fn slot(&mut self, entries: &[T]) -> Result<usize, usize>;
}

/// The entry of this rank, which exists.
pub(super) struct Rank(pub(super) usize);

impl<T: Entry> Seek<T> for Rank {
    fn child(&mut self, inner: &Inner<T>) -> usize {
        for (at, child) in inner.children.iter().enumerate() {
            if self.0 < child.count {
                return at;
            }
            self.0 -= child.count;
        }
        inner.children.len() - 1
    }

    fn slot(&mut self, entries: &[T]) -> Result<usize, usize> {
        if self.0 < entries.len() { Ok(self.0) } else { Err(entries.len()) }
    }
}

/// The gap before the entry of this rank, or at the end.
pub(super) struct Gap(pub(super) usize);

impl<T: Entry> Seek<T> for Gap {
    fn child(&mut self, inner: &Inner<T>) -> usize {
        for (at, child) in inner.children.iter().enumerate() {
            if self.0 <= child.count {
                return at;
            }
            self.0 -= child.count;
        }
        inner.children.len() - 1
    }

    fn slot(&mut self, entries: &[T]) -> Result<usize, usize> {
        Err(self.0.min(entries.len()))
    }
}

/// The gap after the last entry. Nothing is counted on the way: filling a tree goes this way for every entry.
pub(super) struct End;

impl<T: Entry> Seek<T> for End {
    fn child(&mut self, inner: &Inner<T>) -> usize {
        inner.children.len() - 1
    }

    fn slot(&mut self, entries: &[T]) -> Result<usize, usize> {
        Err(entries.len())
    }
}

/// Where a full node is split: in the middle, or so that pushing at one end of the tree leaves full nodes behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lean {
    Front,
    Middle,
    Back,
}

impl Lean {
    /// How many of `WIDTH + 1` stay left.
    fn left(self) -> usize {
        match self {
            Lean::Front => 1,
            Lean::Middle => WIDTH / 2,
            Lean::Back => WIDTH,
        }
    }
}

/// The right half of a node that was split.
pub(super) struct Split<T: Entry> {
    pub(super) bound: T::Bound,
    pub(super) right: Child<T>,
}

/// Inserts without doubling the capacity: at rest, memory is what counts.
fn put<V>(values: &mut Vec<V>, at: usize, value: V) {
    if values.len() == values.capacity() {
        values.reserve_exact(if values.len() < 8 { 2 } else { 8 });
    }
    values.insert(at, value);
}

fn split_off<V>(values: &mut Vec<V>, at: usize) -> Vec<V> {
    let right = values.split_off(at);
    values.shrink_to(at);
    right
}

pub(super) fn insert<T: Entry>(
    node: &mut Arc<Node<T>>,
    mut seek: impl Seek<T>,
    lean: Lean,
    entry: T,
) -> Option<Split<T>> {
    insert_below(node, &mut seek, lean, entry)
}

fn insert_below<T: Entry>(node: &mut Arc<Node<T>>, seek: &mut impl Seek<T>, lean: Lean, entry: T) -> Option<Split<T>> {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => {
            let (Ok(slot) | Err(slot)) = seek.slot(entries);
            put(entries, slot, entry);
            if entries.len() <= WIDTH {
                return None;
            }
            let right = split_off(entries, lean.left());
            let bound = T::bound(&entries[entries.len() - 1], &right[0]);
            Some(Split { bound, right: Child { count: right.len(), node: Arc::new(Node::Leaf(right)) } })
        }
        Node::Inner(inner) => {
            let at = seek.child(inner);
            let child = &mut inner.children[at];
            child.count += 1;
            let split = insert_below(&mut child.node, seek, lean, entry)?;
            child.count -= split.right.count;
            put(&mut inner.children, at + 1, split.right);
            put(&mut inner.bounds, at, split.bound);
            if inner.children.len() <= WIDTH {
                return None;
            }
            let left = lean.left();
            let children = split_off(&mut inner.children, left);
            let bounds = split_off(&mut inner.bounds, left);
            let bound = inner.bounds.pop().expect("as many bounds stay left as children do");
            let count = children.iter().map(|child| child.count).sum();
            Some(Split { bound, right: Child { count, node: Arc::new(Node::Inner(Inner { bounds, children })) } })
        }
    }
}

pub(super) fn remove<T: Entry>(node: &mut Arc<Node<T>>, mut seek: impl Seek<T>) -> Option<T> {
    remove_below(node, &mut seek)
}

fn remove_below<T: Entry>(node: &mut Arc<Node<T>>, seek: &mut impl Seek<T>) -> Option<T> {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => {
            let slot = seek.slot(entries).ok()?;
            Some(entries.remove(slot))
        }
        Node::Inner(inner) => {
            let at = seek.child(inner);
            let child = &mut inner.children[at];
            let removed = remove_below(&mut child.node, seek)?;
            child.count -= 1;
            if child.node.width() < THIN {
                inner.thicken(at);
            }
            Some(removed)
        }
    }
}

impl<T: Entry> Node<T> {
    pub(super) fn width(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(inner) => inner.children.len(),
        }
    }
}

impl<T: Entry> Inner<T> {
    /// Child `at` has become thin: takes it away when it is empty, or merges it with a neighbour when both fit.
    fn thicken(&mut self, at: usize) {
        if self.children[at].count == 0 {
            self.children.remove(at);
            if !self.bounds.is_empty() {
                self.bounds.remove(at.saturating_sub(1));
            }
            return;
        }
        let width = |at: usize| self.children.get(at).map_or(WIDTH, |child| child.node.width());
        let left = if width(at) + width(at + 1) <= MERGED {
            at
        } else if at > 0 && width(at - 1) + width(at) <= MERGED {
            at - 1
        } else {
            return;
        };
        let right = self.children.remove(left + 1);
        let bound = self.bounds.remove(left);
        let child = &mut self.children[left];
        child.count += right.count;
        match (Arc::make_mut(&mut child.node), Arc::unwrap_or_clone(right.node)) {
            (Node::Leaf(entries), Node::Leaf(more)) => entries.extend(more),
            (Node::Inner(inner), Node::Inner(more)) => {
                inner.bounds.push(bound);
                inner.bounds.extend(more.bounds);
                inner.children.extend(more.children);
            }
            _ => unreachable!("leaves are all equally deep"),
        }
    }
}

/// Keeps the entries of ranks `from..to`, of which there is at least one; pushes what falls away to `cut`.
pub(super) fn keep<T: Entry>(node: &mut Arc<Node<T>>, from: usize, to: usize, cut: &mut Vec<Arc<Node<T>>>) {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => {
            entries.truncate(to);
            entries.drain(..from);
        }
        Node::Inner(inner) => {
            let (mut first, mut past, mut before) = (0, 0, 0);
            for (at, child) in inner.children.iter_mut().enumerate() {
                let (start, end) = (before, before + child.count);
                before = end;
                if end <= from {
                    first = at + 1;
                } else if start < to {
                    past = at + 1;
                    let (low, high) = (from.max(start) - start, to.min(end) - start);
                    if high - low < child.count {
                        keep(&mut child.node, low, high, cut);
                        child.count = high - low;
                    }
                }
            }
            cut.extend(inner.children.drain(past..).map(|child| child.node));
            cut.extend(inner.children.drain(..first).map(|child| child.node));
            inner.bounds.truncate(past - 1);
            inner.bounds.drain(..first);
        }
    }
}
