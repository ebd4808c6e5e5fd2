//! The machine's nodes: which CPUs and which memory belong together, and how far apart they are.

mod costs;
mod discover;
mod display;
mod order;
mod performance;
mod ranges;
mod report;
mod units;
mod windows;

use arrayvec::ArrayVec;
use topomem_percpu::{CpuId, CpuSet, MAX_CPUS, MAX_NODES, NodeId};
use x86_64::PhysAddr;

use crate::MemoryRange;

use order::NearestNodes;
use performance::Performance;
pub use performance::{CacheAssociativity, CacheWritePolicy, MemorySideCache};
use ranges::RangeList;
pub use ranges::{MemoryKind, NodeRange};
pub use units::{ApicId, Distance, MegabytesPerSecond, Picoseconds};

/// A CPU that firmware reports as enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuEntry {
    /// Its dense number; the boot CPU is [`CpuId::BOOT`].
    pub cpu: CpuId,
    /// How interrupts reach it.
    pub apic_id: ApicId,
    /// Where it is.
    pub node: NodeId,
}

/// Nodes, CPUs, memory ranges, distances: what the rest of topomem asks about the machine.
///
/// Fixed size (about 62 KiB), no heap: meant for a `static`, filled in place by
/// [`Topology::discover`]. Before that it is a machine of one node that has all memory and no
/// known CPU.
///
/// ```
/// use topomem_numa::{Distance, NodeId, Topology};
///
/// let topology = Topology::new();
/// assert_eq!(topology.node_count(), 1);
/// assert_eq!(topology.nearest(NodeId::ZERO), [NodeId::ZERO]);
/// assert_eq!(topology.distance(NodeId::ZERO, NodeId::ZERO), Distance::LOCAL);
/// ```
#[derive(Debug)]
pub struct Topology {
    /// Firmware's number of each node, ascending but for CXL windows' invented ones.
    proximity: ArrayVec<u32, MAX_NODES>,
    /// `cpus[i].cpu` is `i`.
    cpus: ArrayVec<CpuEntry, MAX_CPUS>,
    cpus_of: [CpuSet; MAX_NODES],
    distances: [[Distance; MAX_NODES]; MAX_NODES],
    nearest: NearestNodes,
    ranges: RangeList,
    /// Does an SRAT say whose memory is where?
    has_affinities: bool,
    performance: Performance,
}

// Small enough for a static of any kernel, too large for its stacks.
const _: () = assert!(size_of::<Topology>() <= 64 << 10);

impl Topology {
    /// One node that has all memory, and no known CPU.
    #[must_use]
    pub const fn new() -> Topology {
        let mut distances = [[Distance::REMOTE; MAX_NODES]; MAX_NODES];
        let mut node = 0;
        while node < MAX_NODES {
            distances[node][node] = Distance::LOCAL;
            node += 1;
        }
        Topology {
            proximity: ArrayVec::new_const(),
            cpus: ArrayVec::new_const(),
            cpus_of: [CpuSet::EMPTY; MAX_NODES],
            distances,
            nearest: NearestNodes::new(),
            ranges: RangeList::new(),
            has_affinities: false,
            performance: Performance::new(),
        }
    }

    /// How many nodes there are, at least 1; they are numbered from 0.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.proximity.len().max(1)
    }

    /// The nodes, in order of number.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.node_count()).filter_map(NodeId::new)
    }

    /// Firmware's proximity domain of `node`. A CXL window that no domain claims has an invented
    /// one, which no table names; 0 for a node that is not there.
    #[must_use]
    pub fn proximity(&self, node: NodeId) -> u32 {
        self.proximity.get(node.index()).copied().unwrap_or(0)
    }

    /// The node of a proximity domain.
    #[must_use]
    pub fn node_of_proximity(&self, proximity: u32) -> Option<NodeId> {
        self.proximity.iter().position(|&known| known == proximity).and_then(NodeId::new)
    }

    /// The enabled CPUs in order of number; the boot CPU is first.
    #[must_use]
    pub fn cpus(&self) -> &[CpuEntry] {
        &self.cpus
    }

    /// The CPU that interrupts reach as `apic_id`. Cost: linear in the CPUs.
    #[must_use]
    pub fn cpu_of_apic(&self, apic_id: ApicId) -> Option<CpuId> {
        self.cpus.iter().find(|entry| entry.apic_id == apic_id).map(|entry| entry.cpu)
    }

    /// Where `cpu` is; node 0 for a CPU that is not there.
    #[must_use]
    pub fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.cpus.get(cpu.index()).map_or(NodeId::ZERO, |entry| entry.node)
    }

    /// The CPUs of `node`; none for a memory-only node.
    #[must_use]
    pub fn cpus_of(&self, node: NodeId) -> CpuSet {
        self.cpus_of[node.index()]
    }

    /// How far the memory of `to` is from the CPUs of `from`; not always symmetric.
    #[must_use]
    pub fn distance(&self, from: NodeId, to: NodeId) -> Distance {
        self.distances[from.index()][to.index()]
    }

    /// All nodes in the order in which memory is taken from them for `node`: itself, then by
    /// distance, then by latency where the HMAT gives one, then by number. Nodes that the SLIT calls
    /// unreachable come last: firmware that says so of memory which works is more common than
    /// memory without a path. Precomputed.
    #[must_use]
    pub fn nearest(&self, node: NodeId) -> &[NodeId] {
        self.nearest.of(node)
    }

    /// All ranges that firmware gives a node, sorted and disjoint. They say whose memory *would*
    /// be there: what of it is RAM is the memory map's to say.
    #[must_use]
    pub fn memory_ranges(&self) -> &[NodeRange] {
        self.ranges.as_slice()
    }

    /// Whose memory is at `addr`. A hole between two ranges of one node is that node's; node 0 has
    /// everything else that firmware gives to none.
    /// Cost: logarithmic in the ranges.
    #[must_use]
    pub fn node_of_addr(&self, addr: PhysAddr) -> NodeId {
        self.ranges.span_at(addr).0
    }

    /// Whose RAM is at `addr` at boot, and where that may change next. Without an SRAT all of it is node
    /// 0's: CXL windows are for memory that is plugged in later.
    pub(crate) fn boot_span_at(&self, addr: PhysAddr) -> (NodeId, PhysAddr) {
        if !self.has_affinities {
            return (NodeId::ZERO, MemoryRange::EVERYTHING.end);
        }
        self.ranges.span_at(addr)
    }

    /// How long a read by `initiator`'s CPUs from `target`'s memory takes, where the HMAT says.
    #[must_use]
    pub fn latency(&self, initiator: NodeId, target: NodeId) -> Option<Picoseconds> {
        self.performance.latency(initiator, target)
    }

    /// How fast `initiator`'s CPUs read from `target`'s memory, where the HMAT says.
    #[must_use]
    pub fn bandwidth(&self, initiator: NodeId, target: NodeId) -> Option<MegabytesPerSecond> {
        self.performance.bandwidth(initiator, target)
    }

    /// The cache in front of `node`'s memory that is nearest to the CPUs, where the HMAT says.
    #[must_use]
    pub fn memory_side_cache(&self, node: NodeId) -> Option<MemorySideCache> {
        self.performance.cache(node)
    }
}

impl Default for Topology {
    fn default() -> Topology {
        Topology::new()
    }
}
