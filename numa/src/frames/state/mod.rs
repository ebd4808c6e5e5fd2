//! The structures built by [`Frames::init`](crate::frames::Frames::init), in memory that it takes itself.

pub(super) mod directory;
pub(super) mod frame_table;
pub(super) mod waiters;

use topomem_percpu::{CpuId, MAX_NODES, NodeId};

use crate::frames::build::draft::Draft;
use crate::frames::magazine::table::MagazineTable;
use crate::frames::magazine::{Checked, Magazine};
use crate::frames::maintenance::pressure::PressureNotes;
use crate::frames::node::turns::Turns;
use crate::frames::node::{Node, NodeZone};
use crate::frames::region::marks::Given;
use crate::frames::region::transit::Transits;
use crate::frames::region::{BlockIndex, Region};
use crate::frames::types::{FrameRequest, InvalidRequest, NodeSet, Policy, Zeroing, Zone};
use directory::Directory;

/// The allocator's memory: nodes, regions, and a magazine for each CPU that may come online.
#[derive(Debug)]
pub(crate) struct Machine {
    /// By number; the first `node_count` entries count, and the entries behind repeat the first.
    nodes: [&'static Node; MAX_NODES],
    node_count: usize,
    pub(super) directory: Directory,
    /// By node.
    pub(super) magazines: [&'static [Magazine]; MAX_NODES],
    pub(super) cpu_nodes: CpuNodes,
    /// The turns of interleaving of CPUs that are offline. Others have their own in their magazines.
    turns: Turns,
    pub(super) pressure: PressureNotes,
    /// Does every use leave the quick path, for a look at marks or for zeroing?
    pub(super) checked: Checked,
    pub(super) zeroing: Zeroing,
    /// Requests for many frames at once, which may free their frames again.
    pub(super) bulks: Transits,
    /// Bookkeeping: bytes taken from the ground.
    pub(super) metadata: Metadata,
}

/// The nodes of a CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuNode {
    /// The CPU's own node: other nodes are searched by their distance from it.
    pub(super) home: NodeId,
    /// The nearest node with memory.
    pub(super) serving: NodeId,
}

/// The nodes of each CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuNodes {
    /// By number, up to the greatest number of a CPU.
    pub(super) known: &'static [CpuNode],
    /// The nodes of CPUs that the ground does not name.
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
    /// Lines, block entries and chunks: the part that grows with memory.
    pub regions: u64,
    /// The per-frame table.
    pub table: u64,
    /// Paranoid mode's marks.
    pub marks: u64,
    /// Magazines.
    pub magazines: u64,
    /// Pools of zeroed frames.
    pub pools: u64,
    /// Parts that exist once, or once for each node and region: nodes, regions, the directory, pieces.
    pub fixed: u64,
}

/// The parts of a [`Machine`].
pub(super) struct Parts<'d> {
    /// By number, at least one; their nodes are built.
    pub(super) drafts: &'d [Draft],
    /// The nodes of each CPU that may come online.
    pub(super) cpu_nodes: CpuNodes,
    pub(super) directory: Directory,
    pub(super) checked: Checked,
    pub(super) zeroing: Zeroing,
    pub(super) metadata: Metadata,
}

/// Where a request may be served: nearest to `origin` first, within `allowed`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// The preferred node.
    pub(crate) start: NodeId,
    /// The node for distances.
    pub(crate) origin: NodeId,
    pub(crate) allowed: NodeSet,
}

