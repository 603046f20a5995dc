//! A map of hardly ever more than two entries, in the order of its keys.
//!
//! A primary walks along its members and followers several times in each turn, and a turn is made of little else: a
//! walk along a tree costs more there than all that is done on the way.

#[derive(Debug, Clone, Hash)]
pub(super) struct Few<K, V>(Vec<(K, V)>);

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> Few<K, V> {
    /// Where `key` stands, or would stand.
    fn place(&self, key: &K) -> Result<usize, usize> {
        let place = self.0.iter().position(|(other, _)| other >= key).unwrap_or(self.0.len());
        if self.0.get(place).is_some_and(|(other, _)| other == key) { Ok(place) } else { Err(place) }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.0.iter_mut().map(|(key, value)| (&*key, value))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_ok()
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.place(key).ok().map(|place| &self.0[place].1)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.place(key).ok().map(|place| &mut self.0[place].1)
    }

    /// Puts `value` under `key`, in the place of whatever was there.
    pub(super) fn insert(&mut self, key: K, value: V) {
        match self.place(&key) {
            Ok(place) => self.0[place].1 = value,
            Err(place) => self.0.insert(place, (key, value)),
        }
    }

    /// Puts a value under `key` unless there is one.
    pub(super) fn insert_if_absent(&mut self, key: K, value: impl FnOnce() -> V) {
        if let Err(place) = self.place(&key) {
            self.0.insert(place, (key, value()));
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.place(key).ok().map(|place| self.0.remove(place).1)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain_mut(|(key, value)| keep(key, value));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_a_tree_would_be(steps in prop::collection::vec((0..6u8, 0..4u8, any::<u8>()), 0..60)) {
            let (mut few, mut tree) = (Few::default(), BTreeMap::new());
            for (step, key, value) in steps {
                match step {
                    0 => {
                        few.insert(key, value);
                        tree.insert(key, value);
                    }
                    1 => {
                        few.insert_if_absent(key, || value);
                        tree.entry(key).or_insert(value);
                    }
                    2 => prop_assert_eq!(few.remove(&key), tree.remove(&key)),
                    3 => {
                        few.retain(|other, held| *other != key || *held < value);
                        tree.retain(|other, held| *other != key || *held < value);
                    }
                    4 => few.values_mut().zip(tree.values_mut()).for_each(|(one, other)| (*one, *other) = (value, value)),
                    _ => few.iter_mut().zip(tree.iter_mut()).for_each(|(one, other)| {
                        assert_eq!(one, other);
                        *one.1 ^= value;
                        *other.1 ^= value;
                    }),
                }
                prop_assert!(few.iter().eq(tree.iter()) && few.keys().eq(tree.keys()) && few.values().eq(tree.values()));
                prop_assert_eq!((few.len(), few.contains_key(&key)), (tree.len(), tree.contains_key(&key)));
                prop_assert_eq!(few.get(&key), tree.get(&key));
                prop_assert_eq!(few.get_mut(&key), tree.get_mut(&key));
            }
        }
    }
}
