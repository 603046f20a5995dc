//! The few operations of the key-value machine that the torture uses, typed.

use bytes::Bytes;

use crate::client::{Client, OperationError};
use crate::history::Element;
use crate::machine::kv::command::CommandId;
use crate::machine::kv::operation::encode;

/// Why an operation has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The library gave no reply.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The machine replied something that this operation never replies.
    #[error("{command} was answered with {reply}")]
    Surprise {
        /// What was asked.
        command: &'static str,
        /// What came, as far as it can be shown.
        reply: String,
    },
}

/// A client of the key-value machine.
#[derive(Debug, Clone)]
pub struct Store(pub Client);

impl Store {
    /// Adds `element` to the list's end; gives the list's length after it.
    pub async fn append(&self, list: &str, element: Element) -> Result<u32, StoreError> {
        self.write(CommandId::RPush, &[list, &element.to_string()]).await
    }

    /// Adds one to the counter; gives its value after it.
    pub async fn increment(&self, counter: &str) -> Result<u32, StoreError> {
        self.write(CommandId::Incr, &[counter]).await
    }

    /// Removes the keys.
    pub async fn remove(&self, keys: &[&str]) -> Result<u32, StoreError> {
        self.write(CommandId::Unlink, keys).await
    }

    /// The list's length; 0 when there is none.
    pub async fn length(&self, list: &str) -> Result<u32, StoreError> {
        let reply = self.read(CommandId::LLen, &[list]).await?;
        integer(&reply).ok_or_else(|| surprise(CommandId::LLen, &reply))
    }

    /// The counter's value; 0 when there is none.
    pub async fn value(&self, counter: &str) -> Result<u32, StoreError> {
        let reply = self.read(CommandId::Get, &[counter]).await?;
        match bulk(&mut reply.as_ref()) {
            Some(None) => Ok(0),
            Some(Some(text)) => number(text).ok_or_else(|| surprise(CommandId::Get, &reply)),
            None => Err(surprise(CommandId::Get, &reply)),
        }
    }

    /// The list's elements from `first` to `last`, both counted in; negative ones count from the end. An element
    /// that is no number is `None`.
    pub async fn range(&self, list: &str, first: i64, last: i64) -> Result<Vec<Option<Element>>, StoreError> {
        let reply = self.read(CommandId::LRange, &[list, &first.to_string(), &last.to_string()]).await?;
        elements(&reply).ok_or_else(|| surprise(CommandId::LRange, &reply))
    }

    async fn write(&self, command: CommandId, arguments: &[&str]) -> Result<u32, StoreError> {
        let reply = self.0.execute(operation(command, arguments)).await?.bytes;
        integer(&reply).ok_or_else(|| surprise(command, &reply))
    }

    async fn read(&self, command: CommandId, arguments: &[&str]) -> Result<Bytes, StoreError> {
        Ok(self.0.read(operation(command, arguments)).await?.bytes)
    }
}

fn operation(command: CommandId, arguments: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(command, arguments.iter().map(|argument| argument.as_bytes()), &mut bytes);
    bytes
}

fn surprise(command: CommandId, reply: &[u8]) -> StoreError {
    const SHOWN: usize = 120;
    let shown = String::from_utf8_lossy(&reply[..reply.len().min(SHOWN)]).trim_end().to_owned();
    StoreError::Surprise { command: command.spec().name, reply: format!("{shown:?}") }
}

/// Takes one line, without its end.
fn line<'a>(reply: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = reply.windows(2).position(|pair| pair == b"\r\n")?;
    let (line, rest) = reply.split_at(end);
    *reply = &rest[2..];
    Some(line)
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn integer(reply: &[u8]) -> Option<u32> {
    let mut reply = reply;
    number(line(&mut reply)?.strip_prefix(b":")?)
}

/// Takes one string; `Some(None)` is a missing value.
fn bulk<'a>(reply: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let head = line(reply)?;
    if head == b"_" {
        return Some(None);
    }
    let length: usize = number(head.strip_prefix(b"$")?)?;
    let (text, rest) = reply.split_at_checked(length)?;
    *reply = rest.strip_prefix(b"\r\n")?;
    Some(Some(text))
}

fn elements(reply: &[u8]) -> Option<Vec<Option<Element>>> {
    let mut reply = reply;
    let count: usize = number(line(&mut reply)?.strip_prefix(b"*")?)?;
    // Each element takes five bytes at least, so a count that lies reserves nothing.
    let mut elements = Vec::with_capacity(count.min(reply.len() / 5));
    for _ in 0..count {
        elements.push(bulk(&mut reply)?.and_then(number));
    }
    Some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_and_nonsense_is_not() {
        assert_eq!(integer(b":17\r\n"), Some(17));
        assert_eq!(integer(b"-ERR wrong type\r\n"), None);
        assert_eq!(elements(b"*3\r\n$1\r\n7\r\n$2\r\n42\r\n$1\r\nx\r\n"), Some(vec![Some(7), Some(42), None]));
        assert_eq!(elements(b"*0\r\n"), Some(vec![]));
        assert_eq!(elements(b"*99999999999\r\n"), None);
        assert_eq!(bulk(&mut &b"_\r\n"[..]), Some(None));
        assert_eq!(bulk(&mut &b"$5\r\nab\r\n"[..]), None);
        let told = surprise(CommandId::Incr, b"-ERR value is not an integer\r\n").to_string();
        assert_eq!(told, r#"INCR was answered with "-ERR value is not an integer""#);
    }
}
