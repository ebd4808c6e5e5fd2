//! Filling a range: plan first, then change, so a failure changes nothing.

use topomem_percpu::PhysFrame;

use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf, Ownership, RawEntry, Reach, RegionId};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::format::protection::Protection;
use crate::page_table::lists::chain::{Chain, Reserve};
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::regions;
use crate::page_table::tables::table::Table;

/// The frames to map in a range.
pub(crate) trait Backing<F: Format> {
    /// Returns the highest level of a leaf starting at `page`, as far as the frames allow.
    fn level_at(&self, page: u64) -> Level;

    /// Returns whether `part` may get leaves. Without leaves, it needs no tables and is not filled.
    fn has_leaves(&self, part: Pages) -> bool {
        let _ = part;
        true
    }

    /// Calls `set` with the pages of `part` to get leaves, and with their region. A single lowest
    /// table serves `part`.
    fn for_each_region(&self, part: Pages, mut set: impl FnMut(Pages, Option<RegionId>)) {
        set(part, None);
    }

    /// Returns the region of the large leaf of `page`, or `None` without a region or without a
    /// large leaf.
    fn region_of_large(&self, page: u64) -> Option<RegionId> {
        let _ = page;
        None
    }

    /// Returns the leaf of `level` for `page`. Called once per leaf, in order of pages.
    fn take(&mut self, page: u64, level: Level) -> RawEntry;
}

/// The common attributes of all leaves of a new mapping.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    pub protection: Protection,
    pub reach: Reach,
    pub ownership: Ownership,
}

impl Attributes {
    pub(super) fn leaf<F: Format>(self, frame: PhysFrame, level: Level) -> RawEntry {
        let Attributes { protection, reach, ownership } = self;
        F::leaf(&Leaf { frame, protection, reach, ownership }, level)
    }
}

/// A physically contiguous run, mapped with the largest leaves permitted by its alignment.
pub(crate) struct Contiguous {
    pub first_page: u64,
    pub frame: PhysFrame,
    pub largest: Level,
    pub attributes: Attributes,
}

impl Contiguous {
    fn number(&self, page: u64) -> u64 {
        self.frame.start_address().as_u64() / 4096 + (page - self.first_page)
    }
}

impl<F: Format> Backing<F> for Contiguous {
    fn level_at(&self, page: u64) -> Level {
        let aligned = |level: &Level| (page | self.number(page)).is_multiple_of(level.pages());
        let mut large = [Level::GIANT, Level::HUGE].into_iter().filter(|&level| level <= self.largest);
        large.find(aligned).unwrap_or(Level::PAGE)
    }

    fn take(&mut self, page: u64, level: Level) -> RawEntry {
        self.attributes.leaf::<F>(self.frame + (page - self.first_page), level)
    }
}

/// Frames of the same size, from a sufficient chain.
pub(crate) struct Chained<'a, M: TableMemory> {
    pub memory: &'a M,
    pub level: Level,
    pub frames: &'a mut Chain,
    pub attributes: Attributes,
}

impl<F: Format, M: TableMemory> Backing<F> for Chained<'_, M> {
    fn level_at(&self, _: u64) -> Level {
        self.level
    }

    fn take(&mut self, _: u64, level: Level) -> RawEntry {
        let frame = self.frames.pop(self.memory);
        debug_assert!(frame.is_some(), "the chain is too short");
        frame.map_or(RawEntry::EMPTY, |frame| self.attributes.leaf::<F>(frame, level))
    }
}

/// The reason why a range was not mapped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FillError<E> {
    /// `page` is mapped with `leaf`, or marked to be mapped.
    Occupied { page: u64, leaf: Option<Leaf> },
    /// No frame for a table.
    Tables(E),
}

fn leaf_here<F: Format>(level: Level, part: Pages, backing: &impl Backing<F>) -> bool {
    level <= F::LARGEST_LEAF && part.fill_entries(level) && backing.level_at(part.first) >= level
}

