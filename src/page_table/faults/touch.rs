//! Mapping a page at its first access. The usual answer to an access: each step is inlined into a
//! single function.

use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Leaf, RegionId};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::tables::memory::{TableAccess, TableMemory};
use crate::page_table::tables::regions::{self, Kept};
use crate::page_table::tables::table::{Table, TableEntry};

/// The claim of a lowest table in which a page is not mapped yet.
pub(crate) struct MarkedTable<'a, F: Format, M: TableMemory> {
    cursor: Cursor<'a, F, M>,
    region: RegionId,
    /// The ids of the entries, if each entry has its own. Otherwise all leaves are of the region.
    ids: Option<&'a Table>,
}

impl<F: Format, M: TableMemory> MarkedTable<'_, F, M> {
    /// Returns the region of the page.
    pub(crate) fn region(&self) -> RegionId {
        self.region
    }

    /// Returns whether `page`, served by the table, belongs to the region and is not mapped yet.
    pub(crate) fn is_marked(&self, page: u64) -> bool {
        self.entry(page).load() == F::mark(self.region)
    }

    /// Maps `page`, which is marked, with `leaf`.
    pub(crate) fn map(&self, page: u64, leaf: &Leaf) {
        if let Some(ids) = self.ids {
            let index = Level::PAGE.index(page);
            regions::set_each(ids, index..=index, Some(self.region));
        }
        self.entry(page).store(F::leaf(leaf, Level::PAGE));
    }

    fn entry(&self, page: u64) -> &TableEntry {
        self.cursor.table().entry(Level::PAGE.index(page))
    }
}

impl<F: Format> PageTable<F> {
    /// Claims the lowest table of `page`. Returns `None` if the page is mapped, if mapping pages of
    /// its region would take a frame, or if another cursor is in the way.
    pub(crate) fn claim_marked<'a, M: TableMemory>(
        &'a self,
        access: TableAccess<'a, M>,
        page: u64,
    ) -> Option<MarkedTable<'a, F, M>> {
        let pages = Pages { first: page, last: page };
        let cursor = Cursor::<F, M>::try_lock_one(self, access, pages)?;
        if cursor.level != Level::PAGE {
            return None;
        }
        let region = F::region_in_mark(cursor.table().load(Level::PAGE.index(page)))?;
        let ids = match Kept::of(access.memory, cursor.frame()) {
            Kept::One(kept) if kept == region => None,
            Kept::Each(ids) => Some(ids),
            Kept::One(_) | Kept::Nothing => return None,
        };
        Some(MarkedTable { cursor, region, ids })
    }

    /// Maps the page `page` with the leaf returned by `leaf_of` for the page's region. Returns
    /// whether the page was mapped. Nothing has changed if the page is mapped already, if the
    /// leaf's region would take a further frame, or if another cursor is in the way.
    // Always inlined: the values found and decided stay in registers.
    #[inline(always)]
    pub(crate) fn map_marked<M: TableMemory>(
        &self,
        access: TableAccess<'_, M>,
        page: u64,
        leaf_of: impl FnOnce(RegionId) -> Option<Leaf>,
    ) -> bool {
        let pages = Pages { first: page, last: page };
        let Some(cursor) = Cursor::<F, M>::try_lock_one(self, access, pages) else { return false };
        if cursor.level != Level::PAGE {
            return false;
        }
        let index = Level::PAGE.index(page);
        let entry = cursor.table().entry(index);
        let Some(region) = F::region_in_mark(entry.load()) else { return false };
        // The usual case by itself: a single comparison.
        let ids = if regions::is_common(access.memory, cursor.frame(), region) {
            None
        } else if let Kept::Each(ids) = Kept::of(access.memory, cursor.frame()) {
            Some(ids)
        } else {
            return false;
        };
        let Some(leaf) = leaf_of(region) else { return false };
        if let Some(ids) = ids {
            regions::set_each(ids, index..=index, Some(region));
        }
        entry.store(F::leaf(&leaf, Level::PAGE));
        true
    }
}
