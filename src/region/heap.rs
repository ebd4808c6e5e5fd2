//! The program break: the end of a program's heap.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use topomem_shootdown::VirtAddr;

use super::attributes::{Kind, Region};
use super::error::MmapError;
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::{Access, Pages};

/// Where a program's heap begins and ends, by address.
///
/// It takes no lock: to grow, the heap first takes the pages, and then moves its end, by compare-and-swap;
/// to shrink, it does so the other way round. So no page of the heap lies above its end for long, and none
/// that belongs to another region is ever taken for the heap's.
#[derive(Debug)]
pub(crate) struct ProgramBreak {
    start: AtomicU64,
    end: AtomicU64,
}

impl ProgramBreak {
    /// No heap.
    pub(crate) fn none() -> ProgramBreak {
        ProgramBreak { start: AtomicU64::new(0), end: AtomicU64::new(0) }
    }
}

impl ProgramBreak {
    /// Copies the heap's place to that of a space that no program runs in yet.
    pub(crate) fn copy_to(&self, copy: &ProgramBreak) {
        // Relaxed: what starts the program orders.
        copy.start.store(self.start.load(Ordering::Relaxed), Ordering::Relaxed);
        copy.end.store(self.end.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// The number of the first page at or above `address`.
const fn page_above(address: u64) -> u64 {
    address.div_ceil(4096)
}

impl<P: Machine> AddressSpace<P> {
    /// Sets where the program's heap begins, empty: after the program's variables.
    ///
    /// For a space that no program runs in yet.
    pub fn set_heap_start(&self, start: VirtAddr) {
        let program_break = &self.core().program_break;
        // Relaxed: no program runs yet, and what starts it orders.
        program_break.start.store(start.as_u64(), Ordering::Relaxed);
        program_break.end.store(start.as_u64(), Ordering::Relaxed);
    }

    /// Moves the end of the program's heap to `end`, and returns where the end is then: where it was if
    /// `end` lies below the heap's start or above what the space may map, or if pages on the way belong to
    /// another region, or if memory for page tables runs out. New pages are zero. Waits until no CPU can
    /// use pages that were given up.
    ///
    /// The end need not be aligned to a page. Costs as [`AddressSpace::mmap`] or
    /// [`AddressSpace::munmap`] of the pages in between.
    pub fn brk(&self, pin: &CpuPin, end: VirtAddr) -> VirtAddr {
        let program_break = &self.core().program_break;
        let new = end.as_u64();
        loop {
            // Relaxed here and below: the claims of the pages order what is done to them.
            let old = program_break.end.load(Ordering::Relaxed);
            if new < program_break.start.load(Ordering::Relaxed) || old == 0 {
                return VirtAddr::new_truncate(old);
            }
            let moved =
                || program_break.end.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            let (first, next) = (page_above(old), page_above(new));
            if next <= first {
                if !moved() {
                    continue;
                }
                if next < first {
                    self.take_back(pin, Pages { first: next, last: first - 1 });
                }
                return end;
            }
            let pages = Pages { first, last: next - 1 };
            if !self.may_map(pages) {
                return VirtAddr::new_truncate(old);
            }
            let region = self.as_made_here(Region::anonymous(Kind::Heap, Access::WRITE));
            match self.take_vacant(pin, pages, region) {
                Ok(()) if moved() => return end,
                // Another context has moved the end meanwhile.
                Ok(()) => self.take_back(pin, pages),
                Err(MmapError::Occupied(_)) if program_break.end.load(Ordering::Relaxed) != old => {}
                Err(_) => return VirtAddr::new_truncate(old),
            }
        }
    }

    /// Unmaps `pages`, and waits until no CPU can use them. Does nothing if memory for page tables runs
    /// out: then the pages stay reserved.
    pub(super) fn take_back(&self, pin: &CpuPin, pages: Pages) {
        if let Ok(unmapping) = self.unmap(pin, crate::address_space::range_of_pages(pages)) {
            unmapping.wait(pin);
        }
    }
}
