//! Changing what the pages of one lowest table are to be: the usual change, so each step is part of one loop.

use x86_64::structures::paging::PhysFrame;

use super::PageTable;
use super::change::{Changed, reprotect, retire_leaf};
use super::claim::LOWEST_CLAIMED;
use super::cursor::Cursor;
use super::entry::{Entry, RawEntry, RegionId};
use super::format::Format;
use super::level::{Level, Pages};
use super::memory::{TableAccess, TableMemory, table_at};
use super::regions::{self, Kept};
use super::rewrite::{Becomes, Found, Rewrite, Rewritten, narrows};

/// Has a table just been made, without leaves?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    New,
    Old,
}

/// Leaves of one table, one after the other, that get one region.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub first: usize,
    pub last: usize,
    pub region: RegionId,
}

/// Pages of a lowest table that a cursor has.
pub(super) struct Leaves<'a, M: TableMemory> {
    memory: &'a M,
    table: PhysFrame,
    pages: Pages,
    kept: Kept<'a>,
}

impl<'a, M: TableMemory> Leaves<'a, M> {
    /// `pages` of the table in `table`, which a cursor keeps linked.
    #[inline(always)]
    pub(super) fn new(memory: &'a M, table: PhysFrame, pages: Pages) -> Leaves<'a, M> {
        Leaves { memory, table, pages, kept: Kept::of(memory, table) }
    }

    /// What the entry `raw`, at `index`, says.
    #[inline(always)]
    fn found<F: Format>(&self, index: usize, raw: RawEntry) -> Found {
        match F::region_in_mark(raw) {
            Some(region) => Found::Reserved(region),
            None => match F::decode(raw, Level::PAGE) {
                Entry::Leaf(leaf) => Found::Mapped(leaf, self.kept.at(index)),
                _ => Found::Vacant,
            },
        }
    }

    /// Lets `rewrite` refuse what they are.
    #[inline(always)]
    pub(super) fn check<F: Format, R: Rewrite>(&self, rewrite: &R) -> Result<(), R::Stop> {
        // SAFETY: a cursor keeps it linked.
        let table = unsafe { table_at(self.memory, self.table) };
        for page in self.pages.first..=self.pages.last {
            let index = Level::PAGE.index(page);
            rewrite.check(self.found::<F>(index, table.load(index)), page)?;
        }
        Ok(())
    }

    /// Might it take a further frame to give some of them, or all, another region?
    #[inline(always)]
    pub(super) fn may_need_frame<F: Format>(&self) -> bool {
        let indexes = self.pages.indexes(Level::PAGE);
        regions::may_need_frame::<F, M>(&self.kept, self.memory, self.table, indexes)
    }

    /// Gives the leaves of `run` their region, for which no further frame is needed.
    #[inline(always)]
    fn set(&self, run: Run) {
        match &self.kept {
            Kept::Each(ids) => regions::set_each(ids, run.first..=run.last, Some(run.region)),
            // There is no other leaf.
            Kept::Nothing | Kept::One(_) => regions::expect(self.memory, self.table, run.region),
        }
    }

    /// Changes them as `rewrite` says, and adds to `changed` what that made stale. Calls `set` with leaves
    /// that get a region, before what follows them is changed, or after the last change.
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
        // SAFETY: a cursor keeps it linked.
        let table = unsafe { table_at(self.memory, self.table) };
        for page in self.pages.first..=self.pages.last {
            let index = Level::PAGE.index(page);
            let (entry, page) = (table.entry(index), Pages { first: page, last: page });
            let raw = entry.load();
            // What was set for leaves before this one is nothing to it.
            let found = self.found::<F>(index, raw);
            match rewrite.rewrite(found, page)? {
                Becomes::Same => {}
                Becomes::Reserved(region) => {
                    if age == Age::New {
                        regions::expect(self.memory, self.table, region);
                        age = Age::Old;
                    }
                    let Found::Mapped(leaf, _) = found else {
                        entry.store(F::mark(region));
                        continue;
                    };
                    debug_assert!(R::UNMAPS, "what says so may unmap");
                    if R::UNMAPS {
                        // What the hardware notes in it changes nothing of what it says.
                        entry.swap(F::mark(region));
                        retire_leaf(self.memory, &mut changed.retired, &leaf, Level::PAGE);
                        changed.note_leaves(page, Level::PAGE, 1);
                    }
                }
                Becomes::Mapped(protection, region) => {
                    match run {
                        Some(run) if run.region == region => run.last = index,
                        _ => run
                            .replace(Run { first: index, last: index, region })
                            .into_iter()
                            .for_each(&mut *set),
                    }
                    // If more is permitted now, no translation is stale that permits too much: a CPU that has
                    // the old one faults, and finds that the access is permitted.
                    if reprotect::<F>(entry, raw, Level::PAGE, protection) && narrows(found, protection) {
                        changed.note_leaves(page, Level::PAGE, 0);
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a rewrite by `R` comes to that needed no frame, or why it was refused; `None` if it might need one.
pub(crate) type AtOnce<T, R> = Option<Result<Rewritten<T, <R as Rewrite>::Stop>, <R as Rewrite>::Stop>>;

impl<F: Format> PageTable<F> {
    /// Does what [`PageTable::rewrite`] does, if `pages` are some of one lowest table, no frame is needed,
    /// and no other cursor is in the way. Else does nothing, and returns `None`.
    // Always: what is found and changed stays in registers. No loop, out of which all that is known before
    // would be computed, and kept in memory.
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
        // A table that the range fills may go.
        let may_join = R::JOINS && pages.fill_entries(LOWEST_CLAIMED);
        let has_more = R::UNMAPS && self.has_shared() || R::RECORDS && self.has_records();
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
        if R::REGIONS && leaves.may_need_frame::<F>() {
            return None;
        }
        let end = leaves.apply::<F, R>(rewrite, changed, Age::Old, |run| leaves.set(run));
        Some(Ok(Rewritten { recorded: record(changed), end }))
    }
}
