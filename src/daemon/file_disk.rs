//! The [`Disk`] of a running replica: real files in its data directory.
//!
//! Deliberately not here: the lock that keeps other processes out (`data`), and every decision about what to write.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::Errno;

use crate::journal::{Disk, DiskError};

/// Most pieces that one system call takes (`IOV_MAX`).
const PIECES: usize = 1024;

/// A directory of the file system.
#[derive(Debug, Clone)]
pub struct FileDisk(Arc<PathBuf>);

/// A file in it.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    path: String,
}

impl FileDisk {
    /// The directory at `path`, which exists.
    pub fn new(path: &Path) -> Self {
        Self(Arc::new(path.to_owned()))
    }

    fn full(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.0.to_path_buf() } else { self.0.join(path) }
    }

    /// Errors name the whole path: a person will look for it.
    fn failed(&self, doing: &'static str, path: &str) -> impl Fn(io::Error) -> DiskError {
        let path = self.full(path).display().to_string();
        move |error| DiskError::new(doing, &path, &error)
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
        names.sort_unstable();
        Ok(names)
    }

    fn make_directory(&self, path: &str) -> Result<(), DiskError> {
        fs::create_dir(self.full(path)).map_err(self.failed("make directory", path))
    }

    fn create(&self, path: &str) -> Result<DiskFile, DiskError> {
        let options = File::options().read(true).write(true).create(true).truncate(true).open(self.full(path));
        Ok(DiskFile { file: options.map_err(self.failed("create", path))?, path: path.to_owned() })
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
            match file.file.write_vectored(&rest[..pieces]) {
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
        match fallocate(&file.file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(self.failed("reserve room for", &file.path)(error.into())),
        }
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
        fs::remove_file(self.full(path)).map_err(self.failed("remove", path))
    }

    fn remove_directory(&self, path: &str) -> Result<(), DiskError> {
        fs::remove_dir_all(self.full(path)).map_err(self.failed("remove directory", path))
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
}
