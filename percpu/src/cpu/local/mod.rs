//! A value for each CPU, in that CPU's own memory, used without locks or atomic read-modify-writes.

mod slot;
#[cfg(all(test, not(loom)))]
mod tests;

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::cpu::pointers::{CpuPage, CpuPointers};
use crate::sync::atomic::{AtomicBool, Ordering, compiler_fence};
use crate::{CpuId, CpuPin};

pub use slot::Slot;
use slot::{Head, no_slot};

/// A reason why a CPU's value is unavailable. Callers take their shared path instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The CPU has no slot, for example because it is not online yet.
    NotInstalled,
    /// An interrupted context of the same CPU is using the value.
    Busy,
}

/// A value per CPU; slots are installed as CPUs come online.
///
/// The first 64 CPUs' pointers are in place. CPUs with higher numbers need a page, which serves 512 CPUs
/// ([`CpuLocal::extend`]).
///
/// The value is used through a shared reference, by one context at a time. Its mutable parts are in
/// `Cell`s, or in atomics if remote CPUs may read them ([`Slot::shared`]).
///
/// [`CpuLocal::with`] costs a comparison, a load of the slot's address and plain accesses to the slot's own line.
/// It is safe in interrupt and NMI handlers without masking anything: a nested use of the same
/// CPU's value returns [`Unavailable::Busy`].
///
/// # Examples
///
/// ```
/// # use std::cell::Cell;
/// # use topomem_percpu::{CpuId, CpuLocal, CpuPin, Slot, Unavailable};
/// static COUNTERS: CpuLocal<Cell<u32>> = CpuLocal::new();
/// static BOOT: Slot<Cell<u32>> = Slot::new(Cell::new(0));
///
/// COUNTERS.install(CpuId::BOOT, &BOOT).unwrap();
/// // SAFETY: this example has one CPU.
/// let pin = unsafe { CpuPin::new(CpuId::BOOT) };
/// let count = COUNTERS.with(&pin, |counter| {
///     counter.set(counter.get() + 1);
///     // A nested use is refused.
///     assert_eq!(COUNTERS.with(&pin, |_| ()), Err(Unavailable::Busy));
///     counter.get()
/// });
/// assert_eq!(count, Ok(1));
/// ```
pub struct CpuLocal<T: 'static> {
    /// A CPU without a slot has [`no_slot`].
    slots: CpuPointers<Slot<T>>,
    /// The pointers are `Sync` for any pointee: only a `T: Send` may be left for another CPU.
    shares: PhantomData<&'static Slot<T>>,
}

