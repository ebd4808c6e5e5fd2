//! Dismantling the page table of an abandoned space, which no cursor uses any more.
//!
//! Shares are dropped at once, since nothing is allocated to list them. If no CPU has the space
//! active, no CPU translates by the tables, now or later: a lowest table is read and unlinked with
//! its entries uncleared. Lazy CPUs, however, may translate at any time, and have to flush the
//! unmapped pages before a share is dropped.

use topomem_percpu::PhysFrame;

use super::reclaim::LOOK;
use crate::budget::Budget;
use crate::page_table::PageTable;
use crate::page_table::claims::claim::{LOWEST_CLAIMED, release, try_claim};
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf, Ownership, RawEntry};
use crate::page_table::format::level::{ENTRIES, Level, Pages};
use crate::page_table::mapping::changed::Changed;
use crate::page_table::tables::memory::{TableMemory, table_at};
use crate::page_table::tables::regions;
use crate::page_table::tables::table::{Table, TableEntry};
use crate::retire::Retired;

/// The remainder of a page table being dismantled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dismantled {
    /// Nothing but the root is left.
    Whole,
    /// More tables are left.
    Part,
    /// Another context is at work, or a CPU has not yet flushed a page.
    InUse,
}

/// Whether all TLBs have flushed some pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forgotten {
    /// All have, or will have before the pages are used.
    Yes,
    /// Not yet.
    No,
}

/// The CPUs with possible translations by a page table being dismantled.
#[derive(Debug)]
pub(crate) enum Users<Q> {
    /// None, from now on.
    None,
    /// Lazy CPUs. The function is asked about pages just unmapped: whether no TLB has them, from
    /// now on. Otherwise they are mapped again.
    Lazy(Q),
}

impl<F: Format> PageTable<F> {
    /// Unmaps `pages` and unlinks their tables as far as `budget` allows, and adds the removed
    /// mappings to `changed`. No cursor uses the page table any more. `pages` are whole entries of
    /// the root.
    ///
    /// Never waits. The budget is checked before each table.
    pub(crate) fn dismantle<M: TableMemory>(
        &self,
        memory: &M,
        pages: Pages,
        budget: &mut Budget,
        changed: &mut Changed,
        users: Users<impl FnMut(Pages, Level) -> Forgotten>,
    ) -> Dismantled {
        debug_assert!(pages.fill_entries(F::ROOT), "a part of an entry");
        // SAFETY: the root lives as long as `self`.
        let root = unsafe { table_at(memory, self.root) };
        let mut dismantler = Dismantler { memory, budget, changed, users };
        for index in root.used(pages.indexes(F::ROOT)) {
            let entry = root.entry(index);
            if try_claim::<F>(entry).is_none() {
                return Dismantled::InUse;
            }
            let outcome = dismantler.entry::<F>(entry, F::ROOT, pages.under(F::ROOT, index));
            release::<F>(entry);
            if outcome != Dismantled::Whole {
                return outcome;
            }
        }
        Dismantled::Whole
    }
}

/// Number of shares dropped together if CPUs are lazy.
const SHARES_AT_ONCE: usize = 32;

struct Dismantler<'a, M, Q> {
    memory: &'a M,
    budget: &'a mut Budget,
    changed: &'a mut Changed,
    users: Users<Q>,
}

