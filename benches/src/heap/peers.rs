//! Peers in C and C++, which map their own memory.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;

use mimalloc::MiMalloc;
use snmalloc_rs::SnMalloc;
use tikv_jemallocator::Jemalloc;

use super::arena;
use super::subject::Subject;

/// A peer, and what the process had of the machine's memory before it was used.
pub(super) struct Mapped<H> {
    heap: H,
    before: Option<u64>,
}

impl<H> Mapped<H> {
    fn new(heap: H) -> Mapped<H> {
        Mapped { heap, before: arena::resident().ok() }
    }

    /// What the process has taken since. The cases take care that nothing else takes any.
    fn held(&self) -> Option<u64> {
        Some(arena::resident().ok()?.saturating_sub(self.before?))
    }
}

// SAFETY: the allocator's own promises.
unsafe impl<H: GlobalAlloc> GlobalAlloc for Mapped<H> {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.heap.alloc(layout) }
    }

    #[inline(always)]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.heap.dealloc(memory, layout) };
    }

    #[inline(always)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.heap.alloc_zeroed(layout) }
    }

    #[inline(always)]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.heap.realloc(memory, layout, new_size) }
    }
}

impl Subject for Mapped<MiMalloc> {
    const NAME: &'static str = "mimalloc";

    fn new(_cpus: usize) -> Self {
        Mapped::new(MiMalloc)
    }

    fn reclaim(&self) {
        // SAFETY: it may be called at any time.
        unsafe { libmimalloc_sys::mi_collect(true) };
    }

    fn held(&self) -> Option<u64> {
        Mapped::held(self)
    }
}

impl Subject for Mapped<SnMalloc> {
    const NAME: &'static str = "snmalloc-rs";

    fn new(_cpus: usize) -> Self {
        Mapped::new(SnMalloc)
    }

    // There is no call that gives memory back.

    fn held(&self) -> Option<u64> {
        Mapped::held(self)
    }
}

impl Subject for Mapped<Jemalloc> {
    const NAME: &'static str = "tikv-jemallocator";

    fn new(_cpus: usize) -> Self {
        Mapped::new(Jemalloc)
    }

    fn reclaim(&self) {
        // The number stands for all arenas.
        for command in [c"thread.tcache.flush", c"arena.4096.purge"] {
            let (nothing, size) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: both commands neither read nor write a value.
            let refused = unsafe { tikv_jemalloc_sys::mallctl(command.as_ptr(), nothing, size, nothing, 0) };
            assert_eq!(refused, 0, "{command:?}");
        }
    }

    fn held(&self) -> Option<u64> {
        Mapped::held(self)
    }
}
