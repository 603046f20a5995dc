//! Values with a checksum that also covers their key, so that a value under another's key is noticed.

use serde::{Serialize, de::DeserializeOwned};

fn checksum(key: &str, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), body)
}

/// `value` with its checksum in front.
pub(super) fn seal<T: Serialize>(key: &str, value: &T) -> Vec<u8> {
    let mut sealed = postcard::to_extend(value, vec![0; 4])
        .expect("postcard writes every type stored here: none has a sequence of unknown length");
    let sum = checksum(key, &sealed[4..]);
    sealed[..4].copy_from_slice(&sum.to_le_bytes());
    sealed
}

/// The value again, or what is wrong with it.
pub(super) fn unseal<T: DeserializeOwned>(key: &str, sealed: &[u8]) -> Result<T, String> {
    let Some((sum, body)) = sealed.split_first_chunk::<4>() else {
        return Err(format!("{key} has only {} bytes", sealed.len()));
    };
    if u32::from_le_bytes(*sum) != checksum(key, body) {
        return Err(format!("{key} fails its checksum"));
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes follow {key}", rest.len())),
        Err(error) => Err(format!("{key} cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_under_another_key_is_refused() {
        let sealed = seal("entry 1", &7u64);
        assert_eq!(unseal::<u64>("entry 1", &sealed), Ok(7));
        assert!(unseal::<u64>("entry 2", &sealed).is_err());
        assert!(unseal::<u64>("entry 1", &sealed[..3]).is_err());
    }
}
