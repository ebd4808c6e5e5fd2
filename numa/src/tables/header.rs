//! The header that every table starts with.

use super::bytes::Fields;
use super::{Table, TableError};

/// Bytes in the header.
pub(super) const HEADER: usize = 36;

/// A table whose signature, length and checksum hold, and that has at least its fixed part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verified<'a> {
    /// Exactly the bytes that the header states.
    pub(super) bytes: &'a [u8],
    pub(super) revision: u8,
}

impl<'a> Verified<'a> {
    /// Verifies the header of `table`, whose fixed part, header included, has `fixed` bytes.
    /// Bytes beyond the stated length are ignored.
    pub(super) fn new(table: Table, bytes: &'a [u8], fixed: usize) -> Result<Verified<'a>, TableError> {
        if bytes.len() < HEADER {
            return Err(TableError::Truncated { table, found: bytes.len(), needed: HEADER });
        }
        let fields = Fields(bytes);
        let found = fields.u32(0).to_le_bytes();
        if found != table.signature() {
            return Err(TableError::Signature { table, found });
        }
        let stated = fields.u32(4);
        let length = usize::try_from(stated).unwrap_or(usize::MAX);
        let Some(bytes) = bytes.get(..length) else {
            return Err(TableError::Length { table, stated, available: bytes.len() });
        };
        if length < fixed {
            return Err(TableError::Truncated { table, found: length, needed: fixed });
        }
        let sum = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        if sum != 0 {
            return Err(TableError::Checksum { table, sum });
        }
        Ok(Verified { bytes, revision: Fields(bytes).u8(8) })
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;

    const FIXED: usize = HEADER + 4;

    fn table() -> [u8; 44] {
        let mut bytes = [0; 44];
        bytes[..4].copy_from_slice(b"SLIT");
        bytes[4] = 42;
        bytes[8] = 3;
        bytes[9] = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
        bytes
    }

    fn fault(bytes: &[u8]) -> TableError {
        Verified::new(Table::Slit, bytes, FIXED).unwrap_err()
    }

    #[test]
    fn bytes_after_the_table_are_none_of_it() {
        let mut bytes = table();
        bytes[43] = 1;
        let verified = Verified::new(Table::Slit, &bytes, FIXED).unwrap();
        assert_eq!((verified.bytes.len(), verified.revision), (42, 3));
    }

    #[test]
    fn each_fault_has_its_error() {
        let table = Table::Slit;
        let bytes = self::table();
        assert_eq!(fault(&bytes[..35]), TableError::Truncated { table, found: 35, needed: HEADER });
        assert_eq!(fault(&bytes[..41]), TableError::Length { table, stated: 42, available: 41 });
        let mut other = bytes;
        other[3] = b'X';
        assert_eq!(fault(&other), TableError::Signature { table, found: *b"SLIX" });
        let mut short = bytes;
        short[4] = 39;
        assert_eq!(fault(&short), TableError::Truncated { table, found: 39, needed: FIXED });
        let mut wrong = bytes;
        wrong[41] = 5;
        assert_eq!(fault(&wrong), TableError::Checksum { table, sum: 5 });
    }
}
