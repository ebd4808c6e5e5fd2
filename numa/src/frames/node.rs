//! What the allocator keeps per node: zones, distance order and counters.

use topomem_percpu::sync::atomic::{AtomicU64, Ordering};
use topomem_percpu::{MAX_NODES, NodeId};

use super::zeroed_pool::ZeroedPool;
use super::{Watermarks, Zone};

/// At most this many regions: one bit each in a [`RegionSet`].
pub(crate) const MAX_REGIONS: usize = 128;

/// A set of regions by number.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RegionSet(pub(crate) u128);

impl RegionSet {
    /// Members by number; numbers follow addresses.
    pub(crate) fn iter(self) -> impl DoubleEndedIterator<Item = usize> {
        (0..MAX_REGIONS).filter(move |&index| self.0 & (1 << index) != 0)
    }

    /// Members, cheaply: the highest address first.
    pub(crate) fn descending(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let index = 127_u32.checked_sub(left.leading_zeros())?;
            left &= !(1 << index);
            Some(index as usize)
        })
    }
}

/// One zone of one node. On a line of its own: CPUs of other nodes count here too.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct NodeZone {
    /// Free frames, but for what CPUs of the node have not reported yet (see
    /// [`super::magazine::Magazine::account`]). Wraps: a CPU may report frames freed before
    /// another reports them allocated.
    free: AtomicU64,
    pub(crate) managed: u64,
    pub(crate) watermarks: Watermarks,
    pub(crate) regions: RegionSet,
    /// May magazines of the node's CPUs hold its frames? Not the scarce lowest zone's, unless the
    /// node has no other.
    pub(crate) cached: bool,
}

impl NodeZone {
    pub(super) fn new(managed: u64, watermarks: Watermarks, regions: RegionSet) -> NodeZone {
        NodeZone { free: AtomicU64::new(managed), managed, watermarks, regions, cached: true }
    }

    /// Free frames as reported; a statistic, so Relaxed.
    pub(crate) fn free(&self) -> i64 {
        self.free.load(Ordering::Relaxed) as i64
    }

    /// Counts frames freed (or, negative, allocated). Relaxed: it orders nothing.
    pub(crate) fn add(&self, frames: i64) {
        self.free.fetch_add(frames as u64, Ordering::Relaxed);
    }
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// By [`Zone::index`].
    pub(crate) zones: [NodeZone; Zone::COUNT],
    /// Every node by distance, itself first; `count` of them.
    pub(super) nearest: [NodeId; MAX_NODES],
    pub(super) count: usize,
    /// Its share in weighted interleaving, at least 1.
    pub(crate) weight: u64,
    pub(crate) counters: NodeCounters,
    pub(crate) zeroed: ZeroedPool,
}

impl Node {
    /// Every node by distance, itself first.
    pub(crate) fn nearest(&self) -> &[NodeId] {
        &self.nearest[..self.count]
    }
}

/// Counted on shared paths only; statistics, so Relaxed.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct NodeCounters {
    local: AtomicU64,
    remote: AtomicU64,
    foreign: AtomicU64,
}

impl NodeCounters {
    pub(super) fn new() -> NodeCounters {
        NodeCounters { local: AtomicU64::new(0), remote: AtomicU64::new(0), foreign: AtomicU64::new(0) }
    }

    pub(crate) fn count_local(&self) {
        self.local.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_remote(&self) {
        self.remote.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_foreign(&self) {
        self.foreign.fetch_add(1, Ordering::Relaxed);
    }

    /// (local, remote, foreign)
    pub(crate) fn load(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.local), read(&self.remote), read(&self.foreign))
    }
}
