//! The machine to boot: nodes, their CPUs and memory, distances, and what the firmware tells about them.

use super::error::SpecError;
use super::size::Size;

/// Number of a node, as QEMU and the firmware tables (proximity domain) count it.
pub(crate) type NodeIndex = usize;

/// What the reference kernel starts.
pub(crate) const MAX_CPUS: u32 = 1024;
/// An xAPIC message can name no more: 255 means all.
pub(crate) const MAX_XAPIC_CPUS: u32 = 255;
/// What QEMU supports.
pub(crate) const MAX_NODES: usize = 128;
/// Distance of a node to itself, by the ACPI specification.
pub(crate) const LOCAL_DISTANCE: u8 = 10;
/// Distance between two nodes that nobody gave one.
pub(crate) const DEFAULT_DISTANCE: u8 = 20;

/// A machine. [`TopologySpec::validate`] has been called on every value that leaves this module's siblings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TopologySpec {
    pub(crate) name: String,
    pub(crate) machine: String,
    /// QEMU's `-cpu`; the accelerator's best when not given.
    pub(crate) cpu: Option<String>,
    pub(crate) nodes: Vec<NodeSpec>,
    /// `distances[from][to]`; square.
    pub(crate) distances: Vec<Vec<u8>>,
    pub(crate) hmat: Option<Hmat>,
    pub(crate) hotplug: Option<Hotplug>,
    pub(crate) cxl: Vec<CxlWindow>,
}

/// One node: a proximity domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeSpec {
    pub(crate) cpus: Vec<u32>,
    /// The node's pieces of memory; none for a memoryless node. Where a node has several, pieces lie in
    /// physical memory in turn: the first of each node, then the second of each, and so on.
    pub(crate) memory: Vec<Size>,
    /// HMAT: the node whose CPUs reach this memory best. Its own when it has CPUs.
    pub(crate) initiator: Option<NodeIndex>,
}

/// Memory that can be plugged in while the machine runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hotplug {
    pub(crate) maximum: Size,
    pub(crate) slots: u32,
    /// Plugged in from the start.
    pub(crate) dimms: Vec<Dimm>,
}

/// One plugged module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dimm {
    pub(crate) node: NodeIndex,
    pub(crate) size: Size,
}

/// The Heterogeneous Memory Attribute Table's contents.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Hmat {
    pub(crate) latency: Vec<HmatLatency>,
    pub(crate) bandwidth: Vec<HmatBandwidth>,
    pub(crate) caches: Vec<MemorySideCache>,
}

/// Access latency from one node's CPUs to another node's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HmatLatency {
    pub(crate) initiator: NodeIndex,
    pub(crate) target: NodeIndex,
    pub(crate) nanoseconds: u32,
}

/// Access bandwidth from one node's CPUs to another node's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HmatBandwidth {
    pub(crate) initiator: NodeIndex,
    pub(crate) target: NodeIndex,
    pub(crate) megabytes_per_second: u32,
}

/// A cache in front of one node's memory: direct mapped, write-back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MemorySideCache {
    pub(crate) node: NodeIndex,
    pub(crate) size: Size,
    pub(crate) level: u8,
    pub(crate) line: u16,
}

/// A fixed memory window of a CXL host bridge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CxlWindow {
    pub(crate) size: Size,
}

impl TopologySpec {
    /// Number of CPUs, all nodes together.
    pub(crate) fn cpu_count(&self) -> u32 {
        self.nodes.iter().map(|node| node.cpus.len() as u32).sum()
    }

    /// Memory at boot, all nodes together, hot-pluggable modules aside.
    pub(crate) fn memory(&self) -> Size {
        self.nodes.iter().flat_map(|node| node.memory.iter().copied()).sum()
    }

    /// A machine with one node has no NUMA tables, as real ones have none.
    pub(crate) fn has_numa_tables(&self) -> bool {
        self.nodes.len() > 1 || self.hmat.is_some() || self.hotplug.is_some()
    }

    /// Does some node have several pieces of memory? QEMU can't say that by its own options.
    pub(crate) fn is_interleaved(&self) -> bool {
        self.nodes.iter().any(|node| node.memory.len() > 1)
    }

    /// The pieces of memory in the order of their physical addresses.
    pub(crate) fn pieces(&self) -> Vec<(NodeIndex, Size)> {
        let rounds = self.nodes.iter().map(|node| node.memory.len()).max().unwrap_or(0);
        let turn = |round: usize| {
            self.nodes
                .iter()
                .enumerate()
                .filter_map(move |(index, node)| Some((index, *node.memory.get(round)?)))
        };
        (0..rounds).flat_map(turn).collect()
    }

    /// Distances between `nodes` nodes that nobody said anything about.
    pub(crate) fn default_distances(nodes: usize) -> Vec<Vec<u8>> {
        let distance = |from, to| if from == to { LOCAL_DISTANCE } else { DEFAULT_DISTANCE };
        (0..nodes).map(|from| (0..nodes).map(|to| distance(from, to)).collect()).collect()
    }

