//! Walking the structures that follow a table's fixed part.

use super::bytes::Fields;
use super::{Table, TableError};

/// How a table's structures start.
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
    /// Its fields, once it is known to have at least `needed` bytes.
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
/// ends: nothing that firmware writes makes it loop.
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
        // Where the structure's end is not known, neither is the next one's start.
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
