//! Leaves sharing their frames, and the end of sharing.

use topomem_percpu::PhysFrame;

use super::edit::is_unmapped;
use super::map::{Attributes, Backing};
use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf, Ownership, RawEntry};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::lists::chain::{Chain, Reserve};
use crate::page_table::lists::gather::Gather;
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::table::{Table, TableEntry};

/// The reason why the frames of a range were not shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unshared<E> {
    /// Nothing is mapped at `page`.
    Vacant { page: u64 },
    /// A leaf of another level maps `page`.
    OtherLevel { page: u64, level: Level },
    /// The frame at `page` is borrowed.
    Borrowed { page: u64 },
    /// The frame at `page` has the greatest countable number of holders.
    Full { page: u64 },
    /// No frame for the list.
    Gather(E),
}

/// Calls `visit` with the page, the entry and the leaf of each leaf of `level` in `pages`, claimed
/// by the caller. Returns an error for the first page not mapped by such a leaf.
fn for_each_leaf<F: Format, M: TableMemory, E>(
    memory: &M,
    (table, at): (&Table, Level),
    pages: Pages,
    level: Level,
    visit: &mut impl FnMut(u64, &TableEntry, Leaf) -> Result<(), Unshared<E>>,
) -> Result<(), Unshared<E>> {
    for part in pages.by_entry(at) {
        let entry = table.entry(at.index(part.first));
        match (F::decode(entry.load(), at), at.below()) {
            (Entry::Leaf(leaf), _) if at == level => visit(part.first, entry, leaf)?,
            (Entry::Leaf(_), _) => return Err(Unshared::OtherLevel { page: part.first, level: at }),
            (Entry::Table(next), Some(below)) if at > level => {
                // SAFETY: the table is linked below the caller's claims.
                let next = unsafe { table_at(memory, next) };
                for_each_leaf::<F, M, E>(memory, (next, below), part, level, visit)?;
            }
            (Entry::Table(next), Some(below)) => {
                // SAFETY: as above.
                let next = unsafe { table_at(memory, next) };
                return Err(smaller::<F, M, E>(memory, next, below, part.first));
            }
            _ => return Err(Unshared::Vacant { page: part.first }),
        }
    }
    Ok(())
}

/// Returns the error for `page`, below a table in place of the expected leaf.
fn smaller<F: Format, M: TableMemory, E>(memory: &M, table: &Table, level: Level, page: u64) -> Unshared<E> {
    match (F::decode(table.load(level.index(page)), level), level.below()) {
        (Entry::Leaf(_), _) => Unshared::OtherLevel { page, level },
        (Entry::Table(next), Some(below)) => {
            // SAFETY: the table is linked under a table claimed by the caller.
            smaller::<F, M, E>(memory, unsafe { table_at(memory, next) }, below, page)
        }
        _ => Unshared::Vacant { page },
    }
}

/// Gives the leaf in `entry` another ownership.
fn set_ownership<F: Format>(entry: &TableEntry, ownership: Ownership) {
    let mut raw = entry.load();
    // The hardware may set accessed and dirty bits in between.
    while let Err(now) = entry.compare_exchange(raw, F::with_ownership(raw, ownership)) {
        raw = now;
    }
}

