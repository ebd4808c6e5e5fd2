//! The data under a shelf's lock: the slabs of one class on one node, by their share of free
//! objects.

use core::ptr::NonNull;

use super::chain::Chain;
use super::class::SizeClass;
use super::header::{Place, Slab};
use super::list::SlabList;
use super::partial::Partial;
use super::shape::SlabShape;
use crate::NodeId;
use crate::heap::Corruption;

/// The contents of a shelf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ShelfCounts {
    /// Slabs that have been shelved.
    pub(crate) slabs: usize,
    /// Free objects in them.
    pub(crate) free: usize,
}

/// The lists of slabs.
pub(super) struct Lists {
    class: SizeClass,
    /// Slabs with at least one free object and at least one live object.
    partial: Partial,
    /// Slabs without a free object.
    full: SlabList,
    /// Slabs without a live object, as many as hold a magazine of objects, or one. They prevent a
    /// caller that frees and allocates at a slab's edge from returning and requesting its pages
    /// again and again.
    spare: SlabList,
    spares: u32,
    /// Further slabs without a live object, to be returned.
    emptied: SlabList,
    counts: ShelfCounts,
}

// SAFETY: the lists own their slabs, and nothing in them is tied to a CPU.
unsafe impl Send for Lists {}

impl Lists {
    pub(super) fn new(class: SizeClass) -> Lists {
        Lists {
            class,
            partial: Partial::new(SlabShape::ALL[class.index()].capacity),
            full: SlabList::EMPTY,
            spare: SlabList::EMPTY,
            spares: 0,
            emptied: SlabList::EMPTY,
            counts: ShelfCounts { slabs: 0, free: 0 },
        }
    }

    fn capacity(&self) -> usize {
        SlabShape::ALL[self.class.index()].capacity
    }

    /// Returns the number of slabs without a live object to keep.
    fn kept(&self) -> u32 {
        SlabShape::ALL[self.class.index()].spares as u32
    }

    pub(super) fn counts(&self) -> ShelfCounts {
        self.counts
    }

    /// Returns the slabs with a live object.
    #[cfg(feature = "leak-tracking")]
    pub(super) fn slabs_in_use(&self) -> impl Iterator<Item = Slab> {
        self.partial.lists().map(|(_, list)| list).chain([&self.full]).flat_map(|list| {
            // SAFETY: `&self` exists under the shelf's lock only, and the slab is on the list.
            core::iter::successors(list.head(), |&slab| unsafe { list.after(slab) })
        })
    }

    /// Hands over the slabs to be returned.
    pub(super) fn take_emptied(&mut self) -> SlabList {
        core::mem::take(&mut self.emptied)
    }

    /// Returns the list for a slab with `free` free objects.
    #[inline]
    fn place(&self, free: usize) -> Place {
        match free {
            0 => Place::Full,
            free if free < self.capacity() => Place::Partial(self.partial.vacancy(free)),
            _ => Place::Spare,
        }
    }

    /// Moves free objects `onto` a chain until it has `wanted` objects, or none is left. The slabs
    /// with the fewest free objects are used first, so the slabs with the most free objects can
    /// become free as a whole.
    pub(super) fn take(&mut self, wanted: usize, onto: &mut Chain) {
        while onto.len() < wanted
            && let Some(slab) = self.partial.fullest().or_else(|| self.spare.head())
        {
            // SAFETY: `&mut self` exists under the shelf's lock only, here and below in this impl.
            let (place, before, left) = unsafe {
                slab.shelved(|shelved| {
                    let before = shelved.free.len();
                    shelved.free.move_to(wanted - onto.len(), onto);
                    (shelved.place, before, shelved.free.len())
                })
            };
            // Objects lost behind an invalid link stay out, like the moved objects.
            self.counts.free -= before - left;
            // SAFETY: the slab belongs to the shelf, and holds this place and number.
            unsafe { self.list(slab, place, left) };
        }
    }

    /// Adds freed objects to their slab.
    ///
    /// # Safety
    ///
    /// `slab` belongs to the shelf, and `freed` are objects of it without other holders.
    pub(super) unsafe fn take_in(&mut self, slab: Slab, freed: Chain) {
        self.counts.free += freed.len();
        // SAFETY: the lock is held.
        let (place, free) = unsafe {
            slab.shelved(|shelved| {
                freed.pour(&mut shelved.free);
                (shelved.place, shelved.free.len())
            })
        };
        // SAFETY: the slab belongs to the shelf, and holds this place and number.
        unsafe { self.list(slab, place, free) };
    }

