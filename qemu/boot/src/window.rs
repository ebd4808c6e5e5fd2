//! Where physical memory is visible.

use topomem::PhysAddr;

/// A part of the address space that shows physical memory in order: the boot tables' window of the
/// first GiB, and later the direct map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    base: usize,
}

impl Window {
    /// The window in which physical address 0 is at `base`.
    #[must_use]
    pub const fn at(base: usize) -> Window {
        Window { base }
    }

    /// Returns where `addr` is visible. The pointer is valid only if the window reaches that far.
    #[must_use]
    pub fn pointer<T>(self, addr: impl Into<PhysAddr>) -> *mut T {
        let addr = addr.into();
        core::ptr::with_exposed_provenance_mut(self.base.wrapping_add(addr.as_u64() as usize))
    }
}
