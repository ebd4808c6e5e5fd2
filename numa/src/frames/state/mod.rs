//! The structures built by [`Frames::init`](crate::frames::Frames::init), in memory taken from the boot memory.

mod account;
pub(super) mod directory;
pub(super) mod frame_table;
pub(super) mod plan;
mod reserve;
pub(super) mod waiters;

use topomem_percpu::{CpuId, NodeId};

use crate::frames::magazine::table::Place;
use crate::frames::magazine::{Checked, Magazine};
use crate::frames::node::turns::Turns;
use crate::frames::node::{Node, NodeZone};
use crate::frames::region::marks::AllocKind;
use crate::frames::region::transit::Transits;
use crate::frames::region::{BlockIndex, Region};
use crate::frames::types::{FrameNumber, Zeroing};
use directory::Directory;
use reserve::PressureNotes;

/// The built allocator: nodes, regions, and a magazine for each CPU of the topology.
#[derive(Debug)]
pub(crate) struct AllocatorState {
    /// By number.
    nodes: &'static [&'static Node],
    pub(super) directory: Directory,
    /// By node.
    pub(super) magazines: &'static [&'static [Magazine]],
    /// The far CPUs' places in the table of magazines.
    pub(super) far_places: &'static [Place],
    pub(super) cpu_nodes: CpuNodes,
    /// The turns of interleaving of offline CPUs. Online CPUs have turns in their magazines.
    turns: Turns,
    pub(super) pressure: PressureNotes,
    /// Whether every use leaves the quick path, to check marks or to zero frames.
    pub(super) checked: Checked,
    pub(super) zeroing: Zeroing,
    /// Requests for many frames at once: a failed request frees its frames again.
    pub(super) bulks: Transits,
    /// Bookkeeping: bytes taken from the boot memory.
    pub(super) metadata: Metadata,
}

/// The nodes of a CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuNode {
    /// The CPU's own node: nodes are searched by distance from the own node.
    pub(super) home: NodeId,
    /// The nearest node with memory.
    pub(super) serving: NodeId,
}

/// The nodes of each CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuNodes {
    /// By number, up to the greatest number of a CPU.
    pub(super) known: &'static [CpuNode],
    /// The nodes of CPUs not named by the boot memory.
    pub(super) unknown: CpuNode,
}

impl CpuNodes {
    #[inline]
    pub(super) fn of(&self, cpu: CpuId) -> CpuNode {
        self.known.get(cpu.index()).copied().unwrap_or(self.unknown)
    }
}

/// Bytes of bookkeeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Lines, block entries and chunks: proportional to memory.
    pub regions: u64,
    /// The per-frame table.
    pub table: u64,
    /// Paranoid mode's marks.
    pub marks: u64,
    /// Magazines.
    pub magazines: u64,
    /// Pools of zeroed frames.
    pub pools: u64,
    /// Parts for the machine, for each node and for each region: nodes, regions, the directory, pieces.
    pub fixed: u64,
}

/// The parts of an [`AllocatorState`].
pub(in crate::frames) struct Parts {
    /// By number, at least one.
    pub(in crate::frames) nodes: &'static [&'static Node],
    /// By node.
    pub(in crate::frames) magazines: &'static [&'static [Magazine]],
    /// The far CPUs' places in the table of magazines.
    pub(in crate::frames) far_places: &'static [Place],
    /// The nodes of each CPU of the topology.
    pub(in crate::frames) cpu_nodes: CpuNodes,
    pub(in crate::frames) directory: Directory,
    pub(in crate::frames) checked: Checked,
    pub(in crate::frames) zeroing: Zeroing,
    pub(in crate::frames) metadata: Metadata,
}

impl AllocatorState {
    /// Returns the region of a frame.
    #[inline]
    pub(crate) fn region_of(&self, frame: FrameNumber) -> Option<&'static Region> {
        self.directory.region_of(frame)
    }

    /// Creates the state from its parts.
    pub(in crate::frames) fn new(parts: Parts) -> AllocatorState {
        let Parts { nodes, magazines, far_places, cpu_nodes, directory, checked, zeroing, metadata } = parts;
        AllocatorState {
            nodes,
            directory,
            magazines,
            far_places,
            cpu_nodes,
            turns: Turns::new(),
            pressure: PressureNotes::new(),
            checked,
            zeroing,
            bulks: Transits::new(),
            metadata,
        }
    }

    pub(crate) fn node(&self, node: NodeId) -> Option<&'static Node> {
        self.nodes.get(node.index()).copied()
    }

    /// Returns every node, by number.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &'static Node> {
        self.nodes.iter().copied()
    }

    pub(crate) fn zone_of(&self, region: &Region) -> &'static NodeZone {
        // Building gave regions only existing nodes.
        &self.nodes[region.node.index()].zones[region.zone.index()]
    }

    /// Returns the nearest node with memory: see
    /// [`Frames::node_of_cpu`](crate::frames::Frames::node_of_cpu).
    pub(crate) fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.cpu_nodes.of(cpu).serving
    }

    /// Records in paranoid mode the allocation of the run from `first` on.
    #[inline]
    pub(super) fn record_alloc(&self, first: FrameNumber, kind: AllocKind) {
        if self.checked == Checked::EveryUse
            && let Some(region) = self.region_of(first)
        {
            region.marks.record_alloc(first - region.span.start, kind);
        }
    }

    /// Returns the magazine made for a CPU.
    pub(crate) fn magazine(&self, cpu: CpuId) -> Option<&'static Magazine> {
        let group = self.magazines[self.node_of_cpu(cpu).index()];
        group.iter().find(|magazine| magazine.cpu == cpu)
    }

    /// Returns the region and the index of the block from `frame` on.
    pub(crate) fn block_at(&self, frame: FrameNumber) -> Option<(&'static Region, BlockIndex)> {
        // An owned block is no edge block: the first frame of the block is in the region.
        let region = self.region_of(frame)?;
        Some((region, region.block_of(frame)))
    }
}
