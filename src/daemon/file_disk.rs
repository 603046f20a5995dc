//! The [`Disk`] of a running replica: real files in its data directory.
//!
//! Deliberately not here: the lock that keeps other processes out (`data`), and every decision about what to write.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::Errno;

use crate::journal::{Disk, DiskError};

/// Most pieces that one system call takes (`IOV_MAX`).
const PIECES: usize = 1024;

/// Where what was removed waits for its end.
const REMOVED: &str = "removed";

/// A directory of the file system.
///
/// To free the blocks of a file takes a second for some gigabytes, and nothing would be written meanwhile: what is removed
/// is only moved aside, at once, and unlinked by another thread. What a crash leaves there, the next start unlinks. A
/// disk that is full waits for that before it says so.
#[derive(Debug, Clone)]
pub struct FileDisk {
    root: Arc<PathBuf>,
    removed: mpsc::Sender<PathBuf>,
    /// Numbers what is moved aside.
    names: Arc<AtomicU64>,
    removals: Arc<Removals>,
}

/// What was moved aside, and what of it is unlinked: its blocks are room that nobody has yet.
#[derive(Debug, Default)]
struct Removals {
    /// How many were begun, and how many are done.
    counts: Mutex<(u64, u64)>,
    one_done: Condvar,
}

impl Removals {
    fn begin(&self, many: usize) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).0 += many as u64;
    }

    fn done(&self) -> u64 {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn end(&self) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
        self.one_done.notify_all();
    }

    /// Waits until another one is done than the first `known`; false when none is left to wait for.
    fn wait(&self, known: u64) -> bool {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |(begun, done): &mut (u64, u64)| *done == known && done < begun;
        let counts = self.one_done.wait_while(counts, waits).unwrap_or_else(PoisonError::into_inner);
        counts.1 != known
    }

    /// Tries again for as long as there is no room and some is about to be freed.
    fn with_room<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            let known = self.done();
            match attempt() {
                Err(error) if error.kind() == ErrorKind::StorageFull && self.wait(known) => {}
                tried => return tried,
            }
        }
    }
}

/// A file in it.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    path: String,
}

impl FileDisk {
    /// The directory at `path`, which exists.
    pub fn new(path: &Path) -> Self {
        let (removed, queue) = mpsc::channel::<PathBuf>();
        let aside = path.join(REMOVED);
        let first = leftovers(&aside);
        let names = first.iter().filter_map(|path| path.file_name()?.to_str()?.parse::<u64>().ok());
        let next = names.max().map_or(0, |last| last + 1);
        let removals = Arc::<Removals>::default();
        removals.begin(first.len());
        let ends = Arc::clone(&removals);
        let spawned = thread::Builder::new().name("cutover-unlink".into()).spawn(move || {
            for path in first.into_iter().chain(queue) {
                unlink(&path);
                ends.end();
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "disk.removes_slowly no thread for it");
            *removals.counts.lock().unwrap_or_else(PoisonError::into_inner) = (0, 0);
        }
        Self { root: Arc::new(path.to_owned()), removed, names: Arc::new(AtomicU64::new(next)), removals }
    }

    fn full(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.to_path_buf() } else { self.root.join(path) }
    }

    /// Moves something aside; its end follows.
    fn move_aside(&self, path: &str) -> io::Result<()> {
        let aside = self.root.join(REMOVED);
        let name = aside.join(self.names.fetch_add(1, Ordering::Relaxed).to_string());
        match fs::rename(self.full(path), &name) {
            Err(error) if error.kind() == ErrorKind::NotFound && !aside.exists() => {
                fs::create_dir(&aside)?;
                fs::rename(self.full(path), &name)?;
            }
            moved => moved?,
        }
        self.removals.begin(1);
        if let Err(unsent) = self.removed.send(name) {
            // Without a thread it is done here.
            unlink(&unsent.0);
            self.removals.end();
        }
        Ok(())
    }

    /// Errors name the whole path: a person will look for it.
    fn failed(&self, doing: &'static str, path: &str) -> impl Fn(io::Error) -> DiskError {
        let path = self.full(path).display().to_string();
        move |error| DiskError::new(doing, &path, &error)
    }
}

