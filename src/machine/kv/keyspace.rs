//! All keys with their values and deadlines, and the running count of the memory they take: a sum over the content
//! alone, whatever its history, so that it is the same on every replica. What the allocator and half-full nodes add is
//! in it as an average.
//!
//! Knows nothing of commands, replies or captured values; what a key holds besides bytes is in [`super::collection`].

use std::cmp::Ordering;
use std::sync::Arc;

use super::collection::{Collection, Value};
use super::hash::{HIGHEST, Seed};
use super::packed::{Millis, Packed};
use super::tree::{ABREAST, Entry, Probe, Span, Tree};

/// Key and value together above this many bytes are kept apart, so that appending to the value does not copy both.
const PACKED_LIMIT: usize = 1024;
/// Keys beyond which a keyspace does not fit into a processor's caches.
const LARGE: usize = if cfg!(test) { 32 } else { 10_000 };

/// A key's place in the order: its hash, then its bytes.
#[derive(Clone, Copy)]
pub(super) struct Place<'k> {
    pub(super) hash: u64,
    pub(super) key: &'k [u8],
}

/// Something with a place in the order of hashes. The hash is at hand; the key costs a look at other memory, and is
/// asked for only where the hashes are equal.
pub(super) trait Placed {
    fn hash(&self) -> u64;
    fn key(&self) -> &[u8];
}

/// Separates two entries by hash, and carries the right one's key only where the hashes are equal.
pub(super) type HashBound = (u64, Option<Box<[u8]>>);

pub(super) fn hash_bound<T: Placed>(left: &T, right: &T) -> HashBound {
    (right.hash(), (left.hash() == right.hash()).then(|| Box::from(right.key())))
}

impl<T: Placed + Entry<Bound = HashBound>> Probe<T> for Place<'_> {
    fn entry(&self, entry: &T) -> Ordering {
        entry.hash().cmp(&self.hash).then_with(|| entry.key().cmp(self.key))
    }

    fn bound(&self, (hash, key): &HashBound) -> Ordering {
        hash.cmp(&self.hash).then_with(|| key.as_ref().map_or(Ordering::Less, |key| key.as_ref().cmp(self.key)))
    }

    fn slot(&self, entries: &[T], span: &Span) -> Result<usize, usize> {
        let Some(last) = entries.len().checked_sub(1) else { return Err(0) };
        let mut at = guess(self.hash, span, entries.len()).min(last);
        match self.entry(&entries[at]) {
            Ordering::Equal => return Ok(at),
            Ordering::Greater => {
                while at > 0 {
                    match self.entry(&entries[at - 1]) {
                        Ordering::Equal => return Ok(at - 1),
                        Ordering::Less => break,
                        Ordering::Greater => at -= 1,
                    }
                }
                return Err(at);
            }
            Ordering::Less => {}
        }
        while at < last {
            at += 1;
            match self.entry(&entries[at]) {
                Ordering::Equal => return Ok(at),
                Ordering::Greater => return Err(at),
                Ordering::Less => {}
            }
        }
        Err(entries.len())
    }

    fn child(&self, bounds: &[HashBound], span: &mut Span) -> usize {
        let beyond = |at: usize| Probe::<T>::bound(self, &bounds[at]) == Ordering::Greater;
        let mut at = guess(self.hash, span, bounds.len());
        while at > 0 && beyond(at - 1) {
            at -= 1;
        }
        while at < bounds.len() && !beyond(at) {
            at += 1;
        }
        if at > 0 {
            span.from = bounds[at - 1].0;
        }
        if let Some((hash, _)) = bounds.get(at) {
            span.to = *hash;
        }
        at
    }

    fn first_look(&self, count: usize, span: &Span) -> usize {
        guess(self.hash, span, count).min(count.saturating_sub(1))
    }
}

