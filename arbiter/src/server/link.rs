//! The connection to another arbiter, on which this one speaks. Messages may be lost whenever it is: Raft repeats
//! what matters, and a forwarded question is asked again by its caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::peer::{FromPeer, PEER_PROTOCOL, ToPeer};
use crate::backoff::Backoff;
use crate::net::{Routes, dial, give_up_after, receive};
use crate::raft::NodeId;
use crate::wire::{FrameDecoder, HANDSHAKE_LIMIT, Port, encode_frame};

/// Messages that wait for a slow connection; later ones are dropped.
const QUEUE: usize = 1024;
/// Bytes that wait for a slow connection: one snapshot and some.
const QUEUE_BYTES: usize = 96 * 1024 * 1024;
/// Bytes gathered into one write.
const WRITE: usize = 256 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes that the other kernel does not acknowledge for this long are lost to a partition.
const UNACKNOWLEDGED: Duration = Duration::from_millis(1500);

/// The loop's end of a link.
pub(super) struct Link {
    frames: mpsc::Sender<Bytes>,
    state: Arc<State>,
    scratch: BytesMut,
}

#[derive(Default)]
struct State {
    connected: AtomicBool,
    queued: AtomicUsize,
    /// The other arbiter dialled us, so it lives: dial now.
    nudge: Notify,
}

/// Who is to be dialled, and by whom.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub(super) cluster: u128,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) address: String,
    pub(super) members: Vec<NodeId>,
    pub(super) routes: Routes,
}

impl Link {
    pub(super) fn spawn(ends: Ends, tasks: &mut tokio::task::JoinSet<()>) -> Self {
        let (frames, receiver) = mpsc::channel(QUEUE);
        let state = Arc::new(State::default());
        tasks.spawn(run(ends, receiver, Arc::clone(&state)));
        Self { frames, state, scratch: BytesMut::new() }
    }

    /// Sends `message` if the connection stands and is not choked; false when it was dropped.
    pub(super) fn send(&mut self, message: &ToPeer) -> bool {
        if !self.state.connected.load(Ordering::Relaxed) {
            return false;
        }
        encode_frame(&mut self.scratch, Port::Raft, message);
        let frame = self.scratch.split().freeze();
        let length = frame.len();
        if self.state.queued.load(Ordering::Relaxed) + length > QUEUE_BYTES || self.frames.try_send(frame).is_err() {
            return false;
        }
        self.state.queued.fetch_add(length, Ordering::Relaxed);
        true
    }

    pub(super) fn nudge(&self) {
        if !self.state.connected.load(Ordering::Relaxed) {
            self.state.nudge.notify_one();
        }
    }
}

async fn run(ends: Ends, mut frames: mpsc::Receiver<Bytes>, state: Arc<State>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut reported = String::new();
    loop {
        let failure = match connect(&ends).await {
            Ok(stream) => {
                tracing::info!(arbiter = ends.to, address = %ends.address, "peer.connected");
                reported.clear();
                state.connected.store(true, Ordering::Relaxed);
                let since = Instant::now();
                let end = pump(stream, &mut frames, &state).await;
                state.connected.store(false, Ordering::Relaxed);
                if since.elapsed() > Duration::from_secs(1) {
                    backoff.reset();
                }
                match end {
                    Some(failure) => failure,
                    None => return,
                }
            }
            Err(failure) => failure,
        };
        // Once for each new trouble, not once for each attempt.
        if failure != reported {
            tracing::warn!(arbiter = ends.to, address = %ends.address, error = %failure, "peer.lost");
            reported = failure;
        }
        // What waited is stale by the time a new connection stands.
        while let Ok(frame) = frames.try_recv() {
            state.queued.fetch_sub(frame.len(), Ordering::Relaxed);
        }
        tokio::select! {
            () = sleep(backoff.draw()) => {}
            () = state.nudge.notified() => {}
        }
        if frames.is_closed() {
            return;
        }
    }
}

async fn connect(ends: &Ends) -> Result<TcpStream, String> {
    let mut stream = dial(&ends.address, &ends.routes, CONNECT_TIMEOUT).await.map_err(|error| error.to_string())?;
    give_up_after(&stream, UNACKNOWLEDGED).map_err(|error| error.to_string())?;
    let mut out = BytesMut::new();
    let hello = ToPeer::Hello {
        protocol: PEER_PROTOCOL,
        cluster: ends.cluster,
        from: ends.from,
        to: ends.to,
        members: ends.members.clone(),
    };
    encode_frame(&mut out, Port::Raft, &hello);
    stream.write_all(&out).await.map_err(|error| error.to_string())?;
    let decoder = FrameDecoder::new(Port::Raft, HANDSHAKE_LIMIT);
    let mut input = BytesMut::new();
    match timeout(Duration::from_secs(2), receive(&mut stream, &mut input, &decoder)).await {
        Ok(Ok(FromPeer::Welcome)) => Ok(stream),
        Ok(Ok(FromPeer::NotWelcome { reason })) => Err(format!("it turned us away: {reason}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(String::from("it accepted the connection but says nothing")),
    }
}

/// Writes what the loop sends until the connection ends (and why), or the loop does (`None`).
async fn pump(stream: TcpStream, frames: &mut mpsc::Receiver<Bytes>, state: &State) -> Option<String> {
    let (mut read, mut write) = stream.into_split();
    let mut out = BytesMut::new();
    let mut byte = [0; 1];
    loop {
        tokio::select! {
            frame = frames.recv() => {
                let mut next = Some(frame?);
                while let Some(frame) = next {
                    state.queued.fetch_sub(frame.len(), Ordering::Relaxed);
                    out.extend_from_slice(&frame);
                    next = if out.len() < WRITE { frames.try_recv().ok() } else { None };
                }
                if let Err(error) = write.write_all_buf(&mut out).await {
                    return Some(error.to_string());
                }
            }
            got = read.read(&mut byte) => return Some(match got {
                Ok(0) => String::from("it closed the connection"),
                Ok(_) => String::from("it spoke out of turn"),
                Err(error) => error.to_string(),
            }),
        }
    }
}
