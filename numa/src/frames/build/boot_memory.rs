//! The memory of the machine at boot, before the frame allocator is built.

use topomem_percpu::{CpuId, NodeId, PhysAddr};

use crate::memory::FRAME_SIZE;
use crate::{BootAllocError, BootAllocator, MemoryRange, Piece};

/// The machine as seen by [`Frames::init`](crate::frames::Frames::init). Kernels pass [`BootAllocator`];
/// tests and simulations implement their own.
///
/// # Safety
///
/// - [`BootMemory::free_ranges`] returns RAM reachable through the platform's direct map, without users except
///   the users of [`BootMemory::allocated`].
/// - [`BootMemory::alloc`] returns memory with the same properties, and from then on `free_ranges` leaves
///   the memory out. The memory is not of [`BootMemory::allocated`].
pub unsafe trait BootMemory {
    /// The error of [`BootMemory::alloc`].
    type Error;

    /// Returns the number of nodes, numbered from 0.
    fn node_count(&self) -> usize;

    /// Returns every node, by distance from `node`: `node` first. Nodes left out are searched last.
    fn nearest(&self, node: NodeId) -> impl Iterator<Item = NodeId>;

    /// Returns every CPU that may come online, with its node.
    fn cpus(&self) -> impl Iterator<Item = (CpuId, NodeId)>;

    /// Returns the weight of `node` in weighted interleaving, if firmware tells it.
    fn weight(&self, node: NodeId) -> Option<u32>;

    /// Returns the memory free now: sorted by address, disjoint, on frame boundaries.
    fn free_ranges(&self) -> impl Iterator<Item = Piece>;

    /// Returns the memory among the free ranges with users already, by address, on frame boundaries. Each frame of the
    /// memory is taken over as allocated alone: [`Frames::free`](crate::frames::Frames::free) with
    /// [`Order::FRAME`](topomem_percpu::Order::FRAME) frees the frame. None by default.
    fn allocated(&self) -> impl Iterator<Item = MemoryRange> {
        core::iter::empty()
    }

    /// Takes `bytes` bytes aligned to `align` for good, on `node` or near it.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such memory.
    fn alloc(&mut self, bytes: u64, align: u64, node: NodeId) -> Result<PhysAddr, Self::Error>;

    /// Returns how many bytes [`BootMemory::alloc`] takes at a time: small parts of a node's bookkeeping share the
    /// bytes. A power of two; 1 by default.
    fn unit(&self) -> u64 {
        1
    }
}

// SAFETY: the boot allocator has exclusive access to its map while it lives, and reserves allocated
// memory in the map; its builder promises that the map's RAM is real and mapped.
unsafe impl BootMemory for BootAllocator<'_> {
    type Error = BootAllocError;

    fn node_count(&self) -> usize {
        self.topology().node_count()
    }

    fn nearest(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        self.topology().nearest(node).iter().copied()
    }

    fn cpus(&self) -> impl Iterator<Item = (CpuId, NodeId)> {
        self.topology().cpus().iter().map(|entry| (entry.cpu, entry.node))
    }

    /// Returns the best bandwidth to the node from any CPU's node: that of its nearest initiators.
    fn weight(&self, node: NodeId) -> Option<u32> {
        let topology = self.topology();
        topology.nodes().filter_map(|from| topology.bandwidth(from, node)).map(|bandwidth| bandwidth.0).max()
    }

    fn free_ranges(&self) -> impl Iterator<Item = Piece> {
        self.memory()
    }

    fn allocated(&self) -> impl Iterator<Item = MemoryRange> {
        self.early_frames()
    }

    fn alloc(&mut self, bytes: u64, align: u64, node: NodeId) -> Result<PhysAddr, BootAllocError> {
        // The allocator's own method, which takes precedence.
        BootAllocator::alloc(self, bytes, align, node)
    }

    /// The boot allocator hands out whole frames.
    fn unit(&self) -> u64 {
        FRAME_SIZE
    }
}
