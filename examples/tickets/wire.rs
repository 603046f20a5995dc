//! What travels: what the machine is asked and answers, and its state on the way to another replica.

use cutover::machine::{Restore, Snapshot};
use serde::{Deserialize, Serialize};

use super::Tickets;

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Sell the next ticket to this buyer.
    Sell(String),
    /// Draw a winner among the tickets that have not won yet.
    Draw,
    /// Who holds which ticket, and which have won? Changes nothing.
    List,
}

/// What the counter answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The ticket sold or drawn, and who holds it. The first ticket has number 1.
    Ticket(u64, String),
    /// All there is.
    Tickets(Tickets),
    /// Not done, and why.
    No(String),
}

/// The state as bytes: on its way out, or on its way in.
#[derive(Default)]
pub struct Copied(pub Vec<u8>);

impl Snapshot for Copied {
    fn next_chunk(&mut self, target: usize) -> Option<Vec<u8>> {
        let rest = self.0.split_off(target.clamp(1, self.0.len().max(1)).min(self.0.len()));
        let chunk = std::mem::replace(&mut self.0, rest);
        (!chunk.is_empty()).then_some(chunk)
    }
}

impl Restore for Copied {
    type Machine = Tickets;

    fn chunk(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.0.extend_from_slice(chunk);
        Ok(())
    }

    fn finish(self) -> Result<Tickets, String> {
        postcard::from_bytes(&self.0).map_err(|error| error.to_string())
    }
}

/// `value` as it travels.
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain data can be encoded")
}
