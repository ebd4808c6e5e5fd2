//! The heap: slabs per size class and node, with magazines per CPU in front.
//!
//! # The path of an object
//!
//! An allocation pops the CPU's loaded [magazine](crate::magazine): no lock, no atomic
//! read-modify-write. Only this is inlined, for sizes up to 1 KiB; all other paths are behind a
//! call. If both magazines are empty, the CPU takes a full magazine from its node's
//! [depot](crate::depot), else fills a magazine from its node's [shelf](crate::slab), else makes a
//! slab of pages from the source. A free takes the same path back, if the object's slab belongs to
//! the CPU's node. An object of another node's slab returns at once, by one compare-and-swap on its
//! slab. A slab without live objects returns its pages; each shelf keeps a magazine's worth of such
//! slabs.
//!
//! # Homes
//!
//! A slab belongs to the node requested for its pages, even if the source only had pages of another
//! node. So a CPU always finds the slabs allocated for it, and its frees into them are local.
//!
//! Objects freed by other nodes' CPUs are collected by CPUs of the home node that allocate, by the
//! freeing CPU if several slabs wait, by [`Heap::tend`], and by [`Heap::reclaim`].
//!
//! # Contexts
//!
//! Everything works in every context, with nothing masked: thread, interrupt handler, NMI handler
//! nested in either, a CPU that is not online yet. A use nested in another use on its CPU finds the
//! CPU's cell busy, and takes the *shared path*: it tries the shelf's lock once, and without it
//! frees to the slab's remote stack, or allocates from the shelf's inbox or a new slab. No context
//! waits for a context that it interrupted, and none waits for another CPU without bound. The heap
//! holds none of its locks while it calls [`PageSource`] or [`Platform::relax`].

pub(crate) mod arrivals;
mod by_address;
mod cache;
mod counters;
mod error;
mod global;
pub(crate) mod handles;
#[cfg(feature = "hardening")]
mod hardening;
mod large;
mod life;
mod many;
mod node;
mod place;
mod ranges;
mod resize;
mod run_cache;
mod runs;
mod shared;
mod slabinfo;
mod stats;

pub use error::{AllocError, Corruption, InvalidFree, ReallocError};
#[cfg(feature = "leak-tracking")]
pub use hardening::LiveObjects;
#[cfg(feature = "hardening")]
pub use hardening::{Caller, Finding, Hardening, Measure, Origin, QUARANTINE_BYTES, Report, Site};
pub use many::Partial;
pub use slabinfo::{HeapStats, NodeClassStats, Slabinfo};
pub use stats::{ClassStats, CpuHeapStats, LargeStats};

use core::alloc::Layout;
use core::fmt;
use core::ptr::{self, NonNull};

use crate::slab::{CHECKED, Slab, SlabShape, WasLive, is_aligned_to_words};
use crate::sync::atomic::{AtomicPtr, Ordering};
use crate::try_lock::Patience;
use crate::{
    CpuLocal, CpuPin, MAX_CLASS_SIZE, MAX_CPUS, MAX_NODES, NodeId, PageSource, Platform, SizeClass,
    Unavailable,
};
use cache::{CpuArea, CpuCache, Declined};
use large::{Contents, Held};
use node::NodeHeap;
use place::Room;
use runs::Runs;

/// A slab heap over the pages of `S`, for the CPUs of `P`.
///
/// `const`-constructible, so it fits in a `static`, as `#[global_allocator]` too. The heap serves
/// from the first call on; [`Heap::cpu_online`] gives each CPU its magazines. Objects up to
/// [`MAX_CLASS_SIZE`](crate::MAX_CLASS_SIZE) come from slabs; larger objects are runs of pages.
///
/// Dropping the heap returns all its pages except those of slabs with live objects.
pub struct Heap<P: Platform, S: PageSource> {
    platform: P,
    source: S,
    caches: CpuLocal<CpuCache>,
    /// The areas of the caches, for the fields that remote CPUs may read.
    areas: [AtomicPtr<CpuArea>; MAX_CPUS],
    /// Created at the first use of the node's memory.
    nodes: [AtomicPtr<NodeHeap>; MAX_NODES],
    runs: Runs,
    large: large::Counters,
    #[cfg(feature = "hardening")]
    hardening: Hardening,
    #[cfg(feature = "leak-tracking")]
    inspection: hardening::Inspection,
}

