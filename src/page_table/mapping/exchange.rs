//! Looking at a page, and exchanging its leaf for another.

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

/// The reason why the leaf of a page was not exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExchangeError<E> {
    /// No leaf of the requested level maps the page.
    Mismatch(Mismatch),
    /// The page belongs to no region.
    NoRegion,
    /// The caller refused the exchange.
    Refused(E),
}

impl<F: Format> PageTable<F> {
    /// Returns the state of `page`, and the level of its entry.
    pub(crate) fn look<M: TableMemory>(&self, access: TableAccess<'_, M>, page: u64) -> (Found, Level) {
        self.look_with(access, page, |found, level| (found, level))
    }

    /// Returns the result of `see`, called with the state of `page` and the level of its entry. The
    /// entry is claimed meanwhile.
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
        // The cursor of a single page is below every table.
        see(found.unwrap_or(Found::Vacant), level)
    }

    /// Replaces the leaf of `level` mapping `page`, a page of a region, by the leaf returned by
    /// `decide`. Calls `record` with the stale translations before another cursor can change the
    /// page. Returns the old leaf and the result of `record`.
    ///
    /// The translation is stale if the old leaf permitted an access and the new leaf permits less,
    /// or has another frame.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`ExchangeError::Mismatch`] if no leaf of `level` maps the page.
    /// - [`ExchangeError::NoRegion`] if the page belongs to no region.
    /// - [`ExchangeError::Refused`] with the error of `decide`.
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
            // Accessed and dirty marks stay, in the place required by the new protection.
            let marked = F::merge_marks(F::leaf(&new, level), raw);
            let marked = F::reprotect(marked, level, new.protection).claimed_like::<F>(raw);
            // The hardware may set further marks in between.
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
