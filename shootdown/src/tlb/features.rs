//! TLB features of a machine beyond the flushes common to all machines.

use core::fmt;
use core::num::NonZeroU16;

use crate::cpu::asid::ASID_SLOTS;

/// The features of a machine's TLBs, none by default. The value fits one word, which boot code can
/// keep in an atomic ([`TlbFeatures::to_bits`]).
///
/// The queue uses each offered feature, and works without any:
///
/// | feature | x86 | without it |
/// |---|---|---|
/// | ASIDs | PCID (Intel SDM volume 3A, 4.10.1) | each switch of address spaces flushes |
/// | selective | INVPCID (4.10.4.1) | a CPU returning to a changed space flushes all kept translations of the space |
/// | broadcast | INVLPGB, TLBSYNC (AMD APM volume 3) | interrupts |
///
/// [`TlbFeatures::with_leaf_only`] states a limit rather than a feature.
///
/// ```
/// use topomem_shootdown::TlbFeatures;
///
/// let features = TlbFeatures::NONE.with_asids(6).with_selective();
/// assert_eq!(features.asids(), 6);
/// assert!(features.is_selective() && features.broadcast_pages().is_none());
/// assert_eq!(TlbFeatures::from_bits(features.to_bits()), features);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct TlbFeatures(u32);

const ASIDS: u32 = 0xff;
const SELECTIVE: u32 = 1 << 8;
const LEAF_ONLY: u32 = 1 << 9;
const BROADCAST_SHIFT: u32 = 16;

impl TlbFeatures {
    /// No feature.
    pub const NONE: TlbFeatures = TlbFeatures(0);

    /// Default number of ASIDs of each CPU, the kernel's not counted: Linux's number. The number is
    /// small because each switch searches the ASIDs, and a CPU rarely alternates among more spaces.
    pub const DEFAULT_ASIDS: usize = if ASID_SLOTS < 6 { ASID_SLOTS } else { 6 };

    /// Adds translations tagged by address space: each CPU uses `count` ASIDs, at most eight,
    /// besides [`Asid::KERNEL`](crate::Asid::KERNEL).
    ///
    /// ```
    /// use topomem_shootdown::TlbFeatures;
    ///
    /// assert_eq!(TlbFeatures::NONE.with_asids(4).asids(), 4);
    /// ```
    #[must_use]
    pub const fn with_asids(self, count: usize) -> TlbFeatures {
        let count = if count < ASID_SLOTS { count } else { ASID_SLOTS };
        TlbFeatures(self.0 & !ASIDS | count as u32)
    }

    /// Adds the removal of a single page of an ASID not current.
    ///
    /// ```
    /// use topomem_shootdown::TlbFeatures;
    ///
    /// assert!(TlbFeatures::NONE.with_selective().is_selective());
    /// ```
    #[must_use]
    pub const fn with_selective(self) -> TlbFeatures {
        TlbFeatures(self.0 | SELECTIVE)
    }

    /// Limits [`Tlb::flush_page`] to leaf entries. If tables are freed, CPUs then flush without an
    /// address.
    ///
    /// RISC-V: `SFENCE.VMA` with an address "orders only reads and writes made to leaf page table
    /// entries" (privileged specification, "Supervisor Memory-Management Fence Instruction"). The
    /// limit does not apply to x86, whose INVLPG removes all paging-structure cache entries of the
    /// current PCID (Intel SDM volume 3A, 4.10.4.1), or to AArch64's `TLBI VAE1`, which removes the
    /// entries of all levels above the address (`TLBI VALE1` does not).
    ///
    /// [`Tlb::flush_page`]: crate::Tlb::flush_page
    ///
    /// ```
    /// use topomem_shootdown::TlbFeatures;
    ///
    /// let riscv = TlbFeatures::NONE.with_leaf_only();
    /// assert!(riscv.is_leaf_only() && !riscv.is_none());
    /// ```
    #[must_use]
    pub const fn with_leaf_only(self) -> TlbFeatures {
        TlbFeatures(self.0 | LEAF_ONLY)
    }

