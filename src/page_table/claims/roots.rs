//! Cursors over everything below entries of the root.

use core::marker::PhantomData;

use super::claim::{claim, drain};
use super::cursor::{Cursor, Held};
use crate::page_table::PageTable;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, RawEntry};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::tables::memory::{TableMemory, table_at};

impl<'a, F: Format, M: TableMemory> Cursor<'a, F, M> {
    /// Claims the entries of the root filled by `pages`. Calls `visit` with the contents and the
    /// level of each entry not vacant, in the root and in the tables below. The cursor is in the
    /// root.
    ///
    /// No walk is announced: the root stays. A table below a claimed entry stays, too, after the
    /// claims below are drained.
    pub(in crate::page_table) fn lock_roots(
        page_table: &'a PageTable<F>,
        memory: &'a M,
        pages: Pages,
        visit: &mut impl FnMut(Entry, Level),
    ) -> Cursor<'a, F, M> {
        debug_assert!(pages.fill_entries(F::ROOT), "a part of an entry");
        let counters = &page_table.locks;
        // SAFETY: the root lives as long as the page table.
        let root = unsafe { table_at(memory, page_table.root) };
        let entries = root.entries(F::ROOT.index(pages.first), F::ROOT.index(pages.last));
        for entry in entries {
            let found = claim::<F, M>(entry, memory, counters);
            if found == RawEntry::EMPTY {
                continue;
            }
            let found = F::decode(found, F::ROOT);
            visit(found, F::ROOT);
            if let (Entry::Table(next), Some(below)) = (found, F::ROOT.below()) {
                // SAFETY: the claim of the table's entry keeps the table linked.
                drain::<F, M>(memory, counters, unsafe { table_at(memory, next) }, below, visit);
            }
        }
        let (level, table) = (F::ROOT, page_table.root);
        Cursor { memory, level, table, held: Held::Entries(entries), format: PhantomData }
    }
}
