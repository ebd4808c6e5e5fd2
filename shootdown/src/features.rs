//! What a machine's TLBs offer beyond the flushes that every one has.

use core::fmt;
use core::num::NonZeroU16;

use crate::asid::ASID_SLOTS;

/// What the TLBs of a machine offer; nothing unless said otherwise. One word, so that it can be
/// kept in an atomic where boot finds it out ([`TlbFeatures::to_bits`]).
///
/// Each is used only if it is offered, and everything works without any:
///
/// | feature | x86 | without it |
/// |---|---|---|
/// | ASIDs | PCID (Intel SDM volume 3A, 4.10.1) | each switch of address spaces flushes |
/// | selective | INVPCID (4.10.4.1) | a CPU that returns to a changed space flushes all that it kept of it |
/// | broadcast | INVLPGB, TLBSYNC (AMD APM volume 3) | interrupts |
///
/// One is a limit rather than an offer: [`TlbFeatures::with_leaf_only`].
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct TlbFeatures(u32);

const ASIDS: u32 = 0xff;
const SELECTIVE: u32 = 1 << 8;
const LEAF_ONLY: u32 = 1 << 9;
const BROADCAST_SHIFT: u32 = 16;

impl TlbFeatures {
    /// Nothing.
    pub const NONE: TlbFeatures = TlbFeatures(0);

    /// How many ASIDs each CPU uses where nothing else is asked for, beside the kernel's own: as
    /// many as Linux. Few, since each switch looks through them; a CPU seldom goes to and fro
    /// between more spaces than that.
    pub const DEFAULT_ASIDS: usize = if ASID_SLOTS < 6 { ASID_SLOTS } else { 6 };

    /// The same, with translations tagged by address space: each CPU uses `count` ASIDs, at most
    /// eight, beside [`Asid::KERNEL`](crate::Asid::KERNEL).
    #[must_use]
    pub const fn with_asids(self, count: usize) -> TlbFeatures {
        let count = if count < ASID_SLOTS { count } else { ASID_SLOTS };
        TlbFeatures(self.0 & !ASIDS | count as u32)
    }

    /// The same, with removal of one page of another ASID than the current one.
    #[must_use]
    pub const fn with_selective(self) -> TlbFeatures {
        TlbFeatures(self.0 | SELECTIVE)
    }

    /// The same, but [`Tlb::flush_page`] reaches leaf entries only. Where tables were freed, CPUs
    /// then flush without an address instead.
    ///
    /// RISC-V: `SFENCE.VMA` with an address "orders only reads and writes made to leaf page table
    /// entries" (privileged specification, "Supervisor Memory-Management Fence Instruction"). Not
    /// x86, where INVLPG removes all paging-structure caches of the current PCID (Intel SDM volume
    /// 3A, 4.10.4.1), nor AArch64's `TLBI VAE1`, which reaches the entries of all levels on the way to
    /// the address (`TLBI VALE1` does not).
    ///
    /// [`Tlb::flush_page`]: crate::Tlb::flush_page
    #[must_use]
    pub const fn with_leaf_only(self) -> TlbFeatures {
        TlbFeatures(self.0 | LEAF_ONLY)
    }

    /// The same, with removal on all CPUs at once, of up to `pages` pages by one instruction.
    #[must_use]
    pub const fn with_broadcast(self, pages: NonZeroU16) -> TlbFeatures {
        let rest = self.0 & ((1 << BROADCAST_SHIFT) - 1);
        TlbFeatures(rest | (pages.get() as u32) << BROADCAST_SHIFT)
    }

    /// Is nothing offered?
    #[inline]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// How many ASIDs each CPU uses, [`Asid::KERNEL`](crate::Asid::KERNEL) not counted; 0 where
    /// translations have no tags.
    #[inline]
    #[must_use]
    pub const fn asids(self) -> usize {
        (self.0 & ASIDS) as usize
    }

    /// Can a CPU drop one page of an ASID that is not its current one?
    #[inline]
    #[must_use]
    pub const fn is_selective(self) -> bool {
        self.0 & SELECTIVE != 0
    }

