//! The atomics and cells of topomem's protocols: `core`'s; loom's under `--cfg loom`, so that the
//! models run the production code; observed ones under `--cfg topomem_count`, so that the counts
//! are those of the production code.

#[cfg(not(any(loom, topomem_count)))]
pub use core::sync::atomic;

#[cfg(topomem_count)]
pub mod observed;

/// `core`'s atomics, observed.
#[cfg(topomem_count)]
pub mod atomic {
    pub use super::observed::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
    };
    pub use core::sync::atomic::{Ordering, compiler_fence, fence};
}

/// loom's atomics, and `core`'s if loom has no model.
#[cfg(loom)]
pub mod atomic {
    pub use core::sync::atomic::compiler_fence;
    pub use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

/// A cell for data guarded by a protocol of atomics; loom checks each access under `--cfg loom`.
pub mod cell {
    #[cfg(loom)]
    pub use loom::cell::UnsafeCell;

    /// [`core::cell::UnsafeCell`] with loom's access by closure.
    #[cfg(not(loom))]
    #[derive(Debug)]
    pub struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    #[cfg(not(loom))]
    impl<T> UnsafeCell<T> {
        /// Creates a cell with `value`.
        #[must_use]
        pub const fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(core::cell::UnsafeCell::new(value))
        }

        /// Calls `f` with the address of the value, to read it.
        #[inline]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        /// Calls `f` with the address of the value, to write it.
        #[inline]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

/// One turn of a spin loop.
pub mod hint {
    #[cfg(not(loom))]
    pub use core::hint::spin_loop;

    #[cfg(loom)]
    pub use loom::hint::spin_loop;
}
