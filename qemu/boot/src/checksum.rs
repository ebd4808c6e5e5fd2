//! A number by which the runner and the kernel compare what is in memory.

/// Returns the FNV-1a checksum of `bytes`, 64 bits wide. It finds accidents, not attacks.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_counts() {
        // The published test vectors.
        assert_eq!(checksum(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(checksum(b"foobar"), 0x8594_4171_f739_67e8);
        assert_ne!(checksum(&[0; 4096]), checksum(&[0; 4095]));
    }
}
