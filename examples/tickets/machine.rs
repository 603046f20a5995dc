//! What is replicated: a counter that sells numbered tickets and draws winners.
//!
//! Everything a machine must do is here: it is deterministic, it reaches the outside world (chance, in this case)
//! through [`Env`] only, it reports what it changed, and it can be copied to another replica. What it is asked and
//! answers, and how that and the state travel, is in `wire`.

// By its path, as another program (a test) may take this file in, too.
#[path = "wire.rs"]
mod wire;

use cutover::machine::{Access, Env, Identity, ReadEnv, ReadOutcome, StateMachine};
use serde::{Deserialize, Serialize};
pub use wire::{Answer, Ask, Copied, encode};

/// The state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tickets {
    /// Who holds ticket 1, 2, 3, …
    pub holders: Vec<String>,
    /// The tickets that may still win.
    pub waiting: Vec<u64>,
    /// The tickets that have won, first the first.
    pub winners: Vec<u64>,
}

impl Tickets {
    fn sell(&mut self, buyer: String) -> Answer {
        const LONGEST_NAME: usize = 100;
        if buyer.is_empty() || buyer.len() > LONGEST_NAME {
            return Answer::No(format!("a buyer has a name of 1 to {LONGEST_NAME} bytes"));
        }
        self.holders.push(buyer.clone());
        let ticket = self.holders.len() as u64;
        self.waiting.push(ticket);
        Answer::Ticket(ticket, buyer)
    }

    fn draw(&mut self, chance: u64) -> Answer {
        // Scaled, not reduced: every ticket is as likely as any other.
        let place = (u128::from(chance) * self.waiting.len() as u128) >> 64;
        if self.waiting.is_empty() {
            return Answer::No(String::from("every ticket has won already"));
        }
        let ticket = self.waiting.swap_remove(place as usize);
        self.winners.push(ticket);
        Answer::Ticket(ticket, self.holders[ticket as usize - 1].clone())
    }
}

impl StateMachine for Tickets {
    type Snapshot = Copied;
    type Restore = Copied;

    fn identity() -> Identity {
        Identity { name: String::from("tickets"), version: 1 }
    }

    fn access(operation: &[u8]) -> Access {
        match postcard::from_bytes(operation) {
            Ok(Ask::List) | Err(_) => Access::Read,
            Ok(Ask::Sell(_) | Ask::Draw) => Access::Write,
        }
    }

    fn apply(&mut self, operation: &[u8], env: &mut Env<'_>, reply: &mut Vec<u8>) {
        let answer = match postcard::from_bytes(operation) {
            Ok(Ask::Sell(buyer)) => self.sell(buyer),
            Ok(Ask::Draw) => self.draw(env.random()),
            Ok(Ask::List) | Err(_) => Answer::No(String::from("nothing that changes tickets")),
        };
        let bytes = encode(&answer);
        env.changed(&bytes);
        reply.extend(bytes);
    }

    fn read(&self, operation: &[u8], _env: &ReadEnv<'_>, reply: &mut Vec<u8>) -> ReadOutcome {
        reply.extend(encode(&match postcard::from_bytes(operation) {
            Ok(Ask::List) => Answer::Tickets(self.clone()),
            _ => Answer::No(String::from("no such question")),
        }));
        ReadOutcome::Done
    }

    fn snapshot(&self) -> Copied {
        // Some thousand tickets are copied in no time. A machine with a large state shares it instead (`Arc`).
        Copied(encode(self))
    }

    fn restore() -> Copied {
        Copied::default()
    }
}
