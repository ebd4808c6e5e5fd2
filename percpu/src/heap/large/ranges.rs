//! Large objects that are contiguous in virtual memory only.
//!
//! A kernel's page source may map pages from anywhere at consecutive addresses
//! ([`PageSource::allocate_range`]). The heap requests such a range if the source prefers ranges
//! for objects of that size, and if no run of consecutive pages is available. Ranges are not in the
//! heap's record: the source itself knows the range at an address. No CPU caches ranges, and the
//! heap writes nothing to them.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::heap::large::Contents;
use crate::heap::{AllocError, Heap, InvalidFree, ReallocError};
use crate::slab::SizeClass;
use crate::{CpuPin, NodeId, Order, PageSource, Platform};

/// Returns the number of pages of an object of `layout`.
fn pages_of(layout: Layout) -> u64 {
    (layout.size() as u64).div_ceil(Order::FRAME.bytes()).max(1)
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Returns true if an object of `layout` is to be a range even if a run is available.
    pub(in crate::heap) fn wants_range(&self, layout: Layout) -> bool {
        !self.is_hardened() && self.source.wants_range(pages_of(layout))
    }

    /// Returns a range for `layout`, near `home`.
    pub(in crate::heap) fn alloc_range(
        &self,
        pin: &CpuPin,
        home: NodeId,
        layout: Layout,
        contents: Contents,
    ) -> Result<NonNull<u8>, AllocError> {
        let align = Order::for_bytes(layout.align() as u64).unwrap_or(Order::GIANT);
        if self.is_hardened() {
            return Err(AllocError::OutOfMemory);
        }
        let pages = pages_of(layout);
        let range = match contents {
            Contents::Arbitrary => self.source.allocate_range(pin, home, pages, align)?,
            Contents::Zeroed => self.source.allocate_range_zeroed(pin, home, pages, align)?,
        };
        self.large.allocated(pages * Order::FRAME.bytes());
        Ok(range)
    }

    /// Returns the number of pages of the range at `memory`, if a range starts there.
    pub(in crate::heap) fn range_at(&self, pin: &CpuPin, memory: NonNull<u8>) -> Option<u64> {
        if self.is_hardened() { None } else { self.source.range_at(pin, memory) }
    }

    /// Frees a range. For any other memory returns the error `otherwise`.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    #[cold]
    pub(in crate::heap) unsafe fn dealloc_range(
        &self,
        pin: &CpuPin,
        memory: NonNull<u8>,
        layout: Layout,
        otherwise: InvalidFree,
    ) -> Result<(), InvalidFree> {
        let pages = self.range_at(pin, memory).ok_or(otherwise)?;
        self.check_range(memory, layout, pages)?;
        // SAFETY: the caller's promise.
        unsafe { self.source.free_range(pin, memory) }.map_err(|_| otherwise)?;
        self.large.freed(pages * Order::FRAME.bytes());
        Ok(())
    }

    fn check_range(&self, memory: NonNull<u8>, layout: Layout, pages: u64) -> Result<(), InvalidFree> {
        if SizeClass::of(layout).is_none() && pages_of(layout) == pages {
            return Ok(());
        }
        Err(InvalidFree::WrongRange { address: memory.addr().get(), size: layout.size(), pages })
    }

    /// Changes the size of a range of `pages` pages: in place, or by moving its pages. If the
    /// source can do neither, or if the new layout belongs to a slab, the contents are copied.
    ///
    /// # Safety
    ///
    /// As for [`Heap::try_realloc`].
    #[cold]
    pub(in crate::heap) unsafe fn realloc_range(
        &self,
        pin: &CpuPin,
        memory: NonNull<u8>,
        pages: u64,
        layout: Layout,
        new_layout: Layout,
    ) -> Result<NonNull<u8>, ReallocError> {
        self.check_range(memory, layout, pages)?;
        let new_pages = pages_of(new_layout);
        if new_pages == pages && new_layout.size() != 0 {
            return Ok(memory);
        }
        if new_layout.size() != 0 && SizeClass::of(new_layout).is_none() {
            // SAFETY: the caller's promise; the source allocated the range.
            let resized = unsafe { self.source.resize_range(pin, memory, new_pages) };
            if let Ok(moved) = resized {
                self.large.resized(pages * Order::FRAME.bytes(), new_pages * Order::FRAME.bytes());
                return Ok(moved);
            }
        }
        let moved = self.try_alloc(new_layout)?;
        // SAFETY: two allocations, each at least that large; the caller owned the old allocation.
        unsafe {
            moved.copy_from_nonoverlapping(memory, layout.size().min(new_layout.size()));
            if let Err(invalid) = self.free(memory, layout) {
                self.source.refused(invalid);
            }
        }
        Ok(moved)
    }
}
