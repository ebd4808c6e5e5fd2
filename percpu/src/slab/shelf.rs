//! A shelf: the slabs of one class on one node.
//!
//! # Frees without the lock
//!
//! The shelf's lists are under a lock, and no context waits for it without bound. A context that
//! does not get the lock, or frees from another node and should not take it, pushes the object onto
//! the *remote stack* in its slab's header: one compare-and-swap, no lock. The push onto an empty
//! stack also puts the slab into the shelf's *inbox*. The holder of the lock takes the inbox as a
//! whole, and with each slab its whole remote stack. Taking both as a whole by swap keeps them free
//! of ABA.
//!
//! The invariants:
//! - A slab is in the inbox, or about to be put there by one context, exactly while its remote
//!   stack is not empty. So it is in the inbox at most once, and only the context that took it out
//!   of there takes its remote stack.
//! - An object on the remote stack counts as live, so its slab is not dissolved: a context that
//!   still has to put the slab into the inbox finds it alive.
//! - A new slab also enters through the inbox: its free objects are its first remote stack. Thus
//!   growing the heap, and an allocation that could not get the lock, need no lock.
//! - A context that does not get the lock takes a single object out of the inbox instead: it takes
//!   the inbox as a whole, pops one object off one slab's remote stack, and puts back every slab
//!   with objects left.

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
    /// On its own line: CPUs of other nodes push here while this node's CPUs use the lists.
    inbox: CachePadded<Inbox>,
}

impl Shelf {
    /// Creates a shelf without slabs.
    pub(crate) fn new(class: SizeClass) -> Shelf {
        Shelf {
            lists: CachePadded::new(TryLock::new(Lists::new(class))),
            inbox: CachePadded::new(Inbox::new()),
        }
    }

    /// Takes the shelf's lock, and collects the inbox. Returns `None` if the lock stayed taken.
    pub(crate) fn lock<P: Platform>(
        &self,
        platform: &P,
        pin: &CpuPin,
        patience: Patience,
    ) -> Option<LockedShelf<'_>> {
        let mut lists = self.lists.lock(platform, pin, patience)?;
        self.inbox.take(|slab| {
            // SAFETY: the slab came from this shelf's inbox, so this context takes its remote
            // stack, whose objects have no other holders.
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

    /// Returns an object to its slab without the lock. If the slab was put into the inbox by that,
    /// returns the state of the inbox.
    ///
    /// # Safety
    ///
    /// The caller owns `object`, an object of `slab`, which belongs to this shelf.
    pub(crate) unsafe fn send_home(&self, slab: Slab, object: NonNull<u8>) -> Option<Arrival> {
        // SAFETY: the caller's promise.
        match unsafe { slab.push_remote(object) } {
            // SAFETY: this push was the first, so this context has the duty; the object on the
            // stack keeps the slab alive until it has been in the inbox.
            Pushed::First => Some(unsafe { self.inbox.push(slab) }),
            Pushed::Later => None,
        }
    }

    /// Shelves a new slab with its remaining objects.
    ///
    /// # Safety
    ///
    /// The slab was made for this shelf; `rest` holds at least one of its objects, and all those
    /// without another holder.
    pub(crate) unsafe fn add(&self, slab: Slab, rest: Chain) -> Arrival {
        // SAFETY: the slab is not published yet, and is put into the inbox once, here.
        unsafe {
            slab.preset_remote(rest);
            self.inbox.push(slab)
        }
    }
}

/// A shelf's locked lists. [`LockedShelf::unlock`] hands over emptied slabs, since no page is
/// returned under a lock; after a plain drop they wait for the next unlock.
#[must_use]
pub(crate) struct LockedShelf<'a> {
    lists: Guard<'a, Lists>,
}

impl LockedShelf<'_> {
    /// Moves free objects `onto` a chain until it has `wanted` objects, or none is left.
    pub(crate) fn take(&mut self, wanted: usize, onto: &mut Chain) {
        self.lists.take(wanted, onto);
    }

    /// Returns an object to its slab.
    ///
    /// # Safety
    ///
    /// The caller owns `object`, an object of `slab`, which belongs to this shelf.
    pub(crate) unsafe fn give(&mut self, slab: Slab, object: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { self.lists.give(slab, object) };
    }

    /// Discards the spare slabs too.
    pub(crate) fn release_spares(&mut self) {
        self.lists.release_spares();
    }

    /// Returns the number of slabs, and of free objects in them.
    pub(crate) fn counts(&self) -> ShelfCounts {
        self.lists.counts()
    }

    /// Returns the slabs with a live object.
    #[cfg(feature = "leak-tracking")]
    pub(crate) fn slabs_in_use(&self) -> impl Iterator<Item = Slab> {
        self.lists.slabs_in_use()
    }

    /// Cross-checks the lists.
    pub(crate) fn validate(&self, node: NodeId, class: SizeClass) -> Result<(), Corruption> {
        self.lists.validate(node, class)
    }

    /// Unlocks. Returns the slabs without a live object.
    pub(crate) fn unlock(mut self) -> Emptied {
        Emptied(self.lists.take_emptied())
    }
}

/// Slabs without a live object, removed from their shelf. Dropping them loses their pages.
#[must_use]
pub(crate) struct Emptied(SlabList);

impl Emptied {
    /// Dissolves one slab. Returns its run.
    pub(crate) fn pop_run(&mut self) -> Option<NonNull<u8>> {
        // SAFETY: the slabs left their shelf with all objects free, so no other context can reach
        // them.
        unsafe { self.0.pop().map(|slab| slab.into_run()) }
    }
}

#[cfg(all(test, loom))]
mod model;
