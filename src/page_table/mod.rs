//! Page tables: trees of frames walked by the hardware.
//!
//! [`Format`] is the architecture's part; [`X64`] is x86-64 with 4 or 5 levels. Changes go through
//! a cursor with claims of only the entries of its range (`claims/cursor.rs` describes the
//! protocol); walks take no claim.
//!
//! `format` has the encoding of entries, `tables` their memory, and `lists` the frames on their way
//! in and out. `claims` has the cursors. The rest is built on these: `mapping` maps frames named by
//! the caller, `rewrite` changes the regions of pages, `faults` handles accesses, `fork` copies
//! without copying frames, `large` makes and cuts large leaves, `freeing` frees tables, and
//! `reading` looks at entries.

mod claims;
mod faults;
mod fork;
mod format;
mod freeing;
mod large;
mod lists;
mod mapping;
mod reading;
mod rewrite;
mod tables;

use core::marker::PhantomData;

use topomem_percpu::sync::atomic::{AtomicU8, Ordering};
use topomem_percpu::{CpuPin, PhysFrame};

pub use claims::claim::LockCounters;
pub(crate) use faults::around::Neighbours;
pub(crate) use faults::resolve::{Answer, Answered};
pub(crate) use fork::lend::{LendError, Lends, Lent};
pub(crate) use fork::{Copied, CopyError, Inherited};
pub(crate) use format::entry::RecordNumber;
pub use format::entry::{Entry, Leaf, Ownership, RawEntry, Reach, RegionId};
pub use format::features::PagingFeatures;
pub(crate) use format::level::Pages;
pub use format::level::{ENTRIES, Level};
pub use format::protection::{Access, Cache, Privilege, Protection, WriteExecute};
pub use format::x64::X64;
pub use format::{Format, Sizes};
pub(crate) use freeing::dismantle::{Dismantled, Forgotten, Users};
pub(crate) use freeing::reclaim::Swept;
pub(crate) use large::promote::{Unfit, Unpromoted};
pub(crate) use large::{Collapse, Collapsed};
pub use lists::chain::Chain;
pub(crate) use lists::chain::Reserve;
pub(crate) use lists::gather::Gather;
pub(crate) use lists::runs::Runs;
pub(crate) use mapping::changed::Changed;
pub(crate) use mapping::exchange::ExchangeError;
pub(crate) use mapping::map::{Attributes, Backing, Chained, Contiguous, FillError};
pub(crate) use mapping::share::{Listed, Unshared};
#[cfg(feature = "x86_64")]
pub(crate) use mapping::{edit_single::ClearPageError, single::Mismatch};
pub use reading::walk::{WalkGuard, Walking, Walks};
pub(crate) use rewrite::leaves::AtOnce;
pub(crate) use rewrite::relocate::{Expects, Left, MovedRegions, RelocateError};
pub(crate) use rewrite::{Becomes, Found, Outcome, Rewrite, RewriteError, Rewritten};
pub(crate) use tables::memory::TableAccess;
pub use tables::memory::{SharesFull, TableMemory};

use tables::memory::table_at;

/// A page table: its root, and the counts of its claims.
///
/// Dropping a page table frees nothing: its owner clears it, and frees the root, after the last use
/// by a CPU.
#[derive(Debug)]
pub(crate) struct PageTable<F> {
    root: PhysFrame,
    root_entries: RootEntries,
    /// The kinds of pages ever mapped: [`SHARED`], [`RECORDS`]. Until then, no change looks for
    /// them.
    had: AtomicU8,
    locks: LockCounters,
    format: PhantomData<fn() -> F>,
}

/// Leaves with shared frames.
const SHARED: u8 = 1;

/// Pages of regions with records.
const RECORDS: u8 = 2;

/// The other users of the tables under a root's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootEntries {
    /// None: an emptied table below the root is unlinked.
    Own,
    /// Other roots: tables below the root stay for good.
    Shared,
}

