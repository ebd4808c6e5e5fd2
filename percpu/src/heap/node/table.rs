//! The addresses of the nodes' parts of a heap: the first nodes' in place, the others' in a page.

use core::ptr::{self, NonNull};

use crate::heap::node::NodeHeap;
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::{MAX_NODES, NodeId};

/// The number of nodes whose addresses are in place: the *near* nodes. The others are *far*.
const NEAR: usize = if cfg!(loom) {
    4
} else if cfg!(miri) {
    8
} else {
    64
};

/// The addresses of all far nodes' heaps, in one run of pages.
pub(in crate::heap) struct FarNodes([AtomicPtr<NodeHeap>; MAX_NODES - NEAR]);

/// The address of each node's heap, once that is made.
pub(in crate::heap) struct NodeTable {
    near: [AtomicPtr<NodeHeap>; NEAR],
    /// Null until a far node's heap is made.
    far: AtomicPtr<FarNodes>,
}

impl NodeTable {
    #[cfg(not(loom))]
    pub(in crate::heap) const fn new() -> NodeTable {
        let near = [const { AtomicPtr::new(ptr::null_mut()) }; NEAR];
        NodeTable { near, far: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Creates a table (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    pub(in crate::heap) fn new() -> NodeTable {
        let near = core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut()));
        NodeTable { near, far: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Returns the place of a node's address, if there is one.
    #[inline]
    fn place_of(&self, node: NodeId) -> Option<&AtomicPtr<NodeHeap>> {
        match self.near.get(node.index()) {
            Some(place) => Some(place),
            None => self.far_place_of(node),
        }
    }

    #[inline(never)]
    fn far_place_of(&self, node: NodeId) -> Option<&AtomicPtr<NodeHeap>> {
        // Acquire pairs with the Release in `extend`: the places are written.
        // SAFETY: null, or the address of places that stay until the heap is dropped.
        let far = unsafe { self.far.load(Ordering::Acquire).as_ref() }?;
        far.0.get(node.index() - NEAR)
    }

    /// Returns the address of a node's heap, if that is made. Costs a comparison and a load for a near node.
    #[inline]
    pub(in crate::heap) fn get(&self, node: NodeId) -> Option<NonNull<NodeHeap>> {
        // Acquire pairs with the Release in `place`: the node heap is written.
        NonNull::new(self.place_of(node)?.load(Ordering::Acquire))
    }

    /// Returns true if `node` has a place.
    pub(in crate::heap) fn has_room(&self, node: NodeId) -> bool {
        self.place_of(node).is_some()
    }

    /// Makes the places of the far nodes in `run`. Returns false, with nothing changed for others, if they have places
    /// already.
    ///
    /// # Safety
    ///
    /// The run has room for [`FarNodes`], aligned, and is the caller's alone; if the result is true, it stays until
    /// [`NodeTable::take_far`] returns it.
    pub(in crate::heap) unsafe fn extend(&self, run: NonNull<u8>) -> bool {
        let far = run.cast::<FarNodes>();
        for index in 0..MAX_NODES - NEAR {
            // SAFETY: the caller's promise.
            unsafe { (&raw mut (*far.as_ptr()).0[index]).write(AtomicPtr::new(ptr::null_mut())) };
        }
        // Release pairs with the Acquire in `far_place_of`.
        let (free, orders) = (ptr::null_mut(), (Ordering::Release, Ordering::Relaxed));
        self.far.compare_exchange(free, far.as_ptr(), orders.0, orders.1).is_ok()
    }

    /// Gives a node, which has a place, the address of its heap. Returns false if it has one.
    pub(in crate::heap) fn place(&self, node: NodeId, heap: NonNull<NodeHeap>) -> bool {
        // Release pairs with the Acquire in `get`.
        let (free, orders) = (ptr::null_mut(), (Ordering::Release, Ordering::Relaxed));
        self.place_of(node)
            .is_some_and(|place| place.compare_exchange(free, heap.as_ptr(), orders.0, orders.1).is_ok())
    }

    /// Returns the addresses of all heaps that are made.
    pub(in crate::heap) fn iter(&self) -> impl Iterator<Item = NonNull<NodeHeap>> {
        let nodes = if self.is_extended() { MAX_NODES } else { NEAR.min(MAX_NODES) };
        (0..nodes).filter_map(NodeId::new).filter_map(|node| self.get(node))
    }

    /// Returns true if the far nodes have places.
    pub(in crate::heap) fn is_extended(&self) -> bool {
        // Relaxed: `far_place_of` orders what is read behind the address.
        !self.far.load(Ordering::Relaxed).is_null()
    }

    /// Takes the run of [`NodeTable::extend`] away. No far node has a place from then on.
    pub(in crate::heap) fn take_far(&mut self) -> Option<NonNull<u8>> {
        NonNull::new(self.far.swap(ptr::null_mut(), Ordering::Acquire).cast())
    }
}
