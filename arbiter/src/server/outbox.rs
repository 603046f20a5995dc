//! What waits to be written to one caller. Bounded: of a watched record only the latest waits, and a caller that does
//! not read its replies is cut off.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::sync::Notify;

use crate::protocol::FromArbiter;
use crate::record::{GroupName, GroupRecord};
use crate::wire::{Port, encode_frame};

/// Bytes of replies that may wait for a caller to read them.
const LIMIT: usize = 16 * 1024 * 1024;

/// Shared by the loop, which fills it, and the connection, which writes it out.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    replies: BytesMut,
    records: BTreeMap<GroupName, GroupRecord>,
    overflowed: bool,
}

/// The caller does not read what it asked for.
#[derive(Debug, thiserror::Error)]
#[error("more than {LIMIT} bytes of replies wait to be read")]
pub(super) struct Overflow;

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every critical section leaves the value whole, even if a panic ended it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reply(&self, message: &FromArbiter) {
        let mut waiting = self.lock();
        if waiting.replies.len() > LIMIT {
            waiting.overflowed = true;
        } else {
            encode_frame(&mut waiting.replies, Port::Arbiter, message);
        }
        self.wake.notify_one();
    }

    pub(super) fn record(&self, record: &GroupRecord) {
        self.lock().records.insert(record.group.clone(), record.clone());
        self.wake.notify_one();
    }

    /// Waits until there is something to take. Safe to cancel.
    pub(super) async fn filled(&self) {
        self.wake.notified().await;
    }

    /// Moves everything that waits to `out`.
    pub(super) fn take(&self, out: &mut BytesMut) -> Result<(), Overflow> {
        let mut waiting = self.lock();
        if waiting.overflowed {
            return Err(Overflow);
        }
        out.unsplit(waiting.replies.split());
        for (_, record) in std::mem::take(&mut waiting.records) {
            encode_frame(out, Port::Arbiter, &FromArbiter::Record(record));
        }
        Ok(())
    }
}