impl<T> CpuLocal<T> {
    /// Creates a value without slots.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> CpuLocal<T> {
        CpuLocal { slots: CpuPointers::new(no_slot()), shares: PhantomData }
    }

    /// Creates a value without slots (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> CpuLocal<T> {
        CpuLocal { slots: CpuPointers::new(no_slot()), shares: PhantomData }
    }

    /// Returns true if there is room for the slot of `cpu`: always for the first 64 CPUs.
    pub fn has_room(&self, cpu: CpuId) -> bool {
        self.slots.has_room(cpu)
    }

    /// Makes room for `cpu` and the CPUs that share a page with it.
    ///
    /// # Errors
    ///
    /// Returns the page if there is room for `cpu` already.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{CpuId, CpuLocal, CpuPage, CpuPin, Slot};
    /// static VALUES: CpuLocal<u32> = CpuLocal::new();
    /// static SLOT: Slot<u32> = Slot::new(7);
    /// static PAGE: CpuPage<Slot<u32>> = CpuPage::new();
    ///
    /// # // There are fewer CPUs under Miri.
    /// # let Some(cpu) = CpuId::new(300) else { return };
    /// # /*
    /// let cpu = CpuId::new(300).unwrap();
    /// # */
    /// assert!(VALUES.install(cpu, &SLOT).is_err());
    /// VALUES.extend(cpu, &PAGE).unwrap();
    /// VALUES.install(cpu, &SLOT).unwrap();
    /// // SAFETY: this example has one CPU.
    /// let pin = unsafe { CpuPin::new(cpu) };
    /// assert_eq!(VALUES.with(&pin, |value| *value), Ok(7));
    /// ```
    pub fn extend(
        &self,
        cpu: CpuId,
        page: &'static CpuPage<Slot<T>>,
    ) -> Result<(), &'static CpuPage<Slot<T>>> {
        // SAFETY: a reference to a page, valid for good.
        if unsafe { self.extend_at(cpu, NonNull::from(page)) } { Ok(()) } else { Err(page) }
    }

    /// Makes room as [`CpuLocal::extend`] does. Returns whether the page is needed.
    ///
    /// # Safety
    ///
    /// The address is that of a page, and stays so for as long as anything here is used.
    pub(crate) unsafe fn extend_at(&self, cpu: CpuId, page: NonNull<CpuPage<Slot<T>>>) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.slots.extend(cpu, page) }
    }

    /// Gives `cpu` its slot, for good.
    ///
    /// # Errors
    ///
    /// Returns the slot if `cpu` already has a slot, if the slot already belongs to a CPU, or if there is no room
    /// ([`CpuLocal::has_room`]).
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{CpuId, CpuLocal, Slot};
    /// static VALUES: CpuLocal<u32> = CpuLocal::new();
    /// static SLOT: Slot<u32> = Slot::new(7);
    ///
    /// assert!(VALUES.install(CpuId::BOOT, &SLOT).is_ok());
    /// assert!(VALUES.is_installed(CpuId::BOOT));
    /// assert!(VALUES.install(CpuId::BOOT, &SLOT).is_err());
    /// ```
    pub fn install(&self, cpu: CpuId, slot: &'static Slot<T>) -> Result<(), &'static Slot<T>> {
        // SAFETY: a reference to a slot, valid for good.
        if unsafe { self.install_at(cpu, NonNull::from(slot)) } { Ok(()) } else { Err(slot) }
    }

    /// Gives `cpu` its slot, as [`CpuLocal::install`] does. Returns whether the CPU has it now.
    ///
    /// # Safety
    ///
    /// The address is that of a slot, and stays so for as long as anything here is used.
    pub(crate) unsafe fn install_at(&self, cpu: CpuId, place: NonNull<Slot<T>>) -> bool {
        // SAFETY: the caller's promise.
        let head = unsafe { &place.as_ref().head };
        // Relaxed: the flag selects one installer, and orders nothing.
        if head.installed.swap(true, Ordering::Relaxed) {
            return false;
        }
        // Its Release pairs with the Acquire in `with`: a context that sees the address sees the value.
        let placed = self.slots.place(cpu, place.as_ptr());
        if !placed {
            head.installed.store(false, Ordering::Relaxed);
        }
        placed
    }

    /// Returns the address of the slot of `cpu`, as it was given to [`CpuLocal::install_at`].
    pub(crate) fn slot(&self, cpu: CpuId) -> Option<NonNull<Slot<T>>> {
        // Acquire pairs with the Release in `install_at`.
        NonNull::new(self.slots.get(cpu, Ordering::Acquire)).filter(|slot| slot.as_ptr() != no_slot())
    }

    /// Returns the CPUs that have a slot, each with its slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (CpuId, NonNull<Slot<T>>)> {
        self.slots.cpus().filter_map(|cpu| Some((cpu, self.slot(cpu)?)))
    }

    /// Returns the number of pages given to [`CpuLocal::extend`].
    pub(crate) fn page_count(&self) -> usize {
        self.slots.page_count()
    }

    /// Takes those pages away, for whoever gave them.
    pub(crate) fn take_pages(&mut self) -> impl Iterator<Item = NonNull<CpuPage<Slot<T>>>> {
        self.slots.take_pages()
    }

    /// Returns true if `cpu` has a slot.
    ///
    /// ```
    /// use topomem_percpu::{CpuId, CpuLocal};
    ///
    /// static CELLS: CpuLocal<u32> = CpuLocal::new();
    /// assert!(!CELLS.is_installed(CpuId::BOOT));
    /// ```
    pub fn is_installed(&self, cpu: CpuId) -> bool {
        self.slot(cpu).is_some()
    }

    /// Uses the pinned CPU's value.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable::NotInstalled`] if the CPU has no slot, and [`Unavailable::Busy`] if
    /// an interrupted context of the CPU is using the value. `f` was not called.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{CpuId, CpuLocal, CpuPin, Unavailable};
    /// static VALUES: CpuLocal<u32> = CpuLocal::new();
    /// // SAFETY: this example has one CPU.
    /// let pin = unsafe { CpuPin::new(CpuId::BOOT) };
    /// assert_eq!(VALUES.with(&pin, |value| *value), Err(Unavailable::NotInstalled));
    /// ```
    #[inline(always)]
    pub fn with<R>(&self, pin: &CpuPin, f: impl FnOnce(&T) -> R) -> Result<R, Unavailable> {
        // Acquire pairs with the Release in `install_at`.
        let slot = self.slots.get(pin.cpu(), Ordering::Acquire);
        // SAFETY: the slot is the pinned CPU's.
        unsafe { CpuLocal::with_slot(slot, f) }
    }

    /// Does as [`CpuLocal::with`] does on one of the first 64 CPUs, without the comparison. Returns
    /// [`Unavailable::NotInstalled`] on the others: `with` then tells.
    #[inline(always)]
    pub(crate) fn with_near<R>(&self, pin: &CpuPin, f: impl FnOnce(&T) -> R) -> Result<R, Unavailable> {
        // Acquire pairs with the Release in `install_at`.
        let slot = self.slots.get_near(pin.cpu(), Ordering::Acquire);
        // SAFETY: the slot is the pinned CPU's, or that of no CPU.
        unsafe { CpuLocal::with_slot(slot, f) }
    }

    /// Uses the value in `slot`.
    ///
    /// # Safety
    ///
    /// `slot` is that of the CPU on which the context is pinned, or [`no_slot`].
    #[inline(always)]
    unsafe fn with_slot<R>(slot: *mut Slot<T>, f: impl FnOnce(&T) -> R) -> Result<R, Unavailable> {
        #[cfg(loom)]
        if slot == no_slot() {
            return Err(Unavailable::NotInstalled);
        }
        // SAFETY: the address is that of a slot passed to `install_at`, or of `NO_SLOT`; both begin with a header.
        let head = unsafe { &*slot.cast::<Head>() };
        if head.busy.load(Ordering::Relaxed) {
            return Err(if slot == no_slot() { Unavailable::NotInstalled } else { Unavailable::Busy });
        }
        head.busy.store(true, Ordering::Relaxed);
        let release = Release(&head.busy);
        // The accesses of `f` stay between the two stores to `busy`, as seen by the CPU's own
        // interrupt handlers.
        compiler_fence(Ordering::SeqCst);
        // SAFETY: `NO_SLOT` is always busy, so this is a slot.
        let value = unsafe { &(*slot).value };
        // SAFETY: the pin proves that this is the slot's own CPU, so remote CPUs are out. `busy`
        // was clear, so no interrupted context of the CPU is inside. An interrupting context finds
        // it set from here on, and a handler that ran between the check and the store has finished
        // with it (`Platform` requires that contexts of a CPU nest).
        let result = value.with(|value| f(unsafe { &*value }));
        drop(release);
        Ok(result)
    }
}

/// Clears `busy`, also when the closure unwinds.
struct Release<'a>(&'a AtomicBool);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        self.0.store(false, Ordering::Relaxed);
    }
}

impl<T> Default for CpuLocal<T> {
    fn default() -> CpuLocal<T> {
        CpuLocal::new()
    }
}

impl<T> fmt::Debug for CpuLocal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuLocal").finish_non_exhaustive()
    }
}
