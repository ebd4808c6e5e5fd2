//! The way from the root to a table, with a check of whether it still leads there.

use crate::page_table::format::Format;
use crate::page_table::format::entry::RawEntry;
use crate::page_table::format::level::Level;
use crate::page_table::tables::table::TableEntry;

/// The levels of entries leading to a directory or to a higher table.
const LEVELS: [Level; 3] = [Level::GIANT, Level::FOURTH, Level::FIFTH];

/// Entries leading to a table, unclaimed when seen.
#[derive(Clone, Copy)]
pub(in crate::page_table) struct Path<'a> {
    /// By level, from [`Level::GIANT`] up: the entry and its contents.
    steps: [Option<(&'a TableEntry, RawEntry)>; LEVELS.len()],
}

impl<'a> Path<'a> {
    /// The path to the root.
    pub(in crate::page_table) const ROOT: Path<'a> = Path { steps: [None; LEVELS.len()] };

    /// Appends `entry`, of `level`, with contents `seen`.
    #[inline]
    pub(in crate::page_table) fn add(&mut self, level: Level, entry: &'a TableEntry, seen: RawEntry) {
        self.steps[usize::from(level.get() - Level::GIANT.get())] = Some((entry, seen));
    }

    /// Returns whether all entries lead to the same tables as before and are unclaimed. If a cursor
    /// with a claim below gets true, the tables stay linked as long as the cursor's claim is held.
    ///
    /// The check proceeds from the highest entry down. A claimant of a higher entry, gone before
    /// the look, may have unlinked any table below, and the looks at the lower entries find the
    /// change.
    #[inline(always)]
    pub(in crate::page_table) fn is_intact<F: Format>(&self) -> bool {
        // Not a loop, to keep the steps out of memory.
        leads_there::<F>(self.steps[2], LEVELS[2])
            && leads_there::<F>(self.steps[1], LEVELS[1])
            && leads_there::<F>(self.steps[0], LEVELS[0])
    }
}

/// Returns whether the entry of `step`, of `level`, leads to the same table as before and is
/// unclaimed.
#[inline(always)]
fn leads_there<F: Format>(step: Option<(&TableEntry, RawEntry)>, level: Level) -> bool {
    let Some((entry, seen)) = step else { return true };
    let now = entry.load_ordered();
    now == seen || leads_alike::<F>(now, seen, level)
}

/// Returns whether `now` is the same unclaimed entry as `seen`, apart from bits set by the
/// hardware.
#[cold]
fn leads_alike<F: Format>(now: RawEntry, seen: RawEntry, level: Level) -> bool {
    !now.is_claimed::<F>() && F::decode(now, level) == F::decode(seen, level)
}