    /// Checks everything that QEMU or the kernel would refuse, with a better message.
    pub(crate) fn validate(&self) -> Result<(), SpecError> {
        self.validate_nodes()?;
        self.validate_cpus()?;
        self.validate_distances()?;
        self.validate_hotplug()?;
        self.validate_hmat()?;
        match self
            .cxl
            .iter()
            .find(|window| window.size.is_zero() || !window.size.is_multiple_of(256 * Size::MIB))
        {
            Some(window) => Err(SpecError::CxlWindowSize(window.size)),
            None => Ok(()),
        }
    }

    fn validate_nodes(&self) -> Result<(), SpecError> {
        if self.nodes.is_empty() || self.nodes.len() > MAX_NODES {
            return Err(SpecError::NodeCount(self.nodes.len()));
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if node.cpus.is_empty() && node.memory.is_empty() {
                return Err(SpecError::EmptyNode(index));
            }
            if let Some(size) =
                node.memory.iter().find(|size| size.is_zero() || !size.is_multiple_of(Size::MIB))
            {
                return Err(SpecError::Unaligned { node: index, size: *size });
            }
        }
        match self.memory() {
            memory if memory < Size::from_mib(64) => Err(SpecError::TooLittleMemory(memory)),
            _ => Ok(()),
        }
    }

    fn validate_cpus(&self) -> Result<(), SpecError> {
        let count = self.cpu_count();
        if count == 0 || count > MAX_CPUS {
            return Err(SpecError::CpuCount(count));
        }
        let mut owner = vec![None; count as usize];
        for (index, node) in self.nodes.iter().enumerate() {
            for &cpu in &node.cpus {
                match owner.get_mut(cpu as usize) {
                    None => return Err(SpecError::CpuNumber { node: index, cpu, count }),
                    Some(Some(first)) => {
                        return Err(SpecError::CpuTwice { cpu, first: *first, second: index });
                    }
                    Some(free) => *free = Some(index),
                }
            }
        }
        Ok(())
    }

    fn validate_distances(&self) -> Result<(), SpecError> {
        let count = self.nodes.len();
        if self.distances.len() != count || self.distances.iter().any(|row| row.len() != count) {
            return Err(SpecError::DistanceMatrix { nodes: count });
        }
        for (from, row) in self.distances.iter().enumerate() {
            for (to, &distance) in row.iter().enumerate() {
                if (from == to) != (distance == LOCAL_DISTANCE) || distance < LOCAL_DISTANCE {
                    return Err(SpecError::Distance { from, to, distance });
                }
            }
        }
        Ok(())
    }

    fn validate_hotplug(&self) -> Result<(), SpecError> {
        let Some(hotplug) = &self.hotplug else { return Ok(()) };
        if self.is_interleaved() {
            return Err(SpecError::InterleavedWith("hotplug"));
        }
        if hotplug.dimms.len() > hotplug.slots as usize {
            return Err(SpecError::Slots { slots: hotplug.slots, dimms: hotplug.dimms.len() });
        }
        for dimm in &hotplug.dimms {
            self.known_node(dimm.node)?;
            if dimm.size.is_zero() || !dimm.size.is_multiple_of(128 * Size::MIB) {
                return Err(SpecError::DimmSize(dimm.size));
            }
        }
        let needed = [self.memory()].into_iter().chain(hotplug.dimms.iter().map(|dimm| dimm.size)).sum();
        if hotplug.maximum < needed {
            return Err(SpecError::MaximumMemory { maximum: hotplug.maximum, needed });
        }
        Ok(())
    }

    fn validate_hmat(&self) -> Result<(), SpecError> {
        let Some(hmat) = &self.hmat else { return Ok(()) };
        if self.is_interleaved() {
            return Err(SpecError::InterleavedWith("hmat"));
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let initiator = node.initiator.unwrap_or(index);
            if self.nodes.get(initiator).is_none_or(|node| node.cpus.is_empty()) {
                return Err(SpecError::Initiator { node: index, initiator });
            }
        }
        let latency = hmat.latency.iter().map(|entry| (entry.initiator, entry.target));
        let bandwidth = hmat.bandwidth.iter().map(|entry| (entry.initiator, entry.target));
        for (initiator, target) in latency.chain(bandwidth) {
            self.known_node(target)?;
            if self.nodes.get(initiator).is_none_or(|node| node.cpus.is_empty()) {
                return Err(SpecError::Initiator { node: target, initiator });
            }
        }
        for cache in &hmat.caches {
            self.known_node(cache.node)?;
            let has_latency = hmat.latency.iter().any(|entry| entry.target == cache.node);
            let has_bandwidth = hmat.bandwidth.iter().any(|entry| entry.target == cache.node);
            if !has_latency || !has_bandwidth {
                return Err(SpecError::CacheWithoutAccess(cache.node));
            }
        }
        Ok(())
    }

    fn known_node(&self, node: NodeIndex) -> Result<(), SpecError> {
        if node < self.nodes.len() {
            Ok(())
        } else {
            Err(SpecError::UnknownNode { node, nodes: self.nodes.len() })
        }
    }
}
