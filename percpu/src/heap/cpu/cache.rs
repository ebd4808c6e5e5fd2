//! One CPU's magazines.

use core::cell::Cell;
use core::mem;
use core::ptr::NonNull;

use crate::heap::cpu::run_cache::RunCache;
#[cfg(feature = "hardening")]
use crate::heap::hardening::Quarantine;
use crate::heap::stats::counters::bump;
use crate::heap::{AllocError, CpuHeapStats, Heap};
use crate::magazine::Magazine;
use crate::slab::{self, CLASS_COUNT, Chain, SizeClass, Slab, SlabShape, SlabTag};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::try_lock::Patience;
use crate::{CpuPin, NodeId, Order, PageSource, Platform, Slot};

/// The per-CPU state of a heap, in one run of pages on the CPU's node. The slot is first: its address is the area's.
#[repr(C)]
pub(in crate::heap) struct CpuArea {
    pub(in crate::heap) cache: Slot<CpuCache>,
    /// The node whose objects the CPU caches.
    pub(in crate::heap) node: NodeId,
    /// Set by remote CPUs that need memory, cleared by the area's own CPU. Relaxed: orders nothing.
    drain_requested: AtomicBool,
}

impl CpuArea {
    /// The order of the run that holds the area.
    pub(in crate::heap) const ORDER: Order = match Order::for_bytes(mem::size_of::<CpuArea>() as u64) {
        Some(order) => order,
        None => Order::GIANT,
    };

    /// Creates an area in `run`.
    ///
    /// # Safety
    ///
    /// `run` is a run of [`CpuArea::ORDER`] owned by the caller.
    pub(in crate::heap) unsafe fn new_in(run: NonNull<u8>, node: NodeId) {
        let area = run.cast::<CpuArea>();
        // SAFETY: the run is large and aligned enough, and ours; every field is written.
        unsafe {
            (&raw mut (*area.as_ptr()).cache).write(Slot::new(CpuCache::new(node)));
            (&raw mut (*area.as_ptr()).node).write(node);
            (&raw mut (*area.as_ptr()).drain_requested).write(AtomicBool::new(false));
        }
    }

