//! The holders of memory: the live objects, by allocating call.
//!
//! Each block names its call site and CPU in its tail, so an allocation looks nothing up and does
//! not wait, in any context. Only a list of all objects walks the slabs, the slabs of each shelf
//! under its lock to keep them there, and then the record of large objects
//! ([`inspection`](super::inspection)). A hash table sums by site. Its memory comes from the page
//! source, outside of the locks.

use core::alloc::Layout;
use core::hash::{BuildHasherDefault, Hasher};
use core::ptr::{self, NonNull};

use allocator_api2::alloc::{AllocError as NoMemory, Allocator};
use hashbrown::HashMap;

use super::super::{AllocError, Heap};
use super::block;
use super::inspection::Left;
use super::report::Origin;
use crate::heap::large::run::{LargeRun, Run};
use crate::slab::{LockedShelf, SizeClass, Slab, SlabShape, WasLive};
use crate::try_lock::Patience;
use crate::{CpuPin, Order, PageSource, Platform};

/// Live objects allocated by one call on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveObjects {
    /// The call and the CPU; `None` for objects with an overwritten tail, or left in a larger block
    /// by `realloc`.
    pub origin: Option<Origin>,
    /// The number of objects.
    pub objects: u64,
    /// The requested bytes of the objects.
    pub bytes: u64,
}

/// Pages for the table.
struct Pages<'a, P: Platform, S: PageSource>(&'a Heap<P, S>);

// SAFETY: the source keeps runs apart, and `pages` refuses misaligned runs.
unsafe impl<P: Platform, S: PageSource> Allocator for Pages<'_, P, S> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, NoMemory> {
        let order = Order::for_bytes(layout.size().max(layout.align()) as u64).ok_or(NoMemory)?;
        let pin = self.0.platform.pin();
        let node = self.0.source.node_of_cpu(pin.cpu());
        let run = self.0.pages(&pin, node, order).map_err(|_| NoMemory)?;
        Ok(NonNull::slice_from_raw_parts(run, order.bytes() as usize))
    }

    unsafe fn deallocate(&self, run: NonNull<u8>, layout: Layout) {
        if let Some(order) = Order::for_bytes(layout.size().max(layout.align()) as u64) {
            // SAFETY: `allocate` took the run from the source with the order.
            unsafe { self.0.source.free(&self.0.platform.pin(), run, order) };
        }
    }
}

/// FNV-1a (Fowler, Noll and Vo): a site is a short text and two numbers.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Sites<'a, P, S> = HashMap<Option<Origin>, (u64, u64), BuildHasherDefault<Fnv>, Pages<'a, P, S>>;

/// The table has no room for another site.
struct Full;

/// Adds an object to the sums, of `most` bytes or of the bytes `found` with its call site.
fn add<P: Platform, S: PageSource>(
    sites: &mut Sites<'_, P, S>,
    found: Option<(Origin, usize)>,
    most: usize,
) -> Result<(), Full> {
    let (origin, size) = found.map_or((None, most), |(origin, size)| (Some(origin), size));
    let has_room = sites.len() < sites.capacity();
    let (objects, bytes) = match sites.get_mut(&origin) {
        Some(sums) => sums,
        // There is room, so this allocates nothing.
        None if has_room => sites.entry(origin).or_default(),
        None => return Err(Full),
    };
    *objects += 1;
    *bytes += size as u64;
    Ok(())
}

