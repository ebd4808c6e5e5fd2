//! One CPU's magazines.

use core::mem;
use core::ptr::NonNull;

use super::counters::CpuCounters;
use super::{AllocError, Heap};
use crate::magazine::MagazineBox;
use crate::slab::{CLASS_COUNT, SizeClass, Slab, SlabTag};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::try_lock::Patience;
use crate::{CpuPin, NodeId, Order, PageSource, Platform, Slot};

/// What a CPU has of its own, in one run of pages on its node.
#[repr(C)]
pub(super) struct CpuArea {
    pub(super) cache: Slot<CpuCache>,
    /// Outside the slot, like what follows, so that other CPUs can read it.
    pub(super) counters: CpuCounters,
    /// The node whose objects the CPU caches.
    pub(super) node: NodeId,
    /// Set by CPUs that need memory, cleared by the area's own. Relaxed: it orders nothing.
    drain_requested: AtomicBool,
}

impl CpuArea {
    /// The run that houses it.
    pub(super) const ORDER: Order = match Order::for_bytes(mem::size_of::<CpuArea>() as u64) {
        Some(order) => order,
        None => Order::GIANT,
    };

    /// Makes an area in `run`.
    ///
    /// # Safety
    ///
    /// `run` is a run of [`CpuArea::ORDER`] that is the caller's alone; it stays out for as long
    /// as the area is used.
    pub(super) unsafe fn new_in(run: NonNull<u8>, node: NodeId) -> &'static CpuArea {
        let area = run.cast::<CpuArea>();
        // SAFETY: the run is large and aligned enough, and ours. The counters are written
        // before the reference to them is made, and nothing overwrites them.
        unsafe {
            let counters = &raw mut (*area.as_ptr()).counters;
            counters.write(CpuCounters::new());
            let cache = CpuCache {
                state: State::Online,
                node,
                counters: &*counters,
                classes: [const { ClassCache { loaded: None, previous: None } }; CLASS_COUNT],
            };
            (&raw mut (*area.as_ptr()).cache).write(Slot::new(cache));
            (&raw mut (*area.as_ptr()).node).write(node);
            (&raw mut (*area.as_ptr()).drain_requested).write(AtomicBool::new(false));
            area.as_ref()
        }
    }

    /// Asks the CPU to return what its magazines hold.
    pub(super) fn request_drain(&self) {
        // A look first: a store would take the line away from the CPU's counters.
        if !self.drain_is_due() {
            self.drain_requested.store(true, Ordering::Relaxed);
        }
    }

    /// Was the CPU asked since it last drained?
    pub(super) fn drain_is_due(&self) -> bool {
        self.drain_requested.load(Ordering::Relaxed)
    }

    /// Notes that the CPU is about to drain.
    pub(super) fn drains(&self) {
        self.drain_requested.store(false, Ordering::Relaxed);
    }
}

/// Does the CPU use its magazines?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Online,
    /// No: it has none, so every use comes to the slow paths, which refuse.
    Offline,
}

/// Why a CPU's magazines did not serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declined {
    /// The CPU is offline: use the shared path.
    Offline,
    /// Magazines, depot and shelf have no object, and the source has no pages.
    Failed(AllocError),
    /// The object is not of the CPU's node, or not of the class: it does not go into a magazine.
    NotOurs,
}

impl From<AllocError> for Declined {
    fn from(error: AllocError) -> Declined {
        Declined::Failed(error)
    }
}

/// The magazines of one CPU. They hold objects of the CPU's node only.
pub(super) struct CpuCache {
    state: State,
    node: NodeId,
    counters: &'static CpuCounters,
    classes: [ClassCache; CLASS_COUNT],
}

/// The two magazines of one class. Each is `None` until it is first needed, and from then on there
/// until the CPU drains: with a single one, a CPU that alternates at its edge would go to the
/// depot again and again.
struct ClassCache {
    loaded: Option<MagazineBox>,
    previous: Option<MagazineBox>,
}

impl ClassCache {
    #[inline]
    fn pop(&mut self) -> Option<NonNull<u8>> {
        if let Some(object) = self.loaded.as_mut().and_then(|loaded| loaded.pop()) {
            return Some(object);
        }
        mem::swap(&mut self.loaded, &mut self.previous);
        self.loaded.as_mut()?.pop()
    }

    #[inline]
    fn push(&mut self, class: SizeClass, object: NonNull<u8>) -> Result<(), NonNull<u8>> {
        let object = match &mut self.loaded {
            Some(loaded) => match loaded.push(class, object) {
                Ok(()) => return Ok(()),
                Err(object) => object,
            },
            None => object,
        };
        mem::swap(&mut self.loaded, &mut self.previous);
        match &mut self.loaded {
            Some(loaded) => loaded.push(class, object),
            None => Err(object),
        }
    }

    /// Loads `magazine`; the loaded one becomes the previous one. Returns the magazine for which
    /// that leaves no room.
    fn load(&mut self, magazine: MagazineBox) -> Option<MagazineBox> {
        let loaded = self.loaded.replace(magazine)?;
        self.previous.replace(loaded)
    }
}

impl CpuCache {
    pub(super) fn set_online(&mut self) {
        self.state = State::Online;
    }