    /// Asks the CPU to return the contents of its magazines.
    pub(in crate::heap) fn request_drain(&self) {
        // A load first: a store would take the line away from the CPU's counters.
        if !self.drain_is_due() {
            self.drain_requested.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if the CPU was asked since its last drain.
    pub(in crate::heap) fn drain_is_due(&self) -> bool {
        self.drain_requested.load(Ordering::Relaxed)
    }

    /// Records that the CPU is about to drain.
    pub(in crate::heap) fn drains(&self) {
        self.drain_requested.store(false, Ordering::Relaxed);
    }
}

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

/// The two magazines of one class, the facts checked by a free, and the counters: a cache line.
#[repr(align(64))]
struct ClassCache {
    /// The first object of the loaded magazine, if any.
    loaded: Cell<Option<NonNull<u8>>>,
    /// The number of objects that still fit into the loaded magazine.
    room: Cell<usize>,
    /// Clears the bits of an address inside a slab.
    mask: usize,
    /// The header tag of the slabs with objects for these magazines: the class and the CPU's node.
    tag: SlabTag,
    /// The previous magazine if full; `None` if empty.
    previous: Cell<Option<Magazine>>,
    allocations: AtomicU64,
    frees: AtomicU64,
    class: SizeClass,
}

// SAFETY: `CpuCache` and the magazines own their objects, memory without other users.
unsafe impl Send for CpuCache {}
// SAFETY: the cells are used inside the CPU's cell only, by one context at a time; the fields that
// remote CPUs may use at any time (`live`, `stats`, `count_nested`) are atomics.
unsafe impl Sync for CpuCache {}

const _: () = assert!(cfg!(loom) || mem::size_of::<ClassCache>() == 64);

impl ClassCache {
    fn new(index: usize, node: NodeId) -> ClassCache {
        let class = SizeClass::new(index).unwrap_or(SizeClass::LARGEST);
        ClassCache {
            loaded: Cell::new(None),
            room: Cell::new(class.rounds()),
            mask: SlabShape::ALL[class.index()].mask(),
            tag: SlabTag::new(class, node),
            previous: Cell::new(None),
            allocations: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            class,
        }
    }

    /// Takes an object from the loaded magazine.
    #[inline]
    fn pop(&self) -> Option<NonNull<u8>> {
        let object = self.loaded.get()?;
        // SAFETY: the magazine owns its objects, each linked to the next.
        let next = unsafe { slab::next(object) };
        slab::prefetch(next);
        self.loaded.set(next);
        self.room.set(self.room.get().wrapping_add(1));
        bump(&self.allocations);
        Some(object)
    }

    /// Puts an object into the loaded magazine, if the object is of the class and the node and
    /// there is room.
    ///
    /// # Safety
    ///
    /// The caller owns `object`, if it is an object of the class; the memory can be read as far
    /// back as a slab of the class reaches.
    #[inline]
    unsafe fn push(&self, object: NonNull<u8>) -> bool {
        // SAFETY: the caller's promise; the tag is checked first.
        let slab = unsafe { Slab::masked(object, self.mask) };
        // One comparison checks that the address is in a slab, of this class, of this node.
        if slab.tag() != self.tag {
            return false;
        }
        // Decremented before the check: one instruction does both.
        let room = self.room.get();
        self.room.set(room.wrapping_sub(1));
        if room == 0 {
            self.room.set(0);
            return false;
        }
        // SAFETY: the object is of a slab, and owned.
        unsafe { slab::link(object, self.loaded.get()) };
        self.loaded.set(Some(object));
        bump(&self.frees);
        true
    }

    /// Loads `magazine` in place of the empty loaded magazine.
    fn load(&self, magazine: Magazine) {
        self.loaded.set(Some(magazine.into_first()));
        self.room.set(0);
    }

    /// Loads `objects`, at most a magazine of them, in place of the empty loaded magazine.
    fn load_part(&self, objects: &Chain) {
        self.loaded.set(objects.head());
        self.room.set(self.class.rounds().saturating_sub(objects.len()));
    }

    /// Makes the full loaded magazine the previous magazine, and returns the former previous
    /// magazine.
    fn set_aside(&self) -> Option<Magazine> {
        self.room.set(self.class.rounds());
        // SAFETY: the loaded magazine held that many objects, and no longer refers to them.
        let full = self.loaded.take().map(|first| unsafe { Magazine::new(first) });
        self.previous.replace(full)
    }

    /// Takes the objects of both magazines.
    fn unload(&self) -> [Chain; 2] {
        let rounds = self.class.rounds();
        let held = rounds.saturating_sub(self.room.replace(rounds));
        // SAFETY: the loaded magazine held that many objects, and no longer refers to them; the
        // previous magazine is of this class.
        unsafe {
            let loaded = self.loaded.take().map(|first| Chain::of(first, held));
            let previous = self.previous.take().map(|full| full.into_chain(self.class));
            [loaded.unwrap_or_default(), previous.unwrap_or_default()]
        }
    }
}

impl CpuCache {
    fn new(node: NodeId) -> CpuCache {
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
            self.classes.iter().for_each(|cache| cache.room.set(cache.class.rounds()));
        }
    }

    /// Turns the magazines off. Call after [`CpuCache::flush`].
    pub(in crate::heap) fn set_offline(&self) {
        self.online.set(false);
        self.runs.set_offline();
        self.classes.iter().for_each(|cache| cache.room.set(0));
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
        if let Some(previous) = cache.previous.take() {
            cache.load(previous);
            return Ok(());
        }
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
        bump(&self.classes[class.index()].frees);
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
                // SAFETY: the magazine is of this class.
                heap.flush(pin, node, class, Patience::Bounded, unsafe { full.into_chain(class) });
            }
        }
        Ok(())
    }

    /// Returns all objects and runs to the heap. Returns the number of frames freed by that.
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
        let allocations = cache.allocations.load(Ordering::Relaxed);
        let live = allocations.wrapping_sub(cache.frees.load(Ordering::Relaxed));
        #[cfg(feature = "hardening")]
        let live = live.wrapping_sub(self.quarantine.held(class));
        live
    }

    pub(in crate::heap) fn stats(&self) -> CpuHeapStats {
        let uses = |cache: &ClassCache| {
            cache.allocations.load(Ordering::Relaxed) + cache.frees.load(Ordering::Relaxed)
        };
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
