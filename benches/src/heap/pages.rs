//! Pages for the heaps that are measured and counted: the frames of an arena.

use std::ptr::NonNull;

use topomem_percpu::{CpuId, CpuPin, NodeId, NotInPlace, Order, OutOfMemory, PageSource, RunLength};

use super::arena::{self, Arena};
use crate::subject::Subject as FrameSubject;
use crate::subjects::Topomem as Frames;

/// The frames of an arena, on nodes to which CPUs are dealt out in turn. Each CPU asks for its own node's.
pub(crate) struct Pages {
    frames: Frames,
    nodes: usize,
}

impl Pages {
    /// The frames of a new arena, for `cpus` CPUs on `nodes` nodes.
    pub(crate) fn new(cpus: usize, nodes: usize) -> Pages {
        Pages { frames: Frames::over_nodes(Arena::new(), cpus, nodes), nodes }
    }

    /// All memory but free frames, and what describes frames.
    pub(super) fn held_bytes(&self) -> u64 {
        let metadata = FrameSubject::metadata_bytes(&self.frames).unwrap_or(0) as u64;
        arena::BYTES as u64 - self.frames.free_bytes() + metadata
    }
}

// SAFETY: the frame allocator keeps runs apart; the arena is valid for reads and writes, and lives as long
// as the frame allocator.
unsafe impl PageSource for Pages {
    fn allocate(&self, pin: &CpuPin, _: NodeId, order: Order) -> Result<NonNull<u8>, OutOfMemory> {
        self.frames.alloc_memory(pin, order).ok_or(OutOfMemory)
    }

    unsafe fn free(&self, pin: &CpuPin, run: NonNull<u8>, order: Order) {
        self.frames.free_memory(pin, run, order);
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
            None => self.frames.alloc_pages(pin, length.pages(), align).ok_or(OutOfMemory),
        }
    }

    unsafe fn free_run(&self, pin: &CpuPin, run: NonNull<u8>, length: RunLength) {
        // A run that has an order's length since it was resized may begin anywhere; the arena is aligned to
        // its size.
        let aligned = |order: &Order| (run.addr().get() as u64).is_multiple_of(order.bytes());
        match length.order().filter(aligned) {
            Some(order) => self.frames.free_memory(pin, run, order),
            None => self.frames.free_pages(pin, run, length.pages()),
        }
    }

    unsafe fn extend_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        self.frames.extend_pages(pin, run, from.pages(), to.pages()).map_err(|_| NotInPlace)
    }

    unsafe fn shrink_run(
        &self,
        pin: &CpuPin,
        run: NonNull<u8>,
        from: RunLength,
        to: RunLength,
    ) -> Result<(), NotInPlace> {
        self.frames.shrink_pages(pin, run, from.pages(), to.pages()).map_err(|_| NotInPlace)
    }

    fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        NodeId::new(cpu.index() % self.nodes).unwrap_or(NodeId::ZERO)
    }
}
