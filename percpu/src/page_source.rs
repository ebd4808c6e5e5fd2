//! Where the heap gets its pages.

use core::fmt;
use core::ptr::NonNull;

#[cfg(feature = "leak-tracking")]
use crate::Caller;
#[cfg(feature = "hardening")]
use crate::Report;
use crate::{CpuId, CpuPin, InvalidFree, NodeId, Order, RunLength};

/// No memory could be had; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// A run cannot have another length where it is; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotInPlace;

impl fmt::Display for NotInPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the run cannot have another length where it is")
    }
}

impl core::error::Error for NotInPlace {}

/// What the heap asks of the allocator below it: runs of pages, and which node is a CPU's.
///
/// The heap calls it in whatever context the heap itself is used, interrupt handlers included,
/// but never while it holds one of its own locks. A source must not allocate from the heap that
/// it feeds; it may call [`Heap::reclaim`](crate::Heap::reclaim) when it runs dry.
///
/// # Safety
///
/// A run that `allocate` returned is valid for reads and writes of [`Order::bytes`] bytes, and
/// nobody else's until it comes back through `free`. The same holds for `allocate_run`,
/// [`RunLength::bytes`] and `free_run`. (The heap checks itself that a run is aligned as asked, and
/// refuses it otherwise.)
pub unsafe trait PageSource: Sync {
    /// A run of `order`, aligned to its size, on `node` if possible, else near it. The bytes are
    /// arbitrary.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] where no node has such a run.
    fn allocate(&self, pin: &CpuPin, node: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory>;

    /// Takes a run back.
    ///
    /// # Safety
    ///
    /// `run` came from [`PageSource::allocate`] with the same `order`, and is not used any more.
    unsafe fn free(&self, pin: &CpuPin, run: NonNull<u8>, order: Order);

    /// A run of `length`, aligned to the size of a run of `align`, on `node` if possible, else near
    /// it. The bytes are arbitrary. `align` is at most the order that holds the length; if the length
    /// is an order's, it is that order.
    ///
    /// By default the run is one of an order, and what it has beyond the length stays unused: up to
    /// half of it. A source that can allocate other lengths replaces this method and
    /// [`PageSource::free_run`], and then nothing is unused.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if no node has such a run.
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

    /// A run like those of [`PageSource::allocate_run`], all of whose bytes are zero.
    ///
    /// By default a run of that method, to which zeroes are written. A source that has zeroed pages, or
    /// zeroes them elsewhere, replaces this method.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if no node has such a run.
    fn allocate_run_zeroed(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let run = self.allocate_run(pin, node, length, align)?;
        // SAFETY: the run has so many bytes, and is nobody else's.
        unsafe { run.write_bytes(0, length.bytes() as usize) };
        Ok(run)
    }

    /// Takes back a run that [`PageSource::allocate_run`] returned.
    ///
    /// # Safety
    ///
    /// `run` came from [`PageSource::allocate_run`], has this `length`, and is not used any more.
    unsafe fn free_run(&self, pin: &CpuPin, run: NonNull<u8>, length: RunLength) {
        // SAFETY: `allocate_run` had the run from `allocate`, with this order.
        unsafe { self.free(pin, run, length.holding_order()) };
    }

    /// Makes a run longer where it is, by the pages right behind it. Their bytes are arbitrary. From here
    /// on the run is one of length `to`, wherever it begins.
    ///
    /// By default this succeeds if the run that [`PageSource::allocate_run`] took by default has room for
    /// the new length. A source that replaces that method replaces this one, too.
    ///
    /// # Errors
    ///
    /// [`NotInPlace`] if the pages are not free, or the source cannot say so.
    ///
    /// # Safety
    ///
    /// `run` is a run of length `from`, which is shorter than `to`, from [`PageSource::allocate_run`].
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

    /// Takes back the pages at the end of a run. From here on the run is one of length `to`, wherever it
    /// begins.
    ///
    /// By default this succeeds if the run that [`PageSource::allocate_run`] took by default would be the
    /// same for the new length. A source that replaces that method replaces this one, too.
    ///
    /// # Errors
    ///
    /// [`NotInPlace`] if the source cannot take back a part of this run.
    ///
    /// # Safety
    ///
    /// `run` is a run of length `from`, which is longer than `to`, from [`PageSource::allocate_run`]. The
    /// pages beyond `to` are not used any more, if this succeeds.
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

    /// Says whether an object of `pages` 4 KiB pages shall be a range ([`PageSource::allocate_range`]) even if there
    /// is a run for it. By default no object shall.
    ///
    /// A source with ranges answers yes for more than 1 GiB, which no run has, and for what is as long that it rather
    /// leaves runs to others.
    fn wants_range(&self, pages: u64) -> bool {
        let _ = pages;
        false
    }

    /// Returns a range: `pages` 4 KiB pages at consecutive addresses, valid for reads and writes, near `node` if
    /// possible, wherever they lie in memory. The first address is a multiple of a run of `align`. The bytes are
    /// arbitrary, and nobody else's until the range comes back through [`PageSource::free_range`].
    ///
    /// The heap never writes to a range, and does not record it. By default there are no ranges.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`] if there are no pages, no addresses, or no range with such an alignment, or if the range can't
    /// be made in this context.
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

    /// A range like those of [`PageSource::allocate_range`], all of whose bytes are zero. By default there are none.
    ///
    /// # Errors
    ///
    /// As there.
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

    /// Returns how many pages the range at `memory` has; `None` if no range starts there, whatever `memory` is. By
    /// default there are none.
    fn range_at(&self, pin: &CpuPin, memory: NonNull<u8>) -> Option<u64> {
        let _ = (pin, memory);
        None
    }

    /// Takes a range back.
    ///
    /// # Errors
    ///
    /// [`NotInPlace`] if no range starts there; nothing has changed.
    ///
    /// # Safety
    ///
    /// `range` came from [`PageSource::allocate_range`], and is not used any more.
    unsafe fn free_range(&self, pin: &CpuPin, range: NonNull<u8>) -> Result<(), NotInPlace> {
        let _ = (pin, range);
        Err(NotInPlace)
    }

    /// Gives a range another length, where it is or elsewhere, without copying its bytes, and returns where it is.
    /// The bytes of further pages are arbitrary.
    ///
    /// # Errors
    ///
    /// [`NotInPlace`] if that cannot be, or not now; nothing has changed.
    ///
    /// # Safety
    ///
    /// `range` came from [`PageSource::allocate_range`]. What is beyond the new length is not used any more; if the
    /// range is elsewhere afterwards, `range` is not used any more.
    unsafe fn resize_range(
        &self,
        pin: &CpuPin,
        range: NonNull<u8>,
        pages: u64,
    ) -> Result<NonNull<u8>, NotInPlace> {
        let _ = (pin, range, pages);
        Err(NotInPlace)
    }

    /// The node whose memory serves `cpu` best: its own, or the nearest that has memory. The same
    /// at every call. The heap keeps what this CPU allocates with the slabs of this node, and
    /// asks for their pages there. A CPU caches freed objects of this node's slabs only; all
    /// others go home.
    fn node_of_cpu(&self, cpu: CpuId) -> NodeId;

    /// Returns the node whose memory serves requests for `node`: itself if it has memory, else the nearest
    /// node that has. `None` if the machine has no such node. The same at every call.
    ///
    /// [`Heap::on`](crate::Heap::on) asks it. A source of one node need not implement it: without an
    /// implementation there is node 0 only.
    fn node_with_memory(&self, node: NodeId) -> Option<NodeId> {
        (node == NodeId::ZERO).then_some(node)
    }

    /// Told of a free, or a change of size, that the heap refused while nobody reads its answer. A
    /// kernel logs it, or panics. Called at the end of the refused call, outside the heap's locks.
    fn refused(&self, invalid: InvalidFree) {
        let _ = invalid;
    }

    /// Told of each wrong use of memory that a heap with [measures](crate::Measure) finds, also of
    /// frees that it refuses with an answer. A kernel logs it, or panics. Called at the end of the
    /// call that found it, outside the heap's locks.
    #[cfg(feature = "hardening")]
    fn reported(&self, report: &Report) {
        let _ = report;
    }

    /// Names the caller of an allocation through `GlobalAlloc`, for leak tracking: Rust passes no call site on the
    /// way from a `Box` to the global allocator, and only the kernel knows how to walk its stack. Called by a heap
    /// with [`Measure::Tracking`](crate::Measure) in each such allocation, in its context, outside the heap's locks;
    /// it may not use the heap. What it returns comes back in [`Origin::site`](crate::Origin::site).
    #[cfg(feature = "leak-tracking")]
    fn caller(&self) -> Option<Caller> {
        None
    }
}

// SAFETY: every method is the referenced source's own.
unsafe impl<S: PageSource + ?Sized> PageSource for &S {
    fn allocate(&self, pin: &CpuPin, node: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        (**self).allocate(pin, node, order)
    }

