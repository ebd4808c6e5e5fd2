//! One value per CPU, on that CPU's own memory, used without locks or atomic
//! read-modify-writes.

use core::fmt;
use core::marker::PhantomData;

use crate::sync::atomic::{AtomicBool, AtomicPtr, Ordering, compiler_fence};
use crate::sync::cell::UnsafeCell;
use crate::{CpuId, CpuPin, MAX_CPUS};

/// The storage of one CPU's value: place it on that CPU's node.
///
/// Aligned to 128 bytes, since adjacent-line prefetch pairs 64-byte lines.
#[repr(C, align(128))]
pub struct Slot<T> {
    head: Head,
    value: UnsafeCell<T>,
}

/// What a slot begins with, also the one that stands for none.
#[repr(C)]
struct Head {
    /// Set while a context of the owning CPU uses `value`. Only contexts of that CPU access
    /// it, one nested in the other, so relaxed loads and stores suffice; atomic because the
    /// compiler must assume an interrupt between any two.
    busy: AtomicBool,
    /// Set while the slot is some CPU's: a slot that two CPUs shared would be used by two
    /// contexts at a time.
    installed: AtomicBool,
    /// Makes the head a whole word: a heap that is told a wrong address or layout reads a word where a slab
    /// would begin, and a slot may begin there.
    _rest: [u8; 6],
}

impl Head {
    /// The head of a slot that is nobody's.
    #[cfg(not(loom))]
    const fn free() -> Head {
        Head { busy: AtomicBool::new(false), installed: AtomicBool::new(false), _rest: [0; 6] }
    }

    /// The same (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    fn free() -> Head {
        Head { busy: AtomicBool::new(false), installed: AtomicBool::new(false), _rest: [0; 6] }
    }
}

/// What CPUs have that have no slot: always in use, so a use of a value needs no test of its own for
/// a slot that is missing. (loom's atomics cannot be static: its models test for null.)
#[cfg(not(loom))]
static NO_SLOT: Head = Head { busy: AtomicBool::new(true), installed: AtomicBool::new(true), _rest: [0; 6] };

#[cfg(not(loom))]
const fn no_slot<T>() -> *mut Slot<T> {
    (&raw const NO_SLOT).cast_mut().cast()
}

#[cfg(loom)]
fn no_slot<T>() -> *mut Slot<T> {
    core::ptr::null_mut()
}

// SAFETY: `value` is reached through `CpuLocal::with` on the owning CPU, one context at a
// time (`busy`), and a slot has one CPU (`installed`); a value that moves to its CPU once needs
// `Send`. Where other CPUs reach it, `T` is `Sync`.
unsafe impl<T: Send> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// A slot that holds `value`.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(value: T) -> Slot<T> {
        Slot { head: Head::free(), value: UnsafeCell::new(value) }
    }

    /// A slot that holds `value` (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new(value: T) -> Slot<T> {
        Slot { head: Head::free(), value: UnsafeCell::new(value) }
    }
}

impl<T: Sync> Slot<T> {
    /// The value, for what any CPU may do with it at any time.
    pub fn shared(&self) -> &T {
        // SAFETY: only shared references to the value are ever made, and any CPU may use them.
        self.value.with(|value| unsafe { &*value })
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

/// Why a CPU's value could not be used now. Callers take their shared path instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The CPU has no slot: it is not online yet.
    NotInstalled,
    /// An interrupted context of the same CPU is using it.
    Busy,
}

/// A value per CPU; slots are installed as CPUs come online.
///
/// The value is used through a shared reference, by one context at a time: what changes in it is in
/// `Cell`s, or in atomics where other CPUs may look at it ([`Slot::shared`]).
///
/// [`CpuLocal::with`] costs a load of the slot's address and plain accesses to the slot's own
/// line. It is safe in interrupt and NMI handlers without masking anything: a nested use of the
/// same CPU's value is told [`Unavailable::Busy`].
pub struct CpuLocal<T: 'static> {
    /// A CPU without a slot has [`no_slot`].
    slots: [AtomicPtr<Slot<T>>; MAX_CPUS],
    /// `AtomicPtr` is `Sync` whatever it points to: only a `T: Send` may be left for another CPU.
    shares: PhantomData<&'static Slot<T>>,
}

