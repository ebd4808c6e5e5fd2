//! Dense NUMA node numbers.

use core::fmt;

/// Bounds the numbers of nodes: a [`NodeId`] tells this many apart. Smaller under loom and Miri, as for
/// [`MAX_CPUS`](crate::MAX_CPUS).
pub const MAX_NODES: usize = if cfg!(loom) {
    4
} else if cfg!(miri) {
    16
} else {
    1024
};

/// A NUMA node, numbered densely from 0; firmware's proximity domains may be sparse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(u16);

impl NodeId {
    /// The only node of a machine without a description of nodes.
    pub const ZERO: NodeId = NodeId(0);

    /// Returns the node numbered `index`, or `None` if `index` is not below [`MAX_NODES`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{MAX_NODES, NodeId};
    /// assert_eq!(NodeId::new(0), Some(NodeId::ZERO));
    /// assert_eq!(NodeId::new(MAX_NODES), None);
    /// ```
    #[must_use]
    pub const fn new(index: usize) -> Option<NodeId> {
        if index < MAX_NODES { Some(NodeId(index as u16)) } else { None }
    }

    /// Returns the number, always below [`MAX_NODES`]: for tables by node.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node{}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
