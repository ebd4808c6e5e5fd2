//! Copying the pages of a range for another space, without copying a frame.
//!
//! Frames that the space has for itself are shared from then on, and no leaf permits writes: the first
//! write by either space finds a copy. The range stays claimed until all of it is copied and the change is
//! recorded. So no page is changed between two that are copied: if the copy has what one write left, it has
//! what all writes before it left.

pub(super) mod lend;

use x86_64::structures::paging::PhysFrame;

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

/// What becomes of the pages of a region in the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inherited {
    /// They have the same contents.
    Contents,
    /// They are of this region, not mapped yet.
    Region(RegionId),
    /// They are vacant.
    Nothing,
}

/// What is to be copied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copied<'a, F, I> {
    /// Whole entries of the root.
    pub pages: Pages,
    /// The page table that gets the copy: the pages are vacant in it, and no CPU uses it.
    pub to: &'a PageTable<F>,
    /// Says what becomes of the pages of a region.
    pub inherited: I,
}

/// Why a range was not copied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CopyError<E> {
    /// No frame for a table; nothing has changed.
    Tables(E),
    /// A frame has as many holders as can be counted; a part is copied.
    SharesFull,
    /// There are leaves of 1 GiB whose contents are to be copied. Their holders are counted by leaves of 2 MiB
    /// at most, so they have to be cut first; nothing has changed.
    Giant,
}

/// Are there leaves of 1 GiB in `pages` of the table in `frame`, of `level`, or below, whose contents are to be
/// copied?
#[cold]
fn has_giants<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    inherited: &impl Fn(RegionId) -> Inherited,
) -> bool {
    let Some(below) = level.below().filter(|&below| below >= Level::HUGE) else { return false };
    // SAFETY: the cursor keeps it linked.
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
    /// How many 4 KiB pages the copy maps.
    pages: u64,
}

/// A table, and the one that gets its copy, which nobody else uses.
struct Pair<'t> {
    old: &'t Table,
    new: &'t Table,
    /// The regions of the old table's leaves.
    regions: Kept<'t>,
}

/// How entries of a lowest table are copied that are like others before.
struct Known {
    /// Leaves of this region are copied with their contents.
    region: Option<RegionId>,
    /// This mark becomes another, or none; [`RawEntry::EMPTY`] becomes itself.
    mark: RawEntry,
    copied_mark: RawEntry,
}

/// Returns what all entries of `table` say, if they say the same and are not present.
fn uniform<F: Format>(table: &Table) -> Option<RawEntry> {
    let first = table.load(0);
    let uniform = !F::is_present(first) && (1..ENTRIES).all(|index| table.load(index) == first);
    uniform.then_some(first)
}

impl<'m, M: TableMemory, I: Fn(RegionId) -> Inherited> Copier<'m, '_, M, I> {
    /// The tables in `from` and in `to`.
    fn pair(&self, from: PhysFrame, to: PhysFrame) -> Pair<'m> {
        // SAFETY: the cursor keeps the one linked, and the other is the caller's, until all is copied.
        let (old, new) = unsafe { (table_at(self.memory, from), table_at(self.memory, to)) };
        Pair { old, new, regions: Kept::of(self.memory, from) }
    }

    /// Copies `pages` of the table in `from`, of `level`, to the one in `to`, which nobody else uses.
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
                    // Linked first: whoever takes an unfinished copy apart finds it.
                    pair.new.store(index, F::table(copy));
                    self.copy::<F>(next, copy, below, part)?;
                }
                _ => self.copy_entry::<F>(&pair, index, level, part)?,
            }
        }
        Ok(())
    }

    /// Copies the lowest table in `next`, which entry `index` of the pair leads to, if it is vacant, or one mark for all
    /// pages: that stands in the entry of the copy, which needs no table. Returns whether it is so.
    fn copy_uniform<F: Format>(&self, next: PhysFrame, pair: &Pair<'_>, index: usize) -> bool {
        // SAFETY: the cursor keeps it linked.
        let Some(raw) = uniform::<F>(unsafe { table_at(self.memory, next) }) else { return false };
        match F::decode(raw, Level::PAGE) {
            Entry::Mark(region) => pair.new.store(index, self.mark::<F>(region)),
            Entry::Empty => {}
            Entry::Leaf(_) | Entry::Table(_) => return false,
        }
        true
    }

    /// Copies a lowest table, which serves `pages`.
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

    /// Learns from the entry at `index`, which has just been copied, how others like it are copied.
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

    /// Copies entries of a lowest table, which serves `pages`, from `index` on, as far as they are known: vacant,
    /// the known mark, or present leaves of the known region that are not borrowed and whose frames can have
    /// one more holder. Returns where that ends.
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

    /// As [`Copier::copy_known`]: the leaf at an index is of the known region if `is_known` says so.
    // Apart, so that the loop has the registers for itself.
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

    /// Copies entry `index` of a table of `level`, which serves `part` and leads to no table.
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

    /// Returns the copy's entry for pages of `region` that are not mapped in it.
    fn mark<F: Format>(&self, region: RegionId) -> RawEntry {
        match (self.inherited)(region) {
            Inherited::Contents => F::mark(region),
            Inherited::Region(wiped) => F::mark(wiped),
            Inherited::Nothing => RawEntry::EMPTY,
        }
    }

    /// Counts a further holder of the frame of `leaf`, which `entry` has (`raw`), unless it is borrowed, and takes
    /// the permission to write. Returns the copy's entry.
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

/// Has the leaf in `entry`, `raw` when last read, share its frame, and not permit writes. Returns the leaf as it
/// is then.
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
    /// Makes the copy that `copy` asks for. Pages of no region are left out. Adds to `changed` what that made stale, and
    /// calls `record` with it before another cursor can change the pages. Returns what that returns, and
    /// how many 4 KiB pages the copy maps.
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
