//! Looking at one page, and exchanging its leaf for another.

use super::changed::Changed;
use super::single::Mismatch;
use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Leaf, RegionId};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::rewrite::{Found, found};
use crate::page_table::tables::memory::{TableAccess, TableMemory};
use crate::page_table::tables::regions;

/// Why the leaf of a page was not exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExchangeError<E> {
    /// No leaf of that level maps the page.
    Mismatch(Mismatch),
    /// The page belongs to no region.
    NoRegion,
    /// The caller refused it.
    Refused(E),
}

impl<F: Format> PageTable<F> {
    /// Returns what `page` is, and the level of its entry.
    pub(crate) fn look<M: TableMemory>(&self, access: TableAccess<'_, M>, page: u64) -> (Found, Level) {
        self.look_with(access, page, |found, level| (found, level))
    }

    /// Returns what `see` makes of what `page` is, and of the level of its entry, which is claimed meanwhile.
    pub(crate) fn look_with<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        page: u64,
        see: impl FnOnce(Found, Level) -> T,
    ) -> T {
        let cursor = Cursor::<F, M>::lock(self, access, Pages { first: page, last: page });
        let (frame, level) = (cursor.frame(), cursor.level);
        let raw = cursor.table().load(level.index(page));
        let found = found::<F, M>(access.memory, frame, level.index(page), raw, level);
        // A cursor of one page is below every table.
        see(found.unwrap_or(Found::Vacant), level)
    }

    /// Puts the leaf that `decide` returns in the place of the leaf of `level` that maps `page`, a page of
    /// a region. Calls `record` with what that made stale before another cursor can change the page. Returns
    /// the old leaf, and what `record` returned.
    ///
    /// Something is stale if the old leaf permitted an access and the new leaf permits less, or has another
    /// frame.
    ///
    /// # Errors
    ///
    /// [`ExchangeError`]; nothing has changed.
    pub(crate) fn exchange<M: TableMemory, E, T>(
        &self,
        access: TableAccess<'_, M>,
        page: Pages,
        level: Level,
        decide: impl FnOnce(&Leaf, RegionId) -> Result<Leaf, E>,
        record: impl FnOnce(&Changed) -> T,
    ) -> Result<(Leaf, T), ExchangeError<E>> {
        let (cursor, old) = self.lock_page(access, page, level).map_err(ExchangeError::Mismatch)?;
        let index = level.index(page.first);
        let region = regions::region_of(access.memory, cursor.frame(), index);
        let region = region.ok_or(ExchangeError::NoRegion)?;
        let new = decide(&old, region).map_err(ExchangeError::Refused)?;
        let entry = cursor.table().entry(index);
        let mut raw = entry.load();
        loop {
            // What the hardware has noted stays, in the place where it belongs for the new protection.
            let marked = F::merge_marks(F::leaf(&new, level), raw);
            let marked = F::reprotect(marked, level, new.protection).claimed_like::<F>(raw);
            // The hardware may note more in between.
            match entry.compare_exchange(raw, marked) {
                Ok(()) => break,
                Err(now) => raw = now,
            }
        }
        let mut changed = Changed::NOTHING;
        let (before, after) = (old.protection.access(), new.protection.access());
        if before.reads() && (old.frame != new.frame || !after.includes(before)) {
            changed.note_leaves(page, level, 0);
        }
        Ok((old, record(&changed)))
    }
}
