//! The nodes that may serve a request, and their order.

use core::fmt;

use topomem_percpu::{MAX_NODES, NodeId};

/// A set of nodes.
///
/// # Examples
///
/// ```
/// # use topomem_numa::NodeId;
/// # use topomem_numa::frames::NodeSet;
/// let second = NodeId::new(1).unwrap();
/// let set = NodeSet::of(NodeId::ZERO).with(second);
/// assert_eq!(set.len(), 2);
/// assert_eq!(set.intersection(NodeSet::of(second)), NodeSet::of(second));
/// assert!(set.iter().eq([NodeId::ZERO, second]));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct NodeSet(u64);

const _: () = assert!(MAX_NODES <= 64);

impl NodeSet {
    /// The set without members.
    pub const EMPTY: NodeSet = NodeSet(0);
    /// Every possible node.
    pub const ALL: NodeSet = NodeSet(u64::MAX);

    /// Returns the set of `node` alone.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::NodeId;
    /// # use topomem_numa::frames::NodeSet;
    /// assert!(NodeSet::of(NodeId::ZERO).contains(NodeId::ZERO));
    /// ```
    #[must_use]
    pub const fn of(node: NodeId) -> NodeSet {
        NodeSet(1 << node.index())
    }

    /// Returns the set with `node` added.
    #[must_use]
    pub const fn with(self, node: NodeId) -> NodeSet {
        NodeSet(self.0 | 1 << node.index())
    }

    /// Returns true if `node` is a member.
    #[must_use]
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.index()) != 0
    }

    /// Returns true if the set has no members.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the number of members.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Returns the set as bits: bit *n* for the node numbered *n*.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_numa::frames::NodeSet;
    /// assert_eq!(NodeSet::from_bits(0b101).bits(), 0b101);
    /// ```
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Returns the set of the nodes whose bits are set.
    #[must_use]
    pub const fn from_bits(bits: u64) -> NodeSet {
        NodeSet(bits)
    }

    /// Returns the members of both sets.
    #[must_use]
    pub const fn intersection(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 & other.0)
    }

    /// Returns an iterator over the members, in order of number.
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

/// The placement of a run. "Near" is the requesting CPU's node, or that of
/// [`FrameRequest::node`](crate::frames::FrameRequest::node).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Near, then in order of distance.
    #[default]
    Local,
    /// Only on these nodes, nearest first.
    Bind(NodeSet),
    /// On this node, then in order of distance from it.
    Preferred(NodeId),
    /// On these nodes in turn; if a node is exhausted, in order of distance from it. Turns are
    /// counted per CPU and set. Nodes without memory for the request have no turn.
    Interleave(NodeSet),
    /// As [`Policy::Interleave`], on these nodes in proportion to their bandwidth (from HMAT). A
    /// node of unknown bandwidth counts as the slowest known node. If no bandwidth is known, the
    /// parts are equal.
    WeightedInterleave(NodeSet),
}
