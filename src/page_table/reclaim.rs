//! Tables that map nothing, on their way back to the allocator.
//!
//! An unmap leaves the table of its range linked, empty as it may be: most likely something is mapped
//! there again, and to look costs more than the unmap. So empty tables are looked for when memory is
//! short. The sweep may run in an allocation of an interrupt handler, which may have interrupted a
//! cursor. Hence it waits for nothing: it tries locks and claims, and leaves alone what it does not
//! get.
//!
//! # Protocol
//!
//! A sweep holds shared the tables above a directory, as a cursor does, and claims the directory's
//! entries that lead to lowest tables. An empty one is unlinked: nobody changes it while its entry is
//! claimed. A table above is unlinked under the exclusive lock of the one that leads to it. Both are
//! announced before the claim or lock is given back: who maps a page there afterwards knows that page
//! walkers may still find the old table, and has a later generation.

use topomem_percpu::sync::atomic::AtomicU32;
use x86_64::structures::paging::PhysFrame;

use super::change::Changed;
use super::claim::{CLAIMED_LEVEL, release, try_claim};
use super::entry::{Entry, Ownership, RawEntry};
use super::format::Format;
use super::level::{ENTRIES, Level, Pages};
use super::lock;
use super::memory::{TableMemory, table_at};
use super::table::Table;
use super::{PageTable, RootEntries, regions};
use crate::budget::Budget;

/// What a look at all entries of a table costs, in frames freed.
const LOOK: u64 = 8;

/// How far a sweep has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Where to go on; `None` at the end of the range.
    pub next: Option<u64>,
    /// Has a part been left out that somebody else was using?
    pub skipped: bool,
}

/// What is left of a page table that is taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dismantled {
    /// Nothing but the root.
    Whole,
    /// There is more to do.
    Part,
    /// Somebody else is at it.
    InUse,
}

struct Sweep<'a, M, A> {
    memory: &'a M,
    budget: &'a mut Budget,
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

fn is_empty(table: &Table) -> bool {
    (0..ENTRIES).all(|index| table.load(index) == RawEntry::EMPTY)
}

impl<M: TableMemory, A: FnMut(Changed)> Sweep<'_, M, A> {
    /// Is the budget spent? Then the sweep goes on at `part` the next time.
    fn ends_at(&mut self, part: Pages) -> bool {
        if self.swept.next.is_none() && self.budget.is_spent() {
            self.swept.next = Some(part.first);
        }
        self.swept.next.is_some()
    }

    /// Sweeps `pages` of the table in `frame`, of `level` and with the lock `word`, which stays linked
    /// meanwhile. Says whether it looks empty afterwards.
    fn table<F: Format>(&mut self, frame: PhysFrame, word: &AtomicU32, level: Level, pages: Pages) -> bool {
        let Some(below) = level.below() else { return false };
        if !lock::try_lock_shared(word) {
            self.swept.skipped = true;
            return false;
        }
        // SAFETY: the caller keeps it linked.
        let table = unsafe { table_at(self.memory, frame) };
        let mut hollow = false;
        for part in pages.by_entry(level) {
            let Entry::Table(next) = F::decode(table.load(level.index(part.first)), level) else {
                continue;
            };
            if self.ends_at(part) {
                break;
            }
            // The shared lock keeps `next` linked.
            hollow |= if below == CLAIMED_LEVEL {
                self.directory::<F>(next, part)
            } else {
                self.table::<F>(next, self.memory.aux(next), below, part)
            };
        }
        lock::unlock_shared(word);
        let kept = level == F::ROOT && self.root_entries == RootEntries::Shared;
        if hollow && !kept {
            self.unlink_hollow::<F>(table, word, level, pages);
        }
        is_empty(table)
    }

    /// Unlinks the empty lowest tables below `pages` of the directory in `frame`, which stays linked
    /// meanwhile. Says whether the directory looks empty afterwards.
    fn directory<F: Format>(&mut self, frame: PhysFrame, pages: Pages) -> bool {
        let level = CLAIMED_LEVEL;
        // SAFETY: the caller keeps it linked.
        let table = unsafe { table_at(self.memory, frame) };
        let mut changed = Changed::NOTHING;
        let mut claimed = Claimed::default();
        for part in pages.by_entry(level) {
            let index = level.index(part.first);
            let entry = table.entry(index);
            if !matches!(F::decode(entry.load(), level), Entry::Table(_)) {
                continue;
            }
            if self.ends_at(part) {
                break;
            }
            self.budget.spend(LOOK);
            let Some(found) = try_claim::<F>(entry) else {
                self.swept.skipped = true;
                continue;
            };
            match F::decode(found, level) {
                // SAFETY: its entry is claimed: it stays linked.
                Entry::Table(lowest) if is_empty(unsafe { table_at(self.memory, lowest) }) => {
                    entry.replace::<F>(level, RawEntry::EMPTY);
                    claimed.add(index);
                    changed.note_table(part);
                    regions::retire_table(self.memory, lowest, &mut changed.retired.tables);
                }
                _ => release::<F>(entry),
            }
        }
        if !changed.retired.is_empty() {
            (self.announce)(changed);
            claimed.iter().for_each(|index| release::<F>(table.entry(index)));
        }
        is_empty(table)
    }

    /// Unlinks the empty tables that entries of `table`, of `level` and with the lock `word`, lead to.
    fn unlink_hollow<F: Format>(&mut self, table: &Table, word: &AtomicU32, level: Level, pages: Pages) {
        if !lock::try_lock_exclusive(word) {
            self.swept.skipped = true;
            return;
        }
        let mut changed = Changed::NOTHING;
        for part in pages.by_entry(level) {
            let index = level.index(part.first);
            if let Entry::Table(next) = F::decode(table.load(index), level)
                // SAFETY: `table` is exclusively locked, so that what it leads to stays linked.
                && is_empty(unsafe { table_at(self.memory, next) })
            {
                table.entry(index).replace::<F>(level, RawEntry::EMPTY);
                changed.note_table(part);
                regions::retire_table(self.memory, next, &mut changed.retired.tables);
            }
        }
        if !changed.retired.is_empty() {
            (self.announce)(changed);
        }
        lock::unlock_exclusive(word);
    }
}

