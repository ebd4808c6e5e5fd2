//! For each node, the further nodes in the order of fallback of allocations.

use topomem_percpu::{MAX_NODES, NodeId};

use super::square::Square;

/// All nodes, by number.
static ALL: [NodeId; MAX_NODES] = {
    let mut nodes = [NodeId::ZERO; MAX_NODES];
    let mut index = 0;
    while index < MAX_NODES {
        if let Some(node) = NodeId::new(index) {
            nodes[index] = node;
        }
        index += 1;
    }
    nodes
};

/// Each node's list of all nodes, nearest first.
#[derive(Debug)]
pub(super) struct NearestNodes {
    nodes: Square<NodeId>,
    /// The number of nodes with lists.
    count: usize,
}

impl NearestNodes {
    /// Creates lists of the node itself alone.
    pub(super) const fn new() -> NearestNodes {
        NearestNodes { nodes: Square::new(NodeId::ZERO), count: 0 }
    }

    /// Resets to the value of [`NearestNodes::new`], in place.
    pub(super) fn clear(&mut self) {
        self.count = 0;
    }

    /// Uses `place` for the lists of `side` nodes from now on.
    pub(super) fn move_to(&mut self, place: &'static mut [NodeId], side: usize) {
        self.clear();
        self.nodes.move_to(place, side);
    }

    pub(super) fn of(&self, node: NodeId) -> &[NodeId] {
        let list = self.nodes.row(node).get(..self.count).filter(|_| node.index() < self.count);
        list.unwrap_or(&ALL[node.index()..=node.index()])
    }

    /// Makes the lists of all of the first `count` nodes: each node itself, then ascending by `key`, then by number.
    pub(super) fn sort<K: Ord>(&mut self, count: usize, key: impl Fn(NodeId, NodeId) -> K) {
        for &node in &ALL[..count] {
            let others = ALL[..count].iter().filter(|&&other| other != node);
            let Some(row) = self.nodes.row_mut(node).get_mut(..count) else { return };
            let Some((first, row)) = row.split_first_mut() else { return };
            *first = node;
            row.iter_mut().zip(others).for_each(|(slot, &other)| *slot = other);
            row.sort_unstable_by_key(|&other| (key(node, other), other));
        }
        self.count = count;
    }
}
