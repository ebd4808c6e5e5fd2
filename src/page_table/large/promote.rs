//! Large leaves in place of small leaves with the same translations.
//!
//! # Accessed and dirty bits
//!
//! Until a CPU has flushed for the promotion, its page walker may find an old leaf, through a
//! cached way to the old table or through a clean cached translation, and mark the old leaf, which
//! is not read any more. A large leaf combined from the old leaves at any moment would lose later
//! marks. The large leaf therefore has in advance all marks a CPU may still set: accessed, and
//! dirty if it is writable or an old leaf was dirty. No written page is ever taken for clean. At
//! worst, a writable range without dirty pages is taken for dirty.
//!
//! # Order
//!
//! The old leaves' translations stay right, since they agree with the large leaf. They are cached
//! under their own pages, however: a later change of the large leaf must not name a single large
//! page to the TLBs before they have dropped the small pages. The promotion is therefore announced
//! while its claim is held: a later change has a later generation.

use topomem_percpu::PhysFrame;

use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::entry::{Entry, Leaf, Ownership, RawEntry, RegionId};
use crate::page_table::format::level::{ENTRIES, Level, Pages};
use crate::page_table::format::{Format, Sizes};
use crate::page_table::lists::chain::Reserve;
use crate::page_table::mapping::changed::Changed;
use crate::page_table::mapping::map::unlink;
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::regions;
use crate::page_table::tables::table::Table;

/// The reason why a range was not promoted; nothing has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unpromoted<E> {
    /// No large leaf can replace the small leaves.
    Unfit(Unfit),
    /// No frame for the regions of large leaves.
    Tables(E),
}

/// The reason why no large leaf can replace the small leaves of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Nothing is mapped at `page`.
    Vacant { page: u64 },
    /// `page`, the first of a large page, is mapped to a frame not aligned for a large leaf.
    Misaligned { page: u64, frame: PhysFrame },
    /// `page` is mapped to a frame not following its predecessor's.
    Scattered { page: u64, frame: PhysFrame },
    /// `page` has another protection, owner or region than the pages before.
    Differs { page: u64 },
    /// `page` shares its frame, and holders are counted by 4 KiB or 2 MiB leaf.
    Shared { page: u64 },
    /// TLBs must not hold `page` in two sizes.
    OneSize { page: u64 },
}

/// A check of consecutive leaves: whether a large leaf could replace them.
struct Survey {
    /// The size of the large leaf.
    level: Level,
    /// The last page's leaf, the number of the following frame, and the large leaf with all marks
    /// seen so far; `None` before the first page. A number, since no frame follows the last frame.
    found: Option<(Leaf, u64, RawEntry)>,
    /// The first leaf's region.
    region: Option<RegionId>,
}

impl Survey {
    /// Checks the leaves under the table in `frame`, of `level`, whose first page is `page`.
    fn table<F: Format, M: TableMemory>(
        &mut self,
        memory: &M,
        frame: PhysFrame,
        level: Level,
        page: u64,
    ) -> Result<(), Unfit> {
        // SAFETY: the table is linked under an entry claimed by the caller.
        let table = unsafe { table_at(memory, frame) };
        for index in 0..ENTRIES {
            let page = page + index as u64 * level.pages();
            let raw = table.load(index);
            match (F::decode(raw, level), level.below()) {
                (Entry::Leaf(leaf), _) => {
                    let region = regions::region_of(memory, frame, index);
                    self.leaf::<F>(leaf, region, raw, level, page)?;
                }
                (Entry::Table(next), Some(below)) => self.table::<F, M>(memory, next, below, page)?,
                _ => return Err(Unfit::Vacant { page }),
            }
        }
        Ok(())
    }

    fn leaf<F: Format>(
        &mut self,
        leaf: Leaf,
        region: Option<RegionId>,
        raw: RawEntry,
        level: Level,
        page: u64,
    ) -> Result<(), Unfit> {
        if leaf.ownership == Ownership::Shared {
            return Err(Unfit::Shared { page });
        }
        let number = leaf.frame.start_address().as_u64() / 4096;
        let large = match self.found {
            None => {
                if !number.is_multiple_of(self.level.pages()) {
                    return Err(Unfit::Misaligned { page, frame: leaf.frame });
                }
                if F::sizes(&leaf) == Sizes::One {
                    return Err(Unfit::OneSize { page });
                }
                self.region = region;
                F::leaf(&leaf, self.level)
            }
            Some((last, next, large)) => {
                if number != next {
                    return Err(Unfit::Scattered { page, frame: leaf.frame });
                }
                if leaf != (Leaf { frame: leaf.frame, ..last }) || region != self.region {
                    return Err(Unfit::Differs { page });
                }
                large
            }
        };
        self.found = Some((leaf, number + level.pages(), F::merge_marks(large, raw)));
        Ok(())
    }
}

/// Returns the large leaf of `level` for the leaves under the table in `frame`, whose first page is
/// `page`, and its region.
fn large_leaf<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    page: u64,
) -> Result<(RawEntry, Option<RegionId>), Unfit> {
    let mut survey = Survey { level, found: None, region: None };
    let below = level.below().unwrap_or(Level::PAGE);
    survey.table::<F, M>(memory, frame, below, page)?;
    let (.., large) = survey.found.ok_or(Unfit::Vacant { page })?;
    Ok((F::mark_ahead(large), survey.region))
}