/// Where `hash` probably stands among `count` hashes that lie in `span`. Hashes are spread evenly, so that the guess
/// is a few places off: those share one or two cache lines, where a binary search of the node would wait for four or
/// five, one after the other. (W. W. Peterson, "Addressing for random-access storage", 1957.)
fn guess(hash: u64, span: &Span, count: usize) -> usize {
    let to = span.to.min(HIGHEST);
    let (offset, width) = (hash.saturating_sub(span.from), to.saturating_sub(span.from).max(1));
    // A hash of 53 bits leaves room for a count of 11. Were there no room, the guess would only be worse.
    ((offset.saturating_mul(count as u64) / width) as usize).min(count)
}

/// Just before the first entry whose hash is not below.
pub(super) struct FromHash(pub(super) u64);

impl<T: Placed + Entry<Bound = HashBound>> Probe<T> for FromHash {
    fn entry(&self, entry: &T) -> Ordering {
        if entry.hash() < self.0 { Ordering::Less } else { Ordering::Greater }
    }

    fn bound(&self, (hash, _): &HashBound) -> Ordering {
        if *hash < self.0 { Ordering::Less } else { Ordering::Greater }
    }
}

/// One key. The hash stands beside the pointer, so that a search touches few other cache lines.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) hash: u64,
    pub(super) body: Body,
}

/// What a key holds.
#[derive(Clone)]
pub(super) enum Body {
    /// A short string.
    Packed(Packed),
    /// Everything else.
    Object(Arc<Object>),
}

/// A key that holds a long string or a collection.
#[derive(Clone)]
pub(super) struct Object {
    pub(super) key: Arc<[u8]>,
    pub(super) deadline: Millis,
    pub(super) value: Value,
}

impl Placed for Slot {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn key(&self) -> &[u8] {
        match &self.body {
            Body::Packed(packed) => packed.key(),
            Body::Object(object) => &object.key,
        }
    }
}

impl Entry for Slot {
    type Bound = HashBound;

    fn bound(left: &Self, right: &Self) -> HashBound {
        hash_bound(left, right)
    }
}

impl Slot {
    /// When the key ceases to exist, 0 for never.
    pub(super) fn deadline(&self) -> Millis {
        self.body.deadline()
    }

    /// Redis shows a key until the millisecond of its deadline is over.
    pub(super) fn expired(&self, now: Millis) -> bool {
        let deadline = self.deadline();
        deadline != 0 && now > deadline
    }

    /// The bytes, where the key holds a string.
    pub(super) fn string(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Packed(packed) => Some(packed.value()),
            Body::Object(object) => match &object.value {
                Value::Bytes(bytes) => Some(bytes),
                _ => None,
            },
        }
    }

    /// The collection, where the key holds one of this type.
    pub(super) fn collection<C: Collection>(&self) -> Option<&C> {
        match &self.body {
            Body::Packed(_) => None,
            Body::Object(object) => C::of(&object.value),
        }
    }

    /// What TYPE says.
    pub(super) fn kind(&self) -> &'static str {
        match &self.body {
            Body::Packed(_) => "string",
            Body::Object(object) => object.value.kind(),
        }
    }
}

impl Body {
    /// A string, packed where it is short.
    pub(super) fn string(deadline: Millis, key: &[u8], value: &[u8]) -> Self {
        if key.len() + value.len() <= PACKED_LIMIT {
            Self::Packed(Packed::new(deadline, key, value))
        } else {
            Self::object(deadline, key, Value::Bytes(Arc::new(value.to_vec())))
        }
    }

    /// [`Body::string`] of bytes that need not be copied where they are long.
    pub(super) fn string_from(deadline: Millis, key: &[u8], value: Vec<u8>) -> Self {
        if key.len() + value.len() <= PACKED_LIMIT {
            Self::Packed(Packed::new(deadline, key, &value))
        } else {
            Self::object(deadline, key, Value::Bytes(Arc::new(value)))
        }
    }

    pub(super) fn object(deadline: Millis, key: &[u8], value: Value) -> Self {
        Self::Object(Arc::new(Object { key: Arc::from(key), deadline, value }))
    }

