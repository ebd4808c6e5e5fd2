//! Memory for bookkeeping.

use core::ptr::NonNull;

use topomem_percpu::{NodeId, PhysAddr, Platform};

use super::boot_memory::BootMemory;
use crate::frames::types::InitError;

/// Memory for `count` values not yet written.
pub(super) struct UninitSlice<T> {
    first: NonNull<T>,
    count: usize,
}

impl<T: 'static> UninitSlice<T> {
    /// The place of no value.
    pub(super) const EMPTY: UninitSlice<T> = UninitSlice { first: NonNull::dangling(), count: 0 };

    /// Takes the place, and leaves an empty one.
    pub(super) fn take(&mut self) -> UninitSlice<T> {
        core::mem::replace(self, UninitSlice::EMPTY)
    }

    /// Writes the values, made by index.
    ///
    /// Not inlined: one value at a time is on the stack, and its room is free again afterwards.
    #[inline(never)]
    pub(super) fn fill(self, mut make: impl FnMut(usize) -> T) -> &'static mut [T] {
        for index in 0..self.count {
            // SAFETY: by `BootMemory` and `Platform`, the bytes are RAM without other users, mapped for
            // good; addresses aligned to frames keep their alignment in the direct map.
            unsafe { self.first.add(index).write(make(index)) };
        }
        // SAFETY: all `count` values were just written, and the memory has no other users.
        unsafe { core::slice::from_raw_parts_mut(self.first.as_ptr(), self.count) }
    }

    /// Writes `values`, as many as there is room for.
    #[inline(never)]
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
    pub(super) memory: &'b mut G,
    /// The rest of the last place that was taken for each node.
    rests: &'static mut [Rest],
}

impl<'b, P: Platform, G: BootMemory> Builder<'b, P, G> {
    /// Creates a builder for `nodes` nodes, and adds the bytes taken for it to `bytes`.
    pub(super) fn new(
        platform: &'b P,
        memory: &'b mut G,
        nodes: usize,
        bytes: &mut u64,
    ) -> Result<Builder<'b, P, G>, InitError<G::Error>> {
        let mut builder = Builder { platform, memory, rests: &mut [] };
        let size = (size_of::<Rest>() * nodes) as u64;
        let (address, rest) = builder.take_new(size, align_of::<Rest>() as u64, NodeId::ZERO)?;
        *bytes += size;
        let place = UninitSlice { first: platform.phys_to_virt(address).cast(), count: nodes };
        builder.rests = place.fill(|_| Rest::default());
        builder.rests.first_mut().into_iter().for_each(|first| *first = rest);
        Ok(builder)
    }

    /// Takes `size` bytes for good from the boot memory. Returns the address, and the rest behind the bytes.
    fn take_new(
        &mut self,
        size: u64,
        align: u64,
        node: NodeId,
    ) -> Result<(PhysAddr, Rest), InitError<G::Error>> {
        let taken = size.next_multiple_of(self.memory.unit());
        let address = self.memory.alloc(taken, align, node).map_err(InitError::Metadata)?;
        let start = address.as_u64();
        Ok((address, Rest { next: start + size, end: start + taken }))
    }

    /// Takes `size` bytes for good, on `node`, or near `node` if the node has no room: from the rest of an earlier
    /// place if the bytes fit, else from the boot memory.
    fn take(&mut self, size: u64, align: u64, node: NodeId) -> Result<PhysAddr, InitError<G::Error>> {
        let rest = &mut self.rests[node.index()];
        let start = rest.next.next_multiple_of(align);
        if start + size <= rest.end {
            rest.next = start + size;
            return Ok(PhysAddr::new(start));
        }
        let (address, left) = self.take_new(size, align, node)?;
        let rest = &mut self.rests[node.index()];
        if left.end - left.next > rest.end - rest.next {
            *rest = left;
        }
        Ok(address)
    }

    /// Takes memory for `count` values, on `node` or near it, and adds it to `bytes`.
    pub(super) fn place<T: 'static>(
        &mut self,
        count: usize,
        node: NodeId,
        bytes: &mut u64,
    ) -> Result<UninitSlice<T>, InitError<G::Error>> {
        if count == 0 {
            return Ok(UninitSlice::EMPTY);
        }
        let size = (size_of::<T>() * count) as u64;
        let address = self.take(size, align_of::<T>() as u64, node)?;
        *bytes += size;
        Ok(UninitSlice { first: self.platform.phys_to_virt(address).cast(), count })
    }
}
