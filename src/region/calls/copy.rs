//! Copying a range of memory to another space: messages.

use core::fmt;

use topomem_numa::frames::{AllocError, FrameRequest};
use topomem_percpu::{CpuPin, Order, PhysFrame};
use topomem_shootdown::VirtAddr;

use super::error::MmapError;
use super::mmap::{address, is_aligned, range_at};
use super::request::{MapRequest, Populate};
use crate::Machine;
use crate::address_space::{AddressSpace, SpaceKind, Unmapping, range_of_pages, size_of_level};
use crate::page_table::{
    Access, Answer, Answered, Changed, Found, Leaf, LendError, Lends, Lent, Level, Neighbours, Ownership,
    Pages, Protection, Reach, RegionId, RewriteError,
};
use crate::region::attributes::{Region, Sharing};
use crate::service::memory::frame_memory;

/// The reason why a range was not copied. Neither space's contents have changed. The former
/// mappings at the place of a [fixed](crate::region::Placement::Fixed) request may be gone, however.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyRangeError {
    /// The spaces belong to different services.
    OtherService,
    /// The kernel's space has no regions.
    KernelSpace,
    /// The address is no multiple of the page size (EINVAL).
    Misaligned(VirtAddr),
    /// The range leaves the part of the space allowed for mappings (EFAULT).
    OutsideSpace,
    /// The page belongs to no region (EFAULT).
    NotMapped(VirtAddr),
    /// The page's region, or a guard, forbids reading (EFAULT).
    NotReadable(VirtAddr),
    /// The page shows a memory object, whose contents may change elsewhere: map the object instead
    /// (EINVAL).
    Object(VirtAddr),
    /// The page's region asked for larger pages, which are not copied (EINVAL).
    LargePage(VirtAddr),
    /// A frame has the greatest countable number of holders (ENOMEM).
    SharesFull,
    /// No region was made in the other space.
    Map(MmapError),
    /// No frame for page tables, or for the list of frames (ENOMEM).
    OutOfFrames(AllocError),
}

impl fmt::Display for CopyRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyRangeError::OtherService => f.write_str("the spaces are of different services"),
            CopyRangeError::KernelSpace => f.write_str("the kernel's space has no regions"),
            CopyRangeError::Misaligned(at) => write!(f, "{at:?} is no multiple of the page size"),
            CopyRangeError::OutsideSpace => f.write_str("the range leaves what the space may map"),
            CopyRangeError::NotMapped(at) => write!(f, "{at:?} belongs to no region"),
            CopyRangeError::NotReadable(at) => write!(f, "{at:?} may not be read"),
            CopyRangeError::Object(at) => write!(f, "{at:?} shows a memory object"),
            CopyRangeError::LargePage(at) => write!(f, "the region at {at:?} asked for larger pages"),
            CopyRangeError::SharesFull => f.write_str("a frame is shared as often as can be counted"),
            CopyRangeError::Map(error) => error.fmt(f),
            CopyRangeError::OutOfFrames(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for CopyRangeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            CopyRangeError::Map(error) => Some(error),
            CopyRangeError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

/// A frame for a list, freed on drop.
struct ListFrame<'a, P: Machine> {
    space: &'a AddressSpace<P>,
    pin: &'a CpuPin,
    frame: PhysFrame,
}

