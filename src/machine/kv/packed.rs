//! A key and its value in one allocation, which is what most of the memory at rest consists of.
//!
//! `[key length * 2 + has deadline: varint] [deadline: u64 LE, if any] [key] [value]`. Never leaves the process.

use std::sync::Arc;

use super::varint;

/// Group clock in milliseconds since 1970, as Redis counts deadlines; 0 stands for none.
pub(super) type Millis = u64;

/// A key with a value of bytes and perhaps a deadline. Cloning it copies a pointer.
#[derive(Clone)]
pub(super) struct Packed(Arc<[u8]>);

/// Longest head: a varint and a deadline.
const HEAD: usize = varint::LONGEST + 8;

/// What a [`Packed`] holds.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) deadline: Millis,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl Packed {
    /// Built in one allocation where it is small, which is the rule.
    pub(super) fn new(deadline: Millis, key: &[u8], value: &[u8]) -> Self {
        const SMALL: usize = 256;
        let mut head = [0u8; HEAD];
        let head = head_of(deadline, key.len(), &mut head);
        let length = head.len() + key.len() + value.len();
        if length <= SMALL {
            let mut buffer = [0u8; SMALL];
            buffer[..head.len()].copy_from_slice(head);
            buffer[head.len()..head.len() + key.len()].copy_from_slice(key);
            buffer[head.len() + key.len()..length].copy_from_slice(value);
            return Self(Arc::from(&buffer[..length]));
        }
        let mut buffer = Vec::with_capacity(length);
        buffer.extend_from_slice(head);
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(value);
        Self(Arc::from(buffer))
    }

    pub(super) fn key(&self) -> &[u8] {
        self.parts().key
    }

    pub(super) fn value(&self) -> &[u8] {
        self.parts().value
    }

    /// Reads its first and its last byte, for the sake of having come by.
    pub(super) fn touch(&self) -> u8 {
        self.0.first().zip(self.0.last()).map_or(0, |(first, last)| first ^ last)
    }

    pub(super) fn parts(&self) -> Parts<'_> {
        let (deadline, start, key_length) = self.layout();
        let (key, value) = self.0[start..].split_at(key_length);
        Parts { deadline, key, value }
    }

    fn layout(&self) -> (Millis, usize, usize) {
        let (mut word, mut start) = (0usize, 0);
        loop {
            let byte = self.0[start];
            word |= usize::from(byte & 0x7f) << (7 * start);
            start += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut deadline = 0;
        if word & 1 == 1 {
            if let Some((bytes, _)) = self.0[start..].split_first_chunk::<8>() {
                deadline = u64::from_le_bytes(*bytes);
            }
            start += 8;
        }
        (deadline, start, word >> 1)
    }

    /// Puts another value of the same length in place, unless the deadline is another, has passed by `now`, or a
    /// snapshot holds the old value.
    pub(super) fn overwrite(&mut self, deadline: Millis, value: &[u8], now: Millis) -> bool {
        let (old_deadline, start, key_length) = self.layout();
        let expired = deadline != 0 && now > deadline;
        if old_deadline != deadline || expired || self.0.len() - start - key_length != value.len() {
            return false;
        }
        match Arc::get_mut(&mut self.0) {
            Some(bytes) => {
                bytes[start + key_length..].copy_from_slice(value);
                true
            }
            None => false,
        }
    }

    /// Bytes of memory, with what the allocator and the tree's node add, roughly.
    pub(super) fn memory(&self) -> u64 {
        (self.0.len() as u64 + 16 + 8).next_multiple_of(16) + 32
    }
}

fn head_of(deadline: Millis, key_length: usize, buffer: &mut [u8; HEAD]) -> &[u8] {
    let word = key_length << 1 | usize::from(deadline != 0);
    let (number, rest) = buffer.split_at_mut(varint::LONGEST);
    let mut length = number.first_chunk_mut().map_or(0, |number| varint::write(word as u64, number));
    if deadline != 0 {
        rest.copy_from_slice(&deadline.to_le_bytes());
        buffer.copy_within(varint::LONGEST.., length);
        length += 8;
    }
    &buffer[..length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn holds_what_was_put_in(
            deadline in prop_oneof![Just(0u64), any::<u64>()],
            key in prop::collection::vec(any::<u8>(), 0..300),
            value in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut packed = Packed::new(deadline, &key, &value);
            let parts = packed.parts();
            prop_assert_eq!((parts.deadline, parts.key, parts.value), (deadline, &key[..], &value[..]));
            let other = vec![7; value.len()];
            prop_assert!(packed.overwrite(deadline, &other, deadline));
            prop_assert!(!packed.overwrite(deadline ^ 1, &value, 0), "another deadline");
            if let Some(later) = deadline.checked_add(1).filter(|later| *later > 1) {
                prop_assert!(!packed.overwrite(deadline, &value, later), "past its deadline");
            }
            let shared = packed.clone();
            prop_assert!(!packed.overwrite(deadline, &value, 0));
            prop_assert_eq!(shared.value(), &other[..]);
        }
    }
}