    pub(super) fn deadline(&self) -> Millis {
        match self {
            Body::Packed(packed) => packed.parts().deadline,
            Body::Object(object) => object.deadline,
        }
    }

    /// The same value under another key and deadline; shares what is large.
    pub(super) fn renamed(&self, key: &[u8], deadline: Millis) -> Self {
        match self {
            Body::Packed(packed) => Self::string(deadline, key, packed.value()),
            Body::Object(object) => match &object.value {
                // Packed or not depends on the lengths alone: so replicas agree on the memory it takes.
                Value::Bytes(bytes) if key.len() + bytes.len() <= PACKED_LIMIT => Self::string(deadline, key, bytes),
                value => Self::object(deadline, key, value.clone()),
            },
        }
    }

    /// True when dropping it takes so long that the loop should not do it.
    pub(super) fn heavy(&self) -> bool {
        match self {
            Body::Packed(_) => false,
            Body::Object(object) => object.value.heavy(),
        }
    }

    fn memory(&self) -> u64 {
        const OBJECT: u64 = 32 + 96;
        match self {
            Body::Packed(packed) => packed.memory(),
            Body::Object(object) => OBJECT + object.key.len() as u64 + object.value.memory(),
        }
    }
}

/// A deadline and the hash of the key that has it. Two keys may share both: then there are two equal entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) at: Millis,
    pub(super) hash: u64,
}

impl Entry for Due {
    type Bound = Due;

    fn bound(_: &Due, right: &Due) -> Due {
        *right
    }
}

impl Probe<Due> for Due {
    fn entry(&self, entry: &Due) -> Ordering {
        // Never equal, and so just before the first of equal ones.
        if entry < self { Ordering::Less } else { Ordering::Greater }
    }

    fn bound(&self, bound: &Due) -> Ordering {
        if bound < self { Ordering::Less } else { Ordering::Greater }
    }
}

/// What [`Keyspace::replace_string`] found.
pub(super) enum Replaced {
    /// A key, which now holds the string; what it held, unless that was overwritten in place.
    Live(Option<Body>),
    /// No key.
    Absent,
    /// A key past its deadline, which is still there.
    Expired,
}

/// All keys. A clone is a consistent view.
#[derive(Clone, Default)]
pub(super) struct Keyspace {
    pub(super) seed: Seed,
    pub(super) keys: Tree<Slot>,
    pub(super) deadlines: Tree<Due>,
    pub(super) memory: u64,
}

