//! Who has something to do: connections by number, a waker for each, and the list they put themselves on; and the few
//! other sources of work.
//!
//! One future owns all of them. What wakes it is remembered here, so that a turn looks only at those that are ready,
//! however many there are: most turns serve one connection, and what is not looked at need not be in the processor's
//! cache. Deliberately not here: what a connection or a source does.

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

/// What has work for the loop besides its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Other threads.
    Messages,
    /// The ports: somebody dialled.
    Ports,
    /// The workers: something is decoded or made again.
    Workers,
    /// The alarm: it has rung.
    Alarm,
}

/// Some sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sources(u8);

impl Sources {
    /// All that there are.
    pub const ALL: Self = Self(0b1111);
    const NONE: Self = Self(0);

    /// One more.
    pub fn add(&mut self, source: Source) {
        self.0 |= 1 << source as u8;
    }

    /// Takes one out; true if it was there.
    pub fn take(&mut self, source: Source) -> bool {
        let bit = 1 << source as u8;
        let was = self.0 & bit != 0;
        self.0 &= !bit;
        was
    }

    /// All but one.
    pub fn without(mut self, source: Source) -> Self {
        self.take(source);
        self
    }

    /// True when there are none.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }
}

impl Default for Sources {
    fn default() -> Self {
        Self::NONE
    }
}

#[derive(Debug, Default)]
struct State {
    keys: VecDeque<Key>,
    sources: Sources,
    /// Woken when the list becomes non-empty; taken then, so that the rest of a burst costs nothing.
    turn: Option<Waker>,
}

/// The keys that have something to do, in the order in which it came, and the sources. The lock is held for a few
/// instructions, nearly always by this thread's own reactor or the loop: other threads take it when they have a message.
#[derive(Debug, Default)]
pub struct Ready {
    state: Mutex<State>,
}

impl Ready {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing in the critical sections can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn begins: everything on the list, and the sources that have called. `waker` is woken by the next one that
    /// comes.
    pub fn take(&self, waker: &Waker, into: &mut VecDeque<Key>, sources: &mut Sources) {
        let mut state = self.lock();
        into.append(&mut state.keys);
        sources.0 |= std::mem::take(&mut state.sources).0;
        match &mut state.turn {
            Some(turn) => turn.clone_from(waker),
            turn => *turn = Some(waker.clone()),
        }
    }

    fn note(&self, what: impl FnOnce(&mut State)) {
        let turn = {
            let mut state = self.lock();
            what(&mut state);
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

    /// The waker of one source. It must be polled until there is no more, or stay among the sources of the next turn.
    pub fn source(self: &Arc<Self>, source: Source) -> Waker {
        Waker::from(Arc::new(SourceWaker { source, ready: Arc::clone(self) }))
    }
}

/// Notes that its source has work.
struct SourceWaker {
    source: Source,
    ready: Arc<Ready>,
}

impl Wake for SourceWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.note(|state| state.sources.add(self.source));
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
            self.ready.note(|state| state.keys.push_back(self.key));
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
        let (mut keys, mut sources) = (VecDeque::new(), Sources::default());
        ready.take(&turn, &mut keys, &mut sources);
        for _ in 0..3 {
            wake_a.wake_by_ref();
            wake_b.wake_by_ref();
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        ready.take(&turn, &mut keys, &mut sources);
        assert_eq!((&keys, sources), (&VecDeque::from([a, b]), Sources::default()));
        wake_a.looked_at();
        wake_a.wake_by_ref();
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_source_that_calls_wakes_the_loop_and_is_looked_at_once() {
        let (ready, count) = (Arc::new(Ready::default()), Arc::new(Count::default()));
        let turn = Waker::from(Arc::clone(&count));
        let (messages, alarm) = (ready.source(Source::Messages), ready.source(Source::Alarm));
        let (mut keys, mut sources) = (VecDeque::new(), Sources::default());
        messages.wake_by_ref();
        ready.take(&turn, &mut keys, &mut sources);
        assert!(sources.take(Source::Messages) && sources.is_empty(), "it called before the first turn");
        // From another thread, as messages come.
        std::thread::spawn(move || (messages.wake_by_ref(), messages.wake())).join().unwrap();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        // One that was not done with stays beside those that call.
        sources.add(Source::Ports);
        alarm.wake();
        ready.take(&turn, &mut keys, &mut sources);
        for source in [Source::Messages, Source::Ports, Source::Alarm] {
            assert!(sources.take(source) && !sources.take(source), "{source:?}");
        }
        assert!(sources.is_empty());
        let mut all = Sources::ALL;
        for source in [Source::Messages, Source::Ports, Source::Workers, Source::Alarm] {
            assert!(all.take(source));
        }
        assert!(all.is_empty());
    }
}