    unsafe fn free(&self, pin: &CpuPin, run: NonNull<u8>, order: Order) {
        // SAFETY: the caller's promise is the same.
        unsafe { (**self).free(pin, run, order) };
    }

    fn allocate_run(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        (**self).allocate_run(pin, node, length, align)
    }

    fn allocate_run_zeroed(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        (**self).allocate_run_zeroed(pin, node, length, align)
    }

    unsafe fn free_run(&self, pin: &CpuPin, run: NonNull<u8>, length: RunLength) {
        // SAFETY: the caller's promise is the same.
        unsafe { (**self).free_run(pin, run, length) };
    }

    unsafe fn extend_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        // SAFETY: the caller's promise is the same.
        unsafe { (**self).extend_run(pin, run, from, to) }
    }

    unsafe fn shrink_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        // SAFETY: the caller's promise is the same.
        unsafe { (**self).shrink_run(pin, run, from, to) }
    }

    fn wants_range(&self, pages: u64) -> bool {
        (**self).wants_range(pages)
    }

    fn allocate_range(
        &self,
        pin: &CpuPin,
        node: NodeId,
        pages: u64,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        (**self).allocate_range(pin, node, pages, align)
    }

    fn allocate_range_zeroed(
        &self,
        pin: &CpuPin,
        node: NodeId,
        pages: u64,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        (**self).allocate_range_zeroed(pin, node, pages, align)
    }

    fn range_at(&self, pin: &CpuPin, memory: NonNull<u8>) -> Option<u64> {
        (**self).range_at(pin, memory)
    }

    unsafe fn free_range(&self, pin: &CpuPin, range: NonNull<u8>) -> Result<(), NotInPlace> {
        // SAFETY: the caller's promise is the same.
        unsafe { (**self).free_range(pin, range) }
    }

    unsafe fn resize_range(
        &self,
        pin: &CpuPin,
        range: NonNull<u8>,
        pages: u64,
    ) -> Result<NonNull<u8>, NotInPlace> {
        // SAFETY: the caller's promise is the same.
        unsafe { (**self).resize_range(pin, range, pages) }
    }

    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        (**self).node_of_cpu(cpu)
    }

    fn node_with_memory(&self, node: NodeId) -> Option<NodeId> {
        (**self).node_with_memory(node)
    }

    fn refused(&self, invalid: InvalidFree) {
        (**self).refused(invalid);
    }

    #[cfg(feature = "hardening")]
    fn reported(&self, report: &Report) {
        (**self).reported(report);
    }

    #[cfg(feature = "leak-tracking")]
    fn caller(&self) -> Option<Caller> {
        (**self).caller()
    }
}
