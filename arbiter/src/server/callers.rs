//! Who is connected, and who watches what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::core::ConnectionId;
use super::outbox::Outbox;
use crate::protocol::{FromArbiter, MAX_OPEN_QUESTIONS, MAX_WATCHES, Reply};
use crate::record::{GroupName, GroupRecord};

#[derive(Default)]
pub(super) struct Callers {
    callers: BTreeMap<ConnectionId, Caller>,
    watchers: BTreeMap<GroupName, BTreeSet<ConnectionId>>,
}

struct Caller {
    outbox: Arc<Outbox>,
    open_questions: usize,
    watches: BTreeSet<GroupName>,
}

impl Callers {
    pub(super) fn opened(&mut self, connection: ConnectionId, outbox: Arc<Outbox>) {
        self.callers.insert(connection, Caller { outbox, open_questions: 0, watches: BTreeSet::new() });
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        let Some(caller) = self.callers.remove(&connection) else { return };
        for group in caller.watches {
            self.forget(&group, connection);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.callers.len()
    }

    /// Counts one more open question; false when the caller has too many.
    pub(super) fn asked(&mut self, connection: ConnectionId) -> bool {
        match self.callers.get_mut(&connection) {
            Some(caller) if caller.open_questions < MAX_OPEN_QUESTIONS => {
                caller.open_questions += 1;
                true
            }
            _ => false,
        }
    }

    /// The reply to a question that `asked` counted.
    pub(super) fn replied(&mut self, connection: ConnectionId, id: u64, leader: Option<u64>, reply: Reply) {
        if let Some(caller) = self.callers.get_mut(&connection) {
            caller.open_questions = caller.open_questions.saturating_sub(1);
            caller.outbox.reply(&FromArbiter::Reply { id, leader, reply });
        }
    }

    /// A reply to a question that `asked` did not count.
    pub(super) fn refused(&mut self, connection: ConnectionId, id: u64, leader: Option<u64>, reason: &str) {
        if let Some(caller) = self.callers.get(&connection) {
            let reply = Reply::Retry { reason: reason.to_owned() };
            caller.outbox.reply(&FromArbiter::Reply { id, leader, reply });
        }
    }

    /// Watches, and tells the present record at once.
    pub(super) fn watch(&mut self, connection: ConnectionId, group: GroupName, record: Option<&GroupRecord>) {
        let Some(caller) = self.callers.get_mut(&connection) else { return };
        if caller.watches.len() >= MAX_WATCHES && !caller.watches.contains(&group) {
            tracing::warn!(%group, "watch.refused: the caller watches {MAX_WATCHES} groups, the limit");
            return;
        }
        if let Some(record) = record {
            caller.outbox.record(record);
        }
        caller.watches.insert(group.clone());
        self.watchers.entry(group).or_default().insert(connection);
    }

    pub(super) fn unwatch(&mut self, connection: ConnectionId, group: &GroupName) {
        if let Some(caller) = self.callers.get_mut(&connection)
            && caller.watches.remove(group)
        {
            self.forget(group, connection);
        }
    }

    fn forget(&mut self, group: &GroupName, connection: ConnectionId) {
        if let Some(watchers) = self.watchers.get_mut(group) {
            watchers.remove(&connection);
            if watchers.is_empty() {
                self.watchers.remove(group);
            }
        }
    }

    /// Tells a record to everyone who watches its group.
    pub(super) fn tell(&self, record: &GroupRecord) {
        for connection in self.watchers.get(&record.group).into_iter().flatten() {
            if let Some(caller) = self.callers.get(connection) {
                caller.outbox.record(record);
            }
        }
    }
}
