//! The program break: the end of a program's heap.

use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use topomem_shootdown::VirtAddr;

use super::error::MmapError;
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::{Access, Pages};
use crate::region::attributes::{Kind, Region};

/// The start and the end of a program's heap, by address.
///
/// The program break takes no lock. To grow, the heap first takes the pages, and then moves its end
/// by compare-and-swap; to shrink, it proceeds in the opposite order. A page of the heap therefore
/// lies above its end only for a short time, and a page of another region is never taken for the
/// heap's.
#[derive(Debug)]
pub(crate) struct ProgramBreak {
    start: AtomicU64,
    end: AtomicU64,
}

impl ProgramBreak {
    /// Returns the program break of a space without a heap.
    pub(crate) fn none() -> ProgramBreak {
        ProgramBreak { start: AtomicU64::new(0), end: AtomicU64::new(0) }
    }
}

impl ProgramBreak {
    /// Copies the heap's place to the program break of a space without a running program.
    pub(crate) fn copy_to(&self, copy: &ProgramBreak) {
        // Relaxed: the start of the program orders the stores.
        copy.start.store(self.start.load(Ordering::Relaxed), Ordering::Relaxed);
        copy.end.store(self.end.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Returns the number of the first page at or above `address`.
const fn page_above(address: u64) -> u64 {
    address.div_ceil(4096)
}

impl<P: Machine> AddressSpace<P> {
    /// Sets the start of the program's heap, which is empty: after the program's variables.
    ///
    /// For a space without a running program.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::VirtAddr;
    ///
    /// let space = service.create_space(pin)?;
    /// space.set_heap_start(VirtAddr::new(0x60_0000)?);
    /// let end = VirtAddr::new(0x60_8000)?;
    /// assert_eq!(space.brk(pin, end), end);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn set_heap_start(&self, start: VirtAddr) {
        let program_break = &self.core().program_break;
        // Relaxed: no program runs yet, and its start orders the stores.
        program_break.start.store(start.as_u64(), Ordering::Relaxed);
        program_break.end.store(start.as_u64(), Ordering::Relaxed);
    }

    /// Moves the end of the program's heap to `end`, and returns the end afterwards. The end stays
    /// in place if `end` lies below the heap's start or above the part of the space allowed for
    /// mappings, if pages on the way belong to another region, or if memory for page tables runs
    /// out. New pages are zero. Waits until no CPU can use removed pages.
    ///
    /// The end need not be aligned to a page. Cost: as for [`AddressSpace::mmap`] or
    /// [`AddressSpace::munmap`] of the pages in between.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::VirtAddr;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = VirtAddr::new(0x100_0000)?;
    /// space.set_heap_start(start);
    /// let end = VirtAddr::new(0x100_1000)?;
    /// assert_eq!(space.brk(pin, end), end); // the heap has grown by a page
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn brk(&self, pin: &CpuPin, end: VirtAddr) -> VirtAddr {
        let program_break = &self.core().program_break;
        let new = end.as_u64();
        loop {
            // Relaxed, here and below: the claims of the pages order their changes.
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

    /// Unmaps `pages`, and waits until no CPU can use them. Does nothing if memory for page tables
    /// runs out: the pages then stay reserved.
    pub(super) fn take_back(&self, pin: &CpuPin, pages: Pages) {
        if let Ok(unmapping) = self.unmap(pin, crate::address_space::range_of_pages(pages)) {
            unmapping.wait(pin);
        }
    }
}
