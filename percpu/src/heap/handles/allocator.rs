//! The heap as an allocator of containers: `allocator_api2`'s trait, which mirrors the trait of the
//! standard library.
//!
//! The trait's error carries no cause; callers in need of the cause use [`Heap::try_alloc`]. Returned
//! blocks have exactly the requested length.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use allocator_api2::alloc::{AllocError as Failed, Allocator};

use super::OnNode;
use crate::heap::place::Room;
use crate::heap::{AllocError, Heap, ReallocError};
use crate::{PageSource, Platform};

/// # Examples
///
/// Containers borrow the heap:
///
/// ```
/// # use topomem_percpu::Heap;
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::Host;
/// use allocator_api2::vec::Vec;
///
/// let heap = Heap::new(Host, Host);
/// let mut bytes = Vec::new_in(&heap);
/// bytes.try_reserve_exact(5)?;
/// bytes.extend_from_slice(b"bytes");
/// assert_eq!(bytes.as_slice(), b"bytes");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
// SAFETY: a block belongs to its holder alone until it is freed, by the heap or a reference to it;
// moving the heap moves no block, since blocks lie in runs of the page source.
unsafe impl<P: Platform, S: PageSource> Allocator for Heap<P, S> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, Failed> {
        block(self.try_alloc(layout), layout)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, Failed> {
        block(self.try_alloc_zeroed(layout), layout)
    }

    #[inline]
    unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { GlobalAlloc::dealloc(self, memory.as_ptr(), layout) };
    }

    unsafe fn grow(&self, memory: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, Failed> {
        // SAFETY: the caller's promise is the same.
        block(unsafe { self.change(memory, old, new) }, new)
    }

    unsafe fn grow_zeroed(
        &self,
        memory: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, Failed> {
        // SAFETY: the caller's promise is the same; the block has `new`'s size.
        unsafe {
            let grown = self.change(memory, old, new);
            block(grown.inspect(|grown| zero_behind(*grown, old, new)), new)
        }
    }

    unsafe fn shrink(&self, memory: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, Failed> {
        // SAFETY: the caller's promise is the same.
        block(unsafe { self.change(memory, old, new) }, new)
    }
}

// SAFETY: as for the heap; copies of a handle are the same allocator, since all memory belongs to
// the heap.
unsafe impl<P: Platform, S: PageSource> Allocator for OnNode<'_, P, S> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, Failed> {
        block(self.try_alloc(layout), layout)
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, Failed> {
        block(self.try_alloc_zeroed(layout), layout)
    }

    unsafe fn deallocate(&self, memory: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.heap.deallocate(memory, layout) };
    }

    unsafe fn grow(&self, memory: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, Failed> {
        // SAFETY: the caller's promise is the same.
        block(unsafe { self.change(memory, old, new) }, new)
    }

    unsafe fn grow_zeroed(
        &self,
        memory: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, Failed> {
        // SAFETY: the caller's promise is the same; the block has `new`'s size.
        unsafe {
            let grown = self.change(memory, old, new);
            block(grown.inspect(|grown| zero_behind(*grown, old, new)), new)
        }
    }

    unsafe fn shrink(&self, memory: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, Failed> {
        // SAFETY: the caller's promise is the same.
        block(unsafe { self.change(memory, old, new) }, new)
    }
}

/// Converts a result of the heap into a result of the trait's methods.
#[inline]
fn block<E>(memory: Result<NonNull<u8>, E>, layout: Layout) -> Result<NonNull<[u8]>, Failed> {
    match memory {
        Ok(memory) => Ok(NonNull::slice_from_raw_parts(memory, layout.size())),
        Err(_) => Err(Failed),
    }
}

/// Zeroes the bytes by which `new` exceeds `old`.
///
/// # Safety
///
/// The caller owns the memory, with layout `new`.
unsafe fn zero_behind(memory: NonNull<u8>, old: Layout, new: Layout) {
    // SAFETY: the caller's promise.
    unsafe { memory.add(old.size()).write_bytes(0, new.size().saturating_sub(old.size())) };
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Changes the layout of an allocation from `old` to `new`.
    ///
    /// # Safety
    ///
    /// As for [`Heap::try_realloc`].
    unsafe fn change(
        &self,
        memory: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<u8>, ReallocError> {
        // SAFETY: the caller's promise.
        let changed = unsafe {
            if old.align() == new.align() {
                self.try_realloc(memory, old, new.size())
            } else {
                self.move_to(memory, old, new, self.try_alloc(new))
            }
        };
        changed.inspect_err(|error| self.tell(*error))
    }

    /// Copies an allocation's contents, as far as both layouts reach, to the memory that was
    /// `found` for layout `new`, and frees the old memory.
    ///
    /// # Safety
    ///
    /// As for [`Heap::try_realloc`]; the caller owns the found memory.
    unsafe fn move_to(
        &self,
        memory: NonNull<u8>,
        old: Layout,
        new: Layout,
        found: Result<NonNull<u8>, AllocError>,
    ) -> Result<NonNull<u8>, ReallocError> {
        let moved = found?;
        // SAFETY: two allocations, each at least that large; both belong to the caller.
        unsafe {
            moved.copy_from_nonoverlapping(memory, old.size().min(new.size()));
            match self.free(memory, old) {
                Ok(()) => Ok(moved),
                Err(invalid) => {
                    // The new memory was never handed out.
                    self.deallocate(moved, new);
                    Err(invalid.into())
                }
            }
        }
    }

    /// Reports a refused free to the page source: the trait's error cannot carry it.
    fn tell(&self, error: ReallocError) {
        if let ReallocError::Invalid(invalid) = error {
            self.source.refused(invalid);
        }
    }
}

impl<P: Platform, S: PageSource> OnNode<'_, P, S> {
    /// Changes the layout of an allocation from `old` to `new`. If the allocation has to move, it
    /// moves to the node.
    ///
    /// # Safety
    ///
    /// As for [`Heap::try_realloc`].
    unsafe fn change(
        &self,
        memory: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<u8>, ReallocError> {
        let heap = self.heap;
        let both = old.align() == new.align() && old.size() > 0 && new.size() > 0;
        #[cfg(feature = "hardening")]
        let both = both && !heap.hardening.is_some();
        let stays = both && Room::of(old) == Room::of(new);
        if !stays {
            // SAFETY: the caller's promise.
            match unsafe { heap.move_to(memory, old, new, self.try_alloc(new)) } {
                // A shrinking allocation can always stay in place: falls through to `change`.
                Err(ReallocError::Alloc(_)) => {}
                other => return other.inspect_err(|error| heap.tell(*error)),
            }
        }
        // SAFETY: the caller's promise.
        unsafe { heap.change(memory, old, new) }
    }
}
