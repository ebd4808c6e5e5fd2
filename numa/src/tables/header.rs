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
