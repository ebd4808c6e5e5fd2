//! Injected faults: each breaks one rule of virtual memory, to show that the tests notice.
//!
//! No other code asks for faults. The steps concerned run through the fault points ([`points`]).

pub(crate) mod points;

#[cfg(feature = "fault-injection")]
use core::sync::atomic::{AtomicU8, Ordering};

/// A mistake to inject into the changes of address spaces. Each was made by some kernel, or is
/// tempting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(clippy::enum_variant_names, reason = "one mistake is a page fault's")]
#[cfg_attr(not(feature = "fault-injection"), allow(unreachable_pub, reason = "public with the feature only"))]
pub enum Fault {
    /// A page fault replaces a shared page by a copy without flushing TLBs.
    CowWithoutFlush = 1,
    /// The frame of zeros shared by all spaces is mapped writable.
    ZeroPageWritable,
    /// A page fault looks at the page's region before claiming the page's entry, and not again. The
    /// page may have been unmapped meanwhile.
    FaultAfterUnmap,
    /// A write to a shared page gets the frame itself, as if no other space had it.
    ReuseWithSharer,
    /// A fork makes shared pages read-only without flushing TLBs.
    ForkWithoutFlush,
    /// [`madvise`](crate::AddressSpace::madvise) frees discarded pages without flushing TLBs.
    DontNeedWithoutFlush,
    /// [`mprotect`](crate::AddressSpace::mprotect) removes permissions without flushing TLBs.
    MprotectWithoutFlush,
    /// A move claims its generation after releasing its entries. A change of the new place may then
    /// complete before TLBs have dropped the old place (CVE-2018-18281).
    MremapFlushLate,
    /// [`move_pages`](crate::AddressSpace::move_pages) takes pages from programs without flushing
    /// TLBs, and copies them at once.
    MigrateWithoutFlush,
    /// A page of a [`MemoryObject`](crate::object::MemoryObject) counts as clean when written back,
    /// although its mappings still permit writes. Later writes do not make the page dirty.
    LostDirtyBit,
    /// A newly used page shows the former contents of its frame.
    UnzeroedMemory,
    /// The addresses of a range of kernel memory are reused before every CPU has acknowledged their
    /// unmapping.
    RangesReusedEarly,
}

/// The fraction of [`Tlb::unresponsive_timeout`](topomem_shootdown::Tlb::unresponsive_timeout) for which a context stops in
/// the gap left by a fault: about a millisecond.
#[cfg(feature = "fault-injection")]
const GAP: u64 = 1024;

/// The injected fault.
#[cfg(feature = "fault-injection")]
pub(crate) struct FaultCell(AtomicU8);

#[cfg(feature = "fault-injection")]
impl FaultCell {
    pub(crate) const fn new() -> FaultCell {
        FaultCell(AtomicU8::new(0))
    }

    /// Sets the fault. Relaxed: the switch orders nothing else.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        self.0.store(fault.map_or(0, |fault| fault as u8), Ordering::Relaxed);
    }

    fn is(&self, fault: Fault) -> bool {
        self.0.load(Ordering::Relaxed) == fault as u8
    }

    /// Lets remote CPUs into the gap left by a fault.
    fn gap(platform: &impl crate::Machine) {
        let begun = platform.now();
        while platform.now().since(begun).0 < platform.unresponsive_timeout().0 / GAP {
            platform.relax();
        }
    }
}

/// The absence of faults, without code.
#[cfg(not(feature = "fault-injection"))]
pub(crate) struct FaultCell;

#[cfg(not(feature = "fault-injection"))]
#[allow(clippy::unused_self, reason = "the same calls as with a fault")]
impl FaultCell {
    pub(crate) const fn new() -> FaultCell {
        FaultCell
    }

    #[inline(always)]
    const fn is(&self, _: Fault) -> bool {
        false
    }

    #[inline(always)]
    fn gap(_: &impl crate::Machine) {}
}
