//! The state of an address space, in frames of its own. Its address never changes, as required by
//! the shootdown queue for a domain active on CPUs.

use core::{fmt, ptr};

use crossbeam_utils::CachePadded;
use topomem_numa::frames::{AllocError, FrameRequest, Frames};
use topomem_percpu::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use topomem_percpu::{CpuPin, Order, PhysFrame};
use topomem_shootdown::{Domain, PageRange};

use super::layout::{SpaceKind, pages_of, range_of_pages};
use crate::Machine;
use crate::page_table::{PageTable, Pages, Reach};
use crate::region::{
    DEFAULT_STACK_LIMIT, FaultPolicy, GrownStack, ProgramBreak, Records, SpaceLayout, SpacePolicy,
};
use crate::retire::RetireList;
use crate::service::MemoryService;
use crate::service::memory::frame_memory;
use crate::spin_lock::SpinLock;

/// Counts and hints of a CPU about a space. Remote CPUs may read and write them, too.
#[derive(Debug)]
pub(crate) struct CpuShare {
    /// 4 KiB pages mapped less pages unmapped, modulo 2^64.
    pub mapped: AtomicU64,
    /// Page faults handled without a pager.
    pub minor_faults: AtomicU64,
    /// Page faults with a wait for a pager.
    pub major_faults: AtomicU64,
    /// The page below which to search the next free pages of the CPU's part; 0 for the end of the
    /// part.
    pub search_below: AtomicU64,
}

impl CpuShare {
    fn new() -> CpuShare {
        CpuShare {
            mapped: AtomicU64::new(0),
            minor_faults: AtomicU64::new(0),
            major_faults: AtomicU64::new(0),
            search_below: AtomicU64::new(0),
        }
    }
}

pub(crate) struct SpaceCore<P: Machine> {
    pub service: &'static MemoryService<P>,
    pub table: PageTable<P::Format>,
    pub kind: SpaceKind,
    /// The pages allowed to be mapped.
    pub bounds: Pages,
    /// The domain of a user space; the kernel's belongs to the shootdown queue.
    own_domain: Domain,
    /// Retired batches without a waiting context.
    pub retired: SpinLock<RetireList>,
    /// The counts and hints of each CPU, in frames behind the space.
    pub per_cpu: &'static [CachePadded<CpuShare>],
    /// The placement of regions without a fixed place.
    pub layout: SpaceLayout,
    /// Greatest number of pages of a stack.
    pub stack_limit: AtomicU64,
    /// The most recently grown stack.
    pub grown_stack: GrownStack,
    /// The policy of page faults.
    pub fault_policy: FaultPolicy,
    /// The nodes of the pages' frames.
    pub policy: SpacePolicy,
    /// The end of the program's heap.
    pub program_break: ProgramBreak,
    /// The records of regions, with their attributes beyond their ids.
    pub records: Records<P>,
    /// True if the handle is gone: the space is freed when no CPU has it active.
    pub abandoned: AtomicBool,
    /// True if the space is abandoned and maps nothing any more.
    pub dismantled: AtomicBool,
    /// True if an unmap may have left empty tables not yet seen by a sweep.
    pub(super) emptied: AtomicBool,
    /// The page to continue the next sweep for empty tables from.
    pub(super) sweep_from: AtomicU64,
    /// Number of groups of unlinked empty tables still visible to page walkers.
    pub unlinked: AtomicU32,
    /// The pages whose empty tables stay, if any: the first page, and the page behind the last.
    pub spared_tables: [AtomicU64; 2],
    /// The next space of the service's list, governed by the list's lock.
    pub next: AtomicPtr<SpaceCore<P>>,
    /// Number of contexts visiting the space through the list; the space stays in the list
    /// meanwhile.
    pub visitors: AtomicU32,
    /// The first of the space's own frames, and their order.
    frame: PhysFrame,
    order: Order,
}

/// The offset of the CPUs' counts and hints behind the space's bookkeeping.
const fn per_cpu_offset<P: Machine>() -> usize {
    size_of::<SpaceCore<P>>().next_multiple_of(align_of::<CachePadded<CpuShare>>())
}

