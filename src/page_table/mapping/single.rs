//! Changing a single page of a known size, if the page exists.

use super::changed::Changed;
use super::edit::{ClearShared, Edit, Protect};
use super::share::shares_in;
use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf, RecordNumber};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::format::protection::Protection;
use crate::page_table::lists::chain::Reserve;
use crate::page_table::reading::records::for_each_record;
use crate::page_table::tables::memory::{TableAccess, TableMemory};

/// The reason why a page was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// Nothing is mapped at the page.
    Empty,
    /// The mapping at the page has another size.
    OtherSize,
}

/// The reason why a page was not unmapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClearPageError<E> {
    /// No such page is mapped.
    Mismatch(Mismatch),
    /// No frame to list the page's share of its frame.
    Gather(E),
}

impl<F: Format> PageTable<F> {
    /// Unmaps the page of `level` at `page`, adds the change to `changed`, and returns the leaf. Of
    /// several concurrent calls for a page, only one succeeds. Tables stay. Calls `leave` and
    /// `record` as [`PageTable::clear`] does.
    #[allow(clippy::too_many_arguments, reason = "as `PageTable::clear`")]
    pub(crate) fn clear_page<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        page: Pages,
        level: Level,
        changed: &mut Changed,
        mut leave: impl FnMut(RecordNumber, u64),
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Result<(Leaf, T), ClearPageError<M::Error>> {
        let memory = access.memory;
        loop {
            let locked = self.lock_page(access, page, level);
            let (mut cursor, leaf) = locked.map_err(ClearPageError::Mismatch)?;
            if self.has_shared() {
                let list = &mut changed.retired.shares;
                let gathers = list.pages_for(memory, shares_in::<F, M>(memory, cursor.table(), level, page));
                if gathers > reserve.len() {
                    drop(cursor);
                    reserve.fill_to(gathers).map_err(ClearPageError::Gather)?;
                    continue;
                }
                list.add_pages(memory, reserve, gathers);
            }
            if self.has_records() {
                cursor.in_walk(access.enter());
                for_each_record::<F, M>(memory, cursor.frame(), level, page, &mut leave);
            }
            edit_page(&cursor, page, ClearShared, changed);
            return Ok((leaf, record(changed)));
        }
    }

    /// Gives the page of `level` at `page` another protection, adds the change to `changed`, and
    /// returns the old leaf.
    pub(crate) fn reprotect_page<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        page: Pages,
        level: Level,
        protection: Protection,
        changed: &mut Changed,
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Result<(Leaf, T), Mismatch> {
        let (cursor, leaf) = self.lock_page(access, page, level)?;
        edit_page(&cursor, page, Protect(protection), changed);
        Ok((leaf, record(changed)))
    }

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

/// Changes the leaf mapping all of `page`, claimed by `cursor`.
fn edit_page<F: Format, M: TableMemory>(
    cursor: &Cursor<'_, F, M>,
    page: Pages,
    edit: impl Edit,
    changed: &mut Changed,
) {
    let level = cursor.level;
    let entry = cursor.table().entry(level.index(page.first));
    if edit.edit::<F, M>(cursor.memory, &mut changed.retired, entry, level) {
        changed.note_leaves(page, level, page.count());
    }
}
