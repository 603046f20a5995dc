//! The connection to one arbiter: dialled when asked for or while anything is watched, and dialled again when it is
//! lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::watch::Registry;
use super::{ClientOptions, Outcome};
use crate::backoff::Backoff;
use crate::net::{ReceiveError, Routes, dial, receive};
use crate::protocol::{
    ArbiterStatus, FromArbiter, MAX_CALLER_NAME, MAX_OPEN_QUESTIONS, PING_INTERVAL, PROTOCOL, Question, Reply,
    ToArbiter,
};
use crate::record::GroupName;
use crate::wire::{DEFAULT_LIMIT, FrameDecoder, HANDSHAKE_LIMIT, Port, encode_frame};

/// Two pings and a little: an arbiter silent for longer is gone.
const SILENCE: Duration = Duration::from_secs(PING_INTERVAL.as_secs() * 2 + 2);
/// Questions waiting for a connection; more are refused at once.
const QUEUE: usize = 1024;
const UNKNOWN: u64 = u64::MAX;

/// Why one arbiter gave no reply. The question goes to another one.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum LinkError {
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("turned us away: {0}")]
    NotWelcome(String),
    #[error("the connection was lost: {0}")]
    Lost(String),
    #[error("too many questions wait for it")]
    Busy,
}

/// One attempt at a question.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) link: usize,
    pub(super) question: Question,
    pub(super) answer: mpsc::UnboundedSender<Outcome>,
}

impl Ask {
    fn fail(self, error: LinkError) {
        // An asker that is gone has its answer from elsewhere.
        let _ = self.answer.send((self.link, Err(error)));
    }
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: String,
    arbiter: Arc<AtomicU64>,
    asks: mpsc::Sender<Ask>,
}

impl Link {
    pub(super) fn spawn(address: String, routes: Routes, options: &ClientOptions, registry: Arc<Registry>) -> Self {
        let arbiter = Arc::new(AtomicU64::new(UNKNOWN));
        let (asks, receiver) = mpsc::channel(QUEUE);
        let task = Task {
            address: address.clone(),
            routes,
            name: options.name.clone(),
            connect_timeout: options.connect_timeout,
            attempt_timeout: options.attempt_timeout,
            arbiter: Arc::clone(&arbiter),
            asks: receiver,
            changes: registry.changes(),
            registry,
            reported: false,
        };
        tokio::spawn(task.run());
        Self { address, arbiter, asks }
    }

    /// Who is at the other end, once a handshake told.
    pub(super) fn arbiter(&self) -> Option<u64> {
        Some(self.arbiter.load(Ordering::Relaxed)).filter(|id| *id != UNKNOWN)
    }

    pub(super) fn ask(&self, ask: Ask) {
        if let Err(mpsc::error::TrySendError::Full(ask) | mpsc::error::TrySendError::Closed(ask)) =
            self.asks.try_send(ask)
        {
            ask.fail(LinkError::Busy);
        }
    }
}

/// Asks one arbiter how it stands, over a connection of its own.
pub(super) async fn status_of(address: &str, options: &ClientOptions) -> Result<ArbiterStatus, LinkError> {
    let routes = Routes::new(options.routes.clone());
    let mut connection = Connection::open(address, &routes, &options.name, options.connect_timeout).await?;
    connection.say(&ToArbiter::Ask { id: 0, question: Question::Status });
    connection.flush(options.attempt_timeout).await?;
    loop {
        match connection.receive().await? {
            FromArbiter::Reply { id: 0, reply: Reply::Status(status), .. } => return Ok(status),
            FromArbiter::Reply { reply: Reply::Retry { reason }, .. } => return Err(LinkError::Lost(reason)),
            _ => {}
        }
    }
}

/// An open connection, past its handshake.
struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    decoder: FrameDecoder,
    arbiter: u64,
}

impl Connection {
    async fn open(address: &str, routes: &Routes, name: &str, patience: Duration) -> Result<Self, LinkError> {
        let stream =
            dial(address, routes, patience).await.map_err(|error| LinkError::Unreachable(error.to_string()))?;
        let mut connection = Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            decoder: FrameDecoder::new(Port::Arbiter, HANDSHAKE_LIMIT),
            arbiter: UNKNOWN,
        };
        let name = name.chars().take(MAX_CALLER_NAME / 4).collect();
        connection.say(&ToArbiter::Hello { protocol: PROTOCOL, name });
        connection.flush(patience).await?;
        let handshake = timeout(patience.max(Duration::from_secs(1)), connection.receive());
        match handshake.await {
            Ok(Ok(FromArbiter::Welcome { protocol: PROTOCOL, arbiter, .. })) => {
                connection.arbiter = arbiter;
                connection.decoder.set_limit(DEFAULT_LIMIT);
                Ok(connection)
            }
            Ok(Ok(FromArbiter::Welcome { protocol, .. })) => Err(LinkError::NotWelcome(format!(
                "it speaks version {protocol} of the arbiter protocol, this side speaks {PROTOCOL}; upgrade the older side"
            ))),
            Ok(Ok(FromArbiter::NotWelcome { reason })) => Err(LinkError::NotWelcome(reason)),
            Ok(Ok(_)) => Err(LinkError::Unreachable(String::from("it answered the handshake with something else"))),
            Ok(Err(error)) => Err(LinkError::Unreachable(error.to_string())),
            Err(_) => Err(LinkError::Unreachable(String::from("it accepted the connection but says nothing"))),
        }
    }

    fn say(&mut self, message: &ToArbiter) {
        encode_frame(&mut self.output, Port::Arbiter, message);
    }

    async fn flush(&mut self, patience: Duration) -> Result<(), LinkError> {
        let lost = |error: String| LinkError::Lost(error);
        match timeout(patience, self.stream.write_all_buf(&mut self.output)).await {
            Ok(written) => written.map_err(|error| lost(error.to_string())),
            Err(_) => Err(lost(String::from("it does not read what we send"))),
        }
    }

    async fn receive(&mut self) -> Result<FromArbiter, LinkError> {
        receive(&mut self.stream, &mut self.input, &self.decoder)
            .await
            .map_err(|error: ReceiveError| LinkError::Lost(error.to_string()))
    }
}

