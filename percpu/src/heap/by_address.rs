//! Frees and sizes for callers that know an address, and no layout: C's `free`, a kernel's `kfree`.
//!
//! The heap's record tells which run an address lies in. It needs no look at memory that may be
//! somebody else's.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::place::Place;
use super::{Heap, InvalidFree};
use crate::{Order, PageSource, Platform};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Returns how many bytes the allocation at `memory` has, which are at least as many as were
    /// asked for. Its owner may use them all, and then has two ways to give it back:
    /// [`Heap::dealloc_by_address`], and [`Heap::dealloc`] or [`Heap::realloc`] with a layout of so many
    /// bytes that is aligned to a word.
    ///
    /// Returns `None` if no allocation of this heap can start at `memory`. An allocation of no bytes
    /// has no memory, so for its address the answer is `None`, too. For memory that was freed the
    /// answer is one or the other.
    ///
    /// A heap with measures of hardening finds what it keeps around an object by the object's layout
    /// alone. It answers `None`, and refuses every free by address.
    ///
    /// Costs a walk of four dependent loads and a division.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use topomem_percpu::{AllocError, Heap, PageSource, Platform};
    /// # fn example<P: Platform, S: PageSource>(heap: &Heap<P, S>) -> Result<(), AllocError> {
    /// let memory = heap.alloc(Layout::new::<[u64; 9]>())?;
    /// assert_eq!(heap.usable_size(memory), Some(80));
    /// // SAFETY: allocated above, and not used any more.
    /// let freed = unsafe { heap.dealloc_by_address(memory) };
    /// assert_eq!(freed, Ok(()));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn usable_size(&self, memory: NonNull<u8>) -> Option<usize> {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            return None;
        }
        self.place_of(memory).map(Place::bytes).or_else(|| {
            let pages = self.range_at(&self.platform.pin(), memory)?;
            Some((pages * Order::FRAME.bytes()) as usize)
        })
    }

    /// Takes memory back, as [`Heap::dealloc`] does, from a caller that does not know its layout.
    /// Costs a walk of four dependent loads more.
    ///
    /// # Safety
    ///
    /// `memory` came from this heap, for a layout of at least one byte, and is not used any more. No
    /// breach of this is undefined behaviour if it is refused, and any address may be tried that no
    /// run of this heap covers.
    ///
    /// # Errors
    ///
    /// [`InvalidFree`], with everything unchanged. Every build detects addresses outside the heap's
    /// runs, and second frees of large objects. Builds with debug assertions or the `hardened`
    /// feature detect double frees, and addresses inside objects, too.
    #[inline]
    pub unsafe fn dealloc_by_address(&self, memory: NonNull<u8>) -> Result<(), InvalidFree> {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            return Err(InvalidFree::NotAllocated { address: memory.addr().get() });
        }
        let Some(class) = self.runs.slab_around(memory.addr().get()) else {
            // SAFETY: the caller's promise.
            return unsafe { self.dealloc_large_by_address(memory) };
        };
        // SAFETY: the caller's promise; the record says that the address lies in a slab of this class.
        if unsafe { self.push(class, memory) } {
            return Ok(());
        }
        // SAFETY: as above.
        unsafe { self.dealloc_otherwise(memory, class.layout()) }
    }

    /// [`Heap::dealloc_by_address`] of what lies in no slab.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc_by_address`].
    #[inline(never)]
    unsafe fn dealloc_large_by_address(&self, memory: NonNull<u8>) -> Result<(), InvalidFree> {
        let bytes = self.usable_size(memory);
        let layout = bytes.and_then(|bytes| Layout::from_size_align(bytes, align_of::<usize>()).ok());
        let layout = layout.ok_or(InvalidFree::NotAllocated { address: memory.addr().get() })?;
        // SAFETY: the caller's promise; a layout of all its bytes is one that the object has.
        unsafe { self.dealloc_otherwise(memory, layout) }
    }
}
