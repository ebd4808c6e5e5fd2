//! Changes of size.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::dealloc::object_index;
#[cfg(feature = "hardening")]
use super::hardening::Site;
use super::place::Room;
use super::{AllocError, Heap, InvalidFree, ReallocError};
use crate::heap::large::Held;
use crate::slab::{CHECKED, Slab, WasLive};
use crate::{PageSource, Platform, SizeClass};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Changes the size of an allocation: in place if the size class is the same, or if the page source
    /// can make the run of pages longer or shorter where it is; else the contents are copied, as far as both sizes reach. If there is no memory
    /// of the new size, but where the allocation is there is enough, it stays: so no shrinking
    /// fails.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`]; on success `memory` may not be used any more, and the new
    /// allocation has `layout`'s alignment.
    ///
    /// # Errors
    ///
    /// [`ReallocError`], with `memory` as it was. Wrong addresses and layouts are detected where
    /// [`Heap::free`] detects them.
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
    /// let small = Layout::from_size_align(64, 8)?;
    /// let memory = HEAP.try_alloc(small)?;
    /// // SAFETY: the memory was allocated with `small`, and `grown` with its new layout.
    /// unsafe {
    ///     let grown = HEAP.try_realloc(memory, small, 4096)?;
    ///     HEAP.free(grown, Layout::from_size_align(4096, 8)?)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    pub unsafe fn try_realloc(
        &self,
        memory: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ReallocError> {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            // SAFETY: the caller's promise.
            return unsafe { self.realloc_hardened(memory, layout, new_size, Site::here()) };
        }
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return Err(AllocError::TooLarge { size: new_size, align: layout.align() }.into());
        };
        if layout.size() == 0 {
            return Ok(self.try_alloc(new_layout)?);
        }
        if SizeClass::of(layout).is_none() {
            let pin = self.platform.pin();
            if let Some(pages) = self.range_at(&pin, memory) {
                // SAFETY: the caller's promise.
                return unsafe { self.realloc_range(&pin, memory, pages, layout, new_layout) };
            }
        }
        self.check_held(memory, layout)?;
        // SAFETY: the memory is the caller's, with that layout.
        if new_size != 0 && unsafe { self.resize_in_place(memory, layout, new_layout) } {
            return Ok(memory);
        }
        let roomy = if new_size > layout.size() { self.alloc_with_room(new_layout) } else { None };
        let moved = match roomy.map_or_else(|| self.try_alloc(new_layout), Ok) {
            Ok(moved) => moved,
            // SAFETY: the memory is the caller's, and both layouts have the same alignment.
            Err(error) => return unsafe { self.leave(memory, new_layout) }.ok_or(error.into()),
        };
        // SAFETY: two allocations, each at least that large; the old one is the caller's.
        unsafe {
            moved.copy_from_nonoverlapping(memory, layout.size().min(new_size));
            if let Err(invalid) = self.free(memory, layout) {
                self.source.refused(invalid);
            }
        }
        Ok(moved)
    }

    /// Is `memory` an allocation with `layout`, as far as this build can tell?
    pub(super) fn check_held(&self, memory: NonNull<u8>, layout: Layout) -> Result<(), InvalidFree> {
        let address = memory.addr().get();
        let Some(class) = SizeClass::of(layout) else {
            return match self.check_large(memory, layout)? {
                Held::Here(_) => Ok(()),
                Held::Left(room, otherwise) => self.left_place(memory, room).map(|_| ()).ok_or(otherwise),
            };
        };
        if !CHECKED {
            return Ok(());
        }
        // SAFETY: the caller's promise; the tag is looked at first.
        let slab = unsafe { Slab::of(memory, class) };
        if slab.home(class).is_none() {
            let otherwise = InvalidFree::NotInSlab { address, class };
            return self.left_place(memory, Room::Object(class)).map(|_| ()).ok_or(otherwise);
        }
        let index = object_index(slab, class, memory).ok_or(InvalidFree::InsideObject { address, class })?;
        match slab.live().get(index) {
            WasLive::Yes => Ok(()),
            WasLive::No => Err(InvalidFree::DoubleFree { address, class }),
        }
    }
}