impl<F: Format> PageTable<F> {
    /// Counts a further holder of each frame in `pages`, all mapped by owned or sharing leaves of
    /// `level`, and adds the new shares to `list`, in order of pages. The leaves share their frames
    /// afterwards. No translation changes.
    ///
    /// # Errors
    ///
    /// Returns [`Unshared`] if a page is vacant, has another size, is borrowed, or has no room for
    /// a further holder, or if no frame for the list is left. No leaf has changed then. The caller
    /// has to drop the shares in `list`.
    pub(crate) fn share<M: TableMemory>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        pages: Pages,
        level: Level,
        list: &mut Gather,
    ) -> Result<(), Unshared<M::Error>> {
        let memory = access.memory;
        self.note_shared();
        loop {
            let cursor = Cursor::<F, M>::lock(self, access, pages);
            let top = (cursor.table(), cursor.level);
            for_each_leaf::<F, M, M::Error>(memory, top, pages, level, &mut |page, _, leaf| {
                let borrowed = leaf.ownership == Ownership::Borrowed;
                if borrowed { Err(Unshared::Borrowed { page }) } else { Ok(()) }
            })?;
            let needed = list.pages_for(memory, pages.count() / level.pages());
            if needed > reserve.len() {
                drop(cursor);
                reserve.fill_to(needed).map_err(Unshared::Gather)?;
                continue;
            }
            list.add_pages(memory, reserve, needed);
            for_each_leaf::<F, M, M::Error>(memory, top, pages, level, &mut |page, _, leaf| {
                memory.share(leaf.frame, level).map_err(|_| Unshared::Full { page })?;
                list.push(memory, leaf.frame, level);
                Ok(())
            })?;
            return for_each_leaf::<F, M, M::Error>(memory, top, pages, level, &mut |_, entry, leaf| {
                if leaf.ownership == Ownership::Owned {
                    set_ownership::<F>(entry, Ownership::Shared);
                }
                Ok(())
            });
        }
    }

    /// Makes each leaf of `level` in `pages` the owner of its frame if it is the only holder, up to
    /// the first page without such a leaf. No translation changes.
    pub(crate) fn reown<M: TableMemory>(&self, access: TableAccess<'_, M>, pages: Pages, level: Level) {
        let memory = access.memory;
        let cursor = Cursor::<F, M>::lock(self, access, pages);
        let top = (cursor.table(), cursor.level);
        let _ = for_each_leaf::<F, M, M::Error>(memory, top, pages, level, &mut |_, entry, leaf| {
            if leaf.ownership == Ownership::Shared && memory.is_sole_holder(leaf.frame, level) {
                set_ownership::<F>(entry, Ownership::Owned);
            }
            Ok(())
        });
    }
}

/// Shares of frames of the same size, from a sufficient list.
pub(crate) struct Listed<'a, M: TableMemory> {
    pub memory: &'a M,
    pub level: Level,
    pub shares: &'a mut Gather,
    /// Emptied pages of the list.
    pub spent: &'a mut Chain,
    pub attributes: Attributes,
}

impl<F: Format, M: TableMemory> Backing<F> for Listed<'_, M> {
    fn level_at(&self, _: u64) -> Level {
        self.level
    }

    fn take(&mut self, _: u64, level: Level) -> RawEntry {
        let share: Option<(PhysFrame, Level)> = self.shares.take(self.memory, self.spent);
        debug_assert!(share.is_some(), "the list is too short");
        share.map_or(RawEntry::EMPTY, |(frame, _)| self.attributes.leaf::<F>(frame, level))
    }
}

/// Returns the number of shares dropped by the clearing of `pages`.
pub(in crate::page_table) fn shares_in<F: Format, M: TableMemory>(
    memory: &M,
    table: &Table,
    level: Level,
    pages: Pages,
) -> u64 {
    let is_shared = |raw| {
        !is_unmapped::<F>(raw)
            && matches!(F::decode(raw, level), Entry::Leaf(leaf) if leaf.ownership == Ownership::Shared)
    };
    let Some(below) = level.below() else {
        return shares_of_pages::<F>(table, pages);
    };
    let of_part = |part: Pages| {
        let raw = table.load(level.index(part.first));
        if is_unmapped::<F>(raw) {
            return 0;
        }
        match F::decode(raw, level) {
            Entry::Table(next) => {
                // SAFETY: the table is linked below the caller's claims.
                shares_in::<F, M>(memory, unsafe { table_at(memory, next) }, below, part)
            }
            _ if !is_shared(raw) => 0,
            // A large leaf not filled by the range is cut.
            _ if part.fill_entries(level) => 1,
            _ => part.count(),
        }
    };
    pages.by_entry(level).map(of_part).sum()
}

/// Returns the number of `pages`, of a lowest table, with shared frames.
#[inline]
pub(in crate::page_table) fn shares_of_pages<F: Format>(table: &Table, pages: Pages) -> u64 {
    let entries = table.entries(Level::PAGE.index(pages.first), Level::PAGE.index(pages.last));
    let shares =
        |entry: &TableEntry| F::page(entry.load()).is_some_and(|leaf| leaf.ownership == Ownership::Shared);
    entries.iter().map(|entry| u64::from(shares(entry))).sum()
}
