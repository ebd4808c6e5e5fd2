//! SLIT: the distances between proximity domains. ACPI 6.5, section 5.2.17.

use super::bytes::Fields;
use super::diagnostic::Diagnostic;
use super::header::{HEADER, Verified};
use super::{Table, TableError};
use crate::Distance;

/// A verified SLIT of any size: rows and columns are numbered by proximity domain.
///
/// ```
/// use topomem_numa::tables::Slit;
///
/// assert!(Slit::parse(b"no table").is_err());
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Slit<'a> {
    localities: usize,
    sum: u8,
    /// `localities` squared bytes.
    matrix: &'a [u8],
}

impl<'a> Slit<'a> {
    const FIXED: usize = HEADER + 8;

    /// Verifies the header and that the matrix is complete; [`Slit::fault`] checks its values. A
    /// wrong checksum is accepted if every value is possible.
    ///
    /// # Errors
    ///
    /// Returns [`TableError`] if the signature or the length is wrong, if the matrix is cut short,
    /// or if the checksum is wrong and a value is impossible.
    pub fn parse(bytes: &'a [u8]) -> Result<Slit<'a>, TableError> {
        let table = Table::Slit;
        let verified = Verified::new(table, bytes, Slit::FIXED)?;
        let bytes = verified.bytes;
        let localities = usize::try_from(Fields(bytes).u64(HEADER)).unwrap_or(usize::MAX);
        let needed = localities.saturating_mul(localities).saturating_add(Slit::FIXED);
        let matrix = bytes.get(Slit::FIXED..needed);
        let matrix = matrix.ok_or(TableError::Truncated { table, found: bytes.len(), needed })?;
        let slit = Slit { localities, sum: verified.sum, matrix };
        verified.accept(table, || slit.fault().is_none())?;
        Ok(slit)
    }

    /// Returns the sum of the table's bytes, modulo 256: 0 if its checksum is right.
    #[must_use]
    pub fn checksum(&self) -> u8 {
        self.sum
    }

    /// Returns the number of proximity domains, numbered from 0.
    #[must_use]
    pub fn localities(&self) -> usize {
        self.localities
    }

    /// Returns the distance from domain `from` to domain `to`, or `None` if the table lacks either.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> Option<Distance> {
        let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
        if from >= self.localities || to >= self.localities {
            return None;
        }
        self.matrix.get(from * self.localities + to).copied().map(Distance::new)
    }

    /// Returns the first impossible value: a domain's distance to itself is 10, and to any other
    /// domain above 10. Cost: linear in the matrix.
    #[must_use]
    pub fn fault(&self) -> Option<Diagnostic> {
        // `localities` is 0 only if the matrix is empty too.
        let rows = self.matrix.chunks_exact(self.localities.max(1));
        (0u32..).zip(rows).find_map(|(from, row)| {
            (0u32..).zip(row).find_map(|(to, &found)| {
                let possible =
                    if from == to { found == Distance::LOCAL.get() } else { found > Distance::LOCAL.get() };
                (!possible).then_some(Diagnostic::ImpossibleDistance { from, to, found })
            })
        })
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn table(localities: u64, matrix: &[u8]) -> Vec<u8> {
        let mut bytes = std::vec![0; HEADER];
        bytes[..4].copy_from_slice(b"SLIT");
        bytes.extend(localities.to_le_bytes());
        bytes.extend(matrix);
        bytes[4] = bytes.len() as u8;
        bytes[9] = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
        bytes
    }

    #[test]
    fn rows_are_origins() {
        let bytes = table(2, &[10, 20, 30, 10]);
        let slit = Slit::parse(&bytes).unwrap();
        assert_eq!(slit.distance(0, 1), Some(Distance::new(20)));
        assert_eq!(slit.distance(1, 0), Some(Distance::new(30)));
        assert_eq!((slit.distance(0, 2), slit.distance(2, 0)), (None, None));
        assert_eq!(slit.fault(), None);
    }

    #[test]
    fn impossible_values_are_named() {
        let fault = |matrix: &[u8]| Slit::parse(&table(2, matrix)).unwrap().fault();
        assert_eq!(fault(&[10, 11, 255, 10]), None);
        let impossible = |from, to, found| Some(Diagnostic::ImpossibleDistance { from, to, found });
        assert_eq!(fault(&[10, 20, 20, 11]), impossible(1, 1, 11));
        assert_eq!(fault(&[10, 20, 10, 10]), impossible(1, 0, 10));
    }

    #[test]
    fn sizes_that_no_memory_holds() {
        for (localities, needed) in [(3, HEADER + 8 + 9), (u64::MAX, usize::MAX)] {
            let bytes = table(localities, &[10; 4]);
            let error = TableError::Truncated { table: Table::Slit, found: 48, needed };
            assert_eq!(Slit::parse(&bytes).unwrap_err(), error);
        }
        assert_eq!(Slit::parse(&table(0, &[])).unwrap().fault(), None);
    }
}
