//! What an object is made of, in a frame of its own.

use core::fmt;
use core::ops::{ControlFlow, Range};
use core::ptr::NonNull;

use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use topomem_percpu::{CpuPin, Order};
use x86_64::structures::paging::PhysFrame;

use super::index::Index;
use super::mappings::Mappings;
use super::queue::PagerQueue;
use super::word::{State, Word};
use crate::Machine;
use crate::page_table::{Leaf, Ownership, Protection, Reach};
use crate::service::{MemoryService, frame_memory};
use crate::spin_lock::SpinLock;

/// The number of an object, not 0: no two objects of a machine have the same, one after the other included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(u64);

impl ObjectId {
    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Where an object's pages come from.
pub(super) enum Source<P: Machine> {
    /// Nowhere: they are zero at first, and have no other place.
    Zeros,
    /// A pager, which is asked by these requests, about the file with this key.
    Pager { requests: &'static PagerQueue<P>, key: u64 },
}

pub(crate) struct ObjectCore<P: Machine> {
    pub service: &'static MemoryService<P>,
    /// How many handles there are.
    handles: AtomicUsize,
    id: ObjectId,
    /// Its length in bytes.
    pub size: AtomicU64,
    pub(super) source: Source<P>,
    pub(super) index: Index,
    /// How many pages are there.
    pub resident: AtomicU64,
    /// Held by who takes pages out, or permissions to write: one at a time goes through the mappings.
    pub upkeep: SpinLock<()>,
    pub mappings: SpinLock<Mappings<P>>,
    /// May some mappings write to the pages while others execute them?
    pub(super) write_execute: AtomicBool,
    /// The pages that the pager is giving up, and the slot of that request: they are not read meanwhile.
    pub discard: SpinLock<Option<(Range<u64>, usize)>>,
    frame: PhysFrame,
}

/// Pages that several address spaces may map: of a file, or without one.
///
/// An object has a frame for each page that has been used. All that map the object see the same frames, but
/// that private mappings copy a page before they write to it. A [paged](MemoryObject::paged) object's pages
/// are read in by a [`Pager`](super::Pager) at their first use, and written back by
/// [`sync`](MemoryObject::sync); those of an [anonymous](MemoryObject::anonymous) object are zero at first.
///
/// A value is a handle. The object ends with the last handle and the last page of address space that is
/// mapped to it.
///
/// ```
/// # use topomem::sim::Sim;
/// use topomem::object::{MemoryObject, ObjectMapping};
/// use topomem::region::{FaultAccess, MapRequest, PageFault, Resolved, Sharing};
/// use topomem::CpuId;
///
/// # let sim = Sim::builder().memory(64 << 20).build()?;
/// # let service = sim.boot_service()?;
/// # sim.on(CpuId::BOOT, |pin| -> Result<(), Box<dyn std::error::Error>> {
/// let object = MemoryObject::anonymous(service, pin, 8192)?;
/// let mapping = ObjectMapping::new(&object, 4096, Sharing::Shared);
/// let space = service.create_space(pin)?;
/// let start = space.mmap_object(pin, &MapRequest::anonymous(4096), mapping)?;
/// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
/// assert_eq!(object.resident_pages(), 1);
/// # Ok(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MemoryObject<P: Machine> {
    core: NonNull<ObjectCore<P>>,
}

// SAFETY: all of the core may be used by several CPUs at once; it lives until the last handle goes, wherever
// that is.
unsafe impl<P: Machine> Send for MemoryObject<P> {}
// SAFETY: as above.
unsafe impl<P: Machine> Sync for MemoryObject<P> {}

impl<P: Machine> Clone for MemoryObject<P> {
    fn clone(&self) -> MemoryObject<P> {
        // Relaxed: the caller has a handle.
        self.core().handles.fetch_add(1, Ordering::Relaxed);
        MemoryObject { core: self.core }
    }
}

impl<P: Machine> Drop for MemoryObject<P> {
    fn drop(&mut self) {
        // Release: what was done by this handle happened before the end.
        if self.core().handles.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            let pin = self.core().service.platform().pin();
            // SAFETY: it was the last handle.
            unsafe { ObjectCore::end(self.core, &pin) };
        }
    }
}

impl<P: Machine> PartialEq for MemoryObject<P> {
    fn eq(&self, other: &MemoryObject<P>) -> bool {
        self.core == other.core
    }
}

impl<P: Machine> Eq for MemoryObject<P> {}

impl<P: Machine> fmt::Debug for MemoryObject<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryObject")
            .field("id", &self.id())
            .field("size", &self.size())
            .field("resident_pages", &self.resident_pages())
            .finish()
    }
}

