//! Objects beyond the largest class: each is a run of pages, in the heap's record.
//!
//! Most come from the CPU's [cache of runs](crate::heap::cpu::run_cache) and return there. If the cache has no
//! run of the length, or no room, or the use is nested in another use on the CPU, the run comes
//! from the source, or returns there. The same holds for a run requested on another node than the
//! CPU's.

mod ranges;
mod resize;
pub(in crate::heap) mod run;
pub(in crate::heap) mod runs;

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::heap::cpu::cache::CpuCache;
use crate::heap::cpu::run_cache::Evicted;
use crate::heap::large::run::{Home, LargeRun, Run};
use crate::heap::place::Room;
use crate::heap::{AllocError, Heap, InvalidFree};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::{CpuPin, NodeId, Order, PageSource, Platform, RunLength, Unavailable};

/// Counts of the large objects outside every CPU's cache: allocations less frees, wrapping.
/// Read-modify-writes: their cost is negligible beside a run from the source.
pub(in crate::heap) struct Counters {
    live: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    #[cfg(not(loom))]
    pub(in crate::heap) const fn new() -> Counters {
        Counters { live: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    #[cfg(loom)]
    pub(in crate::heap) fn new() -> Counters {
        Counters { live: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// Returns the number of objects, and their bytes.
    pub(in crate::heap) fn read(&self) -> (u64, u64) {
        (self.live.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Records a change of an object's size from `from` to `to` bytes.
    pub(in crate::heap) fn resized(&self, from: u64, to: u64) {
        self.bytes.fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
    }

    pub(in crate::heap) fn allocated(&self, bytes: u64) {
        self.live.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(in crate::heap) fn freed(&self, bytes: u64) {
        self.live.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Returns the length of the run for `layout`.
fn length_of(layout: Layout) -> Result<RunLength, AllocError> {
    RunLength::of(layout).ok_or(AllocError::TooLarge { size: layout.size(), align: layout.align() })
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    #[inline(never)]
    pub(in crate::heap) fn alloc_large(
        &self,
        pin: &CpuPin,
        layout: Layout,
        contents: Contents,
    ) -> Result<NonNull<u8>, AllocError> {
        if self.wants_range(layout) {
            return self.alloc_large_near(pin, self.source.node_of_cpu(pin.cpu()), layout, contents);
        }
        let length = length_of(layout)?;
        let cached = self.pop_run(pin, length, layout.align()).or_else(|| {
            match self.caches.with(pin, |cache| cache.runs.prepare_pop(&self.runs, length)) {
                Ok(None) | Err(Unavailable::NotInstalled) => {}
                Ok(Some(broken)) => self.source.refused(broken),
                Err(Unavailable::Busy) => self.count_nested(pin),
            }
            self.pop_run(pin, length, layout.align())
        });
        let Some(run) = cached else {
            let home = self.source.node_of_cpu(pin.cpu());
            return self.alloc_run(pin, home, length, layout, contents);
        };
        if contents == Contents::Zeroed {
            // SAFETY: the run has that many bytes, owned here.
            unsafe { run.write_bytes(0, layout.size()) };
        }
        Ok(run)
    }

    /// Serves `layout` from the CPU's cache of runs, if the layout is a common large layout and the
    /// cache has a run.
    #[inline(always)]
    pub(in crate::heap) fn alloc_cached_run(&self, layout: Layout) -> Option<NonNull<u8>> {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            return None;
        }
        let length = RunLength::of_common(layout)?;
        let pop = |cache: &CpuCache| cache.runs.pop(length, layout.align());
        self.caches.with_near(&self.platform.pin(), pop).ok().flatten()
    }

    /// Frees memory of a common large `layout` into the CPU's cache of runs. Returns false, with
    /// nothing changed, if the cache does not take the run.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`].
    #[inline(always)]
    pub(in crate::heap) unsafe fn dealloc_cached_run(&self, memory: NonNull<u8>, layout: Layout) -> bool {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            return false;
        }
        let Some(length) = RunLength::of_common(layout) else { return false };
        // SAFETY: the caller's promise.
        let push = |cache: &CpuCache| unsafe { cache.runs.push(memory, length) };
        self.caches.with_near(&self.platform.pin(), push) == Ok(true)
    }

    /// Takes a run out of the CPU's cache.
    fn pop_run(&self, pin: &CpuPin, length: RunLength, align: usize) -> Option<NonNull<u8>> {
        self.caches.with(pin, |cache| cache.runs.pop(length, align)).ok().flatten()
    }

    /// Puts a large object of `length` into the CPU's cache. Returns false if the cache does not
    /// take the run.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`], with a layout of that length.
    unsafe fn push_run(&self, pin: &CpuPin, memory: NonNull<u8>, length: RunLength) -> bool {
        // SAFETY: the caller's promise.
        let pushed = self.caches.with(pin, |cache| unsafe { cache.runs.push(memory, length) });
        pushed == Ok(true)
    }

    /// Returns a large object from the source, near `home`: a range if the source prefers one, else
    /// a run.
    pub(in crate::heap) fn alloc_large_near(
        &self,
        pin: &CpuPin,
        home: NodeId,
        layout: Layout,
        contents: Contents,
    ) -> Result<NonNull<u8>, AllocError> {
        if self.wants_range(layout) {
            let range = self.alloc_range(pin, home, layout, contents);
            // Without free addresses, or with the source's lock taken, a run may serve.
            if range.is_ok() || RunLength::of(layout).is_none() {
                return range;
            }
        }
        self.alloc_run(pin, home, length_of(layout)?, layout, contents)
    }

    /// Returns a large object in a run of the source, near `home`, or, without a run, in a range.
    #[cold]
    fn alloc_run(
        &self,
        pin: &CpuPin,
        home: NodeId,
        length: RunLength,
        layout: Layout,
        contents: Contents,
    ) -> Result<NonNull<u8>, AllocError> {
        let run = match self.recorded_run(pin, home, length, layout, contents) {
            Err(AllocError::OutOfMemory) => {
                if let Ok(range) = self.alloc_range(pin, home, layout, contents) {
                    return Ok(range);
                }
                self.reclaim(pin);
                self.recorded_run(pin, home, length, layout, contents)?
            }
            other => other?,
        };
        self.large.allocated(length.bytes());
        Ok(run)
    }

    /// Returns a run of the source, recorded as a large object from here on.
    fn recorded_run(
        &self,
        pin: &CpuPin,
        home: NodeId,
        length: RunLength,
        layout: Layout,
        contents: Contents,
    ) -> Result<NonNull<u8>, AllocError> {
        let align = length.order().or(Order::for_bytes(layout.align() as u64)).unwrap_or(Order::GIANT);
        let run = match contents {
            Contents::Arbitrary => self.source.allocate_run(pin, home, length, align)?,
            Contents::Zeroed => self.source.allocate_run_zeroed(pin, home, length, align)?,
        };
        let address = run.addr().get();
        let outcome = if address as u64 & (align.bytes() - 1) == 0 {
            self.record(pin, home, address, Run::Large(LargeRun { length, home: Home::of(home) }))
        } else {
            Err(AllocError::MisalignedRun { address, order: align })
        };
        match outcome {
            Ok(()) => {
                // For lists of live objects, which find the run through the record.
                #[cfg(feature = "leak-tracking")]
                run.as_ptr().expose_provenance();
                Ok(run)
            }
            Err(error) => {
                // SAFETY: the run just came from the source, with the length.
                unsafe { self.source.free_run(pin, run, length) };
                Err(error)
            }
        }
    }

    /// Returns pages recorded as `run` from here on.
    pub(in crate::heap) fn recorded_pages(
        &self,
        pin: &CpuPin,
        node: NodeId,
        order: Order,
        run: Run,
    ) -> Result<NonNull<u8>, AllocError> {
        let pages = self.pages(pin, node, order)?;
        match self.record(pin, node, pages.addr().get(), run) {
            Ok(()) => Ok(pages),
            Err(error) => {
                // SAFETY: the pages just came from the source, with the order.
                unsafe { self.source.free(pin, pages, order) };
                Err(error)
            }
        }
    }

    /// Frees a large object.
    ///
    /// # Safety
    ///
    /// As for [`Heap::free`], with a `layout` beyond every class.
    #[inline(never)]
    pub(in crate::heap) unsafe fn dealloc_large(
        &self,
        pin: &CpuPin,
        memory: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), InvalidFree> {
        // SAFETY: the caller's promise.
        if RunLength::of(layout).is_some_and(|length| unsafe { self.push_run(pin, memory, length) }) {
            return Ok(());
        }
        let run = match self.check_large(memory, layout) {
            Ok(Held::Here(run)) => run,
            // SAFETY: the caller's promise.
            Ok(Held::Left(room, otherwise)) => unsafe {
                return self.dealloc_left(pin, memory, room, otherwise);
            },
            // SAFETY: the caller's promise.
            Err(otherwise) => return unsafe { self.dealloc_range(pin, memory, layout, otherwise) },
        };
        let address = memory.addr().get();
        match self.caches.with(pin, |cache| cache.runs.prepare_push(&self.runs, address, run.length)) {
            Ok(evicted) => _ = self.free_evicted(pin, evicted),
            Err(Unavailable::Busy) => self.count_nested(pin),
            Err(Unavailable::NotInstalled) => {}
        }
        // SAFETY: the caller's promise, and the run is on record.
        unsafe {
            if self.push_run(pin, memory, run.length) { Ok(()) } else { self.free_large(pin, memory, run) }
        }
    }

    /// Checks for a large object with `layout` at `memory`.
    pub(in crate::heap) fn check_large(
        &self,
        memory: NonNull<u8>,
        layout: Layout,
    ) -> Result<Held, InvalidFree> {
        let (address, size) = (memory.addr().get(), layout.size());
        let found = match self.runs.at(address) {
            Some(Run::Large(found)) => found,
            Some(Run::Cached(_)) => return Err(InvalidFree::LargeDoubleFree { address, size }),
            Some(Run::Slab(_)) | None => return Err(InvalidFree::NotLarge { address, size }),
        };
        let wrong = InvalidFree::WrongSize { address, size, length: found.length };
        match RunLength::of(layout) {
            Some(length) if length == found.length => Ok(Held::Here(found)),
            Some(length) => Ok(Held::Left(Room::Pages(length), wrong)),
            None => Err(wrong),
        }
    }

    /// Returns the large object at `memory` to the source.
    ///
    /// # Safety
    ///
    /// The caller releases the object.
    pub(in crate::heap) unsafe fn free_large(
        &self,
        pin: &CpuPin,
        memory: NonNull<u8>,
        run: LargeRun,
    ) -> Result<(), InvalidFree> {
        let address = memory.addr().get();
        // Of two concurrent frees, exactly one removes the object from the record.
        if !self.runs.strike(address, Run::Large(run)) {
            return Err(InvalidFree::NotLarge { address, size: run.length.bytes() as usize });
        }
        self.large.freed(run.length.bytes());
        // SAFETY: `recorded_run` took the run from the source with the length, and the caller
        // releases it.
        unsafe { self.return_run(pin, memory, run.length) };
        Ok(())
    }

    /// Returns a run, already removed from the record, to the source.
    ///
    /// # Safety
    ///
    /// The run came from the source with the length, and has no users.
    unsafe fn return_run(&self, pin: &CpuPin, run: NonNull<u8>, length: RunLength) {
        #[cfg(feature = "leak-tracking")]
        if self.inspection.takes_over(run.addr().get()) {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { self.source.free_run(pin, run, length) };
    }

    /// Returns runs of a CPU's cache to the source. Returns the number of pages freed.
    #[cold]
    pub(in crate::heap) fn free_evicted(&self, pin: &CpuPin, mut evicted: Evicted) -> u64 {
        let mut pages = 0;
        while let Some((run, cached)) = evicted.pop(&self.runs) {
            self.runs.strike(run.addr().get(), Run::Cached(cached));
            // SAFETY: `recorded_run` took the run from the source with the length, and it has no
            // users.
            unsafe { self.return_run(pin, run, cached.length) };
            pages += cached.length.pages();
        }
        pages
    }
}

/// The required contents of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::heap) enum Contents {
    Arbitrary,
    Zeroed,
}

/// The memory of a large object's layout.
pub(in crate::heap) enum Held {
    /// A run of the layout's length.
    Here(LargeRun),
    /// A run of another length. Valid only if the object was left there; otherwise the error to
    /// return.
    Left(Room, InvalidFree),
}
