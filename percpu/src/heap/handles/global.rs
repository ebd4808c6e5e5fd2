//! The heap as Rust's global allocator.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use crate::heap::{Heap, ReallocError};
use crate::slab::is_aligned_to_words;
use crate::{PageSource, Platform, SizeClass};

// SAFETY: `Heap` hands out each byte to one caller at a time, sized and aligned as asked, never
// unwinds of its own, and keeps contents across `realloc`.
unsafe impl<P: Platform, S: PageSource> GlobalAlloc for Heap<P, S> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // As `Heap::try_alloc`.
        let Some(class) = SizeClass::of_small_size(layout.size()) else {
            return self.alloc_uncommon_or_null(layout);
        };
        if !is_aligned_to_words(layout) {
            return self.alloc_rare_or_null(layout);
        }
        match self.pop(class) {
            Some(object) => object.as_ptr(),
            None => self.alloc_otherwise_or_null(layout),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            let memory = self.alloc_otherwise_or_null(layout);
            if !memory.is_null() {
                // SAFETY: so many bytes were allocated.
                unsafe { memory.write_bytes(0, layout.size()) };
            }
            return memory;
        }
        Heap::try_alloc_zeroed(self, layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same; memory that was allocated is not at null.
        unsafe {
            let memory = NonNull::new_unchecked(memory);
            // As `Heap::free`.
            let Some(class) = SizeClass::of_small_size(layout.size()) else {
                return self.dealloc_uncommon_or_report(memory, layout);
            };
            if !is_aligned_to_words(layout) {
                return self.dealloc_rare_or_report(memory, layout);
            }
            if !self.push(class, memory) {
                self.dealloc_otherwise_or_report(memory, layout);
            }
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(memory) = NonNull::new(memory) else { return ptr::null_mut() };
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            // SAFETY: the caller's promise is the same.
            let changed = unsafe { self.realloc_hardened(memory, layout, new_size, self.global_site()) };
            return self.or_report(changed);
        }
        // SAFETY: the caller's promise is the same.
        self.or_report(unsafe { Heap::try_realloc(self, memory, layout, new_size) })
    }
}

// Separate functions: the results of these calls would otherwise take stack room on a hit.
impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Returns null if a change of size failed, and reports a refused change.
    fn or_report(&self, changed: Result<NonNull<u8>, ReallocError>) -> *mut u8 {
        match changed {
            Ok(memory) => memory.as_ptr(),
            Err(ReallocError::Alloc(_)) => ptr::null_mut(),
            Err(ReallocError::Invalid(invalid)) => {
                self.source.refused(invalid);
                ptr::null_mut()
            }
        }
    }

    #[inline(never)]
    fn alloc_uncommon_or_null(&self, layout: Layout) -> *mut u8 {
        let Some(class) = SizeClass::of_medium(layout) else { return self.alloc_rare_or_null(layout) };
        match self.pop(class) {
            Some(object) => object.as_ptr(),
            None => self.alloc_otherwise_or_null(layout),
        }
    }

    /// Allocates for a layout larger than any class, aligned to more than a word, or without bytes.
    #[inline(never)]
    fn alloc_rare_or_null(&self, layout: Layout) -> *mut u8 {
        let served = match SizeClass::of(layout) {
            Some(class) => self.alloc_uncommon_hit(class, layout),
            None => self.alloc_cached_run(layout),
        };
        served.map_or_else(|| self.alloc_otherwise_or_null(layout), NonNull::as_ptr)
    }

    #[inline(never)]
    fn alloc_otherwise_or_null(&self, layout: Layout) -> *mut u8 {
        #[cfg(feature = "hardening")]
        let served = self.alloc_otherwise_at(layout, self.global_site());
        #[cfg(not(feature = "hardening"))]
        let served = self.alloc_otherwise(layout);
        served.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    /// Frees memory of a layout above the small classes, and reports a refused free.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    #[inline(never)]
    unsafe fn dealloc_uncommon_or_report(&self, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe {
            let Some(class) = SizeClass::of_medium(layout) else {
                return self.dealloc_rare_or_report(memory, layout);
            };
            if !self.push(class, memory) {
                self.dealloc_otherwise_or_report(memory, layout);
            }
        }
    }

    /// Frees memory of a layout larger than any class or aligned to more than a word, and reports a
    /// refused free.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    #[inline(never)]
    unsafe fn dealloc_rare_or_report(&self, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe {
            let served = match SizeClass::of(layout) {
                Some(class) => self.free_uncommon_hit(class, memory, layout),
                None => self.dealloc_cached_run(memory, layout),
            };
            if !served {
                self.dealloc_otherwise_or_report(memory, layout);
            }
        }
    }

    /// Frees memory by the slow path, and reports a refused free.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    #[inline(never)]
    unsafe fn dealloc_otherwise_or_report(&self, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        if let Err(invalid) = unsafe { self.dealloc_otherwise(memory, layout) } {
            self.source.refused(invalid);
        }
    }
}