    pub(super) fn set_offline(&mut self) {
        self.state = State::Offline;
    }

    #[inline]
    pub(super) fn alloc<P: Platform, S: PageSource>(
        &mut self,
        heap: &Heap<P, S>,
        pin: &CpuPin,
        class: SizeClass,
    ) -> Result<NonNull<u8>, Declined> {
        let object = match self.classes[class.index()].pop() {
            Some(object) => object,
            None => self.alloc_slow(heap, pin, class)?,
        };
        self.counters.allocated(class);
        Ok(object)
    }

    /// Both magazines are empty or missing.
    fn alloc_slow<P: Platform, S: PageSource>(
        &mut self,
        heap: &Heap<P, S>,
        pin: &CpuPin,
        class: SizeClass,
    ) -> Result<NonNull<u8>, Declined> {
        if self.state == State::Offline {
            return Err(Declined::Offline);
        }
        let node = heap.node(pin, self.node)?;
        let cache = &mut self.classes[class.index()];
        if let Some(mut full) = node.class(class).depot.take_full() {
            let object = full.pop();
            if let Some(empty) = cache.load(full) {
                heap.retire(pin, node, class, empty);
            }
            if let Some(object) = object {
                self.counters.missed();
                return Ok(object);
            }
        }
        if cache.loaded.is_none() {
            cache.loaded = cache.previous.take().or_else(|| heap.empty_magazine(pin, node, class));
        }
        let object = match &mut cache.loaded {
            Some(loaded) => {
                heap.take(pin, node, class, Patience::Bounded, class.rounds(), loaded)?;
                loaded.pop().ok_or(AllocError::OutOfMemory)?
            }
            None => heap.take_one(pin, node, class, Patience::Bounded)?,
        };
        self.counters.missed();
        Ok(object)
    }

    /// Takes an object back; `Err` if it is not for the magazines, with the object still the
    /// caller's.
    #[inline]
    pub(super) fn free<P: Platform, S: PageSource>(
        &mut self,
        heap: &Heap<P, S>,
        pin: &CpuPin,
        slab: Slab,
        class: SizeClass,
        object: NonNull<u8>,
    ) -> Result<(), Declined> {
        // One comparison says that the address is in a slab, of this class, of this node.
        if slab.tag() != SlabTag::new(class, self.node) {
            return self.free_elsewhere(heap, pin, slab, class, object);
        }
        if let Err(object) = self.classes[class.index()].push(class, object) {
            self.free_slow(heap, pin, slab, class, object)?;
        }
        self.counters.freed(class);
        Ok(())
    }

    /// The object is not of this CPU's node, or of another class.
    #[cold]
    fn free_elsewhere<P: Platform, S: PageSource>(
        &mut self,
        heap: &Heap<P, S>,
        pin: &CpuPin,
        slab: Slab,
        class: SizeClass,
        object: NonNull<u8>,
    ) -> Result<(), Declined> {
        let home = slab.home(class).and_then(|home| heap.existing(home)).ok_or(Declined::NotOurs)?;
        if self.state == State::Offline {
            return Err(Declined::Offline);
        }
        self.counters.freed(class);
        self.counters.freed_remotely();
        heap.free_remotely(pin, home, class, slab, object);
        Ok(())
    }

    /// Both magazines are full or missing.
    fn free_slow<P: Platform, S: PageSource>(
        &mut self,
        heap: &Heap<P, S>,
        pin: &CpuPin,
        slab: Slab,
        class: SizeClass,
        object: NonNull<u8>,
    ) -> Result<(), Declined> {
        if self.state == State::Offline {
            return Err(Declined::Offline);
        }
        // A slab is made only if its home's heap exists.
        let node = heap.existing(self.node).ok_or(Declined::NotOurs)?;
        self.counters.missed();
        let cache = &mut self.classes[class.index()];
        // With one magazine there is room for another; of two full ones, one goes.
        let surplus = if cache.loaded.is_some() { cache.previous.take() } else { None };
        let empty = match surplus.map(|full| node.class(class).depot.put_full(full)) {
            None | Some(Ok(())) => heap.empty_magazine(pin, node, class),
            Some(Err(mut full)) => {
                heap.flush(pin, node, class, Patience::Bounded, &mut full);
                Some(full)
            }
        };
        if let Some(empty) = empty {
            let surplus = cache.load(empty);
            debug_assert!(surplus.is_none(), "there was room for a magazine");
        }
        if let Err(object) = cache.push(class, object) {
            heap.give(pin, node, class, slab, object, Patience::Bounded);
        }
        Ok(())
    }

    /// Returns all objects, and the magazines; says how many frames that freed.
    pub(super) fn flush<P: Platform, S: PageSource>(&mut self, heap: &Heap<P, S>, pin: &CpuPin) -> u64 {
        let Some(node) = heap.existing(self.node) else {
            return 0;
        };
        let mut frames = 0;
        for class in SizeClass::all() {
            let cache = &mut self.classes[class.index()];
            for mut magazine in [cache.loaded.take(), cache.previous.take()].into_iter().flatten() {
                frames += heap.flush(pin, node, class, Patience::Bounded, &mut magazine);
                frames += heap.scrap(pin, node, magazine, Patience::Bounded);
            }
        }
        frames
    }
}
