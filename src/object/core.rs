//! The state of an object, in a frame of its own.

use core::fmt;
use core::ops::{ControlFlow, Range};
use core::ptr::NonNull;

use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use topomem_percpu::{CpuPin, Order, PhysFrame};

use super::mappings::Mappings;
use super::pages::index::Index;
use super::pages::word::{State, Word};
use super::paging::queue::PagerQueue;
use crate::Machine;
use crate::page_table::{Leaf, Ownership, Protection, Reach};
use crate::service::MemoryService;
use crate::service::memory::frame_memory;
use crate::spin_lock::SpinLock;

/// The number of an object, not 0. Numbers are unique on a machine, and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(u64);

impl ObjectId {
    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The origin of an object's pages.
pub(super) enum Source<P: Machine> {
    /// None: the pages are zero at first, and have no place outside memory.
    Zeros,
    /// A pager, asked through these requests about the file with this key.
    Pager { requests: &'static PagerQueue<P>, key: u64 },
}

pub(crate) struct ObjectCore<P: Machine> {
    pub service: &'static MemoryService<P>,
    /// Number of handles.
    handles: AtomicUsize,
    id: ObjectId,
    /// The length in bytes.
    pub size: AtomicU64,
    pub(super) source: Source<P>,
    pub(super) index: Index,
    /// Number of pages in memory.
    pub resident: AtomicU64,
    /// Held during the removal of pages or of write permissions: only one context at a time visits
    /// the mappings.
    pub upkeep: SpinLock<()>,
    pub mappings: SpinLock<Mappings<P>>,
    /// Whether some mappings may write to the pages while others execute them.
    pub(super) write_execute: AtomicBool,
    /// The pages being discarded by the pager, and the slot of the request: they are not read
    /// meanwhile.
    pub discard: SpinLock<Option<(Range<u64>, usize)>>,
    frame: PhysFrame,
}

/// Pages shared by several address spaces: the memory of a file, or anonymous memory.
///
/// An object has a frame for each used page. All mappings of the object see the same frames, except
/// private mappings, which copy a page before writing to it. The pages of a
/// [paged](MemoryObject::paged) object are read in by a [`Pager`](super::Pager) at their first use,
/// and written back by [`sync`](MemoryObject::sync). The pages of an
/// [anonymous](MemoryObject::anonymous) object are zero at first.
///
/// A value is a handle. The object ends with the last handle and the last page of address space
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

// SAFETY: several CPUs may use all of the core at once; the core lives until the last handle is
// dropped, on any CPU.
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
        // Release pairs with the Acquire fence below: all uses of this handle happened before the
        // end.
        if self.core().handles.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            let pin = self.core().service.platform().pin();
            // SAFETY: the handle was the last.
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
    /// Creates an object of `bytes` bytes with pages zero at first.
    ///
    /// Cost: a frame; pages are allocated at their first use.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError`] if no frame is left. Nothing has changed then.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::object::MemoryObject;
    ///
    /// let object = MemoryObject::anonymous(service, pin, 1 << 20)?;
    /// assert_eq!((object.size(), object.resident_pages()), (1 << 20, 0));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn anonymous(
        service: &'static MemoryService<P>,
        pin: &CpuPin,
        bytes: u64,
    ) -> Result<MemoryObject<P>, AllocError> {
        MemoryObject::new(service, pin, bytes, Source::Zeros)
    }

    /// Creates an object of `bytes` bytes whose pages are read in and written back by the pager
    /// serving `requests`. `key` identifies the file to the pager.
    ///
    /// # Errors
    ///
    /// Returns [`AllocError`] if no frame is left. Nothing has changed then.
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
        // SAFETY: the caller owns the frame, which is aligned and large enough.
        unsafe { place.write(core) };
        Ok(MemoryObject { core: place })
    }

    pub(crate) fn core(&self) -> &ObjectCore<P> {
        // SAFETY: the core lives as long as a handle.
        unsafe { self.core.as_ref() }
    }

    /// Returns the object's number.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::object::MemoryObject;
    ///
    /// let object = MemoryObject::anonymous(service, pin, 8192)?;
    /// let other = MemoryObject::anonymous(service, pin, 8192)?;
    /// assert_ne!(object.id(), other.id());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.core().id
    }

    /// Returns the object's length in bytes.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::object::MemoryObject;
    ///
    /// let object = MemoryObject::anonymous(service, pin, 8192)?;
    /// assert_eq!(object.size(), 8192);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn size(&self) -> u64 {
        // Acquire pairs with the Release in `set_size`.
        self.core().size.load(Ordering::Acquire)
    }

    /// Returns the number of the object's pages in memory.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::object::MemoryObject;
    ///
    /// let object = MemoryObject::anonymous(service, pin, 8192)?;
    /// object.try_write(pin, 0, b"one page")?;
    /// assert_eq!(object.resident_pages(), 1);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn resident_pages(&self) -> u64 {
        self.core().resident.load(Ordering::Relaxed)
    }
}

/// Returns a 4 KiB leaf representing a hold of `frame` without a mapping.
pub(crate) fn share_of(frame: PhysFrame) -> Leaf {
    Leaf { frame, protection: Protection::USER_READ_ONLY, reach: Reach::Space, ownership: Ownership::Shared }
}

impl<P: Machine> ObjectCore<P> {
    /// Returns whether the pager has another version of the pages: written pages are then tracked.
    pub(crate) fn is_tracked(&self) -> bool {
        matches!(self.source, Source::Pager { .. })
    }

    /// Returns the number of pages with bytes of the object.
    pub(crate) fn pages(&self) -> u64 {
        // Acquire pairs with the Release in `set_size`.
        self.size.load(Ordering::Acquire).div_ceil(4096)
    }

    /// Gives up the object's hold of a page's frame, removed from the index.
    ///
    /// # Safety
    ///
    /// The caller has replaced the page's word, nothing uses the frame through the object, and the
    /// tickets for mappings of the frame are complete.
    pub(super) unsafe fn release(&self, pin: &CpuPin, word: Word) {
        self.resident.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the object held the frame, and the caller's promise.
        unsafe { frame_memory::release_leaf(self.service.frames(), pin, &share_of(word.frame())) };
    }

    /// Frees all of the object.
    ///
    /// # Safety
    ///
    /// No handle is left: nothing maps the object, and no request is under way.
    unsafe fn end(core: NonNull<ObjectCore<P>>, pin: &CpuPin) {
        // SAFETY: the caller has the last use of the object.
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
        // SAFETY: `MemoryObject::new` allocated the frame; nothing in it needs dropping.
        unsafe { frame_memory::release_own(service.frames(), pin, frame, Order::FRAME) };
    }
}
