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

/// Changes of one address space's page tables that other CPUs hear of together.
///
/// The page tables change at once; TLBs hear of it at [`Batch::issue`]. Dropped, it issues and
/// detaches: a change is never forgotten.
#[must_use = "TLBs hear of the changes when the batch is issued"]
pub struct Batch<'s, 'p, P: Machine> {
    core: &'s SpaceCore<P>,
    pin: &'p CpuPin,
    pending: topomem_shootdown::Batch,
    /// All changes; what the last one made stale.
    changed: Changed,
}

impl<'s, 'p, P: Machine> Batch<'s, 'p, P> {
    pub(super) fn new(core: &'s SpaceCore<P>, pin: &'p CpuPin) -> Batch<'s, 'p, P> {
        Batch { core, pin, pending: topomem_shootdown::Batch::new(), changed: Changed::NOTHING }
    }

    /// As [`AddressSpace::unmap`](super::AddressSpace::unmap).
    ///
    /// # Errors
    ///
    /// [`UnmapError`]; the batch is as before.
    #[inline]
    pub fn unmap(&mut self, range: PageRange) -> Result<(), UnmapError> {
        self.core.clear(self.pin, range, &mut self.changed)?;
        self.note();
        Ok(())
    }

    /// As [`AddressSpace::protect`](super::AddressSpace::protect).
    ///
    /// # Errors
    ///
    /// [`ProtectError`]; the batch is as before.
    #[inline]
    pub fn protect(&mut self, range: PageRange, protection: Protection) -> Result<(), ProtectError> {
        self.core.reprotect(self.pin, range, protection, &mut self.changed)?;
        self.note();
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
        if !changed.retired.tables.is_empty() {
            // Page walkers may still find an empty table at the new place.
            let invalidation = Invalidation::pages(range_of(new, Level::PAGE));
            self.pending.add(invalidation.with_tables_freed());
        }
        let Changed { stale, smallest, pages, retired } = changed;
        (self.changed.stale, self.changed.smallest) = (stale, smallest);
        self.changed.pages += pages;
        self.changed.retired.append(frames, retired);
        self.note();
        Ok(())
    }

    /// Adds what the last change made stale to what TLBs are told.
    #[inline]
    fn note(&mut self) {
        if let Some(invalidation) = invalidation_of(&self.changed) {
            self.pending.add(invalidation);
        }
        self.changed.stale = None;
        self.changed.smallest = Changed::NOTHING.smallest;
    }

    /// Tells the TLBs: this CPU's at once, the others' by one round of interrupts.
    pub fn issue(mut self) -> Unmapping<'s, P> {
        self.take()
    }

    fn take(&mut self) -> Unmapping<'s, P> {
        let ticket = if self.pending.is_empty() {
            None
        } else {
            let shootdown = self.core.service.shootdown();
            Some(shootdown.invalidate_batch(self.pin, self.core.domain(), &self.pending))
        };
        self.pending.clear();
        Unmapping::of(self.core, ticket, core::mem::replace(&mut self.changed, Changed::NOTHING))
    }
}

impl<P: Machine> Drop for Batch<'_, '_, P> {
    fn drop(&mut self) {
        if !self.pending.is_empty() {
            self.take().detach();
        }
    }
}

impl<P: Machine> fmt::Debug for Batch<'_, '_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("pages", &self.changed.pages)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
