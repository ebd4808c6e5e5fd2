//! Searching vacant pages, without region or mapping, and without a lock.

use topomem_percpu::PhysFrame;

use super::walk::WalkGuard;
use crate::page_table::PageTable;
use crate::page_table::format::Format;
use crate::page_table::format::entry::Entry;
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::tables::memory::{TableMemory, table_at};

impl<F: Format> PageTable<F> {
    /// Returns the first page of the last used entry in `pages`, or `None` if all of `pages` are
    /// vacant. The answer may be out of date on return.
    pub(crate) fn last_taken<M: TableMemory>(
        &self,
        memory: &M,
        _walk: &WalkGuard<'_>,
        pages: Pages,
    ) -> Option<u64> {
        last_taken::<F, M>(memory, self.root, F::ROOT, pages)
    }

    /// Returns whether an entry of `level` serving `page` leads to a table. The answer may be out
    /// of date on return.
    pub(crate) fn has_table<M: TableMemory>(
        &self,
        memory: &M,
        _walk: &WalkGuard<'_>,
        page: u64,
        level: Level,
    ) -> bool {
        let (mut frame, mut at) = (self.root, F::ROOT);
        loop {
            // SAFETY: as in `last_taken`.
            let table = unsafe { table_at(memory, frame) };
            match (F::decode(table.load(at.index(page)), at), at.below()) {
                (Entry::Table(_), _) if at == level => return true,
                (Entry::Table(next), Some(below)) => (frame, at) = (next, below),
                _ => return false,
            }
        }
    }
}

fn last_taken<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
) -> Option<u64> {
    // SAFETY: the root lives as long as the page table. A table below was linked when its entry was
    // read, and is not freed while the walk is announced.
    let table = unsafe { table_at(memory, frame) };
    let mut last = pages.last;
    loop {
        let start = last & !(level.pages() - 1);
        let part = Pages { first: start.max(pages.first), last };
        match (F::decode(table.load(level.index(last)), level), level.below()) {
            (Entry::Empty, _) => {}
            (Entry::Table(next), Some(below)) => {
                if let Some(taken) = last_taken::<F, M>(memory, next, below, part) {
                    return Some(taken);
                }
            }
            _ => return Some(start),
        }
        if start <= pages.first {
            return None;
        }
        last = start - 1;
    }
}
