//! Tables that map nothing, on their way back to the allocator.
//!
//! An unmap leaves the table of its range linked, empty as it may be: most likely something is mapped
//! there again, and to look costs more than the unmap. So empty tables are looked for when memory is
//! short. The sweep may run in an allocation of an interrupt handler, which may have interrupted a
//! cursor. Hence it waits for nothing: it tries claims, and leaves alone what it does not get.
//!
//! # Protocol
//!
//! A sweep claims the entries that lead to empty tables, and looks at these tables again. Entries of lowest
//! tables are changed by the claimant of the directory's entry alone. In a table above, nobody has a claim
//! if all entries are zero, and who claims one from then on finds the sweep's claim above it, and gives
//! way. So an empty table is unlinked, and announced before the claim is given back: who maps a page there
//! afterwards knows that page walkers may still find the old table, and has a later generation.
//!
//! The whole sweep is an announced walk, which the tables stay allocated for. A claim holds if the entries
//! above lead there still and are unclaimed, as in a cursor.

use x86_64::structures::paging::PhysFrame;

use crate::budget::Budget;
use crate::page_table::claims::claim::{LOWEST_CLAIMED, release, try_claim};
use crate::page_table::claims::path::Path;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, RawEntry};
use crate::page_table::format::level::{ENTRIES, Level, Pages};
use crate::page_table::mapping::changed::Changed;
use crate::page_table::tables::memory::{TableAccess, TableMemory, table_at};
use crate::page_table::tables::regions;
use crate::page_table::tables::table::Table;
use crate::page_table::{PageTable, RootEntries};

/// What a look at all entries of a table costs, in frames freed.
pub(super) const LOOK: u64 = 8;

/// How far a sweep has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Where to go on; `None` at the end of the range.
    pub next: Option<u64>,
    /// Has a part been left out that somebody else was using?
    pub skipped: bool,
}

struct Sweep<'a, 'b, M, A> {
    memory: &'a M,
    budget: &'b mut Budget,
    announce: A,
    root_entries: RootEntries,
    swept: Swept,
}

/// Which entries of a table a sweep has claimed.
#[derive(Default)]
struct Claimed {
    words: [u64; ENTRIES.div_ceil(64)],
}

impl Claimed {
    fn add(&mut self, index: usize) {
        self.words[index / 64] |= 1 << (index % 64);
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        (0..ENTRIES).filter(|index| self.words[index / 64] >> (index % 64) & 1 != 0)
    }
}

/// Are all entries of `table` empty, and none claimed?
fn is_empty(table: &Table) -> bool {
    (0..ENTRIES).all(|index| table.entry(index).load_ordered() == RawEntry::EMPTY)
}

impl<'a, M: TableMemory, A: FnMut(Changed)> Sweep<'a, '_, M, A> {
    /// Is the budget spent? Then the sweep goes on at `part` the next time.
    fn ends_at(&mut self, part: Pages) -> bool {
        if self.swept.next.is_none() && self.budget.is_spent() {
            self.swept.next = Some(part.first);
        }
        self.swept.next.is_some()
    }

    /// Sweeps `pages` of the table in `frame`, of `level`, that `path` leads to. Says whether it looks empty
    /// afterwards.
    fn table<F: Format>(&mut self, frame: PhysFrame, level: Level, pages: Pages, path: Path<'a>) -> bool {
        // SAFETY: it was linked when its entry was read, and the sweep is an announced walk.
        let table: &'a Table = unsafe { table_at(self.memory, frame) };
        let mut hollow = level == LOWEST_CLAIMED;
        if let Some(below) = level.below()
            && level > LOWEST_CLAIMED
        {
            for part in pages.by_entry(level) {
                let entry = table.entry(level.index(part.first));
                let seen = entry.load();
                let Entry::Table(next) = F::decode(seen, level) else {
                    continue;
                };
                if self.ends_at(part) {
                    break;
                }
                if seen.is_claimed::<F>() {
                    self.swept.skipped = true;
                    continue;
                }
                let mut path = path;
                path.add(level, entry, seen);
                hollow |= self.table::<F>(next, below, part, path);
            }
        }
        let kept = level == F::ROOT && self.root_entries == RootEntries::Shared;
        if hollow && !kept {
            self.unlink_empty::<F>(table, level, pages, &path);
        }
        is_empty(table)
    }

    /// Unlinks the empty tables that entries of `table`, of `level`, lead to. `path` leads to `table`.
    fn unlink_empty<F: Format>(&mut self, table: &Table, level: Level, pages: Pages, path: &Path<'_>) {
        let memory = self.memory;
        let lower = |raw| match F::decode(raw, level) {
            // SAFETY: it was linked when the entry was read, and the sweep is an announced walk.
            Entry::Table(next) => Some((next, unsafe { table_at(memory, next) })),
            _ => None,
        };
        let mut changed = Changed::NOTHING;
        let mut claimed = Claimed::default();
        for part in pages.by_entry(level) {
            let index = level.index(part.first);
            let entry = table.entry(index);
            let Some((_, seen)) = lower(entry.load()) else {
                continue;
            };
            if level == LOWEST_CLAIMED {
                if self.ends_at(part) {
                    break;
                }
                self.budget.spend(LOOK);
            }
            // Nobody has to wait for a sweep that leaves the table.
            if !is_empty(seen) {
                continue;
            }
            if try_claim::<F>(entry).is_none() {
                self.swept.skipped = true;
                continue;
            }
            if !path.is_intact::<F>() {
                self.swept.skipped = true;
                release::<F>(entry);
                continue;
            }
            // A claimant of an entry above may have changed it just before.
            match lower(entry.load()) {
                Some((next, lower)) if is_empty(lower) => {
                    entry.replace::<F>(level, RawEntry::EMPTY);
                    claimed.add(index);
                    changed.note_table(part);
                    regions::retire_table(memory, next, &mut changed.retired.tables);
                }
                _ => release::<F>(entry),
            }
        }
        if !changed.retired.is_empty() {
            (self.announce)(changed);
            claimed.iter().for_each(|index| release::<F>(table.entry(index)));
        }
    }
}

impl<F: Format> PageTable<F> {
    /// Unlinks the tables in `pages` that map nothing, as far as `budget` goes, and calls `announce`
    /// with those that were unlinked together before anybody can link others in their place.
    ///
    /// Waits for nothing. Costs a look at each table in the range, until the budget is spent.
    pub(crate) fn reclaim<M: TableMemory>(
        &self,
        access: TableAccess<'_, M>,
        pages: Pages,
        budget: &mut Budget,
        announce: impl FnMut(Changed),
    ) -> Swept {
        let swept = Swept { next: None, skipped: false };
        let (memory, root_entries) = (access.memory, self.root_entries);
        let mut sweep = Sweep { memory, budget, announce, root_entries, swept };
        let walk = access.enter();
        sweep.table::<F>(self.root, F::ROOT, pages, Path::ROOT);
        drop(walk);
        sweep.swept
    }
}