impl Machine {
    /// Returns the region of a frame.
    #[inline]
    pub(crate) fn region_of(&self, frame: u64) -> Option<&'static Region> {
        self.directory.region_of(frame)
    }

    /// Puts the parts together.
    pub(super) fn new(parts: Parts<'_>) -> Machine {
        let Parts { drafts, cpu_nodes, directory, checked, zeroing, metadata } = parts;
        let draft = |node: usize| drafts.get(node).unwrap_or(&drafts[0]);
        Machine {
            nodes: core::array::from_fn(|index| &draft(index).built[0]),
            node_count: drafts.len(),
            directory,
            magazines: core::array::from_fn(|index| {
                drafts.get(index).map_or(&[][..], |draft| draft.magazines)
            }),
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
        (node.index() < self.node_count).then(|| self.nodes[node.index()])
    }

    /// Every node, by number.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &'static Node> {
        self.nodes[..self.node_count].iter().copied()
    }

    pub(crate) fn zone_of(&self, region: &Region) -> &'static NodeZone {
        // Building gave regions only nodes that exist.
        &self.nodes[region.node.index()].zones[region.zone.index()]
    }

    /// Returns the nearest node with memory: see
    /// [`Frames::node_of_cpu`](crate::frames::Frames::node_of_cpu).
    pub(crate) fn node_of_cpu(&self, cpu: CpuId) -> NodeId {
        self.cpu_nodes.of(cpu).serving
    }

    /// Records in paranoid mode that the run from `first` on was handed out.
    #[inline]
    pub(super) fn mark_given(&self, first: u64, given: Given) {
        if self.checked == Checked::EveryUse
            && let Some(region) = self.region_of(first)
        {
            region.marks.give(first - region.span.start, given);
        }
    }

    /// Returns the magazine made for a CPU.
    pub(crate) fn magazine(&self, cpu: CpuId) -> Option<&'static Magazine> {
        let group = self.magazines[self.node_of_cpu(cpu).index()];
        group.iter().find(|magazine| magazine.cpu == cpu)
    }

    /// Returns the region and block of the block that begins at `frame`.
    pub(crate) fn block_at(&self, frame: u64) -> Option<(&'static Region, BlockIndex)> {
        // An owned block is no edge block, so its first frame is in the region.
        let region = self.region_of(frame)?;
        Some((region, region.block_of(frame)))
    }

    /// May `frames` frames be taken from a zone without touching its reserve, or may the request touch it? Notes
    /// that the node is under pressure if too few are left.
    #[inline]
    pub(crate) fn may_take(&self, node: NodeId, zone: Zone, request: &FrameRequest, frames: u64) -> bool {
        let Some(state) = self.node(node).map(|node| &node.zones[zone.index()]) else { return false };
        state.free() >= state.ample.saturating_add(frames as i64)
            || self.may_take_scarce(node, zone, request, frames)
    }

    /// May a magazine take a word of a zone of its node? A magazine serves every request, so it takes none of the
    /// reserve, nor does it if all CPUs of the node take one at the same moment.
    #[inline]
    pub(super) fn may_refill(&self, node: NodeId, zone: Zone) -> bool {
        let Some(state) = self.node(node).map(|node| &node.zones[zone.index()]) else { return false };
        state.free() >= state.ample_to_refill || self.may_refill_scarce(node, zone)
    }

    /// Where a request of `cpu` is served. If it is interleaved, it takes a turn of the CPU's in `rack`.
    pub(crate) fn plan(
        &self,
        cpu: CpuId,
        request: &FrameRequest,
        rack: &MagazineTable,
    ) -> Result<Plan, InvalidRequest> {
        let turns = || rack.get(cpu).map_or(&self.turns, |magazine| &magazine.turns);
        let near = request.node.unwrap_or(self.cpu_nodes.of(cpu).home);
        let known = |node: NodeId| self.node(node).ok_or(InvalidRequest::UnknownNode(node));
        let members = |set: NodeSet| {
            let members: NodeSet = set.iter().filter(|node| self.node(*node).is_some()).collect();
            if members.is_empty() { Err(InvalidRequest::NoNode) } else { Ok(members) }
        };
        let nearest = known(near)?.nearest();
        let plan = |start, allowed| Plan { start, origin: start, allowed };
        Ok(match request.policy {
            Policy::Local => plan(near, NodeSet::ALL),
            Policy::Preferred(node) => {
                known(node)?;
                plan(node, NodeSet::ALL)
            }
            Policy::Bind(set) => {
                let set = members(set)?;
                let first = nearest.iter().copied().find(|&node| set.contains(node));
                // Not that node's distances: it may not reach a node that the requester reaches.
                Plan { start: first.ok_or(InvalidRequest::NoNode)?, origin: near, allowed: set }
            }
            Policy::Interleave(set) => plan(self.turn(turns(), request, members(set)?, |_| 1), NodeSet::ALL),
            Policy::WeightedInterleave(set) => {
                plan(self.turn(turns(), request, members(set)?, |node| node.weight), NodeSet::ALL)
            }
        })
    }

    /// Returns the next node in turn among those of `set` with memory for the request, by weight,
    /// or the first of `set` if none has memory.
    fn turn(
        &self,
        turns: &Turns,
        request: &FrameRequest,
        set: NodeSet,
        weight: impl Fn(&Node) -> u64 + Clone,
    ) -> NodeId {
        let nodes = set.iter().filter_map(|id| self.node(id));
        let serving = nodes.filter(|node| self.may_ever_serve(node, request));
        let next = turns.next(serving.map(|node| (node.id, weight(node))));
        next.or_else(|| set.iter().next()).unwrap_or(NodeId::ZERO)
    }

    /// Returns true if the node has memory, free or not, in the request's zones and below its
    /// limit.
    fn may_ever_serve(&self, node: &Node, request: &FrameRequest) -> bool {
        let zones = node.zones.iter().zip(Zone::ALL).filter(|&(_, zone)| zone <= request.zone);
        let mut zones = zones.map(|(state, _)| state).filter(|state| state.managed > 0);
        zones.any(|state| {
            let mut regions = state.regions.descending();
            request.limit == u64::MAX || regions.any(|region| region.span.start < request.limit)
        })
    }
}
