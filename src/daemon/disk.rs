//! The disk's own thread: everything that the core wants durable goes through its queue, in order, and the loop never
//! waits.
//!
//! Deliberately not here: what is done, and what of it at once (`journal::Keeper`), and what must wait for it (the core).

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::mpsc as blocking;
use std::thread;
use std::time::{Duration, Instant};

use cutover_arbiter::record::Index;
use tokio::sync::mpsc;

use crate::journal::{DiskError, Done, Job, JournalError, Keeper, Reading, Work, Writing};
use crate::machine::Snapshot;

use super::background::Background;
use super::data::Owned;
use super::file_disk::FileDisk;
use super::near::Near;
use super::side::Message;

/// How long a process that stops waits for its disk.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one piece of a snapshot, roughly.
const SNAPSHOT_CHUNK: usize = 64 << 10;

/// Bytes of entries that are written to the system's memory in less time than it takes to wake another processor.
const SHORT: usize = 4 << 10;
/// With more than this waiting or being written, what is short comes behind something that is not.
const STILL_SHORT: usize = 4 * SHORT;

/// What the thread says of what it has done.
#[derive(Debug, Clone, Copy)]
pub struct Persisted {
    /// The last of it.
    pub sequence: u64,
    /// How long the write (and in `sync` its sync) took, when it was one of entries.
    pub took: Option<Duration>,
}

/// The loop's end: what it asks for, and what it hears.
pub struct Disk<S> {
    works: blocking::Sender<Work<S>>,
    done: blocking::Receiver<Persisted>,
    shared: Arc<Shared>,
    near: Option<Near>,
}

/// What both ends look at.
#[derive(Debug, Default)]
struct Shared {
    /// The loop may learn late of what was done.
    quiet: AtomicBool,
    /// Things asked for and not done that may take long: all but writes of entries.
    long: AtomicUsize,
    /// Bytes of entries that are asked for and not written.
    bytes: AtomicUsize,
    /// Something was said.
    said: AtomicBool,
    /// A thread met an error of the disk: nothing is written after it, not even what waits.
    failed: AtomicBool,
}

impl Shared {
    /// Lets no thread write any more; returns what the loop is told.
    fn fail(&self, error: DiskError) -> Message {
        self.failed.store(true, Ordering::SeqCst);
        Message::DiskFailed(JournalError::from(error).to_string())
    }
}

impl<S> Disk<S> {
    /// Asks for things, in order. What is unacknowledged bounds how much may wait.
    pub fn push(&mut self, works: &mut Vec<Work<S>>) {
        if works.is_empty() {
            return;
        }
        let asked = works.iter().filter(|work| !matches!(work, Work::Write { .. })).count();
        let long = self.shared.long.fetch_add(asked, Ordering::Relaxed) + asked;
        let more = works.iter().map(Work::bytes).sum();
        let before = self.shared.bytes.fetch_add(more, Ordering::Relaxed);
        match &mut self.near {
            Some(near) if long > 0 || more > SHORT || before > STILL_SHORT => near.leave(),
            // One that runs would have to be stopped first.
            Some(near) if before == 0 => near.come(),
            Some(_) | None => {}
        }
        for work in works.drain(..) {
            // A thread that has ended has told why.
            let _ = self.works.send(work);
        }
    }

    /// True when something was said since this was asked last: it is to be heard then, to the last word. A flag is looked
    /// at in less time than a queue is, and it is set behind each word: at worst that is heard already.
    pub fn has_said(&self) -> bool {
        self.shared.said.load(Ordering::Relaxed) && self.shared.said.swap(false, Ordering::Acquire)
    }

    /// What was done next.
    pub fn done(&self) -> Option<Persisted> {
        self.done.try_recv().ok()
    }

