//! Latencies, bandwidths and memory-side caches.

use topomem_percpu::NodeId;

use super::square::{BUILT_IN, Square};
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

/// A node's cache, if it has one: as an `Option`, but all zero where there is none.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeCache {
    is_known: bool,
    cache: MemorySideCache,
}

impl NodeCache {
    pub(super) const NONE: NodeCache = NodeCache {
        is_known: false,
        cache: MemorySideCache {
            bytes: 0,
            line_bytes: 0,
            level: 0,
            levels: 0,
            associativity: CacheAssociativity::Unknown,
            write_policy: CacheWritePolicy::Unknown,
        },
    };
}

/// The HMAT's figures for each pair of nodes and each node.
#[derive(Debug)]
pub(super) struct Performance {
    /// 0 where there is no figure.
    picoseconds: Square<u32>,
    /// 0 where there is no figure.
    megabytes_per_second: Square<u32>,
    near_caches: [NodeCache; BUILT_IN],
    /// Those of all nodes, if the topology has memory of the kernel's.
    far_caches: Option<&'static mut [NodeCache]>,
}

/// Memory for the figures of more nodes than are built in.
#[derive(Debug)]
pub(super) struct FiguresPlace {
    pub(super) picoseconds: &'static mut [u32],
    pub(super) megabytes_per_second: &'static mut [u32],
    pub(super) caches: &'static mut [NodeCache],
}

impl Performance {
    pub(super) const fn new() -> Performance {
        Performance {
            picoseconds: Square::new(0),
            megabytes_per_second: Square::new(0),
            near_caches: [NodeCache::NONE; BUILT_IN],
            far_caches: None,
        }
    }

    pub(super) fn clear(&mut self) {
        self.picoseconds.fill(0);
        self.megabytes_per_second.fill(0);
        self.caches_mut().fill(NodeCache::NONE);
    }

    /// Uses `place` for the figures of `side` nodes from now on.
    pub(super) fn move_to(&mut self, place: FiguresPlace, side: usize) {
        self.picoseconds.move_to(place.picoseconds, side);
        self.megabytes_per_second.move_to(place.megabytes_per_second, side);
        self.far_caches = Some(place.caches);
    }

    fn caches(&self) -> &[NodeCache] {
        self.far_caches.as_deref().unwrap_or(&self.near_caches)
    }

    fn caches_mut(&mut self) -> &mut [NodeCache] {
        self.far_caches.as_deref_mut().unwrap_or(&mut self.near_caches)
    }

    pub(super) fn latency(&self, initiator: NodeId, target: NodeId) -> Option<Picoseconds> {
        self.picoseconds.get(initiator, target).filter(|&figure| figure != 0).map(Picoseconds)
    }

    pub(super) fn bandwidth(&self, initiator: NodeId, target: NodeId) -> Option<MegabytesPerSecond> {
        let figure = self.megabytes_per_second.get(initiator, target);
        figure.filter(|&figure| figure != 0).map(MegabytesPerSecond)
    }

    pub(super) fn cache(&self, node: NodeId) -> Option<MemorySideCache> {
        self.caches().get(node.index()).filter(|known| known.is_known).map(|known| known.cache)
    }

    pub(super) fn set_latency(&mut self, initiator: NodeId, target: NodeId, figure: Picoseconds) {
        self.picoseconds.set(initiator, target, figure.0);
    }

    pub(super) fn set_bandwidth(&mut self, initiator: NodeId, target: NodeId, figure: MegabytesPerSecond) {
        self.megabytes_per_second.set(initiator, target, figure.0);
    }

    pub(super) fn set_cache(&mut self, node: NodeId, cache: MemorySideCache) {
        let known = NodeCache { is_known: true, cache };
        self.caches_mut().get_mut(node.index()).into_iter().for_each(|place| *place = known);
    }
}