impl<P: Machine> MemoryObject<P> {
    /// Returns a new object of `bytes` bytes whose pages are zero at first.
    ///
    /// Costs a frame; pages come at their first use.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing has changed.
    pub fn anonymous(
        service: &'static MemoryService<P>,
        pin: &CpuPin,
        bytes: u64,
    ) -> Result<MemoryObject<P>, AllocError> {
        MemoryObject::new(service, pin, bytes, Source::Zeros)
    }

    /// Returns a new object of `bytes` bytes whose pages the pager that serves `requests` reads in and
    /// writes back. `key` says to the pager which file it is.
    ///
    /// # Errors
    ///
    /// [`AllocError`]; nothing has changed.
    pub fn paged(
        service: &'static MemoryService<P>,
        pin: &CpuPin,
        bytes: u64,
        requests: &'static PagerQueue<P>,
        key: u64,
    ) -> Result<MemoryObject<P>, AllocError> {
        MemoryObject::new(service, pin, bytes, Source::Pager { requests, key })
    }

    fn new(
        service: &'static MemoryService<P>,
        pin: &CpuPin,
        bytes: u64,
        source: Source<P>,
    ) -> Result<MemoryObject<P>, AllocError> {
        const { assert!(size_of::<ObjectCore<P>>() <= 4096) };
        let frame = service.alloc(pin, &FrameRequest::frame())?;
        let place = service.platform().phys_to_virt(frame.start_address()).cast::<ObjectCore<P>>();
        let core = ObjectCore {
            service,
            handles: AtomicUsize::new(1),
            id: ObjectId(service.next_object()),
            size: AtomicU64::new(bytes),
            source,
            index: Index::new(),
            resident: AtomicU64::new(0),
            upkeep: SpinLock::new(()),
            mappings: SpinLock::new(Mappings::NONE),
            write_execute: AtomicBool::new(false),
            discard: SpinLock::new(None),
            frame,
        };
        // SAFETY: the frame is ours alone, aligned, and large enough.
        unsafe { place.write(core) };
        Ok(MemoryObject { core: place })
    }

    pub(crate) fn core(&self) -> &ObjectCore<P> {
        // SAFETY: it lives as long as there is a handle.
        unsafe { self.core.as_ref() }
    }

    /// Returns the object's number.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.core().id
    }

    /// Returns the object's length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        // Acquire pairs with the Release in `set_size`.
        self.core().size.load(Ordering::Acquire)
    }

    /// Returns how many of the object's pages are in memory.
    #[must_use]
    pub fn resident_pages(&self) -> u64 {
        self.core().resident.load(Ordering::Relaxed)
    }
}

/// The leaf of 4 KiB by which something holds `frame` without mapping it.
pub(crate) fn share_of(frame: PhysFrame) -> Leaf {
    Leaf { frame, protection: Protection::USER_READ_ONLY, reach: Reach::Space, ownership: Ownership::Shared }
}

impl<P: Machine> ObjectCore<P> {
    /// Does the pager have another version of the pages, so that written ones are kept account of?
    pub fn is_tracked(&self) -> bool {
        matches!(self.source, Source::Pager { .. })
    }

    /// How many pages have bytes of the object.
    pub fn pages(&self) -> u64 {
        // Acquire pairs with the Release in `set_size`.
        self.size.load(Ordering::Acquire).div_ceil(4096)
    }

    /// Gives up the object's hold of a page's frame, which was taken out of the index.
    ///
    /// # Safety
    ///
    /// The page's word has been replaced by the caller, nobody uses the frame by way of the object, and the
    /// tickets for mappings of it are complete.
    pub(super) unsafe fn release(&self, pin: &CpuPin, word: Word) {
        self.resident.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the object held the frame, and the caller's promise.
        unsafe { frame_memory::release_leaf(self.service.frames(), pin, &share_of(word.frame())) };
    }

    /// Frees all of the object.
    ///
    /// # Safety
    ///
    /// Nobody has a handle any more: so nothing maps it, and no request is under way.
    unsafe fn end(core: NonNull<ObjectCore<P>>, pin: &CpuPin) {
        // SAFETY: the caller has the last use of it.
        let object = unsafe { core.as_ref() };
        object.index.for_each(object.service, 0, u64::MAX, &mut |_, word| {
            let word = word.take();
            if !matches!(word.state(), State::Absent | State::Loading(_)) {
                // SAFETY: nothing maps the object any more, and mappings end after their tickets.
                unsafe { object.release(pin, word) };
            }
            ControlFlow::Continue(())
        });
        // SAFETY: the caller's promise.
        unsafe { object.index.free(object.service, pin) };
        let (service, frame) = (object.service, object.frame);
        // SAFETY: `MemoryObject::new` allocated it; nothing in it needs dropping.
        unsafe { frame_memory::release_own(service.frames(), pin, frame, Order::FRAME) };
    }
}
