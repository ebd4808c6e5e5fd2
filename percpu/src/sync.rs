//! The atomics and cells that topomem's protocols are written with: `core`'s, or loom's under
//! `--cfg loom`, so that the models run the production code.

#[cfg(not(loom))]
pub use core::sync::atomic;

/// loom's atomics; what loom does not model is `core`'s.
#[cfg(loom)]
pub mod atomic {
    pub use core::sync::atomic::compiler_fence;
    pub use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

/// One turn of a spin loop.
pub mod hint {
    #[cfg(not(loom))]
    pub use core::hint::spin_loop;

    #[cfg(loom)]
    pub use loom::hint::spin_loop;
}
