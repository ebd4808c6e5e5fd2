//! Mapping pages: to fresh frames, to frames given to the space, or to borrowed frames.

use topomem_numa::frames::FrameRequest;
use topomem_percpu::{CpuPin, Order, PhysFrame};
use topomem_shootdown::{Invalidation, PageRange, PageSize, VirtAddr};

use crate::Machine;
use crate::address_space::core::SpaceCore;
use crate::address_space::layout::{level_of, range_of};
use crate::address_space::{AddressSpace, MapError, Unmapping};
use crate::page_table::{
    Attributes, Backing, Chain, Chained, Changed, Contiguous, FillError, Level, Ownership, Pages, Protection,
    Reserve,
};
use crate::retire::Retired;
use crate::service::memory::frame_memory;

impl<P: Machine> AddressSpace<P> {
    /// Maps `range` to fresh frames, each allocated by `request`, whose order must match the
    /// range's pages. The space owns the frames: unmapping frees them.
    ///
    /// Cost: an allocation and an entry per page, and a claim for each touched 2 MiB, or for each 1
    /// GiB or 512 GiB covered.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`MapError::WrongPrivilege`] if the protection does not fit the space.
    /// - [`MapError::OutsideSpace`] if the range leaves the part of the space allowed for mappings.
    /// - [`MapError::TooLargeToOwn`] if the range has pages of 1 GiB.
    /// - [`MapError::WrongOrder`] if the order of `request` is not the pages'.
    /// - [`MapError::AlreadyMapped`] or [`MapError::Reserved`] if a page is in use.
    /// - [`MapError::OutOfFrames`] if no frame is left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame().zeroed(), Protection::USER_DATA)?;
    /// assert!(space.translate(pin, page.start()).is_some());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn map(
        &self,
        pin: &CpuPin,
        range: PageRange,
        request: FrameRequest,
        protection: Protection,
    ) -> Result<(), MapError> {
        let pages = self.check_mapping(range, protection)?;
        let (level, order) = owned_level(range)?;
        if request.get_order() != order {
            return Err(MapError::WrongOrder { given: request.get_order(), needed: order });
        }
        let frames = self.core.service.frames();
        let mut fresh = Fresh { space: self.core, pin, chain: Chain::EMPTY, order };
        for _ in 0..range.pages() {
            let frame = self.core.service.alloc(pin, &request).map_err(MapError::OutOfFrames)?;
            frame_memory::take_over(frames, frame);
            fresh.chain.push(frames, frame);
        }
        let attributes = self.attributes(protection, Ownership::Owned);
        let mut backing = Chained { memory: frames, level, frames: &mut fresh.chain, attributes };
        self.fill(pin, pages, &mut backing)
    }

    /// Maps the page of `size` at `page` to the run of frames from `first`, owned by the space
    /// afterwards.
    ///
    /// # Safety
    ///
    /// The caller has allocated the run from this service's allocator, with the order of `size`,
    /// and gives it up if the call succeeds.
    ///
    /// # Errors
    ///
    /// As for [`AddressSpace::map`]. Also [`MapError::MisalignedPage`] or
    /// [`MapError::MisalignedFrame`] if `page` or `first` is not a multiple of `size`.
    pub unsafe fn map_owned(
        &self,
        pin: &CpuPin,
        page: VirtAddr,
        size: PageSize,
        first: PhysFrame,
        protection: Protection,
    ) -> Result<(), MapError> {
        let range = PageRange::new(page, 1, size).map_err(|_| MapError::MisalignedPage { page, size })?;
        let (level, _) = owned_level(range)?;
        let pages = self.check_mapping(range, protection)?;
        aligned(first, size)?;
        let before = frame_memory::take_over(self.core.service.frames(), first);
        let attributes = self.attributes(protection, Ownership::Owned);
        let mut backing = Contiguous { first_page: pages.first, frame: first, largest: level, attributes };
        let filled = self.fill(pin, pages, &mut backing);
        if filled.is_err() {
            frame_memory::give_up(self.core.service.frames(), first, before);
        }
        filled
    }

    /// Maps `range` to the frames from `first` on, whose owner stays the same: device memory, the
    /// kernel image, frames shared between spaces. Uses pages as large as `range.size()` if the
    /// alignment permits and the machine has them.
    ///
    /// # Safety
    ///
    /// The frames may be accessed as permitted by `protection` for as long as they are mapped
    /// (until the ticket of an unmap completes). If Rust code uses the frames, its aliasing rules
    /// hold.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`MapError::WrongPrivilege`], [`MapError::OutsideSpace`], [`MapError::AlreadyMapped`],
    ///   [`MapError::Reserved`] or [`MapError::OutOfFrames`] as for [`AddressSpace::map`].
    /// - [`MapError::MisalignedFrame`] if `first` is not a multiple of `range.size()`.
    /// - [`MapError::BeyondPhysicalMemory`] if the frames exceed the machine's physical address
    ///   bits.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let frame = service.alloc(pin, &FrameRequest::frame())?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// // SAFETY: the frame stays allocated.
    /// unsafe { space.map_borrowed(pin, page, frame, Protection::USER_READ_ONLY)? };
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub unsafe fn map_borrowed(
        &self,
        pin: &CpuPin,
        range: PageRange,
        first: PhysFrame,
        protection: Protection,
    ) -> Result<(), MapError> {
        let pages = self.check_mapping(range, protection)?;
        aligned(first, range.size())?;
        let paging = self.core.service.platform().paging();
        if !paging.reach(first.start_address().as_u64() >> 12, pages.count()) {
            let bits = paging.physical_bits();
            return Err(MapError::BeyondPhysicalMemory { first, pages: pages.count(), bits });
        }
        let largest = level_of(range.size()).min(paging.largest_leaf());
        let attributes = self.attributes(protection, Ownership::Borrowed);
        let mut backing = Contiguous { first_page: pages.first, frame: first, largest, attributes };
        self.fill(pin, pages, &mut backing)
    }

    pub(in crate::address_space) fn attributes(
        &self,
        protection: Protection,
        ownership: Ownership,
    ) -> Attributes {
        Attributes { protection, reach: self.core.reach(), ownership }
    }

    /// Returns the page numbers of `range` if it may be mapped with `protection`.
    pub(in crate::address_space) fn check_mapping(
        &self,
        range: PageRange,
        protection: Protection,
    ) -> Result<Pages, MapError> {
        if !self.core.kind.permits(protection) {
            return Err(MapError::WrongPrivilege);
        }
        self.core.check(range).ok_or(MapError::OutsideSpace(range))
    }

    /// Maps `pages`, or changes nothing.
    pub(crate) fn fill(
        &self,
        pin: &CpuPin,
        pages: Pages,
        backing: &mut impl Backing<P::Format>,
    ) -> Result<(), MapError> {
        let core = self.core;
        let frames = core.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        let shootdown = core.service.shootdown();
        // Page walkers may still find an empty table instead of the leaf in its place, and fault.
        let invalidation = Invalidation::pages(range_of(pages, Level::PAGE)).with_tables_freed();
        let record = |replaced: Chain| {
            let stale = !replaced.is_empty() || core.may_have_unlinked(pages);
            (stale.then(|| shootdown.record(core.domain(), invalidation)), replaced)
        };
        let (record, replaced) = loop {
            match core.table.fill(core.service.tables(pin), &mut reserve, pages, backing, record) {
                Ok(filled) => break filled,
                Err(FillError::Tables(error)) => {
                    let refilled = core.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(MapError::OutOfFrames)?;
                }
                Err(FillError::Occupied { page, leaf }) => {
                    let page = VirtAddr::new_truncate(page << 12);
                    return Err(match leaf {
                        Some(leaf) => MapError::AlreadyMapped { page, frame: leaf.frame },
                        None => MapError::Reserved { page },
                    });
                }
            }
        };
        core.count_mapped(pin, pages.count());
        if let Some(record) = record {
            let ticket = shootdown.announce(pin, record);
            let changed = Changed { retired: Retired::tables(replaced), ..Changed::NOTHING };
            Unmapping::of(core, Some(ticket), changed).wait(pin);
        }
        Ok(())
    }
}

