//! Changing the regions and protections of a range's pages, entry by entry.

pub(super) mod leaves;
pub(super) mod relocate;

use topomem_percpu::PhysFrame;

use self::leaves::{Age, Leaves, Run};
use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf, RawEntry, RegionId};
use crate::page_table::format::level::{ENTRIES, Level, Pages};
use crate::page_table::format::protection::Protection;
use crate::page_table::lists::chain::Reserve;
use crate::page_table::mapping::changed::Changed;
use crate::page_table::mapping::edit::{replace, reprotect};
use crate::page_table::mapping::map::unlink;
use crate::page_table::mapping::share::shares_in;
use crate::page_table::mapping::split::{cuts, regions_frames, split};
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::regions;
use crate::page_table::tables::table::TableEntry;

/// The common state of the pages under an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Without a region, and not mapped.
    Vacant,
    /// Marked with a region, and not mapped yet.
    Reserved(RegionId),
    /// Mapped, to the frames from the leaf's on.
    Mapped(Leaf, Option<RegionId>),
}

impl Found {
    /// Returns the region of the pages.
    // Always inlined, here and below: a part of the loop over a table's pages.
    #[inline(always)]
    pub(crate) fn region(&self) -> Option<RegionId> {
        match *self {
            Found::Vacant => None,
            Found::Reserved(region) => Some(region),
            Found::Mapped(_, region) => region,
        }
    }

    /// Returns the change giving the pages to `region`. Mapped pages stay mapped, with the
    /// protection returned by `protection` for their leaf.
    #[inline(always)]
    pub(crate) fn given_to(&self, region: RegionId, protection: impl FnOnce(&Leaf) -> Protection) -> Becomes {
        match self {
            Found::Mapped(leaf, _) => Becomes::Mapped(protection(leaf), region),
            Found::Vacant | Found::Reserved(_) => Becomes::Reserved(region),
        }
    }
}

/// The new state of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Becomes {
    /// The pages stay unchanged.
    Same,
    /// The pages become or stay unmapped; their frames go.
    Reserved(RegionId),
    /// The pages stay mapped to the same frames, with this protection.
    Mapped(Protection, RegionId),
}

/// A change of a range's pages.
pub(crate) trait Rewrite {
    /// The reason why the change ends, or is refused.
    type Stop;
    /// Whether [`Rewrite::check`] looks at all pages before the first change, and may refuse them.
    const CHECKS: bool;
    /// Whether pages may be unmapped.
    const UNMAPS: bool;
    /// Whether all mapped pages with equal states, apart from their frames, get the same new state.
    const ALIKE: bool = false;
    /// Whether [`Rewrite::joins`] may return true.
    const JOINS: bool = false;
    /// Whether records may lose pages.
    const RECORDS: bool = false;

    /// Returns whether leaves may get another region.
    fn gives_regions(&self) -> bool;

    /// Returns whether the change concerns `pages`, of the same entry or with equal states `found`.
    fn check(&self, found: Found, pages: Pages) -> Result<bool, Self::Stop>;

    /// Returns whether to replace a table filled with marks of `region` by a single mark.
    fn joins(&self, region: RegionId) -> bool {
        let _ = region;
        false
    }

    /// Decides on the new state of `pages`, accepted by [`Rewrite::check`], in ascending order.
    /// Pages before the end of the change are changed.
    fn rewrite(&mut self, found: Found, pages: Pages) -> Result<Becomes, Self::Stop>;
}

/// A change made, to its end or in part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rewritten<T, S> {
    /// The result of `record`, called with the entries still claimed.
    pub recorded: T,
    /// The reason why the change ended before the end of its range, if it did.
    pub end: Result<(), S>,
}

/// The outcome of a rewrite by `R`.
pub(crate) type Outcome<T, R, E> =
    Result<Rewritten<T, <R as Rewrite>::Stop>, RewriteError<<R as Rewrite>::Stop, E>>;

/// The reason why nothing was changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RewriteError<S, E> {
    /// The change was refused.
    Refused(S),
    /// No frame for a table, for regions of leaves, or for a list of shares.
    Tables(E),
}

/// Returns the state of the entry `raw` at `index` of the table in `table`, of `level`, or `None`
/// for a table.
#[inline]
pub(super) fn found<F: Format, M: TableMemory>(
    memory: &M,
    table: PhysFrame,
    index: usize,
    raw: RawEntry,
    level: Level,
) -> Option<Found> {
    Some(match F::decode(raw, level) {
        Entry::Empty => Found::Vacant,
        Entry::Mark(region) => Found::Reserved(region),
        Entry::Leaf(leaf) => Found::Mapped(leaf, regions::region_of(memory, table, index)),
        Entry::Table(_) => return None,
    })
}

