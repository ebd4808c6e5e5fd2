//! Dense CPU numbers.

pub(crate) mod local;
pub(crate) mod paged_table;
pub(crate) mod pointers;
pub(crate) mod set;
pub(crate) mod table;

use core::fmt;

/// Bounds the numbers of CPUs: a [`CpuId`] and a [`CpuSet`](crate::CpuSet) tell this many apart.
///
/// Under loom it is 4: a model has no more threads, and pays for every atomic. Under Miri it is 16: every reference to
/// a structure costs as much as the structure has fields.
pub const MAX_CPUS: usize = if cfg!(loom) {
    4
} else if cfg!(miri) {
    16
} else {
    4096
};

/// A CPU, numbered densely from 0 in the order in which the kernel counts its CPUs.
///
/// The number is not an APIC id: APIC ids are sparse and belong to the kernel's interrupt code.
// The upper half is the CPU's place among the near CPUs, which never falls with the number, so that the derived order
// is that of the numbers. Both halves are made once and kept, so that a table of near CPUs needs no comparison.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u32);

/// Number of CPUs that a table of CPUs has pointers for in place: the *near* CPUs, from the first. The others are *far*.
pub(crate) const NEAR_CPUS: usize = if cfg!(loom) {
    4
} else if cfg!(miri) {
    8
} else {
    64
};

/// Bits of a CPU's number. Its place among the near CPUs is above them.
const NUMBER_BITS: u32 = 16;
const _: () = assert!(MAX_CPUS <= 1 << NUMBER_BITS && NEAR_CPUS <= u8::MAX as usize);

impl CpuId {
    /// The boot CPU.
    pub const BOOT: CpuId = CpuId::numbered(0);

    /// Returns the CPU numbered `index`, or `None` if `index` is not below [`MAX_CPUS`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{CpuId, MAX_CPUS};
    /// let boot = CpuId::new(0).unwrap();
    /// assert_eq!(boot, CpuId::BOOT);
    /// assert_eq!(CpuId::new(MAX_CPUS), None);
    /// ```
    #[must_use]
    pub const fn new(index: usize) -> Option<CpuId> {
        if index < MAX_CPUS { Some(CpuId::numbered(index)) } else { None }
    }

    #[inline(always)]
    const fn numbered(index: usize) -> CpuId {
        let place = if index < NEAR_CPUS { index } else { NEAR_CPUS };
        CpuId((place as u32) << NUMBER_BITS | index as u32)
    }

    /// Returns the CPU numbered `index`.
    ///
    /// # Safety
    ///
    /// `index` is below [`MAX_CPUS`].
    #[inline]
    pub(crate) const unsafe fn new_unchecked(index: usize) -> CpuId {
        CpuId::numbered(index)
    }

    /// Returns the number, always below [`MAX_CPUS`]: an index into per-CPU arrays.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        // SAFETY: `new`, `new_unchecked` and `BOOT`, the only sources, keep the number below `MAX_CPUS`. Asserted
        // here to spare the bounds check of per-CPU arrays.
        unsafe { core::hint::assert_unchecked((self.0 as u16 as usize) < MAX_CPUS) };
        self.0 as u16 as usize
    }

    /// Returns the number of a near CPU, and [`NEAR_CPUS`] for every far CPU.
    #[inline(always)]
    pub(crate) const fn place(self) -> usize {
        let place = (self.0 >> NUMBER_BITS) as u8 as usize;
        // SAFETY: `numbered`, the only source, keeps the place at or below `NEAR_CPUS`. Asserted here to spare the
        // bounds check of tables.
        unsafe { core::hint::assert_unchecked(place <= NEAR_CPUS) };
        place
    }

    /// Returns true if tables of CPUs have the CPU's pointer in place.
    #[inline]
    pub(crate) const fn is_near(self) -> bool {
        self.place() < NEAR_CPUS
    }

    /// Returns all ids, in order of number.
    pub fn all() -> impl DoubleEndedIterator<Item = CpuId> {
        (0..MAX_CPUS).filter_map(CpuId::new)
    }
}

impl fmt::Debug for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu{}", self.index())
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_places_and_order_agree() {
        for (number, cpu) in CpuId::all().enumerate() {
            assert_eq!((cpu.index(), cpu.place()), (number, number.min(NEAR_CPUS)));
            assert_eq!(cpu.is_near(), number < NEAR_CPUS);
            let next = CpuId::new(number + 1);
            assert!(next.is_none_or(|next| cpu < next));
        }
    }
}
