//! The depot: a node's shared stock of full magazines of one class.
//!
//! Each place is one pointer. Putting a magazine is a compare-and-swap from null, and taking a
//! magazine is a swap with null: ownership moves in a single atomic step. The depot has no lock for an
//! interrupted context to hold, no half-done push for a handler to wait for, and no next pointer
//! for an ABA to corrupt. The number of places bounds the node's stock; a magazine without a place
//! goes back to the slabs.
//!
//! The stock is for allocating CPUs. When many magazines in a row have found no place and none
//! was asked for, the CPUs free more than they will allocate soon: then the depot takes no more
//! magazines, and sheds the stock ([`Depot::shed`]), since each object in a magazine keeps
//! a slab. The next request for a magazine ends the shedding.

use core::ptr::{self, NonNull};

use crate::CpuId;
use crate::magazine::Magazine;
use crate::slab::SizeClass;
use crate::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// The number of places for magazines: two cache lines of pointers. (Models need fewer, to end.)
pub(crate) const PLACES: usize = if cfg!(any(loom, miri)) { 2 } else { 16 };

/// The bytes of objects in a depot, about.
const KEPT_BYTES: usize = 64 << 10;

/// The least number of places for magazines of many objects.
const MIN_PLACES: usize = PLACES / 2;

/// The least number of objects of a magazine of many.
const MANY: usize = 64;

/// The number of places for magazines of fewer than [`MANY`] objects. Each such magazine
/// keeps about 20 KiB, and may keep several times as much in slabs from being freed.
const PLACES_OF_LARGE: usize = MIN_PLACES / 2;

/// Returns the number of places for magazines of `class`.
pub(crate) const fn places_of(class: SizeClass) -> usize {
    let rounds = class.rounds();
    if rounds < MANY {
        return if PLACES_OF_LARGE == 0 { 1 } else { PLACES_OF_LARGE };
    }
    if KEPT_BYTES / (rounds * class.size()) < PLACES { MIN_PLACES } else { PLACES }
}

/// Magazines of one class, shared between the CPUs of one node.
pub(crate) struct Depot {
    /// Null, or the first object of the place's magazine.
    places: [AtomicPtr<u8>; PLACES],
    /// Magazines refused since the last request. Relaxed, and without read-modify-writes: the number
    /// decides where free objects wait, and nothing else.
    refused: AtomicU32,
}

/// Returns the number of magazines refused by a depot before the depot sheds the stock.
const fn patience(class: SizeClass) -> u32 {
    2 * places_of(class) as u32
}

impl Depot {
    /// Creates a depot without magazines.
    pub(crate) fn new() -> Depot {
        Depot {
            places: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            refused: AtomicU32::new(0),
        }
    }

    /// Returns the places for magazines of `class`, in the order in which `cpu` looks at the places. CPUs begin far
    /// apart, and a CPU gets back the magazines left by the CPU: the objects are in the CPU's caches.
    fn places_from(&self, class: SizeClass, cpu: CpuId) -> impl Iterator<Item = &AtomicPtr<u8>> {
        let places = places_of(class);
        // The bits of the number, the lowest first: 0, a half, a quarter, three quarters, and so on.
        let part = (cpu.index() as u32).reverse_bits() as u64;
        let (others, own) = self.places[..places].split_at(((part * places as u64) >> u32::BITS) as usize);
        own.iter().chain(others)
    }

    /// Takes a magazine of `class` for `cpu`, to be used.
    pub(crate) fn take(&self, class: SizeClass, cpu: CpuId) -> Option<Magazine> {
        if self.refused.load(Ordering::Relaxed) != 0 {
            self.refused.store(0, Ordering::Relaxed);
        }
        self.take_any(class, cpu)
    }

    /// Takes a magazine of `class` to be returned to its slabs, if many were refused since the last request.
    pub(crate) fn shed(&self, class: SizeClass, cpu: CpuId) -> Option<Magazine> {
        if self.refused.load(Ordering::Relaxed) < patience(class) {
            return None;
        }
        self.take_any(class, cpu)
    }

    fn take_any(&self, class: SizeClass, cpu: CpuId) -> Option<Magazine> {
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
    /// Returns the magazine if every place is taken, or if the depot sheds its magazines.
    pub(crate) fn put(&self, class: SizeClass, cpu: CpuId, magazine: Magazine) -> Result<(), Magazine> {
        let refused = self.refused.load(Ordering::Relaxed);
        if refused >= patience(class) {
            return Err(magazine);
        }
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
        self.refused.store(refused + 1, Ordering::Relaxed);
        // SAFETY: no place took the magazine, so the context still owns it.
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

    #[test]
    fn a_depot_that_nobody_takes_from_gives_its_magazines_up() {
        let class = SizeClass::of(Layout::new::<[u64; 8]>()).unwrap();
        let places = places_of(class);
        let mut objects = [0_u64; 3 * PLACES];
        // SAFETY: nobody follows the links of what a depot holds.
        let mut magazines =
            objects.iter_mut().map(|object| unsafe { Magazine::new(NonNull::from(object).cast()) });
        let depot = Depot::new();
        for _ in 0..places {
            depot.put(class, CpuId::BOOT, magazines.next().unwrap()).unwrap();
        }
        let mut refused = depot.put(class, CpuId::BOOT, magazines.next().unwrap()).unwrap_err();
        for _ in 1..patience(class) {
            assert!(depot.shed(class, CpuId::BOOT).is_none(), "too soon");
            refused = depot.put(class, CpuId::BOOT, refused).unwrap_err();
        }
        // The first that is shed leaves its place empty: it is not filled again.
        for left in (0..places).rev() {
            assert!(depot.shed(class, CpuId::BOOT).is_some());
            assert_eq!(depot.magazines(), left);
            refused = depot.put(class, CpuId::BOOT, refused).unwrap_err();
        }
        assert!(depot.shed(class, CpuId::BOOT).is_none());
        // Asked for one, it has none, and takes some again.
        assert!(depot.take(class, CpuId::BOOT).is_none());
        depot.put(class, CpuId::BOOT, refused).unwrap();
        assert!(depot.shed(class, CpuId::BOOT).is_none());
        assert_eq!(depot.magazines(), 1);
    }
}