impl Keyspace {
    pub(super) fn place<'k>(&self, key: &'k [u8]) -> Place<'k> {
        Place { hash: self.seed.hash(key), key }
    }

    /// Before so many keys are looked for, one after the other: see [`Tree::approach`]. A small keyspace is in the caches
    /// anyway.
    pub(super) fn approach<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        if self.keys.len() < LARGE {
            return;
        }
        let mut keys = keys.map(|key| self.place(key));
        let mut group = [Place { hash: 0, key: b"" }; ABREAST];
        loop {
            let mut count = 0;
            for (place, key) in group.iter_mut().zip(&mut keys) {
                *place = key;
                count += 1;
            }
            match count {
                0 | 1 => return,
                count => self.keys.approach(&group[..count]),
            }
        }
    }

    /// The key, whether its deadline is past or not.
    pub(super) fn get(&self, place: Place<'_>) -> Option<&Slot> {
        self.keys.get(&place)
    }

    /// Sets a string; hands back what the key held, unless that was overwritten in place.
    pub(super) fn set_string(&mut self, place: Place<'_>, value: &[u8], deadline: Millis) -> Option<Body> {
        // Before the beginning of time nothing has expired.
        match self.replace_string(place, value, deadline, 0) {
            Replaced::Live(old) => old,
            Replaced::Absent | Replaced::Expired => {
                self.insert(place, Body::string(deadline, place.key, value));
                None
            }
        }
    }

    /// Sets the string of a key that is there and has not expired by `now`; changes nothing otherwise.
    pub(super) fn replace_string(&mut self, place: Place<'_>, value: &[u8], deadline: Millis, now: Millis) -> Replaced {
        let Some(slot) = self.keys.get_mut(&place) else { return Replaced::Absent };
        if let Body::Packed(packed) = &mut slot.body
            && packed.overwrite(deadline, value, now)
        {
            return Replaced::Live(None);
        }
        if slot.expired(now) {
            return Replaced::Expired;
        }
        let body = Body::string(deadline, place.key, value);
        self.memory += body.memory();
        let old = std::mem::replace(&mut slot.body, body);
        self.memory = self.memory.saturating_sub(old.memory());
        self.move_deadline(place.hash, old.deadline(), deadline);
        Replaced::Live(Some(old))
    }

    /// Sets whatever `body` holds; hands back what the key held before.
    pub(super) fn put(&mut self, place: Place<'_>, body: Body) -> Option<Body> {
        match self.keys.get_mut(&place) {
            Some(slot) => {
                self.memory += body.memory();
                let deadline = body.deadline();
                let old = std::mem::replace(&mut slot.body, body);
                self.memory = self.memory.saturating_sub(old.memory());
                self.move_deadline(place.hash, old.deadline(), deadline);
                Some(old)
            }
            None => {
                self.insert(place, body);
                None
            }
        }
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, place: Place<'_>, body: Body) {
        self.memory += body.memory();
        self.move_deadline(place.hash, 0, body.deadline());
        self.keys.insert(&place, Slot { hash: place.hash, body });
    }

    /// Adds a key that comes after all others; for restoring.
    pub(super) fn push_back(&mut self, hash: u64, body: Body) {
        self.memory += body.memory();
        self.move_deadline(hash, 0, body.deadline());
        self.keys.push_back(Slot { hash, body });
    }

    /// Takes a key away.
    pub(super) fn take(&mut self, place: Place<'_>) -> Option<Body> {
        let slot = self.keys.remove(&place)?;
        self.memory = self.memory.saturating_sub(slot.body.memory());
        self.move_deadline(place.hash, slot.deadline(), 0);
        Some(slot.body)
    }

    /// Gives an existing key another deadline, 0 for none.
    pub(super) fn set_deadline(&mut self, place: Place<'_>, deadline: Millis) {
        let Some(slot) = self.keys.get_mut(&place) else { return };
        let old = slot.deadline();
        let before = slot.body.memory();
        match &mut slot.body {
            Body::Packed(packed) => *packed = Packed::new(deadline, place.key, packed.value()),
            Body::Object(object) => Arc::make_mut(object).deadline = deadline,
        }
        self.memory = (self.memory + slot.body.memory()).saturating_sub(before);
        self.move_deadline(place.hash, old, deadline);
    }

    /// Changes what an object holds, without copying more of it than is shared and written to.
    pub(super) fn edit<R>(&mut self, place: Place<'_>, change: impl FnOnce(&mut Value) -> R) -> Option<R> {
        let slot = self.keys.get_mut(&place)?;
        let Body::Object(object) = &mut slot.body else { return None };
        let value = &mut Arc::make_mut(object).value;
        let before = value.memory();
        let result = change(value);
        self.memory = (self.memory + value.memory()).saturating_sub(before);
        Some(result)
    }

    /// The first key, in the order of deadlines, that is past its own.
    pub(super) fn first_expired(&self, now: Millis) -> Option<&Slot> {
        let due = self.deadlines.at(0).filter(|due| now > due.at)?;
        let first = self.keys.rank(&FromHash(due.hash));
        self.keys.iter_from(first).take_while(|slot| slot.hash == due.hash).find(|slot| slot.deadline() == due.at)
    }

    fn move_deadline(&mut self, hash: u64, from: Millis, to: Millis) {
        if from == to {
            return;
        }
        if from != 0 {
            let due = Due { at: from, hash };
            let rank = self.deadlines.rank(&due);
            debug_assert_eq!(self.deadlines.at(rank), Some(&due), "every deadline is listed");
            self.deadlines.remove_at(rank);
            self.memory = self.memory.saturating_sub(DUE);
        }
        if to != 0 {
            let due = Due { at: to, hash };
            self.deadlines.insert(&due, due);
            self.memory += DUE;
        }
    }
}

