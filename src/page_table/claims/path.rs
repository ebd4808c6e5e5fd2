//! The way from the root to a table, and whether it still leads there.

use crate::page_table::format::Format;
use crate::page_table::format::entry::RawEntry;
use crate::page_table::format::level::Level;
use crate::page_table::tables::table::TableEntry;

/// The levels whose entries lead to a directory or to a table above.
const LEVELS: [Level; 3] = [Level::GIANT, Level::FOURTH, Level::FIFTH];

/// Entries that lead to a table, unclaimed when they were seen.
#[derive(Clone, Copy)]
pub(in crate::page_table) struct Path<'a> {
    /// By level, from [`Level::GIANT`] up: the entry, and what it said.
    steps: [Option<(&'a TableEntry, RawEntry)>; LEVELS.len()],
}

impl<'a> Path<'a> {
    /// The path to the root.
    pub(in crate::page_table) const ROOT: Path<'a> = Path { steps: [None; LEVELS.len()] };

    /// Goes on by `entry`, of `level`, which says `seen`.
    #[inline]
    pub(in crate::page_table) fn add(&mut self, level: Level, entry: &'a TableEntry, seen: RawEntry) {
        self.steps[usize::from(level.get() - Level::GIANT.get())] = Some((entry, seen));
    }

    /// Do all entries lead to the same tables as before, with no claim on them? For a cursor that has
    /// made a claim below: from then on, as long as the claim is held, nobody unlinks these tables.
    ///
    /// Looks at the highest entry first. Whoever had a claim of that before the look, and has given it back,
    /// may have unlinked any of the tables below, and the looks at the lower entries find it.
    #[inline(always)]
    pub(in crate::page_table) fn is_intact<F: Format>(&self) -> bool {
        // No loop, so that the steps need no memory.
        leads_there::<F>(self.steps[2], LEVELS[2])
            && leads_there::<F>(self.steps[1], LEVELS[1])
            && leads_there::<F>(self.steps[0], LEVELS[0])
    }
}

/// Does the entry of `step`, of `level`, lead to the same table as before, with no claim on it?
#[inline(always)]
fn leads_there<F: Format>(step: Option<(&TableEntry, RawEntry)>, level: Level) -> bool {
    let Some((entry, seen)) = step else { return true };
    let now = entry.load_ordered();
    now == seen || leads_alike::<F>(now, seen, level)
}

/// Is `now` the same unclaimed entry as `seen`, but for what the hardware has noted in it?
#[cold]
fn leads_alike<F: Format>(now: RawEntry, seen: RawEntry, level: Level) -> bool {
    !now.is_claimed::<F>() && F::decode(now, level) == F::decode(seen, level)
}
