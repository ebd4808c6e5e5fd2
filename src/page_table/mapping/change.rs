//! Clearing, reprotecting and splitting the mappings of a range.

use topomem_percpu::PhysFrame;

use super::changed::Changed;
use super::edit::{Clear, ClearShared, Cut, Edit, Protect, is_unmapped};
use super::map::unlink;
use super::share::shares_in;
use super::split::{cuts_needed, split};
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, RawEntry, RecordNumber, RegionId};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::format::protection::Protection;
use crate::page_table::lists::chain::Reserve;
use crate::page_table::reading::records::for_each_record;
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::table::{Table, TableEntry};
use crate::page_table::{PageTable, RootEntries};
impl<F: Format> PageTable<F> {
    /// Unmaps `pages`, unlinks emptied tables below the cursor's, and adds the removed mappings to
    /// `changed`; or changes nothing. Calls `leave` with each record of the pages and the number of
    /// pages lost by the record, and `record` with `changed`, both before another cursor can change
    /// the same entries.
    #[inline(always)]
    pub(crate) fn clear<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        pages: Pages,
        changed: &mut Changed,
        leave: impl FnMut(RecordNumber, u64),
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Result<T, M::Error> {
        self.change(access, reserve, pages, Clear, changed, leave, record)
    }

    /// Changes the protection of the mappings in `pages`, and adds the changes to `changed`; or
    /// changes nothing. Calls `record` as [`PageTable::clear`] does.
    #[inline(always)]
    pub(crate) fn reprotect<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        pages: Pages,
        protection: Protection,
        changed: &mut Changed,
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Result<T, M::Error> {
        self.change(access, reserve, pages, Protect(protection), changed, |_, _| {}, record)
    }

    // Always inlined, like its callers.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "what is in registers stays there")]
    fn change<M: TableMemory, E: Edit, T>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        pages: Pages,
        edit: E,
        changed: &mut Changed,
        mut leave: impl FnMut(RecordNumber, u64),
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Result<T, M::Error> {
        let memory = access.memory;
        loop {
            let mut cursor = Cursor::<F, M>::lock(self, access, pages);
            if E::EMPTIES
                && cursor.level != Level::PAGE
                && let Some(alike) = cursor.alike(pages)
            {
                if let Some(record) = alike.region().and_then(RegionId::record) {
                    cursor.in_walk(access.enter());
                    leave(record, pages.count());
                }
                alike.become_all::<F>(RawEntry::EMPTY);
            } else if E::EMPTIES && self.has_shared_or_records() {
                cursor = self.clear_shared(access, cursor, reserve, pages, changed, &mut leave)?;
            } else {
                let mut changer = Changer { memory, reserve, edit, roots: self.root_entries, changed };
                // The usual case: nothing to cut, nothing to unlink.
                if cursor.level == Level::PAGE {
                    changer.apply_to_leaves::<F>(cursor.table(), pages);
                } else {
                    let needed = cuts_needed::<F, M>(memory, cursor.table(), cursor.level, pages);
                    if needed > changer.reserve.len() {
                        drop(cursor);
                        reserve.fill_to(needed)?;
                        continue;
                    }
                    changer.apply::<F>(cursor.frame(), cursor.level, pages);
                }
            }
            // A single call, so the values kept by `record` stay in registers.
            let recorded = record(changed);
            drop(cursor);
            return Ok(recorded);
        }
    }
}

impl<F: Format> PageTable<F> {
    /// Clears like [`PageTable::clear`] if leaves may share frames, or pages may have records.
    /// Shares go to a gather list, with planned pages, and records to `leave`. Returns the cursor,
    /// which still has the range.
    #[cold]
    #[inline(never)]
    fn clear_shared<'a, M: TableMemory>(
        &'a self,
        access: TableAccess<'a, M>,
        mut cursor: Cursor<'a, F, M>,
        reserve: &mut Reserve<'_, M>,
        pages: Pages,
        changed: &mut Changed,
        leave: &mut dyn FnMut(RecordNumber, u64),
    ) -> Result<Cursor<'a, F, M>, M::Error> {
        let memory = access.memory;
        loop {
            let (table, level) = (cursor.table(), cursor.level);
            let shares = match self.has_shared() {
                true => shares_in::<F, M>(memory, table, level, pages),
                false => 0,
            };
            let gathers = changed.retired.shares.pages_for(memory, shares);
            let needed = gathers + cuts_needed::<F, M>(memory, table, level, pages);
            if needed > reserve.len() {
                drop(cursor);
                reserve.fill_to(needed)?;
                cursor = Cursor::lock(self, access, pages);
                continue;
            }
            changed.retired.shares.add_pages(memory, reserve, gathers);
            if self.has_records() {
                cursor.in_walk(access.enter());
                for_each_record::<F, M>(memory, cursor.frame(), level, pages, leave);
            }
            let roots = self.root_entries;
            if shares == 0 {
                let edit = Clear;
                Changer { memory, reserve, edit, roots, changed }.apply::<F>(cursor.frame(), level, pages);
            } else {
                let edit = ClearShared;
                Changer { memory, reserve, edit, roots, changed }.apply::<F>(cursor.frame(), level, pages);
            }
            return Ok(cursor);
        }
    }
}

