//! The client: what a program that sells tickets sees. Operations are the machine's own; sessions, retries and
//! cut-overs are the library's.

use cutover::client::{Client, ConnectError, OperationError};

use crate::machine::{Answer, Ask, encode};

/// A ticket counter, wherever its primary is.
pub struct Counter {
    client: Client,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CounterError {
    /// The library has none.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The replica answered as no ticket counter does.
    #[error("the group does not sell tickets: {0}")]
    Nonsense(#[from] postcard::Error),
}

impl Counter {
    /// The counter of this group, which these arbiters know.
    pub async fn open(arbiters: &[String], group: &str) -> Result<Self, ConnectError> {
        Ok(Self { client: Client::connect(arbiters.iter().cloned(), group).await? })
    }

    /// Sells the next ticket, once, however often the primary changes meanwhile.
    pub async fn sell(&self, buyer: &str) -> Result<Answer, CounterError> {
        let reply = self.client.execute(encode(&Ask::Sell(buyer.to_owned()))).await?;
        Ok(postcard::from_bytes(&reply.bytes)?)
    }

    /// Draws a winner.
    pub async fn draw(&self) -> Result<Answer, CounterError> {
        Ok(postcard::from_bytes(&self.client.execute(encode(&Ask::Draw)).await?.bytes)?)
    }

    /// All tickets, as they are now.
    pub async fn list(&self) -> Result<Answer, CounterError> {
        Ok(postcard::from_bytes(&self.client.read(encode(&Ask::List)).await?.bytes)?)
    }
}
