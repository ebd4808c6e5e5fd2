//! The depot: a node's shared stock of full magazines of one class.
//!
//! Each place is one pointer. Putting a magazine is a compare-and-swap from null, and taking a
//! magazine is a swap with null, so ownership moves in one atomic step. There is no lock for an
//! interrupted context to hold, no half-done push for a handler to wait for, and no next pointer
//! for an ABA to corrupt. The number of places bounds the node's stock; a magazine without a place
//! goes back to its slabs.

use core::ptr::{self, NonNull};

use crate::magazine::{MAX_ROUNDS, Magazine};
use crate::slab::SizeClass;
use crate::sync::atomic::{AtomicPtr, Ordering};

/// The number of places for magazines: a cache line of pointers. (Models need fewer, to end.)
pub(crate) const PLACES: usize = if cfg!(any(loom, miri)) { 2 } else { 8 };

/// The number of places for magazines of fewer than [`MAX_ROUNDS`] objects. Each of these magazines
/// keeps about 20 KiB, and may keep several times as much in slabs from being freed.
const PLACES_OF_LARGE: usize = PLACES / 2;

/// Magazines of one class, shared between the CPUs of one node.
pub(crate) struct Depot {
    /// Null, or the first object of a magazine that belongs to the place.
    places: [AtomicPtr<u8>; PLACES],
}

impl Depot {
    /// Creates a depot without magazines.
    pub(crate) fn new() -> Depot {
        Depot { places: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())) }
    }

    /// Takes a magazine.
    pub(crate) fn take(&self) -> Option<Magazine> {
        self.places.iter().find_map(|place| {
            // A load first: a swap would pull the line away from its other users.
            if place.load(Ordering::Relaxed).is_null() {
                return None;
            }
            // Acquire pairs with the Release in `put`: makes the links of the objects visible.
            let first = NonNull::new(place.swap(ptr::null_mut(), Ordering::Acquire))?;
            // SAFETY: `put` gave the magazine up into the place, and the swap took it out.
            Some(unsafe { Magazine::new(first) })
        })
    }

    /// Returns the number of magazines present.
    pub(crate) fn magazines(&self) -> usize {
        // Relaxed: a statistic; no decision depends on it.
        self.places.iter().filter(|place| !place.load(Ordering::Relaxed).is_null()).count()
    }

    /// Leaves a magazine of `class`.
    ///
    /// # Errors
    ///
    /// Returns the magazine if every place is taken.
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
        // SAFETY: no place took the magazine, so this context still owns it.
        Err(unsafe { Magazine::new(first) })
    }
}

#[cfg(all(test, loom))]
mod model;
