//! Moving what is mapped in one range to another.

use super::PageTable;
use super::chain::{Chain, Reserve};
use super::change::{Changed, cut, cuts_needed};
use super::cursor::Cursor;
use super::entry::{Entry, RawEntry};
use super::format::Format;
use super::level::{Level, Pages};
use super::map::{Backing, Filler, plan};
use super::memory::{TableMemory, table_at};
use super::table::Table;

/// Why a range was not moved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RelocateError<E> {
    /// `page` of the new place is mapped.
    Occupied {
        /// The first such page.
        page: u64,
    },
    /// A large leaf cannot stand at the new place, whose alignment is another.
    WouldSplit(Level),
    /// No frame for a table.
    Tables(E),
}

/// The leaves of another range of the same, exclusively locked, tables.
struct Moved<'a, M: TableMemory> {
    memory: &'a M,
    table: &'a Table,
    level: Level,
    /// What to add to a page of the new place for the old one.
    back: u64,
}

impl<M: TableMemory> Moved<'_, M> {
    /// The entry that maps the old place of `page`, where it lies, and its level.
    fn find<F: Format>(&self, page: u64) -> (&Table, usize, Level) {
        let page = page.wrapping_add(self.back);
        let (mut table, mut level) = (self.table, self.level);
        loop {
            let index = level.index(page);
            match (F::decode(table.load(index), level), level.below()) {
                (Entry::Table(next), Some(below)) => {
                    // SAFETY: it is linked under the exclusively locked table.
                    (table, level) = (unsafe { table_at(self.memory, next) }, below);
                }
                _ => return (table, index, level),
            }
        }
    }
}

impl<F: Format, M: TableMemory> Backing<F> for Moved<'_, M> {
    fn level_at(&self, page: u64) -> Level {
        let (table, index, level) = self.find::<F>(page);
        match F::decode(table.load(index), level) {
            Entry::Leaf(_) => level,
            _ => Level::PAGE,
        }
    }

    fn has_leaves(&self, part: Pages) -> bool {
        let [first, last] = [part.first, part.last].map(|page| page.wrapping_add(self.back));
        has_leaves::<F, M>(self.memory, self.table, self.level, Pages { first, last })
    }

    fn take(&mut self, page: u64, _: Level) -> RawEntry {
        let (table, index, level) = self.find::<F>(page);
        table.entry(index).replace::<F>(level, RawEntry::EMPTY)
    }
}

/// Is anything mapped in `pages`?
fn has_leaves<F: Format, M: TableMemory>(memory: &M, table: &Table, level: Level, pages: Pages) -> bool {
    pages.by_entry(level).any(|part| {
        match (F::decode(table.load(level.index(part.first)), level), level.below()) {
            (Entry::Leaf(_), _) => true,
            (Entry::Table(next), Some(below)) => {
                // SAFETY: it is linked under a table that the caller has locked exclusively.
                has_leaves::<F, M>(memory, unsafe { table_at(memory, next) }, below, part)
            }
            _ => false,
        }
    })
}

/// The largest leaf in `pages`.
fn largest_leaf<F: Format, M: TableMemory>(memory: &M, table: &Table, level: Level, pages: Pages) -> Level {
    let of_part = |part: Pages| match (F::decode(table.load(level.index(part.first)), level), level.below()) {
        (Entry::Leaf(_), _) => level,
        (Entry::Table(next), Some(below)) => {
            // SAFETY: it is linked under a table that the caller has locked exclusively.
            largest_leaf::<F, M>(memory, unsafe { table_at(memory, next) }, below, part)
        }
        _ => Level::PAGE,
    };
    pages.by_entry(level).map(of_part).max().unwrap_or(Level::PAGE)
}

impl<F: Format> PageTable<F> {
    /// Moves what is mapped in `from` to the pages from `to` on, which do not overlap it; or
    /// changes no translation. Calls `record` with what that made stale before another cursor can
    /// change the old or the new place.
    pub(crate) fn relocate<M: TableMemory, T>(
        &self,
        memory: &M,
        reserve: &mut Reserve<'_, M>,
        from: Pages,
        to: Pages,
        record: impl FnOnce(Changed) -> T,
    ) -> Result<T, RelocateError<M::Error>> {
        let hull = Pages { first: from.first.min(to.first), last: from.last.max(to.last) };
        loop {
            let cursor = Cursor::<F, M>::lock(self, memory, hull);
            let (table, level) = (cursor.table(), cursor.level);
            let cuts = cuts_needed::<F, M>(memory, table, level, from);
            if cuts > reserve.len() {
                drop(cursor);
                reserve.fill_to(cuts).map_err(RelocateError::Tables)?;
                continue;
            }
            cut::<F, M>(memory, reserve, cursor.frame(), level, from);
            let largest = largest_leaf::<F, M>(memory, table, level, from);
            if !from.first.wrapping_sub(to.first).is_multiple_of(largest.pages()) {
                return Err(RelocateError::WouldSplit(largest));
            }
            let mut moved = Moved { memory, table, level, back: from.first.wrapping_sub(to.first) };
            let missing = plan::<F, M>(memory, Some(table), level, to, &moved);
            let missing = missing.map_err(|(page, _)| RelocateError::Occupied { page })?;
            if missing > reserve.len() {
                drop(cursor);
                reserve.fill_to(missing).map_err(RelocateError::Tables)?;
                continue;
            }
            let mut filler = Filler { memory, reserve, backing: &mut moved, replaced: Chain::EMPTY };
            filler.fill::<F>(cursor.frame(), level, to);
            return Ok(record(Changed::moved(from, filler.replaced)));
        }
    }
}
