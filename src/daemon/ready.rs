//! Who has something to do: connections by number, a waker for each, and the list they put themselves on.
//!
//! One future owns every connection. What wakes it is remembered here, so that a turn looks only at connections that
//! are ready, however many there are. Deliberately not here: what a connection does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// A place in the slab and its generation: never the same for two connections of one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    place: u32,
    generation: u32,
}

impl Key {
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
    pub fn insert(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, value: None });
            (self.places.len() - 1) as u32
        });
        let slot = &mut self.places[place as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let key = Key { place, generation: slot.generation };
        slot.value = Some(make(key));
        self.len += 1;
        key
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

#[derive(Debug, Default)]
struct State {
    keys: VecDeque<Key>,
    /// Woken when the list becomes non-empty; taken then, so that the rest of a burst costs nothing.
    turn: Option<Waker>,
}

/// The keys that have something to do, in the order in which it came. The lock is taken by this thread's own reactor
/// and the loop, never by two threads at a time; it only makes the wakers `Send`.
#[derive(Debug, Default)]
pub struct Ready {
    state: Mutex<State>,
}

impl Ready {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing in the critical sections can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn begins: everything on the list. `waker` is woken by the next one that comes.
    pub fn take(&self, waker: &Waker, into: &mut VecDeque<Key>) {
        let mut state = self.lock();
        into.append(&mut state.keys);
        match &mut state.turn {
            Some(turn) => turn.clone_from(waker),
            turn => *turn = Some(waker.clone()),
        }
    }

    fn push(&self, key: Key) {
        let turn = {
            let mut state = self.lock();
            state.keys.push_back(key);
            state.turn.take()
        };
        if let Some(turn) = turn {
            turn.wake();
        }
    }

    /// The waker of one connection.
    pub fn waker(self: &Arc<Self>, key: Key) -> Arc<ConnectionWaker> {
        Arc::new(ConnectionWaker { key, ready: Arc::clone(self), listed: AtomicBool::new(false) })
    }
}

/// Puts its connection on the list, once until it was looked at.
#[derive(Debug)]
pub struct ConnectionWaker {
    key: Key,
    ready: Arc<Ready>,
    listed: AtomicBool,
}

impl ConnectionWaker {
    /// The connection is being looked at; what comes from now on lists it again.
    pub fn looked_at(&self) {
        self.listed.store(false, Ordering::Release);
    }
}

impl Wake for ConnectionWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            self.ready.push(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_key_outlives_nothing() {
        let mut slab = Slab::default();
        let first = slab.insert(|_| "first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert(|_| "second");
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut "second"));
        assert!(second.number() > first.number());
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn a_burst_wakes_the_loop_once_and_lists_each_connection_once() {
        let (ready, count) = (Arc::new(Ready::default()), Arc::new(Count::default()));
        let turn = Waker::from(Arc::clone(&count));
        let mut slab = Slab::default();
        let (a, b) = (slab.insert(|_| ()), slab.insert(|_| ()));
        let (wake_a, wake_b) = (ready.waker(a), ready.waker(b));
        let mut keys = VecDeque::new();
        ready.take(&turn, &mut keys);
        for _ in 0..3 {
            wake_a.wake_by_ref();
            wake_b.wake_by_ref();
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        ready.take(&turn, &mut keys);
        assert_eq!(keys, [a, b]);
        wake_a.looked_at();
        wake_a.wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }
}
