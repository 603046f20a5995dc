//! The thread that writes to the store, so that the loop never waits for the disk. Batches that queued up while one
//! was written go into one commit.

use std::sync::mpsc;
use std::thread;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::raft::PersistBatch;
use crate::store::{Store, StoreError};

/// The highest sequence that is durable now, or why nothing more will be.
pub(super) type Durable = Result<u64, StoreError>;

/// The loop's end of the thread. Dropping it lets the thread finish what it was given and end.
pub(super) struct Disk {
    batches: Option<mpsc::Sender<PersistBatch>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Disk {
    pub(super) fn spawn(store: Store) -> std::io::Result<(Self, UnboundedReceiver<Durable>)> {
        // Not bounded here: the core stops accepting proposals when too much waits to be committed.
        let (batches, receiver) = mpsc::channel();
        let (done, durable) = unbounded_channel();
        let thread =
            thread::Builder::new().name(String::from("arbiter-store")).spawn(move || run(store, &receiver, &done))?;
        Ok((Self { batches: Some(batches), thread: Some(thread) }, durable))
    }

    pub(super) fn write(&self, batch: PersistBatch) {
        // A thread that is gone has said why on the other channel.
        let _ = self.batches.as_ref().map(|batches| batches.send(batch));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            // A panic in the store was reported by the panic itself; the store is closed either way.
            let _ = thread.join();
        }
    }
}

fn run(mut store: Store, batches: &mpsc::Receiver<PersistBatch>, done: &UnboundedSender<Durable>) {
    let mut next = batches.recv().ok();
    while let Some(mut batch) = next.take() {
        while let Ok(later) = batches.try_recv() {
            match merge(batch, later) {
                Ok(merged) => batch = merged,
                Err(apart) => {
                    (batch, next) = (apart.0, Some(apart.1));
                    break;
                }
            }
        }
        let durable = store.persist(&batch).map(|()| batch.sequence);
        let failed = durable.is_err();
        if done.send(durable).is_err() || failed {
            return;
        }
        next = next.or_else(|| batches.recv().ok());
    }
}

/// One batch with the effect of both, or both back when there is none: nothing is written past a snapshot.
fn merge(mut first: PersistBatch, later: PersistBatch) -> Result<PersistBatch, Box<(PersistBatch, PersistBatch)>> {
    if first.snapshot.is_some() || later.snapshot.is_some() {
        return Err(Box::new((first, later)));
    }
    if let Some(cut) = later.truncate_from {
        first.entries.retain(|entry| entry.index < cut);
        first.truncate_from = Some(first.truncate_from.map_or(cut, |earlier| earlier.min(cut)));
    }
    if let Some(start) = later.entries.first() {
        first.entries.retain(|entry| entry.index < start.index);
    }
    first.entries.extend(later.entries);
    first.hard_state = later.hard_state.or(first.hard_state);
    first.sequence = later.sequence;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::raft::{Entry, HardState};

    fn apply(log: &mut (Option<HardState>, Vec<Entry>), batch: &PersistBatch) {
        log.0 = batch.hard_state.or(log.0);
        if let Some(cut) = batch.truncate_from {
            log.1.retain(|entry| entry.index < cut);
        }
        for entry in &batch.entries {
            log.1.retain(|old| old.index < entry.index);
            log.1.push(entry.clone());
        }
    }

    fn any_batch() -> impl Strategy<Value = PersistBatch> {
        (prop::option::of(1..9u64), prop::option::of(1..9u64), 1..9u64, 0..5u64, 1..9u64).prop_map(
            |(vote, cut, start, count, term)| PersistBatch {
                sequence: term,
                hard_state: vote.map(|vote| HardState { term, vote: Some(vote) }),
                truncate_from: cut,
                entries: (start..start + count).map(|index| Entry { term, index, data: Bytes::new() }).collect(),
                snapshot: None,
            },
        )
    }

    proptest! {
        #[test]
        fn a_merged_batch_writes_what_both_would(first in any_batch(), later in any_batch()) {
            let start = (None, (1..6).map(|index| Entry { term: 1, index, data: Bytes::new() }).collect::<Vec<_>>());
            let (mut apart, mut together) = (start.clone(), start);
            apply(&mut apart, &first);
            apply(&mut apart, &later);
            let sequence = later.sequence;
            let merged = merge(first, later).expect("no snapshot");
            apply(&mut together, &merged);
            prop_assert_eq!(merged.sequence, sequence);
            prop_assert_eq!(apart, together);
        }
    }
}
