//! Counts of the faults of regions.

use core::mem;
use core::ptr::NonNull;
use core::slice;

use crossbeam_utils::CachePadded;
use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use topomem_percpu::{CpuPin, Order};
use topomem_shootdown::VirtAddr;
use x86_64::structures::paging::PhysFrame;

use super::{AssignError, Record};
use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore};
use crate::page_table::RecordNumber;
use crate::service::{MemoryService, frame_memory};

/// Whether the faults of regions are counted region by region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultCounting {
    /// The faults are counted for the space alone, as those of new regions.
    Off,
    /// The faults are also counted for the regions, from 0 on.
    On,
}

/// How many faults in a region were answered since they are counted
/// ([`set_fault_counting`](AddressSpace::set_fault_counting)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FaultCounts {
    /// Faults that did not wait for a pager.
    pub minor: u64,
    /// Faults that waited for a pager.
    pub major: u64,
}

/// Whether a fault has waited for a pager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultClass {
    Minor,
    Major,
}

/// The faults that one CPU has answered. That CPU alone adds to them, so that faults of several CPUs write
/// nothing in common.
struct CpuCounts {
    minor: AtomicU64,
    major: AtomicU64,
}

/// What stands before the counts of the CPUs, in the same frames.
struct Head<P: Machine> {
    service: &'static MemoryService<P>,
    /// How many handles there are.
    handles: AtomicUsize,
    cpus: usize,
    frame: PhysFrame,
    order: Order,
}

/// Where the counts of the CPUs begin.
const fn counts_offset<P: Machine>() -> usize {
    size_of::<Head<P>>().next_multiple_of(align_of::<CachePadded<CpuCounts>>())
}

/// A handle of counts of faults, for each CPU, in frames of their own. The frames are freed with the last
/// handle. Records that have the same counter are counted together.
pub(crate) struct FaultCounter<P: Machine> {
    head: NonNull<Head<P>>,
}

// SAFETY: the counts and the number of handles are atomic, and nothing else changes; they live until the last
// handle is dropped, on whichever CPU.
unsafe impl<P: Machine> Send for FaultCounter<P> {}
// SAFETY: as above.
unsafe impl<P: Machine> Sync for FaultCounter<P> {}

impl<P: Machine> FaultCounter<P> {
    /// Returns a counter of `cpus` CPUs, at 0.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing has changed.
    pub fn new(
        service: &'static MemoryService<P>,
        pin: &CpuPin,
        cpus: usize,
    ) -> Result<FaultCounter<P>, AllocError> {
        let bytes = counts_offset::<P>() + cpus * size_of::<CachePadded<CpuCounts>>();
        // A machine's CPUs take a few hundred KiB at most.
        let order = Order::for_bytes(bytes as u64).unwrap_or(Order::HUGE);
        let frame = service.alloc(pin, &FrameRequest::order(order))?;
        let head = service.platform().phys_to_virt(frame.start_address()).cast::<Head<P>>();
        // SAFETY: the run of frames is ours alone and long enough, and the offset is a multiple of the counts'
        // alignment.
        unsafe {
            let counts = head.cast::<u8>().add(counts_offset::<P>()).cast::<CachePadded<CpuCounts>>();
            for cpu in 0..cpus {
                let zeros = CpuCounts { minor: AtomicU64::new(0), major: AtomicU64::new(0) };
                counts.add(cpu).write(CachePadded::new(zeros));
            }
            head.write(Head { service, handles: AtomicUsize::new(1), cpus, frame, order });
        }
        Ok(FaultCounter { head })
    }

    /// Returns a counter of as many CPUs, at 0: a copied space counts for itself.
    pub fn for_copy(&self, pin: &CpuPin) -> Result<FaultCounter<P>, AllocError> {
        let head = self.head();
        FaultCounter::new(head.service, pin, head.cpus)
    }

    fn head(&self) -> &Head<P> {
        // SAFETY: it lives as long as there is a handle.
        unsafe { self.head.as_ref() }
    }

    fn counts(&self) -> &[CachePadded<CpuCounts>] {
        // SAFETY: `new` has written as many there; they live as long as there is a handle.
        unsafe {
            let counts = self.head.cast::<u8>().add(counts_offset::<P>()).cast::<CachePadded<CpuCounts>>();
            slice::from_raw_parts(counts.as_ptr(), self.head().cpus)
        }
    }

