//! The arithmetic of INCRBYFLOAT: what Redis computes in x87 `long double`, computed in integers.
//!
//! A number is read correctly rounded to 64 bits of mantissa, added with one rounding (to nearest, ties to even), and
//! written with 17 places after the point, trailing zeros cut: `0.1 + 0.2` is `0.3`. The result is the same bytes on
//! every machine, whatever its floating-point unit. Hexadecimal is not read; below 10^-4932 precision is not reduced.

use super::refusal::{NAN_OR_INFINITY, NOT_FLOAT, Outcome};

/// Longest text that Redis reads as a number.
const LONGEST: usize = 5 * 1024 - 1;
/// Powers of ten beyond which a number is out of range.
const RANGE: i64 = 4951;
/// A number below this power of ten changes no place that is ever written, not even by rounding: a sum that shows
/// anything has its last bit above 10^-38. Dividing by such powers would take milliseconds.
const NEGLIGIBLE: i64 = -100;
/// Largest power of two, of the lowest mantissa bit, that is in range.
const LARGEST_EXPONENT: i64 = 16384 - 64;

/// `mantissa * 2^exponent`; the highest bit of the mantissa is set, except in zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Finite {
    negative: bool,
    mantissa: u64,
    exponent: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Finite(Finite),
    Infinite,
}

/// The sum of two numbers in decimal, as text.
pub(super) fn sum(left: &[u8], right: &[u8]) -> Outcome<String> {
    match (parse(left).ok_or(NOT_FLOAT)?, parse(right).ok_or(NOT_FLOAT)?) {
        (Number::Finite(left), Number::Finite(right)) => add(left, right).map(write).ok_or(NAN_OR_INFINITY),
        _ => Err(NAN_OR_INFINITY),
    }
}

fn parse(text: &[u8]) -> Option<Number> {
    if text.len() > LONGEST {
        return None;
    }
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity") {
        return Some(Number::Infinite);
    }
    let mut parts = text.splitn(2, |byte| matches!(byte, b'e' | b'E'));
    let mantissa = parts.next()?;
    let mut exponent = match parts.next() {
        Some(exponent) => parse_exponent(exponent)?,
        None => 0,
    };
    let point = mantissa.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&mantissa[..point], &mantissa[point + 1..]),
        None => (mantissa, &b""[..]),
    };
    let digits: Vec<u8> = whole.iter().chain(fraction).copied().collect();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    exponent -= fraction.len() as i64;
    let end = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    exponent += (digits.len() - end) as i64;
    let start = digits.iter().position(|digit| *digit != b'0').unwrap_or(0);
    let digits = &digits[start.min(end)..end];
    if digits.is_empty() {
        return Some(Number::Finite(Finite { negative, mantissa: 0, exponent: 0 }));
    }
    let magnitude = exponent + digits.len() as i64;
    if !(-RANGE..=RANGE).contains(&magnitude) {
        return None;
    }
    if magnitude < NEGLIGIBLE {
        return Some(Number::Finite(Finite { negative, mantissa: 0, exponent: 0 }));
    }
    from_decimal(negative, digits, exponent).map(Number::Finite)
}

fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0i64, |value, digit| (value * 10 + i64::from(digit - b'0')).min(1_000_000));
    Some(if negative { -value } else { value })
}

/// `digits * 10^exponent`, rounded once.
fn from_decimal(negative: bool, digits: &[u8], exponent: i64) -> Option<Finite> {
    let mut numerator = Wide::default();
    for chunk in digits.chunks(9) {
        let value = chunk.iter().fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
        numerator.multiply_add(10u32.pow(chunk.len() as u32), value);
    }
    if exponent >= 0 {
        numerator.multiply_power_of_ten(exponent as usize);
        return round(negative, &numerator, false, 0);
    }
    let mut denominator = Wide(vec![1]);
    denominator.multiply_power_of_ten(exponent.unsigned_abs() as usize);
    // The quotient gets at least 66 bits: the mantissa, the bit that decides, and one to spare.
    let shift = (66 + denominator.bits()).saturating_sub(numerator.bits());
    let (mut quotient, mut rest) = (Wide::default(), Wide::default());
    for bit in (0..numerator.bits() + shift).rev() {
        rest.push_bit(bit >= shift && numerator.bit(bit - shift));
        quotient.push_bit(rest.subtract_if_not_less(&denominator));
    }
    round(negative, &quotient, rest.bits() > 0, -(shift as i64))
}

