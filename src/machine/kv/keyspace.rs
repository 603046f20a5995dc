//! All keys with their values and deadlines, and the running estimate of the memory they take.
//!
//! Knows nothing of commands, replies or captured values; what a key holds besides bytes is in [`super::collection`].

use std::cmp::Ordering;
use std::sync::Arc;

use super::collection::{Collection, Value};
use super::hash::Seed;
use super::packed::{Millis, Packed};
use super::tree::{Entry, Probe, Tree};

/// Key and value together above this many bytes are kept apart, so that appending to the value does not copy both.
const PACKED_LIMIT: usize = 1024;

/// A key's place in the order: its hash, then its bytes.
#[derive(Clone, Copy)]
pub(super) struct Place<'k> {
    pub(super) hash: u64,
    pub(super) key: &'k [u8],
}

/// Something with a place in the order of hashes.
pub(super) trait Placed {
    fn place(&self) -> Place<'_>;
}

/// Separates two entries by hash, and carries the right one's key only where the hashes are equal.
pub(super) type HashBound = (u64, Option<Box<[u8]>>);

pub(super) fn hash_bound<T: Placed>(left: &T, right: &T) -> HashBound {
    let (left, right) = (left.place(), right.place());
    (right.hash, (left.hash == right.hash).then(|| Box::from(right.key)))
}

impl<T: Placed + Entry<Bound = HashBound>> Probe<T> for Place<'_> {
    fn entry(&self, entry: &T) -> Ordering {
        let entry = entry.place();
        entry.hash.cmp(&self.hash).then_with(|| entry.key.cmp(self.key))
    }

    fn bound(&self, (hash, key): &HashBound) -> Ordering {
        hash.cmp(&self.hash).then_with(|| key.as_ref().map_or(Ordering::Less, |key| key.as_ref().cmp(self.key)))
    }
}

/// Just before the first entry whose hash is not below.
pub(super) struct FromHash(pub(super) u64);

impl<T: Placed + Entry<Bound = HashBound>> Probe<T> for FromHash {
    fn entry(&self, entry: &T) -> Ordering {
        if entry.place().hash < self.0 { Ordering::Less } else { Ordering::Greater }
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
    fn place(&self) -> Place<'_> {
        Place { hash: self.hash, key: self.key() }
    }
}

impl Entry for Slot {
    type Bound = HashBound;

    fn bound(left: &Self, right: &Self) -> HashBound {
        hash_bound(left, right)
    }
}

impl Slot {
    pub(super) fn key(&self) -> &[u8] {
        match &self.body {
            Body::Packed(packed) => packed.key(),
            Body::Object(object) => &object.key,
        }
    }

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
            Body::Object(object) => Self::object(deadline, key, object.value.clone()),
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

    /// The key, whether its deadline is past or not.
    pub(super) fn get(&self, place: Place<'_>) -> Option<&Slot> {
        self.keys.get(&place)
    }

    /// Sets a string; hands back what the key held, unless that was overwritten in place.
    pub(super) fn set_string(&mut self, place: Place<'_>, value: &[u8], deadline: Millis) -> Option<Body> {
        let body = match self.keys.get_mut(&place) {
            Some(slot) => {
                if let Body::Packed(packed) = &mut slot.body
                    && packed.parts().deadline == deadline
                    && packed.overwrite(value)
                {
                    return None;
                }
                let body = Body::string(deadline, place.key, value);
                self.memory += body.memory();
                std::mem::replace(&mut slot.body, body)
            }
            None => {
                self.insert(place, Body::string(deadline, place.key, value));
                return None;
            }
        };
        self.memory = self.memory.saturating_sub(body.memory());
        self.move_deadline(place.hash, body.deadline(), deadline);
        Some(body)
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

    fn insert(&mut self, place: Place<'_>, body: Body) {
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
