//! State shared by all CPUs: shelves, depots, pages. Every path through here is bounded, and ends
//! with each object in exactly one place.

use core::ptr::NonNull;

use crate::heap::large::run::Run;
use crate::heap::large::runs::is_page;
use crate::heap::node::NodeHeap;
use crate::heap::node::table::FarNodes;
use crate::heap::{AllocError, Heap};
use crate::slab::{Chain, Emptied, SizeClass, Slab, SlabShape};
use crate::try_lock::Patience;
use crate::{CpuPin, NodeId, Order, OutOfMemory, PageSource, Platform};

/// The number of slabs in an inbox at which a remote freeing CPU collects them. Bounds the memory
/// held by emptied slabs if no CPU of the home node collects, and otherwise spares the lock.
///
/// Fewer for loom's models.
const INBOX_SLABS: usize = if cfg!(loom) { 2 } else { 4 };

/// The run with the addresses of the far nodes' heaps.
pub(in crate::heap) const FAR_ORDER: Order = match Order::for_bytes(size_of::<FarNodes>() as u64) {
    Some(order) => order,
    None => Order::GIANT,
};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Returns the heap of `node`, if the node has been used.
    #[inline]
    pub(in crate::heap) fn existing(&self, node: NodeId) -> Option<&NodeHeap> {
        // SAFETY: the address is a node heap's, which lives until the heap is dropped.
        self.nodes.get(node).map(|heap| unsafe { heap.as_ref() })
    }

    /// Returns the heaps of all used nodes.
    pub(in crate::heap) fn existing_nodes(&self) -> impl Iterator<Item = &NodeHeap> {
        // SAFETY: as above.
        self.nodes.iter().map(|heap| unsafe { heap.as_ref() })
    }

    /// Returns a run of pages, near `node`. Refuses a run not aligned to the run's size:
    /// slabs are found by masking addresses.
    pub(in crate::heap) fn pages(
        &self,
        pin: &CpuPin,
        node: NodeId,
        order: Order,
    ) -> Result<NonNull<u8>, AllocError> {
        let run = self.source.allocate(pin, node, order)?;
        let address = run.addr().get();
        if address as u64 & (order.bytes() - 1) != 0 {
            // SAFETY: the run just came from the source, for the order.
            unsafe { self.source.free(pin, run, order) };
            return Err(AllocError::MisalignedRun { address, order });
        }
        Ok(run)
    }

    /// Returns the heap of `node`, creating the heap at the first use.
    pub(in crate::heap) fn node(&self, pin: &CpuPin, node: NodeId) -> Result<&NodeHeap, AllocError> {
        if let Some(heap) = self.existing(node) {
            return Ok(heap);
        }
        self.place_far_nodes(pin, node)?;
        let run = self.source.allocate_run(pin, node, NodeHeap::LENGTH, Order::FRAME)?;
        let address = run.addr().get();
        if !is_page(address) {
            // SAFETY: the run just came from the source, with the length.
            unsafe { self.source.free_run(pin, run, NodeHeap::LENGTH) };
            return Err(AllocError::MisalignedRun { address, order: Order::FRAME });
        }
        // SAFETY: the run is of that length, and owned.
        let fresh = unsafe { NodeHeap::new_in(run, node) };
        if !self.nodes.place(node, fresh) {
            // Another context was faster. SAFETY: the node heap was never published.
            unsafe { self.source.free_run(pin, run, NodeHeap::LENGTH) };
        }
        Ok(self.existing(node).ok_or(OutOfMemory)?)
    }

    /// Gives `node` a place for the address of the node's heap: nodes from the 65th on share a run of pages.
    fn place_far_nodes(&self, pin: &CpuPin, node: NodeId) -> Result<(), AllocError> {
        if !self.nodes.has_room(node) {
            let run = self.pages(pin, node, FAR_ORDER)?;
            // SAFETY: the run is ours, large and aligned enough, and goes back when the heap is dropped.
            if !unsafe { self.nodes.extend(run) } {
                // Another context was faster. SAFETY: the run was never published.
                unsafe { self.source.free(pin, run, FAR_ORDER) };
            }
        }
        Ok(())
    }

    /// Returns the bytes of the far nodes' addresses.
    pub(in crate::heap) fn far_node_bytes(&self) -> u64 {
        if self.nodes.is_extended() { FAR_ORDER.bytes() } else { 0 }
    }

    /// Returns up to `wanted` free objects: of the shelf of `home`, or else of a new slab. Returns
    /// at least one object, or an error.
    pub(in crate::heap) fn take(
        &self,
        pin: &CpuPin,
        home: &NodeHeap,
        class: SizeClass,
        patience: Patience,
        wanted: usize,
    ) -> Result<Chain, AllocError> {
        let taken = self.take_shelved(pin, home, class, patience, wanted);
        if taken.len() > 0 { Ok(taken) } else { self.grow(pin, home, class, wanted) }
    }

    /// Returns one free object of the shelf of `home`, or of a new slab.
    pub(in crate::heap) fn take_one(
        &self,
        pin: &CpuPin,
        home: &NodeHeap,
        class: SizeClass,
        patience: Patience,
    ) -> Result<NonNull<u8>, AllocError> {
        self.take(pin, home, class, patience, 1)?.pop().ok_or(AllocError::OutOfMemory)
    }

    /// Returns one free object of any node's shelf, and the node.
    pub(in crate::heap) fn take_anywhere(
        &self,
        pin: &CpuPin,
        class: SizeClass,
        patience: Patience,
    ) -> Result<(&NodeHeap, NonNull<u8>), OutOfMemory> {
        for home in self.existing_nodes() {
            if let Some(object) = self.take_shelved(pin, home, class, patience, 1).pop() {
                return Ok((home, object));
            }
        }
        Err(OutOfMemory)
    }

    /// Returns up to `wanted` free objects of the shelf of `home`.
    fn take_shelved(
        &self,
        pin: &CpuPin,
        home: &NodeHeap,
        class: SizeClass,
        patience: Patience,
        wanted: usize,
    ) -> Chain {
        let shelf = &home.class(class).shelf;
        let mut taken = Chain::EMPTY;
        let Some(mut locked) = shelf.lock(&self.platform, pin, patience) else {
            // One object is enough. Without the object, every context interrupting a use of the lock
            // would make a slab.
            if let Some(object) = shelf.take_waiting() {
                // SAFETY: the context owns the object, which is of the class.
                unsafe { taken.push(object) };
            }
            return taken;
        };
        locked.take(wanted, &mut taken);
        self.release(pin, class, locked.unlock());
        taken
    }

    /// Makes a slab, takes the wanted objects, and shelves the slab with the rest. The slab belongs
    /// to `home` even if the source only had pages of another node. Slabs are searched at `home`: the
    /// next miss finds the slab, and frees into the slab are local.
    fn grow(
        &self,
        pin: &CpuPin,
        home: &NodeHeap,
        class: SizeClass,
        wanted: usize,
    ) -> Result<Chain, AllocError> {
        let order = SlabShape::ALL[class.index()].order;
        let run = self.recorded_pages(pin, home.node, order, Run::Slab(class))?;
        #[cfg(feature = "hardening")]
        // SAFETY: the context owns the run.
        unsafe {
            self.harden_slab(run, order);
        }
        // SAFETY: the run is of the class's order, and owned.
        let (slab, mut rest) = unsafe { Slab::new_in(run, class, home.node) };
        let mut taken = Chain::EMPTY;
        rest.move_to(wanted.min(rest.len() - 1), &mut taken);
        // SAFETY: the slab is new, of this home and class, with at least one object left.
        let arrival = unsafe { home.class(class).shelf.add(slab, rest) };
        home.arrivals.note_arrival(class, arrival);
        Ok(taken)
    }

    /// Returns one object to the object's slab, of `home`.
    pub(in crate::heap) fn give(
        &self,
        pin: &CpuPin,
        home: &NodeHeap,
        class: SizeClass,
        slab: Slab,
        object: NonNull<u8>,
        patience: Patience,
    ) -> u64 {
        match home.class(class).shelf.lock(&self.platform, pin, patience) {
            Some(mut locked) => {
                // SAFETY: the context owns the object, and its slab belongs to the shelf.
                unsafe { locked.give(slab, object) };
                self.release(pin, class, locked.unlock())
            }
            None => {
                self.send_home(home, class, slab, object);
                0
            }
        }
    }

    /// Returns one object to the object's slab, of another node than the CPU's. Takes no lock, unless too
    /// many slabs wait in the inbox.
    pub(in crate::heap) fn free_remotely(
        &self,
        pin: &CpuPin,
        home: &NodeHeap,
        class: SizeClass,
        slab: Slab,
        object: NonNull<u8>,
    ) {
        if self.send_home(home, class, slab, object) >= INBOX_SLABS {
            self.collect(pin, home, class, Patience::None);
        }
    }

    /// Returns one object to the object's slab, of `home`, without the lock. Returns the number of slabs in
    /// the inbox if the call put the slab there, and otherwise 0.
    fn send_home(&self, home: &NodeHeap, class: SizeClass, slab: Slab, object: NonNull<u8>) -> usize {
        // SAFETY: the context owns the object, and its slab belongs to the shelf.
        let Some(arrival) = (unsafe { home.class(class).shelf.send_home(slab, object) }) else { return 0 };
        home.arrivals.note_arrival(class, arrival);
        arrival.waiting
    }

    /// Collects the inbox of one shelf, and returns emptied slabs' pages.
    pub(in crate::heap) fn collect(
        &self,
        pin: &CpuPin,
        home: &NodeHeap,
        class: SizeClass,
        patience: Patience,
    ) -> u64 {
        match home.class(class).shelf.lock(&self.platform, pin, patience) {
            Some(locked) => self.release(pin, class, locked.unlock()),
            None => {
                home.arrivals.note(class);
                0
            }
        }
    }

    /// Collects the inboxes of all shelves of `home`. Cost: one load if all are empty.
    pub(in crate::heap) fn collect_arrivals(&self, pin: &CpuPin, home: &NodeHeap) -> u64 {
        home.arrivals.take().map(|class| self.collect(pin, home, class, Patience::Bounded)).sum()
    }

    /// Returns objects of `node` to the slabs. Returns the number of frames freed.
    pub(in crate::heap) fn flush(
        &self,
        pin: &CpuPin,
        node: &NodeHeap,
        class: SizeClass,
        patience: Patience,
        mut objects: Chain,
    ) -> u64 {
        let mut locked = node.class(class).shelf.lock(&self.platform, pin, patience);
        while let Some(object) = objects.pop() {
            // SAFETY: the objects are of the class.
            let slab = unsafe { Slab::of(object, class) };
            match &mut locked {
                // SAFETY: the context owns the object, and its slab is the node's.
                Some(shelf) => unsafe { shelf.give(slab, object) },
                None => {
                    self.send_home(node, class, slab, object);
                }
            }
        }
        locked.map_or(0, |locked| self.release(pin, class, locked.unlock()))
    }

    /// Empties the depots of `node`.
    pub(in crate::heap) fn clear_depots(&self, pin: &CpuPin, node: &NodeHeap, patience: Patience) -> u64 {
        let mut frames = 0;
        for class in SizeClass::all() {
            let depot = &node.class(class).depot;
            // At most as often as the depot has places: remote CPUs may refill the places meanwhile.
            for _ in 0..crate::depot::PLACES {
                let Some(full) = depot.take(class, pin.cpu()) else { break };
                // SAFETY: the depot's magazines are of its class.
                frames += self.flush(pin, node, class, patience, unsafe { full.into_chain(class) });
            }
        }
        frames
    }

    /// Collects the inboxes of `node`, and returns spare slabs.
    pub(in crate::heap) fn clear_shelves(&self, pin: &CpuPin, node: &NodeHeap, patience: Patience) -> u64 {
        let mut frames = 0;
        for class in SizeClass::all() {
            if let Some(mut shelf) = node.class(class).shelf.lock(&self.platform, pin, patience) {
                shelf.release_spares();
                frames += self.release(pin, class, shelf.unlock());
            }
        }
        frames
    }

    /// Returns emptied slabs' pages to the source. Returns the number of frames freed.
    pub(in crate::heap) fn release(&self, pin: &CpuPin, class: SizeClass, mut emptied: Emptied) -> u64 {
        let order = SlabShape::ALL[class.index()].order;
        let mut frames = 0;
        while let Some(run) = emptied.pop_run() {
            self.runs.strike(run.addr().get(), Run::Slab(class));
            // SAFETY: the run came from the source with the order, and held the slab until now.
            unsafe { self.source.free(pin, run, order) };
            frames += order.frames();
        }
        frames
    }
}
