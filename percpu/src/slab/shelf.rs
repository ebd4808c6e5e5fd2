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
use super::class::SizeClass;
use super::header::{Arrival, Inbox, Left, Pushed, Slab};
use super::list::SlabList;
use super::lists::{Lists, ShelfCounts};
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

    /// Lets go of the spare slabs too.
    pub(crate) fn release_spares(&mut self) {
        self.lists.release_spares();
    }

    /// Slabs, and free objects in them.
    pub(crate) fn counts(&self) -> ShelfCounts {
        self.lists.counts()
    }

    /// The slabs that have an object in use.
    #[cfg(feature = "leak-tracking")]
    pub(crate) fn slabs_in_use(&self) -> impl Iterator<Item = Slab> {
        self.lists.slabs_in_use()
    }

    /// Cross-checks the lists.
    pub(crate) fn validate(&self, node: NodeId, class: SizeClass) -> Result<(), Corruption> {
        self.lists.validate(node, class)
    }

    /// Unlocks, and hands over the slabs that have no object in use.
    pub(crate) fn unlock(mut self) -> Emptied {
        Emptied(self.lists.take_emptied())
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

#[cfg(all(test, loom))]
mod model;
