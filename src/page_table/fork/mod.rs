//! Copying the pages of a range for another space, without copying a frame.
//!
//! Frames owned by the space are shared afterwards, and no leaf permits writes: the first write by
//! either space makes a copy. The range stays claimed until all of it is copied and the change is
//! recorded. No page is therefore changed between the copies of two pages: a copy with the effect
//! of a write has the effects of all writes before it.

pub(super) mod lend;

use topomem_percpu::PhysFrame;

use crate::page_table::PageTable;
use crate::page_table::claims::cursor::Cursor;
use crate::page_table::format::Format;
use crate::page_table::format::entry::{Entry, Leaf, Ownership, RawEntry, RegionId};
use crate::page_table::format::level::{ENTRIES, Level, Pages};
use crate::page_table::lists::chain::Reserve;
use crate::page_table::mapping::changed::Changed;
use crate::page_table::rewrite::{Found, found};
use crate::page_table::tables::memory::{SharesFull, TableAccess, TableMemory, table_at};
use crate::page_table::tables::regions::{self, Kept};
use crate::page_table::tables::table::{Table, TableEntry};

/// The fate of a region's pages in the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inherited {
    /// The same contents.
    Contents,
    /// Pages of this region, not mapped yet.
    Region(RegionId),
    /// Vacant pages.
    Nothing,
}

/// A request to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copied<'a, F, I> {
    /// Whole entries of the root.
    pub pages: Pages,
    /// The page table of the copy, in which the pages are vacant. No CPU uses it.
    pub to: &'a PageTable<F>,
    /// Returns the fate of a region's pages.
    pub inherited: I,
}

/// The reason why a range was not copied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CopyError<E> {
    /// No frame for a table; nothing has changed.
    Tables(E),
    /// A frame has the greatest countable number of holders; a part is copied.
    SharesFull,
    /// Some 1 GiB leaves have contents to copy. Holders are counted for leaves of 2 MiB at most, so
    /// the leaves have to be cut first; nothing has changed.
    Giant,
}

/// Returns whether `pages` of the table in `frame`, of `level`, or of a table below, contain 1 GiB
/// leaves with contents to copy.
#[cold]
fn has_giants<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    inherited: &impl Fn(RegionId) -> Inherited,
) -> bool {
    let Some(below) = level.below().filter(|&below| below >= Level::HUGE) else { return false };
    // SAFETY: the cursor keeps the table linked.
    let table = unsafe { table_at(memory, frame) };
    pages.indexes(level).any(|index| {
        let raw = table.load(index);
        match F::decode(raw, level) {
            Entry::Table(next) => {
                has_giants::<F, M>(memory, next, below, pages.under(level, index), inherited)
            }
            Entry::Leaf(leaf) if leaf.ownership != Ownership::Borrowed => {
                let found = found::<F, M>(memory, frame, index, raw, level);
                matches!(found, Some(Found::Mapped(_, Some(region))) if inherited(region) == Inherited::Contents)
            }
            _ => false,
        }
    })
}

struct Copier<'a, 'r, M: TableMemory, I> {
    memory: &'a M,
    reserve: &'a mut Reserve<'r, M>,
    inherited: I,
    changed: &'a mut Changed,
    /// Number of 4 KiB pages mapped by the copy.
    pages: u64,
}

/// A table and its copy, which no other context uses.
struct Pair<'t> {
    old: &'t Table,
    new: &'t Table,
    /// The regions of the old table's leaves.
    regions: Kept<'t>,
}

/// How to copy entries of a lowest table similar to earlier entries.
struct Known {
    /// The region whose leaves are copied with their contents.
    region: Option<RegionId>,
    /// A mark and its copy: another mark, or none. [`RawEntry::EMPTY`] is copied unchanged.
    mark: RawEntry,
    copied_mark: RawEntry,
}

/// Returns the common contents of all entries of `table`, if they are equal and not present.
fn uniform<F: Format>(table: &Table) -> Option<RawEntry> {
    let first = table.load(0);
    let uniform = !F::is_present(first) && (1..ENTRIES).all(|index| table.load(index) == first);
    uniform.then_some(first)
}

