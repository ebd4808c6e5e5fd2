//! topomem's heap over its own frames: one node, a thread for each CPU.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::fmt;
use std::hint::black_box;
use std::ptr::NonNull;

use topomem_percpu::{
    CpuId, CpuPin, Heap, NodeId, NotInPlace, Order, OutOfMemory, PageSource, Platform, RunLength,
};
use x86_64::PhysAddr;

use super::arena::{self, Arena};
use super::subject::Subject;
use crate::subject::Subject as FrameSubject;
use crate::subjects::Topomem as Frames;

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

/// The frames of an arena.
struct Pages(Frames);

// SAFETY: the frame allocator keeps runs apart; the arena is valid for reads and writes, and lives as long
// as the frame allocator.
unsafe impl PageSource for Pages {
    fn allocate(&self, pin: &CpuPin, _: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        self.0.alloc_memory(pin, order).ok_or(OutOfMemory)
    }

    unsafe fn free(&self, pin: &CpuPin, run: NonNull<u8>, order: Order) {
        self.0.free_memory(pin, run, order);
    }

    fn allocate_run(
        &self,
        pin: &CpuPin,
        node: NodeId,
        length: RunLength,
        align: Order,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        match length.order() {
            Some(order) => self.allocate(pin, node, order),
            None => self.0.alloc_pages(pin, length.pages(), align).ok_or(OutOfMemory),
        }
    }

    unsafe fn free_run(&self, pin: &CpuPin, run: NonNull<u8>, length: RunLength) {
        // A run that has an order's length since it was resized may begin anywhere; the arena is aligned to
        // its size.
        let aligned = |order: &Order| (run.addr().get() as u64).is_multiple_of(order.bytes());
        match length.order().filter(aligned) {
            Some(order) => self.0.free_memory(pin, run, order),
            None => self.0.free_pages(pin, run, length.pages()),
        }
    }

    unsafe fn extend_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        self.0.extend_pages(pin, run, from.pages(), to.pages()).map_err(|_| NotInPlace)
    }

    unsafe fn shrink_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        self.0.shrink_pages(pin, run, from.pages(), to.pages()).map_err(|_| NotInPlace)
    }

    fn node_of_cpu(&self, _: CpuId) -> NodeId {
        NodeId::ZERO
    }
}

/// The heap behind calls, as a program's global allocator is.
pub struct Topomem(Heap<Threads, Pages>);

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
        Topomem(Heap::new(Threads, Pages(Frames::over(Arena::new(), cpus))))
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
        let pages = &self.0.source().0;
        // All but free frames, and what describes frames and heap.
        let frames = arena::BYTES as u64 - pages.free_bytes();
        let metadata = FrameSubject::metadata_bytes(pages).unwrap_or(0) as u64;
        Some(frames + metadata + size_of::<Heap<Threads, Pages>>() as u64)
    }
}
