//! Other sizes in place.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::NonNull;

use super::Heap;
use super::place::Room;
use super::runs::Run;
use crate::{CpuPin, PageSource, Platform, RunLength};

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Makes room for `new_layout` where an allocation is; false if it has none there. Then nothing has
    /// changed.
    ///
    /// # Safety
    ///
    /// The allocation with `layout` is the caller's, who does not use what is beyond `new_layout` any
    /// more. Both layouts have the same alignment.
    pub(super) unsafe fn resize_in_place(
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

    /// Makes the run of a large object longer or shorter where it is.
    ///
    /// # Safety
    ///
    /// The object, of a layout of the length `from`, is the caller's, who does not use what is beyond
    /// `to` any more.
    unsafe fn resize_run(&self, memory: NonNull<u8>, from: RunLength, to: RunLength) -> bool {
        let address = memory.addr().get();
        // An object that was left where it is has a run of another length.
        let Some(Run::Large(run)) = self.runs.at(address) else { return false };
        if run.length != from {
            return false;
        }
        let pin = self.platform.pin();
        // SAFETY: the caller's promise, and the record says that the source gave the run, with that length.
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

    /// Gives the runs to the source that lie at `addresses`, one behind the other, in the CPU's cache. False
    /// if that has none there.
    ///
    /// Bound: for each, a look at the cached runs of its length.
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
