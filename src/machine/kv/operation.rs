//! How a key-value operation stands in the log: the command's number and its arguments, nothing else.
//!
//! `[command: u16 LE] [argument count: varint] ([length: varint] [bytes])*`; a varint is LEB128, at most 5 bytes.

use super::command::CommandId;
use super::varint;

/// An operation that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a key-value operation")]
pub struct Malformed;

/// Appends an operation to `out`. `arguments` are those after the command's name.
pub fn encode<'a>(command: CommandId, arguments: impl ExactSizeIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(&(command as u16).to_le_bytes());
    varint::put(arguments.len() as u64, out);
    for argument in arguments {
        varint::put(argument.len() as u64, out);
        out.extend_from_slice(argument);
    }
}

/// The command of an encoded operation.
///
/// # Errors
/// Too short, or a number no command has.
pub fn command(operation: &[u8]) -> Result<CommandId, Malformed> {
    let (number, _) = operation.split_first_chunk::<2>().ok_or(Malformed)?;
    CommandId::from_number(u16::from_le_bytes(*number)).ok_or(Malformed)
}

/// The command and an iterator over the arguments.
///
/// # Errors
/// See [`command`]; also a count that the bytes cannot hold.
pub fn decode(operation: &[u8]) -> Result<(CommandId, Arguments<'_>), Malformed> {
    let command = command(operation)?;
    let mut rest = &operation[2..];
    let count = take_varint(&mut rest).ok_or(Malformed)? as usize;
    if count > rest.len() {
        return Err(Malformed);
    }
    Ok((command, Arguments { rest, left: count }))
}

/// Arguments of an operation, borrowed from its bytes. Damage inside ends the iteration early, so compare
/// [`Arguments::len`] with what came out where it matters.
#[derive(Debug, Clone, Copy)]
pub struct Arguments<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Arguments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let length = take_varint(&mut self.rest)? as usize;
        let (argument, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(argument)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Arguments<'_> {}

fn take_varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u32::from(byte & 0x7f);
        if shift == 28 && part > 0xf {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut bytes = Vec::new();
            encode(CommandId::Set, arguments.iter().map(Vec::as_slice), &mut bytes);
            let (command, decoded) = decode(&bytes).unwrap();
            prop_assert_eq!(command, CommandId::Set);
            prop_assert_eq!(decoded.map(<[u8]>::to_vec).collect::<Vec<_>>(), arguments);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok((_, arguments)) = decode(&bytes) {
                prop_assert!(arguments.count() <= bytes.len());
            }
        }
    }
}