/// Why a task stopped talking over a connection.
enum End {
    /// Every handle is gone.
    Dropped,
    /// Dial again.
    Lost(LinkError),
}

struct Task {
    address: String,
    routes: Routes,
    name: String,
    connect_timeout: Duration,
    attempt_timeout: Duration,
    arbiter: Arc<AtomicU64>,
    asks: mpsc::Receiver<Ask>,
    changes: watch::Receiver<()>,
    registry: Arc<Registry>,
    /// Whether the present trouble was logged; once per change of state, not once per attempt.
    reported: bool,
}

impl Task {
    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut waiting = None;
        loop {
            if waiting.is_none() && self.registry.is_empty() {
                tokio::select! {
                    ask = self.asks.recv() => match ask {
                        Some(ask) => waiting = Some(ask),
                        None => return,
                    },
                    _ = self.changes.changed() => continue,
                }
            }
            let opened = Connection::open(&self.address, &self.routes, &self.name, self.connect_timeout).await;
            let error = match opened {
                Ok(connection) => {
                    let since = Instant::now();
                    self.reported = false;
                    match self.converse(connection, waiting.take()).await {
                        End::Dropped => return,
                        End::Lost(error) => {
                            if since.elapsed() > Duration::from_secs(1) {
                                backoff.reset();
                            }
                            error
                        }
                    }
                }
                Err(error) => error,
            };
            if !self.reported {
                self.reported = true;
                tracing::warn!(arbiter = %self.address, %error, "arbiter.lost");
            }
            if let Some(ask) = waiting.take() {
                ask.fail(error.clone());
            }
            while let Ok(ask) = self.asks.try_recv() {
                ask.fail(error.clone());
            }
            // A question dials at once: its asker paces itself. Watches wait their turn.
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => waiting = Some(ask),
                    None => return,
                },
                () = sleep(backoff.draw()) => {}
            }
        }
    }

    /// Talks until the connection is lost; every question still open then has failed.
    async fn converse(&mut self, mut connection: Connection, first: Option<Ask>) -> End {
        self.arbiter.store(connection.arbiter, Ordering::Relaxed);
        let mut open = Open::default();
        if let Some(ask) = first {
            open.ask(&mut connection, ask);
        }
        let mut subscribed = BTreeSet::new();
        self.changes.mark_changed();
        let mut heard = Instant::now();
        let error = loop {
            if !connection.output.is_empty()
                && let Err(error) = connection.flush(self.attempt_timeout).await
            {
                break error;
            }
            tokio::select! {
                message = connection.receive() => {
                    heard = Instant::now();
                    match message {
                        Ok(FromArbiter::Record(record)) => self.registry.learn(record),
                        Ok(FromArbiter::Reply { id, leader, reply }) => open.replied(id, leader, reply),
                        Ok(FromArbiter::Ping) => {}
                        Ok(FromArbiter::NotWelcome { reason }) => break LinkError::NotWelcome(reason),
                        Ok(FromArbiter::Welcome { .. }) => break LinkError::Lost(String::from("a second welcome")),
                        Err(error) => break error,
                    }
                }
                ask = self.asks.recv() => match ask {
                    Some(ask) => open.ask(&mut connection, ask),
                    None => return End::Dropped,
                },
                // The registry lives as long as this task: the sender is never gone.
                _ = self.changes.changed() => subscribe(&self.registry, &mut subscribed, &mut connection),
                () = sleep_until(heard + SILENCE) => break LinkError::Lost(format!("it said nothing for {SILENCE:?}")),
            }
        };
        open.fail(&error);
        End::Lost(error)
    }
}

/// Tells the arbiter what is watched now and was not, or no longer is.
fn subscribe(registry: &Registry, subscribed: &mut BTreeSet<GroupName>, connection: &mut Connection) {
    let wanted: BTreeSet<_> = registry.groups().into_iter().collect();
    for group in wanted.difference(subscribed) {
        connection.say(&ToArbiter::Watch(group.clone()));
    }
    for group in subscribed.difference(&wanted) {
        connection.say(&ToArbiter::Unwatch(group.clone()));
    }
    *subscribed = wanted;
}

/// The questions that were sent over one connection and have no reply yet.
#[derive(Default)]
struct Open {
    next_id: u64,
    asks: BTreeMap<u64, Ask>,
}

impl Open {
    fn ask(&mut self, connection: &mut Connection, ask: Ask) {
        if ask.answer.is_closed() {
            return;
        }
        if self.asks.len() >= MAX_OPEN_QUESTIONS {
            self.asks.retain(|_, ask| !ask.answer.is_closed());
        }
        if self.asks.len() >= MAX_OPEN_QUESTIONS {
            return ask.fail(LinkError::Busy);
        }
        self.next_id += 1;
        connection.say(&ToArbiter::Ask { id: self.next_id, question: ask.question.clone() });
        self.asks.insert(self.next_id, ask);
    }

    fn replied(&mut self, id: u64, leader: Option<u64>, reply: Reply) {
        if let Some(ask) = self.asks.remove(&id) {
            // An asker that is gone has its answer from elsewhere.
            let _ = ask.answer.send((ask.link, Ok((leader, reply))));
        }
    }

    fn fail(self, error: &LinkError) {
        for (_, ask) in self.asks {
            ask.fail(error.clone());
        }
    }
}
