//! Frames and tables on their way back to the allocator.
//!
//! Frames and tables removed from a page table stay allocated until no TLB and no page walk can
//! reach them. Until then they hang on chains through the per-frame table: nothing is allocated,
//! and no byte of a frame still visible through a stale translation is written.
//!
//! Shares of frames with several holders are dropped at the same time, and not before. As long as a
//! stale translation may show a shared frame, no other space may consider itself the only holder. A
//! frame may be leaving several spaces at once; shares are therefore listed in pages of their own.

mod callback;
mod list;

pub use callback::Callback;
pub(crate) use callback::{Callbacks, Due};
pub(crate) use list::{Parked, RetireList};

use topomem_numa::frames::Frames;
use topomem_percpu::{CpuPin, Order, PhysFrame, Platform};

use crate::budget::Budget;
use crate::page_table::{Chain, Gather, Level, Runs, TableMemory, Walks};
use crate::service::memory::frame_memory;

/// Unlinked tables and owned frames, not yet free, and shares, not yet dropped.
#[derive(Debug)]
#[must_use = "dropped, it leaks its frames"]
pub(crate) struct Retired {
    pub tables: Chain,
    /// 4 KiB frames.
    pub frames: Chain,
    /// 2 MiB runs.
    pub runs: Runs,
    pub shares: Gather,
}

/// Number of frames of a run freed between checks of the budget.
const PART: u64 = 512;

impl Retired {
    pub(crate) const NOTHING: Retired =
        Retired { tables: Chain::EMPTY, frames: Chain::EMPTY, runs: Runs::EMPTY, shares: Gather::EMPTY };

    pub(crate) fn tables(tables: Chain) -> Retired {
        Retired { tables, ..Retired::NOTHING }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        (self.tables.len() | self.frames.len() | self.runs.len() == 0) && self.shares.is_empty()
    }

    /// Returns the number of 4 KiB frames, owned and shared.
    pub(crate) fn frame_count<M: TableMemory>(&self, memory: &M) -> u64 {
        self.owned_count() + self.shares.frames(memory)
    }

    /// Returns the number of owned 4 KiB frames.
    fn owned_count(&self) -> u64 {
        self.tables.len() + self.frames.len() + self.runs.len() * Order::HUGE.frames()
    }

    /// Adds the frames owned by a leaf of `level`. A leaf of 1 GiB, made by promotion, owned runs
    /// of 2 MiB.
    #[inline]
    pub(crate) fn push<M: TableMemory>(&mut self, memory: &M, first: PhysFrame, level: Level) {
        if level == Level::PAGE {
            self.frames.push(memory, first);
        } else {
            (0..level.pages())
                .step_by(Level::HUGE.pages() as usize)
                .for_each(|run| self.runs.push(memory, first + run));
        }
    }

    /// Takes over all of `other`, in constant time.
    #[inline]
    pub(crate) fn append<P: Platform>(&mut self, frames: &Frames<P>, other: Retired) {
        self.shares.append(frames, other.shares);
        self.tables.append(frames, other.tables);
        self.frames.append(frames, other.frames);
        self.runs.append(frames, other.runs);
    }

    /// Frees everything, except tables a software walk may still read.
    ///
    /// # Safety
    ///
    /// No TLB holds a translation to the frames, and no CPU's page walker reads the tables: their
    /// invalidation is done, or the space was idle since before they were removed.
    #[inline]
    pub(crate) unsafe fn free<P: Platform>(&mut self, frames: &Frames<P>, walks: &Walks, pin: &CpuPin) {
        while let Some((first, count)) = self.frames.pop_run(frames) {
            // SAFETY: the mapping owned the frames, and the caller's promise.
            unsafe { frame_memory::release_consecutive(frames, pin, first, count) };
        }
        if (self.runs.len() | self.tables.len()) != 0 || !self.shares.is_empty() {
            // SAFETY: as above.
            unsafe { self.free_rest(frames, walks, pin) };
        }
    }

