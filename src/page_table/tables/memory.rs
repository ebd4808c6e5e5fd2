//! Where tables live: frames, their direct map, and their words of the per-frame table.

use core::fmt;
use core::ptr::NonNull;

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::AtomicU32;
use x86_64::structures::paging::PhysFrame;

use super::table::Table;
use crate::page_table::format::level::Level;
use crate::page_table::reading::walk::{WalkGuard, Walks};

/// A frame counts as many holders as its word has room for; the caller copies the frame instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharesFull;

impl fmt::Display for SharesFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the frame has as many holders as can be counted")
    }
}

impl core::error::Error for SharesFull {}

/// What page tables need from the frame allocator.
///
/// # Safety
///
/// - `allocate` hands out a frame to nobody else until it comes back through `free`, zeroed by
///   then, and its aux word zero.
/// - `direct_map` of an allocated frame is readable and writable, for as long as `self` lives.
/// - `aux` is one word per allocated frame that nobody else writes while the frame is
///   allocated; `link` and `frame_of` are each other's inverse, and no link is 0.
pub unsafe trait TableMemory {
    /// Why no frame came.
    type Error;

    /// A zeroed frame for a table.
    ///
    /// # Errors
    ///
    /// Whatever keeps the allocator from giving one.
    fn allocate(&self, pin: &CpuPin) -> Result<PhysFrame, Self::Error>;

    /// Takes a table's frame back.
    ///
    /// # Safety
    ///
    /// It came from `allocate`, and nothing (no CPU's page walk included) uses it any more.
    unsafe fn free(&self, pin: &CpuPin, frame: PhysFrame);

    /// Where a frame's bytes are.
    fn direct_map(&self, frame: PhysFrame) -> NonNull<u8>;

    /// A frame's word in the per-frame table: a retired frame's link. Zero while the frame is a linked
    /// table.
    fn aux(&self, frame: PhysFrame) -> &AtomicU32;

    /// A number of the frame in 31 bits, never 0.
    fn link(&self, frame: PhysFrame) -> u32;

    /// The frame that [`TableMemory::link`] numbered so.
    fn frame_of(&self, link: u32) -> PhysFrame;

    /// The 2 MiB run from `first`, which a leaf owns, is from now on owned, and freed, in 4 KiB
    /// parts.
    fn split_run(&self, first: PhysFrame);

    /// The 2 MiB from `first`, which 4 KiB leaves own, are from now on one leaf's, and freed at
    /// once: whether they were allocated as a run or frame by frame.
    fn join_run(&self, first: PhysFrame);

    /// Counts a further holder of the 4 KiB frame or 2 MiB run `first` that a leaf of `level`, at most
    /// [`Level::HUGE`], maps: another leaf of that level. The caller has the former leaf's entry for
    /// itself, or holds the frame otherwise.
    ///
    /// # Errors
    ///
    /// [`SharesFull`]; nothing has changed.
    fn share(&self, first: PhysFrame, level: Level) -> Result<(), SharesFull>;

    /// Takes away one holder, a leaf of `level` that mapped `first`. Where that was the last, the frame
    /// or run that is the caller's to free comes back, with its level: it may be the run that `first`
    /// is a part of.
    ///
    /// No TLB holds a translation by that leaf any more, and nothing else uses the frame in its name.
    fn drop_share(&self, first: PhysFrame, level: Level) -> Option<(PhysFrame, Level)>;

    /// Returns whether the leaf of `level` that maps `first`, whose entry the caller has for itself, is
    /// the only holder. Then no other TLB, space or object uses the frame. Of a 4 KiB part of a run that
    /// was shared as a whole this is never said.
    fn is_sole_holder(&self, first: PhysFrame, level: Level) -> bool;

    /// A 2 MiB leaf that shares the run from `first` is cut into 4 KiB ones, each a holder from now on.
    fn split_shared(&self, first: PhysFrame);

    /// One turn of a spin loop; polls the shootdown queue.
    fn relax(&self);
}

/// The table in `frame`.
///
/// # Safety
///
/// `frame` holds a table of this memory and stays allocated while the reference lives: it is linked into a page
/// table under a claim or walk guard that the caller holds, or it is the caller's alone.
#[inline]
pub(in crate::page_table) unsafe fn table_at<M: TableMemory + ?Sized>(
    memory: &M,
    frame: PhysFrame,
) -> &Table {
    // SAFETY: the direct map of an allocated frame is valid, aligned to 4096 bytes, and holds
    // 512 initialised words (it was zeroed) that are only ever accessed as atomics.
    unsafe { memory.direct_map(frame).cast().as_ref() }
}

/// What a CPU needs to go through page tables.
#[derive(Debug)]
pub(crate) struct TableAccess<'a, M> {
    /// Where tables live.
    pub memory: &'a M,
    /// Where walks announce themselves.
    pub walks: &'a Walks,
    /// The CPU that walks.
    pub pin: &'a CpuPin,
}

impl<M> Clone for TableAccess<'_, M> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for TableAccess<'_, M> {}

impl<'a, M> TableAccess<'a, M> {
    /// Announces a walk, until the guard is dropped.
    #[inline]
    pub(in crate::page_table) fn enter(self) -> WalkGuard<'a> {
        self.walks.enter(self.pin)
    }
}