impl<P: Machine> Drop for ListFrame<'_, P> {
    fn drop(&mut self) {
        let frames = self.space.core().service.frames();
        // SAFETY: the frame was allocated for a list, and is mapped nowhere.
        unsafe { frame_memory::release_own(frames, self.pin, self.frame, Order::FRAME) };
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Makes a region in the space `into`, as described by `request`, with this space's contents
    /// from `start` on, and returns the start of the region: a message. No frame is copied; the
    /// first write to a page by either space makes a copy ([`AddressSpace::on_page_fault`]). If the
    /// sender unmaps its pages, the receiver's writes find the same frames: the message was moved.
    ///
    /// Both ranges are private memory of their spaces, in pages of 4 KiB; transparent large pages
    /// are cut. Pages never written stay unwritten. `into` may be the same space.
    ///
    /// On return, the contents of the copy are stable: the call waits until no CPU can write to the
    /// shared frames, and serves remote CPUs' shootdowns meanwhile. Each page is copied at a moment
    /// of its own during the call. Pages of the new region changed or accessed by the receiver
    /// before the return are left unchanged.
    ///
    /// Cost for each 2 MiB: a claim, a shootdown, and an atomic operation, an entry and a claim for
    /// each page with a frame.
    ///
    /// ```
    /// # use topomem::sim::Sim;
    /// use topomem::region::{FaultAccess, MapRequest, PageFault, Resolved};
    /// use topomem::CpuId;
    ///
    /// # let sim = Sim::builder().memory(64 << 20).build()?;
    /// # let service = sim.boot_service()?;
    /// # sim.on(CpuId::BOOT, |pin| -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, receiver) = (service.create_space(pin)?, service.create_space(pin)?);
    /// let request = MapRequest::anonymous(16 * 4096);
    /// let message = sender.mmap(pin, &request)?;
    /// sender.on_page_fault(pin, PageFault::new(message, FaultAccess::Write))?;
    /// let received = sender.copy_range(pin, message, &receiver, &request)?;
    /// sender.munmap(pin, message, request.length())?.wait(pin);
    /// let write = PageFault::new(received, FaultAccess::Write);
    /// assert_eq!(receiver.on_page_fault(pin, write)?, Resolved::Reused);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// No contents have changed on an error. If memory for page tables has run out even for
    /// removing the new region, a part of the region stays.
    ///
    /// - [`CopyRangeError::OtherService`], [`CopyRangeError::KernelSpace`],
    ///   [`CopyRangeError::Misaligned`] or [`CopyRangeError::OutsideSpace`] if a space or the range
    ///   is invalid.
    /// - [`CopyRangeError::NotMapped`], [`CopyRangeError::NotReadable`], [`CopyRangeError::Object`]
    ///   or [`CopyRangeError::LargePage`] names the first page unfit for a copy.
    /// - [`CopyRangeError::Map`] if the region cannot be made.
    /// - [`CopyRangeError::SharesFull`] or [`CopyRangeError::OutOfFrames`] if a count is full, or
    ///   no frame is left.
    pub fn copy_range(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        into: &AddressSpace<P>,
        request: &MapRequest,
    ) -> Result<VirtAddr, CopyRangeError> {
        let core = self.core();
        if !core::ptr::eq(core.service, into.core().service) {
            return Err(CopyRangeError::OtherService);
        }
        if self.kind() == SpaceKind::Kernel {
            return Err(CopyRangeError::KernelSpace);
        }
        if !is_aligned(start) {
            return Err(CopyRangeError::Misaligned(start));
        }
        let size = request.region().kind().level();
        if size > Level::PAGE {
            return Err(CopyRangeError::Map(MmapError::Unsupported(size_of_level(size))));
        }
        if request.length() == 0 {
            return Err(CopyRangeError::Map(MmapError::Empty));
        }
        let pages = range_at(start, request.length()).filter(|pages| self.may_map(*pages));
        let pages = pages.ok_or(CopyRangeError::OutsideSpace)?;
        let list = core.service.alloc(pin, &FrameRequest::frame()).map_err(CopyRangeError::OutOfFrames)?;
        let list = ListFrame { space: self, pin, frame: list };
        let to = into.mmap(pin, &request.populate(Populate::OnDemand)).map_err(CopyRangeError::Map)?;
        let copied = pages.by_entry(Level::HUGE).try_for_each(|part| {
            let first = (to.as_u64() >> 12) + (part.first - pages.first);
            self.copy_pages(pin, part, into, first, &list)
        });
        // None of the spaces' changes so far has been awaited.
        Unmapping::announce(core, pin, || range_of_pages(pages), Changed::NOTHING, None).wait(pin);
        match copied {
            Ok(()) => Ok(to),
            Err(error) => {
                let first = to.as_u64() >> 12;
                into.take_back(pin, Pages { first, last: first + (pages.count() - 1) });
                Err(error)
            }
        }
    }

    /// Copies `pages`, within a lowest table, to the pages from `first` on of `into`.
    fn copy_pages(
        &self,
        pin: &CpuPin,
        pages: Pages,
        into: &AddressSpace<P>,
        first: u64,
        list: &ListFrame<'_, P>,
    ) -> Result<(), CopyRangeError> {
        let core = self.core();
        let frames = core.service.frames();
        loop {
            // SAFETY: this call owns the frame, and the last list in it has ended.
            let mut lent = unsafe { Lent::new(frames, list.frame) };
            let mut changed = Changed::NOTHING;
            let check = |found, page| self.lends(found, page);
            let tables = core.service.tables(pin);
            let record = |changed: &mut Changed| core.record(changed);
            let (recorded, outcome) = core.table.lend(tables, pages, check, &mut lent, &mut changed, record);
            // The changes are awaited after everything is copied.
            Unmapping::announce(core, pin, || range_of_pages(pages), changed, recorded).detach();
            let mut mapped = Ok(());
            while let Some((index, frame)) = lent.take::<P::Format>() {
                if mapped.is_ok() {
                    mapped = into.map_lent(pin, first + index, frame);
                } else {
                    release_share(into, pin, frame);
                }
            }
            match outcome {
                Ok(()) => return mapped,
                Err(LendError::Refused(error)) => return Err(error),
                Err(LendError::SharesFull) => return Err(CopyRangeError::SharesFull),
                Err(LendError::Large) => {
                    core.cut_leaves(pin, pages, Level::PAGE).map_err(CopyRangeError::OutOfFrames)?;
                }
            }
        }
    }

    /// Returns whether a page in state `found` has a frame to share.
    fn lends(&self, found: Found, page: u64) -> Result<Lends, CopyRangeError> {
        let core = self.core();
        let region = found.region().map(Region::of).ok_or(CopyRangeError::NotMapped(address(page)))?;
        if !region.access().reads() || region.is_guard() {
            return Err(CopyRangeError::NotReadable(address(page)));
        }
        if region.kind().level() > Level::PAGE {
            return Err(CopyRangeError::LargePage(address(page)));
        }
        let shows_object =
            |number| core.records.with(number, |record| record.object.as_ref().map(drop)).is_some();
        if region.sharing() == Sharing::Shared || region.record().is_some_and(shows_object) {
            return Err(CopyRangeError::Object(address(page)));
        }
        match found {
            Found::Mapped(leaf, _) if leaf.ownership != Ownership::Borrowed => Ok(Lends::Frame),
            // The frame of zeros.
            _ => Ok(Lends::Nothing),
        }
    }

    /// Maps `page` to `frame`, whose share the caller has, unless the receiver has used the page
    /// before.
    fn map_lent(&self, pin: &CpuPin, page: u64, frame: PhysFrame) -> Result<(), CopyRangeError> {
        let core = self.core();
        core.table.note_shared();
        let mut neighbours = Neighbours { page, pages: Pages { first: page, last: page }, next: || None };
        let mut changed = Changed::NOTHING;
        let decide = |found, _| match found {
            Found::Reserved(id) if takes_messages(id) => {
                let leaf = leaf_of_share(frame, Region::of(id).protection_of_copies());
                Ok(Answer::Map(leaf, Level::PAGE))
            }
            _ => Err(()),
        };
        let error = match core.resolve(pin, &mut neighbours, decide, || (), &mut changed) {
            Ok(Answered { recorded, .. }) => {
                Unmapping::announce(core, pin, || range_of_pages(neighbours.pages), changed, recorded)
                    .detach();
                core.count_mapped(pin, 1);
                return Ok(());
            }
            Err(RewriteError::Refused(())) => Ok(()),
            Err(RewriteError::Tables(error)) => Err(CopyRangeError::OutOfFrames(error)),
        };
        release_share(self, pin, frame);
        error
    }
}

/// Returns whether the region still has the relevant attributes of a region made by
/// [`AddressSpace::copy_range`].
fn takes_messages(id: RegionId) -> bool {
    let region = Region::of(id);
    region.sharing() == Sharing::Private && !region.is_guard() && region.kind().level() == Level::PAGE
}

/// Returns the leaf of a frame whose share the caller has.
fn leaf_of_share(frame: PhysFrame, protection: Protection) -> Leaf {
    Leaf { frame, protection, reach: Reach::Space, ownership: Ownership::Shared }
}

/// Gives up a share of `frame`.
fn release_share<P: Machine>(space: &AddressSpace<P>, pin: &CpuPin, frame: PhysFrame) {
    let leaf = leaf_of_share(frame, Protection::user(Access::NONE));
    // SAFETY: no page table has the leaf.
    unsafe { frame_memory::release_leaf(space.core().service.frames(), pin, &leaf) };
}
