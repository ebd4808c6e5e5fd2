//! Looking at what the pages of a range are.

use core::ops::ControlFlow;

use x86_64::structures::paging::PhysFrame;

use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::Entry;
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::rewrite::{Found, found};
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};

/// Calls a function with what pages are, in ascending order.
struct Visitor<'a, F, M, V> {
    page_table: &'a PageTable<F>,
    access: TableAccess<'a, M>,
    visit: V,
}

impl<F: Format, M: TableMemory, V: FnMut(Pages, Found) -> ControlFlow<()>> Visitor<'_, F, M, V> {
    /// Looks at `pages` under the table in `frame`, of `level`. Lower tables that have leaves, which have
    /// regions beside their entries, are looked at under the claim of their entry.
    fn table(&mut self, frame: PhysFrame, level: Level, pages: Pages) -> ControlFlow<()> {
        // SAFETY: the root lives as long as the page table; a table below was linked when its entry was
        // read, and is not freed while the walk is announced.
        let table = unsafe { table_at(self.access.memory, frame) };
        for part in pages.by_entry(level) {
            match (F::decode(table.load(level.index(part.first)), level), level.below()) {
                (Entry::Empty, _) => (self.visit)(part, Found::Vacant)?,
                (Entry::Mark(region), _) => (self.visit)(part, Found::Reserved(region))?,
                (Entry::Table(next), Some(below)) if level > Level::HUGE => self.table(next, below, part)?,
                _ => self.claimed(part)?,
            }
        }
        ControlFlow::Continue(())
    }

    /// Looks at `pages`, of one entry, under its claim.
    fn claimed(&mut self, pages: Pages) -> ControlFlow<()> {
        let cursor = Cursor::<F, M>::lock(self.page_table, self.access, pages);
        let (frame, level) = (cursor.frame(), cursor.level);
        for part in pages.by_entry(level) {
            let index = level.index(part.first);
            // A table that has come meanwhile was vacant when the look began.
            let found = found::<F, M>(self.access.memory, frame, index, cursor.table().load(index), level);
            (self.visit)(part, found.unwrap_or(Found::Vacant))?;
        }
        ControlFlow::Continue(())
    }
}

impl<F: Format> PageTable<F> {
    /// Calls `visit` with what `pages` are, in ascending order, by entries, until it breaks. Pages under one
    /// 2 MiB are looked at at once; others may change in between.
    ///
    /// `visit` is called with a claim held: it takes no other, and waits for nothing.
    pub(crate) fn visit<M: TableMemory>(
        &self,
        access: TableAccess<'_, M>,
        pages: Pages,
        visit: impl FnMut(Pages, Found) -> ControlFlow<()>,
    ) {
        let _walk = access.enter();
        let _ = Visitor { page_table: self, access, visit }.table(self.root, F::ROOT, pages);
    }
}
