//! A reference per CPU, set once, in a growing table.

use core::fmt;
use core::ptr::{self, NonNull};

use crate::CpuId;
use crate::cpu::pointers::{CpuPage, CpuPointers};
use crate::sync::atomic::Ordering;

/// References to each CPU's part of a structure, placed in memory of the CPU's own node.
///
/// A table takes a word for each of the first 64 CPUs. CPUs with higher numbers need a page for each 512 CPUs
/// ([`PagedCpuTable::extend`]). CPUs without a part share the part `vacant`.
///
/// # Examples
///
/// ```
/// use topomem_percpu::{CpuId, PagedCpuTable};
///
/// static NO_VECTORS: [u8; 4] = [0; 4];
/// static VECTORS: PagedCpuTable<[u8; 4]> = PagedCpuTable::new(&NO_VECTORS);
/// static OF_BOOT_CPU: [u8; 4] = [32, 33, 34, 35];
///
/// assert!(VECTORS.place(CpuId::BOOT, &OF_BOOT_CPU).is_ok());
/// assert!(VECTORS.place(CpuId::BOOT, &NO_VECTORS).is_err(), "a CPU keeps its part");
/// assert_eq!(VECTORS.get(CpuId::BOOT), &OF_BOOT_CPU);
/// assert_eq!(VECTORS.iter().count(), 1);
/// ```
pub struct PagedCpuTable<T: 'static> {
    /// Each points to a `&'static T`.
    parts: CpuPointers<T>,
    vacant: &'static T,
}

impl<T> PagedCpuTable<T> {
    /// Makes a table with `vacant` shared by all CPUs.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(vacant: &'static T) -> PagedCpuTable<T> {
        PagedCpuTable { parts: CpuPointers::new(vacant), vacant }
    }

    /// Makes a table with `vacant` shared by all CPUs (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new(vacant: &'static T) -> PagedCpuTable<T> {
        PagedCpuTable { parts: CpuPointers::new(vacant), vacant }
    }

    /// Returns whether the table has room for the part of `cpu`: always for the first 64 CPUs.
    pub fn has_room(&self, cpu: CpuId) -> bool {
        self.parts.has_room(cpu)
    }

    /// Gives the table room for `cpu` and the further CPUs of the page.
    ///
    /// # Errors
    ///
    /// The page comes back if the table has room for `cpu` already.
    ///
    /// # Examples
    ///
    /// ```
    /// use topomem_percpu::{CpuId, CpuPage, PagedCpuTable};
    ///
    /// static TABLE: PagedCpuTable<u8> = PagedCpuTable::new(&0);
    /// static PAGE: CpuPage<u8> = CpuPage::new();
    ///
    /// # // There are fewer CPUs under Miri.
    /// # let Some(cpu) = CpuId::new(300) else { return };
    /// # /*
    /// let cpu = CpuId::new(300).unwrap();
    /// # */
    /// assert!(TABLE.place(cpu, &7).is_err());
    /// TABLE.extend(cpu, &PAGE).unwrap();
    /// TABLE.place(cpu, &7).unwrap();
    /// assert_eq!(TABLE.get(cpu), &7);
    /// assert!(TABLE.has_room(CpuId::new(511).unwrap()));
    /// ```
    pub fn extend(&self, cpu: CpuId, page: &'static CpuPage<T>) -> Result<(), &'static CpuPage<T>> {
        // SAFETY: a reference to a page, valid for good.
        if unsafe { self.parts.extend(cpu, NonNull::from(page)) } { Ok(()) } else { Err(page) }
    }

    /// Gives `cpu` a part, for good.
    ///
    /// # Errors
    ///
    /// The part comes back if the CPU has a part already, or the table has no room.
    pub fn place(&self, cpu: CpuId, part: &'static T) -> Result<(), &'static T> {
        // Its Release pairs with the Acquire in `get`: a CPU with the address sees the part.
        if self.parts.place(cpu, ptr::from_ref(part).cast_mut()) { Ok(()) } else { Err(part) }
    }

    /// Returns the part of `cpu`, or the shared one before [`PagedCpuTable::place`]. Costs a comparison and a load; two
    /// loads for CPUs numbered 64 and above.
    #[inline]
    pub fn get(&self, cpu: CpuId) -> &'static T {
        // Acquire pairs with the Release in `place`.
        let part = self.parts.get(cpu, Ordering::Acquire);
        // SAFETY: the address came from a `&'static T`, given to `new` or `place`.
        unsafe { &*part }
    }

    /// Returns whether `cpu` has an own part.
    pub fn is_placed(&self, cpu: CpuId) -> bool {
        !ptr::eq(self.get(cpu), self.vacant)
    }

    /// Returns the CPUs with own parts, each with the part.
    pub fn iter(&self) -> impl Iterator<Item = (CpuId, &'static T)> {
        self.parts.cpus().map(|cpu| (cpu, self.get(cpu))).filter(|(_, part)| !ptr::eq(*part, self.vacant))
    }
}

// SAFETY: the table hands out `&T` to any CPU, which `T: Sync` allows, and takes none back.
unsafe impl<T: Sync> Sync for PagedCpuTable<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Send for PagedCpuTable<T> {}

impl<T> fmt::Debug for PagedCpuTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(cpu, _)| cpu)).finish()
    }
}
