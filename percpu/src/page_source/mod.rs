//! The source of the heap's pages.

pub(crate) mod early;
mod forward;

use core::fmt;
use core::ptr::NonNull;

#[cfg(feature = "leak-tracking")]
use crate::Caller;
#[cfg(feature = "hardening")]
use crate::Report;
use crate::{CpuId, CpuPin, InvalidFree, NodeId, Order, RunLength};

/// No memory is available; nothing has changed.
///
/// ```
/// use topomem_percpu::OutOfMemory;
///
/// assert!(!OutOfMemory.to_string().is_empty());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// The length of a run cannot change in place; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotInPlace;

impl fmt::Display for NotInPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the run cannot have another length where it is")
    }
}

impl core::error::Error for NotInPlace {}

/// The allocator below the heap: provides runs of pages, and tells the node of a CPU.
///
/// The heap calls the source in the context of each use of the heap, interrupt handlers included, but
/// never with a lock of the heap held. A source must not allocate from the heap above. A source
/// without free pages may call [`Heap::reclaim`](crate::Heap::reclaim).
///
/// # Safety
///
/// A run returned by `allocate` is valid for reads and writes of [`Order::bytes`] bytes, and has no
/// further users until the run is passed to `free`. The same holds for `allocate_run`,
/// [`RunLength::bytes`] and `free_run`. (The heap checks the alignment of a run, and refuses
/// a misaligned run.)
pub unsafe trait PageSource: Sync {
    /// Returns a run of `order`, aligned to its size, on `node` if possible, else near it. The
    /// bytes are arbitrary.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfMemory`] if no node has a free run of the size.
    fn allocate(&self, pin: &CpuPin, node: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory>;

    /// Frees a run.
    ///
    /// # Safety
    ///
    /// `run` came from [`PageSource::allocate`] with the same `order`, and is not used any more.
    unsafe fn free(&self, pin: &CpuPin, run: NonNull<u8>, order: Order);

    /// Returns a run of `length`, aligned to the size of a run of `align`, on `node` if possible,
    /// else near it. The bytes are arbitrary. `align` is at most the order holding the length,
    /// and equal to the order if the length is an order's.
    ///
    /// The default implementation returns a run of an order, and the pages beyond the length stay
    /// unused: up to half of the run. A source that can allocate other lengths overrides this
    /// method and [`PageSource::free_run`], and then no page is unused.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfMemory`] if no node has a free run of the size.
    fn allocate_run(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let _ = align;
        self.allocate(pin, node, length.holding_order())
    }

    /// Returns a run as [`PageSource::allocate_run`] does, with all bytes zero.
    ///
    /// The default implementation writes zeroes to a run of that method. A source with zeroed
    /// pages, or with another way to zero them, overrides this method.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfMemory`] if no node has a free run of the size.
    fn allocate_run_zeroed(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let run = self.allocate_run(pin, node, length, align)?;
        // SAFETY: the run has `length` bytes, and no further users.
        unsafe { run.write_bytes(0, length.bytes() as usize) };
        Ok(run)
    }

    /// Frees a run returned by [`PageSource::allocate_run`].
    ///
    /// # Safety
    ///
    /// `run` came from [`PageSource::allocate_run`], has `length`, and is not used any more.
    unsafe fn free_run(&self, pin: &CpuPin, run: NonNull<u8>, length: RunLength) {
        // SAFETY: `allocate_run` took the run from `allocate`, with the order of `length`.
        unsafe { self.free(pin, run, length.holding_order()) };
    }

    /// Makes a run longer in place, by the pages directly behind the run. The bytes of the pages are arbitrary.
    /// From here on the run has length `to`, and is no different from other runs of that length.
    ///
    /// The default implementation succeeds if the run of the default [`PageSource::allocate_run`]
    /// has room for the new length. A source that overrides that method overrides this method, too.
    ///
    /// # Errors
    ///
    /// Returns [`NotInPlace`] if the pages are not free, or if the source cannot tell.
    ///
    /// # Safety
    ///
    /// `run` is a run of length `from`, shorter than `to`, from
    /// [`PageSource::allocate_run`].
    unsafe fn extend_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        let _ = (pin, run);
        if from.holding_order() == to.holding_order() { Ok(()) } else { Err(NotInPlace) }
    }

