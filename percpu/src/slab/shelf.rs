//! A shelf: the slabs of one class on one node.
//!
//! # The way home
//!
//! The shelf's lists are under a lock that nobody waits for without bound. Whoever does not get
//! it, or frees from another node and should not touch it, pushes the object onto the *remote
//! stack* in its slab's header: one compare-and-swap, no lock. The push that finds the stack
//! empty also puts the slab into the shelf's *inbox*, so that it is found; the holder of the
//! lock takes the inbox as a whole, and with each slab its whole remote stack. Taking wholes by
//! swap is what keeps both stacks free of ABA.
//!
//! The invariants:
//! - A slab is in the inbox, or about to be put there by one context, exactly while its remote
//!   stack is not empty. So it is in the inbox at most once, and only who took it out of there
//!   takes its remote stack.
//! - An object on the remote stack counts as in use, so its slab is not taken apart: a context
//!   that still has to put the slab into the inbox finds it there.
//! - A new slab enters by the same door: its free objects are its first remote stack. Growing
//!   the heap, and an allocation that could not get the lock, thus need no lock.
//! - A context that does not get the lock takes a single object out of the inbox instead: it takes
//!   the inbox as a whole, pops one object off one slab's remote stack, and puts back every slab
//!   that has objects left.

use core::ptr::NonNull;

use crossbeam_utils::CachePadded;

use super::chain::Chain;
use super::class::{SizeClass, SlabShape};
use super::header::{Arrival, Inbox, Left, Place, Pushed, Slab};
use super::list::SlabList;
use crate::heap::Corruption;
use crate::try_lock::{Guard, Patience, TryLock};
use crate::{CpuPin, NodeId, Platform};

/// The slabs of one class on one node.
pub(crate) struct Shelf {
    lists: CachePadded<TryLock<Lists>>,
    /// On a line of its own: other nodes push here while this node's CPUs work on the lists.
    inbox: CachePadded<Inbox>,
}

impl Shelf {
    /// A shelf without slabs.
    pub(crate) fn new(class: SizeClass) -> Shelf {
        Shelf {
            lists: CachePadded::new(TryLock::new(Lists::new(class))),
            inbox: CachePadded::new(Inbox::new()),
        }
    }

    /// Takes the shelf's lock, and brings in what came home since; `None` where the lock was
    /// taken.
    pub(crate) fn lock<P: Platform>(
        &self,
        platform: &P,
        pin: &CpuPin,
        patience: Patience,
    ) -> Option<LockedShelf<'_>> {
        let mut lists = self.lists.lock(platform, pin, patience)?;
        self.inbox.take(|slab| {
            // SAFETY: the slab came from this shelf's inbox, so its remote stack is ours to take,
            // and the objects of that are nobody else's.
            unsafe { lists.take_in(slab, slab.take_remote()) };
        });
        Some(LockedShelf { lists })
    }

    /// Takes one object out of the inbox, without the lock: for contexts that do not get it.
    pub(crate) fn take_waiting(&self) -> Option<NonNull<u8>> {
        let mut taken = None;
        self.inbox.take(|slab| {
            if taken.is_none() {
                // SAFETY: the slab came from the inbox, and its remote stack was not taken.
                match unsafe { slab.pop_remote() } {
                    Some((object, Left::Nothing)) => return taken = Some(object),
                    Some((object, Left::Objects)) => taken = Some(object),
                    None => return,
                }
            }
            // SAFETY: the slab came from the inbox, and has objects on its remote stack.
            unsafe { self.inbox.push(slab) };
        });
        taken
    }

    /// Sends an object home without the lock. If that put the slab into the inbox, says what it
    /// found there.
    ///
    /// # Safety
    ///
    /// The caller owns `object`, an object of `slab`, which is this shelf's.
    pub(crate) unsafe fn send_home(&self, slab: Slab, object: NonNull<u8>) -> Option<Arrival> {
        // SAFETY: the caller's promise.
        match unsafe { slab.push_remote(object) } {
            // SAFETY: ours was the first, so the duty is ours; the object on the stack keeps
            // the slab alive until it has been in the inbox.
            Pushed::First => Some(unsafe { self.inbox.push(slab) }),
            Pushed::Later => None,
        }
    }

    /// Shelves a new slab with the objects that remain of it.
    ///
    /// # Safety
    ///
    /// The slab was made for this shelf; `rest` holds at least one of its objects, and all that
    /// nobody else has.
    pub(crate) unsafe fn add(&self, slab: Slab, rest: Chain) -> Arrival {
        // SAFETY: only we know the slab, and it gets into the inbox once, here.
        unsafe {
            slab.preset_remote(rest);
            self.inbox.push(slab)
        }
    }
}

