//! What `valgrind --tool=callgrind` counts of a heap with measures against wrong uses.
//!
//! A pair is an allocation of 64 bytes, a write to the memory, and the free. Counting starts and stops
//! with [`counted_pairs`] (`--toggle-collect`).

use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::NonNull;

use topomem_percpu::{
    CpuId, CpuPin, Hardening, Heap, NodeId, Order, OutOfMemory, PageSource, PhysAddr, Platform, SizeClass,
};

/// One CPU, whose pages are the host allocator's.
#[derive(Debug, Clone, Copy)]
pub struct Host;

// SAFETY: one thread uses it.
unsafe impl Platform for Host {
    fn current_cpu(&self) -> CpuId {
        black_box(CpuId::BOOT)
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

/// Pairs before the count begins.
const WARM_UP: usize = 5000;

/// Runs `pairs` counted pairs on a heap with these measures, and returns the bytes of the block that an
/// object of 64 bytes has there.
///
/// # Panics
///
/// Where the heap has no memory.
#[must_use]
pub fn run(pairs: usize, hardening: Hardening) -> usize {
    let heap = Heap::with_hardening(Host, Host, hardening);
    if let Err(error) = heap.cpu_online(&Host.pin()) {
        panic!("topomem: {error}");
    }
    pair_loop(&heap, WARM_UP);
    counted_pairs(&heap, pairs);
    SizeClass::all()
        .map(|class| heap.class_stats(class))
        .find(|stats| stats.slabs > 0)
        .map_or(0, |stats| stats.object_size)
}

/// The function that is counted, with all that it calls.
#[inline(never)]
pub fn counted_pairs(heap: &Heap<Host, Host>, pairs: usize) {
    pair_loop(heap, pairs);
}

#[inline(always)]
fn pair_loop(heap: &Heap<Host, Host>, pairs: usize) {
    for _ in 0..pairs {
        let layout = black_box(Layout::new::<[u64; 8]>());
        let memory = match heap.try_alloc(layout) {
            Ok(memory) => black_box(memory),
            Err(error) => panic!("topomem: {error}"),
        };
        // SAFETY: the memory is ours, and aligned for words; it is freed once, with its layout.
        let freed = unsafe {
            memory.cast::<u64>().write(1);
            heap.free(memory, layout)
        };
        assert_eq!(freed, Ok(()));
    }
}
