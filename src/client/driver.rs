//! The task that owns the connection and the clock.

use std::future::Future;

use bytes::Bytes;
use cutover_arbiter::client::Watch;
use cutover_arbiter::record::GroupRecord;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::api::{ClientOptions, OperationError, Reply, RequestRef};
use super::handle::Permits;
use crate::protocol::client::Outcome;

/// What a handle asks of the task.
#[derive(Debug)]
pub(super) enum Command {
    /// One operation.
    Submit {
        operation: Bytes,
        write: bool,
        deadline: Instant,
        answer: oneshot::Sender<Result<Reply, OperationError>>,
        permits: Permits,
    },
    /// What became of a request?
    Outcome { request: RequestRef, deadline: Instant, answer: oneshot::Sender<Result<Outcome, OperationError>> },
    /// Answer everybody and end.
    Close { done: oneshot::Sender<()> },
}

/// Where newer records come from.
pub(super) trait Records: Send + 'static {
    /// Waits for the next one; for ever if there is none. Safe to cancel.
    fn changed(&mut self) -> impl Future<Output = GroupRecord> + Send;
}

impl Records for Watch {
    fn changed(&mut self) -> impl Future<Output = GroupRecord> + Send {
        Watch::changed(self)
    }
}

pub(super) async fn run(
    _record: GroupRecord,
    _records: impl Records,
    _options: ClientOptions,
    mut queue: mpsc::UnboundedReceiver<Command>,
    _publish: watch::Sender<Option<GroupRecord>>,
) {
    while let Some(command) = queue.recv().await {
        if let Command::Close { done } = command {
            let _ = done.send(());
            return;
        }
    }
}
