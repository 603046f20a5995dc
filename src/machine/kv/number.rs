//! Numbers in arguments and replies, read and written as Redis does.

use std::fmt::Write as _;

use super::refusal::{NOT_FLOAT, NOT_IN_RANGE, NOT_INTEGER, NOT_POSITIVE, Outcome};

/// A decimal integer in its one spelling: no sign `+`, no leading zero, no blank, no `-0`.
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value = 0u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u64::from(digit - b'0');
    }
    if negative { 0i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// [`parse_integer`], or the refusal.
pub(super) fn integer(text: &[u8]) -> Outcome<i64> {
    parse_integer(text).ok_or(NOT_INTEGER)
}

/// A count that must not be negative.
pub(super) fn positive(text: &[u8]) -> Outcome<usize> {
    parse_integer(text).and_then(|value| usize::try_from(value).ok()).ok_or(NOT_POSITIVE)
}

/// Any integer that can be negated.
pub(super) fn symmetric(text: &[u8]) -> Outcome<i64> {
    match integer(text)? {
        i64::MIN => Err(NOT_IN_RANGE),
        value => Ok(value),
    }
}

/// A double as C's `strtod` reads it, all of `text` and nothing but a number in range; not in hexadecimal.
pub(super) fn parse_double(text: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let unsigned = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    let named = unsigned.first().is_some_and(|byte| byte.eq_ignore_ascii_case(&b'i'));
    let mantissa = text.split(|byte| byte.eq_ignore_ascii_case(&b'e')).next().unwrap_or_default();
    let underflow = value == 0.0 && mantissa.iter().any(|byte| (b'1'..=b'9').contains(byte));
    let overflow = value.is_infinite() && !named;
    (!value.is_nan() && !underflow && !overflow).then_some(value)
}

/// [`parse_double`], or the refusal.
pub(super) fn double(text: &[u8]) -> Outcome<f64> {
    parse_double(text).ok_or(NOT_FLOAT)
}

/// A double's shortest text that reads back the same, in the form in which Redis writes it since 7.2.
pub(super) fn double_text(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    let scientific = format!("{:e}", value.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let count = digits.len() as i32;
    // Power of ten of the last digit.
    let last = exponent - (count - 1);
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    if last >= 0 && exponent < count + 7 {
        text.push_str(&digits);
        text.extend(std::iter::repeat_n('0', last as usize));
    } else if last < 0 && (last > -7 || exponent.abs() < 4) {
        let point = count + last;
        if point <= 0 {
            text.push_str("0.");
            text.extend(std::iter::repeat_n('0', -point as usize));
            text.push_str(&digits);
        } else {
            text.push_str(&digits[..point as usize]);
            text.push('.');
            text.push_str(&digits[point as usize..]);
        }
    } else {
        text.push_str(&digits[..1]);
        if count > 1 {
            text.push('.');
            text.push_str(&digits[1..]);
        }
        let _ = write!(text, "e{}{}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    text
}

/// The ranks `from..to` that Redis means by `start` and `end`, both inclusive and counted from the end when negative.
pub(super) fn range(start: i64, end: i64, length: usize) -> std::ops::Range<usize> {
    let length = length as i64;
    let start = if start < 0 { start.saturating_add(length).max(0) } else { start };
    let end = if end < 0 { end.saturating_add(length) } else { end.min(length - 1) };
    if start > end || start >= length { 0..0 } else { start as usize..end as usize + 1 }
}

/// The rank that Redis means by `index`, counted from the end when negative.
pub(super) fn rank(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(length as i64)? } else { index };
    usize::try_from(index).ok().filter(|rank| *rank < length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_spelling() {
        for text in ["0", "7", "-1", "9223372036854775807", "-9223372036854775808"] {
            assert_eq!(parse_integer(text.as_bytes()), text.parse().ok());
        }
        for text in [
            "",
            "-",
            "-0",
            "+1",
            "01",
            " 1",
            "1 ",
            "9223372036854775808",
            "-9223372036854775809",
            "1e3",
            "99999999999999999999",
        ] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn doubles_are_read_whole_and_in_range() {
        assert_eq!(parse_double(b"1.5e3"), Some(1500.0));
        assert_eq!(parse_double(b"-Infinity"), Some(f64::NEG_INFINITY));
        for text in ["", "nan", "1e400", "1e-400", " 1", "1 ", "1x", "0.0.1"] {
            assert_eq!(parse_double(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn doubles_are_written_short() {
        for (value, text) in [
            (0.1, "0.1"),
            (3.0, "3"),
            (-2.5, "-2.5"),
            (1e20, "1e+20"),
            (1e21, "1e+21"),
            (1.5e-9, "1.5e-9"),
            (123456789.0, "123456789"),
            (1e7, "10000000"),
            (0.001, "0.001"),
            (f64::INFINITY, "inf"),
            (-0.0, "-0"),
        ] {
            assert_eq!(double_text(value), text);
        }
    }

    #[test]
    fn ranges_count_from_either_end() {
        assert_eq!(range(0, -1, 3), 0..3);
        assert_eq!(range(-100, 100, 3), 0..3);
        assert_eq!(range(1, 1, 3), 1..2);
        assert_eq!(range(2, 1, 3), 0..0);
        assert_eq!(range(0, -9, 3), 0..0);
        assert_eq!(range(i64::MIN, i64::MAX, 0), 0..0);
        assert_eq!((rank(-1, 3), rank(3, 3), rank(i64::MIN, 3)), (Some(2), None, None));
    }
}
