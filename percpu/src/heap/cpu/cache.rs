//! One CPU's magazines.

use core::cell::Cell;
use core::ptr::NonNull;

use crate::heap::cpu::class_cache::ClassCache;
use crate::heap::cpu::run_cache::RunCache;
#[cfg(feature = "hardening")]
use crate::heap::hardening::Quarantine;
use crate::heap::stats::counters::bump;
use crate::heap::{AllocError, CpuHeapStats, Heap};
use crate::slab::{CLASS_COUNT, SizeClass, Slab, SlabTag};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::try_lock::Patience;
use crate::{CpuPin, NodeId, PageSource, Platform};

/// A reason for the magazines of a CPU not to serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::heap) enum Declined {
    /// The CPU is offline: use the shared path.
    Offline,
    /// Magazines, depot and shelf have no object, and the page source has no pages.
    Failed(AllocError),
    /// The object is not of the CPU's node, or not of the class, so no magazine takes it.
    NotOurs,
}

impl From<AllocError> for Declined {
    fn from(error: AllocError) -> Declined {
        Declined::Failed(error)
    }
}

/// The magazines of one CPU, with objects of the CPU's node only.
///
/// Used inside the CPU's cell, by one context of the CPU at a time. Remote CPUs read the counters:
/// atomics, loaded and stored but never read-modified-written (except `nested`), and relaxed, since
/// they order nothing.
pub(in crate::heap) struct CpuCache {
    classes: [ClassCache; CLASS_COUNT],
    /// True if the CPU uses its magazines. Otherwise the magazines are empty and have no room, so
    /// every use comes to the slow paths, which refuse.
    online: Cell<bool>,
    node: NodeId,
    misses: AtomicU64,
    remote_frees: AtomicU64,
    nested: AtomicU64,
    /// Runs for large objects.
    pub(in crate::heap) runs: RunCache,
    #[cfg(feature = "hardening")]
    pub(in crate::heap) quarantine: Quarantine,
}

// SAFETY: `CpuCache` and the magazines own their objects, memory without other users.
unsafe impl Send for CpuCache {}
// SAFETY: the cells are used inside the CPU's cell only, by one context at a time; the fields that
// remote CPUs may use at any time (`live`, `stats`, `count_nested`) are atomics.
unsafe impl Sync for CpuCache {}

impl CpuCache {
    pub(super) fn new(node: NodeId) -> CpuCache {
        CpuCache {
            classes: core::array::from_fn(|index| ClassCache::new(index, node)),
            online: Cell::new(true),
            node,
            misses: AtomicU64::new(0),
            remote_frees: AtomicU64::new(0),
            nested: AtomicU64::new(0),
            runs: RunCache::new(node),
            #[cfg(feature = "hardening")]
            quarantine: Quarantine::new(),
        }
    }

    pub(in crate::heap) fn is_online(&self) -> bool {
        self.online.get()
    }

    pub(in crate::heap) fn set_online(&self) {
        if !self.is_online() {
            self.online.set(true);
            self.runs.set_online();
            self.classes.iter().for_each(ClassCache::open);
        }
    }

    /// Turns the magazines off. Call after [`CpuCache::flush`].
    pub(in crate::heap) fn set_offline(&self) {
        self.online.set(false);
        self.runs.set_offline();
        self.classes.iter().for_each(ClassCache::close);
    }

    /// Takes an object from the loaded magazine.
    #[inline]
    pub(in crate::heap) fn pop(&self, class: SizeClass) -> Option<NonNull<u8>> {
        self.classes[class.index()].pop()
    }

