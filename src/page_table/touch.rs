//! Mapping a page at its first access: the usual answer to an access, so each step is part of one function.

use super::PageTable;
use super::cursor::Cursor;
use super::entry::{Leaf, RegionId};
use super::format::Format;
use super::level::{Level, Pages};
use super::memory::{TableAccess, TableMemory};
use super::regions;

impl<F: Format> PageTable<F> {
    /// Maps the page `page` by the leaf that `leaf_of` returns for the page's region, if the page is not mapped
    /// yet, and is one of a lowest table whose leaves are all of that region, and no other cursor is in the way.
    /// Returns whether the page is mapped by that leaf; if not, nothing has changed.
    // Always: what is found and decided stays in registers.
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
        let entry = cursor.table().entry(Level::PAGE.index(page));
        let marked = F::region_in_mark(entry.load());
        let Some(region) = marked.filter(|_| marked == regions::common(access.memory, cursor.frame())) else {
            return false;
        };
        let Some(leaf) = leaf_of(region) else { return false };
        entry.store(F::leaf(&leaf, Level::PAGE));
        true
    }
}
