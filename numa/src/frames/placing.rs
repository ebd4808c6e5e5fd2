//! Memory for bookkeeping.

use core::ptr::NonNull;

use topomem_percpu::{MAX_NODES, NodeId, PhysAddr, Platform};

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

    /// Writes `values`, as many as there is room for.
    pub(super) fn fill_from(self, mut values: impl Iterator<Item = T>) -> &'static mut [T] {
        let mut count = 0;
        while count < self.count
            && let Some(value) = values.next()
        {
            // SAFETY: as in `fill`.
            unsafe { self.first.add(count).write(value) };
            count += 1;
        }
        // SAFETY: the first `count` values were just written, and nobody else has the memory.
        unsafe { core::slice::from_raw_parts_mut(self.first.as_ptr(), count) }
    }
}

/// Bytes from `next` up to, not including, `end`.
#[derive(Debug, Clone, Copy, Default)]
struct Rest {
    next: u64,
    end: u64,
}

/// Places bookkeeping.
pub(super) struct Builder<'b, P, G> {
    pub(super) platform: &'b P,
    pub(super) ground: &'b mut G,
    /// What is left of the last place that was taken for each node.
    rests: [Rest; MAX_NODES],
}

impl<'b, P: Platform, G: Ground> Builder<'b, P, G> {
    pub(super) fn new(platform: &'b P, ground: &'b mut G) -> Builder<'b, P, G> {
        Builder { platform, ground, rests: [Rest::default(); MAX_NODES] }
    }

    /// Takes `size` bytes for good, on `node`, or near it if it has no room: from what is left of another place if
    /// they fit, else from the ground.
    fn take(&mut self, size: u64, align: u64, node: NodeId) -> Result<PhysAddr, InitError<G::Error>> {
        let rest = &mut self.rests[node.index()];
        let start = rest.next.next_multiple_of(align);
        if start + size <= rest.end {
            rest.next = start + size;
            return Ok(PhysAddr::new(start));
        }
        let taken = size.next_multiple_of(self.ground.unit());
        let address = self.ground.place(taken, align, node).map_err(InitError::Metadata)?;
        let left = Rest { next: address.as_u64() + size, end: address.as_u64() + taken };
        if left.end - left.next > rest.end - rest.next {
            *rest = left;
        }
        Ok(address)
    }

    /// Takes memory for `count` values, on `node` or near it, and adds it to `bytes`.
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
        let address = self.take(size, align_of::<T>() as u64, node)?;
        *bytes += size;
        Ok(Place { first: self.platform.phys_to_virt(address).cast(), count })
    }
}