/// Returns the number of frames `pages` needs under the table in `frame`, of `level`; `None` stands
/// for a table yet to be made. The count leaves out frames for the regions of the table's own
/// leaves, if it is a lowest table: see [`frames_for_regions`].
pub(in crate::page_table) fn plan<F: Format, M: TableMemory>(
    memory: &M,
    frame: Option<PhysFrame>,
    level: Level,
    pages: Pages,
    backing: &impl Backing<F>,
) -> Result<u64, (u64, Option<Leaf>)> {
    // SAFETY: the table is linked: the caller has claimed the entries touched by `pages`.
    let table: Option<&Table> = frame.map(|frame| unsafe { table_at(memory, frame) });
    if level == Level::PAGE {
        return table.map_or(Ok(0), |table| check_vacant::<F>(table, pages).map(|()| 0));
    }
    let mut missing = 0;
    let mut large_regions = false;
    for part in pages.by_entry(level) {
        if leaf_here::<F>(level, part, backing) {
            large_regions |= backing.region_of_large(part.first).is_some();
        }
        let raw = table.map_or(RawEntry::EMPTY, |table| table.load(level.index(part.first)));
        match (F::decode(raw, level), level.below()) {
            (Entry::Leaf(leaf), _) => return Err((part.first, Some(leaf))),
            (Entry::Mark(_), _) => return Err((part.first, None)),
            (Entry::Empty, Some(below))
                if !leaf_here::<F>(level, part, backing) && backing.has_leaves(part) =>
            {
                missing += 1 + plan::<F, M>(memory, None, below, part, backing)?;
                missing += frames_for_regions::<F, M>(memory, None, below, part, backing);
            }
            (Entry::Table(next), Some(below)) => {
                let needed = plan::<F, M>(memory, Some(next), below, part, backing)?
                    + frames_for_regions::<F, M>(memory, Some(next), below, part, backing);
                // A leaf replaces an empty table.
                missing += if leaf_here::<F>(level, part, backing) { 0 } else { needed };
            }
            _ => {}
        }
    }
    let keeps_regions = || frame.is_some_and(|frame| regions::has_frame(memory, frame));
    Ok(missing + u64::from(large_regions && !keeps_regions()))
}

/// Returns the error of [`plan`] if any of `pages`, which the lowest table `table` serves, is in use.
fn check_vacant<F: Format>(table: &Table, pages: Pages) -> Result<(), (u64, Option<Leaf>)> {
    for (page, index) in (pages.first..).zip(pages.indexes(Level::PAGE)) {
        let raw = table.load(index);
        // Most are empty: only others are decoded.
        if raw == RawEntry::EMPTY {
            continue;
        }
        match F::decode(raw, Level::PAGE) {
            Entry::Leaf(leaf) => return Err((page, Some(leaf))),
            Entry::Mark(_) => return Err((page, None)),
            Entry::Empty | Entry::Table(_) => {}
        }
    }
    Ok(())
}

/// Returns the number of frames needed to keep the regions of the leaves `pages` will have in the
/// table in `table`, of `level`; `None` stands for a table yet to be made.
pub(in crate::page_table) fn frames_for_regions<F: Format, M: TableMemory>(
    memory: &M,
    table: Option<PhysFrame>,
    level: Level,
    pages: Pages,
    backing: &impl Backing<F>,
) -> u64 {
    if level > Level::PAGE {
        return 0;
    }
    let mut regions = None;
    let mut differ = false;
    backing.for_each_region(pages, |_, region| {
        differ |= *regions.get_or_insert(region) != region;
    });
    let needs_frame =
        |table, region| regions::needs_frame::<F, M>(memory, table, level, pages.indexes(level), region);
    let needed = match (regions, table) {
        (Some(region), Some(table)) => {
            needs_frame(table, region) || differ && !regions::has_frame(memory, table)
        }
        _ => differ,
    };
    needed.into()
}

