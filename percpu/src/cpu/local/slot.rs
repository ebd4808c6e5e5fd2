//! The storage of one CPU's value, and the placeholder for a missing one.

use core::fmt;

use crate::sync::atomic::AtomicBool;
use crate::sync::cell::UnsafeCell;

/// The storage of one CPU's value: place it on that CPU's node.
///
/// Aligned to 128 bytes, since adjacent-line prefetch pairs 64-byte lines.
#[repr(C, align(128))]
pub struct Slot<T> {
    pub(super) head: Head,
    pub(super) value: UnsafeCell<T>,
}

/// The header of a slot, also of the placeholder for a missing slot.
#[repr(C)]
pub(super) struct Head {
    /// Set while a context of the owning CPU uses `value`. Only contexts of that CPU access it,
    /// nested in each other, so relaxed loads and stores suffice. Atomic because the compiler must
    /// assume an interrupt between any two accesses.
    pub(super) busy: AtomicBool,
    /// Set while the slot belongs to a CPU. A slot shared by two CPUs would be used by two contexts
    /// at a time.
    pub(super) installed: AtomicBool,
    /// Pads the header to a whole word: a heap called with a wrong address or layout reads a word
    /// at the start of a supposed slab, and a slot may start there.
    _rest: [u8; 6],
}

impl Head {
    /// Creates the header of a slot without a CPU.
    #[cfg(not(loom))]
    const fn free() -> Head {
        Head { busy: AtomicBool::new(false), installed: AtomicBool::new(false), _rest: [0; 6] }
    }

    /// Creates the header of a slot without a CPU (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    fn free() -> Head {
        Head { busy: AtomicBool::new(false), installed: AtomicBool::new(false), _rest: [0; 6] }
    }
}

/// The placeholder for CPUs without a slot: always busy, so a use of a value needs no separate test
/// for a missing slot. (loom's atomics cannot be static: its models test for null.)
#[cfg(not(loom))]
static NO_SLOT: Head = Head { busy: AtomicBool::new(true), installed: AtomicBool::new(true), _rest: [0; 6] };

#[cfg(not(loom))]
pub(super) const fn no_slot<T>() -> *mut Slot<T> {
    (&raw const NO_SLOT).cast_mut().cast()
}

#[cfg(loom)]
pub(super) fn no_slot<T>() -> *mut Slot<T> {
    core::ptr::null_mut()
}

// SAFETY: `value` is accessed through `CpuLocal::with` on the owning CPU, one context at a time
// (`busy`), and a slot has one CPU (`installed`); a value that moves to its CPU once needs `Send`.
// If remote CPUs access it, `T` is `Sync`.
unsafe impl<T: Send> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// Creates a slot with `value`.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(value: T) -> Slot<T> {
        Slot { head: Head::free(), value: UnsafeCell::new(value) }
    }

    /// Creates a slot with `value` (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new(value: T) -> Slot<T> {
        Slot { head: Head::free(), value: UnsafeCell::new(value) }
    }
}

impl<T: Sync> Slot<T> {
    /// Returns the value, for uses allowed on any CPU at any time.
    pub fn shared(&self) -> &T {
        // SAFETY: the value is only ever borrowed as shared, which any CPU may do.
        self.value.with(|value| unsafe { &*value })
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}
