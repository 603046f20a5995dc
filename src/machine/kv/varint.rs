//! Numbers in as few bytes as they need: LEB128, seven bits in each byte, the lowest first.

/// Most bytes of one number.
pub(super) const LONGEST: usize = 10;

/// Writes to the front of `buffer`; returns how many bytes it took.
pub(super) fn write(mut value: u64, buffer: &mut [u8; LONGEST]) -> usize {
    let mut length = 0;
    while value >= 0x80 {
        buffer[length] = value as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    buffer[length] = value as u8;
    length + 1
}

/// Writes to the end of `out`.
pub(super) fn put(value: u64, out: &mut Vec<u8>) {
    // Nearly all are short.
    if value < 0x80 {
        return out.push(value as u8);
    }
    let mut buffer = [0; LONGEST];
    let length = write(value, &mut buffer);
    out.extend_from_slice(&buffer[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_leb128() {
        for (value, expected) in [
            (0, vec![0]),
            (127, vec![127]),
            (128, vec![0x80, 1]),
            (300, vec![0xac, 2]),
            (u64::MAX, [vec![0xff; 9], vec![1]].concat()),
        ] {
            let mut out = vec![7];
            put(value, &mut out);
            assert_eq!(out[1..], expected);
        }
    }
}
