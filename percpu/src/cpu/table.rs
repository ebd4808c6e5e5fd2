//! A reference per CPU, set once.

use core::fmt;
use core::ptr;

use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::{CpuId, MAX_CPUS};

/// References to each CPU's part of a structure, placed in memory of the CPU's own node.
///
/// A table takes a word for each of [`MAX_CPUS`] CPUs. CPUs without a part share the part `vacant`: a
/// look at a CPU's part is a load and no question.
///
/// # Examples
///
/// ```
/// use topomem_percpu::{CpuId, CpuTable};
///
/// static NO_VECTORS: [u8; 4] = [0; 4];
/// static VECTORS: CpuTable<[u8; 4]> = CpuTable::new(&NO_VECTORS);
/// static OF_BOOT_CPU: [u8; 4] = [32, 33, 34, 35];
///
/// assert!(VECTORS.place(CpuId::BOOT, &OF_BOOT_CPU).is_ok());
/// assert!(VECTORS.place(CpuId::BOOT, &NO_VECTORS).is_err(), "a CPU keeps its part");
/// assert_eq!(VECTORS.get(CpuId::BOOT), &OF_BOOT_CPU);
/// assert_eq!(VECTORS.iter().count(), 1);
/// ```
pub struct CpuTable<T: 'static> {
    /// Never null.
    parts: [AtomicPtr<T>; MAX_CPUS],
    vacant: &'static T,
    /// No CPU with this number or a greater one has a part. Relaxed: raised before the part is placed, so that a
    /// context that sees the part by other means sees the reach, too.
    reach: AtomicUsize,
}

impl<T> CpuTable<T> {
    /// Makes a table with `vacant` shared by all CPUs.
    ///
    /// ```
    /// use topomem_percpu::{CpuId, CpuTable};
    ///
    /// static NONE: u32 = 0;
    /// static TABLE: CpuTable<u32> = CpuTable::new(&NONE);
    /// assert_eq!(*TABLE.get(CpuId::BOOT), 0);
    /// ```
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(vacant: &'static T) -> CpuTable<T> {
        // A constant expression is repeated for each element; the address is the same for all.
        let mut parts = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];
        let mut index = 0;
        while index < MAX_CPUS {
            parts[index] = AtomicPtr::new(ptr::from_ref(vacant).cast_mut());
            index += 1;
        }
        CpuTable { parts, vacant, reach: AtomicUsize::new(0) }
    }

    /// Makes a table with `vacant` shared by all CPUs (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new(vacant: &'static T) -> CpuTable<T> {
        let part = || AtomicPtr::new(ptr::from_ref(vacant).cast_mut());
        CpuTable { parts: core::array::from_fn(|_| part()), vacant, reach: AtomicUsize::new(0) }
    }

    /// Gives `cpu` a part, for good.
    ///
    /// # Errors
    ///
    /// The part comes back if the CPU has a part already.
    ///
    /// ```
    /// use topomem_percpu::{CpuId, CpuTable};
    ///
    /// static NONE: u32 = 0;
    /// static BOOT_CPU: u32 = 7;
    /// static TABLE: CpuTable<u32> = CpuTable::new(&NONE);
    /// assert!(TABLE.place(CpuId::BOOT, &BOOT_CPU).is_ok());
    /// assert!(TABLE.place(CpuId::BOOT, &BOOT_CPU).is_err()); // a part stays where it is
    /// assert_eq!(*TABLE.get(CpuId::BOOT), 7);
    /// ```
    pub fn place(&self, cpu: CpuId, part: &'static T) -> Result<(), &'static T> {
        let [vacant, placed] = [self.vacant, part].map(|part| ptr::from_ref(part).cast_mut());
        self.reach.fetch_max(cpu.index() + 1, Ordering::Relaxed);
        // Release pairs with the Acquire in `get`: a CPU with the address sees the part.
        let exchange =
            self.parts[cpu.index()].compare_exchange(vacant, placed, Ordering::Release, Ordering::Relaxed);
        exchange.map(drop).map_err(|_| part)
    }

    /// Returns the part of `cpu`, or the shared one before [`CpuTable::place`]. Costs a load.
    #[inline]
    pub fn get(&self, cpu: CpuId) -> &'static T {
        // Acquire pairs with the Release in `place`.
        let part = self.parts[cpu.index()].load(Ordering::Acquire);
        // SAFETY: the address came from a `&'static T`, given to `new` or `place`.
        unsafe { &*part }
    }

    /// Returns whether `cpu` has an own part.
    ///
    /// ```
    /// use topomem_percpu::{CpuId, CpuTable};
    ///
    /// static NONE: u32 = 0;
    /// static TABLE: CpuTable<u32> = CpuTable::new(&NONE);
    /// assert!(!TABLE.is_placed(CpuId::BOOT));
    /// ```
    pub fn is_placed(&self, cpu: CpuId) -> bool {
        !ptr::eq(self.get(cpu), self.vacant)
    }

    /// Returns the CPUs that have a part of their own, each with its part. Costs a load for each CPU up to the one with
    /// the greatest number.
    pub fn iter(&self) -> impl Iterator<Item = (CpuId, &'static T)> {
        (0..self.reach.load(Ordering::Relaxed))
            .filter_map(CpuId::new)
            .map(|cpu| (cpu, self.get(cpu)))
            .filter(|(_, part)| !ptr::eq(*part, self.vacant))
    }
}

// SAFETY: the table hands out `&T` to any CPU, which `T: Sync` allows, and takes none back.
unsafe impl<T: Sync> Sync for CpuTable<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Send for CpuTable<T> {}

impl<T> fmt::Debug for CpuTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(cpu, _)| cpu)).finish()
    }
}