impl<T> CpuLocal<T> {
    /// No CPU has a slot yet.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> CpuLocal<T> {
        CpuLocal { slots: [const { AtomicPtr::new(no_slot()) }; MAX_CPUS], shares: PhantomData }
    }

    /// No CPU has a slot yet (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> CpuLocal<T> {
        CpuLocal { slots: core::array::from_fn(|_| AtomicPtr::new(no_slot())), shares: PhantomData }
    }

    /// Gives `cpu` its slot, for good.
    ///
    /// # Errors
    ///
    /// The slot comes back where `cpu` has one already, or the slot has a CPU already.
    pub fn install(&self, cpu: CpuId, slot: &'static Slot<T>) -> Result<(), &'static Slot<T>> {
        // Relaxed: the flag decides who may install the slot, and orders nothing.
        if slot.head.installed.swap(true, Ordering::Relaxed) {
            return Err(slot);
        }
        // Release pairs with the Acquire in `with`: who sees the address sees the value.
        match self.slots[cpu.index()].compare_exchange(
            no_slot(),
            core::ptr::from_ref(slot).cast_mut(),
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            Ok(_) => Ok(()),
            Err(_) => {
                slot.head.installed.store(false, Ordering::Relaxed);
                Err(slot)
            }
        }
    }

    /// Has `cpu` a slot?
    pub fn is_installed(&self, cpu: CpuId) -> bool {
        self.slots[cpu.index()].load(Ordering::Relaxed) != no_slot()
    }

    /// Uses the pinned CPU's value.
    ///
    /// # Errors
    ///
    /// [`Unavailable`], with `f` not called.
    #[inline(always)]
    pub fn with<R>(&self, pin: &CpuPin, f: impl FnOnce(&T) -> R) -> Result<R, Unavailable> {
        // Acquire pairs with the Release in `install`.
        let slot = self.slots[pin.cpu().index()].load(Ordering::Acquire);
        #[cfg(loom)]
        if slot == no_slot() {
            return Err(Unavailable::NotInstalled);
        }
        // SAFETY: the address is that of a `&'static Slot` given to `install`, or of `NO_SLOT`; both
        // begin with a head.
        let head = unsafe { &*slot.cast::<Head>() };
        if head.busy.load(Ordering::Relaxed) {
            return Err(if slot == no_slot() { Unavailable::NotInstalled } else { Unavailable::Busy });
        }
        head.busy.store(true, Ordering::Relaxed);
        let release = Release(&head.busy);
        // The accesses of `f` stay between the two stores to `busy`, as this CPU's own
        // interrupt handlers see it.
        compiler_fence(Ordering::SeqCst);
        // SAFETY: `NO_SLOT` is always busy, so this is a slot.
        let value = unsafe { &(*slot).value };
        // SAFETY: the pin proves that this is the slot's own CPU, so other CPUs are out; `busy`
        // was clear, so no interrupted context of this CPU is inside; whoever interrupts us
        // from here on finds it set, and a handler that ran between the check and the store
        // has finished with it (`Platform` demands that contexts of a CPU nest).
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;
    use std::panic::AssertUnwindSafe;

    use super::*;

    fn cpu(index: usize) -> CpuId {
        CpuId::new(index).unwrap()
    }

    fn pin(index: usize) -> CpuPin {
        // SAFETY: the test has one thread, which plays every CPU in turn.
        unsafe { CpuPin::new(cpu(index)) }
    }

    #[test]
    fn each_cpu_has_its_own_value() {
        static SLOTS: [Slot<Cell<u32>>; 3] =
            [Slot::new(Cell::new(1)), Slot::new(Cell::new(2)), Slot::new(Cell::new(3))];
        let local = CpuLocal::new();
        local.install(cpu(0), &SLOTS[0]).unwrap();
        local.install(cpu(1), &SLOTS[1]).unwrap();
        local.with(&pin(0), |value| value.set(value.get() + 10)).unwrap();
        assert_eq!(local.with(&pin(0), |value| value.get()), Ok(11));
        assert_eq!(local.with(&pin(1), |value| value.get()), Ok(2));
        assert_eq!(local.with(&pin(2), |value| value.get()), Err(Unavailable::NotInstalled));
        assert!(local.install(cpu(0), &SLOTS[2]).is_err());
    }

    #[test]
    fn a_slot_has_one_cpu() {
        static SHARED: Slot<Cell<u32>> = Slot::new(Cell::new(1));
        let (local, other) = (CpuLocal::new(), CpuLocal::new());
        local.install(cpu(0), &SHARED).unwrap();
        assert!(local.install(cpu(1), &SHARED).is_err());
        assert!(other.install(cpu(0), &SHARED).is_err());
    }

    #[test]
    fn a_refused_slot_can_serve_elsewhere() {
        static SLOTS: [Slot<Cell<u32>>; 2] = [Slot::new(Cell::new(1)), Slot::new(Cell::new(2))];
        let local = CpuLocal::new();
        local.install(cpu(0), &SLOTS[0]).unwrap();
        assert!(local.install(cpu(0), &SLOTS[1]).is_err());
        assert!(local.install(cpu(1), &SLOTS[1]).is_ok());
    }

    #[test]
    fn nested_use_is_refused() {
        static SLOT: Slot<Cell<u32>> = Slot::new(Cell::new(1));
        let local = CpuLocal::new();
        local.install(cpu(0), &SLOT).unwrap();
        let nested = local.with(&pin(0), |_| local.with(&pin(0), |value| value.get()));
        assert_eq!(nested, Ok(Err(Unavailable::Busy)));
        assert_eq!(local.with(&pin(0), |value| value.get()), Ok(1));
    }

    #[test]
    fn a_panic_inside_leaves_the_value_usable() {
        static SLOT: Slot<Cell<u32>> = Slot::new(Cell::new(1));
        let local = CpuLocal::new();
        local.install(cpu(0), &SLOT).unwrap();
        let unwound =
            std::panic::catch_unwind(AssertUnwindSafe(|| local.with(&pin(0), |_| panic!("inside"))));
        assert!(unwound.is_err());
        assert_eq!(local.with(&pin(0), |value| value.get()), Ok(1));
    }
}
