//! The side thread: a runtime of its own for what must not share the loop: questions to the arbiters, the http port,
//! signals, dials. It reaches the loop by one channel of [`Message`]s; the loop reaches it by [`Errand`]s.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use cutover_arbiter::client::{ArbiterClient, ClientOptions};
use cutover_arbiter::record::{Answer, Epoch, GroupName, GroupRecord, Proposal, ReplicaName, RequestId};
use tokio::sync::{mpsc, oneshot};

use super::file_disk::FileDisk;
use super::metrics::Counters;
use super::options::Options;
use super::slab::Key;
use super::status::StatusBody;
use super::{http, signals, socket};
use crate::journal::Older;
use crate::protocol::entry::Block;
use crate::replica::{FenceRefused, LinkId};

/// How long the arbiters are asked before a question is given up; the core decides whether to ask again.
const PATIENCE: Duration = Duration::from_secs(2);

/// What reaches the loop from elsewhere.
#[derive(Debug)]
pub enum Message {
    /// A record, from the arbiters' watch.
    Record(GroupRecord),
    /// An answer to a proposal.
    Answer(RequestId, Answer),
    /// A proposal was given up.
    Unanswered(RequestId),
    /// A linearisable read; `None` when it was given up.
    Read(u64, Option<Option<GroupRecord>>),
    /// A dial ended.
    Dialled(LinkId, io::Result<TcpStream>),
    /// A deferred read ended; without a reply it panicked.
    ReadDone {
        /// Whose.
        key: Key,
        /// Which.
        ticket: u64,
        /// What it wrote.
        reply: Option<Vec<u8>>,
    },
    /// A digest is computed.
    Digest {
        /// At which index.
        index: u64,
        /// The digest.
        digest: u64,
    },
    /// The disk has done something: see `disk::Persisted`.
    Persisted,
    /// What an older state can be made of.
    Older(Older<FileDisk>),
    /// Entries were read back from the journal.
    LogRead {
        /// Echoed.
        ticket: u64,
        /// What was read.
        blocks: Vec<Block>,
    },
    /// A snapshot is written beside what is there.
    SnapshotWritten(u64),
    /// The disk failed.
    DiskFailed(String),
    /// Somebody asks over http.
    Question(Question),
    /// Stop; a second time: at once.
    Shutdown,
}

/// Asked over http, answered by the loop.
#[derive(Debug)]
pub enum Question {
    /// Status and counters.
    Status(oneshot::Sender<(StatusBody, Counters)>),
    /// A planned cut-over.
    Switchover(Option<ReplicaName>, oneshot::Sender<Result<GroupRecord, String>>),
    /// A digest mark.
    Mark(oneshot::Sender<Option<u64>>),
    /// An operator's fence.
    Fence {
        /// Nothing below it any more.
        epoch: Epoch,
        /// Not after this, on this machine's boot clock.
        until: Duration,
        /// Answered once it is durable.
        sender: oneshot::Sender<Result<Epoch, FenceRefused>>,
    },
    /// The digest at an index, once it is there.
    Digest(u64, oneshot::Sender<u64>),
}

/// What the loop wants done elsewhere.
#[derive(Debug)]
pub enum Errand {
    /// A connection to another replica.
    Dial {
        /// Its number.
        link: LinkId,
        /// Where to.
        target: String,
        /// How long it may take.
        timeout: Duration,
    },
    /// A test-and-set.
    Propose(Box<Proposal>),
    /// A linearisable read.
    Read(u64),
}

/// What the side thread is started with.
pub struct Side {
    /// The http port.
    pub http: TcpListener,
    /// To the loop.
    pub messages: mpsc::Sender<Message>,
    /// From the loop.
    pub errands: mpsc::UnboundedReceiver<Errand>,
    /// Whether SIGTERM and SIGINT are this replica's.
    pub signals: bool,
}

impl Side {
    /// Starts the thread; it ends when the loop drops its end of `errands`.
    ///
    /// # Errors
    /// The system has no thread or no epoll left.
    pub fn start(self, options: &Options) -> io::Result<thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let arbiters = ClientOptions {
            arbiters: options.arbiters.clone(),
            name: format!("{}/{}", options.group, options.name),
            routes: options.routes.clone(),
            ..ClientOptions::default()
        };
        let (group, ignore_sigint) = (options.group.clone(), options.ignore_sigint);
        if options.stop_when_stdin_closes {
            signals::watch_stdin(self.messages.clone())?;
        }
        thread::Builder::new().name("cutover-side".into()).spawn(move || {
            runtime.block_on(self.serve(arbiters, group, ignore_sigint));
            runtime.shutdown_background();
        })
    }

    async fn serve(mut self, arbiters: ClientOptions, group: GroupName, ignore_sigint: bool) {
        let client = ArbiterClient::new(arbiters);
        tokio::spawn(watch(client.clone(), group.clone(), self.messages.clone()));
        tokio::spawn(http::serve(self.http, self.messages.clone()));
        if self.signals {
            tokio::spawn(signals::watch(self.messages.clone(), ignore_sigint));
        }
        while let Some(errand) = self.errands.recv().await {
            tokio::spawn(run(errand, client.clone(), group.clone(), self.messages.clone()));
        }
    }
}

async fn watch(client: ArbiterClient, group: GroupName, messages: mpsc::Sender<Message>) {
    let mut watch = client.watch(group);
    loop {
        let record = watch.changed().await;
        if messages.send(Message::Record(record)).await.is_err() {
            return;
        }
    }
}

async fn run(errand: Errand, client: ArbiterClient, group: GroupName, messages: mpsc::Sender<Message>) {
    let message = match errand {
        Errand::Propose(proposal) => {
            let request = proposal.request;
            match client.test_and_set(*proposal, PATIENCE).await {
                Ok(answer) => Message::Answer(request, answer),
                Err(error) => {
                    tracing::warn!(%error, "arbiter.unanswered");
                    Message::Unanswered(request)
                }
            }
        }
        Errand::Dial { link, target, timeout } => {
            // The loop's sockets belong to no runtime.
            let dialled = socket::dial(target, timeout).await.and_then(tokio::net::TcpStream::into_std);
            Message::Dialled(link, dialled)
        }
        Errand::Read(ticket) => Message::Read(ticket, client.read(&group, PATIENCE).await.ok()),
    };
    // Without a loop nobody waits for the answer.
    let _ = messages.send(message).await;
}
