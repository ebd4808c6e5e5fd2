//! Page tables: trees of frames that the hardware walks.
//!
//! [`Format`] is what an architecture adds; [`X64`] is x86-64 with 4 or 5 levels. Changes go
//! through a cursor that claims only the entries of its range (the protocol is described in
//! `claims/cursor.rs`); walks take no claim.
//!
//! `format` says what entries look like, `tables` where they lie, and `lists` keeps frames on their way in and out.
//! `claims` has the cursors. All else is built on these: `mapping` maps frames that the caller names, `rewrite`
//! changes the regions of pages, `faults` answers accesses, `fork` copies without copying frames, `large` makes
//! and cuts large leaves, `freeing` takes tables back, and `reading` looks at what is there.

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

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{AtomicU8, Ordering};
use x86_64::structures::paging::PhysFrame;

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
pub(crate) use mapping::single::{ClearPageError, Mismatch};
pub use reading::walk::{WalkGuard, Walks};
pub(crate) use rewrite::leaves::AtOnce;
pub(crate) use rewrite::relocate::{Expects, Left, MovedRegions, RelocateError};
pub(crate) use rewrite::{Becomes, Found, Outcome, Rewrite, RewriteError, Rewritten};
pub(crate) use tables::memory::TableAccess;
pub use tables::memory::{SharesFull, TableMemory};

use tables::memory::table_at;

/// A page table: its root, and what its claims have seen.
///
/// Dropping it frees nothing: its owner clears it, and frees the root, once no CPU uses it.
#[derive(Debug)]
pub(crate) struct PageTable<F> {
    root: PhysFrame,
    root_entries: RootEntries,
    /// What any of its pages has ever had: [`SHARED`], [`RECORDS`]. Until then, no change looks for it.
    had: AtomicU8,
    locks: LockCounters,
    format: PhantomData<fn() -> F>,
}

/// Leaves that share their frames.
const SHARED: u8 = 1;

/// Pages whose regions have records.
const RECORDS: u8 = 2;

/// Who else has what a root's entries point to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootEntries {
    /// Nobody: an emptied table below the root is unlinked.
    Own,
    /// Other roots: tables below the root stay for good.
    Shared,
}

impl<F: Format> PageTable<F> {
    /// An empty page table.
    pub fn new<M: TableMemory>(
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

    /// The table that the hardware starts at.
    pub fn root(&self) -> PhysFrame {
        self.root
    }

    /// What the claims have seen.
    pub fn locks(&self) -> &LockCounters {
        &self.locks
    }

    fn note(&self, what: u8) {
        // Relaxed: whoever looks for such a page has its entry for itself after the one who made it.
        if self.had.load(Ordering::Relaxed) & what == 0 {
            self.had.fetch_or(what, Ordering::Relaxed);
        }
    }

    /// Notes that leaves which share frames are about to be made.
    pub fn note_shared(&self) {
        self.note(SHARED);
    }

    /// Notes that pages whose regions have records are about to be made.
    pub fn note_records(&self) {
        self.note(RECORDS);
    }

    /// May there be leaves that share a frame, in what the caller has for itself?
    #[inline]
    fn has_shared(&self) -> bool {
        // Relaxed, here and below, as in `note`.
        self.had.load(Ordering::Relaxed) & SHARED != 0
    }

    /// May there be pages whose regions have records?
    pub fn has_records(&self) -> bool {
        self.had.load(Ordering::Relaxed) & RECORDS != 0
    }

    /// May there be pages of either kind?
    #[inline]
    fn has_shared_or_records(&self) -> bool {
        self.had.load(Ordering::Relaxed) != 0
    }

    /// Copies the root's entries `first..` from another table's root: both then share what is
    /// below.
    ///
    /// # Safety
    ///
    /// `self` is in use by nobody yet; `from` is the root of a table of this format, and the
    /// tables below those entries outlive `self`.
    pub unsafe fn share_from<M: TableMemory>(&self, memory: &M, from: PhysFrame, first: usize) {
        // SAFETY: both are roots that live; the caller's promise for `from`.
        let (own, other) = unsafe { (table_at(memory, self.root), table_at(memory, from)) };
        for index in first..ENTRIES {
            // The other root's users may be at work. Their claims are not for this one.
            own.store(index, other.load(index).unclaimed::<F>());
        }
    }

    /// Has the root nothing at the entries that `pages` touches?
    pub fn root_entries_vacant<M: TableMemory>(&self, memory: &M, pages: Pages) -> bool {
        // SAFETY: the root lives as long as `self`.
        let root = unsafe { table_at(memory, self.root) };
        pages.by_entry(F::ROOT).all(|part| root.load(F::ROOT.index(part.first)) == RawEntry::EMPTY)
    }

    /// Gives each of the root's entries that `pages` touches a table, where it has none: what
    /// other roots copy from then on stays.
    pub fn root_tables<M: TableMemory>(
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
