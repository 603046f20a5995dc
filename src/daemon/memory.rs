//! What all clients together hold in memory, and who goes when it is too much: the connection that holds most.
//!
//! Each connection is weighed when it was looked at or written to, so that the sum costs no walk over all of them.

use super::connection::{Connection, Kind};
use super::slab::Key;
use super::turn::Shell;
use crate::machine::StateMachine;

impl Connection {
    /// Bytes that it holds for a client: read and not yet taken, waiting for their release, released and unread.
    fn weight(&self) -> usize {
        let waiting = match &self.kind {
            Kind::Redis(redis) => redis.input_bytes() + redis.port.weight(),
            Kind::Library(library) => library.input_bytes() + library.port.weight(),
            // Bounded by the core, and by `max_peer_output`.
            Kind::Peer(_) => return 0,
        };
        waiting + self.transport.output.len()
    }
}

impl<M: StateMachine> Shell<M> {
    /// Counts anew what a connection holds.
    pub(super) fn weigh(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key) {
            let weight = connection.weight();
            let before = std::mem::replace(&mut connection.transport.weighed, weight);
            self.client_memory = self.client_memory + weight - before;
        }
    }

    /// Closes the connections that hold most, until all clients together hold no more than they may.
    pub(super) fn shed(&mut self) {
        while self.client_memory > self.options.max_client_memory {
            let weights = self.connections.iter().map(|(key, connection)| (connection.transport.weighed, key));
            let Some((weight, key)) = weights.max_by_key(|(weight, _)| *weight).filter(|(weight, _)| *weight > 0)
            else {
                return;
            };
            let client = self.connections.get_mut(key).map(|connection| connection.transport.peer());
            tracing::warn!(
                client,
                bytes = weight,
                all_clients = self.client_memory,
                "clients.memory all clients together hold more than max-client-memory; the one that holds most is closed"
            );
            self.drop_connection(key);
        }
    }
}
