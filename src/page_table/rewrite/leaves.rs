//! Changing the regions and protections of pages in a single lowest table. The usual change: each
//! step is inlined into a single loop.

use topomem_percpu::PhysFrame;

use super::{Becomes, Found, Rewrite, Rewritten};
use crate::page_table::PageTable;
use crate::page_table::claims::claim::LOWEST_CLAIMED;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{RawEntry, RegionId};
use crate::page_table::format::level::{Level, Pages};
use crate::page_table::lists::chain::Reserve;
use crate::page_table::mapping::changed::Changed;
use crate::page_table::mapping::edit::{reprotect, retire_leaf};
use crate::page_table::mapping::share::shares_of_pages;
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::regions::{self, Kept};

/// Whether a table has just been made, without leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    New,
    Old,
}

/// Consecutive leaves of a table with the same new region.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub first: usize,
    pub last: usize,
    pub region: RegionId,
}

/// A changed mapped page.
struct Done {
    /// The new region of the leaf.
    region: RegionId,
    leaf: Changing,
}

/// The change of a leaf.
struct Changing {
    old: RawEntry,
    new: RawEntry,
    /// The old region of the leaf.
    region: Option<RegionId>,
}

/// Pages of a lowest table owned by a cursor.
pub(super) struct Leaves<'a, M: TableMemory> {
    memory: &'a M,
    table: PhysFrame,
    pages: Pages,
    kept: Kept<'a>,
}