impl<P: Machine> SpaceCore<P> {
    /// Places a new space in frames near the pinned CPU.
    pub(crate) fn place(
        service: &'static MemoryService<P>,
        pin: &CpuPin,
        table: PageTable<P::Format>,
        kind: SpaceKind,
        bounds: Pages,
        layout: SpaceLayout,
    ) -> Result<&'static SpaceCore<P>, (AllocError, PageTable<P::Format>)> {
        let frames = service.frames();
        let cpus = service.topology().map_or(1, |topology| topology.cpus().len().max(1));
        let bytes = per_cpu_offset::<P>() + cpus * size_of::<CachePadded<CpuShare>>();
        // A machine's CPUs take a few hundred KiB at most.
        let order = Order::for_bytes(bytes as u64).unwrap_or(Order::HUGE);
        let frame = match service.alloc(pin, &FrameRequest::order(order)) {
            Ok(frame) => frame,
            Err(error) => return Err((error, table)),
        };
        let place = frames.platform().phys_to_virt(frame.start_address()).cast::<SpaceCore<P>>();
        // SAFETY: the caller owns the run until `give_back`. The run has room for `cpus` shares,
        // and the offset is a multiple of their alignment.
        let per_cpu = unsafe {
            let shares = place.cast::<u8>().add(per_cpu_offset::<P>()).cast::<CachePadded<CpuShare>>();
            (0..cpus).for_each(|cpu| shares.add(cpu).write(CachePadded::new(CpuShare::new())));
            core::slice::from_raw_parts(shares.as_ptr(), cpus)
        };
        let core = SpaceCore {
            service,
            table,
            kind,
            bounds,
            own_domain: Domain::new(),
            retired: SpinLock::new(RetireList::new()),
            per_cpu,
            layout,
            stack_limit: AtomicU64::new(DEFAULT_STACK_LIMIT),
            grown_stack: GrownStack::none(),
            fault_policy: FaultPolicy::new(),
            policy: SpacePolicy::none(),
            program_break: ProgramBreak::none(),
            records: Records::new(),
            abandoned: AtomicBool::new(false),
            dismantled: AtomicBool::new(false),
            emptied: AtomicBool::new(false),
            sweep_from: AtomicU64::new(bounds.first),
            unlinked: AtomicU32::new(0),
            spared_tables: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
            next: AtomicPtr::new(ptr::null_mut()),
            visitors: AtomicU32::new(0),
            frame,
            order,
        };
        // SAFETY: the caller owns the run, which is large enough and aligned to its size. The run
        // is given back only by `give_back`, whose caller has the last reference.
        unsafe {
            place.write(core);
            Ok(place.as_ref())
        }
    }

    /// Frees the space's own frames, and returns their number.
    ///
    /// # Safety
    ///
    /// Nothing uses `core` any more, its tables and frames have been freed, and its records
    /// forgotten.
    pub(crate) unsafe fn give_back(core: *const SpaceCore<P>, frames: &Frames<P>, pin: &CpuPin) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { (*core).records.free((*core).service, pin) };
        // SAFETY: the caller has the last use of `core`; nothing else in it needs dropping.
        let (frame, order) = unsafe { ((*core).frame, (*core).order) };
        // SAFETY: as above; `place` allocated the run.
        unsafe { frame_memory::release_own(frames, pin, frame, order) };
        order.frames()
    }

    /// Returns the domain used to announce the space's changes.
    #[inline]
    pub(crate) fn domain(&self) -> &Domain {
        match self.kind {
            SpaceKind::Kernel => self.service.shootdown().kernel(),
            SpaceKind::User => &self.own_domain,
        }
    }

    pub(crate) fn reach(&self) -> Reach {
        match self.kind {
            SpaceKind::Kernel => Reach::Global,
            SpaceKind::User => Reach::Space,
        }
    }

    /// Returns the page numbers of `range` if all of its pages may be mapped.
    #[inline]
    pub(crate) fn check(&self, range: PageRange) -> Option<Pages> {
        let pages = pages_of(range);
        (self.bounds.first <= pages.first && pages.last <= self.bounds.last).then_some(pages)
    }

    /// Returns whether each CPU has flushed the earlier changes of `pages`. Never waits, and may be
    /// called with the pages claimed: then no further change comes in between.
    pub(crate) fn is_quiet(&self, pin: &CpuPin, pages: Pages) -> bool {
        let range = range_of_pages(pages);
        self.service.shootdown().pending_in(pin, self.domain(), range).is_complete()
    }

    /// Returns the pinned CPU's counts and hints about the space.
    #[inline]
    pub(crate) fn of_cpu(&self, pin: &CpuPin) -> &CpuShare {
        // A CPU not named by firmware uses the boot CPU's: they may be shared.
        self.per_cpu.get(pin.cpu().index()).unwrap_or(&self.per_cpu[0])
    }

    // Relaxed: counts, read for statistics.

    pub(crate) fn count_mapped(&self, pin: &CpuPin, pages: u64) {
        self.of_cpu(pin).mapped.fetch_add(pages, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn count_unmapped(&self, pin: &CpuPin, pages: u64) {
        self.of_cpu(pin).mapped.fetch_sub(pages, Ordering::Relaxed);
        self.note_emptied();
    }

    /// Returns the number of 4 KiB pages mapped through the space.
    pub(crate) fn mapped(&self) -> u64 {
        // A page may be mapped on one CPU and unmapped on another: only the sum is meaningful.
        self.per_cpu.iter().fold(0, |sum, cpu| sum.wrapping_add(cpu.mapped.load(Ordering::Relaxed)))
    }

    /// Notes possibly empty tables.
    pub(crate) fn note_emptied(&self) {
        // Relaxed: a hint.
        if !self.emptied.load(Ordering::Relaxed) {
            self.emptied.store(true, Ordering::Relaxed);
        }
    }
}

impl<P: Machine> fmt::Debug for SpaceCore<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpaceCore")
            .field("kind", &self.kind)
            .field("root", &self.table.root())
            .field("domain", self.domain())
            .finish_non_exhaustive()
    }
}
