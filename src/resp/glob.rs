//! Redis' glob patterns, for CONFIG GET and COMMAND LIST. Letters of either case match.

/// True when `text` matches `pattern`: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a byte that stands for itself.
///
/// Needs time proportional to the product of the lengths at worst: only the last `*` is ever tried again.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', after @ ..] = pattern {
            pattern = after;
            retry = Some((after, text));
            continue;
        }
        match text.split_first() {
            None if pattern.is_empty() => return true,
            Some((&byte, rest)) => {
                if let Some(after) = one(pattern, byte) {
                    (pattern, text) = (after, rest);
                    continue;
                }
            }
            None => return false,
        }
        match retry {
            Some((after, [_, shorter @ ..])) => {
                (pattern, text) = (after, shorter);
                retry = Some((after, shorter));
            }
            _ => return false,
        }
    }
}

/// What is left of `pattern` when its first element takes `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (&first, rest) = pattern.split_first()?;
    let (taken, rest) = match (first, rest) {
        (b'?', _) => (true, rest),
        (b'[', _) => class(rest, byte),
        (b'\\', [literal, after @ ..]) => (same(*literal, byte), after),
        _ => (same(first, byte), rest),
    };
    taken.then_some(rest)
}

/// Whether the class that begins here (behind its bracket) takes `byte`, and what follows it.
fn class(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let (inverted, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let byte = byte.to_ascii_lowercase();
    let mut found = false;
    loop {
        rest = match rest {
            [] => return (found != inverted, rest),
            [b']', after @ ..] => return (found != inverted, after),
            [b'\\', literal, after @ ..] => {
                found |= same(*literal, byte);
                after
            }
            [low, b'-', high, after @ ..] => {
                let (low, high) = (low.to_ascii_lowercase(), high.to_ascii_lowercase());
                found |= (low.min(high)..=low.max(high)).contains(&byte);
                after
            }
            [literal, after @ ..] => {
                found |= same(*literal, byte);
                after
            }
        };
    }
}

fn same(left: u8, right: u8) -> bool {
    left.eq_ignore_ascii_case(&right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("*", "port", true),
            ("po*", "port", true),
            ("*max*", "tcp-maxclients", true),
            ("p?rt", "port", true),
            ("PORT", "port", true),
            ("p[a-p]rt", "port", true),
            ("p[^o]rt", "port", false),
            ("p\\*rt", "port", false),
            ("port", "ports", false),
            ("*t*x", "port", false),
            ("[", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = [b"a*".repeat(200), b"b".to_vec()].concat();
        assert!(!matches(&pattern, &[b'a'; 2000]));
    }
}
