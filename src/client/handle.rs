//! What a caller holds: clones of a handle on the task that owns the session.
//!
//! Backpressure stands here: an operation enters the task's queue with a permit of the window, and the permit comes
//! back with its answer, whether or not anyone still waits for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cutover_arbiter::client::{ArbiterClient, ClientOptions as ArbiterOptions};
use cutover_arbiter::record::{GroupName, GroupRecord};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::api::{ClientOptions, ConnectError, OperationError, Reply, RequestOptions, RequestRef};
use super::driver::{self, Command, Records};
use crate::protocol::client::{Outcome, WINDOW_REQUESTS};

/// An operation of at most this many bytes needs no permit for them: a full window of such is 64 MiB.
const SMALL: usize = 16 * 1024;
/// Bytes of larger operations that may be in flight together, in KiB. A single larger one travels alone.
const LARGE_KIB: u32 = 64 * 1024;

/// As good as never, and still far from the end of the clock's range.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A shorter session would be renewed in a busy loop.
const SHORTEST_SESSION: Duration = Duration::from_secs(1);

/// A handle on one group; clones are cheap and share one session.
///
/// Needs a tokio runtime, on which a background task lives as long as any clone or unanswered operation.
#[derive(Debug, Clone)]
pub struct Client {
    commands: mpsc::UnboundedSender<Command>,
    window: Arc<Semaphore>,
    large: Arc<Semaphore>,
    record: watch::Receiver<Option<GroupRecord>>,
    deadline: Duration,
}

/// An operation that is under way. Dropping it leaves the operation under way.
#[derive(Debug)]
#[must_use = "the answer, or the news that there is none, comes from awaiting this"]
pub struct Pending {
    answer: oneshot::Receiver<Result<Reply, OperationError>>,
}

impl Future for Pending {
    type Output = Result<Reply, OperationError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The task answers everything that it took, however it ends, so a lost answer was never taken from the queue.
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(OperationError::Closed)))
    }
}

/// What an operation holds until it is answered.
#[derive(Debug)]
pub(super) struct Permits {
    _window: OwnedSemaphorePermit,
    _large: Option<OwnedSemaphorePermit>,
}

impl Client {
    /// A client of `group` with default options; see [`Self::connect_with`].
    ///
    /// # Errors
    /// As [`Self::connect_with`].
    pub async fn connect(
        arbiters: impl IntoIterator<Item = impl Into<String>>,
        group: &str,
    ) -> Result<Self, ConnectError> {
        Self::connect_with(arbiters, group, ClientOptions::default()).await
    }

    /// A client of `group`, which the arbiters at `arbiters` (each `host:port`; name all of them) know. Returns when
    /// they have said who is primary; the session is opened in the background and operations wait for it.
    ///
    /// # Errors
    /// There is no such group, or no arbiter answered within [`ClientOptions::deadline`].
    pub async fn connect_with(
        arbiters: impl IntoIterator<Item = impl Into<String>>,
        group: &str,
        options: ClientOptions,
    ) -> Result<Self, ConnectError> {
        let arbiters: Vec<String> = arbiters.into_iter().map(Into::into).collect();
        if arbiters.is_empty() {
            return Err(ConnectError::NoArbiters);
        }
        let group: GroupName = group.parse()?;
        let arbiters = ArbiterClient::new(ArbiterOptions {
            arbiters,
            name: options.name.clone(),
            connect_timeout: options.connect_timeout,
            routes: options.routes.clone(),
            ..ArbiterOptions::default()
        });
        // The watch comes first, so that nothing changes unseen between the reading and the watching.
        let watch = arbiters.watch(group.clone());
        match arbiters.read(&group, options.deadline).await? {
            Some(record) => Ok(Self::start(record, watch, options)),
            None => Err(ConnectError::NoSuchGroup { group }),
        }
    }

    /// Starts the task that goes on from `record` with whatever `records` brings.
    pub(super) fn start(record: GroupRecord, records: impl Records, options: ClientOptions) -> Self {
        let (commands, queue) = mpsc::unbounded_channel();
        let (publish, newest) = watch::channel(Some(record.clone()));
        let window = options.window.clamp(1, WINDOW_REQUESTS);
        let deadline = options.deadline;
        let options = ClientOptions {
            window,
            session_timeout: options.session_timeout.clamp(SHORTEST_SESSION, FAR),
            connect_timeout: options.connect_timeout.clamp(Duration::from_millis(1), FAR),
            ..options
        };
        tokio::spawn(driver::run(record, records, options, queue, publish));
        Self {
            commands,
            window: Arc::new(Semaphore::new(window)),
            large: Arc::new(Semaphore::new(LARGE_KIB as usize)),
            record: newest,
            deadline,
        }
    }

