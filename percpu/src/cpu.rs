//! Dense CPU numbers.

use core::fmt;

/// How many CPUs the fixed-size structures have room for.
///
/// 512 makes a [`CpuSet`](crate::CpuSet) one 64-byte cache line. Under loom it is 4: a model has
/// no more threads, and pays for every atomic that it creates. Under Miri it is 16: every
/// reference to a structure costs as much as the structure has fields.
pub const MAX_CPUS: usize = if cfg!(loom) {
    4
} else if cfg!(miri) {
    16
} else {
    512
};

/// A CPU, numbered densely from 0 in the order in which the kernel counts them.
///
/// It is not an APIC id: those are sparse and belong to the kernel's interrupt code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u16);

impl CpuId {
    /// The CPU that boots the kernel.
    pub const BOOT: CpuId = CpuId(0);

    /// The CPU numbered `index`, or `None` where `index` is not below [`MAX_CPUS`].
    #[must_use]
    pub const fn new(index: usize) -> Option<CpuId> {
        if index < MAX_CPUS { Some(CpuId(index as u16)) } else { None }
    }

    /// The number, always below [`MAX_CPUS`]: an index into per-CPU arrays.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        // SAFETY: `new` and `BOOT`, the only sources, keep the number below `MAX_CPUS`. Said here
        // so that indexing per-CPU arrays needs no check.
        unsafe { core::hint::assert_unchecked((self.0 as usize) < MAX_CPUS) };
        self.0 as usize
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