impl<'m, M: TableMemory, I: Fn(RegionId) -> Inherited> Copier<'m, '_, M, I> {
    /// Returns the tables in `from` and in `to`.
    fn pair(&self, from: PhysFrame, to: PhysFrame) -> Pair<'m> {
        // SAFETY: the cursor keeps the old table linked, and the new table is the caller's, until
        // all is copied.
        let (old, new) = unsafe { (table_at(self.memory, from), table_at(self.memory, to)) };
        Pair { old, new, regions: Kept::of(self.memory, from) }
    }

    /// Copies `pages` of the table in `from`, of `level`, to the table in `to`, which no other
    /// context uses.
    fn copy<F: Format>(
        &mut self,
        from: PhysFrame,
        to: PhysFrame,
        level: Level,
        pages: Pages,
    ) -> Result<(), SharesFull> {
        let pair = self.pair(from, to);
        let Some(below) = level.below() else {
            return self.copy_lowest::<F>(&pair, pages);
        };
        for index in pair.old.used(pages.indexes(level)) {
            let raw = pair.old.load(index);
            if raw.unclaimed::<F>() == RawEntry::EMPTY {
                continue;
            }
            let part = pages.under(level, index);
            match F::decode(raw, level) {
                Entry::Table(next) => {
                    if below == Level::PAGE && self.copy_uniform::<F>(next, &pair, index) {
                        continue;
                    }
                    let Some(copy) = self.reserve.take() else {
                        debug_assert!(false, "the plan counted too few tables");
                        return Ok(());
                    };
                    regions::copy(self.memory, self.reserve, next, copy);
                    // Linked first: the dismantling of an unfinished copy finds the table.
                    pair.new.store(index, F::table(copy));
                    self.copy::<F>(next, copy, below, part)?;
                }
                _ => self.copy_entry::<F>(&pair, index, level, part)?,
            }
        }
        Ok(())
    }

    /// Copies the lowest table in `next`, under entry `index` of the pair, if the table is vacant
    /// or contains a single mark. The copy then needs only an entry, and no table. Returns whether
    /// the table was copied.
    fn copy_uniform<F: Format>(&self, next: PhysFrame, pair: &Pair<'_>, index: usize) -> bool {
        // SAFETY: the cursor keeps the table linked.
        let Some(raw) = uniform::<F>(unsafe { table_at(self.memory, next) }) else { return false };
        match F::decode(raw, Level::PAGE) {
            Entry::Mark(region) => pair.new.store(index, self.mark::<F>(region)),
            Entry::Empty => {}
            Entry::Leaf(_) | Entry::Table(_) => return false,
        }
        true
    }

    /// Copies a lowest table, serving `pages`.
    fn copy_lowest<F: Format>(&mut self, pair: &Pair<'_>, pages: Pages) -> Result<(), SharesFull> {
        let mut known = Known { region: None, mark: RawEntry::EMPTY, copied_mark: RawEntry::EMPTY };
        let mut index = 0;
        while index < ENTRIES {
            index = self.copy_known::<F>(pair, index, &known, pages);
            if index < ENTRIES {
                self.copy_entry::<F>(pair, index, Level::PAGE, pages.under(Level::PAGE, index))?;
                self.learn::<F>(pair, index, &mut known);
                index += 1;
            }
        }
        Ok(())
    }

    /// Remembers the copy of the entry at `index`, to be applied to similar entries.
    fn learn<F: Format>(&self, pair: &Pair<'_>, index: usize, known: &mut Known) {
        let raw = pair.old.load(index);
        match F::decode(raw, Level::PAGE) {
            Entry::Mark(_) => (known.mark, known.copied_mark) = (raw, pair.new.load(index)),
            Entry::Leaf(_) => {
                let region = pair.regions.at(index);
                known.region = region.filter(|&region| (self.inherited)(region) == Inherited::Contents);
            }
            Entry::Empty | Entry::Table(_) => {}
        }
    }

    /// Copies entries of a lowest table, serving `pages`, from `index` on, as long as they are
    /// known: vacant, the known mark, or present leaves of the known region, not borrowed and with
    /// room for a further holder. Returns the index of the first unknown entry.
    fn copy_known<F: Format>(&mut self, pair: &Pair<'_>, index: usize, known: &Known, pages: Pages) -> usize {
        match (&pair.regions, known.region) {
            (Kept::One(all), Some(region)) if *all == region => {
                self.copy_if::<F>(pair, index, known, pages, |_| true)
            }
            (Kept::Each(ids), Some(region)) => {
                let id = u64::from(region.get());
                self.copy_if::<F>(pair, index, known, pages, |index| ids.load(index).0 == id)
            }
            _ => self.copy_if::<F>(pair, index, known, pages, |_| false),
        }
    }

    /// Copies like [`Copier::copy_known`]. `is_known` tells whether the leaf at an index is of the
    /// known region.
    // Not inlined, so the loop has all registers.
    #[inline(never)]
    fn copy_if<F: Format>(
        &mut self,
        pair: &Pair<'_>,
        mut index: usize,
        known: &Known,
        pages: Pages,
        is_known: impl Fn(usize) -> bool,
    ) -> usize {
        let memory = self.memory;
        let mut stale: Option<Pages> = None;
        let mut copied = 0;
        while index < ENTRIES {
            let entry = pair.old.entry(index);
            let mut raw = entry.load();
            if F::is_present(raw) {
                let Entry::Leaf(leaf) = F::decode(raw, Level::PAGE) else { break };
                if !is_known(index)
                    || leaf.ownership == Ownership::Borrowed
                    || memory.share(leaf.frame, Level::PAGE).is_err()
                {
                    break;
                }
                if !F::is_shared(raw) {
                    raw = become_shared::<F>(entry, raw);
                    if leaf.protection.access().writes() {
                        let page = pages.first + index as u64;
                        stale = Some(Pages { first: stale.map_or(page, |stale| stale.first), last: page });
                    }
                }
                pair.new.store(index, F::unnoted(raw));
                copied += 1;
            } else if raw != RawEntry::EMPTY {
                if raw != known.mark {
                    break;
                }
                pair.new.store(index, known.copied_mark);
            }
            index += 1;
        }
        self.pages += copied;
        if let Some(stale) = stale {
            self.changed.note_leaves(stale, Level::PAGE, 0);
        }
        index
    }

    /// Copies entry `index` of a table of `level`. The entry serves `part` and leads to no table.
    fn copy_entry<F: Format>(
        &mut self,
        pair: &Pair<'_>,
        index: usize,
        level: Level,
        part: Pages,
    ) -> Result<(), SharesFull> {
        let entry = pair.old.entry(index);
        let raw = entry.load();
        let copy = match F::decode(raw, level) {
            Entry::Empty | Entry::Table(_) => return Ok(()),
            Entry::Mark(region) => self.mark::<F>(region),
            Entry::Leaf(leaf) => match pair.regions.at(index) {
                None => return Ok(()),
                Some(region) if (self.inherited)(region) == Inherited::Contents => {
                    self.pages += part.count();
                    self.share::<F>(entry, raw, leaf, level, part)?
                }
                Some(region) => self.mark::<F>(region),
            },
        };
        pair.new.store(index, copy);
        Ok(())
    }

    /// Returns the copy's entry for unmapped pages of `region`.
    fn mark<F: Format>(&self, region: RegionId) -> RawEntry {
        match (self.inherited)(region) {
            Inherited::Contents => F::mark(region),
            Inherited::Region(wiped) => F::mark(wiped),
            Inherited::Nothing => RawEntry::EMPTY,
        }
    }

    /// Counts a further holder of the frame of `leaf`, unless the frame is borrowed, and makes the
    /// leaf read-only. `raw` is the content of `entry`. Returns the copy's entry.
    fn share<F: Format>(
        &mut self,
        entry: &TableEntry,
        mut raw: RawEntry,
        leaf: Leaf,
        level: Level,
        part: Pages,
    ) -> Result<RawEntry, SharesFull> {
        if leaf.ownership != Ownership::Borrowed {
            self.memory.share(leaf.frame, level)?;
            raw = become_shared::<F>(entry, raw);
            if leaf.protection.access().writes() {
                self.changed.note_leaves(part, level, 0);
            }
        }
        Ok(F::unnoted(raw.unclaimed::<F>()))
    }
}