/// `value * 2^exponent` rounded to 64 bits; `more` says that something below was cut off.
fn round(negative: bool, value: &Wide, more: bool, exponent: i64) -> Option<Finite> {
    let bits = value.bits();
    let mut mantissa = 0u64;
    for at in 1..=64 {
        mantissa = mantissa << 1 | u64::from(bits >= at && value.bit(bits - at));
    }
    let mut exponent = exponent + bits as i64 - 64;
    if bits > 64 {
        let half = value.bit(bits - 65);
        let below = more || (0..bits - 65).any(|bit| value.bit(bit));
        if half && (below || mantissa & 1 == 1) {
            mantissa = mantissa.wrapping_add(1);
            if mantissa == 0 {
                mantissa = 1 << 63;
                exponent += 1;
            }
        }
    }
    (exponent <= LARGEST_EXPONENT).then_some(Finite { negative, mantissa, exponent })
}

fn add(left: Finite, right: Finite) -> Option<Finite> {
    if left.mantissa == 0 {
        return Some(right);
    }
    if right.mantissa == 0 {
        return Some(left);
    }
    let (high, low) =
        if (left.exponent, left.mantissa) >= (right.exponent, right.mantissa) { (left, right) } else { (right, left) };
    /// Bits below the mantissa in which the smaller number is lined up; what falls below those sets the last one.
    const GUARD: i64 = 63;
    let distance = high.exponent - low.exponent;
    let lined_up = u128::from(low.mantissa) << GUARD;
    let small = match u32::try_from(distance) {
        Ok(distance @ 0..=127) => {
            let kept = lined_up >> distance;
            kept | u128::from(kept << distance != lined_up)
        }
        _ => 1,
    };
    let large = u128::from(high.mantissa) << GUARD;
    let total = if high.negative == low.negative { large + small } else { large - small };
    if total == 0 {
        return Some(Finite { negative: false, mantissa: 0, exponent: 0 });
    }
    let wide = Wide((0..4).map(|word| (total >> (32 * word)) as u32).collect());
    round(high.negative, &wide, false, high.exponent - GUARD)
}

