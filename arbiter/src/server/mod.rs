//! The tokio shell of one arbiter. [`serve`] runs it on the current runtime, which should be a `current_thread` one.
//!
//! | file | |
//! |---|---|
//! | `options` | how it is set up, and what can be wrong with that |
//! | `core` | sans-IO: Raft, the registers, the questions without a reply, and what comes of them |
//! | `arbiter` | the loop around it |
//! | `callers` | who is connected and watches what |
//! | `connection`, `outbox` | one connection made to us; what waits to be written to it, bounded |
//! | `link`, `peer` | the connection we make to another arbiter; what arbiters say to each other |
//! | `disk` | the thread that writes to the store |
//! | `http`, `metrics` | health and numbers |
//!
//! One address serves callers and arbiters: the port byte of the first frame tells them apart.

mod arbiter;
mod callers;
mod connection;
#[doc(hidden)]
pub mod core;
mod disk;
mod event;
mod http;
mod link;
mod metrics;
mod options;
mod outbox;
mod peer;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::alarm::Awaited;
use crate::net::Routes;
use crate::raft::NodeId;
use crate::store::{Identity, Store};

use arbiter::{Arbiter, Parts};
use connection::{NO_LEADER, Shared};
use disk::Disk;
use link::{Ends, Link};
use metrics::Metrics;

pub use options::{Options, ServeError};

/// Events that wait for the loop; a connection with more to say waits.
const EVENTS: usize = 4096;
/// Connections beyond the callers: the other arbiters, and those that have not said yet who they are.
const SPARE_CONNECTIONS: usize = 256;
/// The store's file in the data directory.
const STORE: &str = "arbiter.redb";

/// Runs one arbiter until `shutdown` completes; what was promised by then is on disk.
///
/// # Errors
/// It cannot start, or must stop because its disk fails; see [`ServeError`].
pub async fn serve(options: Options, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    Server::bind(options).await?.run(shutdown).await
}

/// An arbiter that has its addresses and its store, and does not run yet.
pub struct Server {
    options: Options,
    listener: TcpListener,
    http: Option<TcpListener>,
    store: Store,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Server {
    /// Checks the options, takes the addresses, and opens the store. Connections wait until [`run`](Self::run).
    ///
    /// # Errors
    /// Whatever of that cannot be done, and what to do about it.
    pub async fn bind(options: Options) -> Result<Self, ServeError> {
        options.validate()?;
        let listener = listen("arbiter", &options.listen).await?;
        let http = match &options.http {
            Some(address) => Some(listen("http", address).await?),
            None => None,
        };
        let failed = |error| ServeError::DataDir { path: options.data_dir.clone(), error };
        crate::store::make_directory(&options.data_dir).map_err(failed)?;
        let mut store = Store::open(&options.data_dir.join(STORE))?;
        store.set_identity(Identity { cluster: options.cluster, node: options.id })?;
        Ok(Self { options, listener, http, store })
    }

    /// Where callers and arbiters connect, with the port that the system chose if it was asked to.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the http port is, if there is one.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Runs until `shutdown` completes; what was promised by then is on disk.
    ///
    /// # Errors
    /// The disk failed, or the log is of another version: nothing more can be promised.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { options, listener, http, store } = self;
        let restored = store.load()?;
        let mut members: Vec<NodeId> = options.peers.iter().map(|(id, _)| *id).collect();
        members.sort_unstable();
        let (events, receiver) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared {
            id: options.id,
            cluster: options.cluster,
            members: members.clone(),
            handshake_timeout: options.handshake_timeout,
            callers: Arc::new(Semaphore::new(options.max_connections)),
            max_connections: options.max_connections,
            leader: AtomicU64::new(NO_LEADER),
            events: events.clone(),
        });
        let metrics = Arc::new(Metrics::new());
        let (disk, durable) =
            Disk::spawn(store).map_err(|error| ServeError::System { what: "start the store's thread", error })?;
        // Everything spawned ends with this set, when this function returns.
        let mut tasks = JoinSet::new();
        let links = links(&options, &members, &mut tasks);
        tasks.spawn(accept(listener, Arc::clone(&shared), options.max_connections));
        if let Some(http) = http {
            tasks.spawn(http::serve(http, events, Arc::clone(&metrics)));
        }
        let start = Instant::now();
        let core = core::Arbiter::new(core::Now::default(), options.raft_config(rand::random()), restored);
        tracing::info!(
            arbiter = options.id,
            address = options.address(options.id),
            term = core.raft_core().term(),
            "arbiter.started"
        );
        let alarm = Awaited::new().map_err(|error| ServeError::System { what: "make a timer", error })?;
        let mut arbiter = Arbiter::new(&options, Parts { core, links, disk, shared, metrics, alarm, start });
        let ended = arbiter.run(receiver, durable, shutdown).await;
        match &ended {
            Ok(()) => tracing::info!(arbiter = options.id, "arbiter.stopped"),
            Err(error) => tracing::error!(arbiter = options.id, %error, "arbiter.failed"),
        }
        ended
    }
}

fn links(options: &Options, members: &[NodeId], tasks: &mut JoinSet<()>) -> BTreeMap<NodeId, Link> {
    let routes = Routes::new(options.routes.clone());
    let others = members.iter().filter(|id| **id != options.id);
    others
        .map(|&to| {
            let ends = Ends {
                cluster: options.cluster,
                from: options.id,
                to,
                address: options.address(to).to_owned(),
                members: members.to_vec(),
                routes: routes.clone(),
            };
            (to, Link::spawn(ends, tasks))
        })
        .collect()
}

/// Takes connections in; their tasks end with this one.
async fn accept(listener: TcpListener, shared: Arc<Shared>, max_connections: usize) {
    let places = Arc::new(Semaphore::new(max_connections + SPARE_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut last_id = 0;
    loop {
        while connections.try_join_next().is_some() {}
        // The semaphore is never closed; a connection waits in the kernel until there is a place.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                last_id += 1;
                let (id, shared) = (last_id, Arc::clone(&shared));
                connections.spawn(async move {
                    connection::run(stream, from, id, shared).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: existing connections go on, new ones wait a little.
                tracing::warn!(%error, "accept.failed");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Listens on the first address that `address` stands for.
async fn listen(port: &str, address: &str) -> Result<TcpListener, ServeError> {
    let failed = |error| ServeError::Listen { address: address.to_owned(), error };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address; write host:port");
    for resolved in tokio::net::lookup_host(address).await.map_err(failed)? {
        match listen_on(resolved) {
            Ok(listener) => {
                if !resolved.ip().is_loopback() {
                    tracing::warn!(
                        port,
                        %address,
                        "port.open this port is reachable from other machines and asks for no password: keep it inside a trusted network"
                    );
                }
                return Ok(listener);
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted arbiter gets its address back at once, while connections of its former life still fade.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}
