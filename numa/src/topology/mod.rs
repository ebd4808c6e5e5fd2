//! The machine's nodes: the CPUs and the memory of each, and their distances.

mod costs;
mod discover;
mod display;
mod order;
mod performance;
mod ranges;
mod report;
mod room;
mod square;
mod units;
mod windows;

use topomem_percpu::{CpuId, CpuSet, NodeId, PhysAddr};

use crate::MemoryRange;
use crate::list::List;

use order::NearestNodes;
use performance::Performance;
pub use performance::{CacheAssociativity, CacheWritePolicy, MemorySideCache};
use ranges::RangeList;
pub use ranges::{MemoryKind, NodeRange};
use square::Square;
pub use units::{ApicId, Distance, MegabytesPerSecond, Picoseconds};

/// The number of CPUs that a topology describes without memory of the kernel's.
const BUILT_IN_CPUS: usize = if cfg!(any(loom, miri)) { 4 } else { 64 };

/// A CPU reported as enabled by firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuEntry {
    /// Its dense number; the boot CPU is [`CpuId::BOOT`].
    pub cpu: CpuId,
    /// The number for interrupts to it.
    pub apic_id: ApicId,
    /// The CPU's node.
    pub node: NodeId,
}

/// Nodes, CPUs, memory ranges, distances: the description of the machine for the rest of topomem.
///
/// No heap, and about 3 KiB, all zero at first: meant for a `static` in `.bss`, filled in place by
/// [`Topology::discover`], with room for 8 nodes, 64 CPUs and 32 ranges of memory. [`Topology::discover_in`] takes memory
/// for what a larger machine needs beyond. Before either it is a machine of one node with all memory and no known CPU.
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
    /// Firmware's number of each node, ascending except the invented numbers of CXL windows.
    proximity: List<u32, { square::BUILT_IN }>,
    /// `cpus[i].cpu` is `i`.
    cpus: List<CpuEntry, BUILT_IN_CPUS>,
    /// [`Distance::NONE`] where no table says one.
    distances: Square<Distance>,
    nearest: NearestNodes,
    ranges: RangeList,
    /// Whether an SRAT assigns memory to nodes.
    has_affinities: bool,
    performance: Performance,
    /// The number of nodes that have room beyond those built in; 0 if there is no such room.
    far_nodes: usize,
}

// Small enough for a static of any kernel.
const _: () = assert!(size_of::<Topology>() <= 4 << 10);

impl Topology {
    /// Creates a topology of one node with all memory, and no known CPU.
    #[must_use]
    pub const fn new() -> Topology {
        Topology {
            proximity: List::new(),
            cpus: List::new(),
            distances: Square::new(Distance::NONE),
            nearest: NearestNodes::new(),
            ranges: RangeList::new(),
            has_affinities: false,
            performance: Performance::new(),
            far_nodes: 0,
        }
    }

