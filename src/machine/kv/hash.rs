//! The order of the keyspace: SipHash-1-3 under a seed that the group's first entry captured.
//!
//! From J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast short-input PRF" (2012), section 2, with one compression
//! and three finalisation rounds. It is written out here because the order is carried in snapshots, and must
//! therefore be the same in every version of every library.

/// The key of the hash: secret from clients, so that nobody can choose keys that crowd together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seed(pub(super) u64, pub(super) u64);

/// Bits of a hash. Cursors of SCAN are hashes, and a client that keeps numbers in doubles must not lose any of them.
/// That two keys share a hash is allowed for everywhere; so few bits more or less do not matter.
const BITS: u32 = 53;
/// No hash is above.
pub(super) const HIGHEST: u64 = (1 << BITS) - 1;

impl Seed {
    /// The place of `key` in the order, below 2^53.
    pub(super) fn hash(self, key: &[u8]) -> u64 {
        siphash_1_3(self.0, self.1, key) >> (64 - BITS)
    }
}

fn siphash_1_3(k0: u64, k1: u64, bytes: &[u8]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word);
        v[3] ^= word;
        round(&mut v);
        v[0] ^= word;
    }
    let mut last = (bytes.len() as u64) << 56;
    for (at, byte) in rest.iter().enumerate() {
        last |= u64::from(*byte) << (8 * at);
    }
    v[3] ^= last;
    round(&mut v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for _ in 0..3 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_standard_library() {
        // `DefaultHasher::new()` is SipHash-1-3 under the zero key today.
        use std::hash::Hasher;
        for length in 0..40u8 {
            let bytes: Vec<u8> = (0..length).collect();
            let mut theirs = std::collections::hash_map::DefaultHasher::new();
            theirs.write(&bytes);
            assert_eq!(siphash_1_3(0, 0, &bytes), theirs.finish(), "{length} bytes");
        }
    }
}
