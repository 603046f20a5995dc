//! The ports that the loop listens on, and who comes in by them.
//!
//! Deliberately not here: what becomes of a connection (`peers`, `library`, `redis`).

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use mio::net::TcpListener;

use super::reactor::{Reactor, Source};
use super::turn::Shell;
use crate::machine::StateMachine;

/// Connections accepted per port in one turn.
const ACCEPTS: usize = 64;
/// So long nobody is let in after the system had no room for one.
const AFTER_A_REFUSAL: Duration = Duration::from_millis(100);

/// The listening sockets that the loop owns.
pub struct Listeners {
    /// For other replicas.
    pub peer: TcpListener,
    /// For the client library.
    pub client: TcpListener,
    /// For Redis clients.
    pub redis: Option<TcpListener>,
}

/// A port's clients.
#[derive(Debug, Clone, Copy)]
enum Door {
    Peer,
    Client,
    Redis,
}

impl Listeners {
    /// From now on whoever dials is news.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn watch(&self, reactor: &Reactor) -> io::Result<()> {
        [&self.peer, &self.client]
            .into_iter()
            .chain(&self.redis)
            .try_for_each(|listener| reactor.watch_source(listener.as_fd(), Source::Ports))
    }
}

impl<M: StateMachine> Shell<M> {
    /// Lets in who has dialled.
    pub(super) fn accept(&mut self) {
        if self.accept_after > self.now.boot || !self.sources.take(Source::Ports) {
            return;
        }
        for door in [Door::Peer, Door::Client, Door::Redis] {
            let mut accepted = 0;
            while let Some(result) = self.accept_one(door) {
                if let Err(error) = result {
                    tracing::warn!(%error, ?door, "port.accept_failed is the limit of open files too low?");
                    self.accept_after = self.now.boot + AFTER_A_REFUSAL;
                    self.sources.add(Source::Ports);
                    return;
                }
                accepted += 1;
                if accepted == ACCEPTS {
                    // The rest has the next turn.
                    self.sources.add(Source::Ports);
                    break;
                }
            }
        }
    }

    /// `None` when nobody stands at the door.
    fn accept_one(&mut self, door: Door) -> Option<io::Result<()>> {
        let listener = match door {
            Door::Peer => &self.listeners.peer,
            Door::Client => &self.listeners.client,
            Door::Redis => self.listeners.redis.as_ref()?,
        };
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => return Some(Err(error)),
        };
        Some(match door {
            Door::Peer => self.accept_peer(stream),
            Door::Client => self.accept_library(stream),
            Door::Redis => self.accept_redis(stream),
        })
    }
}