/// What a deadline takes in its tree, roughly.
const DUE: u64 = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn guessing_finds_what_a_binary_search_finds(
            places in prop::collection::btree_set((0..40u64, 0..4u8), 1..64),
            wanted in (0..41u64, 0..4u8),
            scale in prop_oneof![Just(1), Just(HIGHEST / 41), Just(u64::MAX / 41)],
            from in 0..3u64,
        ) {
            let sought = Place { hash: wanted.0 * scale, key: &[wanted.1] };
            let slots: Vec<Slot> = places
                .iter()
                .map(|(hash, key)| Slot { hash: hash * scale, body: Body::string(0, &[*key], b"") })
                .collect();
            // A wrong span must cost nothing but time.
            let mut span = Span { from: from * scale, to: u64::MAX };
            let expected = slots.binary_search_by(|slot| sought.entry(slot));
            prop_assert_eq!(Probe::<Slot>::slot(&sought, &slots, &span), expected);
            let bounds: Vec<HashBound> =
                slots.windows(2).map(|pair| hash_bound(&pair[0], &pair[1])).collect();
            let right_of = |bound: &HashBound| Probe::<Slot>::bound(&sought, bound) != Ordering::Greater;
            let child = Probe::<Slot>::child(&sought, &bounds, &mut span);
            prop_assert_eq!(child, bounds.partition_point(right_of));
        }
    }

    #[test]
    fn approaching_keys_that_are_there_or_not_changes_nothing() {
        let mut space = Keyspace::default();
        let keys: Vec<Vec<u8>> = (0..20_000u32).map(|key| key.to_be_bytes().to_vec()).collect();
        let crowded = |key| Place { hash: 7, key };
        for (at, key) in keys.iter().enumerate().filter(|(at, _)| at % 2 == 0) {
            let place = if at % 3 == 0 { crowded(key) } else { space.place(key) };
            space.set_string(place, &vec![b'x'; at % 2000], 0);
            space.approach(keys[at / 2..].iter().take(at % 50).map(Vec::as_slice));
        }
        let places: Vec<Place<'_>> = keys.iter().map(|key| crowded(key)).collect();
        space.keys.approach(&places);
        assert_eq!(space.keys.len(), keys.len() / 2);
    }

    #[test]
    fn keys_that_share_a_hash_and_a_deadline_are_told_apart() {
        let mut space = Keyspace::default();
        let keys: Vec<Vec<u8>> = (0..500u32).map(|key| key.to_be_bytes().to_vec()).collect();
        let place = |key: &'static [u8]| Place { hash: 7, key };
        for key in &keys {
            space.set_string(Place { hash: 7, key }, b"v", 100);
        }
        space.set_string(place(b"other"), b"w", 0);
        assert_eq!((space.keys.len(), space.deadlines.len()), (501, 500));
        for key in keys.iter().step_by(2) {
            assert!(space.get(Place { hash: 7, key }).is_some());
            assert!(space.take(Place { hash: 7, key }).is_some());
            assert!(space.take(Place { hash: 7, key }).is_none());
        }
        for _ in 0..250 {
            let slot = space.first_expired(101).unwrap().clone();
            assert!(space.take(Place { hash: slot.hash, key: slot.key() }).is_some());
        }
        assert!(space.first_expired(101).is_none());
        assert_eq!((space.keys.len(), space.deadlines.len()), (1, 0));
        assert_eq!(space.get(place(b"other")).and_then(Slot::string), Some(&b"w"[..]));
    }
}
