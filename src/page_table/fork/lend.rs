//! Sharing the frames of a few pages with another place, without copying a frame.
//!
//! As in a [copy of a space](super), the frames are shared afterwards, and no leaf permits writes.
//! The frames are listed, with a holder counted for each, and mapped at the other place later.
//! Ranges of two page tables are never claimed together: two copies in opposite directions cannot
//! wait for each other.

use topomem_percpu::PhysFrame;

use super::become_shared;
use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Ownership, RawEntry};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::mapping::changed::Changed;
use crate::page_table::rewrite::{Found, found};
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};

/// The decision about a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lends {
    /// Share the page's frame.
    Frame,
    /// Skip the page, which has no contents.
    Nothing,
}

/// The reason why the frames of a range were not shared, or only some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LendError<S> {
    /// The range was refused; no frame is shared.
    Refused(S),
    /// A large leaf maps the pages, and has to be cut first; no frame is shared.
    Large,
    /// A frame has the greatest countable number of holders. The frames of the preceding pages are
    /// shared.
    SharesFull,
}

/// The frames of up to 512 pages. Each frame has a holder besides its leaves: the list.
pub(crate) struct Lent<'m, M> {
    memory: &'m M,
    list: PhysFrame,
    count: usize,
}

impl<'m, M: TableMemory> Lent<'m, M> {
    /// Returns an empty list.
    ///
    /// # Safety
    ///
    /// The caller owns the frame `list` while the list lives.
    pub(crate) unsafe fn new(memory: &'m M, list: PhysFrame) -> Lent<'m, M> {
        Lent { memory, list, count: 0 }
    }

    /// Takes the next frame out of the list, with its place among the pages. The list's share of
    /// the frame passes to the caller.
    pub(crate) fn take<F: Format>(&mut self) -> Option<(u64, PhysFrame)> {
        // SAFETY: promised by the caller of `Lent::new`.
        let list = unsafe { table_at(self.memory, self.list) };
        while let Some(index) = self.count.checked_sub(1) {
            self.count = index;
            if let Entry::Leaf(leaf) = F::decode(list.load(index), Level::PAGE) {
                return Some((index as u64, leaf.frame));
            }
        }
        None
    }
}

impl<F: Format> PageTable<F> {
    /// Counts a further holder of the frame of each page accepted by `check`, puts the frames into
    /// the empty list `lent`, and makes the pages read-only. `pages` are within a single lowest
    /// table. Adds the stale translations to `changed`, and calls `record` with it before another
    /// cursor can change the pages, whatever the outcome.
    ///
    /// # Errors
    ///
    /// Frames listed in `lent` are shared even on an error:
    ///
    /// - [`LendError::Refused`] with the error of `check`, and no frame listed.
    /// - [`LendError::Large`] if a large leaf maps the pages; no frame is listed.
    /// - [`LendError::SharesFull`] if a frame has the greatest countable number of holders.
    pub(crate) fn lend<M: TableMemory, S, T>(
        &self,
        access: TableAccess<'_, M>,
        pages: Pages,
        check: impl Fn(Found, u64) -> Result<Lends, S>,
        lent: &mut Lent<'_, M>,
        changed: &mut Changed,
        record: impl FnOnce(&mut Changed) -> T,
    ) -> (T, Result<(), LendError<S>>) {
        debug_assert!(pages.within_one_entry(Level::HUGE) && lent.count == 0);
        let memory = access.memory;
        self.note_shared();
        let cursor = Cursor::<F, M>::lock(self, access, pages);
        let (frame, level) = (cursor.frame(), cursor.level);
        let table = cursor.table();
        let found = |page| {
            let index = level.index(page);
            found::<F, M>(memory, frame, index, table.load(index), level).unwrap_or(Found::Vacant)
        };
        let mut shared = || {
            for page in pages.first..=pages.last {
                let lends = check(found(page), page).map_err(LendError::Refused)?;
                if lends == Lends::Frame && level > Level::PAGE {
                    return Err(LendError::Large);
                }
            }
            // SAFETY: promised by the caller of `Lent::new`.
            let list = unsafe { table_at(memory, lent.list) };
            for page in pages.first..=pages.last {
                let (found, index) = (found(page), (page - pages.first) as usize);
                let mut listed = RawEntry::EMPTY;
                if let Found::Mapped(leaf, _) = found
                    && leaf.ownership != Ownership::Borrowed
                    && matches!(check(found, page), Ok(Lends::Frame))
                {
                    memory.share(leaf.frame, Level::PAGE).map_err(|_| LendError::SharesFull)?;
                    let entry = table.entry(level.index(page));
                    listed = become_shared::<F>(entry, entry.load()).unclaimed::<F>();
                    if leaf.protection.access().writes() {
                        changed.note_leaves(Pages { first: page, last: page }, level, 0);
                    }
                }
                list.store(index, listed);
                lent.count = index + 1;
            }
            Ok(())
        };
        let outcome = shared();
        (record(changed), outcome)
    }
}
