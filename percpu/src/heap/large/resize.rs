//! Changes of size in place.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::NonNull;

use crate::heap::Heap;
use crate::heap::cpu::cache::CpuCache;
use crate::heap::large::run::Run;
use crate::heap::place::Room;
use crate::{CpuPin, PageSource, Platform, RunLength};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Makes room for `new_layout` in place of an allocation. Returns false, with nothing changed,
    /// if there is no room.
    ///
    /// # Safety
    ///
    /// The caller owns the allocation with `layout`, and does not use bytes beyond `new_layout` any
    /// more. Both layouts have the same alignment.
    pub(in crate::heap) unsafe fn resize_in_place(
        &self,
        memory: NonNull<u8>,
        layout: Layout,
        new_layout: Layout,
    ) -> bool {
        match (Room::of(layout), Room::of(new_layout)) {
            (Some(from), Some(to)) if from == to => true,
            // SAFETY: the caller's promise.
            (Some(Room::Pages(from)), Some(Room::Pages(to))) => unsafe { self.resize_run(memory, from, to) },
            _ => false,
        }
    }

    /// Makes the run of a large object longer or shorter in place.
    ///
    /// # Safety
    ///
    /// The caller owns the object, of a layout of the length `from`, and does not use bytes beyond
    /// `to` any more.
    unsafe fn resize_run(&self, memory: NonNull<u8>, from: RunLength, to: RunLength) -> bool {
        let address = memory.addr().get();
        // An object left in place has a run of another length.
        let Some(Run::Large(run)) = self.runs.at(address) else { return false };
        if run.length != from {
            return false;
        }
        let pin = self.platform.pin();
        // SAFETY: the caller's promise; the record shows that the source allocated the run with
        // that length.
        let resized = unsafe {
            if from < to {
                self.source.extend_run(&pin, memory, from, to).or_else(|declined| {
                    let behind = address + from.bytes() as usize..address + to.bytes() as usize;
                    if !self.free_cached(&pin, behind) {
                        return Err(declined);
                    }
                    self.source.extend_run(&pin, memory, from, to)
                })
            } else {
                self.source.shrink_run(&pin, memory, from, to)
            }
        };
        if resized.is_err() {
            return false;
        }
        let recorded = self.runs.resize(address, run, to);
        debug_assert!(recorded, "the entry is the owner's");
        self.large.resized(from.bytes(), to.bytes());
        true
    }

    /// Returns memory for an object that grew to `layout`, and moves: the start of the longest cached run of the CPU,
    /// whose end goes back to the source. So the object can mostly grow on in place. Returns `None` if the object is
    /// not large, the cache has no longer run, or the source does not shorten runs.
    pub(in crate::heap) fn alloc_with_room(&self, layout: Layout) -> Option<NonNull<u8>> {
        let Room::Pages(length) = Room::of(layout)? else { return None };
        let pin = self.platform.pin();
        let pop = |cache: &CpuCache| cache.runs.pop_longer(&self.runs, length, layout.align());
        let (memory, longer) = self.caches.with(&pin, pop).ok()??;
        // SAFETY: the run is the context's, of that length, and holds nothing.
        if unsafe { self.resize_run(memory, longer, length) } {
            return Some(memory);
        }
        if let Some(Run::Large(run)) = self.runs.at(memory.addr().get()) {
            // SAFETY: as above.
            let freed = unsafe { self.free_large(&pin, memory, run) };
            debug_assert_eq!(freed, Ok(()));
        }
        None
    }

    /// Returns cached runs of the CPU at consecutive `addresses` to the source. Returns false if
    /// the cache has none there.
    ///
    /// Bound: a search of the cached runs of its length for each run.
    fn free_cached(&self, pin: &CpuPin, addresses: Range<usize>) -> bool {
        let mut next = addresses.start;
        while next < addresses.end
            && let Some(Run::Cached(cached)) = self.runs.at(next)
            && let Ok(taken) =
                self.caches.with(pin, |cache| cache.runs.take_at(&self.runs, next, cached.length))
            && self.free_evicted(pin, taken) > 0
        {
            next += cached.length.bytes() as usize;
        }
        next > addresses.start
    }
}
