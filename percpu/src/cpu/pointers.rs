//! A pointer per CPU: the first CPUs' in place, the others' in pages placed for them.

use core::fmt;
use core::ptr::{self, NonNull};

use crate::cpu::NEAR_CPUS;
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::{CpuId, MAX_CPUS};

/// Number of CPUs with pointers in one page.
const PAGE_CPUS: usize = if cfg!(any(loom, miri)) { 8 } else { 512 };
/// Number of pages of a table: none if all CPUs are near.
const PAGES: usize = if MAX_CPUS > NEAR_CPUS { MAX_CPUS.div_ceil(PAGE_CPUS) } else { 0 };

/// The pointers of 512 CPUs of a table, for CPUs numbered 64 and above: one frame.
///
/// See [`PagedCpuTable::extend`](crate::PagedCpuTable::extend).
#[repr(align(64))]
pub struct CpuPage<T: 'static>([AtomicPtr<T>; PAGE_CPUS]);

impl<T> CpuPage<T> {
    /// Makes a page without pointers.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> CpuPage<T> {
        CpuPage([const { AtomicPtr::new(ptr::null_mut()) }; PAGE_CPUS])
    }

    /// Makes a page without pointers (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> CpuPage<T> {
        CpuPage(core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())))
    }
}

impl<T> Default for CpuPage<T> {
    fn default() -> CpuPage<T> {
        CpuPage::new()
    }
}

impl<T> fmt::Debug for CpuPage<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuPage").finish_non_exhaustive()
    }
}

/// A pointer per CPU.
pub(crate) struct CpuPointers<T: 'static> {
    /// The pointers of the near CPUs, and behind them `vacant` for all others.
    near: [AtomicPtr<T>; NEAR_CPUS + 1],
    /// Null until placed. Within a page, null stands for `vacant`.
    pages: [AtomicPtr<CpuPage<T>>; PAGES],
    /// The pointer of a CPU without a pointer of its own.
    vacant: *const T,
}

// SAFETY: the pointers are atomic, and `vacant` is never written; their targets are up to the users.
unsafe impl<T> Sync for CpuPointers<T> {}
// SAFETY: as above.
unsafe impl<T> Send for CpuPointers<T> {}

impl<T> CpuPointers<T> {
    /// Makes the pointers, all of them `vacant`.
    #[cfg(not(loom))]
    pub(crate) const fn new(vacant: *const T) -> CpuPointers<T> {
        // A constant expression is repeated for each element; the address is the same for all.
        let mut near = [const { AtomicPtr::new(ptr::null_mut()) }; NEAR_CPUS + 1];
        let mut index = 0;
        while index <= NEAR_CPUS {
            near[index] = AtomicPtr::new(vacant.cast_mut());
            index += 1;
        }
        CpuPointers { near, pages: [const { AtomicPtr::new(ptr::null_mut()) }; PAGES], vacant }
    }

    /// Makes the pointers, all of them `vacant` (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(crate) fn new(vacant: *const T) -> CpuPointers<T> {
        CpuPointers {
            near: core::array::from_fn(|_| AtomicPtr::new(vacant.cast_mut())),
            pages: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            vacant,
        }
    }

    /// Returns the pointer of `cpu`. Costs a comparison and a load for a near CPU, two loads for a far one.
    #[inline]
    pub(crate) fn get(&self, cpu: CpuId, order: Ordering) -> *mut T {
        if cpu.is_near() { self.get_near(cpu, order) } else { self.get_far(cpu, order) }
    }

    /// Returns the pointer of a near `cpu`, and `vacant` for a far CPU. Costs a load.
    #[inline(always)]
    pub(crate) fn get_near(&self, cpu: CpuId, order: Ordering) -> *mut T {
        self.near[cpu.place()].load(order)
    }

    #[inline(never)]
    fn get_far(&self, cpu: CpuId, order: Ordering) -> *mut T {
        let pointer = self.far(cpu).map_or(ptr::null_mut(), |pointer| pointer.load(order));
        if pointer.is_null() { self.vacant.cast_mut() } else { pointer }
    }

    #[inline]
    fn far(&self, cpu: CpuId) -> Option<&'static AtomicPtr<T>> {
        // Acquire pairs with the Release in `extend`: the page is written.
        let page = self.pages.get(cpu.index() / PAGE_CPUS)?.load(Ordering::Acquire);
        // SAFETY: a non-null address is that of a page, by the promise made to `extend`.
        let page: &'static CpuPage<T> = unsafe { page.as_ref()? };
        Some(&page.0[cpu.index() % PAGE_CPUS])
    }

    /// Returns the place of a near CPU's pointer.
    fn near(&self, cpu: CpuId) -> Option<&AtomicPtr<T>> {
        if cpu.is_near() { self.near.get(cpu.place()) } else { None }
    }

    /// Returns true if `cpu` can get a pointer.
    pub(crate) fn has_room(&self, cpu: CpuId) -> bool {
        cpu.is_near() || self.far(cpu).is_some()
    }

    /// Gives the far CPUs that share a page with `cpu` their page. Returns false if the page is not needed: `cpu` is
    /// near, or has a page. [`CpuPointers::take_pages`] returns the address with the provenance that it has here.
    ///
    /// # Safety
    ///
    /// The address is that of a page, and stays so for as long as the pointers are used.
    pub(crate) unsafe fn extend(&self, cpu: CpuId, page: NonNull<CpuPage<T>>) -> bool {
        let Some(place) = self.pages.get(cpu.index() / PAGE_CPUS).filter(|_| !cpu.is_near()) else {
            return false;
        };
        // Release pairs with the Acquire in `far`.
        place.compare_exchange(ptr::null_mut(), page.as_ptr(), Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Gives `cpu` its pointer, if it has none and there is room. Returns whether it has it now. Release.
    pub(crate) fn place(&self, cpu: CpuId, pointer: *mut T) -> bool {
        let near = self.near(cpu).map(|place| (place, self.vacant.cast_mut()));
        let far = || self.far(cpu).map(|place| (place, ptr::null_mut()));
        let Some((place, free)) = near.or_else(far) else { return false };
        place.compare_exchange(free, pointer, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Returns the CPUs that may have a pointer: those near, and those with a page.
    pub(crate) fn cpus(&self) -> impl Iterator<Item = CpuId> {
        let far = (0..PAGES).filter(|&page| !self.pages[page].load(Ordering::Acquire).is_null());
        let far = far.flat_map(|page| page * PAGE_CPUS..(page + 1) * PAGE_CPUS);
        (0..NEAR_CPUS).chain(far.filter(|&index| index >= NEAR_CPUS)).filter_map(CpuId::new)
    }

    /// Returns the number of pages placed.
    pub(crate) fn page_count(&self) -> usize {
        self.pages.iter().filter(|page| !page.load(Ordering::Relaxed).is_null()).count()
    }

    /// Takes the pages away, for whoever gave them.
    pub(crate) fn take_pages(&mut self) -> impl Iterator<Item = NonNull<CpuPage<T>>> {
        self.pages.iter().filter_map(|page| NonNull::new(page.swap(ptr::null_mut(), Ordering::Acquire)))
    }
}
