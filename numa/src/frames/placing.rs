//! Memory for bookkeeping.

use core::ptr::NonNull;

use topomem_percpu::{NodeId, Platform};

use super::{Ground, InitError};

/// Memory for `count` values not yet written.
pub(super) struct Place<T> {
    first: NonNull<T>,
    count: usize,
}

impl<T: 'static> Place<T> {
    /// Writes the values, made by index.
    pub(super) fn fill(self, mut make: impl FnMut(usize) -> T) -> &'static mut [T] {
        for index in 0..self.count {
            // SAFETY: by `Ground` and `Platform`, the bytes are RAM without other users, mapped for
            // good; addresses aligned to frames keep their alignment in the direct map.
            unsafe { self.first.add(index).write(make(index)) };
        }
        // SAFETY: all `count` values were just written, and the memory has no other users.
        unsafe { core::slice::from_raw_parts_mut(self.first.as_ptr(), self.count) }
    }
}

/// Places bookkeeping.
pub(super) struct Builder<'b, P, G> {
    pub(super) platform: &'b P,
    pub(super) ground: &'b mut G,
}

impl<P: Platform, G: Ground> Builder<'_, P, G> {
    pub(super) fn place<T>(
        &mut self,
        count: usize,
        node: NodeId,
        bytes: &mut u64,
    ) -> Result<Place<T>, InitError<G::Error>> {
        if count == 0 {
            return Ok(Place { first: NonNull::dangling(), count });
        }
        let size = (size_of::<T>() * count) as u64;
        let address = self.ground.place(size, align_of::<T>() as u64, node).map_err(InitError::Metadata)?;
        *bytes += size;
        Ok(Place { first: self.platform.phys_to_virt(address).cast(), count })
    }
}
