//! The hooks supplied by a kernel to the shootdown queue.

pub(super) mod features;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

use topomem_percpu::{CpuId, CpuSet, Platform};

#[cfg(target_arch = "x86_64")]
use crate::{Asid, Generation, PageRange, PageSize, TlbFeatures, VirtAddr};

/// A point in time, or a span of time, in ticks of [`Tlb::now`].
///
/// ```
/// use topomem_shootdown::Ticks;
///
/// assert_eq!(Ticks(30).since(Ticks(10)), Ticks(20));
/// assert_eq!(Ticks(10).since(Ticks(30)), Ticks(0));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticks(pub u64);

impl Ticks {
    /// Returns the ticks since `earlier`, or zero if the clock stepped back.
    ///
    /// ```
    /// use topomem_shootdown::Ticks;
    ///
    /// assert_eq!(Ticks(100).since(Ticks(30)), Ticks(70));
    /// ```
    #[must_use]
    pub const fn since(self, earlier: Ticks) -> Ticks {
        Ticks(self.0.saturating_sub(earlier.0))
    }
}

/// A report of a CPU without an answer for longer than [`Tlb::unresponsive_timeout`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unresponsive {
    /// The unresponsive CPU.
    pub cpu: CpuId,
    /// The generation not yet published by the CPU.
    pub generation: Generation,
    /// The time waited so far.
    pub waited: Ticks,
}

/// Whether the switch of address spaces itself flushed the non-global translations.
///
/// ```
/// use topomem_shootdown::SwitchFlushed;
///
/// // What a CR3 write without PCIDs answers:
/// let flushed = SwitchFlushed::Yes;
/// assert_ne!(flushed, SwitchFlushed::No);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwitchFlushed {
    /// The switch flushed: a CR3 write without PCID.
    Yes,
    /// The switch kept the translations: the queue flushes if the space has changed since.
    No,
}

/// The executing CPU's TLB, the means to interrupt remote CPUs, and a clock.
///
/// The queue calls each flush on the CPU with the TLB to flush, in its interrupt handler too. None
/// of the methods may therefore block, lock or allocate.
///
/// # Safety
///
/// - When a flush returns, the executing CPU uses no translation named by the flush, neither from
///   the TLB nor from paging-structure caches above it, until the CPU walks the page tables again.
///   The walk sees every page-table store that happened before the call. (If
///   [`TlbFeatures::with_leaf_only`] is set, [`Tlb::flush_page`] need not reach the
///   paging-structure caches.) A full barrier of the memory model is not enough on AArch64, whose
///   walks are observers of their own: a flush is `DSB NSHST; TLBI; DSB NSH; ISB`, and
///   [`Tlb::publish_tables`] is needed as well (Arm ARM, D8 "TLB maintenance requirements").
/// - The queue may name an address beyond the machine's page tables: [`VirtAddr`] is 57 bits wide.
///   The address has no translation, and the method then does nothing. (INVLPG ignores such an
///   address by itself; INVPCID of type 0 raises #GP for it: Intel SDM volume 2A, "INVPCID".)
/// - [`Tlb::features`] returns the same value on all CPUs and at each call, from before the first
///   CPU comes online. The methods of each offered feature are implemented. The queue calls them
///   only if the feature is offered.
/// - [`Tlb::send_ipi`] and [`Tlb::send_ipi_to`] make each named CPU call
///   [`Shootdown::on_ipi`](crate::Shootdown::on_ipi)
///   after every store before the call is visible to the named CPU: a full barrier stands before
///   the write to the interrupt controller. (On x86 an ICR write by MMIO is ordered by itself.
///   `WRMSR` to an x2APIC is not, neither by itself nor by a preceding locked instruction, and
///   needs `MFENCE; LFENCE`: Intel SDM volume 3A, "MSR Access in x2APIC Mode"; Linux has the
///   sequence as `weak_wrmsr_fence`. On AArch64 a write to ICC_SGI1R_EL1 needs `DSB ISHST`.)
///   Spurious, late and repeated interrupts are harmless. An interrupt for an offline CPU may be
///   dropped; any other interrupt may only be delayed.
/// - [`Platform::pin`] keeps every other context of the CPU out, except nested handlers.
pub unsafe trait Tlb: Platform {
    /// Returns the features of the machine. Must cost no more than a load: the queue calls the
    /// method at each invalidation and each switch.
    #[inline]
    fn features(&self) -> TlbFeatures {
        TlbFeatures::NONE
    }

