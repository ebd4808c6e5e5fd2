//! For each node, the further nodes in the order of fallback of allocations.

use topomem_percpu::{MAX_NODES, NodeId};

/// Each node's list of all nodes, nearest first.
#[derive(Debug)]
pub(super) struct NearestNodes {
    nodes: [[NodeId; MAX_NODES]; MAX_NODES],
    /// The length of each row.
    counts: [u8; MAX_NODES],
}

impl NearestNodes {
    /// Creates lists of the node itself alone.
    pub(super) const fn new() -> NearestNodes {
        let mut nodes = [[NodeId::ZERO; MAX_NODES]; MAX_NODES];
        let mut index = 0;
        while index < MAX_NODES {
            if let Some(node) = NodeId::new(index) {
                nodes[index][0] = node;
            }
            index += 1;
        }
        NearestNodes { nodes, counts: [1; MAX_NODES] }
    }

    /// Resets to the value of [`NearestNodes::new`], in place.
    pub(super) fn clear(&mut self) {
        self.counts.fill(1);
        for (row, node) in self.nodes.iter_mut().zip((0..MAX_NODES).filter_map(NodeId::new)) {
            row[0] = node;
        }
    }

    pub(super) fn of(&self, node: NodeId) -> &[NodeId] {
        let row = &self.nodes[node.index()];
        row.get(..usize::from(self.counts[node.index()])).unwrap_or(row)
    }

    /// Orders all nodes: `node` itself, then ascending by `key`, then by number.
    pub(super) fn sort<K: Ord>(
        &mut self,
        node: NodeId,
        all: impl Iterator<Item = NodeId>,
        key: impl Fn(NodeId) -> K,
    ) {
        let row = &mut self.nodes[node.index()];
        row[0] = node;
        let mut count = 1;
        for (slot, other) in row[1..].iter_mut().zip(all.filter(|&other| other != node)) {
            *slot = other;
            count += 1;
        }
        self.counts[node.index()] = count;
        row[1..usize::from(count)].sort_unstable_by_key(|&other| (key(other), other));
    }
}
