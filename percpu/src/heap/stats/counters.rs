//! Counters of allocations and frees.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Increments a counter with one writing context at a time and any number of readers. Not a
/// read-modify-write, and relaxed, since the counter orders nothing.
#[inline]
pub(in crate::heap) fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Uses of one class of one node outside any CPU's cell: nested uses, and uses by CPUs that are not
/// online.
#[derive(Debug, Default)]
pub(in crate::heap) struct SharedOps {
    allocations: AtomicU64,
    frees: AtomicU64,
}

impl SharedOps {
    pub(in crate::heap) fn allocated(&self) {
        self.allocations.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::heap) fn freed(&self) {
        self.frees.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::heap) fn live(&self) -> u64 {
        let allocations = self.allocations.load(Ordering::Relaxed);
        allocations.wrapping_sub(self.frees.load(Ordering::Relaxed))
    }
}
