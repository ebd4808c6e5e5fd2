//! Cursors over ranges larger than a directory, or over two ranges: claims in several tables.

use core::marker::PhantomData;

use topomem_percpu::PhysFrame;

use super::claim::{LOWEST_CLAIMED, drain, release};
use super::cursor::{Claimed, Cursor, Held, Missed, Way, try_first};
use crate::page_table::PageTable;
use crate::page_table::format::Format;
use crate::page_table::format::entry::Entry;
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::table::Table;

/// Claims in several tables, of everything touched by a range or by two ranges.
pub(super) struct Pieces {
    ranges: [Option<ClaimedRange>; 2],
}

/// A range with all entries claimed.
///
/// A claim in the middle of the range is of the highest entry covered by the range; its level need
/// not be kept. The entries at the range's ends may have been claimed at any level, if not tables
/// then.
struct ClaimedRange {
    pages: Pages,
    /// The levels of the claims of the first and the last page.
    ends: [Level; 2],
}

impl Pieces {
    /// Releases the claims. `table`, of `level`, covers them.
    #[cold]
    pub(super) fn release<F: Format, M: TableMemory>(&self, memory: &M, table: &Table, level: Level) {
        for range in self.ranges.iter().flatten() {
            range.release::<F, M>(memory, table, level, range.pages);
        }
    }
}

impl ClaimedRange {
    fn release<F: Format, M: TableMemory>(&self, memory: &M, table: &Table, level: Level, pages: Pages) {
        for part in pages.by_entry(level) {
            let entry = table.entry(level.index(part.first));
            if self.is_claimed(part, level) {
                release::<F>(entry);
            } else if let (Entry::Table(next), Some(below)) = (F::decode(entry.load(), level), level.below())
            {
                // SAFETY: entries below the table are still claimed, so the table stays linked.
                let next = unsafe { table_at(memory, next) };
                self.release::<F, M>(memory, next, below, part);
            }
        }
    }

    /// Returns whether the entry of `level` serving `part` is claimed, if no entry above is.
    fn is_claimed(&self, part: Pages, level: Level) -> bool {
        level == LOWEST_CLAIMED
            || part.fill_entries(level)
            || (part.first == self.pages.first && level == self.ends[0])
            || (part.last == self.pages.last && level == self.ends[1])
    }

    /// Returns the last page served by the claims, in the range or after it.
    fn served(&self) -> u64 {
        self.pages.last | (self.ends[1].pages() - 1)
    }
}

/// Claims made together: of a single entry, or of neighbours in a directory.
struct Piece<'a> {
    claimed: Claimed<'a>,
    /// The last page of the range served by the claims.
    last: u64,
}

impl<'a, F: Format, M: TableMemory> Cursor<'a, F, M> {
    /// Claims like [`Cursor::lock_above`], for any range and beside any other cursors.
    #[cold]
    #[inline(never)]
    pub(super) fn lock_pieces(
        page_table: &'a PageTable<F>,
        access: TableAccess<'a, M>,
        pages: Pages,
        stay: impl Fn(Level) -> bool,
    ) -> Cursor<'a, F, M> {
        match claim_range(page_table, access, pages, None) {
            (first, None) => first.into_cursor(access.memory, stay),
            (_, range) => Cursor::of_ranges(page_table, access.memory, pages, [range, None]),
        }
    }

    /// Claims the entries serving the pages of both ranges, the lower range first, and nothing in
    /// between. The cursor is in the lowest table covering both.
    pub(in crate::page_table) fn lock_both(
        page_table: &'a PageTable<F>,
        access: TableAccess<'a, M>,
        [low, high]: [Pages; 2],
    ) -> Cursor<'a, F, M> {
        let memory = access.memory;
        let hull = Pages { first: low.first, last: high.last };
        let (first, range) = claim_range(page_table, access, low, None);
        let in_one_table = range.is_none();
        let lower = range.unwrap_or(ClaimedRange { pages: low, ends: [first.level; 2] });
        // The last of these claims may serve pages of the upper range, too.
        let rest = Pages { first: high.first.max(lower.served() + 1), last: high.last };
        if rest.first <= rest.last {
            let (next, range) = claim_range(page_table, access, rest, Some(low.last));
            let higher = range.unwrap_or(ClaimedRange { pages: rest, ends: [next.level; 2] });
            return Cursor::of_ranges(page_table, memory, hull, [Some(lower), Some(higher)]);
        }
        if in_one_table {
            return first.into_cursor(memory, |_| false);
        }
        Cursor::of_ranges(page_table, memory, hull, [Some(lower), None])
    }

    fn of_ranges(
        page_table: &'a PageTable<F>,
        memory: &'a M,
        hull: Pages,
        ranges: [Option<ClaimedRange>; 2],
    ) -> Cursor<'a, F, M> {
        let (table, level) = covering_table::<F, M>(page_table.root, memory, hull);
        Cursor { memory, level, table, held: Held::Pieces(Pieces { ranges }), format: PhantomData }
    }
}

