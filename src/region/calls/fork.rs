//! Copying whole spaces.

use core::fmt;

use topomem_numa::frames::AllocError;
use topomem_percpu::CpuPin;
use topomem_percpu::sync::atomic::Ordering;

use crate::Machine;
use crate::address_space::{AddressSpace, CreateError, SpaceKind, Unmapping, range_of_pages};
use crate::fault::points::Announced;
use crate::page_table::{Changed, Copied, CopyError, Inherited, Level, RegionId, Reserve};
use crate::region::attributes::{Guard, Inheritance, Region, Sharing};

/// The reason why a space was not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForkError {
    /// The kernel's space cannot be copied.
    KernelSpace,
    /// No frames for the new space, or for its page tables; nothing has changed.
    OutOfFrames(AllocError),
    /// A frame has the greatest countable number of holders.
    SharesFull,
}

impl fmt::Display for ForkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForkError::KernelSpace => f.write_str("the kernel's space is not copied"),
            ForkError::OutOfFrames(error) => error.fmt(f),
            ForkError::SharesFull => f.write_str("a frame is shared by as many spaces as can be counted"),
        }
    }
}

impl core::error::Error for ForkError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            ForkError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

fn inherited(region: RegionId) -> Inherited {
    let region = Region::of(region);
    match region.inheritance() {
        // The child finds the object's pages in the object.
        Inheritance::Copied if region.sharing() == Sharing::Shared => Inherited::Region(region.id()),
        Inheritance::Copied => Inherited::Contents,
        // Guards are contents.
        Inheritance::Wiped => Inherited::Region(region.with_guard(Guard::None).id()),
        Inheritance::Left => Inherited::Nothing,
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Returns a copy of the space: the same regions, with the same contents, the same program
    /// break and limits. No frame is copied; the first write to a page by either space makes a copy
    /// ([`AddressSpace::on_page_fault`]). The copy is consistent: a copy with the effect of a
    /// concurrent write of a program has the effects of the program's earlier writes.
    ///
    /// Pages mapped by [`AddressSpace::map`] and similar functions are left out.
    ///
    /// Waits until no CPU can write to the now shared pages, and serves remote CPUs' shootdowns
    /// meanwhile. Further changes of the space, and faults in it, wait until the copy is made.
    /// Cost: a table for each table of the space, and an entry and a count for each mapped page.
    ///
    /// ```
    /// # use topomem::sim::Sim;
    /// use topomem::region::{FaultAccess, MapRequest, PageFault, Resolved};
    /// use topomem::CpuId;
    ///
    /// # let sim = Sim::builder().memory(64 << 20).build()?;
    /// # let service = sim.boot_service()?;
    /// # sim.on(CpuId::BOOT, |pin| -> Result<(), Box<dyn std::error::Error>> {
    /// let parent = service.create_space(pin)?;
    /// let start = parent.mmap(pin, &MapRequest::anonymous(4096))?;
    /// let write = PageFault::new(start, FaultAccess::Write);
    /// assert_eq!(parent.on_page_fault(pin, write)?, Resolved::Zeroed);
    /// let child = parent.fork(pin)?;
    /// assert_eq!(child.on_page_fault(pin, write)?, Resolved::Copied);
    /// assert_eq!(parent.on_page_fault(pin, write)?, Resolved::Reused);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// No contents have changed on an error:
    ///
    /// - [`ForkError::KernelSpace`] if the space is the kernel's.
    /// - [`ForkError::OutOfFrames`] if no frame is left.
    /// - [`ForkError::SharesFull`] if the count of a frame's holders is full.
    pub fn fork(&self, pin: &CpuPin) -> Result<AddressSpace<P>, ForkError> {
        if self.kind() == SpaceKind::Kernel {
            return Err(ForkError::KernelSpace);
        }
        let core = self.core();
        let service = core.service;
        let child = service.create_space_like(pin, core).map_err(|error| match error {
            CreateError::OutOfFrames(error) => ForkError::OutOfFrames(error),
            CreateError::NoKernelSpace => ForkError::KernelSpace,
        })?;
        let still = core.table.has_records().then(|| core.records.still(service));
        if let Some(still) = &still {
            child.core().table.note_records();
            still.copy_to(pin, child.core()).map_err(ForkError::OutOfFrames)?;
        }
        let frames = service.frames();
        let mut reserve = Reserve::new(frames, pin);
        let mut changed = Changed::NOTHING;
        let pages = service.programs();
        let outcome = loop {
            let mut record = None;
            let keep = |changed: &mut Changed| record = core.record(changed);
            let copy = Copied { pages, to: &child.core().table, inherited };
            let copied = core.table.copy_to(service.tables(pin), &mut reserve, copy, &mut changed, keep);
            match copied {
                Err(CopyError::Tables(error)) => {
                    let refilled = service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(ForkError::OutOfFrames)?;
                }
                Err(CopyError::Giant) => {
                    core.cut_leaves(pin, pages, Level::HUGE).map_err(ForkError::OutOfFrames)?;
                }
                copied => {
                    // Shared pages may not be written any more, even if the copy is incomplete. The
                    // same applies to pages whose write permission was removed by another
                    // incomplete change.
                    let range = range_of_pages(pages);
                    let change = Announced::Fork;
                    Unmapping::announce_change(change, core, pin, range, changed, record).wait(pin);
                    break copied;
                }
            }
        };
        match outcome {
            Ok(((), mapped)) => {
                if still.is_some() {
                    child.core().count_record_pages(pin);
                }
                child.core().count_mapped(pin, mapped);
                self.copy_limits(&child);
                Ok(child)
            }
            Err(_) => Err(ForkError::SharesFull),
        }
    }

    fn copy_limits(&self, child: &AddressSpace<P>) {
        let (from, to) = (self.core(), child.core());
        from.program_break.copy_to(&to.program_break);
        from.fault_policy.copy_to(&to.fault_policy);
        from.policy.copy_to(&to.policy);
        // Relaxed: a number, and hints.
        to.stack_limit.store(from.stack_limit.load(Ordering::Relaxed), Ordering::Relaxed);
        for (from, to) in from.per_cpu.iter().zip(to.per_cpu) {
            to.search_below.store(from.search_below.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}
