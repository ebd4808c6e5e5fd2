//! The description of a simulated machine: nodes, their CPUs and ranges, and the distances.

use core::fmt;
use core::ops::Range;
use std::vec::Vec;

use topomem_numa::frames::ZoneWatermarks;
use topomem_percpu::{CpuId, MAX_CPUS, MAX_NODES, NodeId};
use topomem_shootdown::TlbFeatures;

use crate::PagingFeatures;

/// One node of a [`Blueprint`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its CPUs; none makes a memory-only node.
    pub cpus: Vec<CpuId>,
    /// Its RAM as physical byte ranges on frame boundaries; none makes a memoryless node.
    pub ranges: Vec<Range<u64>>,
}

impl Node {
    /// How much RAM it has, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }
}

/// What a simulated machine consists of. [`Builder`](crate::sim::Builder) makes the usual ones; any
/// other can be put together by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blueprint {
    /// The nodes; a node's number is its index and its proximity domain.
    pub nodes: Vec<Node>,
    /// Row `from`, column `to`; 10 is local, 255 unreachable, as in the SLIT.
    pub distances: Vec<Vec<u8>>,
    /// What its TLBs offer.
    pub tlb: TlbFeatures,
    /// What its page walkers offer.
    pub paging: PagingFeatures,
    /// What a service on it spares of each zone ([`Sim::boot_service`](crate::sim::Sim::boot_service)).
    pub watermarks: ZoneWatermarks,
}

impl Blueprint {
    /// How many CPUs it has.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.nodes.iter().map(|node| node.cpus.len()).sum()
    }

    /// The node of `cpu`, if the machine has that CPU.
    #[must_use]
    pub fn node_of(&self, cpu: CpuId) -> Option<NodeId> {
        NodeId::new(self.nodes.iter().position(|node| node.cpus.contains(&cpu))?)
    }

    /// From the lowest to the highest RAM address, holes included.
    #[must_use]
    pub fn span(&self) -> Range<u64> {
        let ranges = || self.nodes.iter().flat_map(|node| &node.ranges);
        let start = ranges().map(|range| range.start).min().unwrap_or(0);
        let end = ranges().map(|range| range.end).max().unwrap_or(0);
        start..end
    }

    /// Is it a machine that can exist?
    ///
    /// # Errors
    ///
    /// [`BlueprintError`] names the first thing that is wrong.
    pub fn check(&self) -> Result<(), BlueprintError> {
        let count = self.nodes.len();
        if count == 0 || count > MAX_NODES {
            return Err(BlueprintError::Nodes(count));
        }
        let cpus = self.cpus();
        if cpus == 0 || cpus > MAX_CPUS {
            return Err(BlueprintError::Cpus(cpus));
        }
        for index in 0..cpus {
            let owners = |node: &Node| node.cpus.iter().filter(|cpu| cpu.index() == index).count();
            if self.nodes.iter().map(owners).sum::<usize>() != 1 {
                return Err(BlueprintError::CpuNumber(index));
            }
        }
        self.check_ranges()?;
        self.check_distances()
    }

    fn check_ranges(&self) -> Result<(), BlueprintError> {
        let mut ranges: Vec<Range<u64>> = self.nodes.iter().flat_map(|node| node.ranges.clone()).collect();
        ranges.sort_by_key(|range| range.start);
        if ranges.is_empty() {
            return Err(BlueprintError::NoMemory);
        }
        let mut end = 0;
        for range in ranges {
            let aligned = range.start % 4096 == 0 && range.end % 4096 == 0;
            if !aligned || range.start < end || range.end <= range.start || range.end >= 1 << 52 {
                return Err(BlueprintError::Range(range));
            }
            end = range.end;
        }
        Ok(())
    }

    fn check_distances(&self) -> Result<(), BlueprintError> {
        let count = self.nodes.len();
        if self.distances.len() != count || self.distances.iter().any(|row| row.len() != count) {
            return Err(BlueprintError::DistanceMatrix);
        }
        for (from, row) in self.distances.iter().enumerate() {
            for (to, &distance) in row.iter().enumerate() {
                if (from == to) != (distance == 10) || distance < 10 {
                    return Err(BlueprintError::Distance { from, to, distance });
                }
            }
        }
        Ok(())
    }
}

/// Why a [`Blueprint`] cannot exist.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlueprintError {
    /// That many nodes: none, or more than [`MAX_NODES`].
    Nodes(usize),
    /// That many CPUs: none, or more than [`MAX_CPUS`].
    Cpus(usize),
    /// CPUs are numbered from 0 without gaps, each on one node; this number is not.
    CpuNumber(usize),
    /// No node has RAM.
    NoMemory,
    /// A range is empty, not on frame boundaries, beyond 52 bits, or overlaps another.
    Range(Range<u64>),
    /// The matrix is not square, a row and a column for each node.
    DistanceMatrix,
    /// A node is 10 from itself and farther from every other.
    Distance {
        /// The row.
        from: usize,
        /// The column.
        to: usize,
        /// What it says.
        distance: u8,
    },
    /// A setting names a node that the machine lacks.
    NoSuchNode(usize),
    /// The host cannot reserve that many bytes of address space.
    HostMemory(u64),
}

impl fmt::Display for BlueprintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlueprintError::Nodes(count) => write!(f, "{count} nodes: 1 to {MAX_NODES} are possible"),
            BlueprintError::Cpus(count) => write!(f, "{count} CPUs: 1 to {MAX_CPUS} are possible"),
            BlueprintError::CpuNumber(cpu) => write!(f, "cpu{cpu} is not on exactly one node"),
            BlueprintError::NoMemory => f.write_str("no node has memory"),
            BlueprintError::Range(range) => write!(
                f,
                "range {:#x}..{:#x} is empty, unaligned, too high or overlaps another",
                range.start, range.end
            ),
            BlueprintError::DistanceMatrix => f.write_str("the distance matrix is not nodes by nodes"),
            BlueprintError::Distance { from, to, distance } => {
                write!(
                    f,
                    "node{from} to node{to}: distance {distance} (a node is 10 from itself, others are farther)"
                )
            }
            BlueprintError::NoSuchNode(node) => write!(f, "there is no node{node}"),
            BlueprintError::HostMemory(bytes) => write!(f, "the host cannot reserve {bytes} bytes"),
        }
    }
}

impl std::error::Error for BlueprintError {}
