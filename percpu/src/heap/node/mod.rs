//! The per-node state of the heap, on that node if it has memory left.

pub(crate) mod arrivals;
pub(in crate::heap) mod shared;
pub(in crate::heap) mod table;

use core::mem;
use core::ptr::NonNull;

use crossbeam_utils::CachePadded;

use crate::depot::Depot;
use crate::heap::node::arrivals::Arrivals;
use crate::heap::stats::counters::SharedOps;
use crate::slab::{CLASS_COUNT, Shelf, SizeClass};
use crate::{NodeId, Order, RunLength};

/// One node's shelves and depots.
pub(in crate::heap) struct NodeHeap {
    pub(in crate::heap) node: NodeId,
    pub(in crate::heap) arrivals: CachePadded<Arrivals>,
    classes: [NodeClass; CLASS_COUNT],
}

/// One class of one node.
#[repr(align(128))]
pub(in crate::heap) struct NodeClass {
    pub(in crate::heap) shelf: Shelf,
    pub(in crate::heap) depot: Depot,
    /// Uses not counted by any CPU's own counters.
    pub(in crate::heap) ops: SharedOps,
}

impl NodeHeap {
    /// The length of the run that holds the node heap.
    pub(in crate::heap) const LENGTH: RunLength =
        match RunLength::for_pages((mem::size_of::<NodeHeap>() as u64).div_ceil(Order::FRAME.bytes())) {
            Some(length) => length,
            None => RunLength::of_order(Order::GIANT),
        };

    /// Creates a node heap in `run`, field by field, since it is too large for a kernel stack.
    ///
    /// # Safety
    ///
    /// `run` is a run of [`NodeHeap::LENGTH`] owned by the caller alone.
    pub(in crate::heap) unsafe fn new_in(run: NonNull<u8>, node: NodeId) -> NonNull<NodeHeap> {
        let heap = run.cast::<NodeHeap>();
        // SAFETY: the run is large and aligned enough, and owned; every field is written.
        unsafe {
            (&raw mut (*heap.as_ptr()).node).write(node);
            (&raw mut (*heap.as_ptr()).arrivals).write(CachePadded::new(Arrivals::new()));
            for class in SizeClass::all() {
                (&raw mut (*heap.as_ptr()).classes[class.index()]).write(NodeClass {
                    shelf: Shelf::new(class),
                    depot: Depot::new(),
                    ops: SharedOps::default(),
                });
            }
        }
        heap
    }

    /// Returns the shelf, depot and counters of `class`.
    #[inline]
    pub(in crate::heap) fn class(&self, class: SizeClass) -> &NodeClass {
        &self.classes[class.index()]
    }
}
