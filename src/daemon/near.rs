//! Where the disk's thread runs: beside the loop, on the same processor, or wherever the system likes.
//!
//! A short write takes less time than it takes to wake a thread on another processor that sleeps, in a virtual machine
//! above all, where that is a matter for the host. Beside the loop it runs when the loop sleeps, or when the scheduler
//! finds that it has waited long enough. What takes long goes elsewhere: there the loop and the disk work at the same
//! time.
//!
//! Deliberately not here: what is short (the loop's end of the disk decides).

use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// The place of one thread, moved by another one, which is itself kept nowhere.
pub struct Near {
    thread: Pid,
    /// The processor that it is kept on.
    beside: Option<usize>,
    /// The system refused to move it: it stays where that left it.
    refused: bool,
}

impl Near {
    /// Of the calling thread; `None` where there is nothing to choose.
    pub fn of_this_thread() -> Option<Self> {
        sched_getaffinity(None).ok().filter(|set| set.count() > 1)?;
        Some(Self { thread: gettid(), beside: None, refused: false })
    }

    /// Keeps it on the processor that the calling thread runs on.
    pub fn come(&mut self) {
        let here = sched_getcpu();
        if self.beside != Some(here) && here < CpuSet::MAX_CPU {
            let mut set = CpuSet::new();
            set.set(here);
            self.beside = self.put(&set).then_some(here);
        }
    }

    /// Lets it run wherever the calling thread may, which is all that the process has, also after an operator or a
    /// container's keeper has changed that.
    pub fn leave(&mut self) {
        if self.beside.take().is_some()
            && let Ok(everywhere) = sched_getaffinity(None)
        {
            self.put(&everywhere);
        }
    }

    fn put(&mut self, set: &CpuSet) -> bool {
        if self.refused {
            return false;
        }
        if let Err(error) = sched_setaffinity(Some(self.thread), set) {
            tracing::info!(%error, "disk.unplaced its thread may not be moved beside the loop (see sched_setaffinity)");
            self.refused = true;
        }
        !self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_thread_comes_and_leaves() {
        let (told, hear) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let other = thread::spawn(move || {
            told.send(Near::of_this_thread()).unwrap();
            let _ = ended.recv();
        });
        let Some(mut near) = hear.recv().unwrap() else {
            eprintln!("SKIPPED: this machine has one processor");
            return;
        };
        let whole = sched_getaffinity(Some(near.thread)).unwrap();
        near.come();
        let one = sched_getaffinity(Some(near.thread)).unwrap();
        assert_eq!((one.count(), near.beside.map(|here| one.is_set(here))), (1, Some(true)));
        near.leave();
        assert_eq!(sched_getaffinity(Some(near.thread)).unwrap(), whole);
        drop(end);
        other.join().unwrap();
        // One that has ended, once the system has forgotten it, is not looked for again.
        while !near.refused {
            near.leave();
            near.come();
            thread::yield_now();
        }
        assert_eq!(near.beside, None);
    }
}