/// Makes the leaf in `entry`, last read as `raw`, a shared read-only leaf. Returns the new leaf.
pub(super) fn become_shared<F: Format>(entry: &TableEntry, mut raw: RawEntry) -> RawEntry {
    loop {
        let shared = F::shared(raw);
        if shared == raw {
            return raw;
        }
        // The hardware may set accessed and dirty bits in between.
        match entry.compare_exchange(raw, shared) {
            Ok(()) => return shared,
            Err(now) => raw = now,
        }
    }
}

impl<F: Format> PageTable<F> {
    /// Makes the copy described by `copy`, without pages outside regions. Adds the stale
    /// translations to `changed`, and calls `record` with it before another cursor can change the
    /// pages. Returns the result of `record` and the number of 4 KiB pages mapped by the copy.
    pub(crate) fn copy_to<M: TableMemory, T>(
        &self,
        access: TableAccess<'_, M>,
        reserve: &mut Reserve<'_, M>,
        copy: Copied<'_, F, impl Fn(RegionId) -> Inherited>,
        changed: &mut Changed,
        record: impl FnOnce(&mut Changed) -> T,
    ) -> Result<(T, u64), CopyError<M::Error>> {
        let memory = access.memory;
        let Copied { pages, to, inherited } = copy;
        self.note_shared();
        to.note_shared();
        loop {
            let (mut needed, mut giants) = (0, false);
            let cursor = Cursor::<F, M>::lock_roots(self, memory, pages, &mut |entry, level| match entry {
                Entry::Table(table) => needed += 1 + u64::from(regions::has_frame(memory, table)),
                Entry::Leaf(_) => giants |= level > Level::HUGE,
                Entry::Empty | Entry::Mark(_) => {}
            });
            if giants && has_giants::<F, M>(memory, self.root, F::ROOT, pages, &inherited) {
                return Err(CopyError::Giant);
            }
            if needed > reserve.len() {
                drop(cursor);
                reserve.fill_to(needed).map_err(CopyError::Tables)?;
                continue;
            }
            let mut copier = Copier { memory, reserve, inherited: &inherited, changed, pages: 0 };
            let copied = copier.copy::<F>(self.root, to.root, F::ROOT, pages);
            let mapped = copier.pages;
            let recorded = record(changed);
            drop(cursor);
            return match copied {
                Ok(()) => Ok((recorded, mapped)),
                Err(SharesFull) => Err(CopyError::SharesFull),
            };
        }
    }
}
