//! The nodes that may serve a request, and their order.

use topomem_percpu::NodeId;

use super::NodeSet;

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
