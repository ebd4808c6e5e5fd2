//! Faults to inject, so that a test can show that it would see them.

use topomem_percpu::sync::atomic::{AtomicBool, Ordering};

/// A mechanism to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Magazines take frames that stay free in their bitmap, so that others get them too.
    MagazineDuplicates,
}

/// Which faults are on.
#[derive(Debug)]
pub(crate) struct Faults {
    duplicates: AtomicBool,
}

impl Faults {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Faults {
        Faults { duplicates: AtomicBool::new(false) }
    }

    /// loom's atomics have no `const` constructor.
    #[cfg(loom)]
    pub(crate) fn new() -> Faults {
        Faults { duplicates: AtomicBool::new(false) }
    }

    pub(crate) fn inject(&self, fault: Fault) {
        match fault {
            // A switch on its own: Relaxed.
            Fault::MagazineDuplicates => self.duplicates.store(true, Ordering::Relaxed),
        }
    }

    pub(crate) fn duplicates(&self) -> bool {
        self.duplicates.load(Ordering::Relaxed)
    }
}