    /// Returns an object to its slab.
    ///
    /// # Safety
    ///
    /// `object` is an object of `slab` without other holders; `slab` belongs to the shelf.
    #[inline]
    pub(super) unsafe fn give(&mut self, slab: Slab, object: NonNull<u8>) {
        self.counts.free += 1;
        // SAFETY: the lock is held, and the object is of the slab.
        let (place, free) = unsafe {
            slab.shelved(|shelved| {
                shelved.free.push(object);
                (shelved.place, shelved.free.len())
            })
        };
        // SAFETY: the slab belongs to the shelf, and holds this place and number.
        unsafe { self.list(slab, place, free) };
    }

    /// Moves `slab`, at `place` and with `free` free objects, to the list for that number.
    ///
    /// # Safety
    ///
    /// The slab belongs to the shelf.
    #[inline]
    unsafe fn list(&mut self, slab: Slab, place: Place, free: usize) {
        let target = self.place(free);
        if place != target {
            // SAFETY: the caller's promise.
            unsafe { self.relist(slab, place, target) };
        }
    }

    /// Moves a slab from the list `place` to the list `target`.
    ///
    /// # Safety
    ///
    /// As for [`Lists::list`].
    #[inline(never)]
    unsafe fn relist(&mut self, slab: Slab, place: Place, target: Place) {
        // SAFETY: the lock is held, and `place` is the slab's list.
        unsafe {
            match place {
                Place::Partial(vacancy) => self.partial.remove(slab, vacancy),
                Place::Full => self.full.remove(slab),
                Place::Spare => {
                    self.spare.remove(slab);
                    self.spares -= 1;
                }
                Place::Unshelved => self.counts.slabs += 1,
            }
            slab.shelved(|shelved| shelved.place = target);
            match target {
                Place::Partial(vacancy) => self.partial.push(slab, vacancy),
                Place::Full => self.full.push(slab),
                Place::Spare if self.spares < self.kept() => {
                    self.spare.push(slab);
                    self.spares += 1;
                }
                Place::Spare | Place::Unshelved => self.discard(slab),
            }
        }
    }

    /// Discards the slabs without a live object.
    pub(super) fn release_spares(&mut self) {
        // SAFETY: the lock is held; each slab comes off the list, with all objects free.
        while let Some(slab) = unsafe { self.spare.pop() } {
            self.spares -= 1;
            // SAFETY: as above.
            unsafe { self.discard(slab) };
        }
    }

    /// Moves a slab to the slabs to be returned.
    ///
    /// # Safety
    ///
    /// The slab belongs to the shelf, is on no list, and has no live object.
    unsafe fn discard(&mut self, slab: Slab) {
        self.counts.slabs -= 1;
        self.counts.free -= self.capacity();
        // SAFETY: the lock is held.
        unsafe { self.emptied.push(slab) };
    }

    /// Cross-checks the lists, each slab on them, and the counters.
    pub(super) fn validate(&self, node: NodeId, class: SizeClass) -> Result<(), Corruption> {
        let mut found = ShelfCounts::default();
        let partial = self.partial.lists().map(|(vacancy, list)| (list, Place::Partial(vacancy)));
        for (list, place) in partial.chain([(&self.full, Place::Full), (&self.spare, Place::Spare)]) {
            let mut cursor = list.head();
            while let Some(slab) = cursor {
                self.validate_slab(slab, place, node, class, &mut found)?;
                // SAFETY: the lock is held, and the slab is on the list.
                cursor = unsafe { list.after(slab) };
            }
        }
        if found != self.counts {
            return Err(Corruption::Totals {
                node,
                class,
                counted_slabs: self.counts.slabs,
                found_slabs: found.slabs,
                counted_free: self.counts.free,
                found_free: found.free,
            });
        }
        Ok(())
    }

    fn validate_slab(
        &self,
        slab: Slab,
        expected: Place,
        node: NodeId,
        class: SizeClass,
        found: &mut ShelfCounts,
    ) -> Result<(), Corruption> {
        let address = slab.address();
        if slab.home(class) != Some(node) {
            return Err(Corruption::StraySlab { slab: address, node, class });
        }
        let shape = SlabShape::ALL[class.index()];
        let inside =
            |object: NonNull<u8>| shape.index_of(class, object.addr().get().wrapping_sub(address)).is_some();
        // SAFETY: the lock is held.
        let (place, counted, listed) = unsafe {
            slab.shelved(|shelved| (shelved.place, shelved.free.len(), shelved.free.recount(inside)))
        };
        if listed != counted {
            return Err(Corruption::FreeList { slab: address, counted, found: listed });
        }
        if place != expected || self.place(counted) != expected || counted > shape.capacity {
            return Err(Corruption::WrongList { slab: address, free: counted });
        }
        found.slabs += 1;
        found.free += counted;
        Ok(())
    }
}