    /// Returns the number of nodes, at least 1; they are numbered from 0.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.proximity.len().max(1)
    }

    /// Returns the nodes, in order of number.
    ///
    /// ```
    /// use topomem_numa::{NodeId, Topology};
    ///
    /// assert!(Topology::new().nodes().eq([NodeId::ZERO]));
    /// ```
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.node_count()).filter_map(NodeId::new)
    }

    /// Returns firmware's proximity domain of `node`. A CXL window without a domain has an invented
    /// one, which no table names; a missing node has 0.
    #[must_use]
    pub fn proximity(&self, node: NodeId) -> u32 {
        self.proximity.get(node.index()).copied().unwrap_or(0)
    }

    /// Returns the node of a proximity domain.
    #[must_use]
    pub fn node_of_proximity(&self, proximity: u32) -> Option<NodeId> {
        let found = self.proximity.binary_search(&proximity).ok();
        // CXL windows' numbers come last, in whichever order.
        found.or_else(|| self.proximity.iter().position(|&known| known == proximity)).and_then(NodeId::new)
    }

    /// Returns the enabled CPUs in order of number; the boot CPU is first.
    #[must_use]
    pub fn cpus(&self) -> &[CpuEntry] {
        &self.cpus
    }

    /// Returns the CPU with the interrupt number `apic_id`. Cost: linear in the CPUs.
    ///
    /// ```
    /// use topomem_numa::{ApicId, CpuId, FirmwareTables, Topology};
    ///
    /// let mut topology = Box::new(Topology::new());
    /// topology.discover(&FirmwareTables::default(), ApicId(3), &mut |_| {});
    /// assert_eq!(topology.cpu_of_apic(ApicId(3)), Some(CpuId::BOOT));
    /// assert_eq!(topology.cpu_of_apic(ApicId(4)), None);
    /// ```
    #[must_use]
    pub fn cpu_of_apic(&self, apic_id: ApicId) -> Option<CpuId> {
        self.cpus.iter().find(|entry| entry.apic_id == apic_id).map(|entry| entry.cpu)
    }

    /// Returns the node of `cpu`; node 0 for a missing CPU.
    #[must_use]
    pub fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.cpus.get(cpu.index()).map_or(NodeId::ZERO, |entry| entry.node)
    }

    /// Returns the CPUs of `node`; none for a memory-only node. Cost: linear in the CPUs.
    #[must_use]
    pub fn cpus_of(&self, node: NodeId) -> CpuSet {
        self.cpus.iter().filter(|entry| entry.node == node).map(|entry| entry.cpu).collect()
    }

    /// Returns the distance from the CPUs of `from` to the memory of `to`; not always symmetric.
    ///
    /// ```
    /// use topomem_numa::{Distance, NodeId, Topology};
    ///
    /// assert_eq!(Topology::new().distance(NodeId::ZERO, NodeId::ZERO), Distance::LOCAL);
    /// ```
    #[must_use]
    pub fn distance(&self, from: NodeId, to: NodeId) -> Distance {
        let default = if from == to { Distance::LOCAL } else { Distance::REMOTE };
        self.distances.get(from, to).filter(|&known| known != Distance::NONE).unwrap_or(default)
    }

    /// Returns all nodes in the order in which memory is taken from them for `node`: itself, then
    /// by distance, then by latency if the HMAT gives one, then by number. Nodes called unreachable
    /// by the SLIT come last: firmware that does so for working memory is more common than memory
    /// without a path. Precomputed.
    ///
    /// ```
    /// use topomem_numa::{NodeId, Topology};
    ///
    /// let topology = Topology::new();
    /// assert_eq!(topology.nearest(NodeId::ZERO).first(), Some(&NodeId::ZERO)); // itself first
    /// ```
    #[must_use]
    pub fn nearest(&self, node: NodeId) -> &[NodeId] {
        self.nearest.of(node)
    }

    /// Returns all ranges that firmware assigns to a node, sorted and disjoint. They assign
    /// *possible* memory to nodes; the memory map tells the RAM in it.
    #[must_use]
    pub fn memory_ranges(&self) -> &[NodeRange] {
        self.ranges.as_slice()
    }

    /// Returns the node of the memory at `addr`. A hole between two ranges of one node belongs to
    /// that node; node 0 has everything else without a node. Cost: logarithmic in the ranges.
    ///
    /// ```
    /// use topomem_numa::{NodeId, Topology};
    /// use topomem_numa::PhysAddr;
    ///
    /// assert_eq!(Topology::new().node_of_addr(PhysAddr::new(1 << 30)), NodeId::ZERO);
    /// ```
    #[must_use]
    pub fn node_of_addr(&self, addr: PhysAddr) -> NodeId {
        self.ranges.span_at(addr).0
    }

    /// Returns the node of the boot RAM at `addr`, and the next address at which it may change.
    /// Without an SRAT all of it is node 0's: CXL windows are for memory plugged in later.
    pub(crate) fn boot_span_at(&self, addr: PhysAddr) -> (NodeId, PhysAddr) {
        if !self.has_affinities {
            return (NodeId::ZERO, MemoryRange::EVERYTHING.end);
        }
        self.ranges.span_at(addr)
    }

    /// Returns the read latency from `initiator`'s CPUs to `target`'s memory, if the HMAT gives
    /// one.
    ///
    /// ```
    /// use topomem_numa::{NodeId, Topology};
    ///
    /// assert_eq!(Topology::new().latency(NodeId::ZERO, NodeId::ZERO), None); // there is no HMAT
    /// ```
    #[must_use]
    pub fn latency(&self, initiator: NodeId, target: NodeId) -> Option<Picoseconds> {
        self.performance.latency(initiator, target)
    }

    /// Returns the read bandwidth from `initiator`'s CPUs to `target`'s memory, if the HMAT gives
    /// one.
    #[must_use]
    pub fn bandwidth(&self, initiator: NodeId, target: NodeId) -> Option<MegabytesPerSecond> {
        self.performance.bandwidth(initiator, target)
    }

    /// Returns the cache in front of `node`'s memory nearest to the CPUs, if the HMAT gives one.
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
