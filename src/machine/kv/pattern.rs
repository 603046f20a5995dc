//! Redis' patterns: `*`, `?`, `[a-z]`, `[^a-z]` and `\` to take the next byte as it is.

/// True when all of `text` matches `pattern`, as for KEYS and SCAN. Takes time in the product of both lengths at worst:
/// of several `*` only the last one is ever tried again.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_by(|byte| byte, pattern, text)
}

/// The same where letters of either case match, as for CONFIG GET and COMMAND LIST.
pub(crate) fn matches_in_any_case(pattern: &[u8], text: &[u8]) -> bool {
    matches_by(|byte| byte.to_ascii_lowercase(), pattern, text)
}

/// `fold` makes one of the bytes that are the same.
fn matches_by(fold: impl Fn(u8) -> u8 + Copy, pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut pos) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, pos));
            at += 1;
            continue;
        }
        match text.get(pos) {
            None if at == pattern.len() => return true,
            None => return false,
            Some(byte) => {
                if let Some(next) = step(fold, pattern, at, fold(*byte)) {
                    (at, pos) = (next, pos + 1);
                    continue;
                }
            }
        }
        // This byte does not fit: the last star takes one more.
        let Some((after, taken)) = star else { return false };
        star = Some((after, taken + 1));
        (at, pos) = (after, taken + 1);
    }
}

/// Where the pattern goes on when its element at `at` matches `byte`, which is folded.
fn step(fold: impl Fn(u8) -> u8, pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match (*pattern.get(at)?, pattern.get(at + 1)) {
        (b'?', _) => Some(at + 1),
        (b'[', _) => class(fold, pattern, at + 1, byte),
        (b'\\', Some(literal)) => (fold(*literal) == byte).then_some(at + 2),
        (literal, _) => (fold(literal) == byte).then_some(at + 1),
    }
}

/// A class whose first byte after `[` is at `at`. One that is not closed ends with the pattern, as in Redis.
fn class(fold: impl Fn(u8) -> u8, pattern: &[u8], mut at: usize, byte: u8) -> Option<usize> {
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut found = false;
    loop {
        match &pattern[at.min(pattern.len())..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                found |= fold(*literal) == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                let (low, high) = (fold(*low), fold(*high));
                found |= (low.min(high)..=low.max(high)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= fold(*literal) == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b", "ab!", false),
            ("[", "[", false),
            ("[a", "a", true),
            ("*\\", "x\\", true),
            ("**a", "bba", true),
            ("a**", "a", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_in_any_case() {
        for (pattern, text, expected) in [
            ("PORT", "port", true),
            ("po*", "PORT", true),
            ("*max*", "tcp-maxclients", true),
            ("p[A-P]rt", "port", true),
            ("p[^O]rt", "port", false),
            ("\\P*", "port", true),
            ("p\\*rt", "port", false),
            ("port", "ports", false),
            ("*t*x", "port", false),
        ] {
            assert_eq!(matches_in_any_case(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        assert!(matches("a*".repeat(40).as_bytes(), &b"a".repeat(5000)));
        assert!(!matches(&[b"a*".repeat(40), b"c".to_vec()].concat(), &b"a".repeat(5000)));
    }
}
