//! The end of a run: one more cut-over, everything read back from the new primary, and the digests compared.

use std::time::Duration;

use cutover_arbiter::record::{Epoch, GroupRecord, HistoryItem};
use tokio::time::Instant;

use super::recording;
use super::report::{FinalCutover, ONE_COPY};
use super::store::{Store, StoreError};
use super::workload::{Plan, Shared};
use crate::cli::failure::ExitCode;
use crate::cli::group::Group;
use crate::cli::{switchover, verify};
use crate::history::{History, ReadBack, Stamp, Verdict, check};

/// How long a second replica may take to come into sync before the final cut-over is left out.
const TWO_IN_SYNC_WITHIN: Duration = Duration::from_secs(20);
/// How long the final cut-over may take.
const CUTOVER_WITHIN: Duration = Duration::from_secs(15);
/// How long reading everything back may take.
const READ_BACK_WITHIN: Duration = Duration::from_secs(120);
/// How long removing what was written may take.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(30);
/// How long a digest may take.
const DIGEST_WITHIN: Duration = Duration::from_secs(60);
/// Elements in a page of a list.
const PAGE: usize = 1_000;
/// Keys in one removal.
const REMOVED_AT_ONCE: usize = 64;

/// Forces a cut-over, if two replicas are or come into sync.
///
/// # Errors
/// Why there was none.
pub async fn cut_over(group: &Group) -> Result<FinalCutover, String> {
    let deadline = Instant::now() + TWO_IN_SYNC_WITHIN;
    let mut watch = group.arbiters.watch(group.name.clone());
    let mut record = group.record().await.map_err(|failure| failure.message)?;
    loop {
        while record.in_sync.len() < 2 {
            record = tokio::time::timeout_at(deadline, watch.changed())
                .await
                .map_err(|_| format!("only {} was in sync", record.primary.replica))?;
        }
        match switchover::switch_over(group, None, CUTOVER_WITHIN).await {
            Ok(done) => {
                return Ok(FinalCutover {
                    from: done.from.to_string(),
                    to: done.record.primary.replica.to_string(),
                    took_ms: u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX),
                });
            }
            // A refusal or a dead primary may be of the moment: the cut-over that caused it will show in the record.
            Err(failure) => {
                let waited = tokio::time::timeout_at(deadline, watch.changed()).await;
                record = waited.map_err(|_| failure.message)?;
            }
        }
    }
}

/// What stood there in the end, and when it was read.
#[derive(Debug, Clone)]
pub struct Standing {
    /// When the reading began.
    pub invoked: Stamp,
    /// When it ended.
    pub at: Stamp,
    /// What was there.
    pub found: ReadBack,
}

/// Reads every object back and judges its history against it. Also gives what was read, as far as it was.
///
/// # Errors
/// What could not be read, and the verdict on everything before it.
pub async fn read_back(
    plan: &Plan,
    histories: &[History],
    clock: &Shared,
) -> (Verdict, Vec<Standing>, Result<(), String>) {
    let mut verdict = Verdict::default();
    let mut standing = Vec::new();
    let reading = async {
        let store = Store(connect(plan).await);
        for history in histories {
            let invoked = clock.now();
            let found = object(&store, history).await.map_err(|error| format!("{}: {error}", history.object))?;
            verdict.add(check(history, &found));
            standing.push(Standing { invoked, at: clock.now(), found });
        }
        Ok(())
    };
    let complete = match tokio::time::timeout(READ_BACK_WITHIN, reading).await {
        Ok(result) => result,
        Err(_) => Err(format!("not done within {READ_BACK_WITHIN:?}")),
    };
    (verdict, standing, complete)
}

async fn connect(plan: &Plan) -> crate::client::Client {
    const AGAIN_AFTER: Duration = Duration::from_millis(100);
    loop {
        match plan.connect(String::from("torture-reader")).await {
            Ok(client) => return client,
            Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
        }
    }
}

