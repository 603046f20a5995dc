//! How one arbiter is set up, and what is wrong with it when it cannot start.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::raft;
use crate::record::CodecError;
use crate::store::StoreError;

/// How one arbiter is set up. `Default` gives timers and limits; identity, addresses and directory must be set.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which of `peers` this arbiter is; from 1.
    pub id: u64,
    /// Which cluster of arbiters this is: the same number on all of them, for ever. 0 when there is only one; give
    /// another to keep two clusters apart when a configuration mixes up their addresses.
    pub cluster: u128,
    /// Where to listen, `host:port`, for callers and for the other arbiters alike.
    pub listen: String,
    /// Every arbiter's id and advertised `host:port`, this one among them. All arbiters must agree on it.
    pub peers: Vec<(u64, String)>,
    /// Where the store stands; made when it is missing.
    pub data_dir: PathBuf,
    /// Where to listen for health and metrics, `host:port`; nowhere when `None`.
    pub http: Option<String>,
    /// Shortest and longest time without a leader before an arbiter stands for election.
    pub election_timeout: (Duration, Duration),
    /// How often an idle leader is heard from.
    pub heartbeat: Duration,
    /// A snapshot is taken, and the log before it dropped, after so many entries.
    pub snapshot_after_entries: u64,
    /// The most callers connected at once.
    pub max_connections: usize,
    /// A connection that has not said who it is within this time is closed.
    pub handshake_timeout: Duration,
    /// Addresses to dial elsewhere than they say; see [`crate::net::Routes`].
    pub routes: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            id: 0,
            cluster: 0,
            listen: String::new(),
            peers: Vec::new(),
            data_dir: PathBuf::new(),
            http: None,
            election_timeout: (Duration::from_millis(300), Duration::from_millis(600)),
            // Seven wake-ups a second: an idle arbiter stays well under a quarter of a percent of a core.
            heartbeat: Duration::from_millis(140),
            snapshot_after_entries: 4096,
            max_connections: 10_000,
            handshake_timeout: Duration::from_secs(5),
            routes: Vec::new(),
        }
    }
}

impl Options {
    /// Checks the options against each other, before anything is opened.
    ///
    /// # Errors
    /// [`ServeError::Config`] or [`ServeError::Raft`] with what to correct.
    pub fn validate(&self) -> Result<(), ServeError> {
        self.raft_config(0).validate()?;
        let wrong = |what: String| Err(ServeError::Config(what));
        for (id, address) in &self.peers {
            if !address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
                return wrong(format!("arbiter {id} has the address '{address}'; write it as host:port"));
            }
            if self.peers.iter().any(|(other, same)| other != id && same == address) {
                return wrong(format!("two arbiters have the address {address}; each needs its own"));
            }
        }
        if self.data_dir.as_os_str().is_empty() {
            return wrong(String::from("no data directory is set; an arbiter must remember its votes"));
        }
        if self.max_connections == 0 {
            return wrong(String::from("max_connections is 0: nobody could ask this arbiter"));
        }
        if self.handshake_timeout.is_zero() {
            return wrong(String::from("the handshake timeout is 0: every connection would be closed at once"));
        }
        Ok(())
    }

    pub(super) fn raft_config(&self, seed: u64) -> raft::Config {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        raft::Config {
            id: self.id,
            members: self.peers.iter().map(|(id, _)| *id).collect(),
            election_timeout: (nanos(self.election_timeout.0), nanos(self.election_timeout.1)),
            heartbeat: nanos(self.heartbeat),
            max_append_bytes: 1024 * 1024,
            snapshot_after_entries: self.snapshot_after_entries,
            max_uncommitted_bytes: 16 * 1024 * 1024,
            seed,
        }
    }

    /// The advertised address of arbiter `id`.
    pub(super) fn address(&self, id: u64) -> &str {
        self.peers.iter().find(|(peer, _)| *peer == id).map_or("?", |(_, address)| address)
    }
}

/// Why an arbiter could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An option cannot work.
    #[error("{0}")]
    Config(String),
    /// Members or timers cannot work.
    #[error(transparent)]
    Raft(#[from] raft::ConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}{}", hint(error))]
    Listen {
        /// Which.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// The data directory cannot be made.
    #[error("cannot use the data directory {path}: {error}; check that it exists and that this user may write there")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The store cannot be opened, or a write failed. After a failed write nothing more is promised: the arbiter
    /// stops, and the others go on.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// What is stored, or what the leader sent, is of another version or damaged.
    #[error("the arbiters' log cannot be applied: {0}")]
    Codec(#[from] CodecError),
    /// The system refuses something that an arbiter cannot do without.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process, perhaps another arbiter, listens there: stop it or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
        _ => "",
    }
}
