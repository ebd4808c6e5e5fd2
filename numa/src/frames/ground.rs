//! What a frame allocator is built on: the machine's memory, before there is an allocator.

use topomem_percpu::{CpuId, NodeId};
use x86_64::PhysAddr;

use crate::{BootAllocError, BootAllocator, Piece};

/// The machine as [`Frames::init`](super::Frames::init) needs to see it. Kernels pass
/// [`BootAllocator`]; tests and simulations describe one of their own.
///
/// # Safety
///
/// - [`Ground::pieces`] names RAM that nobody else uses, and that the platform's direct map
///   reaches.
/// - [`Ground::place`] returns memory on that footing too, and from then on `pieces` leaves it
///   out.
pub unsafe trait Ground {
    /// Why there was no memory for bookkeeping.
    type Error;

    /// How many nodes there are; they are numbered from 0.
    fn node_count(&self) -> usize;

    /// Every node, by distance from `node`: itself first. What is left out is searched last.
    fn nearest(&self, node: NodeId) -> impl Iterator<Item = NodeId>;

    /// Every CPU that may come online, with its node.
    fn cpus(&self) -> impl Iterator<Item = (CpuId, NodeId)>;

    /// The weight of `node` in weighted interleaving, where firmware tells.
    fn weight(&self, node: NodeId) -> Option<u32>;

    /// Free memory now: sorted by address, disjoint, on frame boundaries.
    fn pieces(&self) -> impl Iterator<Item = Piece>;

    /// Takes `bytes` bytes aligned to `align` for good, on `node` or near it.
    ///
    /// # Errors
    /// Where there is no such memory.
    fn place(&mut self, bytes: u64, align: u64, node: NodeId) -> Result<PhysAddr, Self::Error>;
}

// SAFETY: the boot allocator is the only way to its map while it lives, and reserves in the map
// what it hands out; that the map's RAM is real and mapped is its builder's promise.
unsafe impl Ground for BootAllocator<'_> {
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

    /// The best bandwidth with which any CPU's node reaches it: its nearest initiators'.
    fn weight(&self, node: NodeId) -> Option<u32> {
        let topology = self.topology();
        topology.nodes().filter_map(|from| topology.bandwidth(from, node)).map(|bandwidth| bandwidth.0).max()
    }

    fn pieces(&self) -> impl Iterator<Item = Piece> {
        BootAllocator::pieces(self)
    }

    fn place(&mut self, bytes: u64, align: u64, node: NodeId) -> Result<PhysAddr, BootAllocError> {
        self.alloc(bytes, align, node)
    }
}