    /// Makes the executing CPU's stores to page tables visible to the page walkers of all CPUs.
    ///
    /// The queue calls the method at each change, before remote CPUs can learn of the change, even
    /// on a CPU with nothing to flush.
    ///
    /// The default does nothing. The default is right if walks are ordered like other loads (x86),
    /// or if the fence of the walking CPU orders them (RISC-V). AArch64 needs `DSB ISHST`: walks
    /// are sure to see a store only after a DSB of the storing CPU.
    #[inline]
    fn publish_tables(&self) {}

    /// Removes the translation of the page of `size` at `page`, of the current ASID and global.
    ///
    /// The queue also calls the method if tables above the page are freed, unless the machine
    /// [`is_leaf_only`](TlbFeatures::is_leaf_only).
    ///
    /// On x86-64 the default is INVLPG; elsewhere there is none.
    #[cfg(target_arch = "x86_64")]
    fn flush_page(&self, page: VirtAddr, size: PageSize) {
        let _ = size;
        x86::flush_page(page);
    }

    /// Removes the translation of the page of `size` at `page`, of the current ASID and global.
    ///
    /// The queue also calls the method if tables above the page are freed, unless the machine
    /// [`is_leaf_only`](TlbFeatures::is_leaf_only).
    #[cfg(not(target_arch = "x86_64"))]
    fn flush_page(&self, page: VirtAddr, size: PageSize);

    /// Removes all translations of the current ASID except global translations.
    ///
    /// The default removes global translations too: [`Tlb::flush_all`]. A kernel with global pages writes CR3.
    fn flush_non_global(&self) {
        self.flush_all();
    }

    /// Removes all translations of all ASIDs, global translations included.
    ///
    /// On x86-64 the default changes CR4.PGE twice; elsewhere there is none.
    #[cfg(target_arch = "x86_64")]
    fn flush_all(&self) {
        x86::flush_all();
    }

    /// Removes all translations of all ASIDs, global translations included.
    #[cfg(not(target_arch = "x86_64"))]
    fn flush_all(&self);

    /// Removes the translation of the page of `size` at `page` under `asid`, which is not the
    /// current ASID ([`TlbFeatures::is_selective`]): INVPCID of type 0.
    fn flush_page_of(&self, asid: Asid, page: VirtAddr, size: PageSize) {
        let _ = (asid, page, size);
        self.flush_all();
    }

    /// Begins the removal of the translations of `range` on every CPU, this CPU included, for all
    /// ASIDs and global translations. A single instruction ([`TlbFeatures::broadcast_pages`]):
    /// INVLPGB by address. The caller has changed the page tables, with a full barrier since.
    fn broadcast_pages(&self, range: PageRange) {
        let _ = range;
    }

    /// Begins the removal of all translations on every CPU, as with [`Tlb::flush_all`]: INVLPGB.
    fn broadcast_all(&self) {}

    /// Waits until the removals begun by the executing CPU are complete on every CPU: TLBSYNC.
    fn broadcast_sync(&self) {}

    /// Interrupts every CPU in `to`, with as few writes to the interrupt controller as possible
    /// (multicast, shorthand). `to` is never empty and never contains the caller.
    fn send_ipi(&self, to: &CpuSet);

    /// Interrupts `cpu`, never the caller, as [`Tlb::send_ipi`] does. Implement it if the machine addresses a single
    /// CPU with less work than a set.
    #[inline]
    fn send_ipi_to(&self, cpu: CpuId) {
        self.send_ipi(&CpuSet::of(cpu));
    }

