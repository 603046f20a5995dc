//! One direction of one relayed connection: bytes wait in a queue until the state of the link lets them pass.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use cutover_arbiter::wire::HEAD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::links::{Fault, State};

/// What waits in the relay at most while the link is whole or delayed; beyond it the sender has to wait.
const QUEUE: usize = 4 * 1024 * 1024;
/// What a clogged link takes from the sender at most.
const CLOGGED: usize = 256 * 1024 * 1024;

/// Why both directions of a connection end at once, with a reset.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// A command said so.
    #[error("reset by command")]
    Reset,
    /// The frame was passed up to its middle.
    #[error("cut in the middle of a frame")]
    MidFrame,
    /// A socket broke.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Finds where frames begin and end in a stream of them.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; 4],
    /// Bytes of the present frame that have passed.
    passed: usize,
}

impl Frames {
    /// Bytes of the present frame, head and body, if the length has passed.
    fn length(&self) -> Option<usize> {
        (self.passed >= self.head.len()).then(|| HEAD.saturating_add(u32::from_le_bytes(self.head) as usize))
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let step = match self.length() {
                None => {
                    let step = bytes.len().min(self.head.len() - self.passed);
                    self.head[self.passed..self.passed + step].copy_from_slice(&bytes[..step]);
                    step
                }
                Some(length) => bytes.len().min(length - self.passed),
            };
            self.passed += step;
            bytes = &bytes[step..];
            if self.length() == Some(self.passed) {
                self.passed = 0;
            }
        }
    }

    /// How many of the next `available` bytes may pass so that the present frame ends in its middle, and whether it
    /// has then been cut. A frame whose later half already runs is cut one byte further on, or let go for the next.
    fn until_middle(&self, available: usize) -> (usize, bool) {
        match self.length() {
            None => (available.min(self.head.len() - self.passed), false),
            Some(length) if self.passed < length / 2 => {
                let wanted = length / 2 - self.passed;
                (wanted.min(available), wanted <= available)
            }
            Some(length) => (available.min(length - self.passed), false),
        }
    }
}

/// Relays from `from` to `to` as the link's state says, until the end of `from` has been passed on.
pub(super) async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    link: &watch::Sender<State>,
) -> Result<(), Broken> {
    let mut states = link.subscribe();
    let first = *states.borrow_and_update();
    let mut queue: VecDeque<(Instant, Bytes)> = VecDeque::new();
    let mut queued = 0;
    let mut ended = false;
    let mut frames = Frames::default();
    let mut incoming = BytesMut::new();
    loop {
        let state = *states.borrow_and_update();
        if state.resets != first.resets {
            return Err(Broken::Reset);
        }
        let (limit, delay, passes) = match state.fault {
            Fault::None | Fault::MidFrame => (QUEUE, Duration::ZERO, true),
            Fault::Delay(by) => (QUEUE, by, true),
            Fault::Clog => (CLOGGED, Duration::ZERO, false),
            Fault::Cut => (0, Duration::ZERO, false),
        };
        if ended && queue.is_empty() && passes {
            to.shutdown().await?;
            return Ok(());
        }
        let (due, mut front) =
            queue.front().map_or((Instant::now(), Bytes::new()), |(due, front)| (*due, front.clone()));
        let mut cut = false;
        if state.fault == Fault::MidFrame {
            let (pass, middle) = frames.until_middle(front.len());
            cut = middle;
            front.truncate(pass);
        }
        incoming.reserve(16 * 1024);
        tokio::select! {
            biased;
            // The sender stands in the registry of links, which outlives every connection.
            changed = states.changed() => if changed.is_err() { return Err(Broken::Reset) },
            written = async { tokio::time::sleep_until(due).await; to.write(&front).await }, if passes && !queue.is_empty() => {
                let written = written?;
                frames.pass(&front[..written]);
                queued -= written;
                if cut && written == front.len() {
                    disarm(link, state.serial);
                    return Err(Broken::MidFrame);
                }
                if let Some((_, front)) = queue.front_mut() {
                    front.advance(written);
                    if front.is_empty() {
                        queue.pop_front();
                    }
                }
            }
            read = from.read_buf(&mut incoming), if !ended && queued < limit => {
                ended = read? == 0;
                if !incoming.is_empty() {
                    queued += incoming.len();
                    queue.push_back((Instant::now() + delay, incoming.split().freeze()));
                }
            }
        }
    }
}

/// The one frame has been cut; the link is whole again, unless somebody has changed it since.
fn disarm(link: &watch::Sender<State>, serial: u64) {
    link.send_if_modified(|state| {
        let same = state.serial == serial;
        if same {
            *state = State { fault: Fault::None, serial: serial + 1, ..*state };
        }
        same
    });
}
