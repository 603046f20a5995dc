//! Which groups are watched, the newest record known of each, and the handle that waits for a newer one.
//!
//! Arbiters answer a watch from what they have applied, so one may be behind another: only a higher epoch is news.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::record::{GroupName, GroupRecord};

use super::Inner;

/// The watched groups of one client; every link subscribes to all of them.
#[derive(Debug)]
pub(super) struct Registry {
    groups: Mutex<BTreeMap<GroupName, watch::Sender<Option<GroupRecord>>>>,
    /// Tells the links that the set of groups changed.
    changes: watch::Sender<()>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { groups: Mutex::default(), changes: watch::Sender::new(()) }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupName, watch::Sender<Option<GroupRecord>>>> {
        // Every critical section leaves the map whole, even if a panic ended it.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(super) fn groups(&self) -> Vec<GroupName> {
        self.lock().keys().cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes note of a record that any arbiter showed; a lower or equal epoch is no news.
    pub(super) fn learn(&self, record: GroupRecord) {
        if let Some(newest) = self.lock().get(&record.group) {
            newest.send_if_modified(|newest| {
                let news = newest.as_ref().is_none_or(|known| known.epoch < record.epoch);
                if news {
                    *newest = Some(record);
                }
                news
            });
        }
    }

    fn subscribe(&self, group: &GroupName) -> watch::Receiver<Option<GroupRecord>> {
        let mut groups = self.lock();
        if let Some(newest) = groups.get(group) {
            let mut receiver = newest.subscribe();
            // What is known already is news to a new watch.
            if receiver.borrow().is_some() {
                receiver.mark_changed();
            }
            return receiver;
        }
        let (sender, receiver) = watch::channel(None);
        groups.insert(group.clone(), sender);
        self.changes.send_replace(());
        receiver
    }

    /// Forgets `group` if nobody but the caller watches it any more.
    fn release(&self, group: &GroupName) {
        let mut groups = self.lock();
        if groups.get(group).is_some_and(|newest| newest.receiver_count() <= 1) {
            groups.remove(group);
            self.changes.send_replace(());
        }
    }
}

/// Hears of a group's records. Keeps the client's connections alive; dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    group: GroupName,
    newest: watch::Receiver<Option<GroupRecord>>,
    registry: Arc<Registry>,
    client: Arc<Inner>,
}

impl Watch {
    pub(super) fn new(group: GroupName, registry: Arc<Registry>, client: Arc<Inner>) -> Self {
        let newest = registry.subscribe(&group);
        Self { group, newest, registry, client }
    }

    /// Which group.
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// Waits for a record of a higher epoch than any this watch returned before; the first call returns the present
    /// record as soon as an arbiter tells it. Waits for ever when there is none. Safe to cancel.
    pub async fn changed(&mut self) -> GroupRecord {
        loop {
            match self.newest.changed().await {
                Ok(()) => {
                    if let Some(record) = self.newest.borrow_and_update().clone() {
                        return record;
                    }
                }
                // The sender stands in the registry, which lives as long as this watch.
                Err(_) => return std::future::pending().await,
            }
        }
    }

    /// The newest record that any arbiter told, if one did.
    pub fn latest(&self) -> Option<GroupRecord> {
        self.newest.borrow().clone()
    }
}

impl Clone for Watch {
    fn clone(&self) -> Self {
        Self::new(self.group.clone(), Arc::clone(&self.registry), Arc::clone(&self.client))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.registry.release(&self.group);
    }
}