    /// Returns how long a waiter spins before it halts its CPU by [`Tlb::halt_unless`], or `None` if it cannot
    /// halt here and now: interrupts are masked, or the machine never halts (unless implemented).
    ///
    /// Halting is worth its interrupts if there may be more CPUs than run at the same time, as with virtual ones: a
    /// waiter that spins takes its processor from the CPUs that it waits for.
    #[inline]
    fn spin_limit(&self) -> Option<Ticks> {
        None
    }

    /// Halts the executing CPU until the CPU has served an interrupt, unless `done` returns true. `done` is called
    /// with interrupts masked, and no interrupt is lost between the answer and the halt (on x86 `STI; HLT`). Any
    /// interrupt may end the halt, and a slow tick should.
    ///
    /// Called only right after [`Tlb::spin_limit`] has returned a limit. Returns at once unless implemented.
    #[inline]
    fn halt_unless(&self, done: impl FnOnce() -> bool) {
        let _ = done;
    }

    /// Returns the time since an arbitrary start, for latencies and for [`Tlb::unresponsive_timeout`]. The
    /// clock is monotonic across CPUs up to small steps.
    ///
    /// On x86-64 the default is the time-stamp counter, for machines that keep the CPUs' counters together; elsewhere
    /// there is none.
    #[cfg(target_arch = "x86_64")]
    fn now(&self) -> Ticks {
        x86::now()
    }

    /// Returns the time since an arbitrary start, for latencies and for [`Tlb::unresponsive_timeout`]. The
    /// clock is monotonic across CPUs up to small steps.
    #[cfg(not(target_arch = "x86_64"))]
    fn now(&self) -> Ticks;

    /// Returns the time after which a waiter reports a CPU as unresponsive.
    ///
    /// The default is 2^34 ticks: 5 seconds of a time-stamp counter of 3.4 GHz.
    fn unresponsive_timeout(&self) -> Ticks {
        Ticks(1 << 34)
    }

    /// Reports a CPU without an answer for [`Tlb::unresponsive_timeout`], or for a further power of two of it.
    /// The request stays incomplete, memory therefore safe, and the waiter continues to wait.
    fn on_unresponsive(&self, report: Unresponsive) {
        let _ = report;
    }
}

// SAFETY: every method is the referenced implementation's own.
unsafe impl<T: Tlb + ?Sized> Tlb for &T {
    #[inline]
    fn features(&self) -> TlbFeatures {
        (**self).features()
    }

    #[inline]
    fn publish_tables(&self) {
        (**self).publish_tables();
    }

    fn flush_page(&self, page: VirtAddr, size: PageSize) {
        (**self).flush_page(page, size);
    }

    fn flush_non_global(&self) {
        (**self).flush_non_global();
    }

    fn flush_all(&self) {
        (**self).flush_all();
    }

    fn flush_page_of(&self, asid: Asid, page: VirtAddr, size: PageSize) {
        (**self).flush_page_of(asid, page, size);
    }

    fn broadcast_pages(&self, range: PageRange) {
        (**self).broadcast_pages(range);
    }

    fn broadcast_all(&self) {
        (**self).broadcast_all();
    }

    fn broadcast_sync(&self) {
        (**self).broadcast_sync();
    }

    fn send_ipi(&self, to: &CpuSet) {
        (**self).send_ipi(to);
    }

    #[inline]
    fn send_ipi_to(&self, cpu: CpuId) {
        (**self).send_ipi_to(cpu);
    }

    fn spin_limit(&self) -> Option<Ticks> {
        (**self).spin_limit()
    }

    fn halt_unless(&self, done: impl FnOnce() -> bool) {
        (**self).halt_unless(done);
    }

    fn now(&self) -> Ticks {
        (**self).now()
    }

    fn unresponsive_timeout(&self) -> Ticks {
        (**self).unresponsive_timeout()
    }

    fn on_unresponsive(&self, report: Unresponsive) {
        (**self).on_unresponsive(report);
    }
}
