//! Frees and sizes for callers that know an address, and no layout: C's `free`, a kernel's `kfree`.
//!
//! The heap's record tells the run of an address. No memory is read that may belong to another
//! owner.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::heap::place::Place;
use crate::heap::{Heap, InvalidFree};
use crate::{Order, PageSource, Platform};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Returns the number of bytes of the allocation at `memory`, at least as many as requested.
    /// The owner may use all of them, and then has two ways to free the allocation:
    /// [`Heap::free_by_address`], and [`Heap::free`] or [`Heap::try_realloc`] with a layout of
    /// this many bytes and of word alignment.
    ///
    /// Returns `None` if no allocation of the heap can start at `memory`. An allocation of no
    /// bytes has no memory, so for its address the result is `None`, too. For freed memory the
    /// result is unspecified.
    ///
    /// A heap with hardening measures needs an object's layout to find the data around the object.
    /// Such a heap returns `None`, and refuses every free by address.
    ///
    /// Cost: a walk of four dependent loads and a division.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use topomem_percpu::{AllocError, Heap, PageSource, Platform};
    /// # fn example<P: Platform, S: PageSource>(heap: &Heap<P, S>) -> Result<(), AllocError> {
    /// let memory = heap.try_alloc(Layout::new::<[u64; 9]>())?;
    /// assert_eq!(heap.usable_size(memory), Some(80));
    /// // SAFETY: allocated above, and not used any more.
    /// let freed = unsafe { heap.free_by_address(memory) };
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

    /// Frees memory, as [`Heap::free`] does, without knowing its layout. Cost: a walk of four
    /// dependent loads more than `free`.
    ///
    /// # Safety
    ///
    /// `memory` came from the heap, for a layout of at least one byte, and is not used any more. A
    /// breach that is refused is not undefined behaviour, and any address outside the runs of this
    /// heap may be passed.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidFree`], with everything unchanged, if the address is outside the heap's
    /// runs, or if a large object is freed twice; every build detects these. Builds with debug
    /// assertions or the `hardened` feature also detect double frees of small objects, and
    /// addresses inside objects.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::alloc::Layout;
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// let heap = Heap::new(Host, Host);
    /// let memory = heap.try_alloc(Layout::new::<[u8; 100]>())?;
    /// // SAFETY: allocated above, and not used any more.
    /// unsafe { heap.free_by_address(memory)? };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub unsafe fn free_by_address(&self, memory: NonNull<u8>) -> Result<(), InvalidFree> {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            return Err(InvalidFree::NotAllocated { address: memory.addr().get() });
        }
        let Some(class) = self.runs.slab_around(memory.addr().get()) else {
            // SAFETY: the caller's promise.
            return unsafe { self.dealloc_large_by_address(memory) };
        };
        // SAFETY: the caller's promise; the record says that the address lies in a slab of the class.
        if unsafe { self.push(class, memory) } {
            return Ok(());
        }
        // SAFETY: as above.
        unsafe { self.dealloc_otherwise(memory, class.layout()) }
    }

    /// Frees memory that lies in no slab, for [`Heap::free_by_address`].
    ///
    /// # Safety
    ///
    /// As for [`Heap::free_by_address`].
    #[inline(never)]
    unsafe fn dealloc_large_by_address(&self, memory: NonNull<u8>) -> Result<(), InvalidFree> {
        let bytes = self.usable_size(memory);
        let layout = bytes.and_then(|bytes| Layout::from_size_align(bytes, align_of::<usize>()).ok());
        let layout = layout.ok_or(InvalidFree::NotAllocated { address: memory.addr().get() })?;
        // SAFETY: the caller's promise; the object has the layout of all its bytes.
        unsafe { self.dealloc_otherwise(memory, layout) }
    }
}
