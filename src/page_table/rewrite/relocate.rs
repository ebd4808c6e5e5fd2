//! Moving the mappings of a range to another range.

use topomem_percpu::PhysFrame;

use super::{Found, found};
use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, RawEntry, RecordNumber, RegionId};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::lists::chain::{Chain, Reserve};
use crate::page_table::mapping::change::cut;
use crate::page_table::mapping::changed::Changed;
use crate::page_table::mapping::map::{Backing, Filler, frames_for_regions, plan};
use crate::page_table::mapping::split::cuts_needed;
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::regions;
use crate::page_table::tables::table::Table;

/// The reason why a range was not moved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RelocateError<E> {
    /// `page` of the new place is mapped.
    Occupied {
        /// The first mapped page.
        page: u64,
    },
    /// A large leaf does not fit the alignment of the new place.
    WouldSplit(Level),
    /// A page of the old place belongs to an unexpected region.
    Changed,
    /// No frame for a table.
    Tables(E),
}

/// Returns whether pages at the old place of a move may belong to a region.
pub(crate) type Expects<'a> = &'a dyn Fn(RegionId) -> bool;

/// Returns the new region of pages at the old place of a move, or `None` for no region. The
/// arguments are their former region and their number. Called once for each entry, with both places
/// claimed.
pub(crate) type Left<'a> = &'a mut dyn FnMut(RegionId, u64) -> Option<RegionId>;

/// The regions of moved pages.
#[derive(Default)]
pub(crate) struct MovedRegions<'a> {
    /// The new region of the old place; `None` for no region.
    pub left: Option<Left<'a>>,
    /// A record, and its replacement for pages at the new place.
    pub renumbered: Option<(RecordNumber, RecordNumber)>,
    /// The regions allowed for all pages, checked with both places claimed; `None` for any region.
    pub expects: Option<Expects<'a>>,
}

impl MovedRegions<'_> {
    /// Borrows the same answers again.
    pub(crate) fn again(&mut self) -> MovedRegions<'_> {
        let left = self.left.as_mut().map(|left| &mut **left as Left<'_>);
        MovedRegions { left, ..*self }
    }
}

/// The entry left in place of a moved leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trace {
    Nothing,
    /// A mark of the leaf's region.
    Mark,
}

/// The leaves and marks of another range of the same claimed tables.
struct Moved<'a, M: TableMemory> {
    memory: &'a M,
    table: PhysFrame,
    level: Level,
    /// The distance to add to a page of the new place for the old page.
    back: u64,
    trace: Trace,
    renumbered: Option<(RecordNumber, RecordNumber)>,
}

/// The position of an entry.
struct Location {
    table: PhysFrame,
    index: usize,
    level: Level,
}

impl<M: TableMemory> Moved<'_, M> {
    /// Returns the table in `frame`.
    fn at(&self, frame: PhysFrame) -> &Table {
        // SAFETY: the table is linked: the cursor has claimed both places.
        unsafe { table_at(self.memory, frame) }
    }

    /// Returns the position and the contents of the entry serving the old place of `page`.
    fn find<F: Format>(&self, page: u64) -> (Location, Entry) {
        let page = page.wrapping_add(self.back);
        let (mut table, mut level) = (self.table, self.level);
        loop {
            let index = level.index(page);
            match (F::decode(self.at(table).load(index), level), level.below()) {
                (Entry::Table(next), Some(below)) => (table, level) = (next, below),
                (entry, _) => return (Location { table, index, level }, entry),
            }
        }
    }

    /// Returns the region at the new place for pages of `region`.
    fn region(&self, region: RegionId) -> RegionId {
        match self.renumbered {
            Some((old, new)) if region.record() == Some(old) => region.with_record(new),
            _ => region,
        }
    }

    /// Returns the highest level, up to `level`, for a moved mark.
    fn level_of_marks(&self, mut level: Level) -> Level {
        while let Some(below) = level.below().filter(|_| !self.back.is_multiple_of(level.pages())) {
            level = below;
        }
        level
    }
}

impl<F: Format, M: TableMemory> Backing<F> for Moved<'_, M> {
    fn level_at(&self, page: u64) -> Level {
        match self.find::<F>(page) {
            (place, Entry::Leaf(_)) => place.level,
            (place, Entry::Mark(_)) => self.level_of_marks(place.level),
            _ => Level::PAGE,
        }
    }

    fn has_leaves(&self, part: Pages) -> bool {
        let [first, last] = [part.first, part.last].map(|page| page.wrapping_add(self.back));
        has_entries::<F, M>(self.memory, self.at(self.table), self.level, Pages { first, last })
    }

    fn for_each_region(&self, part: Pages, mut set: impl FnMut(Pages, Option<RegionId>)) {
        for page in part.first..=part.last {
            if let (place, Entry::Leaf(_)) = self.find::<F>(page) {
                let region = regions::region_of(self.memory, place.table, place.index);
                let region = region.map(|region| self.region(region));
                set(Pages { first: page, last: page }, region);
            }
        }
    }

    fn region_of_large(&self, page: u64) -> Option<RegionId> {
        match self.find::<F>(page) {
            (Location { table, index, level }, Entry::Leaf(_)) if level > Level::PAGE => {
                regions::region_of(self.memory, table, index).map(|region| self.region(region))
            }
            _ => None,
        }
    }

    fn take(&mut self, page: u64, _: Level) -> RawEntry {
        let (Location { table, index, level }, found) = self.find::<F>(page);
        let entry = self.at(table).entry(index);
        match found {
            // A mark may serve several pages of the new place, and is removed afterwards.
            Entry::Mark(region) => F::mark(self.region(region)),
            _ => {
                let region = regions::region_of(self.memory, table, index);
                let mark = region.filter(|_| self.trace == Trace::Mark).map_or(RawEntry::EMPTY, F::mark);
                entry.replace::<F>(level, mark)
            }
        }
    }
}