    /// Executes an operation that may change the state: logged, and executed exactly once.
    ///
    /// Dropping the future does not take the operation back.
    ///
    /// # Errors
    /// See [`OperationError`]; only some of them say that nothing was done.
    pub async fn execute(&self, operation: impl Into<Bytes>) -> Result<Reply, OperationError> {
        self.execute_with(operation, RequestOptions::default()).await
    }

    /// Executes an operation that only reads: linearisable, not logged.
    ///
    /// # Errors
    /// See [`OperationError`].
    pub async fn read(&self, operation: impl Into<Bytes>) -> Result<Reply, OperationError> {
        self.execute_with(operation, RequestOptions { write: false, ..RequestOptions::default() }).await
    }

    /// Executes an operation as `options` say.
    ///
    /// # Errors
    /// See [`OperationError`].
    pub async fn execute_with(
        &self,
        operation: impl Into<Bytes>,
        options: RequestOptions,
    ) -> Result<Reply, OperationError> {
        self.submit(operation, options).await?.await
    }

    /// Hands an operation over and returns before it is answered; operations take effect in the order in which they
    /// were submitted. Waits while the window is full.
    ///
    /// # Errors
    /// The deadline passed while the window was full, or the client is closed: not executed.
    pub async fn submit(
        &self,
        operation: impl Into<Bytes>,
        options: RequestOptions,
    ) -> Result<Pending, OperationError> {
        let operation = operation.into();
        let deadline = Instant::now() + options.deadline.unwrap_or(self.deadline).min(FAR);
        let permits = self.permits(operation.len(), deadline).await?;
        let (answer, pending) = oneshot::channel();
        self.commands
            .send(Command::Submit { operation, write: options.write, deadline, answer, permits })
            .map_err(|_| OperationError::Closed)?;
        Ok(Pending { answer: pending })
    }

    async fn permits(&self, size: usize, deadline: Instant) -> Result<Permits, OperationError> {
        let large = if size > SMALL {
            let kib = u32::try_from(size / 1024).unwrap_or(LARGE_KIB).min(LARGE_KIB);
            Some(Self::within(deadline, Arc::clone(&self.large).acquire_many_owned(kib)).await?)
        } else {
            None
        };
        // A timer only for those who have to wait.
        let window = match Arc::clone(&self.window).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => Self::within(deadline, Arc::clone(&self.window).acquire_owned()).await?,
        };
        Ok(Permits { _window: window, _large: large })
    }

    async fn within(
        deadline: Instant,
        permit: impl Future<Output = Result<OwnedSemaphorePermit, tokio::sync::AcquireError>>,
    ) -> Result<OwnedSemaphorePermit, OperationError> {
        match tokio::time::timeout_at(deadline, permit).await {
            Ok(permit) => permit.map_err(|_| OperationError::Closed),
            Err(_) => Err(OperationError::NotSent {
                last_problem: String::from("too many operations of this client were in flight"),
            }),
        }
    }

    /// What became of a request that an [`OperationError`] named. An undecided one is closed by asking: the answer
    /// [`Outcome::NotExecuted`] is final.
    ///
    /// # Errors
    /// [`OperationError::Unknown`] when there was no answer within the default deadline: ask again;
    /// [`OperationError::Forgotten`] for a request that this client does not know.
    pub async fn outcome(&self, request: RequestRef) -> Result<Outcome, OperationError> {
        let (answer, pending) = oneshot::channel();
        let deadline = Instant::now() + self.deadline.min(FAR);
        self.commands.send(Command::Outcome { request, deadline, answer }).map_err(|_| OperationError::Closed)?;
        pending.await.unwrap_or(Err(OperationError::Closed))
    }

    /// The newest record of the group that this client knows.
    pub fn record(&self) -> Option<GroupRecord> {
        self.record.borrow().clone()
    }

    /// Closes the session's connection, for every clone. Operations that were sent and not answered become
    /// [`OperationError::Unknown`], the others [`OperationError::Closed`].
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close { done }).is_ok() {
            // An error means that the task ended before it saw this: closed as well.
            let _ = closed.await;
        }
    }
}
