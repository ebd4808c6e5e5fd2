//! Changing the access of regions' pages.

use topomem_numa::frames::AllocError;
use topomem_percpu::CpuPin;
use topomem_shootdown::{ChangeRecord, VirtAddr};

use super::error::MprotectError;
use super::mmap::{address, is_aligned, range_at};
use crate::Machine;
use crate::address_space::{AddressSpace, Unmapping, range_of_pages};
use crate::fault::points::Announced;
use crate::page_table::{
    Access, Becomes, Changed, Found, Leaf, Outcome, Ownership, Pages, Protection, RegionId, Rewrite,
    RewriteError, Rewritten,
};
use crate::region::attributes::Region;

/// Returns the protection of the entry of a page mapped by `leaf` if its region permits `access`.
#[inline]
pub(in crate::region) fn protection_of(access: Access, leaf: &Leaf) -> Protection {
    Protection::user(match leaf.ownership {
        Ownership::Owned => access,
        // Writes are handled by copying.
        Ownership::Shared | Ownership::Borrowed => access.without_writes(),
    })
}

/// Changes the access of regions' pages. If pages may show `OBJECTS`, the change ends at the first
/// page in need of another record for the new access.
pub(in crate::region) struct Protect<const OBJECTS: bool> {
    access: Access,
    /// Whether the change has ended at a page in need of another record.
    pub(super) needs_record: bool,
}

impl<const OBJECTS: bool> Protect<OBJECTS> {
    pub(in crate::region) fn new(access: Access) -> Protect<OBJECTS> {
        Protect { access, needs_record: false }
    }

    /// Returns whether pages of the region `id` keep their record.
    #[inline(always)]
    fn keeps_record(&self, id: RegionId) -> bool {
        let region = Region::of(id);
        !OBJECTS || region.claim() == region.with_access(self.access).claim()
    }
}

impl<const OBJECTS: bool> Rewrite for Protect<OBJECTS> {
    /// The page at the end of the change.
    type Stop = u64;
    const CHECKS: bool = false;
    const UNMAPS: bool = false;
    const ALIKE: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        true
    }

    #[inline]
    fn check(&self, found: Found, _: Pages) -> Result<bool, u64> {
        let concerns = |id: RegionId| Region::access_of(id) != self.access && self.keeps_record(id);
        Ok(found.region().is_some_and(concerns))
    }

    #[inline(always)]
    fn rewrite(&mut self, found: Found, pages: Pages) -> Result<Becomes, u64> {
        match found {
            Found::Vacant | Found::Mapped(_, None) => Err(pages.first),
            Found::Reserved(id) if self.keeps_record(id) => {
                Ok(Becomes::Reserved(Region::id_with_access(id, self.access)))
            }
            Found::Mapped(leaf, Some(id)) if self.keeps_record(id) => {
                let protection = protection_of(self.access, &leaf);
                Ok(Becomes::Mapped(protection, Region::id_with_access(id, self.access)))
            }
            Found::Reserved(_) | Found::Mapped(..) => {
                self.needs_record = true;
                Err(pages.first)
            }
        }
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Changes the access of regions' pages in the `length` bytes from `start` on, rounded up to
    /// pages. Pages keep their contents, even with [`Access::NONE`].
    ///
    /// When the ticket completes, no CPU can use permissions removed by the change. Cost: an entry
    /// for each page in existing tables, and an entry for each larger part without a table.
    ///
    /// # Errors
    ///
    /// - [`MprotectError::Misaligned`] or [`MprotectError::OutsideSpace`] if the range is invalid.
    ///   Nothing has changed then.
    /// - [`MprotectError::NoRegion`] if a page belongs to no region. The preceding pages have
    ///   changed, and no CPU can use their former permissions.
    /// - [`MprotectError::Denied`] if shared pages of a read-only object were to be writable. The
    ///   preceding pages have changed.
    /// - [`MprotectError::WriteExecute`] if pages of an object would become executable while
    ///   another mapping may write to them, or the other way round. The preceding pages have
    ///   changed. (If a whole shared region was to become executable, and another thread has mapped
    ///   the object meanwhile, the region may have lost write permission.)
    /// - [`MprotectError::OutOfFrames`] or [`MprotectError::TooManyRecords`] if no memory or number
    ///   is left. Only parts showing objects may have changed.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::Access;
    /// use topomem::region::{FaultAccess, FaultError, MapRequest, PageFault};
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(4096))?;
    /// space.mprotect(pin, start, 4096, Access::READ)?.wait(pin);
    /// let write = PageFault::new(start, FaultAccess::Write);
    /// assert_eq!(space.on_page_fault(pin, write), Err(FaultError::Denied));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[inline]
    pub fn mprotect(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        length: u64,
        access: Access,
    ) -> Result<Unmapping<'_, P>, MprotectError> {
        if !is_aligned(start) {
            return Err(MprotectError::Misaligned(start));
        }
        if length == 0 {
            return Ok(Unmapping::of_nothing(self.core()));
        }
        let pages = range_at(start, length).filter(|pages| self.may_map(*pages));
        let pages = pages.ok_or(MprotectError::OutsideSpace)?;
        let core = self.core();
        if core.table.has_records() {
            return self.protect_any(pin, pages, access);
        }
        let (mut protect, mut changed) = (Protect::<false>::new(access), Changed::NOTHING);
        match core.rewrite_at_once(pin, pages, &mut protect, &mut changed) {
            Some(outcome) => self.protected(pin, pages, changed, outcome.map_err(RewriteError::Refused)),
            None => self.protect_slowly(pin, pages, access),
        }
    }

    /// Changes the access like [`AddressSpace::mprotect`], for any pages without objects.
    #[inline(never)]
    fn protect_slowly(
        &self,
        pin: &CpuPin,
        pages: Pages,
        access: Access,
    ) -> Result<Unmapping<'_, P>, MprotectError> {
        let (mut protect, mut changed) = (Protect::<false>::new(access), Changed::NOTHING);
        let outcome = self.core().rewrite_slowly(pin, pages, &mut protect, &mut changed);
        self.protected(pin, pages, changed, outcome)
    }

    /// Announces a change of access of `pages`, which show no objects. Waits for the change if it
    /// has ended early.
    // Always inlined, like `PageTable::rewrite_at_once`.
    #[inline(always)]
    fn protected<'s>(
        &'s self,
        pin: &CpuPin,
        pages: Pages,
        changed: Changed,
        outcome: Outcome<Option<ChangeRecord<'s>>, Protect<false>, AllocError>,
    ) -> Result<Unmapping<'s, P>, MprotectError> {
        match outcome {
            Ok(Rewritten { recorded, end: Ok(()) }) => Ok(Unmapping::announce_change(
                Announced::Protect,
                self.core(),
                pin,
                range_of_pages(pages),
                changed,
                recorded,
            )),
            Ok(Rewritten { recorded, end: Err(page) }) => {
                self.core().wait_for_change(pin, pages, changed, recorded);
                Err(MprotectError::NoRegion(address(page)))
            }
            Err(RewriteError::Refused(page)) => Err(MprotectError::NoRegion(address(page))),
            Err(RewriteError::Tables(error)) => Err(MprotectError::OutOfFrames(error)),
        }
    }
}
