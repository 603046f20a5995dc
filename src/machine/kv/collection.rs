//! What a key may hold besides a short string: long strings, lists, sets, hashes and sorted sets.
//!
//! All large parts are trees, so that a copy shares everything until one side is written to. Each collection counts
//! its bytes as it goes.

use std::cmp::Ordering;
use std::sync::Arc;

use super::hash::Seed;
use super::keyspace::{HashBound, Place, Placed, hash_bound};
use super::packed::Packed;
use super::tree::{Cut, Entry, Probe, Tree};

/// Elements above which a collection is dropped elsewhere.
pub(super) const HEAVY_ELEMENTS: usize = 64;
/// Bytes above which a value is dropped elsewhere.
const HEAVY_BYTES: u64 = 1 << 20;

/// What an object holds.
#[derive(Clone)]
pub(super) enum Value {
    Bytes(Arc<Vec<u8>>),
    List(List),
    Set(Members),
    Hash(Fields),
    Zset(Zset),
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Bytes(_) => "string",
            Value::List(_) => "list",
            Value::Set(_) => "set",
            Value::Hash(_) => "hash",
            Value::Zset(_) => "zset",
        }
    }

    pub(super) fn memory(&self) -> u64 {
        match self {
            // Not what is reserved, which depends on how the string grew and is not the same on every replica.
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.bytes,
            Value::Set(Members(fields)) | Value::Hash(fields) => fields.bytes,
            Value::Zset(zset) => zset.bytes,
        }
    }

    pub(super) fn heavy(&self) -> bool {
        let elements = match self {
            Value::Bytes(_) => 0,
            Value::List(list) => list.elements.len(),
            Value::Set(Members(fields)) | Value::Hash(fields) => fields.len(),
            Value::Zset(zset) => zset.len(),
        };
        elements > HEAVY_ELEMENTS || self.memory() > HEAVY_BYTES
    }
}

/// A type of collection; none is ever stored empty.
pub(super) trait Collection: Default {
    fn of(value: &Value) -> Option<&Self>;
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
    fn into_value(self) -> Value;
    fn len(&self) -> usize;
}

macro_rules! collection {
    ($type:ident, $variant:ident, $len:expr) => {
        impl Collection for $type {
            fn of(value: &Value) -> Option<&Self> {
                match value {
                    Value::$variant(this) => Some(this),
                    _ => None,
                }
            }
            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                match value {
                    Value::$variant(this) => Some(this),
                    _ => None,
                }
            }
            fn into_value(self) -> Value {
                Value::$variant(self)
            }
            fn len(&self) -> usize {
                let len: fn(&Self) -> usize = $len;
                len(self)
            }
        }
    };
}

collection!(List, List, |list| list.elements.len());
collection!(Members, Set, |members| members.0.entries.len());
collection!(Fields, Hash, |fields| fields.entries.len());
collection!(Zset, Zset, |zset| zset.by_score.len());

/// One element of a list or member of a sorted set.
pub(super) type Bytes = Arc<[u8]>;

impl Entry for Bytes {
    type Bound = ();
    fn bound(_: &Self, _: &Self) {}
}

/// What one element costs beside its bytes: the allocation, and its slot in a node.
const ELEMENT: u64 = 16 + 8 + 24;

fn weight(bytes: &[u8]) -> u64 {
    bytes.len() as u64 + ELEMENT
}

/// A list: a tree without an order.
#[derive(Clone, Default)]
pub(super) struct List {
    elements: Tree<Bytes>,
    bytes: u64,
}

