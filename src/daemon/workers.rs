//! Threads for what would hold the loop too long: large reads, digests, snapshots of state transfers, and dropping.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as blocking;
use std::task::{Context, Poll};
use std::thread;

use tokio::sync::mpsc;

use super::background::Background;
use super::file_disk::FileDisk;
use super::side::Message;
use super::slab::Key;
use crate::journal::Older;
use crate::machine::{Changes, Garbage, Snapshot, StateMachine};
use crate::replica::{Decoded, Decoding, Encoding, Piece, Rebuilt};

/// Bytes of one chunk of a state transfer, roughly: some 50 us for the threads that encode and decode it.
const TRANSFER_CHUNK: usize = 32 << 10;
/// Chunks of a state transfer that are handed to the loop at a time: so many are one waking of either thread, not one
/// each. What a waking costs, clients feel.
const TRANSFER_AT_ONCE: usize = 16;
/// So many times as many may wait for the loop.
const TRANSFER_AHEAD: usize = 4;
/// Bytes of one chunk of a digest: every replica must use the same.
const DIGEST_CHUNK: usize = 256 << 10;
/// Digests that may wait for the thread that computes them.
const DIGESTS_AHEAD: usize = 4;

/// Decoded batches that may wait for the loop; the core has one under way at a time.
const DECODED_AHEAD: usize = 4;

type Work = Box<dyn FnOnce(&mut Vec<u8>) + Send>;
/// The core's part of a digest, computed where the rest is.
type Own = Box<dyn FnOnce() -> u64 + Send>;

/// Handles of the threads; they end when this is dropped.
pub struct Workers<M: StateMachine> {
    reads: blocking::Sender<(Key, u64, Work)>,
    digests: blocking::SyncSender<(u64, Own, M::Snapshot)>,
    garbage: blocking::Sender<Vec<Garbage>>,
    decodings: blocking::Sender<Decoding<M::Restore>>,
    decoded: mpsc::Receiver<Decoded<M::Restore>>,
    rebuilding: mpsc::Sender<Rebuilt<M>>,
    rebuilt: mpsc::Receiver<Rebuilt<M>>,
}

impl<M: StateMachine> Workers<M> {
    /// Starts the threads; what they find goes to `results`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(results: &mpsc::Sender<Message>) -> std::io::Result<Self> {
        let (reads, read_queue) = blocking::channel::<(Key, u64, Work)>();
        let read_results = results.clone();
        spawn("reads", move || {
            for (key, ticket, work) in read_queue {
                let mut reply = Vec::new();
                // A panic in a read is the machine's defect; it costs the connection, not the replica.
                let done = catch_unwind(AssertUnwindSafe(|| work(&mut reply))).is_ok();
                let message = Message::ReadDone { key, ticket, reply: done.then_some(reply) };
                if read_results.blocking_send(message).is_err() {
                    return;
                }
            }
        })?;
        let (digests, digest_queue) = blocking::sync_channel::<(u64, Own, M::Snapshot)>(DIGESTS_AHEAD);
        let digest_results = results.clone();
        spawn("digests", move || {
            let mut background = Background::begin();
            for (index, core, snapshot) in digest_queue {
                background.resume();
                let digest = digest(core(), snapshot, || background.give_way());
                if digest_results.blocking_send(Message::Digest { index, digest }).is_err() {
                    return;
                }
            }
        })?;
        let (garbage, garbage_queue) = blocking::channel::<Vec<Garbage>>();
        spawn("garbage", move || garbage_queue.into_iter().for_each(drop))?;
        let (decodings, decoding_queue) = blocking::channel::<Decoding<M::Restore>>();
        let (decoded_sender, decoded) = mpsc::channel(DECODED_AHEAD);
        spawn("restore", move || {
            let mut background = Background::begin();
            for decoding in decoding_queue {
                background.resume();
                if decoded_sender.blocking_send(decoding.run(|| background.give_way())).is_err() {
                    return;
                }
            }
        })?;
        let (rebuilding, rebuilt) = mpsc::channel(DECODED_AHEAD);
        Ok(Self { reads, digests, garbage, decodings, decoded, rebuilding, rebuilt })
    }

    /// Runs a read; at most one per connection is under way, which bounds the queue.
    pub fn read(&self, key: Key, ticket: u64, work: Work) {
        // The thread ends only with this handle.
        let _ = self.reads.send((key, ticket, work));
    }

    /// Computes a digest; false when too many wait.
    pub fn digest(&self, index: u64, core: Own, snapshot: M::Snapshot) -> bool {
        self.digests.try_send((index, core, snapshot)).is_ok()
    }

    /// Drops things.
    pub fn discard(&self, garbage: Vec<Garbage>) {
        let _ = self.garbage.send(garbage);
    }

    /// Puts chunks of a snapshot into the machine in the making; what comes of it is in [`Self::poll_decoded`].
    pub fn decode(&self, decoding: Decoding<M::Restore>) {
        // The thread ends only with this handle.
        let _ = self.decodings.send(decoding);
    }

    /// What came of the next decoding that is done.
    pub fn poll_decoded(&mut self, context: &mut Context<'_>) -> Poll<Option<Decoded<M::Restore>>> {
        self.decoded.poll_recv(context)
    }

    /// Makes an older state of what is on disk, on a thread of its own; what comes of it is in [`Self::poll_rebuilt`].
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn go_back(&self, older: Older<FileDisk>, make: fn() -> M) -> std::io::Result<()> {
        let rebuilding = self.rebuilding.clone();
        spawn("back", move || {
            let mut background = Background::begin();
            let rebuilt = Rebuilt::run(&older, make, || background.give_way());
            // Without a loop nobody is waiting.
            let _ = rebuilding.blocking_send(rebuilt);
        })
    }

    /// The next older state that is made.
    pub fn poll_rebuilt(&mut self, context: &mut Context<'_>) -> Poll<Option<Rebuilt<M>>> {
        self.rebuilt.poll_recv(context)
    }
}

