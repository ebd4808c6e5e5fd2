//! What the heap keeps per node, on that node if it has memory left.

use core::mem;
use core::ptr::NonNull;

use crossbeam_utils::CachePadded;

use super::counters::SharedOps;
use crate::depot::Depot;
use crate::slab::{Arrival, CLASS_COUNT, Shelf, SizeClass, WasFirst};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{NodeId, Order};

const _: () = assert!(CLASS_COUNT <= 64, "a bit for each class");

/// One node's shelves and depots.
pub(super) struct NodeHeap {
    pub(super) node: NodeId,
    /// The classes whose inboxes got slabs since somebody collected them, a bit each.
    arrivals: CachePadded<AtomicU64>,
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
            (&raw mut (*heap.as_ptr()).arrivals).write(CachePadded::new(AtomicU64::new(0)));
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

    /// Notes that a slab of `class` got into its inbox, for [`NodeHeap::take_arrivals`].
    pub(super) fn note_arrival(&self, class: SizeClass, arrival: Arrival) {
        if arrival.first == WasFirst::Yes {
            self.note(class);
        }
    }

    /// Notes that the inbox of `class` is to be collected.
    pub(super) fn note(&self, class: SizeClass) {
        // AcqRel, here and in `take_arrivals`: whoever takes the bit sees what is in the inbox.
        // Whoever came earlier did not take the bit, so it stays.
        self.arrivals.fetch_or(1 << class.index(), Ordering::AcqRel);
    }

    /// Takes the classes whose inboxes are to be collected. One load if there are none.
    pub(super) fn take_arrivals(&self) -> impl Iterator<Item = SizeClass> + use<> {
        let noted = match self.arrivals.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.arrivals.swap(0, Ordering::AcqRel),
        };
        SizeClass::all().filter(move |class| noted >> class.index() & 1 == 1)
    }
}
