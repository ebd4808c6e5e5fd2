//! Cutting all large leaves of a range, at any place in the range.

use topomem_percpu::PhysFrame;

use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::Entry;
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::lists::chain::Reserve;
use crate::page_table::mapping::split::{regions_frames, split};
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};

/// Returns the number of frames needed to cut the leaves above `to` touched by `pages` in the table
/// in `frame`, of `level`.
fn needed<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    to: Level,
) -> u64 {
    let Some(below) = level.below().filter(|_| level > to) else { return 0 };
    // SAFETY: the cursor keeps the table linked.
    let table = unsafe { table_at(memory, frame) };
    let of_part = |part: Pages| match F::decode(table.load(level.index(part.first)), level) {
        Entry::Leaf(_) => frames_to_cut(level, part, to),
        Entry::Table(next) => needed::<F, M>(memory, next, below, part, to),
        _ => 0,
    };
    pages.by_entry(level).map(of_part).sum()
}

/// Returns the number of frames needed to cut a leaf of `level`, and its parts touched by `part`.
fn frames_to_cut(level: Level, part: Pages, to: Level) -> u64 {
    match level.below() {
        Some(below) if level > to => {
            let parts = part.by_entry(below).map(|part| frames_to_cut(below, part, to));
            1 + regions_frames(level) + parts.sum::<u64>()
        }
        _ => 0,
    }
}

/// Cuts the leaves counted by [`needed`], with the frames of a sufficient reserve.
fn cut<F: Format, M: TableMemory>(
    memory: &M,
    reserve: &mut Reserve<'_, M>,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    to: Level,
) {
    let Some(below) = level.below().filter(|_| level > to) else { return };
    // SAFETY: the cursor keeps the table linked.
    let table = unsafe { table_at(memory, frame) };
    for part in pages.by_entry(level) {
        let index = level.index(part.first);
        let next = match F::decode(table.load(index), level) {
            Entry::Leaf(_) => split::<F, M>(memory, reserve, frame, index, level),
            Entry::Table(next) => Some(next),
            _ => None,
        };
        if let Some(next) = next {
            cut::<F, M>(memory, reserve, next, below, part, to);
        }
    }
}

impl<F: Format> PageTable<F> {
    /// Cuts the leaves above the level `to` touched by `pages` into leaves of `to`. No translation
    /// changes, and leaves keep their regions.
    ///
    /// # Errors
    ///
    /// Returns the allocator's error if no frame is left. Nothing has changed then.
    pub(crate) fn cut_leaves<M: TableMemory>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        pages: Pages,
        to: Level,
    ) -> Result<(), M::Error> {
        let memory = access.memory;
        loop {
            let cursor = Cursor::<F, M>::lock(self, access, pages);
            let needed = needed::<F, M>(memory, cursor.frame(), cursor.level, pages, to);
            if needed > reserve.len() {
                drop(cursor);
                reserve.fill_to(needed)?;
                continue;
            }
            cut::<F, M>(memory, reserve, cursor.frame(), cursor.level, pages, to);
            return Ok(());
        }
    }
}
