//! The heap as Rust's global allocator.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use super::{Heap, ReallocError};
use crate::{PageSource, Platform};

// SAFETY: `Heap` hands out each byte to one caller at a time, sized and aligned as asked, never
// unwinds of its own, and keeps contents across `realloc`.
unsafe impl<P: Platform, S: PageSource> GlobalAlloc for Heap<P, S> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Heap::alloc(self, layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Heap::alloc_zeroed(self, layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let Some(memory) = NonNull::new(memory) else { return };
        // SAFETY: the caller's promise is the same.
        if let Err(invalid) = unsafe { Heap::dealloc(self, memory, layout) } {
            self.source.refused(invalid);
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(memory) = NonNull::new(memory) else { return ptr::null_mut() };
        // SAFETY: the caller's promise is the same.
        match unsafe { Heap::realloc(self, memory, layout, new_size) } {
            Ok(memory) => memory.as_ptr(),
            Err(ReallocError::Alloc(_)) => ptr::null_mut(),
            Err(ReallocError::Invalid(invalid)) => {
                self.source.refused(invalid);
                ptr::null_mut()
            }
        }
    }
}
