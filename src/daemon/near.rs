//! Where the disk's thread runs: beside the loop, on the same processor, or wherever the system likes.
//!
//! A short write takes less time than it takes to wake a thread on another processor that sleeps, in a virtual machine
//! above all, where that is a matter for the host. Beside the loop it runs as soon as the loop has nothing to do. What
//! takes long goes elsewhere: there the loop and the disk work at the same time.
//!
//! Deliberately not here: what is short (the loop's end of the disk decides).

use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// The place of one thread, moved by another one.
pub struct Near {
    thread: Pid,
    /// Where it may run: what the process was given.
    everywhere: CpuSet,
    /// The processor that it is kept on.
    beside: Option<usize>,
    /// The system refused to move it: it stays where that left it.
    refused: bool,
}

impl Near {
    /// Of the calling thread; `None` where there is nothing to choose.
    pub fn of_this_thread() -> Option<Self> {
        let everywhere = sched_getaffinity(None).ok().filter(|set| set.count() > 1)?;
        Some(Self { thread: gettid(), everywhere, beside: None, refused: false })
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

    /// Lets it run anywhere.
    pub fn leave(&mut self) {
        if self.beside.is_some() {
            let everywhere = self.everywhere;
            self.put(&everywhere);
            self.beside = None;
        }
    }

    fn put(&mut self, set: &CpuSet) -> bool {
        self.refused = self.refused || sched_setaffinity(Some(self.thread), set).is_err();
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
        // One that has ended is not looked for again.
        near.come();
        near.come();
        assert!(near.refused && near.beside.is_none());
    }
}
