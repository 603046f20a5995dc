//! Walking over all keys: SCAN in steps, KEYS on a snapshot.

use super::super::keyspace::{FromHash, Placed as _, Slot};
use super::super::number::integer;
use super::super::pattern::matches;
use super::super::refusal::{CURSOR, Outcome, SYNTAX};
use super::{Args, Reader};

/// Keys that one call of SCAN looks at, at most, whatever its COUNT.
const MOST: usize = 1000;

/// What a step of SCAN may compare on the loop: lengths of its pattern times lengths of keys. Where a pattern has no
/// star, or the keys do not resemble it, it takes far less.
const MOST_COMPARED: u64 = 1 << 22;

/// KEYS: another thread goes over a snapshot.
pub(super) fn keys(reader: &mut Reader<'_>, args: Args<'_>) {
    if reader.leaves() {
        return;
    }
    let now = reader.now();
    let wanted = |slot: &&Slot| !slot.expired(now) && matches(args[0], slot.key());
    let found: Vec<&Slot> = reader.space.keys.iter().filter(wanted).collect();
    reader.reply.array(found.len());
    for slot in found {
        reader.reply.bulk(slot.key());
    }
}

/// A cursor as C's `strtoul` reads it.
fn cursor(text: &[u8]) -> Outcome<u64> {
    if text.is_empty() {
        return Ok(0);
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(CURSOR)
}

/// The cursor is the hash of the first key not looked at: keys that are there all along are found whatever else
/// changes, for their place depends on nothing else. Keys of equal hash are never parted.
pub(super) fn scan(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let from = cursor(args[0])?;
    let (mut count, mut pattern, mut kind) = (10, None, None);
    let mut options = args[1..].iter();
    while let Some(word) = options.next() {
        let value = *options.next().ok_or(SYNTAX)?;
        match word.to_ascii_uppercase().as_slice() {
            b"COUNT" => match usize::try_from(integer(value)?) {
                Ok(asked) if asked > 0 => count = asked.min(MOST),
                _ => return Err(SYNTAX),
            },
            b"MATCH" => pattern = Some(value),
            b"TYPE" => kind = Some(value),
            _ => return Err(SYNTAX),
        }
    }
    let now = reader.now();
    let keys = &reader.space.keys;
    let mut found = Vec::new();
    let (mut next, mut looked, mut last, mut compared) = (0, 0, None, 0);
    for slot in keys.iter_from(keys.rank(&FromHash(from))) {
        if looked >= count && last != Some(slot.hash) {
            next = slot.hash;
            break;
        }
        looked += 1;
        last = Some(slot.hash);
        compared += pattern.map_or(0, |pattern| pattern.len() as u64 * slot.key().len() as u64);
        if compared > MOST_COMPARED && reader.leaves() {
            return Ok(());
        }
        let wanted = !slot.expired(now)
            && pattern.is_none_or(|pattern| matches(pattern, slot.key()))
            && kind.is_none_or(|kind| kind.eq_ignore_ascii_case(slot.kind().as_bytes()));
        if wanted {
            found.push(slot);
        }
    }
    reader.reply.array(2);
    reader.reply.bulk(next.to_string().as_bytes());
    reader.reply.array(found.len());
    for slot in found {
        reader.reply.bulk(slot.key());
    }
    Ok(())
}