/// Returns the level and order of `range`'s pages, if a space can own them.
fn owned_level(range: PageRange) -> Result<(Level, Order), MapError> {
    match range.size() {
        PageSize::Size4KiB => Ok((Level::PAGE, Order::FRAME)),
        PageSize::Size2MiB => Ok((Level::HUGE, Order::HUGE)),
        PageSize::Size1GiB => Err(MapError::TooLargeToOwn(range)),
    }
}

fn aligned(frame: PhysFrame, size: PageSize) -> Result<(), MapError> {
    if frame.start_address().is_aligned(size.bytes()) {
        Ok(())
    } else {
        Err(MapError::MisalignedFrame { frame, size })
    }
}

/// Frames allocated for a mapping. Unused frames return to the allocator on drop.
struct Fresh<'a, P: Machine> {
    space: &'static SpaceCore<P>,
    pin: &'a CpuPin,
    chain: Chain,
    order: Order,
}

impl<P: Machine> Drop for Fresh<'_, P> {
    fn drop(&mut self) {
        let frames = self.space.service.frames();
        while let Some(frame) = self.chain.pop(frames) {
            // SAFETY: the frame was allocated for this mapping, and is mapped nowhere.
            unsafe { frame_memory::release_own(frames, self.pin, frame, self.order) };
        }
    }
}
