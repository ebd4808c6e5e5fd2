//! What a kernel supplies to the shootdown queue.

use topomem_percpu::{CpuId, CpuSet, Platform};

use crate::{Asid, Generation, PageRange, PageSize, TlbFeatures, VirtAddr};

/// A point in time, or a span of it, in ticks of [`Tlb::now`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticks(pub u64);

impl Ticks {
    /// The ticks from `earlier` to here, zero where the clock stepped back.
    #[must_use]
    pub const fn since(self, earlier: Ticks) -> Ticks {
        Ticks(self.0.saturating_sub(earlier.0))
    }
}

/// A CPU that has not answered a waiter for longer than [`Tlb::patience`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unresponsive {
    /// The CPU that doesn't answer.
    pub cpu: CpuId,
    /// The generation that it has not published.
    pub generation: Generation,
    /// How long the waiter has waited for it.
    pub waited: Ticks,
}

/// Did the switch of address spaces itself flush the non-global translations?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwitchFlushed {
    /// It did: a CR3 write without PCID.
    Yes,
    /// It kept them: the queue flushes where the space has changed since.
    No,
}

/// The executing CPU's TLB, the way to interrupt other CPUs, and a clock.
///
/// The queue calls the flushes on the CPU whose TLB is meant, in its interrupt handler too, so
/// none of these methods may block, lock or allocate.
///
/// # Safety
///
/// - When a flush returns, the executing CPU uses no translation that it names, neither from the
///   TLB nor from paging-structure caches on the way to it, until it walks the page tables
///   again, and such a walk sees every page-table store that happened before the call. (If
///   [`TlbFeatures::with_leaf_only`] is set, [`Tlb::flush_page`] need not reach the caches on the
///   way.) A full barrier of the memory model is not enough for that on AArch64, where walks are
///   observers of their own: there a flush is `DSB NSHST; TLBI; DSB NSH; ISB`, and
///   [`Tlb::publish_tables`] is needed as well (Arm ARM, D8 "TLB maintenance requirements").
/// - An address that the machine's page tables cannot translate may be named: [`VirtAddr`] is 57
///   bits wide. It has no translation, and the method then does nothing. (INVLPG ignores such an
///   address by itself; INVPCID of type 0 raises #GP for it: Intel SDM volume 2A, "INVPCID".)
/// - [`Tlb::features`] is the same on all CPUs and at each call from when the first CPU comes
///   online, and what it offers is implemented: the methods that belong to a feature are called
///   only where it is offered.
/// - [`Tlb::send_ipi`] makes each named CPU call [`Shootdown::on_ipi`](crate::Shootdown::on_ipi)
///   after every store that happened before the call is visible to that CPU: a full barrier
///   stands before the interrupt controller is written. (On x86 an ICR write by MMIO is ordered
///   by itself. `WRMSR` to an x2APIC is not, neither by itself nor by a locked instruction before
///   it, and needs `MFENCE; LFENCE`: Intel SDM volume 3A, "MSR Access in x2APIC Mode"; Linux has it
///   as `weak_wrmsr_fence`. On AArch64 a write to ICC_SGI1R_EL1 needs `DSB ISHST`.) Spurious,
///   late and repeated interrupts are harmless. One for a CPU that has gone offline may be
///   dropped; any other may only be delayed.
/// - [`Platform::pin`] keeps every other context of the CPU out, but for nested handlers.
pub unsafe trait Tlb: Platform {
    /// What this machine offers. One load, or a constant: it is asked for at each invalidation and
    /// each switch.
    #[inline]
    fn features(&self) -> TlbFeatures {
        TlbFeatures::NONE
    }

    /// Makes the executing CPU's stores to page tables visible to the page walkers of all CPUs.
    /// The queue calls it at each change, before other CPUs can learn of the change, also on a CPU
    /// that itself has nothing to flush.
    ///
    /// Nothing unless implemented, which is right where walks are ordered like other loads (x86), or
    /// where the fence of the CPU that walks orders them (RISC-V). AArch64 needs `DSB ISHST`: a
    /// store is sure to be seen by walks only after a DSB of the CPU that has stored.
    #[inline]
    fn publish_tables(&self) {}

    /// Removes the translation of the page of `size` at `page`: the current ASID's, and a global
    /// one.
    ///
    /// Also called where tables that led to the page are freed, unless the machine
    /// [`is_leaf_only`](TlbFeatures::is_leaf_only).
    fn flush_page(&self, page: VirtAddr, size: PageSize);

    /// Removes all translations of the current ASID that are not global.
    fn flush_non_global(&self);

    /// Removes all translations of all ASIDs, global ones included.
    fn flush_all(&self);

    /// Removes the translation of the page of `size` at `page` that `asid`, not the current one,
    /// has ([`TlbFeatures::is_selective`]): INVPCID of type 0.
    fn flush_page_of(&self, asid: Asid, page: VirtAddr, size: PageSize) {
        let _ = (asid, page, size);
        self.flush_all();
    }

    /// Begins the removal of the translations of `range`, of all ASIDs and global ones too, on
    /// every CPU, this one included; one instruction ([`TlbFeatures::broadcast_pages`]): INVLPGB
    /// by address. The caller has changed the page tables, with a full barrier since.
    fn broadcast_pages(&self, range: PageRange) {
        let _ = range;
    }

    /// Begins the removal of all translations, as [`Tlb::flush_all`], on every CPU: INVLPGB.
    fn broadcast_all(&self) {}

    /// Waits until all that the executing CPU began to remove is removed everywhere, and no CPU
    /// uses it any more: TLBSYNC.
    fn broadcast_sync(&self) {}

    /// Interrupts every CPU in `to`, never empty, never with the caller: with as few writes to
    /// the interrupt controller as it takes (multicast, shorthand).
    fn send_ipi(&self, to: &CpuSet);

    /// The time since some start, for latencies and for [`Tlb::patience`]; monotonic across
    /// CPUs up to small steps.
    fn now(&self) -> Ticks;

    /// How long a waiter waits before it reports a CPU as unresponsive.
    fn patience(&self) -> Ticks;

    /// A CPU has not answered for [`Tlb::patience`], or for a further power of two of it. The
    /// request stays incomplete, so memory stays safe, and the waiter goes on waiting.
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

    fn now(&self) -> Ticks {
        (**self).now()
    }

    fn patience(&self) -> Ticks {
        (**self).patience()
    }

    fn on_unresponsive(&self, report: Unresponsive) {
        (**self).on_unresponsive(report);
    }
}
