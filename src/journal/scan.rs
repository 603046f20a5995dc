//! One segment read back: its records, and where they end.
//!
//! What a crash can have torn depends on how the last run ended, and on nothing else:
//!
//! | ending | what may be bad | everything else |
//! |---|---|---|
//! | closed | nothing: the end is known to the byte | damage |
//! | the process died, the system did not | the very last record. Short: a write stopped. Anything else (a sync that failed, or decay): nobody knows whether it had been promised, and the incarnation ends | damage |
//! | a sync failed (`doubt`) | the segment it was for and those after it, in any way; the incarnation ends | damage |
//! | the system stopped, `sync` | the very last record, in any way: it was not synced, so nobody was told of it | damage |
//! | the system stopped, `buffered` | the last two segments, in any way | damage |
//!
//! "The very last" means that no later segment exists and no record's head stands anywhere behind it: records are
//! synced one by one, so a later record proves that the earlier one was whole.

use bytes::Bytes;
use cutover_arbiter::planted;

use super::disk::{Disk, DiskError};
use super::error::JournalError;
use super::record::{At, BadHead, RECORD_MAGIC, Record, SEGMENT_HEAD, SegmentHead, is_head, read};

/// Why something is missing that nobody had synced.
pub(super) const UNSYNCED: &str = "what the last run wrote had not reached the disk";

/// Why nobody knows whether what is missing had been promised.
const LAST_IS_BAD: &str =
    "the last record of its journal is damaged, and nobody knows whether it had been acknowledged";

/// How the last run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// In order; everything was synced.
    Closed,
    /// The process died; what it wrote is in the page cache.
    Killed,
    /// The system stopped; at most one record was not synced.
    PowerLost,
    /// The system stopped; nobody knows what was synced of the last two segments.
    Unsynced,
}

impl Ending {
    /// True when anything may be wrong with a segment that so many follow.
    pub(super) fn forgives(self, later: usize) -> bool {
        self == Ending::Unsynced && later <= 1
    }
}

/// A segment, read.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) head: SegmentHead,
    /// With the offset at which each begins.
    pub(super) records: Vec<(u64, Record)>,
    /// Where the good records end.
    pub(super) good: u64,
    pub(super) length: u64,
    /// What stands there that is no good record.
    pub(super) torn: Option<&'static str>,
    /// Why that may have been promised.
    pub(super) unproven: Option<&'static str>,
}

/// What a segment turned out to be.
#[derive(Debug)]
pub(super) enum Segment {
    Good(Scanned),
    /// The crash came before it had a head: nothing was ever written to it.
    Unborn,
}

/// Reads the segment `file`; `later` is how many segments follow it; when `lenient`, anything may be wrong with it.
pub(super) fn scan<D: Disk>(
    disk: &D,
    file: &str,
    (later, lenient): (usize, bool),
    ending: Ending,
) -> Result<Segment, JournalError> {
    let bytes = contents(disk, file)?;
    let head = match SegmentHead::decode(&bytes) {
        Ok(head) => head,
        Err(BadHead::Version(found)) => {
            return Err(JournalError::Version {
                file: file.to_owned(),
                found: format!("journal format {found}"),
                known: "another journal format".to_owned(),
            });
        }
        Err(BadHead::Damaged) => {
            let unborn = match ending {
                Ending::Closed => false,
                Ending::Killed | Ending::PowerLost | Ending::Unsynced => bytes.len() <= SEGMENT_HEAD,
            };
            if (unborn && later == 0) || lenient {
                return Ok(Segment::Unborn);
            }
            return Err(JournalError::damaged(file, 0, "its head does not fit"));
        }
    };
    let mut at = SEGMENT_HEAD;
    let (length, good) = (bytes.len() as u64, at as u64);
    let mut scanned = Scanned { head, records: Vec::new(), good, length, torn: None, unproven: None };
    while at < bytes.len() {
        let rest = bytes.slice(at..);
        match read(head.seed(), &rest) {
            At::Record(record, length) => {
                scanned.records.push((at as u64, record));
                at += length;
                scanned.good = at as u64;
            }
            fault @ (At::Short | At::Bad(_)) if lenient => {
                // A process that dies leaves a record short and nothing behind it: more than that is no mere death.
                let more = matches!(fault, At::Bad(_)) || next_head(head.seed(), &rest).is_some();
                scanned.unproven = (ending == Ending::Killed && more).then_some(LAST_IS_BAD);
                scanned.torn = Some(UNSYNCED);
                break;
            }
            at_fault => {
                scanned.torn = Some(judge(file, &head, at as u64, &rest, &at_fault, later, ending)?);
                let scribbled = ending == Ending::Killed && matches!(at_fault, At::Bad(_));
                scanned.unproven = scribbled.then_some(LAST_IS_BAD);
                break;
            }
        }
    }
    Ok(Segment::Good(scanned))
}

/// A torn tail, or damage.
fn judge(
    file: &str,
    head: &SegmentHead,
    at: u64,
    rest: &Bytes,
    fault: &At,
    later: usize,
    ending: Ending,
) -> Result<&'static str, JournalError> {
    let damaged = |what: String| Err(JournalError::damaged(file, at, what));
    let what = match fault {
        At::Bad(what) => *what,
        _ => "a record ends in the middle",
    };
    if later > 0 && !planted!("D3") {
        return damaged(format!("{what}, and a later segment exists"));
    }
    if let Some(next) = next_head(head.seed(), rest).filter(|_| !planted!("D3")) {
        return damaged(format!("{what}, and a later record stands at offset {}", at + next as u64));
    }
    match (ending, fault) {
        _ if planted!("D2") => damaged(what.to_owned()),
        (Ending::Closed, _) => damaged(format!("{what}, although the journal was closed in order")),
        _ => Ok(what),
    }
}

/// Offset of the next record's head after the one at the beginning of `rest`.
fn next_head(seed: u32, rest: &[u8]) -> Option<usize> {
    let candidates = rest.windows(RECORD_MAGIC.len()).enumerate().skip(1);
    candidates.filter(|(_, window)| *window == RECORD_MAGIC).map(|(at, _)| at).find(|at| is_head(seed, &rest[*at..]))
}

pub(super) fn contents<D: Disk>(disk: &D, path: &str) -> Result<Bytes, DiskError> {
    let file = disk.open(path)?;
    let length = disk.length(&file)?;
    let mut bytes = vec![0; length as usize];
    let read = disk.read(&file, 0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes.into())
}
