//! Counts of the faults of regions.

use core::mem;
use core::ptr::NonNull;
use core::slice;

use crossbeam_utils::CachePadded;
use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use topomem_percpu::{CpuPin, Order, PhysFrame};
use topomem_shootdown::VirtAddr;

use super::{AssignError, Record};
use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore};
use crate::page_table::RecordNumber;
use crate::service::MemoryService;
use crate::service::memory::frame_memory;

/// Whether faults are counted for each region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultCounting {
    /// Faults are counted for the whole space only, as in new regions.
    Off,
    /// Faults are also counted for the regions, from 0 on.
    On,
}

/// Number of handled faults in a region since counting began
/// ([`set_fault_counting`](AddressSpace::set_fault_counting)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FaultCounts {
    /// Faults without a wait for a pager.
    pub minor: u64,
    /// Faults with a wait for a pager.
    pub major: u64,
}

/// Whether a fault has waited for a pager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultClass {
    Minor,
    Major,
}

/// The faults handled by a CPU. Only this CPU adds to them: faults of several CPUs write nothing in
/// common.
struct CpuCounts {
    minor: AtomicU64,
    major: AtomicU64,
}

/// The header before the counts of the CPUs, in the same frames.
struct Head<P: Machine> {
    service: &'static MemoryService<P>,
    /// Number of handles.
    handles: AtomicUsize,
    cpus: usize,
    frame: PhysFrame,
    order: Order,
}

/// The offset of the counts of the CPUs.
const fn counts_offset<P: Machine>() -> usize {
    size_of::<Head<P>>().next_multiple_of(align_of::<CachePadded<CpuCounts>>())
}

/// A handle of counts of faults, for each CPU, in frames of their own. The frames are freed with
/// the last handle. Records with the same counter are counted together.
pub(crate) struct FaultCounter<P: Machine> {
    head: NonNull<Head<P>>,
}

// SAFETY: the counts and the number of handles are atomic, and nothing else changes; they live
// until the last handle is dropped, on whichever CPU.
unsafe impl<P: Machine> Send for FaultCounter<P> {}
// SAFETY: as above.
unsafe impl<P: Machine> Sync for FaultCounter<P> {}

impl<P: Machine> FaultCounter<P> {
    /// Returns a counter of `cpus` CPUs, at 0.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError`] if no frame is left. Nothing has changed then.
    pub(crate) fn new(
        service: &'static MemoryService<P>,
        pin: &CpuPin,
        cpus: usize,
    ) -> Result<FaultCounter<P>, AllocError> {
        let bytes = counts_offset::<P>() + cpus * size_of::<CachePadded<CpuCounts>>();
        // A machine's CPUs take a few hundred KiB at most.
        let order = Order::for_bytes(bytes as u64).unwrap_or(Order::HUGE);
        let frame = service.alloc(pin, &FrameRequest::order(order))?;
        let head = service.platform().phys_to_virt(frame.start_address()).cast::<Head<P>>();
        // SAFETY: the caller owns the run of frames, which is long enough, and the offset is a
        // multiple of the counts' alignment.
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

    /// Returns a counter of the same number of CPUs, at 0: a copied space counts for itself.
    pub(crate) fn for_copy(&self, pin: &CpuPin) -> Result<FaultCounter<P>, AllocError> {
        let head = self.head();
        FaultCounter::new(head.service, pin, head.cpus)
    }

    fn head(&self) -> &Head<P> {
        // SAFETY: the header lives as long as a handle.
        unsafe { self.head.as_ref() }
    }

    fn counts(&self) -> &[CachePadded<CpuCounts>] {
        // SAFETY: `new` has written `cpus` counts; they live as long as a handle.
        unsafe {
            let counts = self.head.cast::<u8>().add(counts_offset::<P>()).cast::<CachePadded<CpuCounts>>();
            slice::from_raw_parts(counts.as_ptr(), self.head().cpus)
        }
    }

    /// Counts a fault handled by the pinned CPU.
    pub(crate) fn count(&self, pin: &CpuPin, class: FaultClass) {
        let counts = self.counts();
        // A CPU not named by firmware counts for the boot CPU.
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
    pub(crate) fn sum(&self) -> FaultCounts {
        self.counts().iter().fold(FaultCounts::default(), |sum, cpu| FaultCounts {
            // Relaxed: statistics.
            minor: sum.minor + cpu.minor.load(Ordering::Relaxed),
            major: sum.major + cpu.major.load(Ordering::Relaxed),
        })
    }

    /// Returns a common number of all handles of the same counter.
    pub(crate) fn hash(&self) -> u64 {
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
        // Release pairs with the Acquire fence of the last handle: uses of this handle happened
        // before the end.
        if head.handles.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            let (service, frame, order) = (head.service, head.frame, head.order);
            const { assert!(!mem::needs_drop::<Head<P>>() && !mem::needs_drop::<CpuCounts>()) };
            let pin = service.platform().pin();
            // SAFETY: the handle was the last; `new` allocated the run.
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
    /// Counts a fault of a page with the record `number`, if the record counts faults. The caller
    /// has claimed the page's entry.
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
    /// Sets whether the faults of the pages in the `length` bytes from `start` on, rounded up to
    /// pages, are also counted for their regions.
    /// [`RegionRange::faults`](crate::region::RegionRange::faults) and [`AddressSpace::smaps`] list
    /// the counts.
    ///
    /// The pages of a single call are counted together, even if they are, or become, several
    /// regions: each of these lists the sum. They do not merge with other regions. Pages added to
    /// such a region by `mremap`, or by the growth of a stack, count with it. A fork's copy counts
    /// its own faults, from 0 on.
    ///
    /// Cost: as for [`AddressSpace::set_name`] and, to begin, a frame for each 31 CPUs of the
    /// machine, freed when no region has it any more. A fault in such a region writes a further
    /// word, not written by any other CPU. Other regions' faults cost the same as before.
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
    /// As for [`AddressSpace::set_name`]. Without a frame for the counts themselves, nothing has
    /// changed.
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
