//! Latencies, bandwidths and memory-side caches.

use topomem_percpu::{MAX_NODES, NodeId};

use super::{MegabytesPerSecond, Picoseconds};

/// The placement of lines in a memory-side cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheAssociativity {
    /// Unknown, or not given by firmware.
    Unknown,
    /// Each address has one place.
    DirectMapped,
    /// Another indexing.
    Complex,
}

/// The time at which a memory-side cache writes to the memory behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheWritePolicy {
    /// Unknown, or not given by firmware.
    Unknown,
    /// When a line is evicted.
    WriteBack,
    /// At once.
    WriteThrough,
}

/// A cache in front of a node's memory, shared by all users of that memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemorySideCache {
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes in a line.
    pub line_bytes: u16,
    /// Its level among `levels`; 1 is nearest to the memory.
    pub level: u8,
    /// The number of levels in front of that memory.
    pub levels: u8,
    /// The placement of lines.
    pub associativity: CacheAssociativity,
    /// The time of its writes to the memory.
    pub write_policy: CacheWritePolicy,
}

/// A square of figures, one per pair of nodes; 0 if there is none.
#[derive(Debug)]
struct Matrix([[u32; MAX_NODES]; MAX_NODES]);

impl Matrix {
    const EMPTY: Matrix = Matrix([[0; MAX_NODES]; MAX_NODES]);

    fn get(&self, initiator: NodeId, target: NodeId) -> Option<u32> {
        Some(self.0[initiator.index()][target.index()]).filter(|&figure| figure != 0)
    }

    fn set(&mut self, initiator: NodeId, target: NodeId, figure: u32) {
        self.0[initiator.index()][target.index()] = figure;
    }

    fn clear(&mut self) {
        self.0.as_flattened_mut().fill(0);
    }
}

/// The HMAT's figures for each pair of nodes and each node.
#[derive(Debug)]
pub(super) struct Performance {
    picoseconds: Matrix,
    megabytes_per_second: Matrix,
    caches: [Option<MemorySideCache>; MAX_NODES],
}

impl Performance {
    pub(super) const fn new() -> Performance {
        Performance {
            picoseconds: Matrix::EMPTY,
            megabytes_per_second: Matrix::EMPTY,
            caches: [None; MAX_NODES],
        }
    }

    pub(super) fn clear(&mut self) {
        self.picoseconds.clear();
        self.megabytes_per_second.clear();
        self.caches.fill(None);
    }

    pub(super) fn latency(&self, initiator: NodeId, target: NodeId) -> Option<Picoseconds> {
        self.picoseconds.get(initiator, target).map(Picoseconds)
    }

    pub(super) fn bandwidth(&self, initiator: NodeId, target: NodeId) -> Option<MegabytesPerSecond> {
        self.megabytes_per_second.get(initiator, target).map(MegabytesPerSecond)
    }

    pub(super) fn cache(&self, node: NodeId) -> Option<MemorySideCache> {
        self.caches[node.index()]
    }

    pub(super) fn set_latency(&mut self, initiator: NodeId, target: NodeId, figure: Picoseconds) {
        self.picoseconds.set(initiator, target, figure.0);
    }

    pub(super) fn set_bandwidth(&mut self, initiator: NodeId, target: NodeId, figure: MegabytesPerSecond) {
        self.megabytes_per_second.set(initiator, target, figure.0);
    }

    pub(super) fn set_cache(&mut self, node: NodeId, cache: MemorySideCache) {
        self.caches[node.index()] = Some(cache);
    }
}
