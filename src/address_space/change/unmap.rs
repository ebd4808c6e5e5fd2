//! Unmapping, reprotecting and moving mapped pages.

use crate::address_space::layout::range_of;
use crate::address_space::{AddressSpace, ProtectError, RemapError, UnmapError, Unmapping, Unmoved};
use topomem_percpu::CpuPin;
use topomem_shootdown::{Invalidation, PageRange, VirtAddr};

use crate::Machine;
use crate::page_table::{Changed, Level, MovedRegions, Pages, Protection};

impl<P: Machine> AddressSpace<P> {
    /// Unmaps the mapped pages of `range`. Owned frames, and tables used by the range alone, are
    /// freed when the ticket completes. A large page at an end is split. A split 2 MiB run is freed
    /// with its last 4 KiB.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`UnmapError::OutsideSpace`] if the range leaves the part of the space allowed for
    ///   mappings.
    /// - [`UnmapError::OutOfFrames`] if no frame is left to split a large page or to list shares.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// space.unmap(pin, page)?.wait(pin);
    /// assert!(space.translate(pin, page.start()).is_none());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    // Without inlining, the result of 180 bytes is copied.
    #[inline(always)]
    pub fn unmap(&self, pin: &CpuPin, range: PageRange) -> Result<Unmapping<'_, P>, UnmapError> {
        let mut changed = Changed::NOTHING;
        let mut record = None;
        self.core.clear(pin, range, &mut changed, |changed| record = self.core.record(changed))?;
        Ok(Unmapping::announce(self.core, pin, || range, changed, record))
    }

    /// Changes the protection of the mapped pages of `range`. A large page at an end is split.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error:
    ///
    /// - [`ProtectError::OutsideSpace`] if the range leaves the part of the space allowed for
    ///   mappings.
    /// - [`ProtectError::WrongPrivilege`] if the protection does not fit the space.
    /// - [`ProtectError::OutOfFrames`] if no frame is left to split a large page.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// space.protect(pin, page, Protection::USER_READ_ONLY)?.wait(pin);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    // As for `unmap`.
    #[inline(always)]
    pub fn protect(
        &self,
        pin: &CpuPin,
        range: PageRange,
        protection: Protection,
    ) -> Result<Unmapping<'_, P>, ProtectError> {
        let mut changed = Changed::NOTHING;
        let mut record = None;
        let keep = |changed: &mut Changed| record = self.core.record(changed);
        self.core.reprotect(pin, range, protection, &mut changed, keep)?;
        Ok(Unmapping::announce(self.core, pin, || range, changed, record))
    }

    /// Moves the mappings in `from` to `to`, where nothing is mapped: the same frames with the same
    /// protections, holes included. A large page at an end is split.
    ///
    /// Locks everything between the two ranges.
    ///
    /// # Errors
    ///
    /// No translation has changed on an error:
    ///
    /// - [`RemapError::OutsideSpace`] or [`RemapError::Target`] if a range does not fit the space.
    /// - [`RemapError::Overlap`] if the places overlap.
    /// - [`RemapError::AlreadyMapped`] if a page of the new place is mapped.
    /// - [`RemapError::WouldSplit`] if a large page does not fit the new place's alignment.
    /// - [`RemapError::OutOfFrames`] if no frame for a table is left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// space.remap(pin, page, VirtAddr::new(0x80_0000)?)?.wait(pin);
    /// assert!(space.translate(pin, VirtAddr::new(0x80_0000)?).is_some());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn remap(&self, pin: &CpuPin, from: PageRange, to: VirtAddr) -> Result<Unmapping<'_, P>, RemapError> {
        let moved = self.remap_leaving(pin, from, to, MovedRegions::default());
        moved.map_err(|unmoved| unmoved.refused(from))
    }

    /// Moves pages like [`AddressSpace::remap`]. `transfer` decides on regions.
    pub(crate) fn remap_leaving(
        &self,
        pin: &CpuPin,
        from: PageRange,
        to: VirtAddr,
        transfer: MovedRegions<'_>,
    ) -> Result<Unmapping<'_, P>, Unmoved> {
        let core = self.core;
        let shootdown = core.service.shootdown();
        let fault = &core.service.fault;
        let (replaced, record, changed) = core.relocate(pin, from, to, transfer, |changed, new| {
            let replaced = replaced_tables(&changed, new);
            let replaced = replaced.map(|invalidation| shootdown.record(core.domain(), invalidation));
            (replaced, fault.claim_locked(|| core.record(&changed)), changed)
        })?;
        let record = fault.claim_unlocked(record, core.service.platform(), || core.record(&changed));
        if let Some(record) = replaced {
            // The later ticket is newer, and therefore waits for this ticket, too.
            let _ = shootdown.announce(pin, record).detach();
        }
        Ok(Unmapping::announce(core, pin, || from, changed, record))
    }

    /// Returns a ticket for every earlier change of a page of `range`, by whichever CPU, announced
    /// or in an open [`Batch`](crate::Batch). When the ticket completes, no CPU uses a translation removed or
    /// narrowed by such a change.
    ///
    /// A caller mapping pages again without having waited for their unmapping waits for the ticket
    /// before relying on the new mapping: see [*Mapping again*](AddressSpace#mapping-again).
    ///
    /// Cost if nothing is pending: a full barrier and two loads for each CPU with the space active.
    ///
    /// # Errors
    ///
    /// Returns [`UnmapError::OutsideSpace`] if the range leaves the part of the space allowed for
    /// mappings.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{PageRange, PageSize, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.pending(pin, page)?.wait(pin);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn pending(&self, pin: &CpuPin, range: PageRange) -> Result<Unmapping<'_, P>, UnmapError> {
        self.core.check(range).ok_or(UnmapError::OutsideSpace(range))?;
        Ok(Unmapping::announce(self.core, pin, || range, Changed::NOTHING, None))
    }
}

/// Returns the invalidation for page walkers if leaves replaced empty tables at `new`, the new
/// place of moved pages.
pub(in crate::address_space) fn replaced_tables(moved: &Changed, new: Pages) -> Option<Invalidation> {
    let replaced = !moved.retired.tables.is_empty();
    replaced.then(|| Invalidation::pages(range_of(new, Level::PAGE)).with_tables_freed())
}