impl<F: Format> PageTable<F> {
    /// Returns an empty page table.
    pub(crate) fn new<M: TableMemory>(
        memory: &M,
        pin: &CpuPin,
        root_entries: RootEntries,
    ) -> Result<PageTable<F>, M::Error> {
        let root = memory.allocate(pin)?;
        Ok(PageTable {
            root,
            root_entries,
            had: AtomicU8::new(0),
            locks: LockCounters::new(),
            format: PhantomData,
        })
    }

    /// Returns the root table, the start of the hardware's walks.
    pub(crate) fn root(&self) -> PhysFrame {
        self.root
    }

    /// Returns the counts of the claims.
    pub(crate) fn locks(&self) -> &LockCounters {
        &self.locks
    }

    fn note(&self, what: u8) {
        // Relaxed: a searcher of such a page claims the entry after its maker, and the claim orders
        // the two.
        if self.had.load(Ordering::Relaxed) & what == 0 {
            self.had.fetch_or(what, Ordering::Relaxed);
        }
    }

    /// Notes the coming of leaves with shared frames.
    pub(crate) fn note_shared(&self) {
        self.note(SHARED);
    }

    /// Notes the coming of pages of regions with records.
    pub(crate) fn note_records(&self) {
        self.note(RECORDS);
    }

    /// Returns whether leaves claimed by the caller may share a frame.
    #[inline]
    fn has_shared(&self) -> bool {
        // Relaxed, here and below, as in `note`.
        self.had.load(Ordering::Relaxed) & SHARED != 0
    }

    /// Returns whether pages of regions with records may exist.
    pub(crate) fn has_records(&self) -> bool {
        self.had.load(Ordering::Relaxed) & RECORDS != 0
    }

    /// Returns whether pages of either kind may exist.
    #[inline]
    fn has_shared_or_records(&self) -> bool {
        self.had.load(Ordering::Relaxed) != 0
    }

    /// Copies the root's entries from another table's root, except those of `but`. Both roots then share the tables
    /// below.
    ///
    /// # Safety
    ///
    /// `self` is not in use yet. `from` is the root of a table of this format, and the tables below
    /// its entries outlive `self`.
    pub(crate) unsafe fn share_from<M: TableMemory>(&self, memory: &M, from: PhysFrame, but: Pages) {
        // SAFETY: both are live roots; the caller's promise for `from`.
        let (own, other) = unsafe { (table_at(memory, self.root), table_at(memory, from)) };
        let left_out = but.indexes(F::ROOT);
        for index in (0..ENTRIES).filter(|index| !left_out.contains(index)) {
            // The other root's users may be at work. Their claims do not apply to this root.
            own.store(index, other.load(index).unclaimed::<F>());
        }
    }

    /// Returns whether the root is vacant at the entries touched by `pages`.
    pub(crate) fn root_entries_vacant<M: TableMemory>(&self, memory: &M, pages: Pages) -> bool {
        // SAFETY: the root lives as long as `self`.
        let root = unsafe { table_at(memory, self.root) };
        pages.by_entry(F::ROOT).all(|part| root.load(F::ROOT.index(part.first)) == RawEntry::EMPTY)
    }

    /// Gives each of the root's entries touched by `pages` a table if missing. The tables stay,
    /// since other roots copy the entries from now on.
    pub(crate) fn root_tables<M: TableMemory>(
        &self,
        memory: &M,
        reserve: &mut Reserve<'_, M>,
        pages: Pages,
    ) -> Result<(), M::Error> {
        // SAFETY: the root lives as long as `self`.
        let root = unsafe { table_at(memory, self.root) };
        for part in pages.by_entry(F::ROOT) {
            let index = F::ROOT.index(part.first);
            if root.load(index) != RawEntry::EMPTY {
                continue;
            }
            reserve.fill_to(1)?;
            if let Some(table) = reserve.take()
                && root.compare_exchange(index, RawEntry::EMPTY, F::table(table)).is_err()
            {
                reserve.put_back(table);
            }
        }
        Ok(())
    }
}

#[cfg(all(test, loom))]
mod models;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
