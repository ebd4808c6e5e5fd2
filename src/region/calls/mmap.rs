//! Making and removing regions.

use topomem_percpu::CpuPin;
use topomem_shootdown::VirtAddr;

use super::error::{MmapError, MunmapError};
use super::request::{MapRequest, Placement, Populate};
use super::reserve::{Extend, Replace, Take, Unextended};
use crate::Machine;
use crate::address_space::{AddressSpace, SpaceKind, UnmapError, Unmapping, range_of_pages, size_of_level};
use crate::page_table::{Changed, Format, Level, Pages, RegionId, RewriteError, Rewritten};
use crate::region::attributes::Region;
use crate::region::faults::fault::FaultError;
use crate::region::gap::Alignment;
use crate::region::record::{HeldPages, Record};

/// Returns whether large leaves may map pages of the region. They need marks of the same level.
pub(super) fn may_be_large(region: RegionId) -> bool {
    Region::of(region).largest_level() > Level::PAGE
}

/// Returns the address of a page.
pub(in crate::region) fn address(page: u64) -> VirtAddr {
    VirtAddr::new_truncate(page << 12)
}

/// Returns the number of pages of `length` bytes, or `None` on an overflow.
pub(in crate::region) fn pages_in(length: u64) -> Option<u64> {
    Some(length.checked_add(4095)? >> 12)
}

/// Returns the pages of `length` bytes from `start` on, or `None` without a page or on an overflow.
pub(in crate::region) fn range_at(start: VirtAddr, length: u64) -> Option<Pages> {
    pages_from(start.as_u64() >> 12, pages_in(length)?)
}

/// Returns the `count` pages from `first` on, or `None` without a page or on an overflow.
pub(in crate::region) fn pages_from(first: u64, count: u64) -> Option<Pages> {
    Some(Pages { first, last: first.checked_add(count.checked_sub(1)?)? })
}

pub(in crate::region) const fn is_aligned(address: VirtAddr) -> bool {
    address.as_u64().is_multiple_of(4096)
}

