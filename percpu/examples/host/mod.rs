// A machine for the examples: the host's allocator as the source of pages, and one thread as the only CPU.
// Documentation tests include this file, so it begins with plain comments.

use std::alloc::Layout;
use std::ptr::NonNull;

use topomem_percpu::{CpuId, CpuPin, NodeId, Order, OutOfMemory, PageSource, Platform};

/// One CPU, and two nodes. A kernel answers by its own CPU number, direct map and frame allocator.
pub(crate) struct Host;

// SAFETY: each heap of the examples is used by one thread, which is the CPU, and nothing preempts it.
unsafe impl Platform for Host {
    fn current_cpu(&self) -> CpuId {
        CpuId::BOOT
    }

    fn phys_to_virt(&self, _: topomem_percpu::PhysAddr) -> NonNull<u8> {
        unreachable!("the heap asks for no physical address")
    }
}

fn layout(order: Order) -> Option<Layout> {
    let bytes = order.bytes() as usize;
    Layout::from_size_align(bytes, bytes).ok()
}

// SAFETY: the host's allocator keeps runs apart, aligned as asked.
unsafe impl PageSource for Host {
    fn allocate(&self, _: &CpuPin, _: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        let layout = layout(order).ok_or(OutOfMemory)?;
        // SAFETY: no order is of no bytes.
        NonNull::new(unsafe { std::alloc::alloc(layout) }).ok_or(OutOfMemory)
    }

    unsafe fn free(&self, _: &CpuPin, run: NonNull<u8>, order: Order) {
        if let Some(layout) = layout(order) {
            // SAFETY: `allocate` had the run from there, with this layout.
            unsafe { std::alloc::dealloc(run.as_ptr(), layout) };
        }
    }

    fn node_of_cpu(&self, _: CpuId) -> NodeId {
        NodeId::ZERO
    }

    fn node_with_memory(&self, node: NodeId) -> Option<NodeId> {
        (node.index() < 2).then_some(node)
    }
}
