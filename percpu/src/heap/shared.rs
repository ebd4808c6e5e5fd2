//! What all CPUs share: shelves, depots, pages. Every way through here is bounded, and ends
//! with each object in exactly one place.

use core::ptr::NonNull;

use super::node::NodeHeap;
use super::runs::Run;
use super::{AllocError, Heap};
use crate::magazine::{Magazine, MagazineBox};
use crate::slab::{Emptied, SizeClass, Slab, SlabShape};
use crate::sync::atomic::Ordering;
use crate::try_lock::Patience;
use crate::{CpuPin, NodeId, Order, OutOfMemory, PageSource, Platform};

/// How many slabs wait in an inbox before a CPU that frees there from elsewhere collects them. It
/// bounds what emptied slabs hold if no CPU of their node comes by, and spares the lock else.
const INBOX_SLABS: usize = 4;

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// The heap of `node`, if it has been used.
    #[inline]
    pub(super) fn existing(&self, node: NodeId) -> Option<&NodeHeap> {
        // Acquire pairs with the Release in `node`.
        // SAFETY: a non-null address is a node heap's, which lives until the heap is dropped.
        unsafe { self.nodes[node.index()].load(Ordering::Acquire).as_ref() }
    }

    /// The heaps of all nodes that have been used.
    pub(super) fn existing_nodes(&self) -> impl Iterator<Item = &NodeHeap> {
        (0..self.nodes.len()).filter_map(NodeId::new).filter_map(|node| self.existing(node))
    }

    /// A run of pages, near `node`. Refuses a run that is not aligned to its own size: slabs are
    /// found by masking addresses.
    pub(super) fn pages(&self, pin: &CpuPin, node: NodeId, order: Order) -> Result<NonNull<u8>, AllocError> {
        let run = self.source.allocate(pin, node, order)?;
        let address = run.addr().get();
        if address as u64 & (order.bytes() - 1) != 0 {
            // SAFETY: the run just came from the source, for this order.
            unsafe { self.source.free(pin, run, order) };
            return Err(AllocError::MisalignedRun { address, order });
        }
        Ok(run)
    }

    /// The heap of `node`, made if need be.
    pub(super) fn node(&self, pin: &CpuPin, node: NodeId) -> Result<&NodeHeap, AllocError> {
        if let Some(heap) = self.existing(node) {
            return Ok(heap);
        }
        let run = self.pages(pin, node, NodeHeap::ORDER)?;
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

    /// Moves free objects `into` an empty magazine until it holds `wanted`: from the shelf of
    /// `home`, or else from a new slab. At least one, or an error.
    pub(super) fn take(
        &self,
        pin: &CpuPin,
        home: &NodeHeap,
        class: SizeClass,
        patience: Patience,
        wanted: usize,
        into: &mut Magazine,
    ) -> Result<(), AllocError> {
        self.take_shelved(pin, home, class, patience, wanted, into);
        if into.len() > 0 { Ok(()) } else { self.grow(pin, home, class, wanted, into) }
    }

    /// One free object of the shelf of `home`, or of a new slab.
    pub(super) fn take_one(
        &self,
        pin: &CpuPin,
        home: &NodeHeap,
        class: SizeClass,
        patience: Patience,
    ) -> Result<NonNull<u8>, AllocError> {
        let mut one = Magazine::new();
        self.take(pin, home, class, patience, 1, &mut one)?;
        one.pop().ok_or(AllocError::OutOfMemory)
    }

    /// One free object of any node's shelf, and the node.
    pub(super) fn take_anywhere(
        &self,
        pin: &CpuPin,
        class: SizeClass,
        patience: Patience,
    ) -> Result<(&NodeHeap, NonNull<u8>), OutOfMemory> {
        let mut one = Magazine::new();
        for home in self.existing_nodes() {
            self.take_shelved(pin, home, class, patience, 1, &mut one);
            if let Some(object) = one.pop() {
                return Ok((home, object));
            }
        }
        Err(OutOfMemory)
    }

    fn take_shelved(
        &self,
        pin: &CpuPin,
        home: &NodeHeap,
        class: SizeClass,
        patience: Patience,
        wanted: usize,
        into: &mut Magazine,
    ) {
        let shelf = &home.class(class).shelf;
        let Some(mut locked) = shelf.lock(&self.platform, pin, patience) else {
            // Only what is on its way home can be reached without the lock. If it were left, every
            // use that is nested in a use of the lock would make a slab of its own.
            if let Some(object) = shelf.take_waiting()
                && let Err(object) = into.push(class, object)
            {
                // SAFETY: the object is ours, and of this shelf.
                self.send_home(home, class, unsafe { Slab::of(object, class) }, object);
            }
            return;
        };
        while into.len() < wanted {
            let Some(object) = locked.take() else { break };
            if let Err(object) = into.push(class, object) {
                // SAFETY: the object was just taken from this shelf.
                unsafe { locked.give(Slab::of(object, class), object) };
                break;
            }
        }
        self.release(pin, class, locked.unlock());
    }

    /// Makes a slab, takes what is wanted of it, and shelves it with the rest. The slab belongs to
    /// `home` even if the source had only another node's pages: there it is looked for, so the
    /// next miss finds it, and frees into it are local.
    fn grow(
        &self,
        pin: &CpuPin,
        home: &NodeHeap,
        class: SizeClass,
        wanted: usize,
        into: &mut Magazine,
    ) -> Result<(), AllocError> {
        let order = SlabShape::ALL[class.index()].order;
        let run = self.recorded_pages(pin, home.node, order, Run::Slab(class))?;
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
        // SAFETY: the slab is new, of this home and class, with at least one object left.
        let arrival = unsafe { home.class(class).shelf.add(slab, rest) };
        home.note_arrival(class, arrival);
        Ok(())
    }

    /// Gives one object to its slab, of `home`.
    pub(super) fn give(
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
                // SAFETY: the object is ours to give, and its slab belongs to this shelf.
                unsafe { locked.give(slab, object) };
                self.release(pin, class, locked.unlock())
            }
            None => {
                self.send_home(home, class, slab, object);
                0
            }
        }
    }

    /// Gives one object to its slab, of another node than the CPU's: without the lock, but for one
    /// that finds too much in the inbox.
    pub(super) fn free_remotely(
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

    /// Gives one object to its slab, of `home`, without the lock. If that put the slab into the
    /// inbox, says how many wait there.
    fn send_home(&self, home: &NodeHeap, class: SizeClass, slab: Slab, object: NonNull<u8>) -> usize {
        // SAFETY: the object is ours to give, and its slab belongs to this shelf.
        let Some(arrival) = (unsafe { home.class(class).shelf.send_home(slab, object) }) else { return 0 };
        home.note_arrival(class, arrival);
        arrival.waiting
    }

    /// Brings in what came home to one shelf, and returns emptied slabs' pages.
    fn collect(&self, pin: &CpuPin, home: &NodeHeap, class: SizeClass, patience: Patience) -> u64 {
        match home.class(class).shelf.lock(&self.platform, pin, patience) {
            Some(locked) => self.release(pin, class, locked.unlock()),
            None => {
                home.note(class);
                0
            }
        }
    }

    /// Brings in what came home to any shelf of `home`. One load if nothing did.
    pub(super) fn collect_arrivals(&self, pin: &CpuPin, home: &NodeHeap) -> u64 {
        home.take_arrivals().map(|class| self.collect(pin, home, class, Patience::Bounded)).sum()
    }

    /// Empties a magazine of `node`'s into the slabs.
    pub(super) fn flush(
        &self,
        pin: &CpuPin,
        node: &NodeHeap,
        class: SizeClass,
        patience: Patience,
        magazine: &mut Magazine,
    ) -> u64 {
        let mut locked = node.class(class).shelf.lock(&self.platform, pin, patience);
        while let Some(object) = magazine.pop() {
            // SAFETY: a magazine's objects are its class's, and the magazine's own.
            let slab = unsafe { Slab::of(object, class) };
            match &mut locked {
                // SAFETY: as above, and a magazine holds its node's objects only.
                Some(shelf) => unsafe { shelf.give(slab, object) },
                None => {
                    self.send_home(node, class, slab, object);
                }
            }
        }
        locked.map_or(0, |locked| self.release(pin, class, locked.unlock()))
    }

    /// An empty magazine from the depot, or a new one; `None` if there is no memory for it.
    pub(super) fn empty_magazine(
        &self,
        pin: &CpuPin,
        node: &NodeHeap,
        class: SizeClass,
    ) -> Option<MagazineBox> {
        if let Some(empty) = node.class(class).depot.take_empty() {
            return Some(empty);
        }
        let object = self.take_one(pin, node, MagazineBox::CLASS, Patience::Bounded).ok()?;
        node.magazines.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the object is of that class, and ours.
        Some(unsafe { MagazineBox::new_in(object) })
    }

    /// Leaves an empty magazine in the depot, or gives its memory back.
    pub(super) fn retire(&self, pin: &CpuPin, node: &NodeHeap, class: SizeClass, empty: MagazineBox) {
        if let Err(empty) = node.class(class).depot.put_empty(empty) {
            self.scrap(pin, node, empty, Patience::Bounded);
        }
    }

    /// Gives the memory of an empty magazine of `node`'s back.
    pub(super) fn scrap(&self, pin: &CpuPin, node: &NodeHeap, empty: MagazineBox, patience: Patience) -> u64 {
        let object = empty.into_object();
        node.magazines.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: magazines live in objects of that class, of their own node.
        let slab = unsafe { Slab::of(object, MagazineBox::CLASS) };
        self.give(pin, node, MagazineBox::CLASS, slab, object, patience)
    }

    /// Empties the depots of `node`.
    pub(super) fn clear_depots(&self, pin: &CpuPin, node: &NodeHeap, patience: Patience) -> u64 {
        let mut frames = 0;
        for class in SizeClass::all() {
            let depot = &node.class(class).depot;
            // No more than there are places: other CPUs may refill them meanwhile.
            for _ in 0..crate::depot::FULL {
                let Some(mut full) = depot.take_full() else { break };
                frames += self.flush(pin, node, class, patience, &mut full);
                frames += self.scrap(pin, node, full, patience);
            }
            for _ in 0..crate::depot::EMPTY {
                let Some(empty) = depot.take_empty() else { break };
                frames += self.scrap(pin, node, empty, patience);
            }
        }
        frames
    }

    /// Brings home what is on its way on `node`, and returns spare slabs.
    pub(super) fn clear_shelves(&self, pin: &CpuPin, node: &NodeHeap, patience: Patience) -> u64 {
        let mut frames = 0;
        for class in SizeClass::all() {
            if let Some(mut shelf) = node.class(class).shelf.lock(&self.platform, pin, patience) {
                shelf.release_spare();
                frames += self.release(pin, class, shelf.unlock());
            }
        }
        frames
    }

    /// Returns emptied slabs' pages, and says how many frames that are.
    pub(super) fn release(&self, pin: &CpuPin, class: SizeClass, mut emptied: Emptied) -> u64 {
        let order = SlabShape::ALL[class.index()].order;
        let mut frames = 0;
        while let Some(run) = emptied.pop_run() {
            self.runs.strike(run.addr().get(), Run::Slab(class));
            // SAFETY: the run came from the source with this order, and held the slab until now.
            unsafe { self.source.free(pin, run, order) };
            frames += order.frames();
        }
        frames
    }
}
