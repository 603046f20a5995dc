//! Snapshots: asking for one, compacting behind it, and installing a leader's (Raft 7).

use bytes::Bytes;

use super::config::MAX_SNAPSHOT_BYTES;
use super::core::SnapshotRequest;
use super::{LogIndex, Message, NodeId, Output, Raft, Snapshot, SnapshotMeta};

impl Raft {
    /// Asks for a snapshot when enough was applied since the last, or since one that was too large.
    pub(super) fn request_snapshot(&mut self) {
        let since = match self.snapshot_request {
            SnapshotRequest::Asked => return,
            SnapshotRequest::None => self.snapshot_index(),
            SnapshotRequest::Refused(index) => index,
        };
        if self.applied.saturating_sub(since) >= self.config.snapshot_after_entries {
            self.snapshot_request = SnapshotRequest::Asked;
            self.outbox.push(Output::TakeSnapshot { index: self.applied });
        }
    }

    /// The shell's state machine at `index`. One that is older than a snapshot installed meanwhile is dropped.
    pub(super) fn snapshot_taken(&mut self, index: LogIndex, data: Bytes) {
        self.snapshot_request = SnapshotRequest::None;
        let Some(term) = self.log.term_at(index) else { return };
        if index <= self.snapshot_index() || index > self.applied {
            return;
        }
        if data.len() > MAX_SNAPSHOT_BYTES {
            self.snapshot_request = SnapshotRequest::Refused(self.applied);
            self.outbox.push(Output::SnapshotRefused { index, bytes: data.len(), limit: MAX_SNAPSHOT_BYTES });
            return;
        }
        let snapshot = Snapshot { meta: SnapshotMeta { index, term }, data };
        self.outbox.store_snapshot(snapshot.clone());
        self.snapshot = Some(snapshot);
        // Some entries stay in memory, so that a follower that is only a little behind needs no snapshot.
        self.log.compact(index.saturating_sub(self.config.snapshot_after_entries / 4));
    }

    /// Raft figure 13. A log that holds the snapshot's last entry needs no snapshot: everything up to it is committed,
    /// and what follows is kept. Any other log conflicts with it or ends before it, and goes.
    pub(super) fn on_install_snapshot(&mut self, from: NodeId, snapshot: Snapshot, round: u64) {
        if !self.follow(from) {
            return;
        }
        let meta = snapshot.meta;
        if meta.index > self.commit || planted!("R-k") {
            if self.log.term_at(meta.index) == Some(meta.term) {
                self.commit = meta.index;
            } else {
                self.install(snapshot);
            }
        }
        let message = Message::InstallSnapshotReply { term: self.hard.term, matched: meta.index, round };
        self.send_promising(meta.index, from, message);
    }

    fn install(&mut self, snapshot: Snapshot) {
        let index = snapshot.meta.index;
        assert!(index > self.applied, "a snapshot never lowers what is applied");
        self.log.reset(snapshot.meta, self.commit);
        self.commit = index;
        self.applied = index;
        self.snapshot_request = SnapshotRequest::None;
        self.outbox.store_snapshot(snapshot.clone());
        self.outbox.push(Output::Restore { snapshot: snapshot.clone() });
        self.snapshot = Some(snapshot);
    }
}
