//! What leaves in a turn: replies whose hold is covered, and, for each connection that has anything to say, one write.

use super::connection::{Connection, Kind};
use super::slab::Key;
use super::turn::Shell;
use crate::machine::StateMachine;
use crate::replica::Hold;

/// Replies that wait for a release before connections that are gone are looked for among them.
pub(super) const WAITING: usize = 4096;

impl<M: StateMachine> Shell<M> {
    /// A connection holds something back. What waits for nothing goes before all that does, or a refusal would wait for
    /// whatever was asked before it by anyone.
    pub(super) fn await_release(&mut self, hold: Hold, key: Key) {
        if hold == Hold::default() {
            self.waiting.push_front((hold, key));
        } else {
            self.waiting.push_back((hold, key));
        }
    }

    /// Connections that are gone wait for nothing; while nothing can be released, they must not pile up either.
    fn forget_the_gone(&mut self) {
        if self.waiting.len() > self.waiting_limit {
            self.waiting.retain(|(_, key)| self.connections.peek(*key).is_some());
            self.waiting_limit = (self.waiting.len() * 2).max(WAITING);
        }
    }

    pub(super) fn release_replies(&mut self) {
        self.forget_the_gone();
        self.release = self.core.release();
        while let Some(&(hold, key)) = self.waiting.front()
            && self.release.covers(hold)
        {
            self.waiting.pop_front();
            self.release_one(key);
        }
    }

    /// A turn that has nothing to forward begins with what clients wait for: what has just been acknowledged is released
    /// whatever the end of the turn brings.
    pub(super) fn release_at_once(&mut self) {
        let waiting = self.waiting.len();
        self.release_replies();
        if self.waiting.len() < waiting {
            self.flush();
        }
    }

    pub(super) fn release_one(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Connection { transport, kind } = &mut **connection;
        match kind {
            Kind::Redis(redis) => redis.release(&self.release, &mut transport.output),
            Kind::Library(library) => library.release(&self.release, &mut transport.output),
            Kind::Peer(_) => return,
        }
        if std::mem::replace(&mut transport.blocked, false) {
            transport.again(&mut self.listed);
        }
        self.mark_dirty(key);
    }

    /// What other replicas wait for leaves before the disk is asked for anything and before any reply: they work on it
    /// meanwhile, and theirs is the longest way.
    pub(super) fn flush_peers(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.retain(|key| {
            let is_peer =
                self.connections.peek(*key).is_some_and(|connection| matches!(connection.kind, Kind::Peer(_)));
            if is_peer {
                self.flush_one(*key);
            }
            !is_peer
        });
        // Flushing lists nothing.
        self.dirty = dirty;
    }

    pub(super) fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            self.flush_one(key);
        }
        self.shed();
        // Dropping lists nothing, so the list's room can be kept.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Writes what one connection has, and ends it if that was all or too much.
    fn flush_one(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Connection { transport, kind } = &mut **connection;
        transport.dirty = false;
        let is_peer = matches!(kind, Kind::Peer(_));
        let fresh = transport.output.len().saturating_sub(transport.unread);
        let gone = match transport.flush() {
            Ok(written) => {
                if !is_peer {
                    self.counters.output_bytes += written as u64;
                }
                let quiet = match kind {
                    Kind::Redis(redis) => redis.is_quiet(),
                    Kind::Library(library) => !library.port.owes(),
                    Kind::Peer(_) => true,
                };
                transport.closing && quiet && transport.output.is_empty()
            }
            Err(_) => true,
        };
        transport.unread = transport.output.len();
        // Nobody could have read yet what was released in this turn, and no reply is too long to be read.
        let unread = transport.unread.saturating_sub(fresh);
        let too_much = !is_peer && fresh > 0 && unread > self.options.max_output;
        if too_much {
            tracing::warn!(
                client = transport.peer(),
                bytes = transport.output.len(),
                "client.slow it does not read its replies; the connection is closed"
            );
        }
        if gone || too_much {
            self.drop_connection(key);
        } else {
            self.weigh(key);
        }
    }
}
