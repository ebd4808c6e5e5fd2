//! The allocator's state per node: zones, distance order and counters.

pub(super) mod turns;
pub(super) mod zeroed_pool;

use topomem_percpu::NodeId;
use topomem_percpu::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::frames::region::Region;
use crate::frames::types::{Watermarks, Zone};
use zeroed_pool::ZeroedPool;

/// The maximum difference between a CPU's count of a zone and the shared count.
pub(crate) const UNREPORTED: i64 = 256;

/// The regions of one zone of a node, by address.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RegionSet(pub(super) &'static [Region]);

impl RegionSet {
    /// Returns the members, the lowest address first.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'static Region> {
        self.0.iter()
    }

    /// Returns the members, the highest address first.
    pub(crate) fn descending(self) -> impl Iterator<Item = &'static Region> {
        self.0.iter().rev()
    }
}

/// A zone of a node. On a separate cache line: CPUs of other nodes count here, too.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct NodeZone {
    /// Free frames, without the unreported changes of the node's CPUs (see
    /// [`crate::frames::magazine::Magazine::account`]). Wraps: a CPU may report frames freed before another
    /// CPU reports the same frames allocated.
    free: AtomicU64,
    pub(crate) managed: u64,
    pub(crate) watermarks: Watermarks,
    /// If the zone reports this many free frames beyond the frames of a request, no watermark is near: the changes
    /// that CPUs have not reported yet are included.
    pub(super) ample: i64,
    /// The same for a refill of a magazine with a word.
    pub(super) ample_to_refill: i64,
    /// An allocation that leaves less notes that the node is under pressure: `low`, or less after a reclaim that
    /// freed nothing.
    pub(super) alarm: AtomicU64,
    /// Requests refused for the reserve's sake since a reclaim last freed something.
    pub(super) refusals: AtomicU32,
    pub(crate) regions: RegionSet,
    /// Whether magazines of the node's CPUs may hold frames of the zone. False for the scarce lowest zone,
    /// unless the node has no further zone.
    pub(crate) cached: bool,
}

impl NodeZone {
    /// Creates a zone of a node with `magazines` magazines.
    pub(super) fn new(
        managed: u64,
        watermarks: Watermarks,
        regions: RegionSet,
        magazines: usize,
    ) -> NodeZone {
        let ample = |refills: i64| match watermarks {
            Watermarks::NONE => i64::MIN,
            Watermarks { min, low, high: _ } => {
                min.max(low) as i64 + (UNREPORTED + refills) * magazines as i64
            }
        };
        NodeZone {
            free: AtomicU64::new(managed),
            managed,
            watermarks,
            ample: ample(0),
            ample_to_refill: ample(64),
            alarm: AtomicU64::new(watermarks.low),
            refusals: AtomicU32::new(0),
            regions,
            cached: true,
        }
    }

    /// Returns the free frames as reported. Relaxed: a statistic.
    pub(crate) fn free(&self) -> i64 {
        self.free.load(Ordering::Relaxed) as i64
    }

    /// Counts frames freed (or, negative, allocated). Relaxed: the count orders nothing.
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
    /// Every node by distance, the node itself first.
    pub(super) nearest: &'static [NodeId],
    /// The node's share in weighted interleaving, at least 1.
    pub(crate) weight: u64,
    pub(crate) counters: NodeCounters,
    pub(crate) zeroed: ZeroedPool,
}

impl Node {
    /// Returns true if the allocator manages any frame of the node.
    pub(crate) fn has_memory(&self) -> bool {
        self.zones.iter().any(|zone| zone.managed > 0)
    }

    /// Returns every node by distance, the node itself first.
    pub(crate) fn nearest(&self) -> &[NodeId] {
        self.nearest
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

    /// Returns the counts (local, remote, foreign).
    pub(crate) fn load(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.local), read(&self.remote), read(&self.foreign))
    }
}