/// Cuts the leaves and marks at the ends of `pages` of the table in `table`, from a reserve found
/// sufficient by [`cuts_needed`].
pub(in crate::page_table) fn cut<F: Format, M: TableMemory>(
    memory: &M,
    reserve: &mut Reserve<'_, M>,
    table: PhysFrame,
    level: Level,
    pages: Pages,
) {
    let (edit, roots) = (Cut, RootEntries::Shared);
    let mut changed = Changed::NOTHING;
    let changed = &mut changed;
    Changer { memory, reserve, edit, roots, changed }.apply::<F>(table, level, pages);
}

struct Changer<'a, 'r, M: TableMemory, E> {
    memory: &'a M,
    reserve: &'a mut Reserve<'r, M>,
    edit: E,
    roots: RootEntries,
    changed: &'a mut Changed,
}

impl<M: TableMemory, E: Edit> Changer<'_, '_, M, E> {
    /// Changes `pages` of the table in `frame`, which is the cursor's, or below the cursor's.
    fn apply<F: Format>(&mut self, frame: PhysFrame, level: Level, pages: Pages) {
        // SAFETY: the cursor keeps the table linked.
        let table = unsafe { table_at(self.memory, frame) };
        if level == Level::PAGE {
            return self.apply_to_leaves::<F>(table, pages);
        }
        for part in pages.by_entry(level) {
            let index = level.index(part.first);
            let raw = table.load(index);
            if E::EMPTIES && part.fill_entries(level) && is_unmapped::<F>(raw) {
                table.entry(index).replace::<F>(level, RawEntry::EMPTY);
                continue;
            }
            match (F::decode(raw, level), level.below()) {
                (Entry::Empty, _) => {}
                (Entry::Mark(_), _) if !E::MARKS => {}
                (Entry::Leaf(_) | Entry::Mark(_), Some(below)) if !part.fill_entries(level) => {
                    let Some(next) = split::<F, M>(self.memory, self.reserve, frame, index, level) else {
                        debug_assert!(false, "the plan counted too few tables");
                        return;
                    };
                    self.apply::<F>(next, below, part);
                }
                (Entry::Leaf(_) | Entry::Mark(_), _) => self.leaf::<F>(table.entry(index), level, part),
                (Entry::Table(next), Some(below)) => {
                    self.apply::<F>(next, below, part);
                    self.unlink_empty::<F>(table, next, level, part);
                }
                (Entry::Table(_), None) => {}
            }
        }
    }

    /// Unlinks the table `next` below `level` if the clearing of `part` has emptied it.
    fn unlink_empty<F: Format>(&mut self, table: &Table, next: PhysFrame, level: Level, part: Pages) {
        let kept = level == F::ROOT && self.roots == RootEntries::Shared;
        let emptied = part.fill_entries(level) && E::EMPTIES;
        if let (Some(below), true) = (level.below(), emptied && !kept) {
            table.entry(level.index(part.first)).replace::<F>(level, RawEntry::EMPTY);
            self.changed.note(part, Level::PAGE);
            unlink::<F, M>(self.memory, next, below, &mut self.changed.retired.tables);
        }
    }

    /// Changes `pages` of the lowest table `table`.
    #[inline(always)]
    fn apply_to_leaves<F: Format>(&mut self, table: &Table, pages: Pages) {
        if pages.first != pages.last {
            return self.apply_to_several::<F>(table, pages);
        }
        let entry = table.entry(Level::PAGE.index(pages.first));
        if entry.load() != RawEntry::EMPTY && self.edit::<F>(entry, Level::PAGE) {
            self.changed.note_leaves(pages, Level::PAGE, 1);
        }
    }

    // Not inlined, so the loop has all registers.
    #[inline(never)]
    fn apply_to_several<F: Format>(&mut self, table: &Table, pages: Pages) {
        let entries = table.entries(Level::PAGE.index(pages.first), Level::PAGE.index(pages.last));
        let mut stale = pages;
        let mut count = 0;
        for (page, entry) in (pages.first..).zip(entries) {
            if entry.load() != RawEntry::EMPTY && self.edit::<F>(entry, Level::PAGE) {
                if count == 0 {
                    stale.first = page;
                }
                stale.last = page;
                count += 1;
            }
        }
        if count > 0 {
            self.changed.note_leaves(stale, Level::PAGE, count);
        }
    }

    fn leaf<F: Format>(&mut self, entry: &TableEntry, level: Level, part: Pages) {
        if self.edit::<F>(entry, level) {
            self.changed.note_leaves(part, level, part.count());
        }
    }

    #[inline(always)]
    fn edit<F: Format>(&mut self, entry: &TableEntry, level: Level) -> bool {
        self.edit.edit::<F, M>(self.memory, &mut self.changed.retired, entry, level)
    }
}
