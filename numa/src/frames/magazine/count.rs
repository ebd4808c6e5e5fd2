//! A counter with one writer.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer.
#[derive(Debug)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[cfg(not(loom))]
    pub(super) const fn new() -> Count {
        Count(AtomicU64::new(0))
    }

    /// Creates a counter (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(super) fn new() -> Count {
        Count(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}
