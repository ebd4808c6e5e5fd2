//! One CPU's magazines.

use core::mem;
use core::ptr::NonNull;

use super::Heap;
use super::counters::CpuCounters;
use crate::magazine::MagazineBox;
use crate::slab::{CLASS_COUNT, SizeClass, Slab};
use crate::try_lock::Patience;
use crate::{CpuPin, NodeId, Order, OutOfMemory, PageSource, Platform, Slot};

/// What a CPU has of its own, in one run of pages on its node.
#[repr(C)]
pub(super) struct CpuArea {
    pub(super) cache: Slot<CpuCache>,
    /// Outside the slot, so that other CPUs can read it.
    pub(super) counters: CpuCounters,
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
            area.as_ref()
        }
    }
}

/// Does the CPU use its magazines?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Online,
    /// No: they are empty, and stay so.
    Offline,
}

/// Why a CPU's magazines did not serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declined {
    /// The CPU is offline: use the shared path.
    Offline,
    /// Neither magazines, depot, shelf nor source have any.
    OutOfMemory,
}

impl From<OutOfMemory> for Declined {
    fn from(_: OutOfMemory) -> Declined {
        Declined::OutOfMemory
    }
}

/// The magazines of one CPU. They hold objects of the CPU's node only.
pub(super) struct CpuCache {
    state: State,
    node: NodeId,
    counters: &'static CpuCounters,
    classes: [ClassCache; CLASS_COUNT],
}

/// The two magazines of one class; `None` until first needed.
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
        if self.state == State::Offline {
            return Err(Declined::Offline);
        }
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
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let node = heap.node(pin, self.node)?;
        let cache = &mut self.classes[class.index()];
        if let Some(mut full) = node.class(class).depot.take_full() {
            let object = full.pop();
            if let Some(empty) = mem::replace(&mut cache.previous, cache.loaded.replace(full)) {
                heap.retire(pin, node, class, empty);
            }
            if let Some(object) = object {
                self.counters.missed();
                return Ok(object);
            }
        }
        if cache.loaded.is_none() {
            cache.loaded = heap.empty_magazine(pin, node, class);
        }
        let object = match &mut cache.loaded {
            Some(loaded) => {
                heap.take(pin, self.node, class, Patience::Bounded, class.rounds(), loaded)?;
                loaded.pop().ok_or(OutOfMemory)?
            }
            None => heap.take_one(pin, self.node, class, Patience::Bounded)?,
        };
        self.counters.missed();
        Ok(object)
    }

    /// Takes an object back; `Err` where the CPU is offline, with the object still the caller's.
    #[inline]
    pub(super) fn free<P: Platform, S: PageSource>(
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
        self.counters.freed(class);
        if slab.node() != self.node {
            self.counters.freed_remotely();
            heap.send_home(class, slab, object);
        } else if let Err(object) = self.classes[class.index()].push(class, object) {
            self.counters.missed();
            self.free_slow(heap, pin, slab, class, object);
        }
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
    ) {
        let Some(node) = heap.existing(self.node) else {
            heap.give(pin, slab, class, object, Patience::Bounded);
            return;
        };
        let cache = &mut self.classes[class.index()];
        let empty = match cache.previous.take() {
            Some(full) => match node.class(class).depot.put_full(full) {
                Ok(()) => heap.empty_magazine(pin, node, class),
                Err(mut full) => {
                    heap.flush(pin, node, class, &mut full);
                    Some(full)
                }
            },
            None => heap.empty_magazine(pin, node, class),
        };
        if let Some(empty) = empty {
            cache.previous = cache.loaded.replace(empty);
        }
        if let Err(object) = cache.push(class, object) {
            heap.give(pin, slab, class, object, Patience::Bounded);
        }
    }

    /// Returns all objects, and the magazines.
    pub(super) fn flush<P: Platform, S: PageSource>(&mut self, heap: &Heap<P, S>, pin: &CpuPin) {
        let Some(node) = heap.existing(self.node) else {
            return;
        };
        for class in SizeClass::all() {
            let cache = &mut self.classes[class.index()];
            for mut magazine in [cache.loaded.take(), cache.previous.take()].into_iter().flatten() {
                heap.flush(pin, node, class, &mut magazine);
                heap.scrap(pin, magazine);
            }
        }
    }
}
