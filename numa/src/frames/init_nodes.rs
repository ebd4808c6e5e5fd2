//! Construction of the nodes: their zones, their order of distance, their weights, and the serving
//! node of each CPU.

use arrayvec::ArrayVec;
use topomem_percpu::{MAX_NODES, NodeId};

use super::init_regions::RegionsByNode;
use super::node::{Node, NodeCounters, NodeZone, RegionSet};
use super::region::Region;
use super::zeroed_pool::ZeroedPool;
use super::{FramesConfig, Ground, Zone};

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

/// The weight of each node: in proportion to the bandwidths of the nodes that have memory. A node
/// whose bandwidth is not known counts as the slowest that is known.
pub(super) fn weights<G: Ground>(
    ground: &G,
    regions: &RegionsByNode<&'static [Region]>,
    count: usize,
) -> [u64; MAX_NODES] {
    let mut figures = [None; MAX_NODES];
    for (figure, node) in figures.iter_mut().zip((0..count).filter_map(NodeId::new)) {
        let has_memory = regions.of(node).iter().any(|region| region.managed_frames() > 0);
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
    /// Its regions, by address, and so by zone.
    pub(super) regions: &'static [Region],
    /// The frames that the machine has.
    pub(super) total: u64,
    /// How many CPUs have their magazines here.
    pub(super) magazines: usize,
    pub(super) config: &'a FramesConfig,
    pub(super) weight: u64,
    pub(super) zeroed: ZeroedPool,
}

impl NodeParts<'_> {
    /// Creates the node numbered `index`, of `count`.
    pub(super) fn node<G: Ground>(self, ground: &G, index: usize, count: usize) -> Node {
        let NodeParts { regions, total, magazines, config, weight, zeroed } = self;
        let id = NodeId::new(index).unwrap_or(NodeId::ZERO);
        let mut zones = Zone::ALL.map(|zone| {
            let first = regions.partition_point(|region| region.zone < zone);
            let end = regions.partition_point(|region| region.zone <= zone);
            let members = RegionSet(&regions[first..end]);
            let managed: u64 = members.iter().map(Region::managed_frames).sum();
            NodeZone::new(managed, config.watermarks.of(managed, total), members, magazines)
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
