//! The depot: a node's shared stock of full magazines of one class.
//!
//! Each place is one pointer. To put a magazine there is a compare-and-swap from null, to take
//! it is a swap with null, so ownership moves in one atomic step: there is no lock that an
//! interrupted context could hold, no half-done push that a handler could wait for, and no next
//! pointer for an ABA to corrupt. The number of places bounds what a node hoards; a magazine
//! that finds none goes back to its slabs.

use core::ptr::{self, NonNull};

use crate::magazine::{MAX_ROUNDS, Magazine};
use crate::slab::SizeClass;
use crate::sync::atomic::{AtomicPtr, Ordering};

/// Places for magazines: a cache line of them. (Models need fewer, to end.)
pub(crate) const PLACES: usize = if cfg!(any(loom, miri)) { 2 } else { 8 };

/// The places that are used for magazines of fewer than [`MAX_ROUNDS`] objects. Each of these keeps about 20
/// KiB, and may keep slabs of several times as much from going home.
const PLACES_OF_LARGE: usize = PLACES / 2;

/// Magazines of one class, between CPUs of one node.
pub(crate) struct Depot {
    /// Null, or the first object of a magazine that belongs to the place.
    places: [AtomicPtr<u8>; PLACES],
}

impl Depot {
    /// A depot without magazines.
    pub(crate) fn new() -> Depot {
        Depot { places: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())) }
    }

    /// Takes a magazine.
    pub(crate) fn take(&self) -> Option<Magazine> {
        self.places.iter().find_map(|place| {
            // A glance first: a swap would pull the line away from its other users.
            if place.load(Ordering::Relaxed).is_null() {
                return None;
            }
            // Acquire pairs with the Release in `put`: we see the links of the objects.
            let first = NonNull::new(place.swap(ptr::null_mut(), Ordering::Acquire))?;
            // SAFETY: `put` gave the magazine up into the place, and the swap took it out.
            Some(unsafe { Magazine::new(first) })
        })
    }

    /// Returns how many magazines are here at a glance.
    pub(crate) fn magazines(&self) -> usize {
        // Relaxed: a count, by which nothing is decided.
        self.places.iter().filter(|place| !place.load(Ordering::Relaxed).is_null()).count()
    }

    /// Leaves a magazine of `class`.
    ///
    /// # Errors
    ///
    /// The magazine comes back if there is no place.
    pub(crate) fn put(&self, class: SizeClass, magazine: Magazine) -> Result<(), Magazine> {
        let places = if class.rounds() < MAX_ROUNDS { PLACES_OF_LARGE } else { PLACES };
        let first = magazine.into_first();
        for place in self.places.iter().take(places) {
            // Release pairs with the Acquire in `take`.
            let free = place.load(Ordering::Relaxed).is_null()
                && place
                    .compare_exchange(ptr::null_mut(), first.as_ptr(), Ordering::Release, Ordering::Relaxed)
                    .is_ok();
            if free {
                return Ok(());
            }
        }
        // SAFETY: no place took the magazine, so it is still ours.
        Err(unsafe { Magazine::new(first) })
    }
}

#[cfg(all(test, loom))]
mod model;
