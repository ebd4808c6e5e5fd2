//! The header that every table starts with.

use super::bytes::Fields;
use super::{Table, TableError};

/// Bytes in the header.
pub(super) const HEADER: usize = 36;

/// A table with a valid signature and length, and at least its fixed part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verified<'a> {
    /// Exactly the bytes stated by the header.
    pub(super) bytes: &'a [u8],
    pub(super) revision: u8,
    /// The sum of the bytes, modulo 256: 0 if the checksum is right.
    pub(super) sum: u8,
}

impl<'a> Verified<'a> {
    /// Verifies the header of `table`, whose fixed part, including the header, has `fixed` bytes.
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
        Ok(Verified { bytes, revision: Fields(bytes).u8(8), sum: sum(bytes) })
    }

    /// Accepts a wrong checksum if `structure_holds`: firmware, and tools that patch its tables,
    /// often forget the checksum. A damaged table rarely has whole structures from start to end.
    pub(super) fn accept(
        &self,
        table: Table,
        structure_holds: impl FnOnce() -> bool,
    ) -> Result<(), TableError> {
        if self.sum == 0 || structure_holds() {
            return Ok(());
        }
        Err(TableError::Checksum { table, sum: self.sum })
    }
}

/// Returns the sum of `bytes`, modulo 256: 0 for a table with a right checksum.
pub(super) fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte))
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
    }

    #[test]
    fn a_wrong_checksum_is_accepted_with_a_structure_that_holds() {
        let table = Table::Slit;
        let mut wrong = self::table();
        wrong[41] = 5;
        let verified = Verified::new(table, &wrong, FIXED).unwrap();
        assert_eq!(verified.sum, 5);
        assert_eq!(verified.accept(table, || true), Ok(()));
        assert_eq!(verified.accept(table, || false), Err(TableError::Checksum { table, sum: 5 }));
        // A right checksum says enough.
        let right = self::table();
        assert_eq!(Verified::new(table, &right, FIXED).unwrap().accept(table, || false), Ok(()));
    }
}
