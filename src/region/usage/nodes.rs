//! The nodes of the frames of regions.

use core::ops::ControlFlow;

use topomem_percpu::{CpuPin, NodeId};
use topomem_shootdown::PageRange;

use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::{Found, Ownership, Pages};

/// The number of nodes counted at once.
const AT_ONCE: usize = 64;

/// Private and shared frames of regions by node, in pages of 4 KiB: of 64 nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePages {
    first: usize,
    pages: [u64; AT_ONCE],
}

impl NodePages {
    /// Returns the number of frames on `node`: 0 if it is not among the 64 nodes.
    #[must_use]
    pub fn on_node(&self, node: NodeId) -> u64 {
        node.index().checked_sub(self.first).and_then(|at| self.pages.get(at)).copied().unwrap_or(0)
    }

    /// Returns the nodes with frames, each with their number, in order of number.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, u64)> {
        let nodes = self.pages.iter().enumerate().filter(|&(_, &pages)| pages > 0);
        nodes.filter_map(|(at, &pages)| Some((NodeId::new(self.first + at)?, pages)))
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Returns the nodes of the private and shared frames of the regions in `range`, for 64 nodes from `first` on: all of
    /// a smaller machine.
    ///
    /// Cost: a look at each entry of the tables serving the range, and a look for the node of each frame. Pages changed by
    /// remote CPUs meanwhile count as before or after the change.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{MapRequest, Populate};
    /// use topomem::{NodeId, PageRange, PageSize};
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192).populate(Populate::Now))?;
    /// let range = PageRange::new(start, 2, PageSize::Size4KiB)?;
    /// let nodes = space.pages_on_nodes(pin, range, NodeId::ZERO);
    /// assert!(nodes.iter().eq([(service.node_of_cpu(pin.cpu()), 2)]));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn pages_on_nodes(&self, pin: &CpuPin, range: PageRange, first: NodeId) -> NodePages {
        let mut nodes = NodePages { first: first.index(), pages: [0; AT_ONCE] };
        if let Some(pages) = self.pages_in(range) {
            self.count_on_nodes(pin, pages, &mut nodes);
        }
        nodes
    }

    /// Counts the frames of regions in `pages`, which the space may map.
    fn count_on_nodes(&self, pin: &CpuPin, pages: Pages, nodes: &mut NodePages) {
        let core = self.core();
        let frames = core.service.frames();
        core.table.visit(core.service.tables(pin), pages, |part, found| {
            if let Found::Mapped(leaf, Some(_)) = found
                && leaf.ownership != Ownership::Borrowed
                && let Some(node) = frames.node_of(leaf.frame)
                && let Some(at) = node.index().checked_sub(nodes.first)
                && let Some(count) = nodes.pages.get_mut(at)
            {
                *count += part.count();
            }
            ControlFlow::Continue(())
        });
    }

    /// Calls `each` with every node that has frames of the regions in `pages`, which the space may map, and their
    /// number, until it fails.
    pub(super) fn for_each_node<E>(
        &self,
        pin: &CpuPin,
        pages: Pages,
        mut each: impl FnMut(NodeId, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let firsts = (0..self.core().service.frames().node_count()).step_by(AT_ONCE);
        for first in firsts.filter_map(NodeId::new) {
            let mut nodes = NodePages { first: first.index(), pages: [0; AT_ONCE] };
            self.count_on_nodes(pin, pages, &mut nodes);
            nodes.iter().try_for_each(|(node, pages)| each(node, pages))?;
        }
        Ok(())
    }
}
