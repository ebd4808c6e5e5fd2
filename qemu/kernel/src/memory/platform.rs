//! What topomem asks of a kernel, answered for this one.

use core::ptr::NonNull;

use spin::Once;
use topomem::shootdown::Unresponsive;
use topomem::{
    Asid, CpuId, CpuPin, CpuSet, Machine, PageRange, PageSize, PagingFeatures, PhysAddr, PhysFrame, Platform,
    RootLoad, SwitchFlushed, Ticks, Tlb, TlbFeatures, VirtAddr, X64,
};
use topomem_stress::Report;
use x86_64::instructions::interrupts;

use crate::arch::interrupt::vector;
use crate::arch::{clock, features, paging, tlb};
use crate::smp::ipi;
use crate::{log, per_cpu};

/// How long a waiter waits before it reports a CPU, in milliseconds. Long: under emulation with
/// more CPUs than the host has, a CPU may not run for a while.
const PATIENCE_MS: u64 = 5_000;

/// How long a waiter spins before it halts, in microseconds. Ten times as long as two CPUs take that both run,
/// and a fraction of the time slice that one has to wait for that does not.
const SPIN_LIMIT_US: u64 = 200;

/// The first CPU that was reported.
static REPORTED: Once<Report> = Once::new();

/// The first report of a CPU that does not answer, if there was one.
pub(crate) fn reported() -> Option<Report> {
    REPORTED.get().copied()
}

/// This machine. Of no size: everything is in the CPU or static.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel;

// SAFETY: contexts never migrate (tasks stay on their CPU), and on one CPU only handlers nest;
// each CPU's area holds its own number; the direct map covers all memory that boot gave away.
unsafe impl Platform for Kernel {
    fn current_cpu(&self) -> CpuId {
        per_cpu::current().cpu
    }

    fn phys_to_virt(&self, addr: PhysAddr) -> NonNull<u8> {
        paging::direct_map(addr)
    }

    fn relax(&self) {
        per_cpu::relax();
    }
}

// SAFETY: INVLPG drops one page's translation and all paging-structure caches, of the current PCID;
// a CR3 write drops what that has, and toggling CR4.PGE or INVPCID everything of all; INVPCID drops
// one page of another, INVLPGB and TLBSYNC pages on all CPUs. `arch::tlb` chose the features before
// the first CPU came online. `ipi::send` writes the ICR after a
// full barrier (x2APIC) or by an ordered store (xAPIC), and the vector's handler calls the
// service. Contexts never migrate.
unsafe impl Tlb for Kernel {
    #[inline]
    fn features(&self) -> TlbFeatures {
        tlb::features()
    }

    fn flush_page(&self, page: VirtAddr, _: PageSize) {
        tlb::flush_page(page);
    }

    fn flush_non_global(&self) {
        tlb::flush_non_global();
    }

    fn flush_all(&self) {
        tlb::flush_all();
    }

    fn flush_page_of(&self, asid: Asid, page: VirtAddr, _: PageSize) {
        tlb::flush_page_of(asid, page);
    }

    fn broadcast_pages(&self, range: PageRange) {
        tlb::broadcast_pages(range);
    }

    fn broadcast_all(&self) {
        tlb::broadcast_all();
    }

    fn broadcast_sync(&self) {
        tlb::broadcast_sync();
    }

    // Always: as `ipi::send`.
    #[inline(always)]
    fn send_ipi(&self, to: &CpuSet) {
        ipi::send(vector::SHOOTDOWN, to);
    }

    #[inline(always)]
    fn send_ipi_to(&self, cpu: CpuId) {
        ipi::send_one(vector::SHOOTDOWN, cpu);
    }

    fn spin_limit(&self) -> Option<Ticks> {
        interrupts::are_enabled().then(|| Ticks(clock::ticks_per_ms() * SPIN_LIMIT_US / 1000))
    }

    fn halt_unless(&self, done: impl FnOnce() -> bool) {
        interrupts::disable();
        if done() { interrupts::enable() } else { interrupts::enable_and_hlt() }
    }

    fn now(&self) -> Ticks {
        Ticks(clock::now().0)
    }

    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(clock::ticks_per_ms() * PATIENCE_MS)
    }

    fn on_unresponsive(&self, report: Unresponsive) {
        let milliseconds = report.waited.0 / clock::ticks_per_ms();
        let Unresponsive { cpu, generation, .. } = report;
        REPORTED.call_once(|| Report { cpu, generation, milliseconds });
        log!("{} has not answered a shootdown for {} ms ({:?})", cpu, milliseconds, generation);
    }
}

// SAFETY: the CPU runs paging of that many levels; a CR3 write with bit 63 clear flushes what its
// PCID has, and without PCIDs all that is not global.
unsafe impl Machine for Kernel {
    type Format = X64<{ paging::LEVEL_COUNT }>;

    fn paging(&self) -> PagingFeatures {
        features::paging()
    }

    fn load_root(&self, root: PhysFrame) -> SwitchFlushed {
        if tlb::root() == root {
            // A CPU that comes back online, say.
            return SwitchFlushed::No;
        }
        // SAFETY: the service's roots share the kernel's half, with this code and stack in it.
        unsafe { tlb::load_root(root, RootLoad::Flush(Asid::KERNEL)) };
        SwitchFlushed::Yes
    }

    fn load_tagged_root(&self, root: PhysFrame, load: RootLoad) -> SwitchFlushed {
        // SAFETY: as in `load_root`.
        unsafe { tlb::load_root(root, load) };
        SwitchFlushed::Yes
    }

    #[cfg(feature = "hardening")]
    fn on_heap_report(&self, report: &topomem::percpu::Report) {
        crate::scenario::heap::note(report);
    }

    #[cfg(feature = "hardening")]
    fn heap_caller(&self) -> Option<topomem::percpu::Caller> {
        super::callers::here()
    }
}

/// The executing CPU, to which every context is bound.
pub(crate) fn pin() -> CpuPin {
    // SAFETY: contexts never migrate.
    unsafe { CpuPin::new(per_cpu::current().cpu) }
}
