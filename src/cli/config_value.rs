//! Values as people write them: `500ms`, `64MiB`, lists, routes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::daemon::rules::bytes;

/// A duration as people write it: `500ms`, `2s`, `1m 30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(given: &str) -> Result<Self, String> {
        humantime::parse_duration(given)
            .map(Self)
            .map_err(|error| format!("'{given}' is no duration ({error}); write it with its unit, like 500ms or 2s"))
    }
}

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(given: String) -> Result<Self, String> {
        given.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes as people write it: `65536`, `64KiB`, `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Size(pub usize);

const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl FromStr for Size {
    type Err = String;
    fn from_str(given: &str) -> Result<Self, String> {
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| given.strip_suffix(name).map(|digits| (digits.trim_end(), *unit)))
            .unwrap_or((given, 1));
        digits
            .parse::<usize>()
            .ok()
            .and_then(|count| count.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| format!("'{given}' is no size in bytes; write it like 65536, 64KiB, 64MiB or 1GiB"))
    }
}

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(given: String) -> Result<Self, String> {
        given.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bytes(self.0))
    }
}

/// In a file, a list may be an array or, as on the command line, text with commas.
///
/// # Errors
/// It is neither.
pub fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a list of texts, or one text with commas")]
    enum Either {
        Text(String),
        List(Vec<String>),
    }
    Ok(Some(match Either::deserialize(deserializer)? {
        Either::Text(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
        Either::List(list) => list,
    }))
}

/// Splits `ADVERTISED=ACTUAL`.
///
/// # Errors
/// There is no `=`, or a side is no `host:port`.
pub fn route(given: &str) -> Result<(String, String), String> {
    let (advertised, actual) =
        given.split_once('=').ok_or_else(|| format!("route '{given}' is not of the form ADVERTISED=ACTUAL"))?;
    address(advertised)?;
    address(actual)?;
    Ok((advertised.to_owned(), actual.to_owned()))
}

/// Checks `host:port`.
///
/// # Errors
/// It is something else.
pub fn address(given: &str) -> Result<(), String> {
    let good =
        given.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
    if good { Ok(()) } else { Err(format!("'{given}' is no address; write it as host:port")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_people_write_them() {
        assert_eq!("500ms".parse::<Span>().unwrap().0, Duration::from_millis(500));
        assert_eq!("64MiB".parse::<Size>().unwrap(), Size(64 << 20));
        assert_eq!(Size(64 << 20).to_string(), "64MiB");
        assert_eq!(Size(1000).to_string(), "1000");
        assert_eq!(route("a:1=b:2").unwrap(), ("a:1".into(), "b:2".into()));
    }

    #[test]
    fn what_has_no_unit_or_no_sense_is_refused_with_an_example() {
        assert!("500".parse::<Span>().unwrap_err().contains("500ms"));
        assert!("lots".parse::<Size>().unwrap_err().contains("64MiB"));
        assert!("99999999999999GiB".parse::<Size>().is_err());
        for bad in ["a", "a:1", "a:1=b", "a:x=b:2", ":1=b:2"] {
            assert!(route(bad).is_err(), "{bad} was accepted");
        }
    }
}
