//! Neutral replies into a connection's protocol.
//!
//! The neutral form ([`crate::machine::kv::reply`]) is RESP3 plus `*-1`. A reply is a flat run of tokens in which a
//! head only tells how many tokens follow, and each token is translated by itself: nesting needs no stack at all, so
//! no depth of nesting can exhaust one. What is the same in both protocols is copied in runs.

use bytes::{BufMut as _, BytesMut};

/// How replies of a request are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RESP2.
    Resp2,
    /// RESP3.
    Resp3,
    /// Not at all: the client asked for no reply to this request (CLIENT REPLY).
    Silent,
}

/// Stands in for a reply that is not one, which only a defect of the machine can make.
const BROKEN: &[u8] = b"-ERR the reply could not be put into this connection's protocol\r\n";

impl Format {
    /// Appends `neutral` to `out` in this format.
    pub fn encode(self, neutral: &[u8], out: &mut BytesMut) {
        let Some(&kind) = neutral.first() else { return };
        let same = match self {
            Format::Silent => return,
            Format::Resp2 => matches!(kind, b'$' | b'+' | b':' | b'-'),
            Format::Resp3 => !matches!(kind, b'*' | b'%' | b'~' | b'>'),
        };
        if same {
            out.extend_from_slice(neutral);
            return;
        }
        if self == Format::Resp2 && flat_pairs(neutral, out).is_some() {
            return;
        }
        let mark = out.len();
        if translate(neutral, self, out).is_none() {
            out.truncate(mark);
            out.extend_from_slice(BROKEN);
        }
    }
}

/// A list of pairs whose second part is a number (members with their scores) is flat in RESP2.
fn flat_pairs(neutral: &[u8], out: &mut BytesMut) -> Option<()> {
    let outer = Token::at(neutral, 0).filter(|token| token.kind == b'*')?;
    let pairs = count(outer.line).filter(|pairs| *pairs > 0)?;
    let mark = out.len();
    head(b'*', pairs.checked_mul(2)?, out);
    let mut at = outer.end;
    for _ in 0..pairs {
        let written = (|| {
            let pair = Token::at(neutral, at).filter(|token| token.kind == b'*' && token.line == b"2")?;
            let member = Token::at(neutral, pair.end).filter(|token| token.kind == b'$')?;
            let score = Token::at(neutral, member.end).filter(|token| token.kind == b',')?;
            string(member.body, out);
            string(score.line, out);
            at = score.end;
            Some(())
        })();
        if written.is_none() {
            out.truncate(mark);
            return None;
        }
    }
    Some(())
}

/// Token by token; `None` when the bytes are no reply.
fn translate(neutral: &[u8], format: Format, out: &mut BytesMut) -> Option<()> {
    let (mut at, mut copied) = (0, 0);
    out.reserve(neutral.len());
    while at < neutral.len() {
        let token = Token::at(neutral, at)?;
        let changed = match format {
            Format::Resp3 => token.kind == b'*' && token.line == b"-1",
            _ => matches!(token.kind, b'_' | b'%' | b'~' | b'>' | b',' | b'#' | b'(' | b'='),
        };
        if changed {
            out.extend_from_slice(&neutral[copied..at]);
            copied = token.end;
            match format {
                Format::Resp3 => out.extend_from_slice(b"_\r\n"),
                _ => token.to_resp2(out)?,
            }
        }
        at = token.end;
    }
    out.extend_from_slice(&neutral[copied..]);
    Some(())
}

/// One token of a reply: a scalar, or the head of an aggregate.
struct Token<'a> {
    kind: u8,
    /// Its first line without kind and line end.
    line: &'a [u8],
    /// What follows the line of a string, without line end.
    body: &'a [u8],
    /// Where the next token begins.
    end: usize,
}

impl<'a> Token<'a> {
    fn at(neutral: &'a [u8], at: usize) -> Option<Self> {
        let (&kind, rest) = neutral[at..].split_first()?;
        let length = rest.iter().position(|byte| *byte == b'\r')?;
        let (line, end) = (&rest[..length], at + length + 3);
        if neutral.get(end - 1) != Some(&b'\n') {
            return None;
        }
        let token = Token { kind, line, body: &[], end };
        match kind {
            b'$' | b'=' if line != b"-1" => {
                let length = count(line)?;
                let body = neutral.get(end..)?.get(..length)?;
                let end = end.checked_add(length)?.checked_add(2)?;
                (neutral.len() >= end).then_some(Token { body, end, ..token })
            }
            b'*' if line == b"-1" => Some(token),
            b'*' | b'%' | b'~' | b'>' => count(line).map(|_| token),
            b'$' | b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Some(token),
            _ => None,
        }
    }

    /// Writes a token that RESP2 does not have as one that it has.
    fn to_resp2(&self, out: &mut BytesMut) -> Option<()> {
        match self.kind {
            b'%' => head(b'*', count(self.line)?.checked_mul(2)?, out),
            b'~' | b'>' => head(b'*', count(self.line)?, out),
            b'#' => head(b':', usize::from(self.line == b"t"), out),
            b',' | b'(' => string(self.line, out),
            // A verbatim string begins with its format and a colon: `txt:`.
            b'=' => string(self.body.get(4..)?, out),
            _ => out.put_slice(b"$-1\r\n"),
        }
        Some(())
    }
}

