//! Batches: many changes, one round of interrupts.

use core::fmt;

use topomem_percpu::CpuPin;
use topomem_shootdown::{PageRange, VirtAddr};

use crate::Machine;
use crate::address_space::change::invalidation_of;
use crate::address_space::change::unmap::replaced_tables;
use crate::address_space::change::unmapping::Unmapping;
use crate::address_space::core::SpaceCore;
use crate::address_space::error::{ProtectError, RemapError, UnmapError};
use crate::page_table::{Changed, MovedRegions, Protection};

/// Changes of a single address space's page tables, announced to remote CPUs together.
///
/// The page tables change at once, and each change is recorded at once: tickets of later changes,
/// by any CPU, wait for the changes of an open batch if they have to. CPUs are told at
/// [`Batch::issue`]. A dropped batch issues and detaches: no change is ever forgotten.
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
///
/// let space = service.create_space(pin)?;
/// let page = |address| PageRange::page(VirtAddr::new_truncate(address), PageSize::Size4KiB);
/// for address in [0x40_0000, 0x80_0000] {
///     space.map(pin, page(address), FrameRequest::frame(), Protection::USER_DATA)?;
/// }
/// let mut batch = space.batch(pin);
/// batch.unmap(page(0x40_0000))?;
/// batch.unmap(page(0x80_0000))?;
/// batch.issue().wait(pin); // one round of interrupts for both
/// # Ok(())
/// # }).unwrap();
/// ```
#[must_use = "TLBs are told of the changes when the batch is issued"]
pub struct Batch<'s, 'p, P: Machine> {
    core: &'s SpaceCore<P>,
    pin: &'p CpuPin,
    records: topomem_shootdown::Batch<'s, P>,
    /// All changes; the stale translations of the last change.
    changed: Changed,
}

impl<'s, 'p, P: Machine> Batch<'s, 'p, P> {
    pub(in crate::address_space) fn new(core: &'s SpaceCore<P>, pin: &'p CpuPin) -> Batch<'s, 'p, P> {
        let records = core.service.shootdown().batch(core.domain());
        Batch { core, pin, records, changed: Changed::NOTHING }
    }

    /// Unmaps pages like [`AddressSpace::unmap`](crate::AddressSpace::unmap).
    ///
    /// # Errors
    ///
    /// As for [`AddressSpace::unmap`](crate::AddressSpace::unmap); the batch is unchanged then.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// let mut batch = space.batch(pin);
    /// batch.unmap(page)?;
    /// batch.issue().wait(pin);
    /// assert_eq!(space.mapped_pages(), 0);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[inline]
    pub fn unmap(&mut self, range: PageRange) -> Result<(), UnmapError> {
        let records = &mut self.records;
        self.core.clear(self.pin, range, &mut self.changed, |changed| record_change(records, range, changed))
    }

    /// Changes a protection like [`AddressSpace::protect`](crate::AddressSpace::protect).
    ///
    /// # Errors
    ///
    /// As for [`AddressSpace::protect`](crate::AddressSpace::protect); the batch is unchanged then.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// let mut batch = space.batch(pin);
    /// batch.protect(page, Protection::USER_READ_ONLY)?;
    /// batch.issue().wait(pin);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    #[inline]
    pub fn protect(&mut self, range: PageRange, protection: Protection) -> Result<(), ProtectError> {
        let records = &mut self.records;
        let record = |changed: &mut Changed| record_change(records, range, changed);
        self.core.reprotect(self.pin, range, protection, &mut self.changed, record)
    }

    /// Moves pages like [`AddressSpace::remap`](crate::AddressSpace::remap). Pages of the new place
    /// must not be used before the batch is complete.
    ///
    /// # Errors
    ///
    /// As for [`AddressSpace::remap`](crate::AddressSpace::remap); the batch is unchanged then.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// let mut batch = space.batch(pin);
    /// batch.remap(page, VirtAddr::new(0x80_0000)?)?;
    /// batch.issue().wait(pin);
    /// assert!(space.translate(pin, VirtAddr::new(0x80_0000)?).is_some());
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn remap(&mut self, from: PageRange, to: VirtAddr) -> Result<(), RemapError> {
        let records = &mut self.records;
        let moved = self.core.relocate(self.pin, from, to, MovedRegions::default(), |mut changed, new| {
            if let Some(invalidation) = replaced_tables(&changed, new) {
                // Page walkers may still find an empty table at the new place.
                records.record(invalidation);
            }
            record_change(records, from, &mut changed);
            changed
        });
        let moved = moved.map_err(|unmoved| unmoved.refused(from))?;
        let Changed { pages, retired, .. } = moved;
        self.changed.pages += pages;
        self.changed.retired.append(self.core.service.frames(), retired);
        Ok(())
    }

    /// Announces all changes: to this CPU's TLB at once, to the remote CPUs by a single round of
    /// interrupts.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::{FrameRequest, PageRange, PageSize, Protection, VirtAddr};
    ///
    /// let space = service.create_space(pin)?;
    /// let page = PageRange::page(VirtAddr::new(0x40_0000)?, PageSize::Size4KiB);
    /// space.map(pin, page, FrameRequest::frame(), Protection::USER_DATA)?;
    /// let mut batch = space.batch(pin);
    /// batch.unmap(page)?;
    /// let unmapping = batch.issue(); // one round of interrupts for all changes
    /// assert_eq!(unmapping.pages(), 1);
    /// unmapping.wait(pin);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn issue(mut self) -> Unmapping<'s, P> {
        self.take()
    }

    fn take(&mut self) -> Unmapping<'s, P> {
        let ticket = if self.records.is_empty() { None } else { Some(self.records.issue(self.pin)) };
        Unmapping::of(self.core, ticket, core::mem::replace(&mut self.changed, Changed::NOTHING))
    }
}

/// Records the stale translations of the last change, of pages of `range`.
#[inline]
pub(crate) fn record_change<P: Machine>(
    records: &mut topomem_shootdown::Batch<'_, P>,
    range: PageRange,
    changed: &mut Changed,
) {
    match invalidation_of(changed) {
        Some(invalidation) => records.record(invalidation),
        None => records.wait_for_pending(range),
    }
    changed.stale = None;
    changed.smallest = Changed::NOTHING.smallest;
}

impl<P: Machine> Drop for Batch<'_, '_, P> {
    fn drop(&mut self) {
        if !self.records.is_empty() {
            self.take().detach();
        }
    }
}

impl<P: Machine> fmt::Debug for Batch<'_, '_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("pages", &self.changed.pages)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}
