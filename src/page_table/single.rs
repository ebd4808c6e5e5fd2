//! Changing one page of a known size, or learning that there is none.

use super::PageTable;
use super::change::{Changed, Clear, Edit, Protect};
use super::cursor::Cursor;
use super::entry::{Entry, Leaf};
use super::format::Format;
use super::level::{Level, Pages};
use super::memory::{TableAccess, TableMemory};
use super::protection::Protection;

/// Why one page was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// Nothing is mapped there.
    Empty,
    /// What is mapped there has another size.
    OtherSize,
}

impl<F: Format> PageTable<F> {
    /// Unmaps the page of `level` that is `page`, adds to `changed` what that was, and says what
    /// it was: of several that unmap it at once, one does. Tables stay. Calls `record` as
    /// [`PageTable::clear`] does.
    pub(crate) fn clear_page<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        page: Pages,
        level: Level,
        changed: &mut Changed,
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Result<(Leaf, T), Mismatch> {
        self.change_page(access, page, level, Clear, changed, record)
    }

    /// Gives the page of `level` that is `page` another protection, adds to `changed` what that
    /// was, and says what it was.
    pub(crate) fn reprotect_page<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        page: Pages,
        level: Level,
        protection: Protection,
        changed: &mut Changed,
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Result<(Leaf, T), Mismatch> {
        self.change_page(access, page, level, Protect(protection), changed, record)
    }

    fn change_page<M: TableMemory, E: Edit, T>(
        &self,
        access: TableAccess<'_, M>,
        page: Pages,
        level: Level,
        edit: E,
        changed: &mut Changed,
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Result<(Leaf, T), Mismatch> {
        let cursor = Cursor::<F, M>::lock_entry(self, access, page, level);
        let entry = cursor.table().entry(cursor.level.index(page.first));
        match F::decode(entry.load(), cursor.level) {
            Entry::Leaf(leaf) if cursor.level == level => {
                if edit.edit::<F, M>(access.memory, &mut changed.retired, entry, level) {
                    changed.note_leaves(page, level, page.count());
                }
                Ok((leaf, record(changed)))
            }
            Entry::Empty | Entry::Mark(_) => Err(Mismatch::Empty),
            Entry::Leaf(_) | Entry::Table(_) => Err(Mismatch::OtherSize),
        }
    }
}
