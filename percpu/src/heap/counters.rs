//! Counters of allocations and frees.

use crate::slab::{CLASS_COUNT, SizeClass};
use crate::sync::atomic::{AtomicU64, Ordering};

/// Adds one to a counter that one context at a time writes and anybody reads: no
/// read-modify-write, and relaxed, since it orders nothing.
fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Allocations and frees of one class by one CPU, written inside its cell only.
#[derive(Debug, Default)]
struct Ops {
    allocations: AtomicU64,
    frees: AtomicU64,
}

/// What one CPU counts.
#[derive(Debug)]
pub(super) struct CpuCounters {
    classes: [Ops; CLASS_COUNT],
    misses: AtomicU64,
    remote_frees: AtomicU64,
    nested: AtomicU64,
}

impl CpuCounters {
    pub(super) fn new() -> CpuCounters {
        CpuCounters {
            classes: core::array::from_fn(|_| Ops::default()),
            misses: AtomicU64::new(0),
            remote_frees: AtomicU64::new(0),
            nested: AtomicU64::new(0),
        }
    }

    /// Call from inside the CPU's cell only, like the next three.
    #[inline]
    pub(super) fn allocated(&self, class: SizeClass) {
        bump(&self.classes[class.index()].allocations);
    }

    #[inline]
    pub(super) fn freed(&self, class: SizeClass) {
        bump(&self.classes[class.index()].frees);
    }

    pub(super) fn missed(&self) {
        bump(&self.misses);
    }

    pub(super) fn freed_remotely(&self) {
        bump(&self.remote_frees);
    }

    /// Counts a use that found the cell busy: contexts nest, so this one is a read-modify-write.
    pub(super) fn nested(&self) {
        self.nested.fetch_add(1, Ordering::Relaxed);
    }

    /// Allocations less frees of `class`; wraps where other CPUs freed more.
    pub(super) fn live(&self, class: SizeClass) -> u64 {
        let ops = &self.classes[class.index()];
        let allocations = ops.allocations.load(Ordering::Relaxed);
        allocations.wrapping_sub(ops.frees.load(Ordering::Relaxed))
    }

    pub(super) fn read(&self) -> super::CpuHeapStats {
        let total: u64 = self
            .classes
            .iter()
            .map(|ops| ops.allocations.load(Ordering::Relaxed) + ops.frees.load(Ordering::Relaxed))
            .sum();
        let misses = self.misses.load(Ordering::Relaxed);
        let remote_frees = self.remote_frees.load(Ordering::Relaxed);
        super::CpuHeapStats {
            hits: total.saturating_sub(misses + remote_frees),
            misses,
            nested: self.nested.load(Ordering::Relaxed),
            remote_frees,
        }
    }
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
