//! On which nodes a request is served, and in which order.

use core::fmt;

use topomem_percpu::{MAX_NODES, NodeId};

/// A set of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct NodeSet(u64);

const _: () = assert!(MAX_NODES <= 64);

impl NodeSet {
    /// The set without members.
    pub const EMPTY: NodeSet = NodeSet(0);
    /// Every node there may be.
    pub const ALL: NodeSet = NodeSet(u64::MAX);

    /// The set of `node` alone.
    #[must_use]
    pub const fn of(node: NodeId) -> NodeSet {
        NodeSet(1 << node.index())
    }

    /// The set with `node` added.
    #[must_use]
    pub const fn with(self, node: NodeId) -> NodeSet {
        NodeSet(self.0 | 1 << node.index())
    }

    /// Is `node` a member?
    #[must_use]
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.index()) != 0
    }

    /// Has it no members?
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many members it has.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The set as bits: bit *n* for the node numbered *n*.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set of the nodes whose bits are set.
    #[must_use]
    pub const fn from_bits(bits: u64) -> NodeSet {
        NodeSet(bits)
    }

    /// The members of both sets.
    #[must_use]
    pub const fn intersection(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 & other.0)
    }

    /// The members, in order of number.
    pub fn iter(self) -> impl Iterator<Item = NodeId> + Clone {
        (0..MAX_NODES).filter_map(NodeId::new).filter(move |&node| self.contains(node))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> NodeSet {
        nodes.into_iter().fold(NodeSet::EMPTY, NodeSet::with)
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Where a run is placed. "Near" is the requesting CPU's node, or that of
/// [`FrameRequest::node`](super::FrameRequest::node).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Near, then in order of distance.
    #[default]
    Local,
    /// Only on these nodes, nearest first.
    Bind(NodeSet),
    /// On this node, then in order of distance from it.
    Preferred(NodeId),
    /// On these nodes in turn; when one is exhausted, in order of distance from it. Turns are counted
    /// per CPU and set. Nodes without memory that the request allows have no turn.
    Interleave(NodeSet),
    /// As [`Policy::Interleave`], on these nodes in proportion to their bandwidth (from HMAT). A
    /// node whose bandwidth is not known counts as the slowest that is known; in equal parts where
    /// none is.
    WeightedInterleave(NodeSet),
}
