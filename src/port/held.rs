//! Replies that wait for their release, in the order of their requests.
//!
//! Each part has a [`Hold`] and either its bytes or a slot that another thread fills later. Nothing passes an earlier
//! part: what is released is the longest prefix that is covered and filled. Deliberately not here: protocols; `T`
//! says how a part's bytes are to be written.

use std::collections::VecDeque;

use bytes::{Buf as _, BytesMut};

use crate::replica::{Hold, Release};

/// An empty buffer with more room than this goes back to the allocator, in bytes.
const KEEP: usize = 256 << 10;

#[derive(Debug)]
enum Body {
    /// So many bytes at the front of the buffer.
    Bytes(usize),
    /// Another thread writes it.
    Empty(u64),
    /// Another thread wrote it.
    Filled(Vec<u8>),
}

#[derive(Debug)]
struct Part<T> {
    hold: Hold,
    kind: T,
    body: Body,
}

/// The queue of one connection.
#[derive(Debug)]
pub struct Held<T> {
    bytes: BytesMut,
    parts: VecDeque<Part<T>>,
    /// Bytes in filled slots.
    filled: usize,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), parts: VecDeque::new(), filled: 0 }
    }
}

impl<T> Held<T> {
    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How many parts wait.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Bytes that wait, and something for every part.
    pub fn weight(&self) -> usize {
        self.bytes.len() + self.filled + self.parts.len() * size_of::<Part<T>>()
    }

    /// Adds a part whose bytes `write` appends.
    pub fn push(&mut self, hold: Hold, kind: T, write: impl FnOnce(&mut BytesMut)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.parts.push_back(Part { hold, kind, body: Body::Bytes(self.bytes.len() - before) });
    }

    /// Like [`Self::push`], but joins the last part if it has the same hold and kind; true if it did not.
    pub fn join(&mut self, hold: Hold, kind: T, write: impl FnOnce(&mut BytesMut)) -> bool
    where
        T: PartialEq,
    {
        if let Some(Part { hold: last, kind: same, body: Body::Bytes(length) }) = self.parts.back_mut()
            && *last == hold
            && *same == kind
        {
            let before = self.bytes.len();
            write(&mut self.bytes);
            *length += self.bytes.len() - before;
            return false;
        }
        self.push(hold, kind, write);
        true
    }

    /// Adds a part that needs no release of its own, only its place behind the others.
    pub fn follow(&mut self, kind: T, write: impl FnOnce(&mut BytesMut))
    where
        T: PartialEq,
    {
        self.join(self.last_hold(), kind, write);
    }

    /// The hold of the last part.
    pub fn last_hold(&self) -> Hold {
        self.parts.back().map_or_else(Hold::default, |part| part.hold)
    }

    /// The kind of the last part.
    pub fn newest(&self) -> Option<&T> {
        self.parts.back().map(|part| &part.kind)
    }

    /// Adds a slot that [`Self::fill`] fills.
    pub fn defer(&mut self, hold: Hold, kind: T, ticket: u64) {
        self.parts.push_back(Part { hold, kind, body: Body::Empty(ticket) });
    }

    /// The kind of a slot that waits to be filled.
    pub fn slot(&self, ticket: u64) -> Option<&T> {
        let slot = |part: &&Part<T>| matches!(part.body, Body::Empty(waiting) if waiting == ticket);
        self.parts.iter().find(slot).map(|part| &part.kind)
    }

    /// Fills a slot.
    pub fn fill(&mut self, ticket: u64, bytes: Vec<u8>) {
        let slot = self.parts.iter_mut().find(|part| matches!(part.body, Body::Empty(waiting) if waiting == ticket));
        if let Some(part) = slot {
            self.filled += bytes.len();
            part.body = Body::Filled(bytes);
        }
    }

    /// Gives the longest prefix that is covered and filled to `sink`, part by part.
    pub fn release(&mut self, release: &Release, mut sink: impl FnMut(&T, &[u8])) {
        while let Some(part) = self.parts.front()
            && release.covers(part.hold)
        {
            match &part.body {
                Body::Empty(_) => break,
                Body::Bytes(length) => {
                    sink(&part.kind, &self.bytes[..*length]);
                    self.bytes.advance(*length);
                }
                Body::Filled(bytes) => {
                    sink(&part.kind, bytes);
                    self.filled -= bytes.len();
                }
            }
            self.parts.pop_front();
        }
        if self.bytes.is_empty() {
            // An empty `BytesMut` that was advanced has lost its front; clearing does not give it back, `new` does.
            if self.bytes.capacity() > KEEP { self.bytes = BytesMut::new() } else { self.bytes.clear() }
        }
    }

    /// Drops everything: it was never sent and never will be.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(index: u64, round: u64) -> Hold {
        Hold { index, round }
    }

    fn up_to(commit: u64, round: u64) -> Release {
        Release { commit, round, open: true, ..Release::default() }
    }

    fn released(held: &mut Held<u8>, release: Release) -> Vec<u8> {
        let mut out = Vec::new();
        held.release(&release, |_, bytes| out.extend_from_slice(bytes));
        out
    }

    #[test]
    fn the_longest_covered_prefix_is_released_and_nothing_passes_it() {
        let mut held = Held::default();
        held.push(hold(1, 0), 0, |out| out.extend_from_slice(b"a"));
        held.push(hold(1, 5), 0, |out| out.extend_from_slice(b"b"));
        held.push(hold(2, 0), 0, |out| out.extend_from_slice(b"c"));
        assert_eq!(released(&mut held, up_to(0, 9)), b"");
        assert_eq!(released(&mut held, up_to(2, 4)), b"a", "the read waits for its round, the write behind it too");
        assert_eq!(released(&mut held, up_to(2, 5)), b"bc");
        assert!(held.is_empty());
        assert_eq!(held.weight(), 0);
    }

    #[test]
    fn a_closed_release_lets_nothing_through() {
        let mut held = Held::default();
        held.push(Hold::default(), 0, |out| out.extend_from_slice(b"a"));
        assert_eq!(released(&mut held, Release { open: false, ..up_to(9, 9) }), b"");
    }

    #[test]
    fn a_slot_keeps_its_place_until_it_is_filled() {
        let mut held = Held::default();
        held.push(hold(1, 0), 0, |out| out.extend_from_slice(b"a"));
        held.defer(hold(1, 0), 0, 7);
        held.push(hold(1, 0), 0, |out| out.extend_from_slice(b"c"));
        assert_eq!(released(&mut held, up_to(1, 0)), b"a");
        held.fill(8, b"?".to_vec());
        assert_eq!(released(&mut held, up_to(1, 0)), b"");
        held.fill(7, b"b".to_vec());
        assert_eq!(released(&mut held, up_to(1, 0)), b"bc");
    }

    #[test]
    fn equal_holds_share_a_part() {
        let mut held = Held::default();
        assert!(held.join(hold(1, 0), 0, |out| out.extend_from_slice(b"a")));
        assert!(!held.join(hold(1, 0), 0, |out| out.extend_from_slice(b"b")));
        assert!(held.join(hold(2, 0), 0, |out| out.extend_from_slice(b"c")));
        held.follow(0, |out| out.extend_from_slice(b"d"));
        assert_eq!(held.parts(), 2);
        assert_eq!(released(&mut held, up_to(1, 0)), b"ab");
        assert_eq!(released(&mut held, up_to(2, 0)), b"cd");
    }
}
