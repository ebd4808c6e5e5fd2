//! One rule of virtual memory broken on purpose, to show that the tests would notice.

#[cfg(feature = "fault-injection")]
use core::sync::atomic::{AtomicU8, Ordering};

/// A mistake to make in the changes of address spaces; each was made by some kernel, or tempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(clippy::enum_variant_names, reason = "one mistake is a page fault's")]
pub enum Fault {
    /// A fault puts a copy in the place of a shared page, and tells no TLB of it.
    CowWithoutFlush = 1,
    /// The frame of zeros that all spaces share is mapped with the permission to write.
    ZeroPageWritable,
    /// A fault looks at the page's region before it claims the page's entry, and does not look again: the
    /// page may have been unmapped meanwhile.
    FaultAfterUnmap,
    /// A write to a shared page gets the frame itself, as if no other space had it.
    ReuseWithSharer,
    /// A fork takes the permission to write from shared pages, and tells no TLB of it.
    ForkWithoutFlush,
    /// [`madvise`](crate::AddressSpace::madvise) frees pages that are given up, and tells no TLB of it.
    DontNeedWithoutFlush,
    /// [`mprotect`](crate::AddressSpace::mprotect) tells no TLB of what is not permitted any more.
    MprotectWithoutFlush,
    /// A move claims its generation after it has released its entries: a change of the new place may be
    /// complete before TLBs have forgotten the old place (CVE-2018-18281).
    MremapFlushLate,
    /// [`move_pages`](crate::AddressSpace::move_pages) takes pages from programs, tells no TLB of it, and copies
    /// them at once.
    MigrateWithoutFlush,
    /// A page of a [`MemoryObject`](crate::object::MemoryObject) counts as clean when it is written back, though
    /// its mappings still permit writes: what is written afterwards makes it dirty no more.
    LostDirtyBit,
    /// A page that a program uses first shows what its frame held before.
    UnzeroedMemory,
    /// The addresses of a range of kernel memory are handed out again before every CPU has acknowledged that they
    /// were unmapped.
    RangesReusedEarly,
}

/// For which part of the patience of a shootdown's waiter a context stops where a fault leaves a gap: a
/// millisecond or so.
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

    /// Relaxed: a switch on its own.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        self.0.store(fault.map_or(0, |fault| fault as u8), Ordering::Relaxed);
    }

    pub(crate) fn is(&self, fault: Fault) -> bool {
        self.0.load(Ordering::Relaxed) == fault as u8
    }

    /// Lets other CPUs into the gap that a fault leaves.
    pub(crate) fn gap(platform: &impl crate::Machine) {
        let begun = platform.now();
        while platform.now().since(begun).0 < platform.patience().0 / GAP {
            platform.relax();
        }
    }
}

/// No fault, and no code for one.
#[cfg(not(feature = "fault-injection"))]
pub(crate) struct FaultCell;

#[cfg(not(feature = "fault-injection"))]
#[allow(clippy::unused_self, reason = "the same calls as with a fault")]
impl FaultCell {
    pub(crate) const fn new() -> FaultCell {
        FaultCell
    }

    #[inline(always)]
    pub(crate) const fn is(&self, _: Fault) -> bool {
        false
    }

    #[inline(always)]
    pub(crate) fn gap(_: &impl crate::Machine) {}
}
