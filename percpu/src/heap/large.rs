//! Objects beyond the largest class: each is a run of pages.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::{AllocError, Heap, InvalidFree, LargeStats};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{CpuPin, Order, PageSource, Platform};

/// Counts of large objects. Read-modify-writes: next to a run's cost they are nothing.
pub(super) struct Counters {
    live: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Counters {
        Counters { live: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    #[cfg(loom)]
    pub(super) fn new() -> Counters {
        Counters { live: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    pub(super) fn read(&self) -> LargeStats {
        LargeStats { live: self.live.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// The run that holds `layout`, or `None` where none is large enough.
pub(super) fn order_of(layout: Layout) -> Option<Order> {
    // A run is aligned to its own size.
    Order::for_bytes(layout.size().max(layout.align()) as u64)
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    pub(super) fn alloc_large(&self, pin: &CpuPin, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let Some(order) = order_of(layout) else {
            return Err(AllocError::TooLarge { size: layout.size(), align: layout.align() });
        };
        let node = self.source.node_of_cpu(pin.cpu());
        let run = match self.pages(pin, node, order) {
            Err(AllocError::OutOfMemory) => {
                self.reclaim(pin);
                self.pages(pin, node, order)?
            }
            other => other?,
        };
        self.large.live.fetch_add(1, Ordering::Relaxed);
        self.large.bytes.fetch_add(order.bytes(), Ordering::Relaxed);
        Ok(run)
    }

    /// # Safety
    ///
    /// As for [`Heap::dealloc`], with a `layout` that no class holds.
    pub(super) unsafe fn dealloc_large(
        &self,
        pin: &CpuPin,
        memory: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), InvalidFree> {
        let address = memory.addr().get();
        let aligned = order_of(layout).filter(|order| address as u64 & (order.bytes() - 1) == 0);
        let Some(order) = aligned else {
            return Err(InvalidFree::Misaligned { address, size: layout.size() });
        };
        self.large.live.fetch_sub(1, Ordering::Relaxed);
        self.large.bytes.fetch_sub(order.bytes(), Ordering::Relaxed);
        // SAFETY: `alloc_large` had the run from the source with this order, and the caller
        // gives it up.
        unsafe { self.source.free(pin, memory, order) };
        Ok(())
    }
}
