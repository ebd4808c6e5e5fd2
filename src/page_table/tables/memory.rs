//! The memory of tables: frames, their direct map, and their words of the per-frame table.

use core::fmt;
use core::ptr::NonNull;

use topomem_percpu::sync::atomic::AtomicU32;
use topomem_percpu::{CpuPin, PhysFrame};

use super::table::Table;
use crate::page_table::format::level::Level;
use crate::page_table::reading::walk::{WalkGuard, Walks};

/// The error for a frame whose count of holders is full. The caller copies the frame instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharesFull;

impl fmt::Display for SharesFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the frame has as many holders as can be counted")
    }
}

impl core::error::Error for SharesFull {}

/// The frame allocator's services for page tables.
///
/// # Safety
///
/// - `allocate` hands a frame out only once until its return through `free`, zeroed, with a zero
///   aux word.
/// - `direct_map` of an allocated frame is readable and writable as long as `self` lives.
/// - `aux` is a word per allocated frame, not written by anything else while the frame is
///   allocated.
/// - `link` and `frame_of` are inverse to each other, and no link is 0.
pub unsafe trait TableMemory {
    /// The reason for a missing frame.
    type Error;

    /// Allocates a zeroed frame for a table.
    ///
    /// # Errors
    ///
    /// Returns the allocator's error if no frame is left or the allocator is busy.
    fn allocate(&self, pin: &CpuPin) -> Result<PhysFrame, Self::Error>;

    /// Frees a table's frame.
    ///
    /// # Safety
    ///
    /// The frame came from `allocate`, and nothing uses it any more, no CPU's page walk included.
    unsafe fn free(&self, pin: &CpuPin, frame: PhysFrame);

    /// Returns the address of a frame's bytes.
    fn direct_map(&self, frame: PhysFrame) -> NonNull<u8>;

    /// Returns a frame's word in the per-frame table: the link of a retired frame. Zero while the
    /// frame is a linked lowest table without regions.
    fn aux(&self, frame: PhysFrame) -> &AtomicU32;

    /// Returns the number of the frame in 31 bits, never 0.
    fn link(&self, frame: PhysFrame) -> u32;

    /// Returns the frame numbered by [`TableMemory::link`].
    fn frame_of(&self, link: u32) -> PhysFrame;

    /// Divides the 2 MiB run from `first`, owned by a leaf, into 4 KiB parts, to be owned and freed
    /// separately.
    fn split_run(&self, first: PhysFrame);

    /// Joins the 2 MiB from `first`, owned by 4 KiB leaves, into a run owned by a single leaf and
    /// freed at once. The frames may have been allocated as a run or frame by frame.
    fn join_run(&self, first: PhysFrame);

    /// Counts a further holder of the 4 KiB frame or 2 MiB run `first`, mapped by a leaf of
    /// `level`, at most [`Level::HUGE`]. The new holder is another leaf of `level`. The caller has
    /// claimed the former leaf's entry, or holds the frame otherwise.
    ///
    /// # Errors
    ///
    /// Returns [`SharesFull`] if the count of holders is full. Nothing has changed then.
    fn share(&self, first: PhysFrame, level: Level) -> Result<(), SharesFull>;

    /// Takes away a holder, a leaf of `level` mapping `first`. If the holder was the last, returns
    /// the frame or run for the caller to free, with its level: possibly the run around `first`.
    ///
    /// No TLB holds a translation by the leaf any more, and nothing uses the frame on its behalf.
    fn drop_share(&self, first: PhysFrame, level: Level) -> Option<(PhysFrame, Level)>;

    /// Returns whether the leaf of `level` mapping `first` is the only holder. The caller has
    /// claimed the leaf's entry. If true, no other TLB, space or object uses the frame. Always
    /// false for a 4 KiB part of a run shared as a whole.
    fn is_sole_holder(&self, first: PhysFrame, level: Level) -> bool;

    /// Cuts a shared 2 MiB leaf of the run from `first` into 4 KiB leaves, each a holder from now
    /// on.
    fn split_shared(&self, first: PhysFrame);

    /// Executes a turn of a spin loop, and polls the shootdown queue.
    fn relax(&self);
}

/// Returns the table in `frame`.
///
/// # Safety
///
/// `frame` holds a table of this memory and stays allocated while the reference lives. Either the
/// table is linked into a page table under the caller's claim or walk guard, or the caller owns it.
#[inline]
pub(in crate::page_table) unsafe fn table_at<M: TableMemory + ?Sized>(
    memory: &M,
    frame: PhysFrame,
) -> &Table {
    // SAFETY: the direct map of an allocated frame is valid, aligned to 4096 bytes, and holds 512
    // initialised words (zeroed at the allocation), accessed only as atomics.
    unsafe { memory.direct_map(frame).cast().as_ref() }
}

/// A CPU's means of walking page tables.
#[derive(Debug)]
pub(crate) struct TableAccess<'a, M> {
    /// The memory of tables.
    pub memory: &'a M,
    /// The announcements of walks.
    pub walks: &'a Walks,
    /// The walking CPU.
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
