//! Freeing: hits in a magazine, and the slower paths.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::place::Room;
use super::{Heap, InvalidFree};
use crate::slab::{CHECKED, Slab, SlabShape, WasLive, is_aligned_to_words};
use crate::try_lock::Patience;
use crate::{CpuPin, PageSource, Platform, SizeClass, Unavailable};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Takes memory back.
    ///
    /// # Safety
    ///
    /// `memory` came from the heap for the same `layout`, and is not used any more. Builds with
    /// debug assertions or the `hardened` feature detect most breaches of this, but may crash on
    /// an address that is not readable as far back as a slab reaches.
    ///
    /// # Errors
    ///
    /// [`InvalidFree`], with everything unchanged. Every build detects wrong frees of large objects
    /// and frees with the layout of another class; those builds detect double frees, and addresses
    /// inside objects, too.
    ///
    /// ```
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// # use topomem_percpu::{Heap, Platform};
    /// # static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
    /// # let pin = Host.pin();
    /// # HEAP.cpu_online(&pin)?;
    /// use std::alloc::Layout;
    ///
    /// let layout = Layout::from_size_align(100, 8)?;
    /// let memory = HEAP.try_alloc(layout)?;
    /// // SAFETY: the memory was allocated with the layout, and is not used any more.
    /// unsafe { HEAP.free(memory, layout)? };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub unsafe fn free(&self, memory: NonNull<u8>, layout: Layout) -> Result<(), InvalidFree> {
        // SAFETY: the caller's promise.
        unsafe {
            // As in `try_alloc`.
            let Some(class) = SizeClass::of_small_size(layout.size()) else {
                return self.dealloc_uncommon(memory, layout);
            };
            if !is_aligned_to_words(layout) {
                return self.dealloc_rare(memory, layout);
            }
            if self.push(class, memory) { Ok(()) } else { self.dealloc_otherwise(memory, layout) }
        }
    }

    /// Puts an object of `class` into the loaded magazine. False if that has no room, if something about the
    /// object is to be checked or refused, or if the CPU is not one of the first 64; then nothing has changed.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`], with a layout of that class.
    #[inline(always)]
    pub(super) unsafe fn push(&self, class: SizeClass, memory: NonNull<u8>) -> bool {
        if CHECKED {
            return false;
        }
        let pin = self.platform.pin();
        // SAFETY: the caller's promise.
        matches!(self.caches.with_near(&pin, |cache| unsafe { cache.push(class, memory) }), Ok(true))
    }

    /// Serves [`Heap::free`] of sizes unknown to [`SizeClass::of_small_size`].
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    #[inline(never)]
    pub(super) unsafe fn dealloc_uncommon(
        &self,
        memory: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), InvalidFree> {
        // SAFETY: the caller's promise.
        unsafe {
            let Some(class) = SizeClass::of_medium(layout) else { return self.dealloc_rare(memory, layout) };
            if self.push(class, memory) { Ok(()) } else { self.dealloc_otherwise(memory, layout) }
        }
    }

    /// Serves [`Heap::free`] of layouts larger than any class, aligned to more than a word, or without bytes.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    #[inline(never)]
    pub(super) unsafe fn dealloc_rare(&self, memory: NonNull<u8>, layout: Layout) -> Result<(), InvalidFree> {
        // SAFETY: the caller's promise.
        unsafe {
            match SizeClass::of(layout) {
                Some(class) if self.free_uncommon_hit(class, memory, layout) => Ok(()),
                _ => self.dealloc_otherwise(memory, layout),
            }
        }
    }

    /// Takes memory of any `layout` of `class` back into the loaded magazine; false if that has no room, or
    /// if something about it is to be checked or refused. Then nothing has changed.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    #[inline(always)]
    pub(super) unsafe fn free_uncommon_hit(
        &self,
        class: SizeClass,
        memory: NonNull<u8>,
        layout: Layout,
    ) -> bool {
        // SAFETY: the caller's promise.
        layout.size() != 0 && unsafe { self.push(class, memory) }
    }

    /// [`Heap::free`] of anything, by any way.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    #[inline(never)]
    pub(super) unsafe fn dealloc_otherwise(
        &self,
        memory: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), InvalidFree> {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            // SAFETY: the caller's promise.
            return unsafe { self.dealloc_hardened(memory, layout) };
        }
        if layout.size() == 0 {
            return Ok(());
        }
        let pin = self.platform.pin();
        let Some(class) = SizeClass::of(layout) else {
            // SAFETY: the caller's promise.
            return unsafe { self.dealloc_large(&pin, memory, layout) };
        };
        // SAFETY: the caller's promise; in checking builds the tag is looked at first.
        let slab = unsafe { Slab::of(memory, class) };
        if CHECKED {
            match check_free(slab, class, memory) {
                Ok(()) => {}
                Err(otherwise @ InvalidFree::NotInSlab { .. }) => {
                    // SAFETY: the caller's promise.
                    return unsafe { self.dealloc_left(&pin, memory, Room::Object(class), otherwise) };
                }
                Err(invalid) => return Err(invalid),
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.put_back(&pin, slab, class, memory) }
    }

    /// Takes an object of `slab` back, by any way.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`], with a layout of that class.
    #[inline(always)]
    pub(super) unsafe fn put_back(
        &self,
        pin: &CpuPin,
        slab: Slab,
        class: SizeClass,
        memory: NonNull<u8>,
    ) -> Result<(), InvalidFree> {
        // SAFETY: the caller's promise.
        match self.caches.with(pin, |cache| unsafe { cache.free(self, pin, class, memory) }) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(Unavailable::NotInstalled) => {
                self.dealloc_shared(pin, slab, class, memory, Patience::Bounded)
            }
            Err(Unavailable::Busy) => {
                self.count_nested(pin);
                self.dealloc_shared(pin, slab, class, memory, Patience::None)
            }
        }
    }

    #[cold]
    pub(super) fn dealloc_shared(
        &self,
        pin: &CpuPin,
        slab: Slab,
        class: SizeClass,
        object: NonNull<u8>,
        patience: Patience,
    ) -> Result<(), InvalidFree> {
        // A slab is made only if its home's heap exists.
        let Some(home) = slab.home(class).and_then(|home| self.existing(home)) else {
            let otherwise = InvalidFree::NotInSlab { address: object.addr().get(), class };
            // SAFETY: the caller of `free` gave the object up.
            return unsafe { self.dealloc_left(pin, object, Room::Object(class), otherwise) };
        };
        // Counted while the object still keeps its slab alive.
        home.class(class).ops.freed();
        self.give(pin, home, class, slab, object, patience);
        Ok(())
    }
}

pub(super) fn object_index(slab: Slab, class: SizeClass, object: NonNull<u8>) -> Option<usize> {
    SlabShape::ALL[class.index()].index_of(class, object.addr().get().wrapping_sub(slab.address()))
}

fn check_free(slab: Slab, class: SizeClass, object: NonNull<u8>) -> Result<(), InvalidFree> {
    let address = object.addr().get();
    if slab.home(class).is_none() {
        return Err(InvalidFree::NotInSlab { address, class });
    }
    let Some(index) = object_index(slab, class, object) else {
        return Err(InvalidFree::InsideObject { address, class });
    };
    match slab.live().clear(index) {
        WasLive::Yes => Ok(()),
        WasLive::No => Err(InvalidFree::DoubleFree { address, class }),
    }
}
