//! Allocating: hits in a magazine, and the slower paths.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::dealloc::object_index;
#[cfg(feature = "hardening")]
use super::hardening::Site;
use super::{AllocError, Heap, dangling};
use crate::heap::cpu::cache::Declined;
use crate::heap::large::Contents;
use crate::slab::{CHECKED, Slab, is_aligned_to_words};
use crate::try_lock::Patience;
use crate::{CpuPin, MAX_CLASS_SIZE, NodeId, PageSource, Platform, SizeClass, Unavailable};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Memory for `layout`: aligned, uninitialised, the caller's until [`Heap::free`]. For a
    /// size of zero an aligned address that may not be used. A hit costs a few plain loads and
    /// stores. When nothing is left, the caches that can be reached are returned, and it tries
    /// once more.
    ///
    /// # Errors
    ///
    /// [`AllocError`].
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
    /// let layout = Layout::new::<[u32; 4]>();
    /// let memory = HEAP.try_alloc(layout)?;
    /// assert_eq!(memory.addr().get() % layout.align(), 0);
    /// // SAFETY: the memory was allocated with the layout, and is not used any more.
    /// unsafe { HEAP.free(memory, layout)? };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    #[inline]
    pub fn try_alloc(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        // Nothing but this is inlined where memory is allocated. Two questions that lead to two places: led to
        // one, they would be joined, and cost more.
        let Some(class) = SizeClass::of_small_size(layout.size()) else { return self.alloc_uncommon(layout) };
        if !is_aligned_to_words(layout) {
            return self.alloc_rare(layout);
        }
        match self.pop(class) {
            Some(object) => Ok(object),
            None => self.alloc_otherwise(layout),
        }
    }

    /// Like [`Heap::try_alloc`], all bytes zero. A large object that is served by the page source is zeroed by
    /// that, and not written to here.
    ///
    /// # Errors
    ///
    /// [`AllocError`].
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
    /// let layout = Layout::new::<u64>();
    /// let memory = HEAP.try_alloc_zeroed(layout)?;
    /// // SAFETY: the memory holds a `u64`; after that it is not used any more.
    /// unsafe {
    ///     assert_eq!(memory.cast::<u64>().read(), 0);
    ///     HEAP.free(memory, layout)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    pub fn try_alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if layout.size() > MAX_CLASS_SIZE && !self.is_hardened() {
            return self.alloc_large(&self.platform.pin(), layout, Contents::Zeroed);
        }
        let memory = self.try_alloc(layout)?;
        // SAFETY: `try_alloc` returned that many bytes, which are the caller's.
        unsafe { memory.write_bytes(0, layout.size()) };
        Ok(memory)
    }

    /// Takes an object of `class` out of the loaded magazine, if that has any, and the CPU is one of the first 64: the
    /// others' hits are behind [`Heap::alloc_otherwise`].
    #[inline(always)]
    pub(super) fn pop(&self, class: SizeClass) -> Option<NonNull<u8>> {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            return None;
        }
        let pin = self.platform.pin();
        let Ok(Some(object)) = self.caches.with_near(&pin, |cache| cache.pop(class)) else { return None };
        if CHECKED {
            mark_live(class, object);
        }
        Some(object)
    }

    /// Serves [`Heap::try_alloc`] of sizes unknown to [`SizeClass::of_small_size`].
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    #[inline(never)]
    pub(super) fn alloc_uncommon(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let Some(class) = SizeClass::of_medium(layout) else { return self.alloc_rare(layout) };
        match self.pop(class) {
            Some(object) => Ok(object),
            None => self.alloc_otherwise(layout),
        }
    }

    /// Serves [`Heap::try_alloc`] of layouts larger than any class, aligned to more than a word, or without bytes.
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    #[inline(never)]
    pub(super) fn alloc_rare(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        match SizeClass::of(layout).and_then(|class| self.alloc_uncommon_hit(class, layout)) {
            Some(object) => Ok(object),
            None => self.alloc_otherwise(layout),
        }
    }

    /// Serves any `layout` of `class` from the loaded magazine, if that has an object.
    #[inline(always)]
    pub(super) fn alloc_uncommon_hit(&self, class: SizeClass, layout: Layout) -> Option<NonNull<u8>> {
        // A layout without bytes is of the smallest class, and takes nothing.
        if layout.size() == 0 { None } else { self.pop(class) }
    }

    /// [`Heap::try_alloc`] of anything, by any way.
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    #[inline(never)]
    pub(super) fn alloc_otherwise(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        #[cfg(feature = "hardening")]
        return self.alloc_otherwise_at(layout, Site::here());
        #[cfg(not(feature = "hardening"))]
        self.alloc_plain(layout)
    }

    /// [`Heap::try_alloc`] of anything, by any way, for the call at `site`.
    #[cfg(feature = "hardening")]
    #[inline(always)]
    pub(super) fn alloc_otherwise_at(
        &self,
        layout: Layout,
        site: Option<Site>,
    ) -> Result<NonNull<u8>, AllocError> {
        #[cfg(feature = "encoded-free-lists")]
        self.report_broken_link();
        if self.hardening.is_some() { self.alloc_hardened(layout, site) } else { self.alloc_plain(layout) }
    }

    /// [`Heap::try_alloc`] without hardening's measures, by any way.
    #[inline(always)]
    pub(super) fn alloc_plain(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if layout.size() == 0 {
            return Ok(dangling(layout));
        }
        let pin = self.platform.pin();
        let Some(class) = SizeClass::of(layout) else {
            return self.alloc_large(&pin, layout, Contents::Arbitrary);
        };
        let object = match self.alloc_class(&pin, class) {
            Ok(object) => object,
            Err(error) => self.alloc_last_resort(&pin, class, error)?,
        };
        if CHECKED {
            mark_live(class, object);
        }
        Ok(object)
    }

    pub(super) fn alloc_class(&self, pin: &CpuPin, class: SizeClass) -> Result<NonNull<u8>, AllocError> {
        let patience = match self.caches.with(pin, |cache| cache.alloc(self, pin, class)) {
            Ok(Ok(object)) => return Ok(object),
            Ok(Err(Declined::Failed(error))) => return Err(error),
            Ok(Err(Declined::Offline | Declined::NotOurs)) | Err(Unavailable::NotInstalled) => {
                Patience::Bounded
            }
            Err(Unavailable::Busy) => {
                self.count_nested(pin);
                Patience::None
            }
        };
        self.alloc_shared(pin, self.source.node_of_cpu(pin.cpu()), class, patience)
    }

    /// An object of a slab of `node`, by no magazine.
    #[cold]
    pub(super) fn alloc_shared(
        &self,
        pin: &CpuPin,
        node: NodeId,
        class: SizeClass,
        patience: Patience,
    ) -> Result<NonNull<u8>, AllocError> {
        let home = self.node(pin, node)?;
        let object = self.take_one(pin, home, class, patience)?;
        home.class(class).ops.allocated();
        Ok(object)
    }

    #[cold]
    pub(super) fn alloc_last_resort(
        &self,
        pin: &CpuPin,
        class: SizeClass,
        error: AllocError,
    ) -> Result<NonNull<u8>, AllocError> {
        if error != AllocError::OutOfMemory {
            return Err(error);
        }
        self.reclaim(pin);
        match self.alloc_class(pin, class) {
            Ok(object) => Ok(object),
            Err(_) => self.alloc_anywhere(pin, class),
        }
    }

    /// An object of any node's slabs.
    pub(super) fn alloc_anywhere(&self, pin: &CpuPin, class: SizeClass) -> Result<NonNull<u8>, AllocError> {
        let (home, object) = self.take_anywhere(pin, class, self.patience(pin))?;
        home.class(class).ops.allocated();
        Ok(object)
    }
}

pub(super) fn mark_live(class: SizeClass, object: NonNull<u8>) {
    // SAFETY: the object was just taken from a slab of the class.
    let slab = unsafe { Slab::of(object, class) };
    if let Some(index) = object_index(slab, class, object) {
        slab.live().set(index);
    }
}
