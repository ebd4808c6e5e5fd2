//! Visiting the pages of a range.

use core::ops::ControlFlow;

use topomem_percpu::PhysFrame;

use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::Entry;
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::rewrite::{Found, found};
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};

/// Calls a function with the state of pages, in ascending order.
struct Visitor<'a, F, M, V> {
    page_table: &'a PageTable<F>,
    access: TableAccess<'a, M>,
    visit: V,
}

impl<F: Format, M: TableMemory, V: FnMut(Pages, Found) -> ControlFlow<()>> Visitor<'_, F, M, V> {
    /// Visits `pages` under the table in `frame`, of `level`. Lower tables with leaves, whose
    /// regions lie beside their entries, are visited under the claim of their entry.
    fn table(&mut self, frame: PhysFrame, level: Level, pages: Pages) -> ControlFlow<()> {
        // SAFETY: the root lives as long as the page table. A table below was linked when its entry
        // was read, and is not freed while the walk is announced.
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

    /// Visits `pages`, of a single entry, under the entry's claim.
    fn claimed(&mut self, pages: Pages) -> ControlFlow<()> {
        let cursor = Cursor::<F, M>::lock(self.page_table, self.access, pages);
        let (frame, level) = (cursor.frame(), cursor.level);
        for part in pages.by_entry(level) {
            let index = level.index(part.first);
            // A table linked meanwhile was vacant when the look began.
            let found = found::<F, M>(self.access.memory, frame, index, cursor.table().load(index), level);
            (self.visit)(part, found.unwrap_or(Found::Vacant))?;
        }
        ControlFlow::Continue(())
    }
}

impl<F: Format> PageTable<F> {
    /// Calls `visit` with the state of `pages`, in ascending order, by entries, until `visit`
    /// breaks. Pages under the same 2 MiB are seen at the same moment; further pages may change in
    /// between.
    ///
    /// `visit` is called with a claim held. It must take no other claim and never wait.
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