impl<F: Format> PageTable<F> {
    /// Maps `pages`, or changes nothing. Calls `record` with the tables replaced by leaves, before
    /// another cursor can change the pages. The caller has to retire the tables before relying on
    /// the mapping.
    pub(crate) fn fill<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        pages: Pages,
        backing: &mut impl Backing<F>,
        record: impl FnOnce(Chain) -> T,
    ) -> Result<T, FillError<M::Error>> {
        let memory = access.memory;
        loop {
            // A leaf replaces a table.
            let stay = |level| leaf_here::<F>(level, pages, backing);
            let cursor = Cursor::<F, M>::lock_above(self, access, pages, stay);
            let planned = plan::<F, M>(memory, Some(cursor.frame()), cursor.level, pages, backing);
            let missing = planned.map_err(|(page, leaf)| FillError::Occupied { page, leaf })?
                + frames_for_regions::<F, M>(memory, Some(cursor.frame()), cursor.level, pages, backing);
            if missing > reserve.len() {
                // Allocation happens with nothing claimed: the allocator may wait, or be slow.
                drop(cursor);
                reserve.fill_to(missing).map_err(FillError::Tables)?;
                continue;
            }
            let mut filler = Filler { memory, reserve, backing, replaced: Chain::EMPTY };
            filler.fill::<F>(cursor.frame(), cursor.level, pages);
            return Ok(record(filler.replaced));
        }
    }
}

pub(in crate::page_table) struct Filler<'a, 'r, M: TableMemory, B> {
    pub memory: &'a M,
    pub reserve: &'a mut Reserve<'r, M>,
    pub backing: &'a mut B,
    /// Empty tables replaced by leaves.
    pub replaced: Chain,
}

impl<M: TableMemory, B> Filler<'_, '_, M, B> {
    /// Fills entries found vacant by [`plan`] in the table in `frame`, from a reserve found
    /// sufficient.
    pub(crate) fn fill<F: Format>(&mut self, frame: PhysFrame, level: Level, pages: Pages)
    where
        B: Backing<F>,
    {
        if level == Level::PAGE {
            self.backing.for_each_region(pages, |pages, region| {
                let indexes = pages.indexes(level);
                regions::set::<F, M>(self.memory, self.reserve, frame, level, indexes, region);
            });
        }
        // SAFETY: the table is linked below the cursor's claims, or owned by the caller.
        let table = unsafe { table_at(self.memory, frame) };
        for part in pages.by_entry(level) {
            if level > Level::PAGE && !self.backing.has_leaves(part) {
                continue;
            }
            let index = level.index(part.first);
            let Some(below) = level.below().filter(|_| !leaf_here::<F>(level, part, self.backing)) else {
                if level > Level::PAGE {
                    let region = self.backing.region_of_large(part.first);
                    regions::set::<F, M>(self.memory, self.reserve, frame, level, index..=index, region);
                }
                let leaf = self.backing.take(part.first, level);
                // No other context changes the entry: an empty entry, or a table without leaves.
                let old = table.entry(index).replace::<F>(level, leaf);
                if let (Entry::Table(frame), Some(below)) = (F::decode(old, level), level.below()) {
                    unlink::<F, M>(self.memory, frame, below, &mut self.replaced);
                }
                continue;
            };
            match F::decode(table.load(index), level) {
                Entry::Table(next) => {
                    self.fill::<F>(next, below, part);
                }
                _ => {
                    let Some(frame) = self.reserve.take() else {
                        debug_assert!(false, "the plan counted too few tables");
                        return;
                    };
                    self.fill::<F>(frame, below, part);
                    table.entry(index).replace::<F>(level, F::table(frame));
                }
            }
        }
    }
}

/// Chains the unlinked table `frame` of `level`, and every table under it.
pub(in crate::page_table) fn unlink<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    unlinked: &mut Chain,
) {
    if let Some(below) = level.below() {
        // SAFETY: the caller has unlinked the table and not freed it.
        let table = unsafe { table_at(memory, frame) };
        for index in 0..crate::page_table::format::level::ENTRIES {
            if let Entry::Table(next) = F::decode(table.load(index), level) {
                unlink::<F, M>(memory, next, below, unlinked);
            }
        }
    }
    regions::retire_table(memory, frame, unlinked);
}