impl<P: Machine> AddressSpace<P> {
    /// Makes a region, and returns its start. Its pages are mapped at the first access
    /// ([`AddressSpace::on_page_fault`]), or at once if requested.
    ///
    /// If the region replaces others, or recently unmapped pages, the call waits until no CPU can
    /// use their translations, and serves remote CPUs' shootdowns meanwhile.
    ///
    /// Cost: an entry for each page in existing tables, and an entry for each 2 MiB, 1 GiB or 512
    /// GiB without a table. Operations in different 2 MiB run in parallel.
    ///
    /// ```
    /// # use topomem::sim::Sim;
    /// use topomem::region::{FaultAccess, MapRequest, PageFault};
    /// use topomem::CpuId;
    ///
    /// # let sim = Sim::builder().memory(64 << 20).build()?;
    /// # let service = sim.boot_service()?;
    /// # sim.on(CpuId::BOOT, |pin| -> Result<(), Box<dyn std::error::Error>> {
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(1 << 40))?;
    /// assert_eq!(space.mapped_pages(), 0);
    /// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
    /// assert_eq!(space.mapped_pages(), 1);
    /// space.munmap(pin, start, 1 << 40)?.wait(pin);
    /// # Ok(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error. The exception is [`MmapError::NoLargePage`] with
    /// [`Placement::Fixed`]: the former mappings are gone. Populating stops without an error if memory for pages of
    /// 4 KiB runs out: the rest is mapped on demand.
    ///
    /// - [`MmapError::Empty`], [`MmapError::Misaligned`], [`MmapError::KernelSpace`] or
    ///   [`MmapError::Unsupported`] if the request is invalid.
    /// - [`MmapError::NoRoom`] or [`MmapError::Occupied`] if the addresses are outside the space,
    ///   or in use.
    /// - [`MmapError::OutOfFrames`] or [`MmapError::NoLargePage`] if no memory is left.
    /// - [`MmapError::TooManyRecords`] if the space has the greatest number of different names.
    pub fn mmap(&self, pin: &CpuPin, request: &MapRequest) -> Result<VirtAddr, MmapError> {
        let region = self.as_made_here(request.region());
        match request.record() {
            None => self.map_region(pin, request, region, None),
            Some(record) => self.map_region(pin, request, region, Some(&|_| record.clone())),
        }
    }

    /// Makes the region `region` as described by `request`, with the record returned by `record`
    /// for its first page.
    pub(in crate::region) fn map_region(
        &self,
        pin: &CpuPin,
        request: &MapRequest,
        region: Region,
        record: Option<&dyn Fn(u64) -> Record<P>>,
    ) -> Result<VirtAddr, MmapError> {
        if self.kind() == SpaceKind::Kernel {
            return Err(MmapError::KernelSpace);
        }
        let level = region.kind().level();
        if level
            > <P::Format as Format>::LARGEST_LEAF.min(self.core().service.platform().paging().largest_leaf())
        {
            return Err(MmapError::Unsupported(size_of_level(level)));
        }
        let count =
            pages_in(request.length()).and_then(|count| count.checked_next_multiple_of(level.pages()));
        let count = count.ok_or(MmapError::NoRoom)?;
        if count == 0 {
            return Err(MmapError::Empty);
        }
        let take_vacant = |pages: Pages| {
            self.with_record(pin, region, pages, record, |region| self.take_vacant(pin, pages, region))
        };
        let taken = match request.placement() {
            Placement::Anywhere => None,
            Placement::Hint(hint) => {
                let first = (hint.as_u64() >> 12) & !(level.pages() - 1);
                let pages = pages_from(first, count).filter(|pages| self.may_map(*pages));
                match pages.map(|pages| (pages, take_vacant(pages))) {
                    Some((pages, Ok(()))) => Some(pages),
                    None | Some((_, Err(MmapError::Occupied(_)))) => None,
                    Some((_, Err(error))) => return Err(error),
                }
            }
            Placement::Fixed(start) => {
                let pages = self.fixed(start, count, level)?;
                self.with_record(pin, region, pages, record, |region| self.replace(pin, pages, region))?;
                Some(pages)
            }
            Placement::FixedNoReplace(start) => {
                let pages = self.fixed(start, count, level)?;
                take_vacant(pages)?;
                Some(pages)
            }
        };
        let pages = match taken {
            Some(pages) => pages,
            None => self
                .place(pin, count, Alignment::for_region(region, count), |pages| match take_vacant(pages) {
                    Err(MmapError::Occupied(_)) => Err(None),
                    taken => taken.map_err(Some),
                })?
                .ok_or(MmapError::NoRoom)?,
        };
        if request.population() == Populate::Now && region.access().reads() {
            let populated = self.populate_region(pin, pages, region);
            if let Err(FaultError::NoLargePage(size, error)) = populated {
                self.take_back(pin, pages);
                return Err(MmapError::NoLargePage(size, error));
            }
            // Pages without memory for now are mapped on demand.
        }
        Ok(address(pages.first))
    }

    /// Lets `take` give `pages` to `region`, with the record returned by `record` for the first
    /// page.
    fn with_record(
        &self,
        pin: &CpuPin,
        region: Region,
        pages: Pages,
        record: Option<&dyn Fn(u64) -> Record<P>>,
        take: impl FnOnce(Region) -> Result<(), MmapError>,
    ) -> Result<(), MmapError> {
        let Some(record) = record else { return take(region) };
        let held = HeldPages::of(self.core(), pin, &record(pages.first), pages.count())?;
        take(region.with_record(held.number()))?;
        held.keep();
        Ok(())
    }

    /// Removes the regions, or parts of regions, in the `length` bytes from `start` on, rounded up
    /// to pages, and unmaps their pages. Pages without a region stay unchanged.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`MunmapError::Empty`], [`MunmapError::Misaligned`] or [`MunmapError::OutsideSpace`] if
    ///   the range is invalid.
    /// - [`MunmapError::OutOfFrames`] if no frame for page tables is left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::MapRequest;
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// space.munmap(pin, start, 4096)?.wait(pin); // the second page stays
    /// assert_eq!(space.next_region(pin, start).map(|region| region.length()), Some(4096));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[inline]
    pub fn munmap(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        length: u64,
    ) -> Result<Unmapping<'_, P>, MunmapError> {
        if !is_aligned(start) {
            return Err(MunmapError::Misaligned(start));
        }
        if length == 0 {
            return Err(MunmapError::Empty);
        }
        let pages = range_at(start, length).filter(|pages| self.may_map(*pages));
        let pages = pages.ok_or(MunmapError::OutsideSpace)?;
        let unmapping = self.unmap(pin, range_of_pages(pages)).map_err(|error| match error {
            UnmapError::OutOfFrames(error) => MunmapError::OutOfFrames(error),
            UnmapError::OutsideSpace(_) => MunmapError::OutsideSpace,
        })?;
        self.note_free(pages);
        Ok(unmapping)
    }

    /// Returns whether the space allows mappings in all of `pages`.
    pub(in crate::region) fn may_map(&self, pages: Pages) -> bool {
        let bounds = self.core().bounds;
        bounds.first <= pages.first && pages.last <= bounds.last
    }

    fn fixed(&self, start: VirtAddr, count: u64, level: Level) -> Result<Pages, MmapError> {
        let first = start.as_u64() >> 12;
        if !is_aligned(start) || !first.is_multiple_of(level.pages()) {
            return Err(MmapError::Misaligned(start));
        }
        pages_from(first, count).filter(|pages| self.may_map(*pages)).ok_or(MmapError::NoRoom)
    }

    /// Gives `pages` to `region` if all of them are vacant, and waits for unmappings of them.
    pub(super) fn take_vacant(&self, pin: &CpuPin, pages: Pages, region: Region) -> Result<(), MmapError> {
        let mut take = Take(region.id());
        let mut changed = Changed::NOTHING;
        match self.core().rewrite(pin, pages, &mut take, &mut changed) {
            // Checked pages do not end the change.
            Ok(Rewritten { recorded, .. }) => {
                Unmapping::announce(self.core(), pin, || range_of_pages(pages), changed, recorded).wait(pin);
                Ok(())
            }
            Err(RewriteError::Refused(page)) => Err(MmapError::Occupied(address(page))),
            Err(RewriteError::Tables(error)) => Err(MmapError::OutOfFrames(error)),
        }
    }

    /// Takes pages like [`AddressSpace::take_vacant`], for the region of the page `beside`, right
    /// below `pages` or right above.
    pub(in crate::region) fn take_more(
        &self,
        pin: &CpuPin,
        pages: Pages,
        region: Region,
        beside: u64,
    ) -> Result<(), Unextended> {
        debug_assert!(beside + 1 == pages.first || beside == pages.last + 1);
        let held = HeldPages::more(self.core(), region, pages.count()).ok_or(Unextended::Changed)?;
        let all = Pages { first: pages.first.min(beside), last: pages.last.max(beside) };
        let mut changed = Changed::NOTHING;
        let mut extend = Extend { region: region.id(), beside };
        match self.core().rewrite_slowly(pin, all, &mut extend, &mut changed) {
            Ok(Rewritten { recorded, .. }) => {
                Unmapping::announce(self.core(), pin, || range_of_pages(pages), changed, recorded).wait(pin);
                held.keep();
                Ok(())
            }
            Err(RewriteError::Refused(refused)) => Err(refused),
            Err(RewriteError::Tables(error)) => Err(Unextended::OutOfFrames(error)),
        }
    }

    /// Gives `pages` to `region`, and waits until no CPU can use their former mappings.
    fn replace(&self, pin: &CpuPin, pages: Pages, region: Region) -> Result<(), MmapError> {
        let mut changed = Changed::NOTHING;
        let mut replace = Replace { core: self.core(), region: region.id() };
        match self.core().rewrite(pin, pages, &mut replace, &mut changed) {
            Ok(Rewritten { recorded, .. }) => {
                Unmapping::announce(self.core(), pin, || range_of_pages(pages), changed, recorded).wait(pin);
                Ok(())
            }
            Err(RewriteError::Refused(never)) => match never {},
            Err(RewriteError::Tables(error)) => Err(MmapError::OutOfFrames(error)),
        }
    }
}
