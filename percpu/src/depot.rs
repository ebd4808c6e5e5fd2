//! The depot: a node's shared stock of full magazines of one class.
//!
//! Each place is one pointer. Putting a magazine is a compare-and-swap from null, and taking a
//! magazine is a swap with null, so ownership moves in one atomic step. There is no lock for an
//! interrupted context to hold, no half-done push for a handler to wait for, and no next pointer
//! for an ABA to corrupt. The number of places bounds the node's stock; a magazine without a place
//! goes back to its slabs.

use core::ptr::{self, NonNull};

use crate::CpuId;
use crate::magazine::{MAX_ROUNDS, Magazine};
use crate::slab::SizeClass;
use crate::sync::atomic::{AtomicPtr, Ordering};

/// The number of places for magazines: two cache lines of pointers. (Models need fewer, to end.)
pub(crate) const PLACES: usize = if cfg!(any(loom, miri)) { 2 } else { 16 };

/// The bytes of objects in a depot, about.
const KEPT_BYTES: usize = 64 << 10;

/// The least number of places for magazines of [`MAX_ROUNDS`] objects.
const MIN_PLACES: usize = PLACES / 2;

/// The number of places for magazines of fewer than [`MAX_ROUNDS`] objects. Each of these magazines
/// keeps about 20 KiB, and may keep several times as much in slabs from being freed.
const PLACES_OF_LARGE: usize = MIN_PLACES / 2;

/// Returns the number of places that magazines of `class` may take.
pub(crate) const fn places_of(class: SizeClass) -> usize {
    let rounds = class.rounds();
    if rounds < MAX_ROUNDS {
        return if PLACES_OF_LARGE == 0 { 1 } else { PLACES_OF_LARGE };
    }
    if KEPT_BYTES / (rounds * class.size()) < PLACES { MIN_PLACES } else { PLACES }
}

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

    /// Returns the places for magazines of `class`, those first that `cpu` looks at first. CPUs begin far from each
    /// other, so that a CPU gets the magazine back that it left: its objects are in that CPU's caches.
    fn places_from(&self, class: SizeClass, cpu: CpuId) -> impl Iterator<Item = &AtomicPtr<u8>> {
        let places = places_of(class);
        // The bits of the number, the lowest first: 0, a half, a quarter, three quarters, and so on.
        let part = (cpu.index() as u32).reverse_bits() as u64;
        let (others, own) = self.places[..places].split_at(((part * places as u64) >> u32::BITS) as usize);
        own.iter().chain(others)
    }

    /// Takes a magazine of `class` for `cpu`.
    pub(crate) fn take(&self, class: SizeClass, cpu: CpuId) -> Option<Magazine> {
        self.places_from(class, cpu).find_map(|place| {
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

    /// Leaves a magazine of `class` that `cpu` filled.
    ///
    /// # Errors
    ///
    /// Returns the magazine if every place is taken.
    pub(crate) fn put(&self, class: SizeClass, cpu: CpuId, magazine: Magazine) -> Result<(), Magazine> {
        let first = magazine.into_first();
        for place in self.places_from(class, cpu) {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use core::alloc::Layout;

    use super::*;

    #[test]
    fn a_cpu_gets_the_magazines_back_that_it_left() {
        let cpus = [CpuId::BOOT, CpuId::new(1).unwrap()];
        for class in
            [8, 64, 256, 4096].map(|size| SizeClass::of(Layout::from_size_align(size, 8).unwrap()).unwrap())
        {
            let mut objects = [[0_u64; PLACES]; 2];
            let mut addresses = objects.each_mut().map(|of_cpu| of_cpu.each_mut().map(NonNull::from));
            let depot = Depot::new();
            let each = (places_of(class) / 2).max(1);
            // The CPUs take turns, afterwards the other way round.
            for round in 0..each {
                for (cpu, of_cpu) in cpus.into_iter().zip(&mut addresses) {
                    // SAFETY: nobody follows the links of what a depot holds.
                    let magazine = unsafe { Magazine::new(of_cpu[round].cast()) };
                    let left = depot.put(class, cpu, magazine);
                    assert!(left.is_ok() || places_of(class) == 1);
                }
            }
            if places_of(class) == 1 {
                continue;
            }
            for _ in 0..each {
                for (cpu, of_cpu) in cpus.into_iter().zip(&addresses).rev() {
                    let first = depot.take(class, cpu).unwrap().into_first();
                    assert!(of_cpu.iter().any(|object| object.cast() == first), "another CPU's, {class:?}");
                }
            }
            assert_eq!(depot.magazines(), 0);
        }
    }
}
