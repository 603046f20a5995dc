//! Connections by number: a place, and a generation that tells one life in it from the next.

/// A place in the slab and its generation: never the same for two connections of one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    place: u32,
    generation: u32,
}

impl Key {
    /// Its place, which others had before.
    pub fn place(self) -> usize {
        self.place as usize
    }

    /// As one number, rising with the generation; what people see as a connection's id.
    pub fn number(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.place)
    }
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

/// Connections by key. A freed place is used again under the next generation.
#[derive(Debug)]
pub struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// Puts in what `make` makes of its key.
    ///
    /// # Errors
    /// Its own; then the place stays free.
    pub fn insert<E>(&mut self, make: impl FnOnce(Key) -> Result<T, E>) -> Result<Key, E> {
        let place = self.free.last().copied().unwrap_or(self.places.len() as u32);
        let generation = self.places.get(place as usize).map_or(0, |slot| slot.generation).wrapping_add(1);
        let key = Key { place, generation };
        let slot = Place { generation, value: Some(make(key)?) };
        match self.places.get_mut(place as usize) {
            Some(free) => {
                self.free.pop();
                *free = slot;
            }
            None => self.places.push(slot),
        }
        self.len += 1;
        Ok(key)
    }

    /// What is in a place now.
    pub fn at(&mut self, place: usize) -> Option<&mut T> {
        self.places.get_mut(place)?.value.as_mut()
    }

    /// What is there, unless it was removed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.places
            .get_mut(key.place as usize)
            .filter(|place| place.generation == key.generation)
            .and_then(|place| place.value.as_mut())
    }

    /// What is there, unless it was removed.
    pub fn peek(&self, key: Key) -> Option<&T> {
        self.places
            .get(key.place as usize)
            .filter(|place| place.generation == key.generation)
            .and_then(|place| place.value.as_ref())
    }

    /// Lends out what is there, so that it and its owner can be used at once; see [`Self::give_back`].
    pub fn lend(&mut self, key: Key) -> Option<T> {
        self.places
            .get_mut(key.place as usize)
            .filter(|place| place.generation == key.generation)
            .and_then(|place| place.value.take())
    }

    /// Puts back what was lent.
    pub fn give_back(&mut self, key: Key, value: T) {
        if let Some(place) = self.places.get_mut(key.place as usize) {
            debug_assert!(place.generation == key.generation && place.value.is_none(), "only what was lent comes back");
            place.value = Some(value);
        }
    }

    /// Takes it out.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.places.get_mut(key.place as usize).filter(|place| place.generation == key.generation)?;
        let value = place.value.take()?;
        self.free.push(key.place);
        self.len -= 1;
        Some(value)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.places.iter().enumerate().filter_map(|(place, slot)| {
            let key = Key { place: place as u32, generation: slot.generation };
            slot.value.as_ref().map(|value| (key, value))
        })
    }

    /// All keys, at this moment.
    pub fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn put(slab: &mut Slab<&'static str>, value: &'static str) -> Key {
        slab.insert(|_| Ok::<_, Infallible>(value)).unwrap()
    }

    #[test]
    fn a_key_outlives_nothing() {
        let mut slab = Slab::default();
        let first = put(&mut slab, "first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = put(&mut slab, "second");
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut "second"));
        assert_eq!((first.place(), slab.at(second.place())), (second.place(), Some(&mut "second")));
        assert!(second.number() > first.number());
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn what_cannot_be_made_takes_no_place() {
        let mut slab = Slab::default();
        for value in ["first", "second"] {
            assert_eq!(slab.insert(|_| Err("no")), Err("no"));
            let key = put(&mut slab, value);
            assert_eq!((slab.len(), slab.peek(key)), (1, Some(&value)));
            assert_eq!(slab.remove(key), Some(value));
            assert_eq!((slab.len(), key.place(), slab.at(0)), (0, 0, None));
        }
    }
}
