//! RAM: one host allocation that stands for a span of physical addresses.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
#[cfg(test)]
use core::sync::atomic::Ordering;
use std::alloc::{Layout, alloc_zeroed, dealloc};

use topomem_percpu::PhysAddr;

/// A span of physical memory. The host backs a page of it when it is first touched.
#[derive(Debug)]
pub(super) struct Arena {
    block: NonNull<u8>,
    layout: Layout,
    /// Where `base` is; as aligned as `base` is, up to [`Arena::ALIGNMENT`].
    start: NonNull<u8>,
    base: u64,
    bytes: u64,
}

// SAFETY: the arena owns its allocation and hands out addresses; whoever writes through them
// answers for the races, as with any RAM.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Physical and host addresses agree below this, so that a naturally aligned run of frames
    /// of any order up to 1 GiB is as aligned in the direct map.
    pub(super) const ALIGNMENT: u64 = 1 << 30;

    /// Zeroed RAM at `base..base + bytes`; `None` where the host has no address space for it.
    pub(super) fn new(base: PhysAddr, bytes: u64) -> Option<Arena> {
        let base = base.as_u64();
        // Over-allocate and align by hand: a large alignment in the layout makes the standard
        // library write the zeros, which would touch every page.
        let slack = Arena::ALIGNMENT.min(bytes.next_power_of_two()).max(1 << 21);
        let size = usize::try_from(bytes.checked_add(slack)?).ok()?;
        let layout = Layout::from_size_align(size, 16).ok()?;
        // SAFETY: `size` is at least `slack`, so not zero.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let wanted = base & (slack - 1);
        let found = block.as_ptr().addr() as u64 & (slack - 1);
        let shift = wanted.wrapping_sub(found) & (slack - 1);
        // SAFETY: `shift` is below `slack`, and the block holds `slack` bytes beyond the RAM.
        let start = unsafe { block.add(shift as usize) };
        Some(Arena { block, layout, start, base, bytes })
    }

    /// Where the RAM byte at `addr` is, or `None` where no RAM answers.
    pub(super) fn at(&self, addr: PhysAddr) -> Option<NonNull<u8>> {
        let offset = addr.as_u64().checked_sub(self.base)?;
        if offset >= self.bytes {
            return None;
        }
        // SAFETY: the offset is inside the allocation.
        Some(unsafe { self.start.add(offset as usize) })
    }

    /// The physical address of the RAM byte at `place`, or `None` where that is no RAM.
    pub(super) fn address_of(&self, place: NonNull<u8>) -> Option<PhysAddr> {
        let offset = (place.addr().get() as u64).checked_sub(self.start.addr().get() as u64)?;
        if offset < self.bytes { Some(PhysAddr::new(self.base + offset)) } else { None }
    }

    /// The eight bytes at `addr`, or `None` where they are not all RAM or not aligned.
    pub(super) fn word(&self, addr: PhysAddr) -> Option<&AtomicU64> {
        if !addr.is_aligned(8u64) {
            return None;
        }
        // RAM begins and ends at frame boundaries, so an aligned word is inside or outside.
        let pointer = self.at(addr)?.cast::<AtomicU64>();
        // SAFETY: inside the allocation for as long as `self` lives, and aligned, since host and
        // physical addresses agree in their low bits; zeroed memory is an initialised word.
        Some(unsafe { pointer.as_ref() })
    }

    /// What the processor reads at `addr`.
    #[cfg(test)]
    pub(super) fn load(&self, addr: PhysAddr) -> Option<u64> {
        // Acquire: x86 does not reorder loads, nor with the Release of `store`.
        Some(self.word(addr)?.load(Ordering::Acquire))
    }

    /// Writes `value` at `addr`; `None` where no RAM answers.
    #[cfg(test)]
    pub(super) fn store(&self, addr: PhysAddr, value: u64) -> Option<()> {
        // Release: x86 does not reorder stores; pairs with the Acquire of `load`.
        self.word(addr)?.store(value, Ordering::Release);
        Some(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and nobody borrows `self` any more.
        unsafe { dealloc(self.block.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_physical_addresses_are_equally_aligned() {
        let arena = Arena::new(PhysAddr::new(0x30_0000), 8 << 20).unwrap();
        let huge = arena.at(PhysAddr::new(0x40_0000)).unwrap();
        assert_eq!(huge.addr().get() % (2 << 20), 0);
        assert_eq!(arena.address_of(huge), Some(PhysAddr::new(0x40_0000)));
        assert_eq!(arena.address_of(NonNull::dangling()), None);
        assert!(arena.at(PhysAddr::new(0x2f_ffff)).is_none());
        assert!(arena.at(PhysAddr::new(0x30_0000 + (8 << 20))).is_none());
    }

    #[test]
    fn starts_zeroed_and_remembers() {
        let arena = Arena::new(PhysAddr::new(0x10_0000), 1 << 20).unwrap();
        assert_eq!(arena.load(PhysAddr::new(0x10_0008)), Some(0));
        assert_eq!(arena.store(PhysAddr::new(0x10_0008), 7), Some(()));
        assert_eq!(arena.load(PhysAddr::new(0x10_0008)), Some(7));
        assert_eq!(arena.load(PhysAddr::new(0x10_0004)), None);
        assert_eq!(arena.store(PhysAddr::new(0), 7), None);
    }
}
