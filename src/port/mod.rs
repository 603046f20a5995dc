//! One client's connection at a replica: what it may ask, what waits in it, and what becomes of it when the replica no
//! longer serves.
//!
//! The daemon puts a socket around it and the simulator a simulated network; both hand the same messages to the same
//! code. What a connection asks comes in with a [`Desk`], the replica as it stands in this turn; what the shell must do
//! comes out as [`Taken`] or [`Executed`].
//!
//! | file | what lives here |
//! |---|---|
//! | `library` | a connection of the client library: handshake, session, order of refusals |
//! | `direct` | a connection without a session, as a Redis client has it |
//! | `held` | replies that wait for their release, in the order of their requests |
//!
//! Deliberately not here: exactly-once itself, since the core's session table knows what was executed; frames and the
//! Redis protocol; how much a connection may read or hold, which the shell decides by [`Held::weight`].

mod direct;
mod held;
mod library;
#[cfg(test)]
mod tests;

use crate::machine::StateMachine;
use crate::replica::{Admission, Outbox, Replica};

pub use direct::{Direct, Executed, Parting};
pub use held::Held;
pub use library::{Answer, Library, Taken, Terms, is_news};

/// The replica behind a port, as it stands in this turn.
pub struct Desk<'a, M: StateMachine> {
    /// The core.
    pub core: &'a mut Replica<M>,
    /// Whether the core may be asked: as the turn found it, or closer since.
    pub admission: &'a Admission,
    /// Scratch: the core's reply to the request at hand.
    pub reply: &'a mut Vec<u8>,
    /// Where the core says what must be done.
    pub outbox: &'a mut Outbox<M>,
}
