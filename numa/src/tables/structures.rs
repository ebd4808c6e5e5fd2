//! Iteration over the structures after a table's fixed part.

use super::bytes::Fields;
use super::{Table, TableError};

/// The header format of a table's structures.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layout {
    /// Type u8, length u8: MADT, SRAT.
    Short,
    /// Type u8, reserved u8, length u16: CEDT.
    Cedt,
    /// Type u16, reserved u16, length u32: HMAT.
    Hmat,
}

impl Layout {
    const fn header(self) -> usize {
        match self {
            Layout::Short => 2,
            Layout::Cedt => 4,
            Layout::Hmat => 8,
        }
    }

    fn kind_and_length(self, fields: Fields<'_>) -> (u16, usize) {
        match self {
            Layout::Short => (u16::from(fields.u8(0)), usize::from(fields.u8(1))),
            Layout::Cedt => (u16::from(fields.u8(0)), usize::from(fields.u16(2))),
            Layout::Hmat => (fields.u16(0), usize::try_from(fields.u32(4)).unwrap_or(usize::MAX)),
        }
    }
}

/// One structure, header included.
#[derive(Clone, Copy)]
pub(super) struct Structure<'a> {
    pub(super) table: Table,
    pub(super) offset: usize,
    pub(super) kind: u16,
    pub(super) bytes: &'a [u8],
}

impl<'a> Structure<'a> {
    /// Returns its fields, if it has at least `needed` bytes.
    pub(super) fn fields(&self, needed: usize) -> Result<Fields<'a>, TableError> {
        if self.bytes.len() < needed {
            return Err(self.too_short(needed));
        }
        Ok(Fields(self.bytes))
    }

    pub(super) fn too_short(&self, needed: usize) -> TableError {
        TableError::StructureTooShort {
            table: self.table,
            offset: self.offset,
            kind: self.kind,
            found: self.bytes.len(),
            needed,
        }
    }
}

/// Iterator over a table's structures. Each step moves on by at least a structure's header, or
/// ends: no firmware bytes make it loop.
#[derive(Debug, Clone)]
pub(super) struct Structures<'a> {
    table: Table,
    layout: Layout,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Structures<'a> {
    pub(super) fn new(table: Table, layout: Layout, bytes: &'a [u8], offset: usize) -> Structures<'a> {
        Structures { table, layout, bytes, offset }
    }
}

impl<'a> Iterator for Structures<'a> {
    type Item = Result<Structure<'a>, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (table, offset) = (self.table, self.offset);
        let rest = self.bytes.get(offset..).filter(|rest| !rest.is_empty())?;
        // If the structure's end is unknown, so is the next one's start.
        self.offset = self.bytes.len();
        let header = self.layout.header();
        if rest.len() < header {
            let available = rest.len();
            return Some(Err(TableError::StructureOverrun { table, offset, stated: header, available }));
        }
        let (kind, length) = self.layout.kind_and_length(Fields(rest));
        if length < header {
            let (found, needed) = (length, header);
            return Some(Err(TableError::StructureTooShort { table, offset, kind, found, needed }));
        }
        let Some(bytes) = rest.get(..length) else {
            let (stated, available) = (length, rest.len());
            return Some(Err(TableError::StructureOverrun { table, offset, stated, available }));
        };
        self.offset = offset + length;
        Some(Ok(Structure { table, offset, kind, bytes }))
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn walk(layout: Layout, bytes: &[u8]) -> Vec<Result<(usize, u16, usize), TableError>> {
        let structures = Structures::new(Table::Srat, layout, bytes, 2);
        structures.map(|found| found.map(|found| (found.offset, found.kind, found.bytes.len()))).collect()
    }

    #[test]
    fn each_layout_finds_type_and_length() {
        assert_eq!(walk(Layout::Short, &[9, 9, 1, 3, 0, 7, 2]), [Ok((2, 1, 3)), Ok((5, 7, 2))]);
        assert_eq!(walk(Layout::Cedt, &[9, 9, 1, 0xff, 4, 0]), [Ok((2, 1, 4))]);
        let hmat = [9, 9, 1, 2, 0xff, 0xff, 9, 0, 0, 0, 0];
        assert_eq!(walk(Layout::Hmat, &hmat), [Ok((2, 0x201, 9))]);
    }

    /// Length 0 would never move on; a length inside the header would read the same bytes twice.
    #[test]
    fn lengths_below_the_headers_end_the_walk() {
        for length in [0u8, 1] {
            let (table, found) = (Table::Srat, usize::from(length));
            let error = TableError::StructureTooShort { table, offset: 4, kind: 1, found, needed: 2 };
            assert_eq!(walk(Layout::Short, &[9, 9, 5, 2, 1, length, 1, 2]), [Ok((2, 5, 2)), Err(error)]);
        }
        let error =
            TableError::StructureTooShort { table: Table::Srat, offset: 2, kind: 1, found: 7, needed: 8 };
        assert_eq!(walk(Layout::Hmat, &[9, 9, 1, 0, 0, 0, 7, 0, 0, 0, 1, 2]), [Err(error)]);
    }

    #[test]
    fn overlong_and_cut_off_structures_end_the_walk() {
        let table = Table::Srat;
        let error = TableError::StructureOverrun { table, offset: 2, stated: 5, available: 4 };
        assert_eq!(walk(Layout::Short, &[9, 9, 1, 5, 0, 0]), [Err(error)]);
        let error = TableError::StructureOverrun { table, offset: 2, stated: 8, available: 3 };
        assert_eq!(walk(Layout::Hmat, &[9, 9, 1, 0, 0]), [Err(error)]);
        let huge = [9, 9, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        let error = TableError::StructureOverrun { table, offset: 2, stated: 0xffff_ffff, available: 8 };
        assert_eq!(walk(Layout::Hmat, &huge), [Err(error)]);
    }

    #[test]
    fn offset_beyond_the_end_is_the_end() {
        assert_eq!(walk(Layout::Short, &[]), []);
    }
}