/// A snapshot on its way to the loop.
pub struct Encoded {
    thread: mpsc::Receiver<Vec<Piece>>,
    at_hand: VecDeque<Piece>,
}

impl Encoded {
    /// The next piece; `None` after the last one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        loop {
            if let Some(piece) = self.at_hand.pop_front() {
                return Poll::Ready(Some(piece));
            }
            match std::task::ready!(self.thread.poll_recv(context)) {
                Some(pieces) => self.at_hand = pieces.into(),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Encodes a snapshot, a few chunks ahead of whoever takes them; ends with what it returns.
///
/// # Errors
/// The system has no thread left.
pub fn transfer(mut encoding: Encoding<impl Snapshot>) -> std::io::Result<Encoded> {
    let (sender, thread) = mpsc::channel(TRANSFER_AHEAD);
    spawn("transfer", move || {
        let mut background = Background::begin();
        loop {
            let mut pieces = Vec::with_capacity(TRANSFER_AT_ONCE);
            while pieces.len() < TRANSFER_AT_ONCE
                && let Some(piece) = encoding.next_piece(TRANSFER_CHUNK)
            {
                pieces.push(piece);
                background.give_way();
            }
            if pieces.is_empty() || sender.blocking_send(pieces).is_err() {
                return;
            }
            background.resume();
        }
    })?;
    Ok(Encoded { thread, at_hand: VecDeque::new() })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new().name(format!("cutover-{name}")).spawn(work).map(drop)
}

/// The hash over the state's chunks and the core's own part.
fn digest(core: u64, mut snapshot: impl Snapshot, mut between: impl FnMut()) -> u64 {
    let mut changes = Changes::default();
    while let Some(chunk) = snapshot.next_chunk(DIGEST_CHUNK) {
        changes.write(&chunk);
        between();
    }
    changes.word(core);
    changes.state()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::journal::Later;
    use crate::machine::Progress;
    use crate::protocol::peer::Part;

    struct Pieces(Vec<&'static [u8]>);
    impl Snapshot for Pieces {
        fn next_chunk(&mut self, _: usize) -> Option<Vec<u8>> {
            (!self.0.is_empty()).then(|| self.0.remove(0).to_vec())
        }
    }

    #[test]
    fn a_digest_covers_the_state_and_the_core() {
        let of = |core, pieces: &[&'static [u8]]| digest(core, Pieces(pieces.to_vec()), || ());
        assert_eq!(of(1, &[b"a", b"b"]), of(1, &[b"a", b"b"]));
        assert_ne!(of(1, &[b"a", b"b"]), of(2, &[b"a", b"b"]));
        assert_ne!(of(1, &[b"a", b"b"]), of(1, &[b"a", b"c"]));
    }

    #[test]
    fn a_transfer_ends_with_its_last_chunk_even_when_it_has_none() {
        let piece = |part, bytes: &'static [u8], last| {
            Some(Piece { part, bytes: Bytes::from_static(bytes), progress: Progress::default(), last })
        };
        let encoding = |core: &'static [u8], pieces: &[&'static [u8]]| {
            Encoding::new(Later::new(move || Bytes::from_static(core)), Pieces(pieces.to_vec()))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let next = |pieces: &mut Encoded| runtime.block_on(std::future::poll_fn(|context| pieces.poll_next(context)));
        let mut pieces = transfer(encoding(b"c", &[b"a", b"b"])).unwrap();
        assert_eq!(next(&mut pieces), piece(Part::Core, b"c", false));
        assert_eq!(next(&mut pieces), piece(Part::Machine, b"a", false));
        assert_eq!(next(&mut pieces), piece(Part::Machine, b"b", true));
        assert_eq!(next(&mut pieces), None);
        let count = TRANSFER_AT_ONCE * TRANSFER_AHEAD * 2 + 1;
        let mut many = transfer(encoding(b"c", &vec![b"a".as_slice(); count])).unwrap();
        let all: Vec<Piece> = std::iter::from_fn(|| next(&mut many)).collect();
        assert_eq!(all.len(), count + 1);
        assert!(all.iter().enumerate().all(|(at, piece)| piece.last == (at == count)));
        let mut empty = transfer(encoding(b"", &[])).unwrap();
        assert_eq!(next(&mut empty), piece(Part::Machine, b"", true));
    }
}
