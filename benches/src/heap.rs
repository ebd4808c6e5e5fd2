//! What `valgrind --tool=callgrind` counts of the heap: pairs of 64 bytes on one thread.
//!
//! A pair is an allocation, a write to the memory, and the free, through [`GlobalAlloc`], as a
//! kernel's `Box` makes them: the layout is not known when the allocator is compiled. Counting
//! starts and stops with [`counted_pairs`] (`--toggle-collect`).

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::hint::black_box;
use std::ptr::NonNull;

use topomem_percpu::{CpuId, CpuPin, Heap, NodeId, Order, OutOfMemory, PageSource, Platform};
use x86_64::PhysAddr;

thread_local! {
    /// The CPU that a thread plays. A kernel reads its number from the CPU's own area: one load
    /// relative to a segment register, as here.
    static CPU: Cell<CpuId> = const { Cell::new(CpuId::BOOT) };
}

/// Threads as CPUs of one node, whose pages are the host allocator's.
#[derive(Debug, Clone, Copy)]
struct Host;

// SAFETY: each thread plays a CPU of its own, and nothing preempts it in favour of another that
// plays the same.
unsafe impl Platform for Host {
    fn current_cpu(&self) -> CpuId {
        CPU.get()
    }

    fn phys_to_virt(&self, _: PhysAddr) -> NonNull<u8> {
        unreachable!("the heap asks for no physical address")
    }
}

fn layout(order: Order) -> Layout {
    let bytes = order.bytes() as usize;
    match Layout::from_size_align(bytes, bytes) {
        Ok(layout) => layout,
        Err(error) => panic!("a run of {bytes} bytes: {error}"),
    }
}

// SAFETY: the host's allocator keeps runs apart, aligned as asked.
unsafe impl PageSource for Host {
    fn allocate(&self, _: &CpuPin, _: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        // SAFETY: no order is of no bytes.
        NonNull::new(unsafe { std::alloc::alloc(layout(order)) }).ok_or(OutOfMemory)
    }

    unsafe fn free(&self, _: &CpuPin, run: NonNull<u8>, order: Order) {
        // SAFETY: `allocate` had the run from there, with this layout.
        unsafe { std::alloc::dealloc(run.as_ptr(), layout(order)) };
    }

    fn node_of_cpu(&self, _: CpuId) -> NodeId {
        NodeId::ZERO
    }
}

/// The heap behind calls, as a program's global allocator is.
struct Called(Heap<Host, Host>);

// SAFETY: the heap's own promises.
unsafe impl GlobalAlloc for Called {
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
}

/// No allocator: always the same memory. What it costs is the loop's.
struct Nothing(Cell<[u64; 8]>);

// SAFETY: one object at a time is held; nothing else is asked for.
unsafe impl GlobalAlloc for Nothing {
    #[inline(never)]
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        black_box(self.0.as_ptr().cast())
    }

    #[inline(never)]
    unsafe fn dealloc(&self, memory: *mut u8, _: Layout) {
        black_box(memory);
    }
}

/// Pairs before the count begins: magazines are as in the middle of a long run.
const WARM_UP: usize = 1000;

/// Runs `pairs` counted pairs on a fresh heap.
///
/// # Panics
///
/// Where the heap has no memory.
pub fn run(pairs: usize) {
    // Not known when the program is compiled.
    CPU.set(black_box(CpuId::BOOT));
    let heap = Called(Heap::new(Host, Host));
    if let Err(error) = heap.0.cpu_online(&Host.pin()) {
        panic!("topomem: {error}");
    }
    pair_loop(&heap, WARM_UP);
    counted_pairs(&heap, pairs);
}

/// Runs `pairs` counted pairs without an allocator.
pub fn run_nothing(pairs: usize) {
    counted_pairs(&Nothing(Cell::new([0; 8])), pairs);
}

/// The function that is counted, with all that it calls.
#[inline(never)]
pub fn counted_pairs<A: GlobalAlloc>(allocator: &A, pairs: usize) {
    pair_loop(allocator, pairs);
}

#[inline(always)]
fn pair_loop<A: GlobalAlloc>(allocator: &A, pairs: usize) {
    for _ in 0..pairs {
        let layout = black_box(Layout::new::<[u64; 8]>());
        // SAFETY: the layout has a size.
        let memory = unsafe { allocator.alloc(layout) };
        assert!(!memory.is_null(), "no memory for a pair");
        // SAFETY: the memory is ours, and aligned for words; it is freed once, with its layout.
        unsafe {
            memory.cast::<u64>().write(1);
            allocator.dealloc(black_box(memory), layout);
        }
    }
}
