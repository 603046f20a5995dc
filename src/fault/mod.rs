//! A fault proxy: a TCP relay for every directed pair of processes, whose links can be cut, delayed, clogged, reset
//! or broken in the middle of a frame, without being root. `cutover dev --chaos` puts it between its processes.
//!
//! A *link* is what one process sends to another, whoever dialled: cutting r1 → r2 holds what r1 sends on the
//! connections that either of them opened. State of the links stands in [`links`], one direction of one connection
//! in `pump`, sockets in [`relay`], and the way to drive it from another process in [`control`]. Deliberately not
//! here: who the processes are, and any knowledge of the messages beyond where a frame begins.

pub mod control;
pub mod links;
mod pump;
pub mod relay;

#[cfg(test)]
mod tests;
