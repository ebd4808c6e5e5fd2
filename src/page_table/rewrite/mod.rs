//! Changing what the pages of a range are to be, entry by entry.

pub(super) mod leaves;
pub(super) mod relocate;

use x86_64::structures::paging::PhysFrame;

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

/// What the pages under an entry are, all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Of no region, and not mapped.
    Vacant,
    /// Not mapped yet.
    Reserved(RegionId),
    /// Mapped: to the frames from the leaf's on.
    Mapped(Leaf, Option<RegionId>),
}

impl Found {
    /// Returns the region that the pages belong to.
    // Always, here and below: a part of the loop over a table's pages.
    #[inline(always)]
    pub fn region(&self) -> Option<RegionId> {
        match *self {
            Found::Vacant => None,
            Found::Reserved(region) => Some(region),
            Found::Mapped(_, region) => region,
        }
    }

    /// Returns the change that gives the pages to `region`. Pages that are mapped stay mapped, with the protection
    /// that `protection` returns for their leaf.
    #[inline(always)]
    pub fn given_to(&self, region: RegionId, protection: impl FnOnce(&Leaf) -> Protection) -> Becomes {
        match self {
            Found::Mapped(leaf, _) => Becomes::Mapped(protection(leaf), region),
            Found::Vacant | Found::Reserved(_) => Becomes::Reserved(region),
        }
    }
}

/// What becomes of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Becomes {
    /// They stay what they are.
    Same,
    /// They are not mapped any more, or not yet; what they were mapped to goes.
    Reserved(RegionId),
    /// They stay mapped to the same frames, with this protection.
    Mapped(Protection, RegionId),
}

/// A change of a range's pages.
pub(crate) trait Rewrite {
    /// Why the change ends, or is refused.
    type Stop;
    /// Does [`Rewrite::check`] look at all pages before the first is changed, and may it refuse them?
    const CHECKS: bool;
    /// May pages be unmapped?
    const UNMAPS: bool;
    /// Does the same become of all pages that are found alike but for their frames, and stay mapped?
    const ALIKE: bool = false;
    /// May [`Rewrite::joins`] say yes?
    const JOINS: bool = false;
    /// May records lose pages?
    const RECORDS: bool = false;

    /// May leaves come to be of another region?
    fn gives_regions(&self) -> bool;

    /// Says whether the change concerns `pages`, of one entry or alike, that are `found` to be so.
    fn check(&self, found: Found, pages: Pages) -> Result<bool, Self::Stop>;

    /// Says whether one mark takes the place of a table in which each entry is a mark of `region`.
    fn joins(&self, region: RegionId) -> bool {
        let _ = region;
        false
    }

    /// Says what becomes of `pages`, which [`Rewrite::check`] says the change concerns, in ascending order.
    /// Pages before the one at which the change ends are changed.
    fn rewrite(&mut self, found: Found, pages: Pages) -> Result<Becomes, Self::Stop>;
}

/// A change that was made, to its end or not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rewritten<T, S> {
    /// What was made of it with the entries still claimed.
    pub recorded: T,
    /// Why the change has ended before the end of its range, if it has.
    pub end: Result<(), S>,
}

/// What a rewrite by `R` comes to.
pub(crate) type Outcome<T, R, E> =
    Result<Rewritten<T, <R as Rewrite>::Stop>, RewriteError<<R as Rewrite>::Stop, E>>;

/// Why nothing was changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RewriteError<S, E> {
    /// The change was refused.
    Refused(S),
    /// No frame for a table, for regions of its leaves, or for a list of shares.
    Tables(E),
}

/// What the entry says that is at `index` of the table in `table`, of `level`; `None` if a table.
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

/// How many tables `rewrite` needs for `pages` under the table in `frame`, of `level`, to cut the entries
/// at the ends. Looks at the ends alone, unless the change may be refused.
fn plan<F: Format, M: TableMemory, R: Rewrite>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    rewrite: &R,
) -> Result<u64, R::Stop> {
    if level == Level::PAGE {
        // Nothing is smaller than its entries.
        return if R::CHECKS {
            Leaves::new(memory, frame, pages).check::<F, R>(rewrite).map(|()| 0)
        } else {
            Ok(0)
        };
    }
    // SAFETY: the cursor keeps it linked.
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
        // SAFETY: the cursor keeps it linked.
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
                    // It stays as it is; but the change may end there.
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

    /// Puts one mark in the place of the table `next`, below `entry` of `level`, if all its entries are marks of
    /// one region and the rewrite wants that.
    fn join<F: Format>(&mut self, entry: &TableEntry, next: PhysFrame, level: Level, part: Pages) {
        // SAFETY: the cursor keeps it linked.
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

/// The most tables whose leaves come to be of different regions by one change: those at the ends of the
/// range, and the one in which the change ends.
const MOST_DIVIDED: u64 = 3;

impl<F: Format> PageTable<F> {
    /// Changes what `pages` are to be, as `rewrite` says, and adds to `changed` what that made stale.
    /// Calls `record` with `changed` before another cursor can change the same entries. Returns what
    /// `record` does, and where `rewrite` has ended the change.
    ///
    /// # Errors
    ///
    /// [`RewriteError`]; nothing has changed.
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
            // A table that the range fills may go.
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