impl List {
    pub(super) fn elements(&self) -> &Tree<Bytes> {
        &self.elements
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn push_front(&mut self, element: &[u8]) {
        self.bytes += weight(element);
        self.elements.push_front(Arc::from(element));
    }

    pub(super) fn push_back(&mut self, element: &[u8]) {
        self.bytes += weight(element);
        self.elements.push_back(Arc::from(element));
    }

    pub(super) fn remove(&mut self, rank: usize) -> Option<Bytes> {
        let element = self.elements.remove_at(rank)?;
        self.bytes = self.bytes.saturating_sub(weight(&element));
        Some(element)
    }

    /// Takes away the elements at `ranks`, which ascend. To take one out costs some ten times what it costs to put one
    /// into a list made anew: of many the others are what is moved, and the old list is returned, to be dropped.
    pub(super) fn remove_all(&mut self, ranks: &[usize]) -> Option<Self> {
        /// Elements that stay for each one taken away, at most, for a list to be made anew.
        const STAY: usize = 8;
        if ranks.len() <= HEAVY_ELEMENTS || ranks.len() * STAY < self.elements.len() {
            for rank in ranks.iter().rev() {
                self.remove(*rank);
            }
            return None;
        }
        let mut kept = Self::default();
        let mut gone = ranks.iter().copied().peekable();
        for (rank, element) in self.elements.iter().enumerate() {
            if gone.next_if_eq(&rank).is_none() {
                kept.bytes += weight(element);
                kept.elements.push_back(Arc::clone(element));
            }
        }
        Some(std::mem::replace(self, kept))
    }

    pub(super) fn set(&mut self, rank: usize, element: &[u8]) -> Option<Bytes> {
        let slot = self.elements.at_mut(rank)?;
        let old = std::mem::replace(slot, Arc::from(element));
        self.bytes = (self.bytes + weight(element)).saturating_sub(weight(&old));
        Some(old)
    }

    /// Keeps ranks `from..to`. Counts the bytes of the smaller part; lengths stand in the leaves, beside the pointers,
    /// so that even a long one takes a few milliseconds.
    pub(super) fn keep(&mut self, from: usize, to: usize) -> Cut<Bytes> {
        let len = self.elements.len();
        let (to, from) = (to.min(len), from.min(to.min(len)));
        if to - from <= len / 2 {
            self.bytes = self.weigh(from, to);
        } else {
            self.bytes -= self.weigh(0, from) + self.weigh(to, len);
        }
        self.elements.keep(from, to)
    }

    fn weigh(&self, from: usize, to: usize) -> u64 {
        self.elements.iter_from(from).take(to - from).map(|element| weight(element)).sum()
    }
}

/// A field of a hash with its value, or a member of a set with none.
#[derive(Clone)]
pub(super) struct Field {
    pub(super) hash: u64,
    pub(super) packed: Packed,
}

impl Placed for Field {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn key(&self) -> &[u8] {
        self.packed.key()
    }
}

impl Entry for Field {
    type Bound = HashBound;

    fn bound(left: &Self, right: &Self) -> HashBound {
        hash_bound(left, right)
    }
}

/// The fields of a hash, in the order of their hashes.
#[derive(Clone, Default)]
pub(super) struct Fields {
    entries: Tree<Field>,
    bytes: u64,
}

impl Fields {
    pub(super) fn entries(&self) -> &Tree<Field> {
        &self.entries
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&self, place: Place<'_>) -> Option<&[u8]> {
        self.entries.get(&place).map(|field| field.packed.value())
    }

    /// Sets a field; true when it is new.
    pub(super) fn set(&mut self, place: Place<'_>, value: &[u8]) -> bool {
        if let Some(field) = self.entries.get_mut(&place) {
            if !field.packed.overwrite(0, value, 0) {
                self.bytes = self.bytes.saturating_sub(field.packed.memory());
                field.packed = Packed::new(0, place.key, value);
                self.bytes += field.packed.memory();
            }
            return false;
        }
        let packed = Packed::new(0, place.key, value);
        self.bytes += packed.memory();
        self.entries.insert(&place, Field { hash: place.hash, packed });
        true
    }

    /// Adds a field that comes after all others; for restoring.
    pub(super) fn push_back(&mut self, place: Place<'_>, value: &[u8]) {
        let packed = Packed::new(0, place.key, value);
        self.bytes += packed.memory();
        self.entries.push_back(Field { hash: place.hash, packed });
    }

    pub(super) fn remove(&mut self, place: Place<'_>) -> bool {
        let removed = self.entries.remove(&place);
        self.lighter(removed).is_some()
    }

    pub(super) fn remove_at(&mut self, rank: usize) -> Option<Field> {
        let removed = self.entries.remove_at(rank);
        self.lighter(removed)
    }

    fn lighter(&mut self, removed: Option<Field>) -> Option<Field> {
        if let Some(field) = &removed {
            self.bytes = self.bytes.saturating_sub(field.packed.memory());
        }
        removed
    }
}

/// The members of a set: fields without values.
#[derive(Clone, Default)]
pub(super) struct Members(pub(super) Fields);

impl Members {
    pub(super) fn contains(&self, place: Place<'_>) -> bool {
        self.0.entries.get(&place).is_some()
    }

