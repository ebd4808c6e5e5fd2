//! Dense CPU numbers.

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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u16);

impl CpuId {
    /// The boot CPU.
    pub const BOOT: CpuId = CpuId(0);

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
        if index < MAX_CPUS { Some(CpuId(index as u16)) } else { None }
    }

    /// Returns the CPU numbered `index`.
    ///
    /// # Safety
    ///
    /// `index` is below [`MAX_CPUS`].
    #[inline]
    pub(crate) const unsafe fn new_unchecked(index: usize) -> CpuId {
        CpuId(index as u16)
    }

    /// Returns the number, always below [`MAX_CPUS`]: an index into per-CPU arrays.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        // SAFETY: `new`, `new_unchecked` and `BOOT`, the only sources, keep the number below `MAX_CPUS`. Asserted
        // here to spare the bounds check of per-CPU arrays.
        unsafe { core::hint::assert_unchecked((self.0 as usize) < MAX_CPUS) };
        self.0 as usize
    }

    /// Returns all ids, in order of number.
    pub fn all() -> impl DoubleEndedIterator<Item = CpuId> {
        (0..MAX_CPUS).filter_map(CpuId::new)
    }
}

impl fmt::Debug for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu{}", self.0)
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
