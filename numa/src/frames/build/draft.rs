//! A node while the allocator is built.
//!
//! Facts about the nodes lie meanwhile in memory taken from the boot memory, by node: `Frames::init` runs on a boot stack.

use topomem_percpu::NodeId;

use super::placing::UninitSlice;
use crate::frames::magazine::Magazine;
use crate::frames::node::Node;
use crate::frames::node::zeroed_pool::Set;
use crate::frames::region::{Region, Span};
use crate::frames::types::FrameNumber;

/// A node while the allocator is built.
pub(in crate::frames) struct Draft {
    pub(super) id: NodeId,
    /// The number of regions that the node's memory makes before bookkeeping is placed.
    pub(super) region_count: usize,
    /// The number of free pieces of memory then.
    pub(super) piece_count: usize,
    /// The number of frames that are free once all bookkeeping but magazines is placed.
    pub(super) free: u64,
    /// The nearest node with memory.
    pub(super) serving: NodeId,
    /// The share in weighted interleaving.
    pub(super) weight: u64,
    pub(super) node: UninitSlice<Node>,
    pub(super) nearest_place: UninitSlice<NodeId>,
    /// Every node by distance, the node itself first, when the order is known.
    pub(super) nearest: &'static [NodeId],
    /// The node, when it is built; until then nothing.
    pub(in crate::frames) built: &'static [Node],
    /// Room for the spans that are managed in the end.
    pub(super) spans: &'static mut [Span],
    pub(super) region_place: UninitSlice<Region>,
    /// The regions, by address, while they are built; then empty.
    pub(super) building: &'static mut [Region],
    /// The regions, by address, when they are built.
    pub(super) regions: &'static [Region],
    /// The number of regions that [`by_address`] has returned.
    returned: usize,
    /// The memory of the pool of zeroed frames, and the pool's target.
    pub(super) pool: (&'static [Set], u64),
    pub(in crate::frames) magazines: &'static [Magazine],
}

/// More free pieces of one node than there were at first: placing cuts some.
const CUTS: usize = 16;
/// More pieces than there were at first, on all nodes together.
pub(super) const SLACK: usize = 64;

impl Draft {
    /// Creates the draft of the node numbered `index`, of which nothing is known yet.
    pub(super) fn new(index: usize) -> Draft {
        let id = NodeId::new(index).unwrap_or(NodeId::ZERO);
        Draft {
            id,
            region_count: 0,
            piece_count: 0,
            free: 0,
            serving: id,
            weight: 1,
            node: UninitSlice::EMPTY,
            nearest_place: UninitSlice::EMPTY,
            nearest: &[],
            built: &[],
            spans: &mut [],
            region_place: UninitSlice::EMPTY,
            building: &mut [],
            regions: &[],
            returned: 0,
            pool: (&[], 0),
            magazines: &[],
        }
    }

    /// Returns how many regions the node may have once bookkeeping is placed: a region is cut only where a gap in
    /// the region grows beyond the bridged holes.
    pub(super) fn region_room(&self) -> usize {
        self.region_count + SLACK.min(self.piece_count - self.region_count)
    }

    /// Returns how many pieces the node may have once bookkeeping is placed. Placing for nodes without room cuts
    /// pieces of others.
    pub(super) fn piece_room(&self) -> usize {
        if self.piece_count == 0 { 0 } else { self.piece_count + CUTS }
    }

    /// Ends the building of the regions.
    pub(super) fn share_regions(&mut self) {
        let built = core::mem::take(&mut self.building);
        self.regions = built;
    }
}

/// Returns every region, by address. Each draft's regions are built, and are returned once.
pub(super) fn by_address(drafts: &mut [Draft]) -> impl Iterator<Item = &'static Region> {
    core::iter::from_fn(move || {
        let next = |draft: &Draft| {
            draft.regions.get(draft.returned).map_or(FrameNumber::MAX, |next| next.span.start)
        };
        let draft = drafts.iter_mut().min_by_key(|draft| next(draft))?;
        let region = draft.regions.get(draft.returned)?;
        draft.returned += 1;
        Some(region)
    })
}
