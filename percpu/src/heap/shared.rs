//! What all CPUs share: shelves, depots, pages. Every way through here is bounded, and ends
//! with each object in exactly one place.

use core::ptr::NonNull;

use super::Heap;
use super::node::NodeHeap;
use crate::magazine::{Magazine, MagazineBox};
use crate::slab::{Emptied, SizeClass, Slab, SlabShape};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::try_lock::Patience;
use crate::{CpuPin, NodeId, OutOfMemory, PageSource, Platform};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// The heap of `node`, if its memory has been used.
    #[inline]
    pub(super) fn existing(&self, node: NodeId) -> Option<&NodeHeap> {
        // Acquire pairs with the Release in `node`.
        // SAFETY: a non-null address is a node heap's, which lives until the heap is dropped.
        unsafe { self.nodes[node.index()].load(Ordering::Acquire).as_ref() }
    }

    /// The heaps of all nodes whose memory has been used.
    pub(super) fn existing_nodes(&self) -> impl Iterator<Item = &NodeHeap> {
        (0..self.nodes.len()).filter_map(NodeId::new).filter_map(|node| self.existing(node))
    }

    /// The heap of `node`, made if need be.
    pub(super) fn node(&self, pin: &CpuPin, node: NodeId) -> Result<&NodeHeap, OutOfMemory> {
        if let Some(heap) = self.existing(node) {
            return Ok(heap);
        }
        let run = self.source.allocate(pin, node, NodeHeap::ORDER)?;
        // SAFETY: the run is of that order, and ours.
        let fresh = unsafe { NodeHeap::new_in(run, node) };
        // Release pairs with the Acquire here and in `existing`: who sees the address sees the
        // node heap.
        let current = self.nodes[node.index()].compare_exchange(
            core::ptr::null_mut(),
            fresh.as_ptr(),
            Ordering::Release,
            Ordering::Acquire,
        );
        let heap = match current {
            Ok(_) => fresh,
            Err(first) => {
                // SAFETY: nobody has seen ours.
                unsafe { self.source.free(pin, run, NodeHeap::ORDER) };
                NonNull::new(first).ok_or(OutOfMemory)?
            }
        };
        // SAFETY: a node heap lives until the heap is dropped.
        Ok(unsafe { heap.as_ref() })
    }

    /// Moves free objects `into` a magazine until it holds `wanted`: from the shelf of `node`,
    /// or else from a new slab. At least one, or an error.
    pub(super) fn take(
        &self,
        pin: &CpuPin,
        node: NodeId,
        class: SizeClass,
        patience: Patience,
        wanted: usize,
        into: &mut Magazine,
    ) -> Result<(), OutOfMemory> {
        let before = into.len();
        if let Some(heap) = self.existing(node) {
            self.take_shelved(pin, heap, class, patience, wanted, into);
        }
        if into.len() > before { Ok(()) } else { self.grow(pin, node, class, wanted, into) }
    }

    /// One free object of the shelf of `node`, or of a new slab.
    pub(super) fn take_one(
        &self,
        pin: &CpuPin,
        node: NodeId,
        class: SizeClass,
        patience: Patience,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let mut one = Magazine::new();
        self.take(pin, node, class, patience, 1, &mut one)?;
        one.pop().ok_or(OutOfMemory)
    }

    /// One free object of any node's shelf.
    pub(super) fn take_anywhere(&self, pin: &CpuPin, class: SizeClass) -> Result<NonNull<u8>, OutOfMemory> {
        let mut one = Magazine::new();
        for heap in self.existing_nodes() {
            self.take_shelved(pin, heap, class, Patience::None, 1, &mut one);
            if let Some(object) = one.pop() {
                return Ok(object);
            }
        }
        Err(OutOfMemory)
    }

    fn take_shelved(
        &self,
        pin: &CpuPin,
        heap: &NodeHeap,
        class: SizeClass,
        patience: Patience,
        wanted: usize,
        into: &mut Magazine,
    ) {
        let Some(mut shelf) = heap.class(class).shelf.lock(&self.platform, patience) else {
            return;
        };
        while into.len() < wanted {
            let Some(object) = shelf.take() else { break };
            if let Err(object) = into.push(class, object) {
                // SAFETY: the object was just taken from this shelf.
                unsafe { shelf.give(Slab::of(object, class), object) };
                break;
            }
        }
        self.release(pin, class, shelf.unlock());
    }

    /// Makes a slab, takes what is wanted of it, and shelves it with the rest.
    fn grow(
        &self,
        pin: &CpuPin,
        node: NodeId,
        class: SizeClass,
        wanted: usize,
        into: &mut Magazine,
    ) -> Result<(), OutOfMemory> {
        let order = SlabShape::ALL[class.index()].order;
        let run = self.source.allocate(pin, node, order)?;
        let home = match self.node(pin, self.source.node_of(run)) {
            Ok(home) => home,
            Err(error) => {
                // SAFETY: the run just came from the source.
                unsafe { self.source.free(pin, run, order) };
                return Err(error);
            }
        };
        // SAFETY: the run is of the class's order, and ours.
        let (slab, mut rest) = unsafe { Slab::new_in(run, class, home.node) };
        while into.len() < wanted && rest.len() > 1 {
            let Some(object) = rest.pop() else { break };
            if let Err(object) = into.push(class, object) {
                // SAFETY: the object is the slab's, and ours.
                unsafe { rest.push(object) };
                break;
            }
        }
        // SAFETY: the slab is new, of this node and class, with at least one object left.
        unsafe { home.class(class).shelf.add(slab, rest) };
        Ok(())
    }

    /// Gives one object to its slab.
    pub(super) fn give(
        &self,
        pin: &CpuPin,
        slab: Slab,
        class: SizeClass,
        object: NonNull<u8>,
        patience: Patience,
    ) {
        // A slab is made only where its node's heap exists.
        let Some(heap) = self.existing(slab.node()) else { return };
        let shelf = &heap.class(class).shelf;
        match shelf.lock(&self.platform, patience) {
            Some(mut locked) => {
                // SAFETY: the object is ours to give, and its slab belongs to this shelf.
                unsafe { locked.give(slab, object) };
                self.release(pin, class, locked.unlock());
            }
            // SAFETY: as above.
            None => unsafe { shelf.send_home(slab, object) },
        }
    }

    /// Gives one object to its slab without the lock: for other nodes' objects.
    pub(super) fn send_home(&self, class: SizeClass, slab: Slab, object: NonNull<u8>) {
        // A slab is made only where its node's heap exists.
        if let Some(heap) = self.existing(slab.node()) {
            // SAFETY: the object is ours to give, and its slab belongs to this shelf.
            unsafe { heap.class(class).shelf.send_home(slab, object) };
        }
    }

    /// Empties a magazine of `node`'s into the slabs.
    pub(super) fn flush(&self, pin: &CpuPin, node: &NodeHeap, class: SizeClass, magazine: &mut Magazine) {
        let mut locked = node.class(class).shelf.lock(&self.platform, Patience::Bounded);
        while let Some(object) = magazine.pop() {
            // SAFETY: a magazine's objects are its class's, and the magazine's own.
            let slab = unsafe { Slab::of(object, class) };
            match &mut locked {
                // SAFETY: as above, and the slab is this shelf's.
                Some(shelf) if slab.node() == node.node => unsafe { shelf.give(slab, object) },
                // When its node had no pages, a CPU may have been given another node's.
                _ => self.send_home(class, slab, object),
            }
        }
        if let Some(locked) = locked {
            self.release(pin, class, locked.unlock());
        }
    }

    /// An empty magazine from the depot, or a new one; `None` where there is no memory for it.
    pub(super) fn empty_magazine(
        &self,
        pin: &CpuPin,
        node: &NodeHeap,
        class: SizeClass,
    ) -> Option<MagazineBox> {
        if let Some(empty) = node.class(class).depot.take_empty() {
            return Some(empty);
        }
        let object = self.take_one(pin, node.node, MagazineBox::CLASS, Patience::Bounded).ok()?;
        if let Some(magazines) = self.magazines(object) {
            magazines.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the object is of that class, and ours.
        Some(unsafe { MagazineBox::new_in(object) })
    }

    /// Leaves an empty magazine in the depot, or gives its memory back.
    pub(super) fn retire(&self, pin: &CpuPin, node: &NodeHeap, class: SizeClass, empty: MagazineBox) {
        if let Err(empty) = node.class(class).depot.put_empty(empty) {
            self.scrap(pin, empty);
        }
    }

    /// Gives an empty magazine's memory back.
    pub(super) fn scrap(&self, pin: &CpuPin, empty: MagazineBox) {
        let object = empty.into_object();
        if let Some(magazines) = self.magazines(object) {
            magazines.fetch_sub(1, Ordering::Relaxed);
        }
        // SAFETY: magazines live in objects of that class.
        let slab = unsafe { Slab::of(object, MagazineBox::CLASS) };
        self.give(pin, slab, MagazineBox::CLASS, object, Patience::Bounded);
    }

    /// The counter of the magazines whose node is that of `object`, a magazine's memory.
    fn magazines(&self, object: NonNull<u8>) -> Option<&AtomicU64> {
        // SAFETY: magazines live in objects of that class.
        let slab = unsafe { Slab::of(object, MagazineBox::CLASS) };
        Some(&self.existing(slab.node())?.magazines)
    }

    /// Empties the depots of `node`.
    pub(super) fn clear_depots(&self, pin: &CpuPin, node: &NodeHeap) {
        for class in SizeClass::all() {
            let depot = &node.class(class).depot;
            while let Some(mut full) = depot.take_full() {
                self.flush(pin, node, class, &mut full);
                self.scrap(pin, full);
            }
            while let Some(empty) = depot.take_empty() {
                self.scrap(pin, empty);
            }
        }
    }

    /// Brings home what is on its way on `node`, and returns spare slabs.
    pub(super) fn clear_shelves(&self, pin: &CpuPin, node: &NodeHeap) {
        for class in SizeClass::all() {
            if let Some(mut shelf) = node.class(class).shelf.lock(&self.platform, Patience::Bounded) {
                shelf.release_spare();
                self.release(pin, class, shelf.unlock());
            }
        }
    }

    /// Returns emptied slabs' pages.
    pub(super) fn release(&self, pin: &CpuPin, class: SizeClass, mut emptied: Emptied) {
        while let Some(run) = emptied.pop_run() {
            // SAFETY: the run came from the source with this order, and held the slab until now.
            unsafe { self.source.free(pin, run, SlabShape::ALL[class.index()].order) };
        }
    }
}