    /// True when the member is new.
    pub(super) fn add(&mut self, place: Place<'_>) -> bool {
        !self.contains(place) && self.0.set(place, b"")
    }
}

/// A member of a sorted set, as the tree of scores holds it. A score is never NaN.
#[derive(Clone)]
pub(super) struct Scored {
    pub(super) score: f64,
    pub(super) member: Bytes,
}

pub(super) fn compare(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right).unwrap_or(Ordering::Equal)
}

impl Entry for Scored {
    /// The member only where the scores are equal.
    type Bound = (f64, Option<Bytes>);

    fn bound(left: &Self, right: &Self) -> Self::Bound {
        (right.score, (left.score == right.score).then(|| right.member.clone()))
    }
}

/// The place of a member with a score.
struct AtScore<'m>(f64, &'m [u8]);

impl Probe<Scored> for AtScore<'_> {
    fn entry(&self, entry: &Scored) -> Ordering {
        compare(entry.score, self.0).then_with(|| entry.member.as_ref().cmp(self.1))
    }

    fn bound(&self, (score, member): &(f64, Option<Bytes>)) -> Ordering {
        compare(*score, self.0)
            .then_with(|| member.as_ref().map_or(Ordering::Less, |member| member.as_ref().cmp(self.1)))
    }
}

/// A member of a sorted set, as the tree of members holds it.
#[derive(Clone)]
pub(super) struct Ranked {
    hash: u64,
    score: f64,
    member: Bytes,
}

impl Placed for Ranked {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn key(&self) -> &[u8] {
        &self.member
    }
}

impl Entry for Ranked {
    type Bound = HashBound;

    fn bound(left: &Self, right: &Self) -> HashBound {
        hash_bound(left, right)
    }
}

/// A sorted set: each member in both trees.
#[derive(Clone, Default)]
pub(super) struct Zset {
    by_score: Tree<Scored>,
    by_member: Tree<Ranked>,
    bytes: u64,
}

impl Zset {
    /// The members by score, and by their bytes where scores are equal.
    pub(super) fn by_score(&self) -> &Tree<Scored> {
        &self.by_score
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn score(&self, place: Place<'_>) -> Option<f64> {
        self.by_member.get(&place).map(|ranked| ranked.score)
    }

    /// Sets a member's score; hands back the one it had.
    pub(super) fn set(&mut self, place: Place<'_>, score: f64) -> Option<f64> {
        if let Some(ranked) = self.by_member.get_mut(&place) {
            let old = std::mem::replace(&mut ranked.score, score);
            let member = ranked.member.clone();
            self.by_score.remove(&AtScore(old, place.key));
            self.by_score.insert(&AtScore(score, place.key), Scored { score, member });
            return Some(old);
        }
        let member: Bytes = Arc::from(place.key);
        self.bytes += 2 * weight(place.key);
        self.by_member.insert(&place, Ranked { hash: place.hash, score, member: member.clone() });
        self.by_score.insert(&AtScore(score, place.key), Scored { score, member });
        None
    }

    /// Adds a member that comes after all others; for restoring. False when the member is there already.
    pub(super) fn push_back(&mut self, place: Place<'_>, score: f64) -> bool {
        if self.by_member.get(&place).is_some() {
            return false;
        }
        let member: Bytes = Arc::from(place.key);
        self.bytes += 2 * weight(place.key);
        self.by_member.insert(&place, Ranked { hash: place.hash, score, member: member.clone() });
        self.by_score.push_back(Scored { score, member });
        true
    }

    pub(super) fn remove(&mut self, place: Place<'_>) -> bool {
        let Some(ranked) = self.by_member.remove(&place) else { return false };
        self.by_score.remove(&AtScore(ranked.score, place.key));
        self.bytes = self.bytes.saturating_sub(2 * weight(place.key));
        true
    }

    /// Takes out the member with the lowest score.
    pub(super) fn pop_first(&mut self, seed: Seed) -> Option<Scored> {
        let scored = self.by_score.remove_at(0)?;
        self.by_member.remove(&Place { hash: seed.hash(&scored.member), key: &scored.member });
        self.bytes = self.bytes.saturating_sub(2 * weight(&scored.member));
        Some(scored)
    }
}
