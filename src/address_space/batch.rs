//! Many changes, one round of interrupts.

use core::fmt;

use topomem_percpu::CpuPin;
use topomem_shootdown::{PageRange, VirtAddr};

use super::core::{SpaceCore, invalidation_of};
use super::error::{ProtectError, RemapError, UnmapError};
use super::replaced_tables;
use super::unmapping::Unmapping;
use crate::Machine;
use crate::page_table::{Changed, MovedRegions, Protection};

/// Changes of one address space's page tables that other CPUs are told of together.
///
/// The page tables change at once, and each change is recorded at once: tickets of later changes, by any
/// CPU, wait for it where they have to. CPUs are told at [`Batch::issue`]. A dropped batch issues and
/// detaches: a change is never forgotten.
#[must_use = "TLBs are told of the changes when the batch is issued"]
pub struct Batch<'s, 'p, P: Machine> {
    core: &'s SpaceCore<P>,
    pin: &'p CpuPin,
    records: topomem_shootdown::Batch<'s, P>,
    /// All changes; what the last one made stale.
    changed: Changed,
}

impl<'s, 'p, P: Machine> Batch<'s, 'p, P> {
    pub(super) fn new(core: &'s SpaceCore<P>, pin: &'p CpuPin) -> Batch<'s, 'p, P> {
        let records = core.service.shootdown().batch(core.domain());
        Batch { core, pin, records, changed: Changed::NOTHING }
    }

    /// As [`AddressSpace::unmap`](super::AddressSpace::unmap).
    ///
    /// # Errors
    ///
    /// [`UnmapError`]; the batch is as before.
    #[inline]
    pub fn unmap(&mut self, range: PageRange) -> Result<(), UnmapError> {
        let records = &mut self.records;
        self.core.clear(self.pin, range, &mut self.changed, |changed| record_change(records, range, changed))
    }

    /// As [`AddressSpace::protect`](super::AddressSpace::protect).
    ///
    /// # Errors
    ///
    /// [`ProtectError`]; the batch is as before.
    #[inline]
    pub fn protect(&mut self, range: PageRange, protection: Protection) -> Result<(), ProtectError> {
        let records = &mut self.records;
        let record = |changed: &mut Changed| record_change(records, range, changed);
        self.core.reprotect(self.pin, range, protection, &mut self.changed, record)
    }

    /// As [`AddressSpace::remap`](super::AddressSpace::remap). Pages of the new place must not be
    /// used before the batch is complete.
    ///
    /// # Errors
    ///
    /// [`RemapError`]; the batch is as before.
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

    /// Tells the TLBs: this CPU's at once, the others' by one round of interrupts.
    pub fn issue(mut self) -> Unmapping<'s, P> {
        self.take()
    }

    fn take(&mut self) -> Unmapping<'s, P> {
        let ticket = if self.records.is_empty() { None } else { Some(self.records.issue(self.pin)) };
        Unmapping::of(self.core, ticket, core::mem::replace(&mut self.changed, Changed::NOTHING))
    }
}

/// Records what the last change, of pages of `range`, has made stale.
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
