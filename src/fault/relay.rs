//! The relay's sockets: a listening port for every directed pair, and the connections that came in through them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::links::{Fault, Links, State};
use super::pump::pump;

/// Connections that one port relays at once; further ones hang, as behind a full backlog.
const CONNECTIONS: usize = 256;

/// Where one process dials instead of dialling another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Who dials.
    pub from: String,
    /// Who is dialled.
    pub to: String,
    /// The relay's port for this pair.
    pub listen: SocketAddr,
    /// Where `to` really listens.
    pub target: SocketAddr,
}

/// The relay; dropping it closes every port and connection.
#[derive(Debug)]
pub struct Relay {
    links: Arc<Links>,
    paths: Vec<Path>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Listens on every path. A path that listens on port 0 gets any free one; see [`Relay::paths`].
    ///
    /// # Errors
    /// A port cannot be listened on; the message says which.
    pub async fn start(mut paths: Vec<Path>) -> io::Result<Self> {
        let links = Arc::new(Links::new(paths.iter().map(|path| (path.from.clone(), path.to.clone()))));
        let mut tasks = JoinSet::new();
        for path in &mut paths {
            let listener = TcpListener::bind(path.listen).await.map_err(|error| {
                let what = format!("cannot listen on {} for {} → {}: {error}", path.listen, path.from, path.to);
                io::Error::new(error.kind(), what)
            })?;
            path.listen = listener.local_addr()?;
            tasks.spawn(accept(listener, path.clone(), Arc::clone(&links)));
        }
        Ok(Self { links, paths, _tasks: tasks })
    }

    /// The state of every link.
    pub fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// Every path, with the port that it listens on.
    pub fn paths(&self) -> &[Path] {
        &self.paths
    }
}

async fn accept(listener: TcpListener, path: Path, links: Arc<Links>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (path, links) = (path.clone(), Arc::clone(&links));
                connections.spawn(async move {
                    connection(stream, &path, &links).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, or a connection that was gone before it was taken: the next may do better.
                tracing::warn!(from = path.from, to = path.to, %error, "relay.accept_failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn connection(mut near: TcpStream, path: &Path, links: &Links) {
    let (Some(there), Some(back)) = (links.link(&path.from, &path.to), links.link(&path.to, &path.from)) else {
        return;
    };
    if !(whole(there).await && whole(back).await) {
        return reset(&near);
    }
    let Ok(mut far) = TcpStream::connect(path.target).await else {
        // As the kernel of the other machine would: nobody listens there.
        return reset(&near);
    };
    // A relay that is slower than the link it stands for would be a fault of its own.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let result = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        tokio::try_join!(pump(near_read, far_write, there), pump(far_read, near_write, back))
    };
    if let Err(error) = result {
        tracing::debug!(from = path.from, to = path.to, %error, "relay.connection_broken");
        reset(&near);
        reset(&far);
    }
}

/// Waits until the link lets a new connection through; false when it was reset meanwhile.
async fn whole(link: &watch::Sender<State>) -> bool {
    let mut states = link.subscribe();
    let resets = states.borrow().resets;
    let passes = |state: &State| state.fault != Fault::Cut || state.resets != resets;
    states.wait_for(passes).await.is_ok_and(|state| state.resets == resets)
}

/// Lets the socket's close send a reset instead of an orderly end.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