    /// Puts an object into the loaded magazine, if the object is of the class and of the CPU's
    /// node, and there is room.
    ///
    /// # Safety
    ///
    /// The caller owns `object`, if it is an object of `class`; the memory can be read as far back
    /// as a slab of the class reaches.
    #[inline]
    pub(in crate::heap) unsafe fn push(&self, class: SizeClass, object: NonNull<u8>) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.classes[class.index()].push(object) }
    }

    /// Takes an object, from the depot or a slab if the magazines are empty.
    pub(in crate::heap) fn alloc<P: Platform, S: PageSource>(
        &self,
        heap: &Heap<P, S>,
        pin: &CpuPin,
        class: SizeClass,
    ) -> Result<NonNull<u8>, Declined> {
        if let Some(object) = self.pop(class) {
            return Ok(object);
        }
        self.refill(heap, pin, class)?;
        // At least one object was loaded.
        Ok(self.pop(class).ok_or(AllocError::OutOfMemory)?)
    }

    /// Loads objects in place of the empty magazine.
    fn refill<P: Platform, S: PageSource>(
        &self,
        heap: &Heap<P, S>,
        pin: &CpuPin,
        class: SizeClass,
    ) -> Result<(), Declined> {
        if !self.is_online() {
            return Err(Declined::Offline);
        }
        let cache = &self.classes[class.index()];
        let node = heap.node(pin, self.node)?;
        match node.class(class).depot.take(class, pin.cpu()) {
            Some(full) => cache.load(full),
            None => cache.load_part(&heap.take(pin, node, class, Patience::Bounded, class.rounds())?),
        }
        bump(&self.misses);
        Ok(())
    }

    /// Frees an object into the magazines. On `Err` no magazine took the object, and the caller
    /// still owns it.
    ///
    /// # Safety
    ///
    /// As for [`CpuCache::push`].
    pub(in crate::heap) unsafe fn free<P: Platform, S: PageSource>(
        &self,
        heap: &Heap<P, S>,
        pin: &CpuPin,
        class: SizeClass,
        object: NonNull<u8>,
    ) -> Result<(), Declined> {
        // SAFETY: the caller's promise.
        if unsafe { self.push(class, object) } {
            return Ok(());
        }
        // SAFETY: the caller's promise; the tag is checked first.
        let slab = unsafe { Slab::of(object, class) };
        if slab.tag() != SlabTag::new(class, self.node) {
            return self.free_elsewhere(heap, pin, slab, class, object);
        }
        self.make_room(heap, pin, class)?;
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.push(class, object) };
        debug_assert!(pushed, "there is room");
        Ok(())
    }

    /// Classifies a free of an object of another node or of another class.
    #[cold]
    fn free_elsewhere<P: Platform, S: PageSource>(
        &self,
        heap: &Heap<P, S>,
        pin: &CpuPin,
        slab: Slab,
        class: SizeClass,
        object: NonNull<u8>,
    ) -> Result<(), Declined> {
        let home = slab.home(class).and_then(|home| heap.existing(home)).ok_or(Declined::NotOurs)?;
        if !self.is_online() {
            return Err(Declined::Offline);
        }
        self.classes[class.index()].count_free();
        bump(&self.remote_frees);
        heap.free_remotely(pin, home, class, slab, object);
        Ok(())
    }

    /// Makes the full magazine the previous magazine, and an empty magazine the loaded magazine.
    fn make_room<P: Platform, S: PageSource>(
        &self,
        heap: &Heap<P, S>,
        pin: &CpuPin,
        class: SizeClass,
    ) -> Result<(), Declined> {
        if !self.is_online() {
            return Err(Declined::Offline);
        }
        let Some(surplus) = self.classes[class.index()].set_aside() else { return Ok(()) };
        bump(&self.misses);
        // A slab is made only if its home's heap exists.
        let node = heap.existing(self.node).ok_or(Declined::NotOurs)?;
        let depot = &node.class(class).depot;
        if let Err(surplus) = depot.put(class, pin.cpu(), surplus) {
            for full in [Some(surplus), depot.shed(class, pin.cpu())].into_iter().flatten() {
                // SAFETY: the magazine is of the class.
                heap.flush(pin, node, class, Patience::Bounded, unsafe { full.into_chain(class) });
            }
        }
        Ok(())
    }

    /// Returns all objects and runs to the heap. Returns the number of frames freed.
    pub(in crate::heap) fn flush<P: Platform, S: PageSource>(&self, heap: &Heap<P, S>, pin: &CpuPin) -> u64 {
        if !self.is_online() {
            return 0;
        }
        let mut frames = heap.free_evicted(pin, self.runs.take_all(&heap.runs));
        #[cfg(feature = "hardening")]
        {
            frames += self.quarantine.empty(heap, pin);
        }
        let Some(node) = heap.existing(self.node) else {
            return frames;
        };
        for class in SizeClass::all() {
            for objects in self.classes[class.index()].unload() {
                if objects.len() > 0 {
                    frames += heap.flush(pin, node, class, Patience::Bounded, objects);
                }
            }
        }
        frames
    }

    /// Counts a use that found the cell busy. Contexts nest, so this counter is
    /// read-modified-written.
    pub(in crate::heap) fn count_nested(&self) {
        self.nested.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns allocations less frees of `class`. Wraps if remote CPUs freed more.
    pub(in crate::heap) fn live(&self, class: SizeClass) -> u64 {
        let cache = &self.classes[class.index()];
        let live = cache.allocations().wrapping_sub(cache.frees());
        #[cfg(feature = "hardening")]
        let live = live.wrapping_sub(self.quarantine.held(class));
        live
    }

    pub(in crate::heap) fn stats(&self) -> CpuHeapStats {
        let uses = |cache: &ClassCache| cache.allocations() + cache.frees();
        let total: u64 = self.classes.iter().map(uses).sum();
        let misses = self.misses.load(Ordering::Relaxed);
        let remote_frees = self.remote_frees.load(Ordering::Relaxed);
        CpuHeapStats {
            hits: total.saturating_sub(misses + remote_frees),
            misses,
            nested: self.nested.load(Ordering::Relaxed),
            remote_frees,
        }
    }
}
