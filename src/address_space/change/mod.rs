//! Changes of a space's page table: each is tried again with more memory, if memory was short.

pub(super) mod batch;
mod map;
mod promote;
mod share;
mod unmap;
pub(super) mod unmapping;

use topomem_numa::frames::AllocError;
use topomem_percpu::{CpuPin, PhysFrame};
use topomem_shootdown::{ChangeRecord, Invalidation, PageRange, VirtAddr};

use crate::Machine;
use crate::address_space::core::SpaceCore;
use crate::address_space::error::{ProtectError, RemapError, UnmapError};
use crate::address_space::layout::{range_of, size_of_level};
use crate::page_table::{
    Answer, Answered, AtOnce, Changed, Found, Level, MovedRegions, Neighbours, Outcome, Pages, Protection,
    RelocateError, Reserve, Rewrite, RewriteError,
};

impl<P: Machine> SpaceCore<P> {
    /// Records the stale translations of `changed` in the domain's log, or returns `None` if none
    /// are stale. For a cursor's `record`, called with the changed entries still locked.
    #[inline(always)]
    pub(crate) fn record(&self, changed: &Changed) -> Option<ChangeRecord<'_>> {
        let invalidation = invalidation_of(changed)?;
        Some(self.service.shootdown().record(self.domain(), invalidation))
    }

    /// Clears `range`, adds the change to `changed`, and lets `record` record it with the entries
    /// still locked.
    // Always inlined: recorded values stay in registers.
    #[inline(always)]
    pub(crate) fn clear<T>(
        &self,
        pin: &CpuPin,
        range: PageRange,
        changed: &mut Changed,
        mut record: impl FnMut(&mut Changed) -> T,
    ) -> Result<T, UnmapError> {
        let pages = self.check(range).ok_or(UnmapError::OutsideSpace(range))?;
        let frames = self.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        let before = changed.pages;
        loop {
            let leave = |number, pages| self.leave_record(number, pages);
            match self.table.clear(self.service.tables(pin), &mut reserve, pages, changed, leave, &mut record)
            {
                Ok(recorded) => {
                    self.count_unmapped(pin, changed.pages - before);
                    return Ok(recorded);
                }
                Err(error) => {
                    let refilled = self.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(UnmapError::OutOfFrames)?;
                }
            }
        }
    }

    /// Gives `range` another protection, adds the change to `changed`, and lets `record` record it
    /// as [`SpaceCore::clear`] does.
    // Always inlined: recorded values stay in registers.
    #[inline(always)]
    pub(crate) fn reprotect<T>(
        &self,
        pin: &CpuPin,
        range: PageRange,
        protection: Protection,
        changed: &mut Changed,
        mut record: impl FnMut(&mut Changed) -> T,
    ) -> Result<T, ProtectError> {
        let pages = self.check(range).ok_or(ProtectError::OutsideSpace(range))?;
        if !self.kind.permits(protection) {
            return Err(ProtectError::WrongPrivilege);
        }
        let frames = self.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        loop {
            match self.table.reprotect(
                self.service.tables(pin),
                &mut reserve,
                pages,
                protection,
                changed,
                &mut record,
            ) {
                Ok(recorded) => return Ok(recorded),
                Err(error) => {
                    let refilled = self.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(ProtectError::OutOfFrames)?;
                }
            }
        }
    }

    /// Moves the mappings in `from` to the pages from `to` on, and lets `record` record the move.
    /// `record` also gets the pages of the new place, with the entries of both places still locked.
    ///
    /// The pages of the old place keep belonging to regions if `left` returns regions.
    pub(crate) fn relocate<T>(
        &self,
        pin: &CpuPin,
        from: PageRange,
        to: VirtAddr,
        mut transfer: MovedRegions<'_>,
        mut record: impl FnMut(Changed, Pages) -> T,
    ) -> Result<T, Unmoved> {
        let target = PageRange::new(to, from.pages(), from.size()).map_err(RemapError::Target)?;
        let old = self.check(from).ok_or(RemapError::OutsideSpace(from))?;
        let new = self.check(target).ok_or(RemapError::OutsideSpace(target))?;
        if old.first <= new.last && new.first <= old.last {
            return Err(RemapError::Overlap { from, to }.into());
        }
        let frames = self.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        let mut record = |changed| record(changed, new);
        let moved = loop {
            let tables = self.service.tables(pin);
            let transfer = transfer.again();
            let error = match self.table.relocate(tables, &mut reserve, old, new, transfer, &mut record) {
                Ok(recorded) => break Ok(recorded),
                Err(RelocateError::Tables(error)) => error,
                Err(RelocateError::Occupied { page }) => {
                    break Err(RemapError::AlreadyMapped(VirtAddr::new_truncate(page << 12)).into());
                }
                Err(RelocateError::WouldSplit(level)) => {
                    break Err(RemapError::WouldSplit { to, size: size_of_level(level) }.into());
                }
                Err(RelocateError::Changed) => break Err(Unmoved::Changed),
            };
            if let Err(error) = self.service.reclaim_and_retry(pin, error, || reserve.refill()) {
                break Err(RemapError::OutOfFrames(error).into());
            }
        };
        self.note_emptied();
        moved
    }

    /// Changes `pages` as decided by `rewrite`, adds the change to `changed`, and records it.
    /// Returns the record, and the end of the change.
    // Always inlined, like `PageTable::rewrite_at_once`.
    #[inline(always)]
    pub(crate) fn rewrite<R: Rewrite>(
        &self,
        pin: &CpuPin,
        pages: Pages,
        rewrite: &mut R,
        changed: &mut Changed,
    ) -> Outcome<Option<ChangeRecord<'_>>, R, AllocError> {
        match self.rewrite_at_once(pin, pages, rewrite, changed) {
            Some(outcome) => outcome.map_err(RewriteError::Refused),
            None => self.rewrite_slowly(pin, pages, rewrite, changed),
        }
    }

    /// Rewrites like [`SpaceCore::rewrite`] in the usual case. Otherwise changes nothing and
    /// returns `None`: the caller then calls [`SpaceCore::rewrite_slowly`].
    // Always inlined, like `PageTable::rewrite_at_once`.
    #[inline(always)]
    pub(crate) fn rewrite_at_once<R: Rewrite>(
        &self,
        pin: &CpuPin,
        pages: Pages,
        rewrite: &mut R,
        changed: &mut Changed,
    ) -> AtOnce<Option<ChangeRecord<'_>>, R> {
        let record = |changed: &mut Changed| self.record(changed);
        let outcome = self.table.rewrite_at_once(self.service.tables(pin), pages, rewrite, changed, record);
        if R::UNMAPS && changed.pages > 0 {
            self.count_unmapped(pin, changed.pages);
        }
        outcome
    }

    /// Rewrites like [`SpaceCore::rewrite`], for any pages and at any cost.
    #[inline(never)]
    pub(crate) fn rewrite_slowly<R: Rewrite>(
        &self,
        pin: &CpuPin,
        pages: Pages,
        rewrite: &mut R,
        changed: &mut Changed,
    ) -> Outcome<Option<ChangeRecord<'_>>, R, AllocError> {
        let frames = self.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        loop {
            let record = |changed: &mut Changed| self.record(changed);
            match self.table.rewrite(self.service.tables(pin), &mut reserve, pages, rewrite, changed, record)
            {
                Err(RewriteError::Tables(error)) => {
                    let refilled = self.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(RewriteError::Tables)?;
                }
                done => {
                    if changed.pages > 0 {
                        self.count_unmapped(pin, changed.pages);
                    }
                    return done;
                }
            }
        }
    }

    /// Handles an access to the page of `neighbours` as decided by `decide`, and maps the
    /// neighbours if the page becomes mapped. Adds the stale translations to `changed`, and records
    /// them. Calls `answered` once, with the page's entry still claimed.
    pub(crate) fn resolve<E>(
        &self,
        pin: &CpuPin,
        neighbours: &mut Neighbours<impl FnMut() -> Option<PhysFrame>>,
        mut decide: impl FnMut(Found, Level) -> Result<Answer, E>,
        answered: impl Fn(),
        changed: &mut Changed,
    ) -> Result<Answered<Option<ChangeRecord<'_>>>, RewriteError<E, AllocError>> {
        let frames = self.service.frames();
        let mut reserve = Reserve::new(frames, pin);
        loop {
            let record = |changed: &mut Changed| {
                answered();
                self.record(changed)
            };
            match self.table.resolve(
                self.service.tables(pin),
                &mut reserve,
                neighbours,
                &mut decide,
                changed,
                record,
            ) {
                Err(RewriteError::Tables(error)) => {
                    let refilled = self.service.reclaim_and_retry(pin, error, || reserve.refill());
                    refilled.map_err(RewriteError::Tables)?;
                }
                done => return done,
            }
        }
    }

    /// Cuts the leaves above the level `to` touched by `pages`. No translation changes.
    pub(crate) fn cut_leaves(&self, pin: &CpuPin, pages: Pages, to: Level) -> Result<(), AllocError> {
        let mut reserve = Reserve::new(self.service.frames(), pin);
        loop {
            match self.table.cut_leaves(self.service.tables(pin), &mut reserve, pages, to) {
                Err(error) => self.service.reclaim_and_retry(pin, error, || reserve.refill())?,
                Ok(()) => return Ok(()),
            }
        }
    }
}

/// The reason why pages were not moved.
#[derive(Debug)]
pub(crate) enum Unmoved {
    Refused(RemapError),
    /// A page belongs to an unexpected region ([`MovedRegions::expects`]).
    Changed,
}

impl From<RemapError> for Unmoved {
    fn from(error: RemapError) -> Unmoved {
        Unmoved::Refused(error)
    }
}

impl Unmoved {
    /// Returns the error of a move of `from` without expectations.
    pub(crate) fn refused(self, from: PageRange) -> RemapError {
        match self {
            Unmoved::Refused(error) => error,
            Unmoved::Changed => {
                debug_assert!(false, "nothing was expected");
                RemapError::OutsideSpace(from)
            }
        }
    }
}

/// Returns the translations to flush from TLBs and page walkers.
#[inline(always)]
pub(crate) fn invalidation_of(changed: &Changed) -> Option<Invalidation> {
    let invalidation = Invalidation::pages(range_of(changed.stale?, changed.smallest));
    Some(if changed.retired.tables.is_empty() { invalidation } else { invalidation.with_tables_freed() })
}