/// Returns the number of tables needed by `rewrite` for `pages` under the table in `frame`, of
/// `level`, to cut the entries at the ends. Looks only at the ends, unless the change may be
/// refused.
fn plan<F: Format, M: TableMemory, R: Rewrite>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    rewrite: &R,
) -> Result<u64, R::Stop> {
    if level == Level::PAGE {
        // No entry is smaller.
        return if R::CHECKS {
            Leaves::new(memory, frame, pages).check::<F, R>(rewrite).map(|()| 0)
        } else {
            Ok(0)
        };
    }
    // SAFETY: the cursor keeps the table linked.
    let table = unsafe { table_at(memory, frame) };
    let of_part = |part: Pages| {
        let index = level.index(part.first);
        let raw = table.load(index);
        if let (Entry::Table(next), Some(below)) = (F::decode(raw, level), level.below()) {
            return plan::<F, M, R>(memory, next, below, part, rewrite);
        }
        match found::<F, M>(memory, frame, index, raw, level) {
            Some(found) if rewrite.check(found, part)? => Ok(match found {
                Found::Mapped(_, Some(_)) if !part.fill_entries(level) => {
                    cuts(level, part) + regions_frames(level)
                }
                _ => cuts(level, part),
            }),
            _ => Ok(0),
        }
    };
    if R::CHECKS {
        pages.by_entry(level).map(of_part).sum()
    } else {
        pages.ends(level).filter(|part| !part.fill_entries(level)).map(of_part).sum()
    }
}

struct Rewriter<'a, 'r, M: TableMemory, R> {
    memory: &'a M,
    reserve: &'a mut Reserve<'r, M>,
    rewrite: &'a mut R,
    changed: &'a mut Changed,
}

impl<M: TableMemory, R: Rewrite> Rewriter<'_, '_, M, R> {
    fn apply<F: Format>(
        &mut self,
        frame: PhysFrame,
        level: Level,
        pages: Pages,
        age: Age,
    ) -> Result<(), R::Stop> {
        let Some(below) = level.below() else {
            return self.apply_to_leaves::<F>(Leaves::new(self.memory, frame, pages), frame, age);
        };
        // SAFETY: the cursor keeps the table linked.
        let table = unsafe { table_at(self.memory, frame) };
        for part in pages.by_entry(level) {
            let index = level.index(part.first);
            let raw = table.load(index);
            let Some(found) = found::<F, M>(self.memory, frame, index, raw, level) else {
                if let Entry::Table(next) = F::decode(raw, level) {
                    self.apply::<F>(next, below, part, Age::Old)?;
                    if R::JOINS && part.fill_entries(level) {
                        self.join::<F>(table.entry(index), next, level, part);
                    }
                }
                continue;
            };
            if !part.fill_entries(level) {
                if !self.rewrite.check(found, part)? {
                    // The entry stays unchanged, but the change may end here.
                    self.rewrite.rewrite(found, part)?;
                    continue;
                }
                let Some(next) = split::<F, M>(self.memory, self.reserve, frame, index, level) else {
                    debug_assert!(false, "the plan counted too few tables");
                    continue;
                };
                let age = if found == Found::Vacant { Age::New } else { Age::Old };
                self.apply::<F>(next, below, part, age)?;
                continue;
            }
            match self.rewrite.rewrite(found, part)? {
                Becomes::Same => {}
                Becomes::Reserved(region) => {
                    let (entry, mark) = (table.entry(index), F::mark(region));
                    if replace::<F, M>(self.memory, &mut self.changed.retired, entry, level, mark) {
                        self.changed.note_leaves(part, level, part.count());
                    }
                }
                Becomes::Mapped(protection, region) => {
                    let at = index..=index;
                    regions::set::<F, M>(self.memory, self.reserve, frame, level, at, Some(region));
                    if let Some((old, new)) = reprotect::<F>(table.entry(index), raw, level, protection)
                        && F::narrows(old, new)
                    {
                        self.changed.note_leaves(part, level, 0);
                    }
                }
            }
        }
        Ok(())
    }

