//! Changing a single page of a known size, if the page exists: the `x86_64` crate's `Mapper` does so.

use super::changed::Changed;
use super::edit::{ClearShared, Edit, Protect};
use super::share::shares_in;
use super::single::Mismatch;
use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Leaf, RecordNumber};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::format::protection::Protection;
use crate::page_table::lists::chain::Reserve;
use crate::page_table::reading::records::for_each_record;
use crate::page_table::tables::memory::{TableAccess, TableMemory};

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
