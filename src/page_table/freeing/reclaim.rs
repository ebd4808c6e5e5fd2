//! Reclaiming tables without mappings.
//!
//! An unmap leaves the table of its range linked, even if empty: most likely another page is soon
//! mapped there, and a look at all entries costs more than the unmap. Empty tables are therefore
//! searched when memory is short. The sweep may run in an allocation of an interrupt handler, in
//! the middle of an interrupted cursor. The sweep therefore never waits: it tries claims, and skips
//! the parts it cannot claim.
//!
//! # Protocol
//!
//! A sweep claims the entries leading to empty tables, and looks at the tables again. Entries of a
//! lowest table are changed only by the claimant of the directory's entry. In a higher table, no
//! entry is claimed if all are zero, and a later claimant finds the sweep's claim above and gives
//! way. An empty table is therefore unlinked, and announced before the release of the claim. A
//! later mapping of a page there has a later generation, and takes into account that page walkers
//! may still find the old table.
//!
//! The whole sweep is an announced walk, during which the tables stay allocated. As in a cursor, a
//! claim holds if the entries above still lead to it and are unclaimed.

use topomem_percpu::PhysFrame;

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

/// The cost of a look at all entries of a table, in freed frames.
pub(super) const LOOK: u64 = 8;

/// The progress of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Swept {
    /// The page to continue from; `None` at the end of the range.
    pub next: Option<u64>,
    /// Whether a part in use by another context was skipped.
    pub skipped: bool,
}

struct Sweep<'a, 'b, M, A> {
    memory: &'a M,
    budget: &'b mut Budget,
    announce: A,
    root_entries: RootEntries,
    swept: Swept,
}

/// The entries of a table claimed by a sweep.
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

/// Returns whether all entries of `table` are empty and unclaimed.
fn is_empty(table: &Table) -> bool {
    (0..ENTRIES).all(|index| table.entry(index).load_ordered() == RawEntry::EMPTY)
}

impl<'a, M: TableMemory, A: FnMut(Changed)> Sweep<'a, '_, M, A> {
    /// Returns whether the budget is spent. The next sweep then continues at `part`.
    fn ends_at(&mut self, part: Pages) -> bool {
        if self.swept.next.is_none() && self.budget.is_spent() {
            self.swept.next = Some(part.first);
        }
        self.swept.next.is_some()
    }

    /// Sweeps `pages` of the table in `frame`, of `level`, at the end of `path`. Returns whether
    /// the table looks empty afterwards.
    fn table<F: Format>(&mut self, frame: PhysFrame, level: Level, pages: Pages, path: Path<'a>) -> bool {
        // SAFETY: the table was linked when its entry was read, and the sweep is an announced walk.
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

    /// Unlinks the empty tables under entries of `table`, of `level`. `path` leads to `table`.
    fn unlink_empty<F: Format>(&mut self, table: &Table, level: Level, pages: Pages, path: &Path<'_>) {
        let memory = self.memory;
        let lower = |raw| match F::decode(raw, level) {
            // SAFETY: the table was linked when the entry was read, and the sweep is an announced
            // walk.
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
            // Cursors need not wait for a sweep without interest in the table.
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
            // A claimant of an entry above may have changed the entry just before.
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
    /// Unlinks the tables in `pages` without mappings as far as `budget` allows. Calls `announce`
    /// with the tables unlinked together, before any context can link tables in their place.
    ///
    /// Never waits. Cost: a look at each table in the range, until the budget is spent.
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