/// The count of a head.
fn count(line: &[u8]) -> Option<usize> {
    if line.is_empty() || line.len() > 18 {
        return None;
    }
    line.iter().try_fold(0usize, |value, byte| byte.is_ascii_digit().then(|| value * 10 + usize::from(byte - b'0')))
}

fn head(kind: u8, count: usize, out: &mut BytesMut) {
    use std::fmt::Write as _;
    out.put_u8(kind);
    write!(out, "{count}\r\n").expect("a BytesMut takes every write");
}

fn string(text: &[u8], out: &mut BytesMut) {
    head(b'$', text.len(), out);
    out.put_slice(text);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::kv::reply::Reply;
    use proptest::prelude::*;

    fn encoded(format: Format, neutral: &[u8]) -> String {
        let mut out = BytesMut::from(&b"before "[..]);
        format.encode(neutral, &mut out);
        String::from_utf8(out.strip_prefix(b"before ").unwrap().to_vec()).unwrap()
    }

    #[test]
    fn members_with_scores_are_flat_in_resp2_only() {
        let mut neutral = Vec::new();
        let mut reply = Reply(&mut neutral);
        reply.array(2);
        for (member, score) in [(b"a", "1.5"), (b"b", "2")] {
            reply.array(2);
            reply.bulk(member);
            reply.double(score);
        }
        assert_eq!(encoded(Format::Resp2, &neutral), "*4\r\n$1\r\na\r\n$3\r\n1.5\r\n$1\r\nb\r\n$1\r\n2\r\n");
        assert!(encoded(Format::Resp3, &neutral).starts_with("*2\r\n*2\r\n"));
    }

    #[test]
    fn what_is_the_same_is_copied() {
        for neutral in ["+OK\r\n", "-ERR no\r\n", ":-3\r\n", "$3\r\na\rb\r\n", "$0\r\n\r\n", "*2\r\n:1\r\n*0\r\n"] {
            assert_eq!(encoded(Format::Resp2, neutral.as_bytes()), neutral);
            assert_eq!(encoded(Format::Resp3, neutral.as_bytes()), neutral);
            assert_eq!(encoded(Format::Silent, neutral.as_bytes()), "");
        }
    }

    #[test]
    fn what_resp2_lacks_is_translated() {
        for (neutral, resp2) in [
            ("_\r\n", "$-1\r\n"),
            ("*-1\r\n", "*-1\r\n"),
            (",3.5\r\n", "$3\r\n3.5\r\n"),
            (",inf\r\n", "$3\r\ninf\r\n"),
            ("#t\r\n", ":1\r\n"),
            ("#f\r\n", ":0\r\n"),
            ("(123\r\n", "$3\r\n123\r\n"),
            ("=8\r\ntxt:a\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            ("~1\r\n$1\r\na\r\n", "*1\r\n$1\r\na\r\n"),
            ("%1\r\n$1\r\na\r\n%1\r\n_\r\n,1\r\n", "*2\r\n$1\r\na\r\n*2\r\n$-1\r\n$1\r\n1\r\n"),
            (
                "*2\r\n*2\r\n$1\r\na\r\n,1\r\n*2\r\n$1\r\n_\r\n*-1\r\n",
                "*2\r\n*2\r\n$1\r\na\r\n$1\r\n1\r\n*2\r\n$1\r\n_\r\n*-1\r\n",
            ),
        ] {
            assert_eq!(encoded(Format::Resp2, neutral.as_bytes()), resp2, "{neutral:?}");
        }
    }

    #[test]
    fn resp3_knows_one_null() {
        assert_eq!(encoded(Format::Resp3, b"*-1\r\n"), "_\r\n");
        assert_eq!(encoded(Format::Resp3, b"*2\r\n$5\r\n*-1\r\n\r\n*-1\r\n"), "*2\r\n$5\r\n*-1\r\n\r\n_\r\n");
        assert_eq!(encoded(Format::Resp3, b"%1\r\n+a\r\n,1\r\n"), "%1\r\n+a\r\n,1\r\n");
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let mut neutral = b"*1\r\n".repeat(1_000_000);
        neutral.extend_from_slice(b"_\r\n");
        let mut out = BytesMut::new();
        Format::Resp2.encode(&neutral, &mut out);
        assert!(out.ends_with(b"*1\r\n$-1\r\n"));
    }

    #[test]
    fn a_broken_reply_becomes_an_error() {
        for neutral in ["*1\r\n$5\r\nab\r\n", "%x\r\n", "~1", "*1\r\n?\r\n", "=2\r\nab\r\n", "*1\r\n$-2\r\n"] {
            assert_eq!(encoded(Format::Resp2, neutral.as_bytes()).as_bytes(), BROKEN, "{neutral:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(neutral in prop::collection::vec(prop::sample::select(b"*%~$=,_#(:+-019\r\nab".to_vec()), 0..60)) {
            for format in [Format::Resp2, Format::Resp3] {
                let mut out = BytesMut::new();
                format.encode(&neutral, &mut out);
                prop_assert!(out.len() <= neutral.len() * 3 + BROKEN.len());
            }
        }

        #[test]
        fn strings_survive(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..10)) {
            let mut neutral = Vec::new();
            Reply(&mut neutral).set(words.len());
            words.iter().for_each(|word| Reply(&mut neutral).bulk(word));
            let mut out = BytesMut::new();
            Format::Resp2.encode(&neutral, &mut out);
            neutral[0] = b'*';
            prop_assert_eq!(&out[..], &neutral[..]);
        }
    }
}