    /// Frees the pages at the end of a run. From here on the run has length `to`, and is no
    /// different from other runs of that length.
    ///
    /// The default implementation succeeds if the run of the default [`PageSource::allocate_run`]
    /// would be the same for the new length. A source that overrides that method overrides this
    /// method, too.
    ///
    /// # Errors
    ///
    /// Returns [`NotInPlace`] if the source cannot free a part of the run.
    ///
    /// # Safety
    ///
    /// `run` is a run of length `from`, longer than `to`, from
    /// [`PageSource::allocate_run`]. The pages beyond `to` are not used any more after a success.
    unsafe fn shrink_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        let _ = (pin, run);
        if from.holding_order() == to.holding_order() { Ok(()) } else { Err(NotInPlace) }
    }

    /// Returns true if an object of `pages` 4 KiB pages is to be a range
    /// ([`PageSource::allocate_range`]) even if a run is available. The default implementation
    /// returns false.
    ///
    /// A source with ranges returns true for more than 1 GiB, longer than any run, and for lengths
    /// for which the source prefers to save runs.
    fn wants_range(&self, pages: u64) -> bool {
        let _ = pages;
        false
    }

    /// Returns a range: `pages` 4 KiB pages at consecutive addresses, valid for reads and writes,
    /// near `node` if possible, at any physical addresses. The first address is a multiple of a run
    /// of `align`. The bytes are arbitrary, and have no further users until the range is passed to
    /// [`PageSource::free_range`].
    ///
    /// The heap never writes to a range, and records no range. The default implementation has no
    /// ranges.
    ///
    /// # Errors
    ///
    /// Returns [`OutOfMemory`] without pages, addresses, or a range of the alignment, or if the source
    /// cannot make a range in the calling context.
    fn allocate_range(
        &self,
        pin: &CpuPin,
        node: NodeId,
        pages: u64,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let _ = (pin, node, pages, align);
        Err(OutOfMemory)
    }

    /// Returns a range as [`PageSource::allocate_range`] does, with all bytes zero. The default
    /// implementation has no ranges.
    ///
    /// # Errors
    ///
    /// As for [`PageSource::allocate_range`].
    fn allocate_range_zeroed(
        &self,
        pin: &CpuPin,
        node: NodeId,
        pages: u64,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let _ = (pin, node, pages, align);
        Err(OutOfMemory)
    }

    /// Returns the number of pages of the range at `memory`, or `None` if no range starts at `memory`.
    /// Accepts any `memory`. The default implementation returns `None`.
    fn range_at(&self, pin: &CpuPin, memory: NonNull<u8>) -> Option<u64> {
        let _ = (pin, memory);
        None
    }

    /// Frees a range.
    ///
    /// # Errors
    ///
    /// Returns [`NotInPlace`] if no range starts at `range`; nothing has changed.
    ///
    /// # Safety
    ///
    /// `range` came from [`PageSource::allocate_range`], and is not used any more.
    unsafe fn free_range(&self, pin: &CpuPin, range: NonNull<u8>) -> Result<(), NotInPlace> {
        let _ = (pin, range);
        Err(NotInPlace)
    }

    /// Changes the length of a range, in place or by a move of the mapping, without a copy. Returns
    /// the new address. The bytes of further pages are arbitrary.
    ///
    /// # Errors
    ///
    /// Returns [`NotInPlace`] if the source cannot change the length, or not now; nothing has changed.
    ///
    /// # Safety
    ///
    /// `range` came from [`PageSource::allocate_range`]. Bytes beyond the new length are not used
    /// any more; if the range was moved, `range` is not used any more.
    unsafe fn resize_range(
        &self,
        pin: &CpuPin,
        range: NonNull<u8>,
        pages: u64,
    ) -> Result<NonNull<u8>, NotInPlace> {
        let _ = (pin, range, pages);
        Err(NotInPlace)
    }

    /// Returns the node with the best memory for `cpu`: the CPU's own, or the nearest node with memory.
    /// Returns the same node at every call. The heap keeps the CPU's allocations with the slabs of
    /// the node, and requests the node's pages. A CPU caches freed objects of the node's slabs
    /// only; all further objects are returned to the nodes of the objects.
    fn node_of_cpu(&self, cpu: CpuId) -> NodeId;

    /// Returns the node serving requests for `node`: `node` if `node` has memory,
    /// else the nearest node with memory. Returns `None` if no node has memory. Returns
    /// the same node at every call.
    ///
    /// Called by [`Heap::on`](crate::Heap::on). A source of a single node need not implement the method: the
    /// default implementation knows node 0 only.
    fn node_with_memory(&self, node: NodeId) -> Option<NodeId> {
        (node == NodeId::ZERO).then_some(node)
    }

    /// Receives a free, or a change of size, refused by the heap in a call without a result. A
    /// kernel logs the fact, or panics. Called at the end of the refused call, outside the heap's locks.
    fn refused(&self, invalid: InvalidFree) {
        let _ = invalid;
    }

    /// Receives each wrong use of memory found by a heap with [measures](crate::Measure), including
    /// frees refused with an error. A kernel logs the fact, or panics. Called at the end of the finding
    /// call, outside the heap's locks.
    #[cfg(feature = "hardening")]
    fn reported(&self, report: &Report) {
        let _ = report;
    }

    /// Returns the caller of an allocation through `GlobalAlloc`, for leak tracking. Rust passes no
    /// call site from a `Box` to the global allocator, and only the kernel knows how to walk a
    /// stack. Called by a heap with [`Measure::Tracking`](crate::Measure) in each tracked allocation,
    /// in the context of the allocation, outside the heap's locks. Must not use the heap. The result is returned in
    /// [`Origin::site`](crate::Origin::site).
    #[cfg(feature = "leak-tracking")]
    fn caller(&self) -> Option<Caller> {
        None
    }
}