/// A shelf's lists, locked. [`LockedShelf::unlock`] hands emptied slabs over, for no page goes
/// back while a lock is held; after a plain drop they wait for the next unlock.
#[must_use]
pub(crate) struct LockedShelf<'a> {
    lists: Guard<'a, Lists>,
}

impl LockedShelf<'_> {
    /// Moves free objects `onto` a chain until that has `wanted`, or none is left.
    pub(crate) fn take(&mut self, wanted: usize, onto: &mut Chain) {
        self.lists.take(wanted, onto);
    }

    /// Gives an object back.
    ///
    /// # Safety
    ///
    /// The caller owns `object`, an object of `slab`, which is this shelf's.
    pub(crate) unsafe fn give(&mut self, slab: Slab, object: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { self.lists.give(slab, object) };
    }

    /// Lets go of the spare slab too.
    pub(crate) fn release_spare(&mut self) {
        self.lists.release_spare();
    }

    /// Slabs, and free objects in them.
    pub(crate) fn counts(&self) -> ShelfCounts {
        self.lists.counts
    }

    /// The slabs that have an object in use.
    #[cfg(feature = "leak-tracking")]
    pub(crate) fn slabs_in_use(&self) -> impl Iterator<Item = Slab> {
        [&self.lists.partial, &self.lists.full].into_iter().flat_map(|list| {
            // SAFETY: the lock is held, and the slab is on the list.
            core::iter::successors(list.head(), |&slab| unsafe { list.after(slab) })
        })
    }

    /// Cross-checks the lists.
    pub(crate) fn validate(&self, node: NodeId, class: SizeClass) -> Result<(), Corruption> {
        self.lists.validate(node, class)
    }

    /// Unlocks, and hands over the slabs that have no object in use.
    pub(crate) fn unlock(mut self) -> Emptied {
        Emptied(core::mem::take(&mut self.lists.emptied))
    }
}

/// Slabs with no object in use, on no shelf any more. Dropping it loses their pages.
#[must_use]
pub(crate) struct Emptied(SlabList);

impl Emptied {
    /// Takes one slab apart; its run comes back.
    pub(crate) fn pop_run(&mut self) -> Option<NonNull<u8>> {
        // SAFETY: the slabs left their shelf with all objects free, so nobody else has a way to
        // them.
        unsafe { self.0.pop().map(|slab| slab.into_run()) }
    }
}

/// What a shelf holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ShelfCounts {
    /// Slabs that have been shelved.
    pub(crate) slabs: usize,
    /// Free objects in them.
    pub(crate) free: usize,
}

struct Lists {
    class: SizeClass,
    /// Slabs with a free object, and one in use.
    partial: SlabList,
    /// Slabs without a free object.
    full: SlabList,
    /// One slab without an object in use: the hysteresis, so that a caller that frees and
    /// allocates at a slab's edge does not send its pages to and fro.
    spare: Option<Slab>,
    /// Further slabs without an object in use, on their way out.
    emptied: SlabList,
    counts: ShelfCounts,
}

// SAFETY: the lists own their slabs, and nothing of them is tied to a CPU.
unsafe impl Send for Lists {}

impl Lists {
    fn new(class: SizeClass) -> Lists {
        Lists {
            class,
            partial: SlabList::EMPTY,
            full: SlabList::EMPTY,
            spare: None,
            emptied: SlabList::EMPTY,
            counts: ShelfCounts { slabs: 0, free: 0 },
        }
    }

    fn capacity(&self) -> usize {
        SlabShape::ALL[self.class.index()].capacity
    }

    /// A slab with free objects, on the partial list.
    fn available(&mut self) -> Option<Slab> {
        // SAFETY (here and below in this impl): `&mut self` exists under the shelf's lock only,
        // and each slab is on the list that its `place` names.
        self.partial.head().or_else(|| {
            let slab = self.spare.take()?;
            // SAFETY: the lock is held; the spare slab is on no list.
            unsafe {
                self.partial.push(slab);
                slab.shelved(|shelved| shelved.place = Place::Partial);
            }
            Some(slab)
        })
    }