    /// Does a flush of one page leave the entries of higher levels on the way to it?
    #[inline]
    #[must_use]
    pub const fn is_leaf_only(self) -> bool {
        self.0 & LEAF_ONLY != 0
    }

    /// How many pages one instruction removes on all CPUs; `None` where there is none that does.
    #[inline]
    #[must_use]
    pub const fn broadcast_pages(self) -> Option<NonZeroU16> {
        NonZeroU16::new((self.0 >> BROADCAST_SHIFT) as u16)
    }

    /// The word that [`TlbFeatures::from_bits`] takes; 0 for [`TlbFeatures::NONE`].
    #[inline]
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// What [`TlbFeatures::to_bits`] gave.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u32) -> TlbFeatures {
        TlbFeatures(bits)
    }

    /// What the executing CPU offers, by CPUID: PCID is leaf 1 ECX bit 17, INVPCID leaf 7 EBX bit
    /// 10, INVLPGB leaf 8000_0008H EBX bit 3 with its page count less one in EDX bits 15:0.
    ///
    /// INVPCID is used only with PCID. The kernel still has to turn PCIDs on (CR4.PCIDE) on each
    /// CPU before that CPU comes online.
    #[cfg(target_arch = "x86_64")]
    #[must_use]
    pub fn of_this_cpu() -> TlbFeatures {
        // Unsafe before Rust 1.91.
        #[allow(unused_unsafe)]
        // SAFETY: each 64-bit CPU has CPUID.
        let cpuid = |leaf| unsafe { core::arch::x86_64::__cpuid_count(leaf, 0) };
        let mut features = TlbFeatures::NONE;
        if cpuid(1).ecx >> 17 & 1 == 1 {
            features = features.with_asids(TlbFeatures::DEFAULT_ASIDS);
            if cpuid(0).eax >= 7 && cpuid(7).ebx >> 10 & 1 == 1 {
                features = features.with_selective();
            }
        }
        if cpuid(0x8000_0000).eax >= 0x8000_0008 {
            let leaf = cpuid(0x8000_0008);
            let pages = (leaf.edx as u16).saturating_add(1);
            if let Some(pages) = NonZeroU16::new(pages).filter(|_| leaf.ebx >> 3 & 1 == 1) {
                features = features.with_broadcast(pages);
            }
        }
        features
    }
}

impl fmt::Debug for TlbFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlbFeatures")
            .field("asids", &self.asids())
            .field("selective", &self.is_selective())
            .field("leaf_only", &self.is_leaf_only())
            .field("broadcast_pages", &self.broadcast_pages())
            .finish()
    }
}

impl fmt::Display for TlbFeatures {
    /// In x86's terms.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("no features");
        }
        match self.asids() {
            0 => f.write_str("no PCIDs")?,
            count => write!(f, "{count} PCIDs")?,
        }
        if self.is_selective() {
            f.write_str(", INVPCID")?;
        }
        if self.is_leaf_only() {
            f.write_str(", flushes of leaves only")?;
        }
        match self.broadcast_pages() {
            Some(pages) => write!(f, ", INVLPGB of {pages} pages"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn features_are_apart() {
        let pages = NonZeroU16::new(u16::MAX).unwrap();
        let all = TlbFeatures::NONE.with_broadcast(pages).with_selective().with_asids(3);
        assert_eq!((all.asids(), all.is_selective(), all.broadcast_pages()), (3, true, Some(pages)));
        assert_eq!(TlbFeatures::from_bits(all.to_bits()), all);
        let fewer = all.with_asids(0);
        assert_eq!((fewer.asids(), fewer.is_selective(), fewer.broadcast_pages()), (0, true, Some(pages)));
        assert!(TlbFeatures::NONE.is_none() && !fewer.is_none());
        assert_eq!(all.with_asids(1000).asids(), ASID_SLOTS);
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[test]
    fn invpcid_comes_with_pcid_only() {
        let features = TlbFeatures::of_this_cpu();
        assert!(features.asids() > 0 || !features.is_selective());
    }
}
