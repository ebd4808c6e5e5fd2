//! Construction of the nodes: their zones, their order of distance, their weights, and the serving
//! node of each CPU.

use arrayvec::ArrayVec;
use topomem_percpu::{MAX_NODES, NodeId};

use super::node::{Node, NodeCounters, NodeZone, RegionSet};
use super::placing::Place;
use super::region::Region;
use super::zeroed_pool::ZeroedPool;
use super::{FramesConfig, Ground, Watermarks, Zone};

/// The maximum weight of a node.
const MAX_WEIGHT: u64 = 32;

/// Returns every node by distance from `node`: itself first. Nodes left out by the ground come
/// last, by number, so that no memory is ever missed.
fn by_distance<G: Ground>(ground: &G, node: NodeId, count: usize) -> ArrayVec<NodeId, MAX_NODES> {
    let mut nodes = ArrayVec::new();
    let all = (0..count).filter_map(NodeId::new);
    for other in core::iter::once(node).chain(ground.nearest(node)).chain(all) {
        if other.index() < count && !nodes.contains(&other) {
            // There is room: each node comes once.
            nodes.push(other);
        }
    }
    nodes
}

/// Returns for each node the nearest node with memory by `has_memory`, or the node itself if none
/// has memory.
pub(super) fn serving_nodes<G: Ground>(
    ground: &G,
    count: usize,
    has_memory: impl Fn(NodeId) -> bool,
) -> [NodeId; MAX_NODES] {
    let mut serving = core::array::from_fn(|index| NodeId::new(index).unwrap_or(NodeId::ZERO));
    for served in &mut serving[..count] {
        let nearest = by_distance(ground, *served, count);
        *served = nearest.iter().copied().find(|&node| has_memory(node)).unwrap_or(*served);
    }
    serving
}

/// The numbers of the regions, by node and zone.
pub(super) fn by_node_and_zone(regions: &[Region], place: Place<u16>) -> &'static [u16] {
    let order = place.fill(|number| number as u16);
    let order = order.get_mut(..regions.len()).unwrap_or_default();
    order.sort_unstable_by_key(|&number| {
        let region = &regions[usize::from(number)];
        (region.node, region.zone, number)
    });
    order
}

/// The weight of each node: in proportion to the bandwidths of the nodes that have memory. A node
/// whose bandwidth is not known counts as the slowest that is known.
pub(super) fn weights<G: Ground>(ground: &G, regions: &[Region], count: usize) -> [u64; MAX_NODES] {
    let mut figures = [None; MAX_NODES];
    for (figure, node) in figures.iter_mut().zip((0..count).filter_map(NodeId::new)) {
        let has_memory = regions.iter().any(|region| region.node == node && region.managed_frames() > 0);
        *figure = ground.weight(node).filter(|_| has_memory).map(u64::from);
    }
    let known = || figures.iter().copied().flatten();
    let (slowest, best) = (known().min().unwrap_or(1), known().max().unwrap_or(1).max(1));
    let weights = figures.map(|figure| {
        let figure = figure.unwrap_or(slowest);
        ((figure * MAX_WEIGHT + best / 2) / best).max(1)
    });
    // As small as possible, so that turns alternate as often as possible.
    let divisor = weights[..count].iter().copied().fold(0, gcd).max(1);
    weights.map(|weight| weight / divisor)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The parts of a node.
pub(super) struct NodeParts<'a> {
    /// The regions of all nodes.
    pub(super) regions: &'static [Region],
    /// Their numbers, by node and zone.
    pub(super) order: &'static [u16],
    pub(super) config: &'a FramesConfig,
    pub(super) weight: u64,
    pub(super) zeroed: ZeroedPool,
}

impl NodeParts<'_> {
    /// Creates the node numbered `index`, of `count`.
    pub(super) fn node<G: Ground>(self, ground: &G, index: usize, count: usize) -> Node {
        let NodeParts { regions, order, config, weight, zeroed } = self;
        let id = NodeId::new(index).unwrap_or(NodeId::ZERO);
        let place_of = |&number: &u16| {
            let region = &regions[usize::from(number)];
            (region.node, region.zone)
        };
        let mut zones = Zone::ALL.map(|zone| {
            let first = order.partition_point(|number| place_of(number) < (id, zone));
            let end = order.partition_point(|number| place_of(number) <= (id, zone));
            let members = RegionSet(&order[first..end]);
            let managed: u64 = members.iter().map(|number| regions[number].managed_frames()).sum();
            let most = managed / 4;
            let Watermarks { min, low, high } = config.watermarks;
            let watermarks = Watermarks { min: min.min(most), low: low.min(most), high: high.min(most) };
            NodeZone::new(managed, watermarks, members)
        });
        let [dma, higher @ ..] = &mut zones;
        dma.cached = higher.iter().all(|zone| zone.managed == 0);
        let mut nearest = [NodeId::ZERO; MAX_NODES];
        for (slot, node) in nearest.iter_mut().zip(by_distance(ground, id, count)) {
            *slot = node;
        }
        Node { id, zones, nearest, count, weight, counters: NodeCounters::new(), zeroed }
    }
}
