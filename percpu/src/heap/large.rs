//! Objects beyond the largest class: each is a run of pages, on the heap's record.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::place::Room;
use super::runs::Run;
use super::{AllocError, Heap, InvalidFree, LargeStats};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{CpuPin, NodeId, Order, PageSource, Platform};

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

/// The run that holds `layout`, or `None` if none is large enough.
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
        let run = match self.recorded_pages(pin, node, order, Run::Large(order)) {
            Err(AllocError::OutOfMemory) => {
                self.reclaim(pin);
                self.recorded_pages(pin, node, order, Run::Large(order))?
            }
            other => other?,
        };
        self.large.live.fetch_add(1, Ordering::Relaxed);
        self.large.bytes.fetch_add(order.bytes(), Ordering::Relaxed);
        Ok(run)
    }

    /// Pages that the record calls `run` from here on.
    pub(super) fn recorded_pages(
        &self,
        pin: &CpuPin,
        node: NodeId,
        order: Order,
        run: Run,
    ) -> Result<NonNull<u8>, AllocError> {
        let pages = self.pages(pin, node, order)?;
        match self.record(pin, node, pages.addr().get(), run) {
            Ok(()) => Ok(pages),
            Err(error) => {
                // SAFETY: the pages just came from the source, with this order.
                unsafe { self.source.free(pin, pages, order) };
                Err(error)
            }
        }
    }

    /// # Safety
    ///
    /// As for [`Heap::dealloc`], with a `layout` that no class holds.
    #[cold]
    pub(super) unsafe fn dealloc_large(
        &self,
        pin: &CpuPin,
        memory: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), InvalidFree> {
        match self.check_large(memory, layout)? {
            // SAFETY: the caller's promise, and the run is on record with this order.
            Held::Here(order) => unsafe { self.free_large(pin, memory, order) },
            // SAFETY: the caller's promise.
            Held::Left(room, otherwise) => unsafe { self.dealloc_left(pin, memory, room, otherwise) },
        }
    }

    /// Is there a large object with `layout` at `memory`?
    pub(super) fn check_large(&self, memory: NonNull<u8>, layout: Layout) -> Result<Held, InvalidFree> {
        let (address, size) = (memory.addr().get(), layout.size());
        let Some(Run::Large(found)) = self.runs.at(address) else {
            return Err(InvalidFree::NotLarge { address, size });
        };
        let wrong = InvalidFree::WrongSize { address, size, order: found };
        match order_of(layout) {
            Some(order) if order == found => Ok(Held::Here(order)),
            Some(order) => Ok(Held::Left(Room::Pages(order), wrong)),
            None => Err(wrong),
        }
    }

    /// # Safety
    ///
    /// The caller gives the large object at `memory` up.
    pub(super) unsafe fn free_large(
        &self,
        pin: &CpuPin,
        memory: NonNull<u8>,
        order: Order,
    ) -> Result<(), InvalidFree> {
        let address = memory.addr().get();
        // Of two that free it at the same time, one takes it off the record.
        if !self.runs.strike(address, Run::Large(order)) {
            return Err(InvalidFree::NotLarge { address, size: order.bytes() as usize });
        }
        self.large.live.fetch_sub(1, Ordering::Relaxed);
        self.large.bytes.fetch_sub(order.bytes(), Ordering::Relaxed);
        // SAFETY: `alloc_large` had the run from the source with this order, and the caller
        // gives it up.
        unsafe { self.source.free(pin, memory, order) };
        Ok(())
    }
}

/// What holds a large object's layout.
pub(super) enum Held {
    /// A run of the layout's order.
    Here(Order),
    /// A run of another order. Right only if the object was left there; else this is what is wrong.
    Left(Room, InvalidFree),
}
