//! Taking a page table apart that no cursor is in any more: an abandoned space's.
//!
//! Shares are dropped at once, for nothing is allocated here to note them in. Where no CPU has the space
//! active, nobody translates by its tables, now or later, so a lowest table is read and unlinked without
//! clearing its entries. Where CPUs are lazy in it, they may translate at any time, and have to forget what was
//! unmapped before a share is dropped.

use x86_64::structures::paging::PhysFrame;

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

/// What is left of a page table that is taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dismantled {
    /// Nothing but the root.
    Whole,
    /// There is more to do.
    Part,
    /// Somebody else is at it, or a CPU has not forgotten a page yet.
    InUse,
}

/// Have all TLBs forgotten some pages?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forgotten {
    /// They have, or will have before they are used.
    Yes,
    /// Not yet.
    No,
}

/// Which CPUs may still translate by a page table that is taken apart.
#[derive(Debug)]
pub(crate) enum Users<Q> {
    /// None, from now on.
    None,
    /// Those that are lazy. The function is asked about pages that were just unmapped: do no TLBs have them,
    /// from now on? Else they are mapped again.
    Lazy(Q),
}

impl<F: Format> PageTable<F> {
    /// Unmaps what `pages` maps and unlinks its tables, as far as `budget` goes, and adds to `changed`
    /// what that was: for a page table that no cursor is in any more. `pages` are whole entries of the root.
    ///
    /// Waits for nothing. The budget is looked at before each table.
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

/// How many shares are dropped together where CPUs are lazy.
const SHARES_AT_ONCE: usize = 32;

struct Dismantler<'a, M, Q> {
    memory: &'a M,
    budget: &'a mut Budget,
    changed: &'a mut Changed,
    users: Users<Q>,
}

impl<M: TableMemory, Q: FnMut(Pages, Level) -> Forgotten> Dismantler<'_, M, Q> {
    /// Empties `entry`, of `level`, which serves `part`. The entry, or one above, is claimed.
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

    /// Empties the table in `frame`, of `level`, which serves `pages` and whose own entry, or one above, is
    /// claimed.
    ///
    /// Entries are changed once nobody has a claim on them; whoever claims one later gives way.
    fn table<F: Format>(&mut self, frame: PhysFrame, level: Level, pages: Pages) -> Dismantled {
        // SAFETY: it is linked, and nobody else has a claim on its entry or above.
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

    /// Gives up what the leaves of the lowest table `table` have, which nobody uses any more and which is about to be
    /// unlinked. Its entries stay as they are.
    // Apart, so that the loop has the registers for itself.
    #[inline(never)]
    fn give_up<F: Format>(&mut self, table: &Table) {
        let (memory, retired) = (self.memory, &mut self.changed.retired);
        // Most marks are like the one before.
        let mut mark = RawEntry::EMPTY;
        for index in 0..ENTRIES {
            let raw = table.load(index);
            if F::is_present(raw) {
                // Decoded here, so that no more of the leaf is than is needed.
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

    /// Drops the shares of the first leaves of `pages` in `table`, of `level`; or changes nothing.
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

/// Gives up what a 4 KiB leaf had that nobody translates by.
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

/// Has a cursor claimed the entry, in a table of `level`, that was `found` to say this?
fn is_others<F: Format>(found: RawEntry, level: Level) -> bool {
    level >= LOWEST_CLAIMED && found.is_claimed::<F>()
}

/// Is the entry, in a table of `level`, a leaf that shares its frame?
fn shares<F: Format>(entry: RawEntry, level: Level) -> bool {
    matches!(F::decode(entry, level), Entry::Leaf(leaf) if leaf.ownership == Ownership::Shared)
}
