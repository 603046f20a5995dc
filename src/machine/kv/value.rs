//! Replies read back from their neutral form (see [`super::reply`]), for users of the library and for tests.

/// One reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A status, `OK` for one.
    Simple(String),
    /// An error, its code first.
    Error(String),
    /// An integer.
    Integer(i64),
    /// A string of bytes.
    Bulk(Vec<u8>),
    /// A missing value, or a missing array.
    Null,
    /// A sequence.
    Array(Vec<Value>),
    /// Keys, each with its value.
    Map(Vec<(Value, Value)>),
    /// A sequence without repetition.
    Set(Vec<Value>),
    /// A floating-point number.
    Double(f64),
}

/// Bytes that are not one reply in its neutral form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The bytes end inside the reply.
    #[error("the reply ends early")]
    Short,
    /// Something follows the reply.
    #[error("{0} bytes follow the reply")]
    Trailing(usize),
    /// A kind of reply that the neutral form does not have.
    #[error("a reply cannot begin with the byte {0}")]
    Kind(u8),
    /// A number that is none, or a length that cannot be.
    #[error("a number in the reply cannot be read")]
    Number,
    /// More levels of arrays than any reply has.
    #[error("the reply is nested more than {DEEPEST} levels deep")]
    Deep,
}

/// Levels of arrays that are read.
const DEEPEST: usize = 16;

/// Reads the one reply that `bytes` hold. Takes memory in proportion to the bytes at most.
///
/// # Errors
/// The bytes are damaged; see [`Unreadable`].
pub fn parse(bytes: &[u8]) -> Result<Value, Unreadable> {
    let mut input = bytes;
    let value = value(&mut input, DEEPEST)?;
    if input.is_empty() { Ok(value) } else { Err(Unreadable::Trailing(input.len())) }
}

fn value(input: &mut &[u8], deepest: usize) -> Result<Value, Unreadable> {
    let (&kind, rest) = input.split_first().ok_or(Unreadable::Short)?;
    *input = rest;
    let line = line(input)?;
    match kind {
        b'+' => Ok(Value::Simple(String::from_utf8_lossy(line).into_owned())),
        b'-' => Ok(Value::Error(String::from_utf8_lossy(line).into_owned())),
        b':' => number(line).map(Value::Integer),
        b'_' => Ok(Value::Null),
        b',' => {
            let text = std::str::from_utf8(line).map_err(|_| Unreadable::Number)?;
            text.parse().map(Value::Double).map_err(|_| Unreadable::Number)
        }
        b'$' => {
            let length = usize::try_from(number(line)?).map_err(|_| Unreadable::Number)?;
            let (bytes, rest) = input.split_at_checked(length).ok_or(Unreadable::Short)?;
            *input = rest.strip_prefix(b"\r\n").ok_or(Unreadable::Short)?;
            Ok(Value::Bulk(bytes.to_vec()))
        }
        b'*' if line == b"-1" => Ok(Value::Null),
        b'*' => values(input, number(line)?, deepest).map(Value::Array),
        b'~' => values(input, number(line)?, deepest).map(Value::Set),
        b'%' => {
            let flat = values(input, number(line)?.checked_mul(2).ok_or(Unreadable::Number)?, deepest)?;
            let mut flat = flat.into_iter();
            Ok(Value::Map(std::iter::from_fn(|| Some((flat.next()?, flat.next()?))).collect()))
        }
        other => Err(Unreadable::Kind(other)),
    }
}

fn values(input: &mut &[u8], count: i64, deepest: usize) -> Result<Vec<Value>, Unreadable> {
    let deepest = deepest.checked_sub(1).ok_or(Unreadable::Deep)?;
    let count = usize::try_from(count).map_err(|_| Unreadable::Number)?;
    // The shortest reply, `_\r\n`, has three bytes.
    if count > input.len() / 3 {
        return Err(Unreadable::Short);
    }
    (0..count).map(|_| value(input, deepest)).collect()
}

fn line<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], Unreadable> {
    let end = input.windows(2).position(|pair| pair == b"\r\n").ok_or(Unreadable::Short)?;
    let line = &input[..end];
    *input = &input[end + 2..];
    Ok(line)
}

fn number(text: &[u8]) -> Result<i64, Unreadable> {
    super::number::parse_integer(text).ok_or(Unreadable::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_is_read() {
        let bytes = b"*8\r\n+OK\r\n-ERR x\r\n:-5\r\n$3\r\na\r\n\r\n_\r\n%1\r\n$1\r\nk\r\n,1.5\r\n~1\r\n:1\r\n*-1\r\n";
        let expected = Value::Array(vec![
            Value::Simple("OK".into()),
            Value::Error("ERR x".into()),
            Value::Integer(-5),
            Value::Bulk(b"a\r\n".to_vec()),
            Value::Null,
            Value::Map(vec![(Value::Bulk(b"k".to_vec()), Value::Double(1.5))]),
            Value::Set(vec![Value::Integer(1)]),
            Value::Null,
        ]);
        assert_eq!(parse(bytes), Ok(expected));
    }

    #[test]
    fn depth_and_size_are_bounded() {
        assert_eq!(parse(&b"*1\r\n".repeat(100_000)), Err(Unreadable::Deep));
        assert_eq!(parse(b"*1000000000\r\n"), Err(Unreadable::Short));
        assert_eq!(parse(b"$1000000000\r\nab\r\n"), Err(Unreadable::Short));
        assert_eq!(parse(b"%9223372036854775807\r\n"), Err(Unreadable::Number));
        assert_eq!(parse(b":1\r\n:2\r\n"), Err(Unreadable::Trailing(4)));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in "[*%~$:,_+0-9\r\n-]{0,60}") {
            let _ = parse(bytes.as_bytes());
        }
    }
}