    /// Counts a fault that the pinned CPU has answered.
    pub fn count(&self, pin: &CpuPin, class: FaultClass) {
        let counts = self.counts();
        // A CPU that firmware did not name counts for the boot CPU.
        if let Some(cpu) = counts.get(pin.cpu().index()).or(counts.first()) {
            let count = match class {
                FaultClass::Minor => &cpu.minor,
                FaultClass::Major => &cpu.major,
            };
            // Relaxed: statistics.
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the sum of all CPUs' counts.
    pub fn sum(&self) -> FaultCounts {
        self.counts().iter().fold(FaultCounts::default(), |sum, cpu| FaultCounts {
            // Relaxed: statistics.
            minor: sum.minor + cpu.minor.load(Ordering::Relaxed),
            major: sum.major + cpu.major.load(Ordering::Relaxed),
        })
    }

    /// Returns a number that handles of the same counter have in common.
    pub fn hash(&self) -> u64 {
        self.head.addr().get() as u64
    }
}

impl<P: Machine> Clone for FaultCounter<P> {
    fn clone(&self) -> FaultCounter<P> {
        // Relaxed: the caller has a handle.
        self.head().handles.fetch_add(1, Ordering::Relaxed);
        FaultCounter { head: self.head }
    }
}

impl<P: Machine> Drop for FaultCounter<P> {
    fn drop(&mut self) {
        let head = self.head();
        // Release pairs with the Acquire of the last handle: what was done by this one happened before the end.
        if head.handles.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            let (service, frame, order) = (head.service, head.frame, head.order);
            const { assert!(!mem::needs_drop::<Head<P>>() && !mem::needs_drop::<CpuCounts>()) };
            let pin = service.platform().pin();
            // SAFETY: it was the last handle; `new` allocated the run.
            unsafe { frame_memory::release_own(service.frames(), &pin, frame, order) };
        }
    }
}

impl<P: Machine> PartialEq for FaultCounter<P> {
    fn eq(&self, other: &FaultCounter<P>) -> bool {
        self.head == other.head
    }
}

impl<P: Machine> SpaceCore<P> {
    /// Counts a fault of a page with the record `number`, whose entry the caller has claimed, if the record counts
    /// faults.
    #[cold]
    #[inline(never)]
    pub(in crate::region) fn count_fault_of(&self, pin: &CpuPin, number: RecordNumber, class: FaultClass) {
        self.records.with(number, |record| {
            record.faults.as_ref()?.count(pin, class);
            Some(())
        });
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Says whether the faults of the pages in the `length` bytes from `start` on, rounded up to pages, are counted
    /// for their regions, too: [`RegionRange::faults`](crate::region::RegionRange::faults) and
    /// [`AddressSpace::smaps`] list the counts.
    ///
    /// The pages of one call are counted together, also if they are, or become, several regions: each of these
    /// lists the sum. They do not merge with other regions. What is added to such a region by `mremap`, or by the
    /// growth of a stack, counts with it. A fork's copy counts its own faults, from 0 on.
    ///
    /// Costs what [`AddressSpace::set_name`] costs and, to begin, a frame for each 31 CPUs of the machine, which is
    /// freed when no region has it any more. A fault in such a region writes a further word, which no other
    /// CPU writes. Other regions' faults cost the same as before.
    ///
    /// ```
    /// # use topomem::sim::Sim;
    /// use topomem::region::{FaultAccess, FaultCounting, MapRequest, PageFault};
    /// use topomem::CpuId;
    ///
    /// # let sim = Sim::builder().memory(64 << 20).build()?;
    /// # let service = sim.boot_service()?;
    /// # sim.on(CpuId::BOOT, |pin| -> Result<(), Box<dyn std::error::Error>> {
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// space.set_fault_counting(pin, start, 8192, FaultCounting::On)?;
    /// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
    /// let faults = space.next_region(pin, start).and_then(|region| region.faults());
    /// assert_eq!(faults.map(|faults| faults.minor), Some(1));
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AssignError`]. If there is no frame for the counts themselves, nothing has changed.
    pub fn set_fault_counting(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        length: u64,
        counting: FaultCounting,
    ) -> Result<(), AssignError> {
        let core = self.core();
        let faults = match counting {
            FaultCounting::Off => None,
            FaultCounting::On => {
                let counter = FaultCounter::new(core.service, pin, core.per_cpu.len());
                Some(counter.map_err(AssignError::OutOfFrames)?)
            }
        };
        self.assign(pin, start, length, |record| Record { faults: faults.clone(), ..record })
    }
}

#[cfg(test)]
#[cfg(all(feature = "sim", not(any(loom, miri))))]
mod tests {
    use std::thread;

    use topomem_percpu::CpuId;

    use super::*;
    use crate::region::{FaultAccess, MapRequest, PageFault};
    use crate::sim::Sim;

    #[test]
    fn each_cpu_writes_counts_of_its_own() {
        let sim: &'static Sim = Sim::builder().cpus(2).memory(64 << 20).build().unwrap();
        let service = sim.boot_service().unwrap();
        let (space, start) = sim.on(CpuId::BOOT, |pin| {
            let space = service.create_space(pin).unwrap();
            let start = space.mmap(pin, &MapRequest::anonymous(4096)).unwrap();
            space.set_fault_counting(pin, start, 4096, FaultCounting::On).unwrap();
            (space, start)
        });
        let fault = |cpu: usize, times: u64| {
            sim.on(CpuId::new(cpu).unwrap(), |pin| {
                for _ in 0..times {
                    space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write)).unwrap();
                }
            });
        };
        thread::scope(|scope| {
            scope.spawn(|| fault(0, 2));
            scope.spawn(|| fault(1, 3));
        });
        sim.on(CpuId::BOOT, |pin| {
            let record = space.record_of_page(pin, start.as_u64() >> 12).unwrap();
            let counter = record.faults.unwrap();
            let of = |cpu: usize| counter.counts()[cpu].minor.load(Ordering::Relaxed);
            assert_eq!((of(0), of(1)), (2, 3));
            let [one, other] = [0, 1].map(|cpu| core::ptr::from_ref(&counter.counts()[cpu]).addr());
            assert!(one.abs_diff(other) >= 64, "CPUs write one line");
        });
    }
}