async fn object(store: &Store, history: &History) -> Result<ReadBack, StoreError> {
    let is_list = recording::is_list(history);
    if !is_list {
        return Ok(ReadBack::Counter(u64::from(store.value(&history.object).await?)));
    }
    let mut elements = Vec::new();
    loop {
        let first = elements.len() as i64;
        let page = store.range(&history.object, first, first + PAGE as i64 - 1).await?;
        let last = page.len() < PAGE;
        elements.extend(page);
        if last {
            return Ok(ReadBack::List(elements));
        }
    }
}

/// Compares the digests of all replicas; the word for the report.
pub async fn digests(group: &Group) -> String {
    match verify::compare(group, DIGEST_WITHIN).await {
        Ok(comparison) => match verify::judge(&comparison) {
            Ok(()) => String::from("equal"),
            Err(failure) if failure.code == ExitCode::CheckFailed => String::from("differ"),
            Err(failure) if failure.code == ExitCode::StateRefuses => String::from(ONE_COPY),
            Err(failure) => failure.message,
        },
        Err(failure) => format!("not compared: {failure}"),
    }
}

/// Removes what the run wrote, if that goes within a bounded time: the report waits for it.
///
/// # Errors
/// Why it could not.
pub async fn clean_up(plan: &Plan, histories: &[History]) -> Result<(), String> {
    let removing = async {
        let store = Store(connect(plan).await);
        for chunk in histories.chunks(REMOVED_AT_ONCE) {
            let keys: Vec<&str> = chunk.iter().map(|history| history.object.as_str()).collect();
            store.remove(&keys).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    match tokio::time::timeout(CLEAN_UP_WITHIN, removing).await {
        Ok(result) => result,
        Err(_) => Err(format!("not removed within {CLEAN_UP_WITHIN:?}")),
    }
}

/// How often the primary changed after `start`, by what the arbiters remember.
pub fn primary_changes(start: &GroupRecord, history: &[HistoryItem]) -> u64 {
    let mut primary = &start.primary.replica;
    let mut changes = 0;
    for record in history.iter().map(|item| &item.record).filter(|record| record.epoch > start.epoch) {
        changes += u64::from(record.primary.replica != *primary);
        primary = &record.primary.replica;
    }
    changes
}

/// The same, by the records that a watch told while it went on.
#[derive(Debug, Clone)]
pub struct Witness {
    epoch: Epoch,
    primary: cutover_arbiter::record::ReplicaName,
    changes: u64,
}

impl Witness {
    /// Begins with this record.
    pub fn new(start: &GroupRecord) -> Self {
        Self { epoch: start.epoch, primary: start.primary.replica.clone(), changes: 0 }
    }

    /// A record was told; it may be an old one.
    pub fn saw(&mut self, record: &GroupRecord) {
        if record.epoch > self.epoch {
            self.epoch = record.epoch;
            self.changes += u64::from(record.primary.replica != self.primary);
            self.primary = record.primary.replica.clone();
        }
    }

    /// How often the primary changed, at least.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// For the progress line.
    pub fn primary(&self) -> String {
        format!("{} in epoch {}", self.primary, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn only_a_new_primary_is_a_cut_over() {
        let start = samples::record();
        let next = |epoch: u64, primary: &str| {
            let mut record = samples::record();
            record.epoch = Epoch(epoch);
            record.primary = samples::member(primary, 1);
            HistoryItem { at_ms: 0, record }
        };
        let history =
            [next(6, "b"), next(7, "a"), next(8, "b"), next(9, "b"), next(10, "a"), next(11, "a"), next(12, "b")];
        assert_eq!(primary_changes(&start, &history), 3);
        let mut witness = Witness::new(&start);
        for item in [&history[2], &history[1], &history[4], &history[6]] {
            witness.saw(&item.record);
        }
        assert_eq!(witness.changes(), 3);
    }
}
