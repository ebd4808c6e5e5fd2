//! Counters of allocations and frees.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Adds one to a counter that one context at a time writes and anybody reads: no
/// read-modify-write, and relaxed, since it orders nothing.
#[inline]
pub(super) fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Uses of one class of one node outside any CPU's cell: nested ones, and those of CPUs that
/// are not online.
#[derive(Debug, Default)]
pub(super) struct SharedOps {
    allocations: AtomicU64,
    frees: AtomicU64,
}

impl SharedOps {
    pub(super) fn allocated(&self) {
        self.allocations.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn freed(&self) {
        self.frees.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn live(&self) -> u64 {
        let allocations = self.allocations.load(Ordering::Relaxed);
        allocations.wrapping_sub(self.frees.load(Ordering::Relaxed))
    }
}
