//! The directory of a running group: who may use it, what it says about the processes, and where logs go.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::failure::{ExitCode, Failure};

use super::plan::{Kind, Ports};

const LOCK: &str = "dev.lock";
const DESCRIPTION: &str = "dev.json";

/// `dev.json`: scripts rely on its shape.
#[derive(Debug, Serialize)]
pub(super) struct Description<'a> {
    pub(super) group: &'a str,
    pub(super) arbiters: &'a [String],
    pub(super) processes: Vec<DescribedProcess<'a>>,
    /// The fault proxy's socket, with `--chaos`.
    pub(super) chaos: Option<PathBuf>,
}

/// A process in `dev.json`.
#[derive(Debug, Serialize)]
pub(super) struct DescribedProcess<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Kind,
    /// Of its present life, or of its last one while it is not running.
    pub(super) pid: u32,
    pub(super) running: bool,
    #[serde(flatten)]
    pub(super) ports: Ports,
}

/// A directory that this process alone uses, until it ends in whatever way.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// The system releases the lock with the descriptor, even when the process is killed.
    _lock: File,
}

impl Directory {
    /// Takes `path`, which is made when it is missing, and clears away what an earlier group left there. Nothing that
    /// `dev` did not make is touched.
    pub(super) fn take(path: &Path) -> Result<Self, Failure> {
        let failed = |what: &str, error: io::Error| {
            Failure::new(ExitCode::Configuration, format!("cannot {what} {}: {error}", path.display()))
        };
        fs::create_dir_all(path).map_err(|error| failed("make the directory", error))?;
        let path = path.canonicalize().map_err(|error| failed("find the directory", error))?;
        let ours = path.join(LOCK).exists();
        let lock = File::options().create(true).append(true).open(path.join(LOCK));
        let lock = lock.map_err(|error| failed("write in the directory", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!(
                    "another 'cutover dev' uses {}; end that one, or choose another --data (and --base-port)",
                    path.display()
                );
                return Err(Failure::new(ExitCode::StateRefuses, message));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock the directory", error)),
        }
        if !ours && path.join("data").exists() {
            let message =
                format!("{} holds a 'data' that 'cutover dev' did not make; choose another --data", path.display());
            return Err(Failure::new(ExitCode::StateRefuses, message));
        }
        // Every run of `dev` is a group of its own: replicas and arbiters begin together, with nothing.
        for (name, remove) in [
            ("data", fs::remove_dir_all::<PathBuf> as fn(PathBuf) -> io::Result<()>),
            (DESCRIPTION, fs::remove_file),
            (super::CONTROL_SOCKET, fs::remove_file),
        ] {
            match remove(path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("clear", error)),
                _ => {}
            }
        }
        for name in ["data", "log"] {
            fs::create_dir_all(path.join(name)).map_err(|error| failed(&format!("make '{name}' in"), error))?;
        }
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn control_socket(&self) -> PathBuf {
        self.path.join(super::CONTROL_SOCKET)
    }

    /// The log of a process, emptied once per run of `dev`, appended to over restarts.
    pub(super) fn log(&self, name: &str, start: Start) -> io::Result<File> {
        let path = self.path.join("log").join(format!("{name}.log"));
        if start == Start::First {
            File::create(&path)?;
        }
        File::options().create(true).append(true).open(path)
    }

    /// Puts `description` in place of the last one: whoever reads finds one or the other, whole.
    pub(super) fn describe(&self, description: &Description<'_>) -> io::Result<()> {
        let next = self.path.join("dev.json.next");
        let mut text = serde_json::to_vec_pretty(description)?;
        text.push(b'\n');
        File::create(&next)?.write_all(&text)?;
        fs::rename(next, self.path.join(DESCRIPTION))
    }
}

/// Whether a process starts for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    First,
    Again,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_user_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let first = Directory::take(temporary.path()).unwrap();
        let refused = Directory::take(temporary.path()).unwrap_err();
        assert_eq!(refused.code, ExitCode::StateRefuses);
        assert!(refused.message.contains("another 'cutover dev'"), "{refused}");
        drop(first);
        Directory::take(temporary.path()).unwrap();
    }

    #[test]
    fn a_directory_with_data_of_somebody_else_is_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        fs::create_dir(temporary.path().join("data")).unwrap();
        fs::write(temporary.path().join("data/precious"), "x").unwrap();
        assert!(Directory::take(temporary.path()).is_err());
        assert!(temporary.path().join("data/precious").exists());
    }

    #[test]
    fn scripts_find_the_agreed_shape() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::take(temporary.path()).unwrap();
        let ports = |client, redis| Ports { peer: 7430, client, redis, http: 7410 };
        let process = |name, kind, ports| DescribedProcess { name, kind, pid: 42, running: true, ports };
        let arbiters = ["127.0.0.1:7440".to_owned()];
        let processes = vec![
            process("a1", Kind::Arbiter, ports(None, None)),
            process("r1", Kind::Replica, ports(Some(7420), Some(7400))),
        ];
        let description = Description { group: "demo", arbiters: &arbiters, processes, chaos: None };
        directory.describe(&description).unwrap();
        let text = fs::read_to_string(temporary.path().join("dev.json")).unwrap();
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            found,
            serde_json::json!({
                "group": "demo",
                "arbiters": ["127.0.0.1:7440"],
                "processes": [
                    {"name": "a1", "kind": "arbiter", "pid": 42, "running": true,
                     "peer": 7430, "client": null, "redis": null, "http": 7410},
                    {"name": "r1", "kind": "replica", "pid": 42, "running": true,
                     "peer": 7430, "client": 7420, "redis": 7400, "http": 7410},
                ],
                "chaos": null,
            })
        );
    }
}
