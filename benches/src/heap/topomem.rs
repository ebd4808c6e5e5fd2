//! topomem's heap over its own frames: one node, a thread for each CPU.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::fmt;
use std::hint::black_box;
use std::ptr::NonNull;

use topomem_percpu::{CpuId, Heap, PhysAddr, Platform};

use super::pages::Pages;
use super::subject::Subject;

thread_local! {
    /// The CPU that a thread plays. A kernel reads its number from the CPU's own area: one load
    /// relative to a segment register, as here.
    static CPU: Cell<CpuId> = const { Cell::new(CpuId::BOOT) };
}

/// Threads as CPUs of one node.
#[derive(Debug, Clone, Copy)]
struct Threads;

// SAFETY: each thread plays a CPU of its own, and nothing preempts it in favour of another that
// plays the same.
unsafe impl Platform for Threads {
    fn current_cpu(&self) -> CpuId {
        CPU.get()
    }

    fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> {
        unreachable!("the heap asks for no physical address")
    }
}

/// The heap behind calls, as a program's global allocator is.
pub(super) struct Topomem(Heap<Threads, Pages>);

impl fmt::Debug for Topomem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// SAFETY: the heap's own promises.
unsafe impl GlobalAlloc for Topomem {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { GlobalAlloc::alloc(&self.0, layout) }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { GlobalAlloc::dealloc(&self.0, memory, layout) };
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { GlobalAlloc::alloc_zeroed(&self.0, layout) }
    }

    #[inline(never)]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { GlobalAlloc::realloc(&self.0, memory, layout, new_size) }
    }
}

impl Subject for Topomem {
    const NAME: &'static str = "topomem";

    fn new(cpus: usize) -> Topomem {
        Topomem(Heap::new(Threads, Pages::new(cpus, 1)))
    }

    fn enter(&self, cpu: usize) {
        // Not known when the program is compiled.
        CPU.set(black_box(CpuId::new(cpu).unwrap_or(CpuId::BOOT)));
        if let Err(error) = self.0.cpu_online(&Threads.pin()) {
            panic!("topomem: {error}");
        }
    }

    fn reclaim(&self) {
        self.0.reclaim(&Threads.pin());
    }

    fn held(&self) -> Option<u64> {
        // And what describes the heap.
        Some(self.0.source().held_bytes() + size_of::<Heap<Threads, Pages>>() as u64)
    }
}
