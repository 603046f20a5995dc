//! The thread that writes to the store, so that the loop never waits for the disk. The core gives out one batch at
//! a time and gathers what happens meanwhile into the next, so there is nothing to gather here.

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
        // Never holds more than one batch: the core waits for each.
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
    while let Ok(batch) = batches.recv() {
        let durable = store.persist(&batch).map(|()| batch.sequence);
        let failed = durable.is_err();
        if done.send(durable).is_err() || failed {
            return;
        }
    }
}
