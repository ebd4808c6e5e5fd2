//! The heap.

mod error;
mod stats;

pub use error::{AllocError, Corruption, InvalidFree};
pub use stats::{ClassStats, CpuHeapStats, LargeStats};

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{self, NonNull};

use crate::{CpuId, CpuPin, OutOfMemory, PageSource, Platform, SizeClass};

/// A slab heap.
pub struct Heap<P: Platform, S: PageSource> {
    platform: P,
    source: S,
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// An empty heap.
    #[must_use]
    pub const fn new(platform: P, source: S) -> Heap<P, S> {
        Heap { platform, source }
    }

    /// The page source.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Installs the pinned CPU's magazines, on its node.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn cpu_online(&self, pin: &CpuPin) -> Result<(), OutOfMemory> {
        let _ = (pin, &self.platform);
        Ok(())
    }

    /// Returns what the pinned CPU's magazines cache.
    pub fn cpu_offline(&self, pin: &CpuPin) {
        let _ = pin;
    }

    /// Returns the pinned CPU's cached objects, all depots' and all spare slabs.
    pub fn drain(&self, pin: &CpuPin) {
        let _ = pin;
    }

    /// Memory for `layout`.
    ///
    /// # Errors
    ///
    /// [`AllocError`].
    pub fn alloc(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let _ = layout;
        Err(AllocError::OutOfMemory)
    }

    /// Zeroed memory for `layout`.
    ///
    /// # Errors
    ///
    /// [`AllocError`].
    pub fn alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        self.alloc(layout)
    }

    /// Takes memory back.
    ///
    /// # Safety
    ///
    /// `memory` came from this heap with the same `layout`, and is not used any more.
    ///
    /// # Errors
    ///
    /// [`InvalidFree`].
    pub unsafe fn dealloc(&self, memory: NonNull<u8>, layout: Layout) -> Result<(), InvalidFree> {
        let _ = (memory, layout);
        Ok(())
    }

    /// Changes the size.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc`].
    ///
    /// # Errors
    ///
    /// [`AllocError`], with `memory` unchanged.
    pub unsafe fn realloc(
        &self,
        memory: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, AllocError> {
        let _ = (memory, layout, new_size);
        Err(AllocError::OutOfMemory)
    }

    /// One class's counters.
    pub fn class_stats(&self, class: SizeClass) -> ClassStats {
        let _ = class;
        ClassStats::default()
    }

    /// The large objects' counters.
    pub fn large_stats(&self) -> LargeStats {
        LargeStats::default()
    }

    /// One CPU's counters, or `None` before it came online.
    pub fn cpu_stats(&self, cpu: CpuId) -> Option<CpuHeapStats> {
        let _ = cpu;
        None
    }

    /// Cross-checks lists and counters.
    ///
    /// # Errors
    ///
    /// [`Corruption`].
    pub fn validate(&self) -> Result<(), Corruption> {
        Ok(())
    }
}

// SAFETY: stub.
unsafe impl<P: Platform, S: PageSource> GlobalAlloc for Heap<P, S> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Heap::alloc(self, layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let _ = (memory, layout);
    }
}

impl<P: Platform, S: PageSource> fmt::Debug for Heap<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").finish_non_exhaustive()
    }
}
