//! Many changes, one round of interrupts.

use core::fmt;

use topomem_percpu::CpuPin;
use topomem_shootdown::{Invalidation, PageRange, VirtAddr};

use super::core::{SpaceCore, invalidation_of};
use super::error::{ProtectError, RemapError, UnmapError};
use super::layout::{range_of, size_of_level};
use super::unmapping::Unmapping;
use crate::Machine;
use crate::page_table::{Changed, Level, Protection, RelocateError, Reserve};
use crate::retire::Retired;

/// Changes of one address space's page tables that other CPUs hear of together.
///
/// The page tables change at once; TLBs hear of it at [`Batch::issue`]. Dropped, it issues and
/// detaches: a change is never forgotten.
#[must_use = "TLBs hear of the changes when the batch is issued"]
pub struct Batch<'s, 'p, P: Machine> {
    core: &'s SpaceCore<P>,
    pin: &'p CpuPin,
    pending: topomem_shootdown::Batch,
    retired: Retired,
    pages: u64,
}

impl<'s, 'p, P: Machine> Batch<'s, 'p, P> {
    pub(super) fn new(core: &'s SpaceCore<P>, pin: &'p CpuPin) -> Batch<'s, 'p, P> {
        Batch { core, pin, pending: topomem_shootdown::Batch::new(), retired: Retired::NOTHING, pages: 0 }
    }

    /// As [`AddressSpace::unmap`](super::AddressSpace::unmap).
    ///
    /// # Errors
    ///
    /// [`UnmapError`]; the batch is as before.
    pub fn unmap(&mut self, range: PageRange) -> Result<(), UnmapError> {
        let mut changed = Changed::NOTHING;
        self.core.clear(self.pin, range, &mut changed)?;
        self.note(changed);
        Ok(())
    }

    /// As [`AddressSpace::protect`](super::AddressSpace::protect).
    ///
    /// # Errors
    ///
    /// [`ProtectError`]; the batch is as before.
    pub fn protect(&mut self, range: PageRange, protection: Protection) -> Result<(), ProtectError> {
        let mut changed = Changed::NOTHING;
        self.core.reprotect(self.pin, range, protection, &mut changed)?;
        self.note(changed);
        Ok(())
    }

    /// As [`AddressSpace::remap`](super::AddressSpace::remap). Pages of the new place must not be
    /// used before the batch is complete.
    ///
    /// # Errors
    ///
    /// [`RemapError`]; the batch is as before.
    pub fn remap(&mut self, from: PageRange, to: VirtAddr) -> Result<(), RemapError> {
        let target = PageRange::new(to, from.pages(), from.size()).map_err(RemapError::Target)?;
        let old = self.core.check(from).ok_or(RemapError::OutsideSpace(from))?;
        let new = self.core.check(target).ok_or(RemapError::OutsideSpace(target))?;
        if old.first <= new.last && new.first <= old.last {
            return Err(RemapError::Overlap { from, to });
        }
        let frames = self.core.service.frames();
        let mut reserve = Reserve::new(frames, self.pin);
        let changed = self.core.table.relocate(frames, &mut reserve, old, new);
        let changed = changed.map_err(|error| match error {
            RelocateError::Occupied { page } => RemapError::AlreadyMapped(VirtAddr::new_truncate(page << 12)),
            RelocateError::WouldSplit(level) => RemapError::WouldSplit { to, size: size_of_level(level) },
            RelocateError::Tables(error) => RemapError::OutOfFrames(error),
        })?;
        if !changed.tables.is_empty() {
            // Page walkers may still find an empty table at the new place.
            let invalidation = Invalidation::pages(range_of(new, Level::PAGE));
            self.pending.add(invalidation.with_tables_freed());
        }
        self.note(changed);
        Ok(())
    }

    #[inline]
    fn note(&mut self, changed: Changed) {
        self.pages += changed.pages;
        if let Some(invalidation) = invalidation_of(&changed) {
            self.pending.add(invalidation);
        }
        self.retired.append(self.core.service.frames(), Retired::of(changed));
    }

    /// Tells the TLBs: this CPU's at once, the others' by one round of interrupts.
    pub fn issue(mut self) -> Unmapping<'s, P> {
        self.take()
    }

    fn take(&mut self) -> Unmapping<'s, P> {
        let retired = core::mem::replace(&mut self.retired, Retired::NOTHING);
        let pending = core::mem::replace(&mut self.pending, topomem_shootdown::Batch::new());
        let ticket = if pending.is_empty() {
            None
        } else {
            let shootdown = self.core.service.shootdown();
            Some(shootdown.invalidate_batch(self.pin, self.core.domain(), &pending))
        };
        Unmapping::new(self.core, ticket, retired, self.pages)
    }
}

impl<P: Machine> Drop for Batch<'_, '_, P> {
    fn drop(&mut self) {
        self.take().detach();
    }
}

impl<P: Machine> fmt::Debug for Batch<'_, '_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("pages", &self.pages)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