impl<P: Platform, S: PageSource> Heap<P, S> {
    /// Creates an empty heap. It takes its first pages at the first allocation.
    ///
    /// # Examples
    ///
    /// ```
    /// # use topomem_percpu::Heap;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::Host;
    /// static HEAP: Heap<Host, Host> = Heap::new(Host, Host);
    /// ```
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(platform: P, source: S) -> Heap<P, S> {
        Heap {
            platform,
            source,
            caches: CpuLocal::new(),
            areas: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS],
            nodes: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_NODES],
            runs: Runs::new(),
            large: large::Counters::new(),
            #[cfg(feature = "hardening")]
            hardening: Hardening::NONE,
            #[cfg(feature = "leak-tracking")]
            inspection: hardening::Inspection::new(),
        }
    }

    /// Creates an empty heap (loom's atomics have no `const` constructor).
    #[cfg(loom)]
    #[must_use]
    pub fn new(platform: P, source: S) -> Heap<P, S> {
        Heap {
            platform,
            source,
            caches: CpuLocal::new(),
            areas: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            nodes: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            runs: Runs::new(),
            large: large::Counters::new(),
            #[cfg(feature = "hardening")]
            hardening: Hardening::NONE,
            #[cfg(feature = "leak-tracking")]
            inspection: hardening::Inspection::new(),
        }
    }

    /// Returns the page source.
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// Memory for `layout`: aligned, uninitialised, the caller's until [`Heap::dealloc`]. For a
    /// size of zero an aligned address that may not be used. A hit costs a few plain loads and
    /// stores. When nothing is left, the caches that can be reached are returned, and it tries
    /// once more.
    ///
    /// # Errors
    ///
    /// [`AllocError`].
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    #[inline]
    pub fn alloc(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        // Nothing but this is inlined where memory is allocated. Two questions that lead to two places: led to
        // one, they would be joined, and cost more.
        let Some(class) = SizeClass::of_small_size(layout.size()) else { return self.alloc_uncommon(layout) };
        if !is_aligned_to_words(layout) {
            return self.alloc_rare(layout);
        }
        match self.pop(class) {
            Some(object) => Ok(object),
            None => self.alloc_otherwise(layout),
        }
    }

    /// Like [`Heap::alloc`], all bytes zero. A large object that is served by the page source is zeroed by
    /// that, and not written to here.
    ///
    /// # Errors
    ///
    /// [`AllocError`].
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    pub fn alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if layout.size() > MAX_CLASS_SIZE && !self.is_hardened() {
            return self.alloc_large(&self.platform.pin(), layout, Contents::Zeroed);
        }
        let memory = self.alloc(layout)?;
        // SAFETY: `alloc` returned that many bytes, which are the caller's.
        unsafe { memory.write_bytes(0, layout.size()) };
        Ok(memory)
    }

    /// Does the heap have measures that surround objects, or look at them?
    const fn is_hardened(&self) -> bool {
        #[cfg(feature = "hardening")]
        return self.hardening.is_some();
        #[cfg(not(feature = "hardening"))]
        false
    }

    /// Takes memory back.
    ///
    /// # Safety
    ///
    /// `memory` came from this heap for the same `layout`, and is not used any more. Builds with
    /// debug assertions or the `hardened` feature detect most breaches of this, but may crash on
    /// an address that is not readable as far back as a slab reaches.
    ///
    /// # Errors
    ///
    /// [`InvalidFree`], with everything unchanged. Every build detects wrong frees of large objects
    /// and frees with the layout of another class; those builds detect double frees, and addresses
    /// inside objects, too.
    #[inline]
    pub unsafe fn dealloc(&self, memory: NonNull<u8>, layout: Layout) -> Result<(), InvalidFree> {
        // SAFETY: the caller's promise.
        unsafe {
            // As in `alloc`.
            let Some(class) = SizeClass::of_small_size(layout.size()) else {
                return self.dealloc_uncommon(memory, layout);
            };
            if !is_aligned_to_words(layout) {
                return self.dealloc_rare(memory, layout);
            }
            if self.push(class, memory) { Ok(()) } else { self.dealloc_otherwise(memory, layout) }
        }
    }

    /// Takes an object of `class` out of the loaded magazine, if that has any.
    #[inline(always)]
    fn pop(&self, class: SizeClass) -> Option<NonNull<u8>> {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            return None;
        }
        let pin = self.platform.pin();
        let Ok(Some(object)) = self.caches.with(&pin, |cache| cache.pop(class)) else { return None };
        if CHECKED {
            mark_live(class, object);
        }
        Some(object)
    }

    /// Puts an object of `class` into the loaded magazine. False if that has no room, or if something about the
    /// object is to be checked or refused; then nothing has changed.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc`], with a layout of that class.
    #[inline(always)]
    unsafe fn push(&self, class: SizeClass, memory: NonNull<u8>) -> bool {
        if CHECKED {
            return false;
        }
        let pin = self.platform.pin();
        // SAFETY: the caller's promise.
        matches!(self.caches.with(&pin, |cache| unsafe { cache.push(class, memory) }), Ok(true))
    }

    /// [`Heap::alloc`] of sizes that [`SizeClass::of_small_size`] does not know.
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    #[inline(never)]
    fn alloc_uncommon(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        let Some(class) = SizeClass::of_medium(layout) else { return self.alloc_rare(layout) };
        match self.pop(class) {
            Some(object) => Ok(object),
            None => self.alloc_otherwise(layout),
        }
    }

    /// [`Heap::alloc`] of what is larger than any class, aligned to more than a word, or without bytes.
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    #[inline(never)]
    fn alloc_rare(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        match SizeClass::of(layout).and_then(|class| self.alloc_uncommon_hit(class, layout)) {
            Some(object) => Ok(object),
            None => self.alloc_otherwise(layout),
        }
    }

    /// Serves any `layout` of `class` from the loaded magazine, if that has an object.
    #[inline(always)]
    fn alloc_uncommon_hit(&self, class: SizeClass, layout: Layout) -> Option<NonNull<u8>> {
        // A layout without bytes is of the smallest class, and takes nothing.
        if layout.size() == 0 { None } else { self.pop(class) }
    }

    /// [`Heap::dealloc`] of sizes that [`SizeClass::of_small_size`] does not know.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc`].
    #[inline(never)]
    unsafe fn dealloc_uncommon(&self, memory: NonNull<u8>, layout: Layout) -> Result<(), InvalidFree> {
        // SAFETY: the caller's promise.
        unsafe {
            let Some(class) = SizeClass::of_medium(layout) else { return self.dealloc_rare(memory, layout) };
            if self.push(class, memory) { Ok(()) } else { self.dealloc_otherwise(memory, layout) }
        }
    }

    /// [`Heap::dealloc`] of what is larger than any class, aligned to more than a word, or without bytes.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc`].
    #[inline(never)]
    unsafe fn dealloc_rare(&self, memory: NonNull<u8>, layout: Layout) -> Result<(), InvalidFree> {
        // SAFETY: the caller's promise.
        unsafe {
            match SizeClass::of(layout) {
                Some(class) if self.free_uncommon_hit(class, memory, layout) => Ok(()),
                _ => self.dealloc_otherwise(memory, layout),
            }
        }
    }

    /// Takes memory of any `layout` of `class` back into the loaded magazine; false if that has no room, or
    /// if something about it is to be checked or refused. Then nothing has changed.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc`].
    #[inline(always)]
    unsafe fn free_uncommon_hit(&self, class: SizeClass, memory: NonNull<u8>, layout: Layout) -> bool {
        // SAFETY: the caller's promise.
        layout.size() != 0 && unsafe { self.push(class, memory) }
    }

    /// [`Heap::alloc`] of anything, by any way.
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    #[inline(never)]
    fn alloc_otherwise(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        #[cfg(feature = "hardening")]
        return self.alloc_otherwise_at(layout, Site::here());
        #[cfg(not(feature = "hardening"))]
        self.alloc_plain(layout)
    }

    /// [`Heap::alloc`] of anything, by any way, for the call at `site`.
    #[cfg(feature = "hardening")]
    #[inline(always)]
    fn alloc_otherwise_at(&self, layout: Layout, site: Option<Site>) -> Result<NonNull<u8>, AllocError> {
        #[cfg(feature = "encoded-free-lists")]
        self.report_broken_link();
        if self.hardening.is_some() { self.alloc_hardened(layout, site) } else { self.alloc_plain(layout) }
    }

    /// [`Heap::alloc`] without hardening's measures, by any way.
    #[inline(always)]
    fn alloc_plain(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if layout.size() == 0 {
            return Ok(dangling(layout));
        }
        let pin = self.platform.pin();
        let Some(class) = SizeClass::of(layout) else {
            return self.alloc_large(&pin, layout, Contents::Arbitrary);
        };
        let object = match self.alloc_class(&pin, class) {
            Ok(object) => object,
            Err(error) => self.alloc_last_resort(&pin, class, error)?,
        };
        if CHECKED {
            mark_live(class, object);
        }
        Ok(object)
    }

    /// [`Heap::dealloc`] of anything, by any way.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc`].
    #[inline(never)]
    unsafe fn dealloc_otherwise(&self, memory: NonNull<u8>, layout: Layout) -> Result<(), InvalidFree> {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            // SAFETY: the caller's promise.
            return unsafe { self.dealloc_hardened(memory, layout) };
        }
        if layout.size() == 0 {
            return Ok(());
        }
        let pin = self.platform.pin();
        let Some(class) = SizeClass::of(layout) else {
            // SAFETY: the caller's promise.
            return unsafe { self.dealloc_large(&pin, memory, layout) };
        };
        // SAFETY: the caller's promise; in checking builds the tag is looked at first.
        let slab = unsafe { Slab::of(memory, class) };
        if CHECKED {
            match check_free(slab, class, memory) {
                Ok(()) => {}
                Err(otherwise @ InvalidFree::NotInSlab { .. }) => {
                    // SAFETY: the caller's promise.
                    return unsafe { self.dealloc_left(&pin, memory, Room::Object(class), otherwise) };
                }
                Err(invalid) => return Err(invalid),
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.put_back(&pin, slab, class, memory) }
    }

    /// Takes an object of `slab` back, by any way.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc`], with a layout of that class.
    #[inline(always)]
    unsafe fn put_back(
        &self,
        pin: &CpuPin,
        slab: Slab,
        class: SizeClass,
        memory: NonNull<u8>,
    ) -> Result<(), InvalidFree> {
        // SAFETY: the caller's promise.
        match self.caches.with(pin, |cache| unsafe { cache.free(self, pin, class, memory) }) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(Unavailable::NotInstalled) => {
                self.dealloc_shared(pin, slab, class, memory, Patience::Bounded)
            }
            Err(Unavailable::Busy) => {
                self.count_nested(pin);
                self.dealloc_shared(pin, slab, class, memory, Patience::None)
            }
        }
    }

    /// Changes the size of an allocation: in place if the size class is the same, or if the page source
    /// can make the run of pages longer or shorter where it is; else the contents are copied, as far as both sizes reach. If there is no memory
    /// of the new size, but where the allocation is there is enough, it stays: so no shrinking
    /// fails.
    ///
    /// # Safety
    ///
    /// As for [`Heap::dealloc`]; on success `memory` may not be used any more, and the new
    /// allocation has `layout`'s alignment.
    ///
    /// # Errors
    ///
    /// [`ReallocError`], with `memory` as it was. Wrong addresses and layouts are detected where
    /// [`Heap::dealloc`] detects them.
    #[cfg_attr(feature = "leak-tracking", track_caller)]
    pub unsafe fn realloc(
        &self,
        memory: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Result<NonNull<u8>, ReallocError> {
        #[cfg(feature = "hardening")]
        if self.hardening.is_some() {
            // SAFETY: the caller's promise.
            return unsafe { self.realloc_hardened(memory, layout, new_size, Site::here()) };
        }
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return Err(AllocError::TooLarge { size: new_size, align: layout.align() }.into());
        };
        if layout.size() == 0 {
            return Ok(self.alloc(new_layout)?);
        }
        if SizeClass::of(layout).is_none() {
            let pin = self.platform.pin();
            if let Some(pages) = self.range_at(&pin, memory) {
                // SAFETY: the caller's promise.
                return unsafe { self.realloc_range(&pin, memory, pages, layout, new_layout) };
            }
        }
        self.check_held(memory, layout)?;
        // SAFETY: the memory is the caller's, with that layout.
        if new_size != 0 && unsafe { self.resize_in_place(memory, layout, new_layout) } {
            return Ok(memory);
        }
        let moved = match self.alloc(new_layout) {
            Ok(moved) => moved,
            // SAFETY: the memory is the caller's, and both layouts have the same alignment.
            Err(error) => return unsafe { self.leave(memory, new_layout) }.ok_or(error.into()),
        };
        // SAFETY: two allocations, each at least that large; the old one is the caller's.
        unsafe {
            moved.copy_from_nonoverlapping(memory, layout.size().min(new_size));
            if let Err(invalid) = self.dealloc(memory, layout) {
                self.source.refused(invalid);
            }
        }
        Ok(moved)
    }

    /// Is `memory` an allocation with `layout`, as far as this build can tell?
    fn check_held(&self, memory: NonNull<u8>, layout: Layout) -> Result<(), InvalidFree> {
        let address = memory.addr().get();
        let Some(class) = SizeClass::of(layout) else {
            return match self.check_large(memory, layout)? {
                Held::Here(_) => Ok(()),
                Held::Left(room, otherwise) => self.left_place(memory, room).map(|_| ()).ok_or(otherwise),
            };
        };
        if !CHECKED {
            return Ok(());
        }
        // SAFETY: the caller's promise; the tag is looked at first.
        let slab = unsafe { Slab::of(memory, class) };
        if slab.home(class).is_none() {
            let otherwise = InvalidFree::NotInSlab { address, class };
            return self.left_place(memory, Room::Object(class)).map(|_| ()).ok_or(otherwise);
        }
        let index = object_index(slab, class, memory).ok_or(InvalidFree::InsideObject { address, class })?;
        match slab.live().get(index) {
            WasLive::Yes => Ok(()),
            WasLive::No => Err(InvalidFree::DoubleFree { address, class }),
        }
    }

    fn alloc_class(&self, pin: &CpuPin, class: SizeClass) -> Result<NonNull<u8>, AllocError> {
        let patience = match self.caches.with(pin, |cache| cache.alloc(self, pin, class)) {
            Ok(Ok(object)) => return Ok(object),
            Ok(Err(Declined::Failed(error))) => return Err(error),
            Ok(Err(Declined::Offline | Declined::NotOurs)) | Err(Unavailable::NotInstalled) => {
                Patience::Bounded
            }
            Err(Unavailable::Busy) => {
                self.count_nested(pin);
                Patience::None
            }
        };
        self.alloc_shared(pin, self.source.node_of_cpu(pin.cpu()), class, patience)
    }

    /// An object of a slab of `node`, by no magazine.
    #[cold]
    fn alloc_shared(
        &self,
        pin: &CpuPin,
        node: NodeId,
        class: SizeClass,
        patience: Patience,
    ) -> Result<NonNull<u8>, AllocError> {
        let home = self.node(pin, node)?;
        let object = self.take_one(pin, home, class, patience)?;
        home.class(class).ops.allocated();
        Ok(object)
    }

    #[cold]
    fn alloc_last_resort(
        &self,
        pin: &CpuPin,
        class: SizeClass,
        error: AllocError,
    ) -> Result<NonNull<u8>, AllocError> {
        if error != AllocError::OutOfMemory {
            return Err(error);
        }
        self.reclaim(pin);
        match self.alloc_class(pin, class) {
            Ok(object) => Ok(object),
            Err(_) => self.alloc_anywhere(pin, class),
        }
    }

    /// An object of any node's slabs.
    fn alloc_anywhere(&self, pin: &CpuPin, class: SizeClass) -> Result<NonNull<u8>, AllocError> {
        let (home, object) = self.take_anywhere(pin, class, self.patience(pin))?;
        home.class(class).ops.allocated();
        Ok(object)
    }

    #[cold]
    fn dealloc_shared(
        &self,
        pin: &CpuPin,
        slab: Slab,
        class: SizeClass,
        object: NonNull<u8>,
        patience: Patience,
    ) -> Result<(), InvalidFree> {
        // A slab is made only if its home's heap exists.
        let Some(home) = slab.home(class).and_then(|home| self.existing(home)) else {
            let otherwise = InvalidFree::NotInSlab { address: object.addr().get(), class };
            // SAFETY: the caller of `dealloc` gave the object up.
            return unsafe { self.dealloc_left(pin, object, Room::Object(class), otherwise) };
        };
        // Counted while the object still keeps its slab alive.
        home.class(class).ops.freed();
        self.give(pin, home, class, slab, object, patience);
        Ok(())
    }

    /// How long this context may spin: not at all if it is nested in another use on its CPU.
    fn patience(&self, pin: &CpuPin) -> Patience {
        match self.caches.with(pin, |_| ()) {
            Err(Unavailable::Busy) => Patience::None,
            Ok(()) | Err(Unavailable::NotInstalled) => Patience::Bounded,
        }
    }

    fn area(&self, cpu: crate::CpuId) -> Option<&CpuArea> {
        // Acquire pairs with the Release in `cpu_online`.
        // SAFETY: a non-null address is an area's, which lives until the heap is dropped.
        unsafe { self.areas[cpu.index()].load(Ordering::Acquire).as_ref() }
    }

    fn count_nested(&self, pin: &CpuPin) {
        if let Some(area) = self.area(pin.cpu()) {
            area.cache.shared().count_nested();
        }
    }
}

