//! Inline commands: a line of words with Redis' quoting rules (those of its `sdssplitargs`).

use super::parser::{ProtocolError, Span};

/// Splits `line` into words, appends their bytes to `words` and where each stands there to `spans`.
///
/// In double quotes `\n \r \t \b \a \xHH` and `\` before any byte are escapes; in single quotes only `\'` is. A
/// closing quote must end its word.
pub(super) fn split(line: &[u8], words: &mut Vec<u8>, spans: &mut Vec<Span>) -> Result<(), ProtocolError> {
    let mut rest = line;
    loop {
        rest = &rest[rest.iter().position(|byte| !is_space(*byte)).unwrap_or(rest.len())..];
        if rest.is_empty() {
            return Ok(());
        }
        let start = words.len();
        rest = word(rest, words)?;
        spans.push(Span::new(start, words.len()));
    }
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    byte == b' ' || (b'\t'..=b'\r').contains(&byte)
}

/// One word, unquoted, to the end of `words`; gives what follows it.
fn word<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Ok(rest),
            [b'"', quoted @ ..] => return closed(double_quoted(quoted, words)?),
            [b'\'', quoted @ ..] => return closed(single_quoted(quoted, words)?),
            [byte, after @ ..] => {
                words.push(*byte);
                rest = after;
            }
        }
    }
}

/// What follows a closing quote, which must be the end of the word.
fn closed(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(byte) if !is_space(*byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        rest = match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'"', after @ ..] => return Ok(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                words.push(hex(*high) << 4 | hex(*low));
                after
            }
            [b'\\', escaped, after @ ..] => {
                words.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                after
            }
            [byte, after @ ..] => {
                words.push(*byte);
                after
            }
        };
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        rest = match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\\', b'\'', after @ ..] => {
                words.push(b'\'');
                after
            }
            [b'\'', after @ ..] => return Ok(after),
            [byte, after @ ..] => {
                words.push(*byte);
                after
            }
        };
    }
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        split(line, &mut bytes, &mut spans).ok()?;
        Some(spans.iter().map(|span| span.of(&bytes).to_vec()).collect())
    }

    #[test]
    fn words_are_split_and_unquoted_as_redis_does() {
        let cases: [(&[u8], &[&[u8]]); 10] = [
            (b"", &[]),
            (b" \t ", &[]),
            (b"  PING  ", &[b"PING"]),
            (b"a\tb", &[b"a", b"b"]),
            (b"ECHO \"a\\x41\\n\\q\"", &[b"ECHO", b"aA\nq"]),
            (b"ECHO 'it\\'s'", &[b"ECHO", b"it's"]),
            (b"ECHO 'a\\nb'", &[b"ECHO", b"a\\nb"]),
            (b"ECHO a'b'", &[b"ECHO", b"ab"]),
            (b"ECHO \"\" ''", &[b"ECHO", b"", b""]),
            (b"ECHO \"\\xzz\"", &[b"ECHO", b"xzz"]),
        ];
        for (line, expected) in cases {
            assert_eq!(words(line).unwrap(), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_quote_that_does_not_end_its_word_is_refused() {
        for line in [&b"PING 'a"[..], b"PING \"a\"b", b"PING 'a'b", b"\"", b"'\\'", b"\"\\", b"\"\\\""] {
            assert_eq!(words(line), None, "{}", line.escape_ascii());
        }
    }
}
