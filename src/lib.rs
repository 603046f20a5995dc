//! Cutover keeps a deterministic service alive on two machines with two copies of its state, and loses no
//! acknowledged operation when one of them dies. ARCHITECTURE.md tells where what lives and why.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!(
    "feature `planted` builds known bugs in and is for tests only: build without it, or with debug assertions"
);

pub mod machine;
pub mod protocol;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "server")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "server")]
pub mod daemon;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod fault;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod history;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod journal;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod port;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod replica;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod resp;
