//! Cutting an entry into the entries of a table below it.

use topomem_percpu::PhysFrame;

use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Ownership};
use crate::page_table::format::level::{ENTRIES, Level, Pages};
use crate::page_table::lists::chain::Reserve;
use crate::page_table::tables::memory::{TableMemory, table_at};
use crate::page_table::tables::regions;
use crate::page_table::tables::table::Table;

/// Returns the number of tables needed to cut an entry of `level` at the ends of `part`.
pub(in crate::page_table) fn cuts(level: Level, part: Pages) -> u64 {
    match level.below() {
        Some(below) if !part.fill_entries(level) => {
            1 + part.by_entry(below).map(|part| cuts(below, part)).sum::<u64>()
        }
        _ => 0,
    }
}

/// Returns the number of frames needed to keep the regions of the parts of a cut leaf of `level`. A
/// lowest table keeps a single region in its own word.
pub(in crate::page_table) const fn regions_frames(level: Level) -> u64 {
    (level.get() > Level::HUGE.get()) as u64
}

/// Returns the number of tables needed to cut the leaves and marks at the ends of `pages`.
pub(in crate::page_table) fn cuts_needed<F: Format, M: TableMemory>(
    memory: &M,
    table: &Table,
    level: Level,
    pages: Pages,
) -> u64 {
    let Some(below) = level.below() else {
        return 0;
    };
    // Only the first and the last entry can be covered in part.
    pages
        .ends(level)
        .filter(|part| !part.fill_entries(level))
        .map(|part| {
            match F::decode(table.load(level.index(part.first)), level) {
                Entry::Leaf(_) => cuts(level, part) + regions_frames(level),
                Entry::Mark(_) => cuts(level, part),
                Entry::Table(next) => {
                    // SAFETY: the table is linked: the caller has claimed the entries touched by
                    // `pages`.
                    cuts_needed::<F, M>(memory, unsafe { table_at(memory, next) }, below, part)
                }
                Entry::Empty => 0,
            }
        })
        .sum()
}

/// Replaces the entry at `index` of the table in `frame`, of `level`, by a table of smaller leaves,
/// of marks, or of empty entries. The translations stay the same, so no TLB becomes stale. Returns
/// the new table, or `None` if the reserve is empty.
pub(in crate::page_table) fn split<F: Format, M: TableMemory>(
    memory: &M,
    reserve: &mut Reserve<'_, M>,
    frame: PhysFrame,
    index: usize,
    level: Level,
) -> Option<PhysFrame> {
    let next = reserve.take()?;
    // SAFETY: the caller's cursor keeps the table linked.
    let table = unsafe { table_at(memory, frame) };
    // SAFETY: the table came from the reserve, and is owned by the caller.
    let parts = unsafe { table_at(memory, next) };
    let mut raw = table.load(index);
    let region = match F::decode(raw, level) {
        Entry::Leaf(leaf) => {
            // Larger leaves own runs of 2 MiB already.
            match leaf.ownership {
                Ownership::Owned if level == Level::HUGE => memory.split_run(leaf.frame),
                Ownership::Shared if level == Level::HUGE => memory.split_shared(leaf.frame),
                _ => {}
            }
            regions::region_of(memory, frame, index)
        }
        Entry::Mark(region) => Some(region),
        Entry::Empty | Entry::Table(_) => None,
    };
    let is_leaf = matches!(F::decode(raw, level), Entry::Leaf(_));
    if let Some(region) = region {
        if level == Level::HUGE {
            regions::expect(memory, next, region);
        } else if let (true, Some(below)) = (is_leaf, level.below()) {
            regions::set::<F, M>(memory, reserve, next, below, 0..=ENTRIES - 1, Some(region));
        }
    }
    loop {
        let whole = raw.unclaimed::<F>();
        for part in 0..ENTRIES {
            parts.store(part, if is_leaf { F::split(whole, level, part) } else { whole });
        }
        // The hardware may set accessed and dirty bits in between.
        match table.compare_exchange(index, raw, F::table(next).claimed_like::<F>(raw)) {
            Ok(()) => return Some(next),
            Err(now) => raw = now,
        }
    }
}