    fn take(&mut self, wanted: usize, onto: &mut Chain) {
        while onto.len() < wanted
            && let Some(slab) = self.available()
        {
            // SAFETY: the lock is held.
            let (before, left) = unsafe {
                slab.shelved(|shelved| {
                    let before = shelved.free.len();
                    shelved.free.move_to(wanted - onto.len(), onto);
                    (before, shelved.free.len())
                })
            };
            // What a broken list has lost stays out, like what was moved.
            self.counts.free -= before - left;
            if left == 0 {
                // SAFETY: the lock is held, and the slab is on the partial list.
                unsafe {
                    self.partial.remove(slab);
                    self.full.push(slab);
                    slab.shelved(|shelved| shelved.place = Place::Full);
                }
            }
        }
    }

    /// # Safety
    ///
    /// `slab` is this shelf's, and `freed` are objects of it that nobody else has.
    unsafe fn take_in(&mut self, slab: Slab, freed: Chain) {
        self.counts.free += freed.len();
        // SAFETY: the lock is held.
        let (place, free) = unsafe {
            slab.shelved(|shelved| {
                freed.pour(&mut shelved.free);
                (shelved.place, shelved.free.len())
            })
        };
        // SAFETY: the slab is this shelf's, and this is what it says.
        unsafe { self.list(slab, place, free) };
    }

    /// # Safety
    ///
    /// `object` is an object of `slab`, which is this shelf's, and nobody else has it.
    #[inline]
    unsafe fn give(&mut self, slab: Slab, object: NonNull<u8>) {
        self.counts.free += 1;
        // SAFETY: the lock is held, and the object is of the slab.
        let (place, free) = unsafe {
            slab.shelved(|shelved| {
                shelved.free.push(object);
                (shelved.place, shelved.free.len())
            })
        };
        // SAFETY: the slab is this shelf's, and this is what it says.
        unsafe { self.list(slab, place, free) };
    }

    /// Puts `slab`, which is at `place` and has `free` free objects, on the list that this asks for.
    ///
    /// # Safety
    ///
    /// The slab is this shelf's.
    #[inline]
    unsafe fn list(&mut self, slab: Slab, place: Place, free: usize) {
        let target = if free < self.capacity() { Place::Partial } else { Place::Spare };
        if place != target {
            // SAFETY: the caller's promise.
            unsafe { self.relist(slab, place, target) };
        }
    }

    /// # Safety
    ///
    /// As for [`Lists::list`].
    #[inline(never)]
    unsafe fn relist(&mut self, slab: Slab, place: Place, target: Place) {
        self.counts.slabs += usize::from(place == Place::Unshelved);
        // SAFETY: the lock is held, and `place` names the list.
        unsafe {
            match place {
                Place::Partial => self.partial.remove(slab),
                Place::Full => self.full.remove(slab),
                Place::Spare | Place::Unshelved => {}
            }
            slab.shelved(|shelved| shelved.place = target);
            match target {
                Place::Spare if self.spare.is_none() => self.spare = Some(slab),
                Place::Spare => self.discard(slab),
                _ => self.partial.push(slab),
            }
        }
    }

    fn release_spare(&mut self) {
        if let Some(slab) = self.spare.take() {
            // SAFETY: the spare slab is on no list, with all objects free.
            unsafe { self.discard(slab) };
        }
    }

    /// # Safety
    ///
    /// The slab is this shelf's, on no list, with all objects free.
    unsafe fn discard(&mut self, slab: Slab) {
        self.counts.slabs -= 1;
        self.counts.free -= self.capacity();
        // SAFETY: the lock is held.
        unsafe { self.emptied.push(slab) };
    }

    fn validate(&self, node: NodeId, class: SizeClass) -> Result<(), Corruption> {
        let mut found = ShelfCounts::default();
        for (list, place) in [(&self.partial, Place::Partial), (&self.full, Place::Full)] {
            let mut cursor = list.head();
            while let Some(slab) = cursor {
                self.validate_slab(slab, place, node, class, &mut found)?;
                // SAFETY: the lock is held, and the slab is on the list.
                cursor = unsafe { list.after(slab) };
            }
        }
        if let Some(slab) = self.spare {
            self.validate_slab(slab, Place::Spare, node, class, &mut found)?;
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
        let fits = match expected {
            Place::Partial => counted > 0 && counted < shape.capacity,
            Place::Full => counted == 0,
            Place::Spare => counted == shape.capacity,
            Place::Unshelved => false,
        };
        if place != expected || !fits {
            return Err(Corruption::WrongList { slab: address, free: counted });
        }
        found.slabs += 1;
        found.free += counted;
        Ok(())
    }
}

#[cfg(all(test, loom))]
mod model;