    /// Before the loop sleeps: whether it may learn late of what is done. The thread looks here after it has said what it
    /// did; so whoever wants to be woken looks once more at what was said.
    pub fn may_be_quiet(&self, quiet: bool) {
        self.shared.quiet.store(quiet, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

/// The thread, for whoever waits for its end.
pub struct DiskThread<S> {
    works: blocking::Sender<Work<S>>,
    /// Closes when the thread has ended.
    alive: blocking::Receiver<()>,
}

impl<S: Snapshot> DiskThread<S> {
    /// Starts it. What it has done the loop's end says; everything else, and that there is something, goes to `messages`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(owned: Owned, messages: mpsc::Sender<Message>) -> std::io::Result<(Self, Disk<S>)> {
        let (works, queue) = blocking::channel();
        let (said, done) = blocking::channel();
        let (living, alive) = blocking::channel();
        let (placed, place) = blocking::channel();
        let shared = Arc::<Shared>::default();
        let loops = Arc::clone(&shared);
        thread::Builder::new().name("cutover-disk".into()).spawn(move || {
            let _living = living;
            // Whoever starts it waits for this.
            let _ = placed.send(Near::of_this_thread());
            let Owned { directory, lock } = owned;
            let keeper = Keeper::new(directory);
            let worker = Worker { keeper, _lock: lock, messages: messages.clone(), said, shared, writing: None };
            // A defect here is told like a failed disk: nothing more is promised.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run(&queue)));
            let reason = match done {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => String::from("the disk's thread ended on a defect of its own; please report it"),
            };
            tracing::error!(reason, "journal.failed");
            // Without a loop nobody is waiting.
            let _ = messages.blocking_send(Message::DiskFailed(reason));
        })?;
        let near = place.recv().ok().flatten();
        Ok((Self { works: works.clone(), alive }, Disk { works, done, shared: loops, near }))
    }

    /// After the loop has ended in order: leaves the mark that says so.
    pub fn close(self) {
        // A thread that has ended has told why.
        let _ = self.works.send(Work::Close);
        self.end();
    }

    /// After the loop has ended otherwise: what it asked for is still done. A disk that hangs is not waited for.
    pub fn end(self) {
        drop(self.works);
        if self.alive.recv_timeout(PATIENCE) == Err(blocking::RecvTimeoutError::Timeout) {
            tracing::warn!("disk.hangs the process ends without the mark of an orderly end");
        }
    }
}

struct Worker {
    keeper: Keeper<FileDisk>,
    _lock: File,
    messages: mpsc::Sender<Message>,
    said: blocking::Sender<Persisted>,
    shared: Arc<Shared>,
    /// The snapshot being written, and how to stop it.
    writing: Option<(Index, Arc<AtomicBool>)>,
}

impl Worker {
    fn run<S: Snapshot>(mut self, works: &blocking::Receiver<Work<S>>) -> Result<(), JournalError> {
        let mut next = works.recv().ok();
        while let Some(work) = next.take() {
            let (job, after) = Job::gather(work, || works.try_recv().ok());
            let began = matches!(job, Job::Entries { .. }).then(Instant::now);
            let (long, bytes) = (began.is_none(), job.bytes());
            if self.shared.failed.load(Ordering::SeqCst) {
                // The thread that set it tells why.
                return Ok(());
            }
            let done = self.keeper.run(job).inspect_err(|_| self.shared.failed.store(true, Ordering::SeqCst))?;
            match done {
                Done::Persisted(sequence) => {
                    self.say(Persisted { sequence, took: began.map(|began| began.elapsed()) });
                }
                Done::Begun(writing) => self.write_snapshot(writing),
                Done::Reading(reading) => self.read_back(reading),
                Done::Older(older) => self.tell(Message::Older(older)),
                Done::Abandoned(index) => {
                    if let Some((_, stop)) = self.writing.take_if(|(writing, _)| *writing == index) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                Done::Closed => return Ok(()),
            }
            self.shared.long.fetch_sub(usize::from(long), Ordering::Relaxed);
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            next = after.or_else(|| works.recv().ok());
        }
        Ok(())
    }

    /// What is read was written before: the disk's own thread need not wait for it.
    fn read_back(&self, reading: Reading<FileDisk>) {
        let (ticket, messages, shared) = (reading.ticket, self.messages.clone(), Arc::clone(&self.shared));
        let spawned = thread::Builder::new().name("cutover-log".into()).spawn(move || {
            let message = match reading.run() {
                Ok(blocks) => Message::LogRead { ticket, blocks },
                Err(error) => shared.fail(error),
            };
            // Without a loop nobody is waiting.
            let _ = messages.blocking_send(message);
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "log.unread no thread for it");
            self.tell(Message::LogRead { ticket, blocks: Vec::new() });
        }
    }

    fn say(&self, persisted: Persisted) {
        // Without a loop nobody is waiting.
        let _ = self.said.send(persisted);
        self.shared.said.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if !self.shared.quiet.load(Ordering::Relaxed) {
            // A loop with a full queue is awake.
            let _ = self.messages.try_send(Message::Persisted);
        }
    }

    fn tell(&self, message: Message) {
        if let Err(mpsc::error::TrySendError::Full(message)) = self.messages.try_send(message) {
            // Without a loop nobody is waiting.
            let _ = self.messages.blocking_send(message);
        }
    }

    fn write_snapshot<S: Snapshot>(&mut self, writing: Writing<FileDisk, S>) {
        let stop = Arc::new(AtomicBool::new(false));
        let (index, ticket) = (writing.index, writing.ticket);
        self.writing = Some((index, Arc::clone(&stop)));
        let (messages, shared) = (self.messages.clone(), Arc::clone(&self.shared));
        let spawned = thread::Builder::new().name("cutover-snapshot".into()).spawn(move || {
            let began = Instant::now();
            let message = match write_parts(writing, &[&stop, &shared.failed]) {
                Ok(None) => return,
                Ok(Some(bytes)) => {
                    let took_ms = began.elapsed().as_millis() as u64;
                    tracing::info!(index, bytes, took_ms, "snapshot.written");
                    Message::SnapshotWritten(ticket)
                }
                Err(error) => shared.fail(error),
            };
            let _ = messages.blocking_send(message);
        });
        if let Err(error) = spawned {
            self.tell(Message::DiskFailed(format!("the system has no thread for a snapshot: {error}")));
        }
    }
}

/// Writes all parts; returns the length in bytes, or `None` when one of `stops` told it to stop.
fn write_parts<S: Snapshot>(
    mut writing: Writing<FileDisk, S>,
    stops: &[&AtomicBool],
) -> Result<Option<u64>, DiskError> {
    let mut background = Background::begin();
    loop {
        let more = writing.step(SNAPSHOT_CHUNK)?;
        if stops.iter().any(|stop| stop.load(Ordering::SeqCst)) {
            return Ok(None);
        }
        if !more {
            return writing.finish().map(Some);
        }
        background.give_way();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use cutover_arbiter::record::{Epoch, GroupId, Incarnation, Mode};

    use super::*;
    use crate::journal::{BootId, Claim, Directory, Fate, Opening, Write};
    use crate::machine::Identity;

    struct Empty;

    impl Snapshot for Empty {
        fn next_chunk(&mut self, _: usize) -> Option<Vec<u8>> {
            None
        }
    }

    fn worker(home: &Path, messages: mpsc::Sender<Message>) -> Worker {
        let opening = Opening {
            group: "g".parse().unwrap(),
            replica: "r1".parse().unwrap(),
            machine: Identity { name: "nothing".into(), version: 1 },
            boot: BootId::default(),
            salt: 1,
            segment_bytes: 1 << 20,
        };
        let mut directory = Directory::open(FileDisk::new(home), opening).unwrap().0;
        directory.claim(claim(1), Fate::Kept).unwrap();
        Worker {
            keeper: Keeper::new(directory),
            _lock: File::create(home.join("lock")).unwrap(),
            messages,
            said: blocking::channel().0,
            shared: Arc::default(),
            writing: None,
        }
    }

    fn claim(epoch: u64) -> Claim {
        Claim {
            incarnation: Incarnation(1),
            group_id: Some(GroupId(9)),
            mode: Some(Mode::Sync),
            epoch: Epoch(epoch),
            fenced_from: None,
        }
    }

    fn files(home: &Path) -> Vec<(String, Vec<u8>)> {
        let paths = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let mut files: Vec<_> = paths.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect();
        files.sort();
        files
    }

    #[test]
    fn after_an_error_of_another_thread_nothing_that_waits_is_written() {
        let home = tempfile::tempdir().unwrap();
        let (messages, mut told) = mpsc::channel(8);
        let worker = worker(home.path(), messages);
        let before = files(home.path());
        let error = std::io::Error::other("it is gone");
        let Message::DiskFailed(why) = worker.shared.fail(DiskError::new("read", "f", &error)) else { panic!() };
        assert!(why.contains("cannot read f: it is gone"), "{why}");
        let (works, queue) = blocking::channel::<Work<Empty>>();
        works.send(Work::Claim { sequence: 1, claim: claim(2), fate: Fate::Kept }).unwrap();
        works.send(Work::Write { sequence: 2, write: Write::default(), commit: 0 }).unwrap();
        works.send(Work::Close).unwrap();
        worker.run(&queue).unwrap();
        assert_eq!(files(home.path()), before);
        assert!(told.try_recv().is_err(), "who met the error tells it");
    }

    #[test]
    fn an_error_of_the_disk_stops_a_snapshot_that_is_being_written() {
        let home = tempfile::tempdir().unwrap();
        let mut worker = worker(home.path(), mpsc::channel(8).0);
        let core = crate::journal::Later::new(bytes::Bytes::new);
        let work = Work::Snapshot { ticket: 1, position: Default::default(), core, snapshot: Empty };
        let Done::Begun(writing) = worker.keeper.run(Job::One(work)).unwrap() else { panic!() };
        worker.shared.failed.store(true, Ordering::SeqCst);
        assert_eq!(write_parts(writing, &[&worker.shared.failed]).unwrap(), None);
    }
}
