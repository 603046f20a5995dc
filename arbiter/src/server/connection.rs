//! One connection that somebody made to this arbiter: a caller, another arbiter, or nonsense. The port byte of the
//! first frame tells which; whatever is wrong with it, is said once in the log and ends this connection only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::core::ConnectionId;
use super::event::Event;
use super::outbox::Outbox;
use super::peer::{FromPeer, PEER_PROTOCOL, ToPeer};
use crate::net::{ReceiveError, receive, tune};
use crate::protocol::{FromArbiter, MAX_CALLER_NAME, MAX_QUESTION, PING_INTERVAL, PROTOCOL, ToArbiter};
use crate::raft::NodeId;
use crate::wire::{DEFAULT_LIMIT, FrameDecoder, HEAD, Port, encode_frame};

/// What a caller is given to read what was written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// `leader` while there is none.
pub(super) const NO_LEADER: u64 = 0;

/// What every connection needs to know of its arbiter.
pub(super) struct Shared {
    pub(super) id: NodeId,
    pub(super) cluster: u128,
    /// All arbiters, sorted.
    pub(super) members: Vec<NodeId>,
    pub(super) handshake_timeout: Duration,
    pub(super) callers: Arc<Semaphore>,
    pub(super) max_connections: usize,
    pub(super) leader: AtomicU64,
    pub(super) events: mpsc::Sender<Event>,
}

impl Shared {
    pub(super) fn leader(&self) -> Option<u64> {
        Some(self.leader.load(Ordering::Relaxed)).filter(|leader| *leader != NO_LEADER)
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    #[error("it did not say who it is within the time for that")]
    Mute,
    #[error("{0}")]
    TurnedAway(String),
    #[error("it does not read what we send: {0}")]
    Unread(String),
    #[error("it spoke out of turn")]
    OutOfTurn,
    #[error("the arbiter stops")]
    Stopping,
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        End::Receive(ReceiveError::Io(error))
    }
}

/// Talks with whoever connected until it ends.
pub(super) async fn run(stream: TcpStream, from: SocketAddr, id: ConnectionId, shared: Arc<Shared>) {
    match greet(stream, id, &shared).await {
        Err(End::Receive(ReceiveError::Closed | ReceiveError::Io(_)) | End::Stopping) | Ok(()) => {
            tracing::debug!(%from, "connection.closed");
        }
        Err(end) => tracing::warn!(%from, reason = %end, "connection.refused"),
    }
}

async fn greet(mut stream: TcpStream, id: ConnectionId, shared: &Arc<Shared>) -> Result<(), End> {
    tune(&stream)?;
    let mut input = BytesMut::new();
    let until = Instant::now() + shared.handshake_timeout;
    let is_peer = tokio::time::timeout_at(until, is_peer(&mut stream, &mut input)).await.map_err(|_| End::Mute)??;
    if is_peer {
        let mut decoder = FrameDecoder::new(Port::Raft, MAX_QUESTION);
        let hello = tokio::time::timeout_at(until, receive(&mut stream, &mut input, &decoder));
        let hello: ToPeer = hello.await.map_err(|_| End::Mute)??;
        decoder.set_limit(DEFAULT_LIMIT);
        peer(stream, input, decoder, hello, shared).await
    } else {
        let decoder = FrameDecoder::new(Port::Arbiter, MAX_QUESTION);
        let hello = tokio::time::timeout_at(until, receive(&mut stream, &mut input, &decoder));
        let hello: ToArbiter = hello.await.map_err(|_| End::Mute)??;
        let mut caller = Caller::new(stream, input, decoder, id, shared);
        let end = caller.run(hello, shared).await;
        // The loop that is gone needs no telling.
        let _ = shared.events.send(Event::Closed { connection: id }).await;
        end
    }
}

/// Reads until the head of the first frame shows the port. Anything else is left for the decoder to refuse by name.
async fn is_peer(stream: &mut TcpStream, input: &mut BytesMut) -> Result<bool, End> {
    while input.len() < HEAD {
        // Tells nonsense as soon as it can be told.
        FrameDecoder::new(Port::Arbiter, MAX_QUESTION).decode(input).map_err(ReceiveError::Frame)?;
        if stream.read_buf(input).await? == 0 {
            return Err(ReceiveError::Cut.into());
        }
    }
    Ok(input[9] == Port::Raft as u8)
}

