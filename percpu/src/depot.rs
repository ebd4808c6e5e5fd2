//! The depot: a node's shared stock of full and empty magazines of one class.
//!
//! Each place is one pointer. To put a magazine there is a compare-and-swap from null, to take
//! it is a swap with null, so ownership moves in one atomic step: there is no lock that an
//! interrupted context could hold, no half-done push that a handler could wait for, and no next
//! pointer for an ABA to corrupt. The number of places bounds what a node hoards; a magazine
//! that finds none goes back to its slabs.

use core::ptr::{self, NonNull};

use crate::magazine::{Magazine, MagazineBox};
use crate::sync::atomic::{AtomicPtr, Ordering};

/// Places for full magazines: with those for empty ones, one pair of cache lines.
/// (Models need fewer, to end.)
pub(crate) const FULL: usize = if cfg!(any(loom, miri)) { 2 } else { 8 };
/// Places for empty magazines.
pub(crate) const EMPTY: usize = if cfg!(any(loom, miri)) { 1 } else { 4 };

/// Magazines of one class, between CPUs of one node.
pub(crate) struct Depot {
    full: Rack<FULL>,
    empty: Rack<EMPTY>,
}

impl Depot {
    /// A depot without magazines.
    pub(crate) fn new() -> Depot {
        Depot { full: Rack::new(), empty: Rack::new() }
    }

    /// Takes a full magazine. (One that a drain or an offline CPU left may be part full.)
    pub(crate) fn take_full(&self) -> Option<MagazineBox> {
        self.full.take()
    }

    /// Leaves a full magazine.
    ///
    /// # Errors
    ///
    /// It comes back where there is no place.
    pub(crate) fn put_full(&self, magazine: MagazineBox) -> Result<(), MagazineBox> {
        self.full.put(magazine)
    }

    /// Takes an empty magazine.
    pub(crate) fn take_empty(&self) -> Option<MagazineBox> {
        self.empty.take()
    }

    /// Leaves an empty magazine.
    ///
    /// # Errors
    ///
    /// It comes back where there is no place.
    pub(crate) fn put_empty(&self, magazine: MagazineBox) -> Result<(), MagazineBox> {
        self.empty.put(magazine)
    }
}

struct Rack<const PLACES: usize> {
    /// Null, or a magazine that belongs to the place.
    places: [AtomicPtr<Magazine>; PLACES],
}

impl<const PLACES: usize> Rack<PLACES> {
    fn new() -> Rack<PLACES> {
        Rack { places: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())) }
    }

    fn take(&self) -> Option<MagazineBox> {
        self.places.iter().find_map(|place| {
            // A glance first: a swap would pull the line away from its other users.
            if place.load(Ordering::Relaxed).is_null() {
                return None;
            }
            // Acquire pairs with the Release in `put`: we see the magazine's contents.
            let magazine = NonNull::new(place.swap(ptr::null_mut(), Ordering::Acquire))?;
            // SAFETY: `put` gave the handle up into the place, and the swap took it out.
            Some(unsafe { MagazineBox::from_raw(magazine) })
        })
    }

    fn put(&self, magazine: MagazineBox) -> Result<(), MagazineBox> {
        let raw = magazine.into_raw();
        for place in &self.places {
            // Release pairs with the Acquire in `take`.
            let free = place.load(Ordering::Relaxed).is_null()
                && place
                    .compare_exchange(ptr::null_mut(), raw.as_ptr(), Ordering::Release, Ordering::Relaxed)
                    .is_ok();
            if free {
                return Ok(());
            }
        }
        // SAFETY: no place took it, so the handle is still ours.
        Err(unsafe { MagazineBox::from_raw(raw) })
    }
}

#[cfg(all(test, loom))]
mod model;