    /// Frees everything except the 4 KiB frames owned by leaves, which are the usual case. Not
    /// inlined, so the usual case is inlined into its callers.
    ///
    /// # Safety
    ///
    /// As for [`Retired::free`].
    #[cold]
    #[inline(never)]
    unsafe fn free_rest<P: Platform>(&mut self, frames: &Frames<P>, walks: &Walks, pin: &CpuPin) {
        while let Some(run) = self.runs.pop(frames) {
            // SAFETY: the mapping owned the run, and the caller's promise.
            unsafe { frame_memory::release(frames, pin, run, Order::HUGE) };
        }
        // SAFETY: the caller's promise.
        unsafe { drop_shares(&mut self.shares, frames, pin, &mut Budget::unlimited()) };
        if !self.tables.is_empty() && walks.wait_for_others(pin, || frames.platform().relax()) {
            while let Some((first, count)) = self.tables.pop_run(frames) {
                // SAFETY: the caller's promise, and no software walk able to see a linked table is
                // under way.
                unsafe { frame_memory::release_tables(frames, pin, first, count) };
            }
        }
    }

    /// Frees everything like [`Retired::free`], as far as `budget` allows. Returns the number of 4
    /// KiB frames freed.
    ///
    /// # Safety
    ///
    /// As for [`Retired::free`].
    pub(crate) unsafe fn free_within<P: Platform>(
        &mut self,
        frames: &Frames<P>,
        walks: &Walks,
        pin: &CpuPin,
        budget: &mut Budget,
    ) -> u64 {
        let before = self.owned_count();
        // SAFETY: the caller's promise.
        let unshared = unsafe { drop_shares(&mut self.shares, frames, pin, budget) };
        while !budget.is_spent()
            && let Some((first, count)) = self.frames.pop_part(frames, PART)
        {
            budget.spend(count);
            // SAFETY: the mapping owned the frames, and the caller's promise.
            unsafe { frame_memory::release_consecutive(frames, pin, first, count) };
        }
        while !budget.is_spent()
            && let Some(run) = self.runs.pop(frames)
        {
            budget.spend(1);
            // SAFETY: as above.
            unsafe { frame_memory::release(frames, pin, run, Order::HUGE) };
        }
        if !budget.is_spent()
            && !self.tables.is_empty()
            && walks.wait_for_others(pin, || frames.platform().relax())
        {
            while !budget.is_spent()
                && let Some((first, count)) = self.tables.pop_part(frames, PART)
            {
                budget.spend(count);
                // SAFETY: as in `free`.
                unsafe { frame_memory::release_tables(frames, pin, first, count) };
            }
        }
        unshared + before - self.owned_count()
    }
}

/// Drops shares as far as `budget` allows, and frees frames without further holders, and emptied
/// gather pages. Returns the number of 4 KiB frames freed.
///
/// # Safety
///
/// No TLB holds a translation made by the shares' leaves.
#[cold]
pub(crate) unsafe fn drop_shares<P: Platform>(
    shares: &mut Gather,
    frames: &Frames<P>,
    pin: &CpuPin,
    budget: &mut Budget,
) -> u64 {
    let mut spent = Chain::EMPTY;
    let mut freed = 0;
    while !budget.is_spent()
        && let Some((first, level)) = shares.take(frames, &mut spent)
    {
        budget.spend(1);
        if let Some((first, level)) = frames.drop_share(first, level) {
            let order = if level == Level::PAGE { Order::FRAME } else { Order::HUGE };
            // SAFETY: the last holder is gone, and the promises of all holders' callers.
            unsafe { frame_memory::release(frames, pin, first, order) };
            freed += level.pages();
        }
    }
    freed += spent.len();
    while let Some((first, count)) = spent.pop_run(frames) {
        // SAFETY: gather pages are owned by the list alone.
        unsafe { frame_memory::release_tables(frames, pin, first, count) };
    }
    freed
}
