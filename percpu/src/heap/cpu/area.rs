//! The per-CPU state of a heap.

use core::mem;
use core::ptr::NonNull;

use crate::heap::cpu::cache::CpuCache;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{NodeId, Order, Slot};

/// The per-CPU state of a heap, in one run of pages on the CPU's node. The slot is first: its address is the area's.
#[repr(C)]
pub(in crate::heap) struct CpuArea {
    pub(in crate::heap) cache: Slot<CpuCache>,
    /// The node whose objects the CPU caches.
    pub(in crate::heap) node: NodeId,
    /// Set by remote CPUs that need memory, cleared by the area's own CPU. Relaxed: orders nothing.
    drain_requested: AtomicBool,
}

impl CpuArea {
    /// The order of the run that holds the area.
    pub(in crate::heap) const ORDER: Order = match Order::for_bytes(mem::size_of::<CpuArea>() as u64) {
        Some(order) => order,
        None => Order::GIANT,
    };

    /// Creates an area in `run`.
    ///
    /// # Safety
    ///
    /// `run` is a run of [`CpuArea::ORDER`] owned by the caller.
    pub(in crate::heap) unsafe fn new_in(run: NonNull<u8>, node: NodeId) {
        let area = run.cast::<CpuArea>();
        // SAFETY: the run is large and aligned enough, and ours; every field is written.
        unsafe {
            (&raw mut (*area.as_ptr()).cache).write(Slot::new(CpuCache::new(node)));
            (&raw mut (*area.as_ptr()).node).write(node);
            (&raw mut (*area.as_ptr()).drain_requested).write(AtomicBool::new(false));
        }
    }

    /// Asks the CPU to return the contents of its magazines.
    pub(in crate::heap) fn request_drain(&self) {
        // A load first: a store would take the line away from the CPU's counters.
        if !self.drain_is_due() {
            self.drain_requested.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if the CPU was asked since its last drain.
    pub(in crate::heap) fn drain_is_due(&self) -> bool {
        self.drain_requested.load(Ordering::Relaxed)
    }

    /// Records that the CPU is about to drain.
    pub(in crate::heap) fn drains(&self) {
        self.drain_requested.store(false, Ordering::Relaxed);
    }
}
