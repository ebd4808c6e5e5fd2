//! Claiming a single page of a known size, if the page exists.

use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::tables::memory::{TableAccess, TableMemory};

/// The reason why a page was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// Nothing is mapped at the page.
    Empty,
    /// The mapping at the page has another size.
    OtherSize,
}

impl<F: Format> PageTable<F> {
    /// Claims the page of `level` at `page`, and returns its leaf.
    pub(super) fn lock_page<'a, M: TableMemory>(
        &'a self,
        access: TableAccess<'a, M>,
        page: Pages,
        level: Level,
    ) -> Result<(Cursor<'a, F, M>, Leaf), Mismatch> {
        let cursor = Cursor::<F, M>::lock_entry(self, access, page, level);
        let entry = cursor.table().entry(cursor.level.index(page.first));
        match F::decode(entry.load(), cursor.level) {
            Entry::Leaf(leaf) if cursor.level == level => Ok((cursor, leaf)),
            Entry::Empty | Entry::Mark(_) => Err(Mismatch::Empty),
            Entry::Leaf(_) | Entry::Table(_) => Err(Mismatch::OtherSize),
        }
    }
}