impl<F: Format> PageTable<F> {
    /// Unlinks the tables in `pages` that map nothing, as far as `budget` goes, and calls `announce`
    /// with those that were unlinked together before anybody can link others in their place.
    ///
    /// Waits for nothing. Costs a look at each table in the range, until the budget is spent.
    pub(crate) fn reclaim<M: TableMemory>(
        &self,
        memory: &M,
        pages: Pages,
        budget: &mut Budget,
        announce: impl FnMut(Changed),
    ) -> Swept {
        let swept = Swept { next: None, skipped: false };
        let mut sweep = Sweep { memory, budget, announce, root_entries: self.root_entries, swept };
        sweep.table::<F>(self.root, &self.root_lock, F::ROOT, pages);
        sweep.swept
    }

    /// Unmaps what `pages` maps and unlinks its tables, as far as `budget` goes, and adds to `changed`
    /// what that was: for a page table that no cursor is in any more.
    ///
    /// Waits for nothing.
    pub(crate) fn dismantle<M: TableMemory>(
        &self,
        memory: &M,
        pages: Pages,
        budget: &mut Budget,
        changed: &mut Changed,
    ) -> Dismantled {
        if !lock::try_lock_exclusive(&self.root_lock) {
            return Dismantled::InUse;
        }
        // SAFETY: the root lives as long as `self`.
        let root = unsafe { table_at(memory, self.root) };
        let whole = dismantle::<F, M>(memory, root, F::ROOT, pages, budget, changed);
        lock::unlock_exclusive(&self.root_lock);
        if whole { Dismantled::Whole } else { Dismantled::Part }
    }
}

/// Empties what `pages` touches of `table`, of `level`; false where the budget did not suffice.
fn dismantle<F: Format, M: TableMemory>(
    memory: &M,
    table: &Table,
    level: Level,
    pages: Pages,
    budget: &mut Budget,
    changed: &mut Changed,
) -> bool {
    for part in pages.by_entry(level) {
        let entry = table.entry(level.index(part.first));
        if entry.load() == RawEntry::EMPTY {
            continue;
        }
        if budget.is_spent() {
            return false;
        }
        budget.spend(1);
        if let (Entry::Table(next), Some(below)) = (F::decode(entry.load(), level), level.below()) {
            budget.spend(LOOK);
            // SAFETY: it is linked under the exclusively locked root.
            let lower = unsafe { table_at(memory, next) };
            if !dismantle::<F, M>(memory, lower, below, part, budget, changed) {
                return false;
            }
            entry.replace::<F>(level, RawEntry::EMPTY);
            changed.note_table(part);
            regions::retire_table(memory, next, &mut changed.retired.tables);
        } else if let Entry::Leaf(leaf) = F::decode(entry.replace::<F>(level, RawEntry::EMPTY), level) {
            if leaf.ownership == Ownership::Owned {
                changed.retired.push(memory, leaf.frame, level);
            }
            changed.note_leaves(part, level, part.count());
        }
    }
    true
}