impl<M: TableMemory, Q: FnMut(Pages, Level) -> Forgotten> Dismantler<'_, M, Q> {
    /// Empties `entry`, of `level`, serving `part`. The entry, or an entry above, is claimed.
    fn entry<F: Format>(&mut self, entry: &TableEntry, level: Level, part: Pages) -> Dismantled {
        if self.budget.is_spent() {
            return Dismantled::Part;
        }
        self.budget.spend(1);
        let raw = entry.load();
        if let (Entry::Table(next), Some(below)) = (F::decode(raw, level), level.below()) {
            self.budget.spend(LOOK);
            let outcome = self.table::<F>(next, below, part);
            if outcome != Dismantled::Whole {
                return outcome;
            }
            entry.replace::<F>(level, RawEntry::EMPTY);
            self.changed.note_table(part);
            regions::retire_table(self.memory, next, &mut self.changed.retired.tables);
            return Dismantled::Whole;
        }
        if let Entry::Leaf(leaf) = F::decode(entry.replace::<F>(level, RawEntry::EMPTY), level) {
            if leaf.ownership == Ownership::Owned {
                self.changed.retired.push(self.memory, leaf.frame, level);
            }
            self.changed.note_leaves(part, level, part.count());
        }
        Dismantled::Whole
    }

    /// Empties the table in `frame`, of `level`, serving `pages`. Its own entry, or an entry above,
    /// is claimed.
    ///
    /// An entry is changed once it is unclaimed; a later claimant gives way.
    fn table<F: Format>(&mut self, frame: PhysFrame, level: Level, pages: Pages) -> Dismantled {
        // SAFETY: the table is linked, and no other context has a claim on its entry or above.
        let table = unsafe { table_at(self.memory, frame) };
        if level == Level::PAGE && matches!(self.users, Users::None) {
            self.give_up::<F>(table);
            return Dismantled::Whole;
        }
        for index in table.used(pages.indexes(level)) {
            let entry = table.entry(index);
            let found = entry.load_ordered();
            if is_others::<F>(found, level) {
                return Dismantled::InUse;
            }
            let part = pages.under(level, index);
            let outcome = if shares::<F>(found, level) {
                self.drop_shares::<F>(table, level, Pages { first: part.first, last: pages.last })
            } else {
                self.entry::<F>(entry, level, part)
            };
            if outcome != Dismantled::Whole {
                return outcome;
            }
        }
        Dismantled::Whole
    }

    /// Frees the leaves' frames and shares in the lowest table `table`, unused and about to be
    /// unlinked. The entries stay unchanged.
    // Not inlined, so the loop has all registers.
    #[inline(never)]
    fn give_up<F: Format>(&mut self, table: &Table) {
        let (memory, retired) = (self.memory, &mut self.changed.retired);
        // Most marks equal their predecessor.
        let mut mark = RawEntry::EMPTY;
        for index in 0..ENTRIES {
            let raw = table.load(index);
            if F::is_present(raw) {
                // Decoded here, so the compiler decodes only the needed fields of the leaf.
                if let Entry::Leaf(Leaf { frame, ownership, .. }) = F::decode(raw, Level::PAGE) {
                    give_up_leaf(memory, retired, frame, ownership);
                }
            } else if raw != RawEntry::EMPTY && raw != mark {
                match F::decode(raw, Level::PAGE) {
                    Entry::Leaf(leaf) => give_up_leaf(memory, retired, leaf.frame, leaf.ownership),
                    _ => mark = raw,
                }
            }
        }
        self.budget.spend(ENTRIES as u64);
    }

    /// Drops the shares of the first leaves of `pages` in `table`, of `level`, or changes nothing.
    fn drop_shares<F: Format>(&mut self, table: &Table, level: Level, pages: Pages) -> Dismantled {
        if self.budget.is_spent() {
            return Dismantled::Part;
        }
        let entry_of = |part: Pages| table.entry(level.index(part.first));
        let parts = || pages.by_entry(level).take(SHARES_AT_ONCE);
        let mut taken = [RawEntry::EMPTY; SHARES_AT_ONCE];
        let mut last = pages.first;
        for (taken, part) in taken.iter_mut().zip(parts()) {
            let found = entry_of(part).load_ordered();
            if shares::<F>(found, level) && !is_others::<F>(found, level) {
                *taken = entry_of(part).replace::<F>(level, RawEntry::EMPTY);
                last = part.last;
            }
        }
        let forgotten = match &mut self.users {
            Users::None => Forgotten::Yes,
            Users::Lazy(forgotten) => forgotten(Pages { first: pages.first, last }, level),
        };
        for (taken, part) in taken.into_iter().zip(parts()) {
            let Entry::Leaf(leaf) = F::decode(taken, level) else { continue };
            if forgotten == Forgotten::No {
                entry_of(part).replace::<F>(level, taken);
                continue;
            }
            self.budget.spend(1);
            self.changed.note_leaves(part, level, part.count());
            if let Some((first, level)) = self.memory.drop_share(leaf.frame, level) {
                self.changed.retired.push(self.memory, first, level);
            }
        }
        if forgotten == Forgotten::Yes { Dismantled::Whole } else { Dismantled::InUse }
    }
}

/// Frees the frame or the share of a 4 KiB leaf no longer used for translations.
#[inline(always)]
fn give_up_leaf<M: TableMemory>(memory: &M, retired: &mut Retired, frame: PhysFrame, ownership: Ownership) {
    match ownership {
        Ownership::Shared => {
            if let Some((first, level)) = memory.drop_share(frame, Level::PAGE) {
                retired.push(memory, first, level);
            }
        }
        Ownership::Owned => retired.frames.push(memory, frame),
        Ownership::Borrowed => {}
    }
}

/// Returns whether a cursor has claimed the entry with contents `found`, in a table of `level`.
fn is_others<F: Format>(found: RawEntry, level: Level) -> bool {
    level >= LOWEST_CLAIMED && found.is_claimed::<F>()
}

/// Returns whether the entry, in a table of `level`, is a leaf with a shared frame.
fn shares<F: Format>(entry: RawEntry, level: Level) -> bool {
    matches!(F::decode(entry, level), Entry::Leaf(leaf) if leaf.ownership == Ownership::Shared)
}
