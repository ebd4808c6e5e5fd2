//! What the heap keeps per node, on that node.

use core::mem;
use core::ptr::NonNull;

use super::counters::SharedOps;
use crate::depot::Depot;
use crate::slab::{CLASS_COUNT, Shelf, SizeClass};
use crate::sync::atomic::AtomicU64;
use crate::{NodeId, Order};

/// One node's shelves and depots.
pub(super) struct NodeHeap {
    pub(super) node: NodeId,
    /// Magazines that live in this node's objects: taken from a shelf, but not by a caller.
    pub(super) magazines: AtomicU64,
    classes: [NodeClass; CLASS_COUNT],
}

/// One class of one node.
#[repr(align(128))]
pub(super) struct NodeClass {
    pub(super) shelf: Shelf,
    pub(super) depot: Depot,
    /// Uses that no CPU's own counters could take.
    pub(super) ops: SharedOps,
}

impl NodeHeap {
    /// The run that houses it.
    pub(super) const ORDER: Order = match Order::for_bytes(mem::size_of::<NodeHeap>() as u64) {
        Some(order) => order,
        None => Order::GIANT,
    };

    /// Makes a node heap in `run`, piece by piece, for it is too large for a kernel stack.
    ///
    /// # Safety
    ///
    /// `run` is a run of [`NodeHeap::ORDER`] that is the caller's alone.
    pub(super) unsafe fn new_in(run: NonNull<u8>, node: NodeId) -> NonNull<NodeHeap> {
        let heap = run.cast::<NodeHeap>();
        // SAFETY: the run is large and aligned enough, and ours; every field is written.
        unsafe {
            (&raw mut (*heap.as_ptr()).node).write(node);
            (&raw mut (*heap.as_ptr()).magazines).write(AtomicU64::new(0));
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

    /// The shelf, depot and counters of `class`.
    #[inline]
    pub(super) fn class(&self, class: SizeClass) -> &NodeClass {
        &self.classes[class.index()]
    }
}
