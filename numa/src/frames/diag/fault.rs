//! Faults to inject, so that a test can show that it detects them.

use topomem_percpu::sync::atomic::{AtomicBool, Ordering};

/// A mechanism to disable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Magazines take frames that stay free in their bitmap, so that other CPUs receive them too.
    MagazineDuplicates,
    /// Frames enter the pools of zeroed frames without being zeroed.
    UnzeroedPools,
}

/// The active faults.
#[derive(Debug)]
pub(crate) struct Faults {
    duplicates: AtomicBool,
    skip_zeroing: AtomicBool,
}

impl Faults {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Faults {
        Faults { duplicates: AtomicBool::new(false), skip_zeroing: AtomicBool::new(false) }
    }

    /// Creates the set without faults (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(crate) fn new() -> Faults {
        Faults { duplicates: AtomicBool::new(false), skip_zeroing: AtomicBool::new(false) }
    }

    pub(crate) fn inject(&self, fault: Fault) {
        match fault {
            // Relaxed: independent switches that order nothing.
            Fault::MagazineDuplicates => self.duplicates.store(true, Ordering::Relaxed),
            Fault::UnzeroedPools => self.skip_zeroing.store(true, Ordering::Relaxed),
        }
    }

    pub(crate) fn duplicates(&self) -> bool {
        self.duplicates.load(Ordering::Relaxed)
    }

    pub(crate) fn skips_zeroing(&self) -> bool {
        self.skip_zeroing.load(Ordering::Relaxed)
    }
}