impl<'a, M: TableMemory> Leaves<'a, M> {
    /// Returns `pages` of the table in `table`, kept linked by a cursor.
    #[inline(always)]
    pub(super) fn new(memory: &'a M, table: PhysFrame, pages: Pages) -> Leaves<'a, M> {
        Leaves { memory, table, pages, kept: Kept::of(memory, table) }
    }

    /// Returns the state of the entry `raw` at `index`.
    #[inline(always)]
    fn found<F: Format>(&self, index: usize, raw: RawEntry) -> Found {
        match F::region_in_mark(raw) {
            Some(region) => Found::Reserved(region),
            None => F::page(raw).map_or(Found::Vacant, |leaf| Found::Mapped(leaf, self.kept.at(index))),
        }
    }

    /// Lets `rewrite` refuse the state of the pages.
    #[inline(always)]
    pub(super) fn check<F: Format, R: Rewrite>(&self, rewrite: &R) -> Result<(), R::Stop> {
        // SAFETY: a cursor keeps the table linked.
        let table = unsafe { table_at(self.memory, self.table) };
        for page in self.pages.first..=self.pages.last {
            let index = Level::PAGE.index(page);
            let pages = Pages { first: page, last: page };
            rewrite.check(self.found::<F>(index, table.load(index)), pages)?;
        }
        Ok(())
    }

    /// Returns whether a further frame may be needed to give some or all of the pages another
    /// region.
    #[inline(always)]
    pub(super) fn may_need_frame(&self) -> bool {
        !matches!(self.kept, Kept::Each(_))
    }

    /// Lets the table keep a region for each of its leaves from now on, in a frame of `reserve`,
    /// unless all leaves get another region. The next change of some of them then needs no look at
    /// the rest.
    pub(super) fn keep_each(&mut self, reserve: &mut Reserve<'_, M>) {
        if self.pages.fill_entries(LOWEST_CLAIMED) {
            return;
        }
        let common = if let Kept::One(region) = self.kept { Some(region) } else { None };
        regions::keep_each(self.memory, reserve, self.table, common);
        self.kept = Kept::of(self.memory, self.table);
    }

    /// Returns whether any of the pages shares its frame.
    pub(super) fn share<F: Format>(&self) -> bool {
        // SAFETY: a cursor keeps the table linked.
        let table = unsafe { table_at(self.memory, self.table) };
        shares_of_pages::<F>(table, self.pages) != 0
    }

    /// Gives the leaves of `run` their region, without a further frame.
    #[inline(always)]
    fn set(&self, run: Run) {
        match &self.kept {
            Kept::Each(ids) => regions::set_each(ids, run.first..=run.last, Some(run.region)),
            // The table has no other leaf.
            Kept::Nothing | Kept::One(_) => regions::expect(self.memory, self.table, run.region),
        }
    }

    /// Changes the pages as decided by `rewrite`, and adds the stale translations to `changed`.
    /// Calls `set` for leaves with a new region before changing the next leaves, or after the last
    /// change.
    #[inline(always)]
    pub(super) fn apply<F: Format, R: Rewrite>(
        &self,
        rewrite: &mut R,
        changed: &mut Changed,
        age: Age,
        mut set: impl FnMut(Run),
    ) -> Result<(), R::Stop> {
        let mut run = None;
        let end = self.apply_to_each::<F, R>(rewrite, changed, age, &mut run, &mut set);
        run.into_iter().for_each(set);
        end
    }

    #[inline(always)]
    fn apply_to_each<F: Format, R: Rewrite>(
        &self,
        rewrite: &mut R,
        changed: &mut Changed,
        mut age: Age,
        run: &mut Option<Run>,
        set: &mut impl FnMut(Run),
    ) -> Result<(), R::Stop> {
        let mut page = self.pages.first;
        while page <= self.pages.last {
            let index = Level::PAGE.index(page);
            // Regions set for earlier leaves do not concern this leaf.
            let done = self.apply_to::<F, R>(page, rewrite, changed, &mut age)?;
            page += 1;
            let Some(Done { region, leaf }) = done else { continue };
            let alike = if R::ALIKE { self.apply_alike::<F>(page, &leaf, changed) } else { 0 };
            page += alike;
            let last = index + alike as usize;
            match run {
                Some(run) if run.region == region => run.last = last,
                _ => run.replace(Run { first: index, last, region }).into_iter().for_each(&mut *set),
            }
        }
        Ok(())
    }

    /// Changes the pages from `page` on like their predecessor, up to the first page differing from
    /// it in more than the frame. Adds the stale translations to `changed`, and returns the number
    /// of pages changed.
    #[inline(always)]
    fn apply_alike<F: Format>(&self, page: u64, leaf: &Changing, changed: &mut Changed) -> u64 {
        if page > self.pages.last {
            return 0;
        }
        // SAFETY: a cursor keeps the table linked.
        let table = unsafe { table_at(self.memory, self.table) };
        let first = Level::PAGE.index(page);
        let difference = leaf.old.0 ^ leaf.new.0;
        let entries = (first..).zip(table.entries(first, Level::PAGE.index(self.pages.last)));
        let alike = entries.take_while(|(index, entry)| {
            let raw = entry.load();
            (raw.0 ^ leaf.old.0) & !F::FRAME == 0
                && self.kept.at(*index) == leaf.region
                // Fails if the hardware has marked the entry meanwhile.
                && (difference == 0 || entry.compare_exchange(raw, RawEntry(raw.0 ^ difference)).is_ok())
        });
        let count = alike.count() as u64;
        if count > 0 && F::narrows(leaf.old, leaf.new) {
            changed.note_leaves(Pages { first: page, last: page + count - 1 }, Level::PAGE, 0);
        }
        count
    }

    /// Changes the only page, like [`Leaves::apply`], in a table not new.
    #[inline(always)]
    fn apply_to_one<F: Format, R: Rewrite>(
        &self,
        rewrite: &mut R,
        changed: &mut Changed,
    ) -> Result<(), R::Stop> {
        let page = self.pages.first;
        if let Some(Done { region, .. }) = self.apply_to::<F, R>(page, rewrite, changed, &mut Age::Old)? {
            let index = Level::PAGE.index(page);
            self.set(Run { first: index, last: index, region });
        }
        Ok(())
    }

    /// Changes several pages, like [`Leaves::apply`], without a further frame.
    // Not inlined, so the loop has all registers.
    #[inline(never)]
    fn apply_to_several<F: Format, R: Rewrite>(
        &self,
        rewrite: &mut R,
        changed: &mut Changed,
    ) -> Result<(), R::Stop> {
        self.apply::<F, R>(rewrite, changed, Age::Old, |run| self.set(run))
    }

    /// Changes `page` as decided by `rewrite`, and adds the stale translations to `changed`.
    /// Returns the old and the new leaf if the page stays mapped and gets a region.
    #[inline(always)]
    fn apply_to<F: Format, R: Rewrite>(
        &self,
        page: u64,
        rewrite: &mut R,
        changed: &mut Changed,
        age: &mut Age,
    ) -> Result<Option<Done>, R::Stop> {
        // SAFETY: a cursor keeps the table linked.
        let table = unsafe { table_at(self.memory, self.table) };
        let index = Level::PAGE.index(page);
        let (entry, page) = (table.entry(index), Pages { first: page, last: page });
        let raw = entry.load();
        let found = self.found::<F>(index, raw);
        match rewrite.rewrite(found, page)? {
            Becomes::Same => Ok(None),
            Becomes::Reserved(region) => {
                if *age == Age::New {
                    regions::expect(self.memory, self.table, region);
                    *age = Age::Old;
                }
                let Found::Mapped(leaf, _) = found else {
                    entry.store(F::mark(region));
                    return Ok(None);
                };
                debug_assert!(R::UNMAPS, "what says so may unmap");
                if R::UNMAPS {
                    // Marks by the hardware leave the entry's meaning unchanged.
                    entry.swap(F::mark(region));
                    retire_leaf(self.memory, &mut changed.retired, &leaf, Level::PAGE);
                    changed.note_leaves(page, Level::PAGE, 1);
                }
                Ok(None)
            }
            Becomes::Mapped(protection, region) => {
                // If more is permitted now, no stale translation permits too much: a CPU with the
                // old translation faults, and finds the access permitted.
                let (old, new) = reprotect::<F>(entry, raw, Level::PAGE, protection).unwrap_or((raw, raw));
                if F::narrows(old, new) {
                    changed.note_leaves(page, Level::PAGE, 0);
                }
                let had = if let Found::Mapped(_, region) = found { region } else { None };
                Ok(Some(Done { region, leaf: Changing { old, new, region: had } }))
            }
        }
    }
}

/// The outcome of a rewrite by `R` without frames, or its refusal; `None` if a frame might be
/// needed.
pub(crate) type AtOnce<T, R> = Option<Result<Rewritten<T, <R as Rewrite>::Stop>, <R as Rewrite>::Stop>>;

impl<F: Format> PageTable<F> {
    /// Rewrites like [`PageTable::rewrite`] if `pages` lie in a single lowest table, no frame is
    /// needed, and no other cursor is in the way. Otherwise changes nothing and returns `None`.
    // Always inlined: the values found and changed stay in registers. Not a loop, since values
    // known before a loop would be computed in advance and kept in memory.
    #[inline(always)]
    pub(crate) fn rewrite_at_once<M: TableMemory, R: Rewrite, T>(
        &self,
        access: TableAccess<'_, M>,
        pages: Pages,
        rewrite: &mut R,
        changed: &mut Changed,
        record: impl FnOnce(&mut Changed) -> T,
    ) -> AtOnce<T, R> {
        let in_one_table = pages.within_one_entry(LOWEST_CLAIMED);
        // A table filled by the range may go.
        let may_join = R::JOINS && pages.fill_entries(LOWEST_CLAIMED);
        let has_more = R::RECORDS && self.has_records();
        if !in_one_table || may_join || has_more {
            return None;
        }
        let cursor = Cursor::<F, M>::try_lock_one(self, access, pages)?;
        if cursor.level != Level::PAGE {
            return None;
        }
        let leaves = Leaves::new(access.memory, cursor.frame(), pages);
        if R::CHECKS
            && let Err(refused) = leaves.check::<F, R>(rewrite)
        {
            return Some(Err(refused));
        }
        if R::UNMAPS && self.has_shared() && leaves.share::<F>() {
            return None;
        }
        if rewrite.gives_regions() && leaves.may_need_frame() {
            return None;
        }
        let end = if pages.first == pages.last {
            leaves.apply_to_one::<F, R>(rewrite, changed)
        } else {
            leaves.apply_to_several::<F, R>(rewrite, changed)
        };
        Some(Ok(Rewritten { recorded: record(changed), end }))
    }
}