/// The table's initial capacity.
const PLACES: usize = 112;

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Calls `each` with the live objects, summed by call site and CPU. The sums are exact if no
    /// other context uses the heap meanwhile.
    ///
    /// The list omits a shelf if its lock stays taken, large objects if another context lists them
    /// at the same time, and always objects in ranges of addresses
    /// ([`PageSource::allocate_range`]).
    ///
    /// Cost: a look at every object, and at every page of address space near memory that the heap
    /// ever had.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError`] if there are no pages for the table. `each` was not called.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::{AllocError, Heap, PageSource, Platform};
    /// # fn example<P: Platform, S: PageSource>(heap: &Heap<P, S>) -> Result<(), AllocError> {
    /// heap.live_by_site(|live| println!("{:?}: {} bytes", live.origin, live.bytes))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn live_by_site(&self, mut each: impl FnMut(&LiveObjects)) -> Result<(), AllocError> {
        let mut places = PLACES;
        let sites = loop {
            let mut sites = Sites::with_hasher_in(BuildHasherDefault::default(), Pages(self));
            sites.try_reserve(places).map_err(|_| AllocError::OutOfMemory)?;
            match self.add_up(&mut sites) {
                Ok(()) => break sites,
                Err(Full) => places *= 2,
            }
        };
        for (&origin, &(objects, bytes)) in &sites {
            each(&LiveObjects { origin, objects, bytes });
        }
        Ok(())
    }

    fn add_up(&self, sites: &mut Sites<'_, P, S>) -> Result<(), Full> {
        let pin = self.platform.pin();
        for home in self.existing_nodes() {
            for class in SizeClass::all() {
                let shelf = &home.class(class).shelf;
                let Some(locked) = shelf.lock(&self.platform, &pin, Patience::Bounded) else { continue };
                let outcome = self.add_up_shelf(&locked, class, sites);
                self.release(&pin, class, locked.unlock());
                outcome?;
            }
        }
        self.runs.each_large(|address, run| self.add_up_large(&pin, address, run, sites))
    }

    /// Adds the large object of `run` at `address` to the sums, if it is still live.
    fn add_up_large(
        &self,
        pin: &CpuPin,
        address: usize,
        run: LargeRun,
        sites: &mut Sites<'_, P, S>,
    ) -> Result<(), Full> {
        let bytes = run.length.bytes() as usize;
        // SAFETY: a large object is at `start`, and stays there meanwhile.
        let read = |start| unsafe { block::origin(start, bytes, self.hardening) };
        self.look_at_large(pin, address, run, read).map_or(Ok(()), |found| add(sites, found, bytes))
    }

    /// Calls `read` with the large object of `run` at `address`, if it is still live. Its memory
    /// stays allocated meanwhile.
    fn look_at_large<R>(
        &self,
        pin: &CpuPin,
        address: usize,
        run: LargeRun,
        read: impl FnOnce(NonNull<u8>) -> R,
    ) -> Option<R> {
        let start = NonNull::new(ptr::with_exposed_provenance_mut(address))?;
        let is_there = || self.runs.at(address) == Some(Run::Large(run));
        let (found, left) = self.inspection.look(address, is_there, || read(start)).ok()?;
        if left == Left::ToTheCaller {
            // SAFETY: the owner has freed the object, and left the run to the context.
            unsafe { self.source.free_run(pin, start, run.length) };
        }
        found
    }

    fn add_up_shelf(
        &self,
        shelf: &LockedShelf<'_>,
        class: SizeClass,
        sites: &mut Sites<'_, P, S>,
    ) -> Result<(), Full> {
        let mut slabs = shelf.slabs_in_use();
        slabs.try_for_each(|slab| {
            self.live_objects(slab, class).try_for_each(|object| {
                // SAFETY: the slab is on the locked shelf.
                let found = unsafe { block::origin(object, class.size(), self.hardening) };
                add(sites, found, class.size())
            })
        })
    }

    /// Returns the live blocks of `slab`.
    fn live_objects(&self, slab: Slab, class: SizeClass) -> impl Iterator<Item = NonNull<u8>> {
        let shape = SlabShape::ALL[class.index()];
        (0..shape.capacity)
            .filter(move |&index| slab.live().get(index) == WasLive::Yes)
            .map(move |index| slab.object(shape.first + index * class.size()))
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::super::super::tests::common::{Machine, all_online, heap, pin};
    use super::*;

    #[test]
    fn an_object_that_is_looked_at_stays_and_is_returned_afterwards() {
        let machine = Machine::new(1, 1, 1 << 20);
        let heap = heap(&machine, true);
        all_online(&heap);
        let layout = Layout::from_size_align(40_000, 8).unwrap();
        let memory = heap.try_alloc(layout).unwrap();
        let Some(Run::Large(run)) = heap.runs.at(memory.addr().get()) else { panic!() };
        let before = machine.outstanding();
        let look = |read: &dyn Fn()| heap.look_at_large(&pin(), memory.addr().get(), run, |_| read());
        let seen = look(&|| {
            // SAFETY: allocated above, and not used any more.
            unsafe { heap.free(memory, layout) }.unwrap();
            heap.drain(&pin());
            assert_eq!((heap.large_stats().live, machine.outstanding()), (0, before), "it is read");
            assert_eq!(look(&|| ()), None, "one at a time");
        });
        assert_eq!(seen, Some(()));
        assert_eq!(machine.outstanding() as u64, before as u64 - run.length.pages());
        assert_eq!(look(&|| ()), None, "it is gone");
    }
}
