//! Shared ownership whose creation can fail: `Arc` ends the kernel where memory is out.

extern crate alloc;

use alloc::alloc::{Layout, alloc};
use alloc::boxed::Box;
use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering, fence};

/// No memory for an object of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfMemory;

/// Puts `value` on the heap.
///
/// # Errors
///
/// [`OutOfMemory`]; the value is dropped.
pub(crate) fn boxed<T>(value: T) -> Result<Box<T>, OutOfMemory> {
    let layout = Layout::new::<T>();
    assert!(layout.size() > 0);
    // SAFETY: not of size zero.
    let place = NonNull::new(unsafe { alloc(layout) }).ok_or(OutOfMemory)?.cast::<T>();
    // SAFETY: fresh memory of the value's layout, from the allocator that `Box` gives it back to.
    unsafe {
        place.write(value);
        Ok(Box::from_raw(place.as_ptr()))
    }
}

/// A value that lives until its last owner goes.
pub(crate) struct Shared<T>(NonNull<Counted<T>>);

struct Counted<T> {
    owners: AtomicUsize,
    value: T,
}

// SAFETY: owners on several CPUs reach the value by reference, and the last one drops it.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Puts `value` on the heap, with one owner.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; the value is dropped.
    pub(crate) fn new(value: T) -> Result<Shared<T>, OutOfMemory> {
        Ok(Shared(NonNull::from(Box::leak(boxed(Counted { owners: AtomicUsize::new(1), value })?))))
    }

    /// Returns the value if this is its only owner; else the owner goes.
    pub(crate) fn into_inner(self) -> Option<T> {
        // Release and Acquire as in `drop`.
        if self.counted().owners.fetch_sub(1, Ordering::Release) != 1 {
            core::mem::forget(self);
            return None;
        }
        fence(Ordering::Acquire);
        let counted = self.0;
        core::mem::forget(self);
        // SAFETY: this was the last owner, and `new` made it from a box.
        let counted = unsafe { Box::from_raw(counted.as_ptr()) };
        Some(counted.value)
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: it lives as long as an owner.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        // Relaxed: an owner exists already, and how the new one is passed on orders the rest.
        self.counted().owners.fetch_add(1, Ordering::Relaxed);
        Shared(self.0)
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Release: the last owner, which acquires below, sees what all others did.
        if self.counted().owners.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: this was the last owner, and `new` made it from a box.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counted().value.fmt(f)
    }
}
