//! Whom to dial and when: the newest record, the primary's tenures, and the back-off.

use std::time::Duration;

use cutover_arbiter::record::{Change, Epoch, GroupRecord, Incarnation, ReplicaName};

/// The longest pause between two attempts while somebody waits.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two attempts while nobody waits.
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// Every so many attempts another in-sync replica is asked instead of the primary: it may know a newer record than
/// arbiters that cannot be reached.
const ASK_ANOTHER: u32 = 4;

/// One life of a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Life {
    replica: ReplicaName,
    incarnation: Incarnation,
}

impl Life {
    pub(super) fn of_primary(record: &GroupRecord) -> Self {
        Self { replica: record.primary.replica.clone(), incarnation: record.primary.incarnation }
    }
}

/// True when the change puts a primary, or a new life of one, in charge.
pub(super) fn begins_tenure(record: &GroupRecord) -> bool {
    !matches!(record.last_change.change, Change::Remove { .. } | Change::Admit { .. })
}

#[derive(Debug, Clone)]
pub(super) struct Route {
    record: GroupRecord,
    attempts: u32,
    /// The primary that last welcomed us, and its epoch then.
    welcomed: Option<(Life, Epoch)>,
    /// Counts primaries, and lives of them, that welcomed us.
    tenure: u64,
    /// False when the present tenure began with a planned hand-over.
    after_loss: bool,
    /// Who was handed the group, and in which epoch, while it leads by that: it welcomes only under the record of its
    /// `Resume`, or of a later change of its own.
    handed: Option<(Life, Epoch)>,
}

impl Route {
    pub(super) fn new(record: GroupRecord) -> Self {
        let mut route =
            Self { record: record.clone(), attempts: 0, welcomed: None, tenure: 0, after_loss: false, handed: None };
        route.note_change(&record);
        route
    }

    pub(super) fn record(&self) -> &GroupRecord {
        &self.record
    }

    pub(super) fn tenure(&self) -> u64 {
        self.tenure
    }

    pub(super) fn tenure_began_with_a_loss(&self) -> bool {
        self.after_loss
    }

    /// Takes note of a record; watches and replicas may run backwards, so only a higher epoch is news.
    pub(super) fn learn(&mut self, record: &GroupRecord) -> bool {
        let newer = record.group == self.record.group
            && record.group_id == self.record.group_id
            && record.epoch > self.record.epoch;
        if newer {
            self.record = record.clone();
            self.attempts = 0;
            self.note_change(record);
        }
        newer
    }

    /// True for a record of the same name and another identity: the group was made anew.
    pub(super) fn is_another_group(&self, record: &GroupRecord) -> bool {
        record.group == self.record.group && record.group_id != self.record.group_id
    }

    /// The group was made anew: epochs begin again, and nothing is known of it but this.
    pub(super) fn begin_anew(&mut self, record: &GroupRecord) {
        *self = Self { tenure: self.tenure, ..Self::new(record.clone()) };
    }

    fn note_change(&mut self, record: &GroupRecord) {
        let life = Life::of_primary(record);
        let goes_on = self.handed.as_ref().is_some_and(|(handed, since)| {
            // A later `Resume` is a restart of it.
            let resumes = matches!(record.last_change.change, Change::Resume) && record.epoch.0 == since.0 + 1;
            *handed == life && (resumes || !begins_tenure(record))
        });
        match record.last_change.change {
            Change::HandOver { .. } => self.handed = Some((life, record.epoch)),
            _ if goes_on => {}
            _ => self.handed = None,
        }
    }

    /// The primary of `record` welcomed us.
    pub(super) fn welcomed_by(&mut self, record: &GroupRecord) {
        let life = Life::of_primary(record);
        let same = self
            .welcomed
            .as_ref()
            .is_some_and(|(known, epoch)| *known == life && (*epoch >= record.epoch || !begins_tenure(record)));
        if !same {
            self.tenure += 1;
            self.after_loss = self.handed.as_ref().is_none_or(|(handed, _)| *handed != life);
        }
        self.welcomed = Some((life, record.epoch));
    }

    /// The replica got something done: the next loss is a new story.
    pub(super) fn progressed(&mut self) {
        self.attempts = 0;
    }

    /// The next attempt's pause.
    pub(super) fn pause(&mut self, someone_waits: bool) -> Duration {
        let longest = if someone_waits { BUSY_PAUSE } else { IDLE_PAUSE };
        let pause = match self.attempts {
            0 => Duration::ZERO,
            n => Duration::from_millis(1 << n.min(10)).min(longest),
        };
        self.attempts = self.attempts.saturating_add(1);
        pause
    }

    /// Even the next attempt must wait: the replica lives and said no.
    pub(super) fn refused(&mut self) {
        self.attempts = self.attempts.max(1);
    }

    /// Whom to dial; `None` when the primary has no port for clients.
    pub(super) fn target(&self) -> Option<&str> {
        let others: Vec<&str> = self
            .record
            .in_sync
            .iter()
            .filter(|member| member.replica != self.record.primary.replica)
            .map(|member| member.addresses.client.as_str())
            .filter(|address| !address.is_empty())
            .collect();
        let primary = Some(self.record.primary.addresses.client.as_str()).filter(|address| !address.is_empty());
        if others.is_empty() || !self.attempts.is_multiple_of(ASK_ANOTHER) || self.attempts == 0 {
            return primary;
        }
        others.get((self.attempts / ASK_ANOTHER) as usize % others.len()).copied()
    }
}