/// Another arbiter speaks; we listen.
async fn peer(
    mut stream: TcpStream,
    mut input: BytesMut,
    decoder: FrameDecoder,
    hello: ToPeer,
    shared: &Shared,
) -> Result<(), End> {
    let ToPeer::Hello { protocol, cluster, from, to, members } = hello else { return Err(End::OutOfTurn) };
    let refusal = if protocol != PEER_PROTOCOL {
        Some(format!("arbiter {from} speaks version {protocol}, this one {PEER_PROTOCOL}; upgrade the older one"))
    } else if cluster != shared.cluster {
        Some(format!("arbiter {from} belongs to another cluster of arbiters; correct the addresses"))
    } else if to != shared.id {
        Some(format!("arbiter {from} wants arbiter {to}, but this is arbiter {}; correct the addresses", shared.id))
    } else if members != shared.members {
        Some(format!("arbiter {from} knows the arbiters {members:?}, this one {:?}; make them agree", shared.members))
    } else if from == shared.id || !members.contains(&from) {
        Some(format!("{from} cannot be the id of another arbiter here; every arbiter needs its own"))
    } else {
        None
    };
    let mut out = BytesMut::new();
    let answer = refusal.clone().map_or(FromPeer::Welcome, |reason| FromPeer::NotWelcome { reason });
    encode_frame(&mut out, Port::Raft, &answer);
    timeout(WRITE_TIMEOUT, stream.write_all(&out)).await.map_err(|_| End::Mute)??;
    if let Some(reason) = refusal {
        return Err(End::TurnedAway(reason));
    }
    let stopping = |_| End::Stopping;
    shared.events.send(Event::PeerConnected { from }).await.map_err(stopping)?;
    loop {
        let event = match receive(&mut stream, &mut input, &decoder).await? {
            ToPeer::Raft(message) => Event::Raft { from, message },
            ToPeer::Forward { ticket, question } => Event::Forward { from, ticket, question },
            ToPeer::Forwarded { ticket, reply } => Event::Forwarded { ticket, reply },
            ToPeer::Hello { .. } => return Err(End::OutOfTurn),
        };
        shared.events.send(event).await.map_err(stopping)?;
    }
}

/// A replica, client or operator.
struct Caller {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    input: BytesMut,
    output: BytesMut,
    decoder: FrameDecoder,
    id: ConnectionId,
    outbox: Arc<Outbox>,
    events: mpsc::Sender<Event>,
}

impl Caller {
    fn new(stream: TcpStream, input: BytesMut, decoder: FrameDecoder, id: ConnectionId, shared: &Shared) -> Self {
        let (read, write) = stream.into_split();
        let outbox = Arc::new(Outbox::default());
        Self { read, write, input, output: BytesMut::new(), decoder, id, outbox, events: shared.events.clone() }
    }

    async fn run(&mut self, hello: ToArbiter, shared: &Shared) -> Result<(), End> {
        let ToArbiter::Hello { protocol, name } = hello else { return Err(End::OutOfTurn) };
        if protocol != PROTOCOL {
            return self
                .turn_away(format!(
                    "the caller speaks version {protocol} of the arbiter protocol, this arbiter {PROTOCOL}; upgrade the older one"
                ))
                .await;
        }
        if name.len() > MAX_CALLER_NAME {
            return self.turn_away(format!("the caller's name is longer than {MAX_CALLER_NAME} bytes")).await;
        }
        let Ok(_place) = Arc::clone(&shared.callers).try_acquire_owned() else {
            let limit = shared.max_connections;
            return self.turn_away(format!("{limit} callers are connected, the limit; raise max_connections")).await;
        };
        tracing::debug!(caller = %name, "caller.connected");
        self.tell(Event::Opened { connection: self.id, outbox: Arc::clone(&self.outbox) }).await?;
        let welcome = FromArbiter::Welcome { protocol: PROTOCOL, arbiter: shared.id, leader: shared.leader() };
        encode_frame(&mut self.output, Port::Arbiter, &welcome);
        self.flush().await?;
        let mut ping_at = Instant::now() + PING_INTERVAL;
        loop {
            tokio::select! {
                message = receive(&mut self.read, &mut self.input, &self.decoder) => {
                    let event = match message? {
                        ToArbiter::Ask { id, question } => Event::Ask { connection: self.id, id, question },
                        ToArbiter::Watch(group) => Event::Watch { connection: self.id, group },
                        ToArbiter::Unwatch(group) => Event::Unwatch { connection: self.id, group },
                        ToArbiter::Hello { .. } => return Err(End::OutOfTurn),
                    };
                    self.tell(event).await?;
                    continue;
                }
                () = self.outbox.filled() => {
                    self.outbox.take(&mut self.output).map_err(|overflow| End::Unread(overflow.to_string()))?;
                }
                () = sleep_until(ping_at) => encode_frame(&mut self.output, Port::Arbiter, &FromArbiter::Ping),
            }
            self.flush().await?;
            ping_at = Instant::now() + PING_INTERVAL;
        }
    }

    async fn tell(&self, event: Event) -> Result<(), End> {
        self.events.send(event).await.map_err(|_| End::Stopping)
    }

    async fn turn_away(&mut self, reason: String) -> Result<(), End> {
        encode_frame(&mut self.output, Port::Arbiter, &FromArbiter::NotWelcome { reason: reason.clone() });
        self.flush().await?;
        Err(End::TurnedAway(reason))
    }

    async fn flush(&mut self) -> Result<(), End> {
        match timeout(WRITE_TIMEOUT, self.write.write_all_buf(&mut self.output)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(End::Unread(format!("nothing was taken for {WRITE_TIMEOUT:?}"))),
        }
    }
}
