//! What travels between replicas ([`peer`]), between the client library and a replica ([`client`]), and along the
//! log ([`entry`]). Types and their encodings only: who says what when is decided in `replica` and `client`.

pub mod client;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod entry;
#[cfg(feature = "server")]
mod hot;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod peer;

pub use client::SessionId;
