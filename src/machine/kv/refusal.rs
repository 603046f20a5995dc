//! Errors as Redis words them.

use std::borrow::Cow;

/// The text of an error reply, its code first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) Cow<'static, str>);

/// What a command comes to: it has written its reply, or it has changed nothing and the refusal is the reply.
pub(super) type Outcome<T = ()> = Result<T, Refusal>;

const fn fixed(text: &'static str) -> Refusal {
    Refusal(Cow::Borrowed(text))
}

pub(super) const WRONG_TYPE: Refusal = fixed("WRONGTYPE Operation against a key holding the wrong kind of value");
pub(super) const SYNTAX: Refusal = fixed("ERR syntax error");
pub(super) const NOT_INTEGER: Refusal = fixed("ERR value is not an integer or out of range");
pub(super) const NOT_POSITIVE: Refusal = fixed("ERR value is out of range, must be positive");
pub(super) const NOT_IN_RANGE: Refusal =
    fixed("ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807");
pub(super) const NOT_FLOAT: Refusal = fixed("ERR value is not a valid float");
pub(super) const NAN_OR_INFINITY: Refusal = fixed("ERR increment would produce NaN or Infinity");
pub(super) const NAN_SCORE: Refusal = fixed("ERR resulting score is not a number (NaN)");
pub(super) const OVERFLOW: Refusal = fixed("ERR increment or decrement would overflow");
pub(super) const DECREMENT_OVERFLOW: Refusal = fixed("ERR decrement would overflow");
pub(super) const TOO_LONG: Refusal = fixed("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
pub(super) const OFFSET: Refusal = fixed("ERR offset is out of range");
pub(super) const NO_SUCH_KEY: Refusal = fixed("ERR no such key");
pub(super) const INDEX: Refusal = fixed("ERR index out of range");
pub(super) const CURSOR: Refusal = fixed("ERR invalid cursor");
pub(super) const SAME_OBJECT: Refusal = fixed("ERR source and destination objects are the same");
pub(super) const DB_INDEX: Refusal = fixed("ERR DB index is out of range");
pub(super) const NX_AND_OTHERS: Refusal = fixed("ERR NX and XX, GT or LT options at the same time are not compatible");
pub(super) const GT_AND_LT: Refusal = fixed("ERR GT and LT options at the same time are not compatible");
pub(super) const XX_AND_NX: Refusal = fixed("ERR XX and NX options at the same time are not compatible");
pub(super) const GT_LT_NX: Refusal = fixed("ERR GT, LT, and/or NX options at the same time are not compatible");
pub(super) const INCR_SINGLE: Refusal = fixed("ERR INCR option supports a single increment-element pair");
pub(super) const LIMIT_NEEDS_RANGE: Refusal =
    fixed("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX");
pub(super) const SCORES_BY_LEX: Refusal = fixed("ERR syntax error, WITHSCORES not supported in combination with BYLEX");
pub(super) const NOT_SCORES: Refusal = fixed("ERR min or max is not a float");
pub(super) const NOT_STRINGS: Refusal = fixed("ERR min or max not valid string range item");
pub(super) const TOO_MANY_AT_ONCE: Refusal = fixed("ERR value is out of range, at most 131072 elements at once");
pub(super) const OUT_OF_MEMORY: Refusal = fixed("OOM command not allowed when used memory > 'maxmemory'.");
pub(super) const MALFORMED: Refusal = fixed("ERR the operation cannot be read");
pub(super) const WRITES: Refusal = fixed("ERR this command writes and cannot be answered as a read");

/// As for an expire time that is not positive or too far away; `name` is the command's.
pub(super) fn expire_time(name: &str) -> Refusal {
    Refusal(Cow::Owned(format!("ERR invalid expire time in '{}' command", name.to_lowercase())))
}

/// As for a wrong number of words; `name` is the command's.
pub(super) fn arity(name: &str) -> Refusal {
    Refusal(Cow::Owned(format!("ERR wrong number of arguments for '{}' command", name.to_lowercase())))
}

/// As for an option that EXPIRE does not know.
pub(super) fn unsupported(option: &[u8]) -> Refusal {
    Refusal(Cow::Owned(format!("ERR Unsupported option {}", String::from_utf8_lossy(option))))
}