/// Returns whether anything is mapped, or to be mapped, in `pages`.
fn has_entries<F: Format, M: TableMemory>(memory: &M, table: &Table, level: Level, pages: Pages) -> bool {
    pages.by_entry(level).any(|part| {
        match (F::decode(table.load(level.index(part.first)), level), level.below()) {
            (Entry::Leaf(_) | Entry::Mark(_), _) => true,
            (Entry::Table(next), Some(below)) => {
                // SAFETY: the table is linked: the caller has claimed the entries touched by
                // `pages`.
                has_entries::<F, M>(memory, unsafe { table_at(memory, next) }, below, part)
            }
            _ => false,
        }
    })
}

/// Replaces the marks in `pages` of the table in `frame`, of `level`, by marks of the regions left,
/// or removes them. No entry reaches beyond `pages`.
fn replace_marks<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    left: &mut Option<Left<'_>>,
) {
    // SAFETY: the table is linked: the caller has claimed the entries touched by `pages`.
    let table = unsafe { table_at(memory, frame) };
    for part in pages.by_entry(level) {
        let entry = table.entry(level.index(part.first));
        match (F::decode(entry.load(), level), level.below()) {
            (Entry::Mark(region), _) => {
                let mark = left.as_mut().and_then(|left| left(region, part.count())).map(F::mark);
                entry.replace::<F>(level, mark.unwrap_or(RawEntry::EMPTY));
            }
            (Entry::Table(next), Some(below)) => replace_marks::<F, M>(memory, next, below, part, left),
            _ => {}
        }
    }
}

/// Returns whether all of `pages`, under the table in `frame`, of `level`, belong to expected
/// regions.
fn all_are<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    expects: Expects<'_>,
) -> bool {
    // SAFETY: the table is linked: the caller has claimed the entries touched by `pages`.
    let table = unsafe { table_at(memory, frame) };
    pages.by_entry(level).all(|part| {
        let index = level.index(part.first);
        let raw = table.load(index);
        match (found::<F, M>(memory, frame, index, raw, level), F::decode(raw, level), level.below()) {
            (Some(Found::Reserved(region) | Found::Mapped(_, Some(region))), _, _) => expects(region),
            (None, Entry::Table(next), Some(below)) => all_are::<F, M>(memory, next, below, part, expects),
            _ => false,
        }
    })
}

/// Returns the level of the largest leaf in `pages`.
fn largest_leaf<F: Format, M: TableMemory>(memory: &M, table: &Table, level: Level, pages: Pages) -> Level {
    let of_part = |part: Pages| match (F::decode(table.load(level.index(part.first)), level), level.below()) {
        (Entry::Leaf(_), _) => level,
        (Entry::Table(next), Some(below)) => {
            // SAFETY: the table is linked: the caller has claimed the entries touched by `pages`.
            largest_leaf::<F, M>(memory, unsafe { table_at(memory, next) }, below, part)
        }
        _ => Level::PAGE,
    };
    pages.by_entry(level).map(of_part).max().unwrap_or(Level::PAGE)
}

impl<F: Format> PageTable<F> {
    /// Moves the mappings in `from` to the pages from `to` on, without overlap, or changes no
    /// translation. Calls `record` with the stale translations before another cursor can change the
    /// old or the new place. `transfer` decides on regions.
    pub(crate) fn relocate<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        from: Pages,
        to: Pages,
        transfer: MovedRegions<'_>,
        record: impl FnOnce(Changed) -> T,
    ) -> Result<T, RelocateError<M::Error>> {
        let MovedRegions { mut left, renumbered, expects } = transfer;
        let trace = if left.is_some() { Trace::Mark } else { Trace::Nothing };
        let ranges = if from.first < to.first { [from, to] } else { [to, from] };
        let memory = access.memory;
        loop {
            let mut cursor = Cursor::<F, M>::lock_both(self, access, ranges);
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
            if expects.is_some_and(|expects| !all_are::<F, M>(memory, cursor.frame(), level, from, expects)) {
                return Err(RelocateError::Changed);
            }
            let back = from.first.wrapping_sub(to.first);
            let mut moved = Moved { memory, table: cursor.frame(), level, back, trace, renumbered };
            let missing = plan::<F, M>(memory, Some(cursor.frame()), level, to, &moved);
            let missing = missing.map_err(|(page, _)| RelocateError::Occupied { page })?
                + frames_for_regions::<F, M>(memory, Some(cursor.frame()), level, to, &moved);
            if missing > reserve.len() {
                drop(cursor);
                reserve.fill_to(missing).map_err(RelocateError::Tables)?;
                continue;
            }
            if self.has_records() {
                // `left` may take pages from records.
                cursor.in_walk(access.enter());
            }
            let mut filler = Filler { memory, reserve, backing: &mut moved, replaced: Chain::EMPTY };
            filler.fill::<F>(cursor.frame(), level, to);
            let replaced = filler.replaced;
            replace_marks::<F, M>(memory, cursor.frame(), level, from, &mut left);
            return Ok(record(Changed::moved(from, replaced)));
        }
    }
}
