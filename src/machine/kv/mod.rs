//! The built-in key-value machine: Redis' data types and replies, nothing of its protocol.
//!
//! * [`operation`] is how an operation stands in the log; [`command`] is the table of what there is; [`reply`] is how
//!   a reply looks before a Redis connection puts it into its protocol, and [`value`] reads it back.
//! * `machine` decodes operations and runs `commands`, on a `keyspace` of `collection`s, which are all made of one
//!   structure, the `tree`; the order of keys is that of `hash`; `packed` is a key and its value in memory.
//! * `snapshot` writes a state down, `restore` reads it back.
//! * `number`, `decimal`, `pattern` and `refusal` are Redis' ways with numbers, patterns and errors.
//!
//! What belongs to a connection (PING, CLIENT, WAIT, MULTI) is not here.

mod collection;
pub mod command;
mod commands;
mod decimal;
mod hash;
mod keyspace;
mod machine;
pub(crate) mod number;
pub mod operation;
mod packed;
pub(crate) mod pattern;
mod refusal;
pub mod reply;
mod restore;
mod snapshot;
mod tree;
pub mod value;
mod varint;

#[cfg(test)]
mod tests;

pub use machine::KeyValue;
pub use restore::Restore;
pub use snapshot::Snapshot;

/// An operation from a command's name, in any case, and its arguments.
///
/// A name that no command has gives an operation that is answered with an error.
pub fn request(name: &str, arguments: &[&[u8]]) -> Vec<u8> {
    let mut operation = Vec::new();
    match command::lookup(name.as_bytes()) {
        Some(spec) => operation::encode(spec.id, arguments.iter().copied(), &mut operation),
        // No command has the number 0.
        None => operation.extend_from_slice(&[0, 0, 0]),
    }
    operation
}