/// Returns an aligned address for an allocation without bytes.
fn dangling(layout: Layout) -> NonNull<u8> {
    // An alignment is never zero, so neither fallback is taken.
    NonNull::new(ptr::without_provenance_mut(layout.align())).unwrap_or(NonNull::dangling())
}

fn object_index(slab: Slab, class: SizeClass, object: NonNull<u8>) -> Option<usize> {
    SlabShape::ALL[class.index()].index_of(class, object.addr().get().wrapping_sub(slab.address()))
}

fn mark_live(class: SizeClass, object: NonNull<u8>) {
    // SAFETY: the object was just taken from a slab of this class.
    let slab = unsafe { Slab::of(object, class) };
    if let Some(index) = object_index(slab, class, object) {
        slab.live().set(index);
    }
}

fn check_free(slab: Slab, class: SizeClass, object: NonNull<u8>) -> Result<(), InvalidFree> {
    let address = object.addr().get();
    if slab.home(class).is_none() {
        return Err(InvalidFree::NotInSlab { address, class });
    }
    let Some(index) = object_index(slab, class, object) else {
        return Err(InvalidFree::InsideObject { address, class });
    };
    match slab.live().clear(index) {
        WasLive::Yes => Ok(()),
        WasLive::No => Err(InvalidFree::DoubleFree { address, class }),
    }
}

impl<P: Platform, S: PageSource> fmt::Debug for Heap<P, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
