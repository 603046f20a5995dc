//! Names that people give, and 128-bit identities that nobody gives.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{given}' cannot name a {what}: use 1 to 64 letters, digits, '.', '-' or '_', beginning with a letter or digit"
)]
pub struct NameError {
    what: &'static str,
    given: String,
}

fn check(what: &'static str, given: &str) -> Result<(), NameError> {
    let good = (1..=64).contains(&given.len())
        && given.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        && given.as_bytes()[0].is_ascii_alphanumeric();
    if good { Ok(()) } else { Err(NameError { what, given: given.chars().take(80).collect() }) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(given: &str) -> Result<Self, NameError> {
                check($what, given)?;
                Ok(Self(given.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(given: String) -> Result<Self, NameError> {
                check($what, &given)?;
                Ok(Self(given.into()))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// Name of a group: a primary and its backups.
    GroupName, "group"
);
name!(
    /// Name of a replica, unique within its group.
    ReplicaName, "replica"
);

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(given: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(given, 16).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_u128(self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    u128::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

identity!(
    /// Random identity of a group, made at `Create` and stored by every replica of it.
    GroupId
);
identity!(
    /// Random identity of one continuous life of a replica's state; new whenever state could have been lost.
    Incarnation
);
identity!(
    /// Random identity of one proposal: a repeated request gets its first answer.
    RequestId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_where_they_enter() {
        assert!("orders-1".parse::<GroupName>().is_ok());
        for bad in ["", "-x", "a b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<GroupName>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn identities_read_as_hex_for_people() {
        let id = Incarnation(0xab);
        assert_eq!(serde_roundtrip(id), id);
        assert_eq!(id.to_string().len(), 32);
    }

    fn serde_roundtrip(id: Incarnation) -> Incarnation {
        let bytes = postcard::to_allocvec(&id).unwrap();
        postcard::from_bytes(&bytes).unwrap()
    }
}