fn write(number: Finite) -> String {
    const PLACES: usize = 17;
    let (whole, fraction) = if number.exponent >= 0 {
        let mut whole = Wide(vec![number.mantissa as u32, (number.mantissa >> 32) as u32]);
        for _ in 0..number.exponent {
            whole.push_bit(false);
        }
        (whole.decimal(), 0)
    } else {
        let scaled = u128::from(number.mantissa) * 10u128.pow(PLACES as u32);
        let rounded = match u32::try_from(-number.exponent) {
            Ok(shift @ 1..=127) => {
                let (kept, half) = (scaled >> shift, 1u128 << (shift - 1));
                let cut = scaled & ((half << 1).wrapping_sub(1));
                kept + u128::from(cut > half || (cut == half && kept & 1 == 1))
            }
            _ => 0,
        };
        ((rounded / 10u128.pow(PLACES as u32)).to_string(), rounded % 10u128.pow(PLACES as u32))
    };
    let fraction = format!("{fraction:0PLACES$}");
    let fraction = fraction.trim_end_matches('0');
    let sign = if number.negative && (whole != "0" || !fraction.is_empty()) { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// A natural number of any size, its lowest word first, without leading zero words after [`Wide::trim`].
#[derive(Debug, Clone, Default)]
struct Wide(Vec<u32>);

impl Wide {
    fn bits(&self) -> usize {
        match self.0.iter().rposition(|word| *word != 0) {
            Some(last) => last * 32 + 32 - self.0[last].leading_zeros() as usize,
            None => 0,
        }
    }

    fn bit(&self, at: usize) -> bool {
        self.0.get(at / 32).is_some_and(|word| word >> (at % 32) & 1 == 1)
    }

    fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for word in &mut self.0 {
            let value = u64::from(*word) * u64::from(factor) + carry;
            *word = value as u32;
            carry = value >> 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    fn multiply_power_of_ten(&mut self, mut power: usize) {
        while power > 0 {
            let step = power.min(9);
            self.multiply_add(10u32.pow(step as u32), 0);
            power -= step;
        }
    }

    /// Doubles, and adds one for a set bit.
    fn push_bit(&mut self, bit: bool) {
        let mut carry = u32::from(bit);
        for word in &mut self.0 {
            let next = *word >> 31;
            *word = *word << 1 | carry;
            carry = next;
        }
        if carry != 0 {
            self.0.push(carry);
        }
    }

    /// Subtracts `other` when that leaves no negative number; true when it did.
    fn subtract_if_not_less(&mut self, other: &Wide) -> bool {
        let longest = self.0.len().max(other.0.len());
        let word = |number: &Wide, at: usize| number.0.get(at).copied().unwrap_or(0);
        let less = (0..longest).rev().map(|at| word(self, at).cmp(&word(other, at))).find(|order| order.is_ne());
        if less.is_some_and(std::cmp::Ordering::is_lt) {
            return false;
        }
        let mut borrow = false;
        for at in 0..self.0.len() {
            let (value, first) = self.0[at].overflowing_sub(word(other, at));
            let (value, second) = value.overflowing_sub(u32::from(borrow));
            self.0[at] = value;
            borrow = first || second;
        }
        self.trim();
        true
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn decimal(mut self) -> String {
        let mut groups = Vec::new();
        self.trim();
        while !self.0.is_empty() {
            let mut rest = 0u64;
            for word in self.0.iter_mut().rev() {
                let value = rest << 32 | u64::from(*word);
                *word = (value / 1_000_000_000) as u32;
                rest = value % 1_000_000_000;
            }
            groups.push(rest);
            self.trim();
        }
        let mut text = groups.last().copied().unwrap_or(0).to_string();
        for group in groups.iter().rev().skip(1) {
            text.push_str(&format!("{group:09}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_as_redis_gives_them() {
        for (left, right, expected) in [
            ("0.1", "0.2", "0.3"),
            ("10.5", "0.1", "10.6"),
            ("5.0e3", "200", "5200"),
            ("3.0", "-3", "0"),
            ("-0.5", "0.25", "-0.25"),
            ("1e19", "1", "10000000000000000001"),
            ("1e20", "1", "100000000000000000000"),
            ("0", "1e-18", "0"),
            ("0", "-1e-18", "0"),
            ("0", "0.00000000000000001", "0.00000000000000001"),
            (".5", "5.", "5.5"),
        ] {
            assert_eq!(sum(left.as_bytes(), right.as_bytes()).as_deref(), Ok(expected), "{left} + {right}");
        }
    }

    #[test]
    fn what_is_too_small_to_show_is_not_even_computed() {
        let zero = Number::Finite(Finite { negative: false, mantissa: 0, exponent: 0 });
        assert_eq!(parse(b"1e-4900"), Some(zero));
        assert_eq!(parse(b"1e-5000"), None, "out of range all the same");
        for (left, right, expected) in [("1", "1e-4900", "1"), ("1e-4900", "-1e-4900", "0"), ("-1e-300", "0", "0")] {
            assert_eq!(sum(left.as_bytes(), right.as_bytes()).as_deref(), Ok(expected), "{left} + {right}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", ".", "1e", "e1", "x", "1 ", " 1", "nan", "1e5000", "1e-5000", "--1", "1.2.3"] {
            assert_eq!(sum(text.as_bytes(), b"1"), Err(NOT_FLOAT), "{text}");
        }
        assert_eq!(sum(b"inf", b"1"), Err(NAN_OR_INFINITY));
        assert_eq!(sum(b"1e4932", b"1e4932"), Err(NAN_OR_INFINITY));
    }
}
