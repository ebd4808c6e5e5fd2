//! Construction of the nodes: their zones, their order of distance, their weights, and the serving
//! node of each CPU.

use topomem_percpu::NodeId;

use super::boot_memory::BootMemory;
use super::draft::Draft;
use crate::frames::node::zeroed_pool::ZeroedPool;
use crate::frames::node::{Node, NodeCounters, NodeZone, RegionSet};
use crate::frames::region::Region;
use crate::frames::types::{FramesConfig, NodeSet, Zone};

/// The maximum weight of a node.
const MAX_WEIGHT: u64 = 32;

/// Notes in each draft every node by distance: the node itself first. Nodes left out by the boot memory come last, by number, so that
/// no memory is ever missed.
#[inline(never)]
pub(super) fn set_nearest<G: BootMemory>(memory: &G, drafts: &mut [Draft]) {
    let count = drafts.len();
    for draft in drafts {
        let mut seen = NodeSet::EMPTY;
        let all = (0..count).filter_map(NodeId::new);
        let nodes = core::iter::once(draft.id).chain(memory.nearest(draft.id)).chain(all);
        let once = nodes.filter(|&node| node.index() < count && seen.insert(node));
        draft.nearest = draft.nearest_place.take().fill_from(once);
    }
}

/// Notes in each draft the nearest node with more than `most` free frames, or the node itself if none has so many.
#[inline(never)]
pub(super) fn set_serving(drafts: &mut [Draft], most: u64) {
    for index in 0..drafts.len() {
        let serving = drafts[index].nearest.iter().copied().find(|node| drafts[node.index()].free > most);
        drafts[index].serving = serving.unwrap_or(drafts[index].id);
    }
}

/// Notes the weight of each node: in proportion to the bandwidths of the nodes that have memory. A node
/// whose bandwidth is not known counts as the slowest that is known.
#[inline(never)]
pub(super) fn set_weights<G: BootMemory>(memory: &G, drafts: &mut [Draft]) {
    let figure = |draft: &Draft| {
        let has_memory = draft.regions.iter().any(|region| region.managed_frames() > 0);
        memory.weight(draft.id).filter(|_| has_memory).map(u64::from)
    };
    let known = || drafts.iter().filter_map(figure);
    let (slowest, best) = (known().min().unwrap_or(1), known().max().unwrap_or(1).max(1));
    let mut divisor = 0;
    for draft in drafts.iter_mut() {
        draft.weight = ((figure(draft).unwrap_or(slowest) * MAX_WEIGHT + best / 2) / best).max(1);
        divisor = gcd(divisor, draft.weight);
    }
    // As small as possible, so that turns alternate as often as possible.
    drafts.iter_mut().for_each(|draft| draft.weight /= divisor.max(1));
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Creates the node of a draft; the machine has `total` frames.
pub(in crate::frames) fn node(config: &FramesConfig, draft: &Draft, total: u64) -> Node {
    let mut zones = Zone::ALL.map(|zone| {
        let first = draft.regions.partition_point(|region| region.zone < zone);
        let end = draft.regions.partition_point(|region| region.zone <= zone);
        let members = RegionSet(&draft.regions[first..end]);
        let managed: u64 = members.iter().map(Region::managed_frames).sum();
        NodeZone::new(managed, config.watermarks.of(managed, total), members, draft.magazines.len())
    });
    let [dma, higher @ ..] = &mut zones;
    dma.cached = higher.iter().all(|zone| zone.managed == 0);
    let zeroed = ZeroedPool::new(draft.pool.0, draft.pool.1);
    let (nearest, weight) = (draft.nearest, draft.weight);
    Node { id: draft.id, zones, nearest, weight, counters: NodeCounters::new(), zeroed }
}
