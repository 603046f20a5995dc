//! Walking a tree in order.

use super::Entry;
use super::node::{Inner, Node};

/// The entries of a tree from some rank on.
pub(in crate::machine::kv) struct Iter<'a, T: Entry> {
    /// Inner nodes on the way down, each with the child to be entered next.
    above: Vec<(&'a Inner<T>, usize)>,
    leaf: std::slice::Iter<'a, T>,
}

impl<'a, T: Entry> Iter<'a, T> {
    pub(super) fn new(root: Option<&'a Node<T>>, mut rank: usize) -> Self {
        let mut iter = Self { above: Vec::new(), leaf: [].iter() };
        let Some(mut node) = root else { return iter };
        loop {
            match node {
                Node::Leaf(entries) => {
                    iter.leaf = entries.get(rank..).unwrap_or_default().iter();
                    return iter;
                }
                Node::Inner(inner) => {
                    let mut at = 0;
                    while at + 1 < inner.children.len() && rank >= inner.children[at].count {
                        rank -= inner.children[at].count;
                        at += 1;
                    }
                    iter.above.push((inner, at + 1));
                    node = &inner.children[at].node;
                }
            }
        }
    }

    fn next_leaf(&mut self) -> Option<()> {
        loop {
            let (inner, next) = self.above.last_mut()?;
            let Some(child) = inner.children.get(*next) else {
                self.above.pop();
                continue;
            };
            *next += 1;
            let mut node = &*child.node;
            loop {
                match node {
                    Node::Leaf(entries) => {
                        self.leaf = entries.iter();
                        return Some(());
                    }
                    Node::Inner(inner) => {
                        self.above.push((inner, 1));
                        node = &inner.children[0].node;
                    }
                }
            }
        }
    }
}

impl<'a, T: Entry> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some(entry);
            }
            self.next_leaf()?;
        }
    }
}