/// Claims the entries serving `pages`. Returns the first claims, of a single table, and the range
/// if more tables are needed. `newest` is the highest page claimed by the cursor before.
fn claim_range<'a, F: Format, M: TableMemory>(
    page_table: &'a PageTable<F>,
    access: TableAccess<'a, M>,
    pages: Pages,
    newest: Option<u64>,
) -> (Claimed<'a>, Option<ClaimedRange>) {
    let Piece { claimed: first, mut last } = claim_piece(page_table, access, pages, newest);
    if last == pages.last {
        return (first, None);
    }
    let mut ends = [first.level; 2];
    while last < pages.last {
        let rest = Pages { first: last + 1, last: pages.last };
        let piece = claim_piece(page_table, access, rest, Some(last));
        ends[1] = piece.claimed.level;
        last = piece.last;
    }
    (first, Some(ClaimedRange { pages, ends }))
}

/// Returns the lowest table covering `pages`, with more than one entry claimed in or below it.
fn covering_table<F: Format, M: TableMemory>(
    root: PhysFrame,
    memory: &M,
    pages: Pages,
) -> (PhysFrame, Level) {
    let (mut frame, mut level) = (root, F::ROOT);
    while pages.within_one_entry(level) {
        // SAFETY: entries below the table are claimed, so the table stays linked.
        let raw = unsafe { table_at(memory, frame) }.load(level.index(pages.first));
        let (Entry::Table(next), Some(below)) = (F::decode(raw, level), level.below()) else {
            break;
        };
        (frame, level) = (next, below);
    }
    (frame, level)
}

/// Claims the entry serving the first page of `rest`, and the neighbours in the same table.
/// `newest` is the highest page claimed by the cursor, before `rest`.
fn claim_piece<'a, F: Format, M: TableMemory>(
    page_table: &'a PageTable<F>,
    access: TableAccess<'a, M>,
    rest: Pages,
    newest: Option<u64>,
) -> Piece<'a> {
    let (memory, counters) = (access.memory, &page_table.locks);
    // The last page of `rest` under the first page's entry of `level`.
    let end = |level: Level| (rest.first | (level.pages() - 1)).min(rest.last);
    let whole = |level| Pages { last: end(level), ..rest }.fill_entries(level);
    // Claims ascend: an entry covering any of the cursor's claims covers the newest.
    let held = |level| {
        newest.is_some_and(|newest| Pages { first: newest, last: rest.first }.within_one_entry(level))
    };
    let way = |level, entry| match entry {
        Entry::Table(next) if !whole(level) => Way::Down(next),
        _ => Way::Here,
    };
    let mut wait = counters.wait();
    let mut claimed = loop {
        let walk = access.enter();
        let tried = try_first::<F, M>(page_table.root, memory, rest.first, way, held);
        drop(walk);
        match tried {
            Ok(claimed) => break claimed,
            Err(Missed::Claimed) => wait.turn(memory),
            Err(Missed::Changed | Missed::Left) => {}
        }
    };
    let level = claimed.level;
    if level == LOWEST_CLAIMED {
        let last = end(Level::GIANT);
        claimed.extend::<F, M>(memory, counters, Pages { last, ..rest });
        return Piece { claimed, last };
    }
    if let (Entry::Table(next), Some(below)) = (F::decode(claimed.found, level), level.below()) {
        // SAFETY: the claim of the table's entry keeps the table linked.
        drain::<F, M>(memory, counters, unsafe { table_at(memory, next) }, below, &mut |_, _| {});
    }
    Piece { claimed, last: end(level) }
}
