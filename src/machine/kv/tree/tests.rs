use proptest::prelude::*;

use super::*;

impl Entry for u64 {
    type Bound = u64;
    fn bound(_: &u64, right: &u64) -> u64 {
        *right
    }
}

impl Probe<u64> for u64 {
    fn entry(&self, entry: &u64) -> Ordering {
        entry.cmp(self)
    }
    fn bound(&self, bound: &u64) -> Ordering {
        bound.cmp(self)
    }
}

fn contents(tree: &Tree<u64>) -> Vec<u64> {
    tree.iter().copied().collect()
}

/// Counts, depths and bounds, all the way down.
fn check(tree: &Tree<u64>) {
    fn below(node: &Node<u64>, low: Option<u64>, high: Option<u64>, ordered: bool) -> (usize, usize) {
        match node {
            Node::Leaf(entries) => {
                assert!(!entries.is_empty() && entries.len() <= WIDTH);
                if ordered {
                    assert!(
                        entries.iter().all(|e| low.is_none_or(|low| low <= *e) && high.is_none_or(|high| *e < high))
                    );
                }
                (entries.len(), 0)
            }
            Node::Inner(inner) => {
                assert!(!inner.children.is_empty() && inner.children.len() <= WIDTH);
                assert_eq!(inner.bounds.len() + 1, inner.children.len());
                let (mut total, mut depth) = (0, None);
                for (at, child) in inner.children.iter().enumerate() {
                    let low = if at == 0 { low } else { Some(inner.bounds[at - 1]) };
                    let (count, deep) = below(&child.node, low, inner.bounds.get(at).copied().or(high), ordered);
                    assert_eq!(count, child.count);
                    assert_eq!(*depth.get_or_insert(deep), deep, "leaves are all equally deep");
                    total += count;
                }
                (total, depth.unwrap() + 1)
            }
        }
    }
    let ordered = tree.iter().is_sorted();
    let total = tree.root.as_deref().map_or(0, |root| below(root, None, None, ordered).0);
    assert_eq!(total, tree.len());
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u64),
    Remove(u64),
    RemoveAt(usize),
    Run { from: u64, count: u64 },
    Clear { from: u64, count: u64 },
    Keep(usize, usize),
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3000u64).prop_map(Step::Insert),
        6 => (0..3000u64).prop_map(Step::Remove),
        4 => any::<usize>().prop_map(Step::RemoveAt),
        4 => (0..3000u64, 1..400u64).prop_map(|(from, count)| Step::Run { from, count }),
        3 => (0..3000u64, 1..600u64).prop_map(|(from, count)| Step::Clear { from, count }),
        1 => (0..100usize, 50..3000usize).prop_map(|(from, to)| Step::Keep(from, to)),
        3 => Just(Step::Snapshot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn an_ordered_tree_is_a_sorted_map_and_snapshots_never_change(steps in prop::collection::vec(step(), 1..120)) {
        let mut tree = Tree::<u64>::default();
        let mut model = std::collections::BTreeSet::new();
        let mut snapshots = Vec::new();
        for step in steps {
            match step {
                Step::Insert(key) => {
                    if model.insert(key) {
                        tree.insert(&key, key);
                    }
                }
                Step::Remove(key) => prop_assert_eq!(tree.remove(&key).is_some(), model.remove(&key)),
                Step::RemoveAt(rank) if !model.is_empty() => {
                    let rank = rank % model.len();
                    let key = *model.iter().nth(rank).unwrap();
                    prop_assert_eq!(tree.remove_at(rank), Some(key));
                    model.remove(&key);
                }
                Step::RemoveAt(rank) => prop_assert_eq!(tree.remove_at(rank), None),
                Step::Run { from, count } => {
                    for key in from..from + count {
                        if model.insert(key) {
                            tree.insert(&key, key);
                        }
                    }
                }
                Step::Clear { from, count } => {
                    for key in from..from + count {
                        prop_assert_eq!(tree.remove(&key).is_some(), model.remove(&key));
                    }
                }
                Step::Keep(from, to) => {
                    tree.keep(from, to);
                    model = model.into_iter().take(to).skip(from).collect();
                }
                Step::Snapshot => snapshots.push((tree.clone(), contents(&tree))),
            }
            prop_assert_eq!(tree.len(), model.len());
        }
        check(&tree);
        prop_assert_eq!(contents(&tree), model.iter().copied().collect::<Vec<_>>());
        for (rank, key) in model.iter().enumerate() {
            prop_assert_eq!(tree.at(rank), Some(key));
            prop_assert_eq!(tree.get(key), Some(key));
            prop_assert_eq!(tree.rank(key), rank);
            prop_assert_eq!(tree.iter_from(rank).next(), Some(key));
        }
        for (snapshot, then) in snapshots {
            check(&snapshot);
            prop_assert_eq!(contents(&snapshot), then);
        }
    }

    #[test]
    fn an_unordered_tree_is_a_vec(steps in prop::collection::vec((0..5u8, any::<usize>(), any::<u64>()), 1..600)) {
        let mut tree = Tree::<u64>::default();
        let mut model = Vec::new();
        let mut snapshots = Vec::new();
        for (kind, at, value) in steps {
            match kind {
                0 => {
                    tree.push_back(value);
                    model.push(value);
                }
                1 => {
                    tree.push_front(value);
                    model.insert(0, value);
                }
                2 if !model.is_empty() => {
                    let (from, to) = (at % 3, model.len().saturating_sub(value as usize % 3));
                    tree.keep(from, to);
                    model = model.into_iter().take(to).skip(from).collect();
                }
                3 if !model.is_empty() && value % 2 == 0 => {
                    let at = at % model.len();
                    *tree.at_mut(at).unwrap() = value;
                    model[at] = value;
                }
                3 if !model.is_empty() => {
                    let at = at % model.len();
                    prop_assert_eq!(tree.remove_at(at), Some(model.remove(at)));
                }
                _ if value % 16 == 0 => snapshots.push((tree.clone(), model.clone())),
                _ => prop_assert_eq!(tree.at(at), model.get(at)),
            }
        }
        check(&tree);
        prop_assert_eq!(contents(&tree), model);
        for (snapshot, then) in snapshots {
            prop_assert_eq!(contents(&snapshot), then);
        }
    }
}

#[test]
fn pushing_at_the_end_leaves_full_nodes() {
    let mut tree = Tree::default();
    for key in 0..100_000u64 {
        tree.push_back(key);
    }
    check(&tree);
    let Some(Node::Inner(inner)) = tree.root.as_deref() else { panic!("deeper than one leaf") };
    assert_eq!(inner.children[0].count, WIDTH * WIDTH);
}
