//! Marks of syncs that were begun and have not come back.
//!
//! A sync that fails takes with it what had only been written: in `buffered` that was acknowledged long ago. After it
//! nothing is asked of the disk any more, so the next start must know of it from what was there before. While the sync of
//! a segment is under way an empty file stands beside it, whose name says how far the segment was good:
//! `doubt-000000000007-16777216`. It need not be durable itself: only the next process under the same system needs it,
//! and after the end of the system `buffered` promises nothing.
//!
//! A start that finds a mark and the segment whole to its length (the process died in the sync, or right after it) has
//! lost nothing. One that finds less knows why: the journal ends there, and the incarnation with it. The same damage
//! without a mark is nobody's sync, and needs a person.

use std::collections::BTreeMap;

use super::disk::{Disk, DiskError};
use super::record::{At, SEGMENT_HEAD, SegmentHead, read};
use super::scan::contents;

const PREFIX: &str = "doubt-";

/// The mark of a segment, and how far it is good.
pub(super) fn name(segment: u64, length: u64) -> String {
    format!("{PREFIX}{segment:012}-{length}")
}

fn parse(name: &str) -> Option<(u64, u64)> {
    let (segment, length) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Some((segment.parse().ok()?, length.parse().ok()?))
}

/// The marks among the names of a life's directory: how far each segment was good.
pub(super) fn marks(names: &[String]) -> BTreeMap<u64, u64> {
    let mut marks = BTreeMap::new();
    for (segment, length) in names.iter().filter_map(|name| parse(name)) {
        let known = marks.entry(segment).or_insert(length);
        *known = length.max(*known);
    }
    marks
}

/// Their names.
pub(super) fn names(names: &[String]) -> impl Iterator<Item = &String> {
    names.iter().filter(|name| parse(name).is_some())
}

/// Syncs a segment that is good up to `length`, as the next start will know if that fails.
pub(super) fn sync<D: Disk>(
    disk: &D,
    directory: &str,
    file: &D::File,
    (segment, length): (u64, u64),
) -> Result<(), DiskError> {
    let mark = format!("{directory}/{}", name(segment, length));
    disk.create(&mark)?;
    disk.sync(file)?;
    disk.remove(&mark)
}

/// How far a segment is good as the process before has written it, whatever the device has of it.
pub(super) fn good<D: Disk>(disk: &D, path: &str) -> Result<u64, DiskError> {
    let bytes = contents(disk, path)?;
    let Ok(head) = SegmentHead::decode(&bytes) else { return Ok(0) };
    let mut at = SEGMENT_HEAD;
    while at < bytes.len()
        && let At::Record(_, length) = read(head.seed(), &bytes.slice(at..))
    {
        at += length;
    }
    Ok(at as u64)
}
