//! A shelf: the slabs of one class on one node.
//!
//! # Frees without the lock
//!
//! The shelf's lists are under a lock, and no context waits for the lock without bound. A context
//! without the lock, or on a CPU of another node, pushes the object onto the *remote stack* in the
//! header of the slab: one compare-and-swap, no lock. The push onto an empty stack also puts the
//! slab into the shelf's *inbox*. The holder of the lock takes the whole inbox, and the whole remote
//! stack of each slab. Inbox and stacks are taken whole, by swap, and are therefore free of ABA.
//!
//! The invariants:
//! - A slab is in the inbox, or about to be put there by one context, exactly while the slab's
//!   remote stack is not empty. A slab is therefore in the inbox at most once, and only the context
//!   that took the slab out of the inbox takes the remote stack.
//! - An object on the remote stack counts as live, and keeps the slab from being dissolved: a
//!   context that still has to put the slab into the inbox finds the slab alive.
//! - A new slab also enters through the inbox: the free objects are the first remote stack. Thus
//!   growing the heap, and an allocation without the lock, need no lock.
//! - An allocation without the lock takes a single object out of the inbox: the context takes the
//!   whole inbox, pops one object off the remote stack of one slab, and puts back every slab with
//!   objects left.

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

// With the lock's word, the lists are one aligned pair of cache lines.
const _: () = assert!(cfg!(loom) || size_of::<TryLock<Lists>>() <= 128);

/// The slabs of one class on one node.
pub(crate) struct Shelf {
    lists: CachePadded<TryLock<Lists>>,
    /// On a separate line: CPUs of remote nodes push here while the node's CPUs use the lists.
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
            // SAFETY: the slab came from the shelf's inbox, so the context takes its remote
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

    /// Returns an object to the slab without the lock. Returns the state of the inbox if the slab was
    /// put there.
    ///
    /// # Safety
    ///
    /// The caller owns `object`, an object of `slab`, a slab of the shelf.
    pub(crate) unsafe fn send_home(&self, slab: Slab, object: NonNull<u8>) -> Option<Arrival> {
        // SAFETY: the caller's promise.
        match unsafe { slab.push_remote(object) } {
            // SAFETY: the push was the first, and the context has the duty; the object on the
            // stack keeps the slab alive until the slab has been in the inbox.
            Pushed::First => Some(unsafe { self.inbox.push(slab) }),
            Pushed::Later => None,
        }
    }

    /// Shelves a new slab with the remaining objects.
    ///
    /// # Safety
    ///
    /// The slab was made for the shelf; `rest` holds at least one object of the slab, and all
    /// objects without another holder.
    pub(crate) unsafe fn add(&self, slab: Slab, rest: Chain) -> Arrival {
        // SAFETY: the slab is not published yet, and is put into the inbox once, here.
        unsafe {
            slab.preset_remote(rest);
            self.inbox.push(slab)
        }
    }
}

/// A shelf's locked lists. [`LockedShelf::unlock`] hands over emptied slabs, since no page is
/// returned under a lock; after a plain drop emptied slabs wait for the next unlock.
#[must_use]
pub(crate) struct LockedShelf<'a> {
    lists: Guard<'a, Lists>,
}

impl LockedShelf<'_> {
    /// Moves free objects `onto` a chain until it has `wanted` objects, or none is left.
    pub(crate) fn take(&mut self, wanted: usize, onto: &mut Chain) {
        self.lists.take(wanted, onto);
    }

    /// Returns an object to the slab.
    ///
    /// # Safety
    ///
    /// The caller owns `object`, an object of `slab`, which belongs to the shelf.
    pub(crate) unsafe fn give(&mut self, slab: Slab, object: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { self.lists.give(slab, object) };
    }

    /// Discards the spare slabs too.
    pub(crate) fn release_spares(&mut self) {
        self.lists.release_spares();
    }

    /// Returns the number of slabs, and of free objects in slabs.
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

/// Slabs without a live object, removed from the shelf. A drop loses the pages of the slabs.
#[must_use]
pub(crate) struct Emptied(SlabList);

impl Emptied {
    /// Dissolves one slab. Returns the run of the slab.
    pub(crate) fn pop_run(&mut self) -> Option<NonNull<u8>> {
        // SAFETY: the slabs left the shelf with all objects free, and no other context can reach
        // the slabs.
        unsafe { self.0.pop().map(|slab| slab.into_run()) }
    }
}

#[cfg(all(test, loom))]
mod model;
