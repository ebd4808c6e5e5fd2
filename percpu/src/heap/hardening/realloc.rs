//! Changes of size in a hardened heap.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::super::{AllocError, Heap, ReallocError};
use super::block::Block;
use super::site::Site;
use crate::{PageSource, Platform};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Changes an allocation's size for [`Heap::try_realloc`] in a heap with measures.
    ///
    /// # Safety
    ///
    /// As for [`Heap::try_realloc`].
    pub(in crate::heap) unsafe fn realloc_hardened(
        &self,
        memory: NonNull<u8>,
        layout: Layout,
        new_size: usize,
        site: Option<Site>,
    ) -> Result<NonNull<u8>, ReallocError> {
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return Err(AllocError::TooLarge { size: new_size, align: layout.align() }.into());
        };
        if layout.size() == 0 {
            return Ok(self.alloc_hardened(new_layout, site)?);
        }
        let taken = self.check_hardened(memory, layout)?;
        let (size, align) = (new_layout.size(), new_layout.align());
        let new_block = Block::of(new_layout, self.hardening).ok_or(AllocError::TooLarge { size, align })?;
        let cpu = self.platform.pin().cpu();
        if size != 0 && Block::of(layout, self.hardening).is_some_and(|block| block.shares(&new_block)) {
            // SAFETY: the caller owns the block, and both layouts share it.
            return Ok(unsafe { new_block.prepare(taken.start, cpu, site) });
        }
        let moved = match self.alloc_hardened(new_layout, site) {
            Ok(moved) => moved,
            Err(error) => {
                if size > layout.size() {
                    return Err(error.into());
                }
                // SAFETY: the caller owns the block, which is large enough.
                return unsafe { self.shrink_in_place(memory, taken.start, new_block, site) }
                    .ok_or(error.into());
            }
        };
        // SAFETY: two allocations, each at least that large; the caller owned the old allocation
        // and releases it.
        unsafe {
            moved.copy_from_nonoverlapping(memory, layout.size().min(size));
            // Refused only if another context has just freed the memory: the refusal was reported.
            let _ = self.free_block(&self.platform.pin(), &taken);
        }
        Ok(moved)
    }

    /// Leaves the object at `memory` in the block at `start` for the smaller layout of `new_block`.
    ///
    /// # Safety
    ///
    /// The caller owns the block.
    unsafe fn shrink_in_place(
        &self,
        memory: NonNull<u8>,
        start: NonNull<u8>,
        new_block: Block,
        site: Option<Site>,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        unsafe {
            let start = self.leave(start, new_block.outer)?;
            // A large block has no front; a small block may have one.
            if let Some(moved) = new_block.object(start)
                && moved != memory
            {
                moved.copy_from(memory, new_block.size());
            }
            Some(new_block.prepare(start, self.platform.pin().cpu(), site))
        }
    }
}
