//! Nodes by number, and a region whose pages are spread over nodes.

use topomem::region::{MapRequest, Placement};
use topomem::{CpuPin, NodeId, PageRange, PageSize};
use topomem_numa::frames::NodeSet;

use super::{Space, at};

/// The first page of the region: not a multiple of any number of nodes.
pub(crate) const FIRST: u64 = 1013;
/// The number of pages of the region.
pub(crate) const COUNT: u64 = 120;

pub(crate) fn node(index: usize) -> NodeId {
    NodeId::new(index).unwrap()
}

pub(crate) fn nodes<const N: usize>(indexes: [usize; N]) -> NodeSet {
    indexes.into_iter().map(node).collect()
}

pub(crate) fn range() -> PageRange {
    PageRange::new(at(FIRST), COUNT, PageSize::Size4KiB).unwrap()
}

/// Makes the region.
pub(crate) fn map(space: &Space, pin: &CpuPin) {
    let request = MapRequest::anonymous(COUNT << 12).placed(Placement::Fixed(at(FIRST)));
    space.mmap(pin, &request).unwrap();
}