/// What an earlier run had moved aside.
fn leftovers(aside: &Path) -> Vec<PathBuf> {
    fs::read_dir(aside).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn unlink(path: &Path) {
    let done = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = done {
        tracing::warn!(path = %path.display(), %error, "disk.unremoved it takes room until the next start");
    }
}

impl Disk for FileDisk {
    type File = DiskFile;

    fn list(&self, directory: &str) -> Result<Vec<String>, DiskError> {
        let failed = self.failed("list", directory);
        let mut names = Vec::new();
        for entry in fs::read_dir(self.full(directory)).map_err(&failed)? {
            // A name that is not text is none of ours.
            names.extend(entry.map_err(&failed)?.file_name().into_string());
        }
        names.retain(|name| !(directory.is_empty() && name == REMOVED));
        names.sort_unstable();
        Ok(names)
    }

    fn make_directory(&self, path: &str) -> Result<(), DiskError> {
        self.removals.with_room(|| fs::create_dir(self.full(path))).map_err(self.failed("make directory", path))
    }

    fn create(&self, path: &str) -> Result<DiskFile, DiskError> {
        let create = || File::options().read(true).write(true).create(true).truncate(true).open(self.full(path));
        let file = self.removals.with_room(create).map_err(self.failed("create", path))?;
        Ok(DiskFile { file, path: path.to_owned() })
    }

    fn open(&self, path: &str) -> Result<DiskFile, DiskError> {
        let failed = self.failed("open", path);
        let mut file = File::options().read(true).write(true).open(self.full(path)).map_err(&failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(DiskFile { file, path: path.to_owned() })
    }

    fn length(&self, file: &DiskFile) -> Result<u64, DiskError> {
        Ok(file.file.metadata().map_err(self.failed("look at", &file.path))?.len())
    }

    fn read(&self, file: &DiskFile, at: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let mut done = 0;
        while done < buffer.len() {
            match file.file.read_at(&mut buffer[done..], at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("read", &file.path)(error)),
            }
        }
        Ok(done)
    }

    fn append(&self, file: &mut DiskFile, parts: &[&[u8]]) -> Result<(), DiskError> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let pieces = rest.len().min(PIECES);
            // A write that finds no room has written nothing.
            match self.removals.with_room(|| file.file.write_vectored(&rest[..pieces])) {
                Ok(0) if rest.iter().all(|piece| piece.is_empty()) => break,
                Ok(0) => return Err(self.failed("write to", &file.path)(ErrorKind::WriteZero.into())),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("write to", &file.path)(error)),
            }
        }
        Ok(())
    }

    fn truncate(&self, file: &mut DiskFile, length: u64) -> Result<(), DiskError> {
        file.file.set_len(length).map_err(self.failed("truncate", &file.path))
    }

    fn reserve(&self, file: &DiskFile, bytes: u64) -> Result<(), DiskError> {
        let reserve = || match fallocate(&file.file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        };
        self.removals.with_room(reserve).map_err(self.failed("reserve room for", &file.path))
    }

    fn sync(&self, file: &DiskFile) -> Result<(), DiskError> {
        file.file.sync_data().map_err(self.failed("sync", &file.path))
    }

    fn uncache(&self, file: &DiskFile) -> Result<(), DiskError> {
        fadvise(&file.file, 0, None, Advice::DontNeed).map_err(|error| self.failed("reread", &file.path)(error.into()))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        fs::rename(self.full(from), self.full(to)).map_err(self.failed("rename", from))
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.move_aside(path).map_err(self.failed("remove", path))
    }

    fn remove_directory(&self, path: &str) -> Result<(), DiskError> {
        self.move_aside(path).map_err(self.failed("remove directory", path))
    }

    fn sync_directory(&self, path: &str) -> Result<(), DiskError> {
        let failed = self.failed("sync directory", path);
        File::open(self.full(path)).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_do_what_the_journal_expects_of_them() {
        let home = tempfile::tempdir().unwrap();
        let disk = FileDisk::new(home.path());
        disk.make_directory("d").unwrap();
        let mut file = disk.create("d/f").unwrap();
        disk.reserve(&file, 1 << 20).unwrap();
        let many: Vec<&[u8]> = (0..3000).map(|number| if number % 2 == 0 { &b"ab"[..] } else { b"" }).collect();
        disk.append(&mut file, &many).unwrap();
        disk.append(&mut file, &[b"", b"end"]).unwrap();
        disk.sync(&file).unwrap();
        disk.uncache(&file).unwrap();
        assert_eq!(disk.length(&file).unwrap(), 3003);
        let mut tail = [0; 10];
        assert_eq!(disk.read(&file, 2999, &mut tail).unwrap(), 4);
        assert_eq!(&tail[..4], b"bend");
        let mut again = disk.open("d/f").unwrap();
        disk.truncate(&mut again, 5).unwrap();
        assert_eq!(disk.length(&again).unwrap(), 5);
        disk.rename("d/f", "d/g").unwrap();
        disk.sync_directory("d").unwrap();
        assert_eq!(disk.list("d").unwrap(), ["g"]);
        let error = disk.open("d/f").unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.to_string().contains("cannot open /"), "{error}");
        disk.remove_directory("d").unwrap();
        assert!(disk.list("").unwrap().is_empty());
    }

    #[test]
    fn a_full_disk_waits_for_the_room_that_is_about_to_be_freed() {
        let removals = Arc::<Removals>::default();
        let full = || io::Error::from(ErrorKind::StorageFull);
        let mut tries = 0;
        let mut refused = || {
            tries += 1;
            Err::<(), _>(full())
        };
        assert_eq!(removals.with_room(&mut refused).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(tries, 1, "nothing is about to be freed");
        removals.begin(3);
        let (failed, told) = mpsc::channel::<()>();
        let ends = Arc::clone(&removals);
        let unlinking = thread::spawn(move || {
            for () in told {
                ends.end();
            }
        });
        let mut tries = 0;
        let room = removals.with_room(|| {
            tries += 1;
            if tries == 3 {
                return Ok(());
            }
            // It ends before this returns, or after, while it is waited for.
            failed.send(()).unwrap();
            Err(full())
        });
        assert!(room.is_ok());
        assert_eq!(tries, 3);
        // All is done, and the disk is still full.
        failed.send(()).unwrap();
        drop(failed);
        unlinking.join().unwrap();
        assert!(removals.with_room(&mut || Err::<(), _>(full())).is_err());
    }

    #[test]
    fn what_is_removed_is_gone_at_once_and_its_blocks_soon() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(REMOVED)).unwrap();
        fs::write(home.path().join(REMOVED).join("7"), "of an earlier run").unwrap();
        let disk = FileDisk::new(home.path());
        disk.make_directory("d").unwrap();
        for file in ["d/f", "g"] {
            let mut file = disk.create(file).unwrap();
            disk.append(&mut file, &[b"much"]).unwrap();
        }
        disk.remove("g").unwrap();
        assert_eq!(disk.list("").unwrap(), ["d"]);
        disk.remove_directory("d").unwrap();
        assert!(disk.list("").unwrap().is_empty());
        assert_eq!(disk.remove("g").unwrap_err().kind, ErrorKind::NotFound);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !leftovers(&home.path().join(REMOVED)).is_empty() {
            assert!(std::time::Instant::now() < end, "they stay");
            thread::yield_now();
        }
    }
}