/// Joins the owned frames of 4 KiB leaves under `table`, of `level`, into runs. The frames start at
/// `frame`.
fn join_runs<F: Format, M: TableMemory>(memory: &M, table: &Table, level: Level, frame: PhysFrame) {
    if level == Level::PAGE {
        return memory.join_run(frame);
    }
    let Some(below) = level.below() else { return };
    for index in 0..ENTRIES {
        if let Entry::Table(next) = F::decode(table.load(index), level) {
            // SAFETY: the table is linked under an entry claimed by the caller.
            let next = unsafe { table_at(memory, next) };
            join_runs::<F, M>(memory, next, below, frame + index as u64 * level.pages());
        }
    }
}

struct Promoter<'a, M: TableMemory> {
    memory: &'a M,
    /// The level of the large leaves.
    level: Level,
    changed: Changed,
}

impl<M: TableMemory> Promoter<'_, M> {
    /// Checks whether large leaves can replace the small leaves of `pages` under the table in
    /// `frame`, of `level`. Returns the number of frames needed for their regions.
    fn check<F: Format>(&self, frame: PhysFrame, level: Level, pages: Pages) -> Result<u64, Unfit> {
        // SAFETY: the table is the cursor's, or linked below the cursor's.
        let table = unsafe { table_at(self.memory, frame) };
        let mut needed = 0;
        let mut regions = false;
        for part in pages.by_entry(level) {
            match (F::decode(table.load(level.index(part.first)), level), level.below()) {
                // Large enough already.
                (Entry::Leaf(_), _) => {}
                (Entry::Table(next), Some(below)) if level > self.level => {
                    needed += self.check::<F>(next, below, part)?;
                }
                (Entry::Table(next), Some(_)) => {
                    let (_, region) = large_leaf::<F, M>(self.memory, next, level, part.first)?;
                    regions |= region.is_some();
                }
                _ => return Err(Unfit::Vacant { page: part.first }),
            }
        }
        Ok(needed + u64::from(regions && !regions::has_frame(self.memory, frame)))
    }

    /// Makes the checked change, with the frames of a sufficient reserve.
    fn apply<F: Format>(
        &mut self,
        reserve: &mut Reserve<'_, M>,
        frame: PhysFrame,
        level: Level,
        pages: Pages,
    ) -> Result<(), Unfit> {
        // SAFETY: the table is the cursor's, or linked below the cursor's.
        let table = unsafe { table_at(self.memory, frame) };
        for part in pages.by_entry(level) {
            let index = level.index(part.first);
            let (Entry::Table(next), Some(below)) = (F::decode(table.load(index), level), level.below())
            else {
                continue;
            };
            if level > self.level {
                self.apply::<F>(reserve, next, below, part)?;
                continue;
            }
            let (large, region) = large_leaf::<F, M>(self.memory, next, level, part.first)?;
            regions::set::<F, M>(self.memory, reserve, frame, level, index..=index, region);
            table.entry(index).replace::<F>(level, large);
            // SAFETY: the table was linked under an entry claimed by the cursor, and is not freed
            // yet.
            let lower = unsafe { table_at(self.memory, next) };
            self.retire::<F>(large, lower, next, part);
        }
        Ok(())
    }

    /// Retires the table `lower`, in the frame `unlinked`, replaced by `large`.
    fn retire<F: Format>(&mut self, large: RawEntry, lower: &Table, unlinked: PhysFrame, part: Pages) {
        let Some(below) = self.level.below() else { return };
        if let Entry::Leaf(leaf) = F::decode(large, self.level)
            && leaf.ownership == Ownership::Owned
        {
            join_runs::<F, M>(self.memory, lower, below, leaf.frame);
        }
        unlink::<F, M>(self.memory, unlinked, below, &mut self.changed.retired.tables);
        // The translations are cached under the old sizes.
        self.changed.note_leaves(part, Level::PAGE, part.count());
    }
}

impl<F: Format> PageTable<F> {
    /// Replaces the smaller leaves in `pages` by leaves of `level`, and calls `record` with the
    /// stale translations before another cursor can change them; or changes nothing. `pages` are
    /// whole pages of `level`.
    pub(crate) fn promote<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        pages: Pages,
        level: Level,
        record: impl FnOnce(Changed) -> T,
    ) -> Result<T, Unpromoted<M::Error>> {
        loop {
            let cursor = Cursor::<F, M>::lock_entry(self, access, pages, level);
            let mut promoter = Promoter { memory: access.memory, level, changed: Changed::NOTHING };
            let needed = promoter.check::<F>(cursor.frame(), cursor.level, pages);
            let needed = needed.map_err(Unpromoted::Unfit)?;
            if needed > reserve.len() {
                drop(cursor);
                reserve.fill_to(needed).map_err(Unpromoted::Tables)?;
                continue;
            }
            let applied = promoter.apply::<F>(reserve, cursor.frame(), cursor.level, pages);
            applied.map_err(Unpromoted::Unfit)?;
            return Ok(record(promoter.changed));
        }
    }
}
