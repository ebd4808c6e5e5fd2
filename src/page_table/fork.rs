//! Copying the pages of a range for another space, without copying a frame.
//!
//! Frames that the space has for itself are shared from then on, and no leaf permits writes: the first
//! write by either space finds a copy. The range stays claimed until all of it is copied and the change is
//! recorded. So no page is changed between two that are copied: if the copy has what one write left, it has
//! what all writes before it left.

use x86_64::structures::paging::PhysFrame;

use super::PageTable;
use super::chain::Reserve;
use super::change::Changed;
use super::cursor::Cursor;
use super::entry::{Entry, Leaf, Ownership, RawEntry, RegionId};
use super::format::Format;
use super::level::{Level, Pages};
use super::memory::{SharesFull, TableAccess, TableMemory, table_at};
use super::protection::{Access, Protection};
use super::regions;
use super::rewrite::{Found, found};
use super::table::TableEntry;

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

/// How many frames a copy of `pages` of the table in `frame`, of `level`, needs for tables below it; `None` if
/// leaves of 1 GiB are to be copied.
fn plan<F: Format, M: TableMemory>(
    memory: &M,
    frame: PhysFrame,
    level: Level,
    pages: Pages,
    inherited: &impl Fn(RegionId) -> Inherited,
) -> Option<u64> {
    let Some(below) = level.below() else { return Some(0) };
    // SAFETY: the cursor keeps it linked.
    let table = unsafe { table_at(memory, frame) };
    let mut needed = 0;
    for index in pages.indexes(level) {
        let raw = table.load(index);
        if raw == RawEntry::EMPTY {
            continue;
        }
        if let Entry::Table(next) = F::decode(raw, level) {
            needed += 1 + u64::from(regions::has_frame(memory, next));
            if below > Level::PAGE {
                needed += plan::<F, M>(memory, next, below, pages.under(level, index), inherited)?;
            }
        } else if level > Level::HUGE
            && let Some(Found::Mapped(leaf, Some(region))) = found::<F, M>(memory, frame, index, raw, level)
            && leaf.ownership != Ownership::Borrowed
            && inherited(region) == Inherited::Contents
        {
            return None;
        }
    }
    Some(needed)
}

/// The same without the permission to write.
fn without_write(protection: Protection) -> Protection {
    let access = protection.access();
    if access.writes() {
        protection.with_access(Access::from_bits(false, access.executes()))
    } else {
        protection
    }
}

struct Copier<'a, 'r, M: TableMemory, I> {
    memory: &'a M,
    reserve: &'a mut Reserve<'r, M>,
    inherited: I,
    changed: &'a mut Changed,
    /// How many 4 KiB pages the copy maps.
    pages: u64,
}

impl<M: TableMemory, I: Fn(RegionId) -> Inherited> Copier<'_, '_, M, I> {
    /// Copies `pages` of the table in `from`, of `level`, to the one in `to`, which nobody else uses.
    fn copy<F: Format>(
        &mut self,
        from: PhysFrame,
        to: PhysFrame,
        level: Level,
        pages: Pages,
    ) -> Result<(), SharesFull> {
        let Some(below) = level.below() else {
            return self.copy_leaves::<F>(from, to, level, pages);
        };
        // SAFETY: the cursor keeps it linked.
        let old = unsafe { table_at(self.memory, from) };
        for index in pages.indexes(level) {
            let raw = old.load(index);
            if raw == RawEntry::EMPTY {
                continue;
            }
            let part = pages.under(level, index);
            if let Entry::Table(next) = F::decode(raw, level) {
                let Some(copy) = self.reserve.take() else {
                    debug_assert!(false, "the plan counted too few tables");
                    return Ok(());
                };
                regions::copy(self.memory, self.reserve, next, copy);
                // Linked first: whoever takes an unfinished copy apart finds it.
                // SAFETY: the table is the caller's.
                unsafe { table_at(self.memory, to) }.store(index, F::table(copy));
                self.copy::<F>(next, copy, below, part)?;
            } else {
                self.copy_leaves::<F>(from, to, level, part)?;
            }
        }
        Ok(())
    }

    /// Copies leaves and marks: the entries of `pages` in the table in `from`, of `level`.
    #[inline]
    fn copy_leaves<F: Format>(
        &mut self,
        from: PhysFrame,
        to: PhysFrame,
        level: Level,
        pages: Pages,
    ) -> Result<(), SharesFull> {
        // SAFETY: the cursor keeps the one linked; the other is the caller's.
        let (old, new) = unsafe { (table_at(self.memory, from), table_at(self.memory, to)) };
        // Most pages are of the region of the page before.
        let mut last = None;
        for index in pages.indexes(level) {
            let entry = old.entry(index);
            let raw = entry.load();
            if raw == RawEntry::EMPTY {
                continue;
            }
            let (region, leaf) = match F::decode(raw, level) {
                Entry::Mark(region) => (region, None),
                Entry::Leaf(leaf) => match regions::region_of(self.memory, from, index) {
                    Some(region) => (region, Some(leaf)),
                    None => continue,
                },
                Entry::Empty | Entry::Table(_) => continue,
            };
            let inherited = match last {
                Some((known, inherited)) if known == region => inherited,
                _ => (self.inherited)(region),
            };
            last = Some((region, inherited));
            let copy = match (inherited, leaf) {
                (Inherited::Nothing, _) => continue,
                (Inherited::Region(wiped), _) => F::mark(wiped),
                (Inherited::Contents, None) => F::mark(region),
                (Inherited::Contents, Some(leaf)) => {
                    let part = pages.under(level, index);
                    self.pages += part.count();
                    F::leaf(&self.share::<F>(entry, raw, leaf, level, part)?, level)
                }
            };
            new.store(index, copy);
        }
        Ok(())
    }

    /// Counts a further holder of the frame of `leaf`, which `entry` has (`raw`), unless it is borrowed, and takes
    /// the permission to write. Returns the leaf that both have from then on.
    fn share<F: Format>(
        &mut self,
        entry: &TableEntry,
        mut raw: RawEntry,
        leaf: Leaf,
        level: Level,
        part: Pages,
    ) -> Result<Leaf, SharesFull> {
        if leaf.ownership == Ownership::Borrowed {
            return Ok(leaf);
        }
        self.memory.share(leaf.frame, level)?;
        let shared =
            Leaf { protection: without_write(leaf.protection), ownership: Ownership::Shared, ..leaf };
        if leaf != shared {
            // The hardware may set accessed and dirty bits in between.
            while let Err(now) = entry
                .compare_exchange(raw, F::merge_marks(F::leaf(&shared, level), raw).claimed_like::<F>(raw))
            {
                raw = now;
            }
        }
        if leaf.protection != shared.protection {
            self.changed.note_leaves(part, level, 0);
        }
        Ok(shared)
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
            let cursor = Cursor::<F, M>::lock(self, access, pages);
            let needed = plan::<F, M>(memory, self.root, F::ROOT, pages, &inherited);
            let needed = needed.ok_or(CopyError::Giant)?;
            if needed > reserve.len() {
                drop(cursor);
                reserve.fill_to(needed).map_err(CopyError::Tables)?;
                continue;
            }
            let mut copier = Copier { memory, reserve, inherited: &inherited, changed, pages: 0 };
            let copied = copier.copy::<F>(self.root, to.root, F::ROOT, pages);
            let mapped = copier.pages;
            let recorded = record(changed);
            return match copied {
                Ok(()) => Ok((recorded, mapped)),
                Err(SharesFull) => Err(CopyError::SharesFull),
            };
        }
    }
}