    /// Adds removal on all CPUs at once, of up to `pages` pages with one instruction.
    ///
    /// ```
    /// use core::num::NonZeroU16;
    /// use topomem_shootdown::TlbFeatures;
    ///
    /// let features = TlbFeatures::NONE.with_broadcast(NonZeroU16::MIN);
    /// assert_eq!(features.broadcast_pages(), Some(NonZeroU16::MIN));
    /// ```
    #[must_use]
    pub const fn with_broadcast(self, pages: NonZeroU16) -> TlbFeatures {
        let rest = self.0 & ((1 << BROADCAST_SHIFT) - 1);
        TlbFeatures(rest | (pages.get() as u32) << BROADCAST_SHIFT)
    }

    /// Returns whether the machine offers no feature.
    ///
    /// ```
    /// use topomem_shootdown::TlbFeatures;
    ///
    /// assert!(TlbFeatures::NONE.is_none());
    /// ```
    #[inline]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Returns the number of ASIDs used by each CPU, [`Asid::KERNEL`](crate::Asid::KERNEL) not
    /// counted; 0 if translations have no tags.
    #[inline]
    #[must_use]
    pub const fn asids(self) -> usize {
        (self.0 & ASIDS) as usize
    }

    /// Returns whether a CPU can remove a single page of an ASID not current.
    #[inline]
    #[must_use]
    pub const fn is_selective(self) -> bool {
        self.0 & SELECTIVE != 0
    }

    /// Returns whether a flush of a page keeps the entries of higher levels above the page.
    #[inline]
    #[must_use]
    pub const fn is_leaf_only(self) -> bool {
        self.0 & LEAF_ONLY != 0
    }

    /// Returns the number of pages removed on all CPUs by one instruction, or `None` without
    /// broadcasts.
    ///
    /// ```
    /// use topomem_shootdown::TlbFeatures;
    ///
    /// assert_eq!(TlbFeatures::NONE.broadcast_pages(), None);
    /// ```
    #[inline]
    #[must_use]
    pub const fn broadcast_pages(self) -> Option<NonZeroU16> {
        NonZeroU16::new((self.0 >> BROADCAST_SHIFT) as u16)
    }

    /// Returns the features as a word for [`TlbFeatures::from_bits`]; 0 for [`TlbFeatures::NONE`].
    ///
    /// ```
    /// use topomem_shootdown::TlbFeatures;
    ///
    /// assert_eq!(TlbFeatures::NONE.to_bits(), 0);
    /// ```
    #[inline]
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// Returns the features in a word from [`TlbFeatures::to_bits`].
    ///
    /// ```
    /// use topomem_shootdown::TlbFeatures;
    ///
    /// let features = TlbFeatures::NONE.with_selective();
    /// assert_eq!(TlbFeatures::from_bits(features.to_bits()), features);
    /// ```
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u32) -> TlbFeatures {
        TlbFeatures(bits)
    }

    /// Reads the executing CPU's features from CPUID: PCID is leaf 1 ECX bit 17, INVPCID leaf 7 EBX
    /// bit 10, INVLPGB leaf 8000_0008H EBX bit 3 with its page count less one in EDX bits 15:0.
    ///
    /// INVPCID is used only together with PCID. The kernel still has to enable PCIDs (CR4.PCIDE) on
    /// each CPU before the CPU comes online.
    ///
    /// ```no_run
    /// # #[cfg(target_arch = "x86_64")] {
    /// use topomem_shootdown::TlbFeatures;
    ///
    /// let features = TlbFeatures::of_this_cpu();
    /// assert!(features.asids() <= TlbFeatures::DEFAULT_ASIDS);
    /// # }
    /// ```
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
    /// Names the features in x86's terms.
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