    /// Replaces the table `next`, below `entry` of `level`, by a single mark, if all its entries
    /// are marks of the same region and the rewrite agrees.
    fn join<F: Format>(&mut self, entry: &TableEntry, next: PhysFrame, level: Level, part: Pages) {
        // SAFETY: the cursor keeps the table linked.
        let table = unsafe { table_at(self.memory, next) };
        let first = table.load(0).unclaimed::<F>();
        let Some(below) = level.below() else { return };
        let Entry::Mark(region) = F::decode(first, below) else { return };
        if self.rewrite.joins(region) && (1..ENTRIES).all(|index| table.load(index) == first) {
            entry.replace::<F>(level, first);
            self.changed.note_table(part);
            unlink::<F, M>(self.memory, next, below, &mut self.changed.retired.tables);
        }
    }

    /// Changes pages of the lowest table in `frame`.
    fn apply_to_leaves<F: Format>(
        &mut self,
        leaves: Leaves<'_, M>,
        frame: PhysFrame,
        age: Age,
    ) -> Result<(), R::Stop> {
        let Rewriter { memory, reserve, rewrite, changed } = self;
        leaves.apply::<F, R>(rewrite, changed, age, |Run { first, last, region }| {
            regions::set::<F, M>(memory, reserve, frame, Level::PAGE, first..=last, Some(region));
        })
    }
}

/// Greatest number of tables whose leaves get different regions by a single change: the tables at
/// the ends of the range, and the table with the end of the change.
const MOST_DIVIDED: u64 = 3;

impl<F: Format> PageTable<F> {
    /// Changes `pages` as decided by `rewrite`, and adds the stale translations to `changed`. Calls
    /// `record` with `changed` before another cursor can change the same entries. Returns the
    /// result of `record`, and the end of the change.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`RewriteError::Refused`] with the error of [`Rewrite::check`].
    /// - [`RewriteError::Tables`] if no frame is left.
    pub(crate) fn rewrite<M: TableMemory, R: Rewrite, T>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        pages: Pages,
        rewrite: &mut R,
        changed: &mut Changed,
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Outcome<T, R, M::Error> {
        let memory = access.memory;
        loop {
            // A table filled by the range may go.
            let stay = |level: Level| R::JOINS && level > Level::PAGE && pages.fill_entries(level);
            let mut cursor = Cursor::<F, M>::lock_above(self, access, pages, stay);
            if let Some(alike) = cursor.alike(pages) {
                if R::CHECKS {
                    rewrite.check(alike.found(), pages).map_err(RewriteError::Refused)?;
                }
                if R::RECORDS && self.has_records() {
                    cursor.in_walk(access.enter());
                }
                let end = rewrite.rewrite(alike.found(), pages).map(|becomes| {
                    if let Becomes::Reserved(region) = becomes {
                        alike.become_all::<F>(F::mark(region));
                    }
                });
                return Ok(Rewritten { recorded: record(changed), end });
            }
            let (frame, level) = (cursor.frame(), cursor.level);
            let mut leaves = (level == Level::PAGE).then(|| Leaves::new(memory, frame, pages));
            let needed = if let Some(leaves) = &leaves {
                if R::CHECKS {
                    leaves.check::<F, R>(rewrite).map_err(RewriteError::Refused)?;
                }
                u64::from(rewrite.gives_regions() && leaves.may_need_frame())
            } else {
                let cuts = plan::<F, M, R>(memory, frame, level, pages, rewrite);
                cuts.map_err(RewriteError::Refused)? + if rewrite.gives_regions() { MOST_DIVIDED } else { 0 }
            };
            let mut gathers = 0;
            if R::UNMAPS && self.has_shared() {
                let shares = shares_in::<F, M>(memory, cursor.table(), cursor.level, pages);
                gathers = changed.retired.shares.pages_for(memory, shares);
            }
            if needed + gathers > reserve.len() {
                drop(cursor);
                reserve.fill_to(needed + gathers).map_err(RewriteError::Tables)?;
                continue;
            }
            if gathers > 0 {
                changed.retired.shares.add_pages(memory, reserve, gathers);
            }
            if R::RECORDS && self.has_records() {
                cursor.in_walk(access.enter());
            }
            if let Some(leaves) = leaves.as_mut().filter(|_| needed > 0) {
                leaves.keep_each(reserve);
            }
            let mut rewriter = Rewriter { memory, reserve, rewrite, changed };
            let end = match leaves {
                Some(leaves) => rewriter.apply_to_leaves::<F>(leaves, frame, Age::Old),
                None => rewriter.apply::<F>(frame, level, pages, Age::Old),
            };
            return Ok(Rewritten { recorded: record(changed), end });
        }
    }
}
