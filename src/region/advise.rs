//! What a program says about the use of its memory.

use core::convert::Infallible;

use topomem_percpu::CpuPin;
use topomem_shootdown::VirtAddr;

use super::attributes::{Guard, Inheritance, Region, Transparent};
use super::error::MadviseError;
use super::fault::{FaultAccess, FaultError};
use super::mmap::{is_aligned, may_be_large, range_at};
use super::protect::protection_of;
use crate::Machine;
use crate::address_space::{AddressSpace, Unmapping, range_of_pages};
use crate::fault::Fault;
use crate::page_table::{Becomes, Changed, Found, Leaf, Pages, RegionId, Rewrite, RewriteError, Rewritten};

/// What is to become of the pages of a range (madvise(2) of Linux).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// Nothing is said that is acted on: MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED.
    Normal,
    /// The contents are given up: the next access finds zeros. MADV_DONTNEED, and MADV_FREE, which may do
    /// so at any time.
    DontNeed,
    /// A fork leaves the pages out. MADV_DONTFORK.
    DontFork,
    /// A fork copies the pages. MADV_DOFORK, MADV_KEEPONFORK.
    DoFork,
    /// A fork gives the child the pages without contents. MADV_WIPEONFORK.
    WipeOnFork,
    /// The contents are given up, and no access is permitted until the guards are removed.
    /// MADV_GUARD_INSTALL.
    GuardInstall,
    /// The guards are removed. MADV_GUARD_REMOVE.
    GuardRemove,
    /// Pages of 2 MiB may be used, unless the space has [`HugePages::Never`](super::HugePages::Never).
    /// MADV_HUGEPAGE.
    Huge,
    /// Pages of 2 MiB are not used for what is mapped from now on. MADV_NOHUGEPAGE.
    NoHuge,
    /// The pages are mapped, to be read. MADV_POPULATE_READ.
    PopulateRead,
    /// The pages are mapped, to be written. MADV_POPULATE_WRITE.
    PopulateWrite,
}

/// What an advice makes of the pages of a region.
#[derive(Clone, Copy)]
enum Effect {
    /// They belong to that region, with their contents.
    Keep(Region),
    /// They belong to that region, without contents.
    Discard(Region),
}

/// Follows an advice, and notes whether pages belong to no region.
struct Advise {
    advice: Advice,
    holes: bool,
}

impl Advise {
    #[inline]
    fn effect(&self, region: Region) -> Effect {
        match self.advice {
            Advice::DontNeed => Effect::Discard(region),
            Advice::GuardInstall => Effect::Discard(region.with_guard(Guard::Installed)),
            Advice::GuardRemove => Effect::Keep(region.with_guard(Guard::None)),
            Advice::DontFork => Effect::Keep(region.with_inheritance(Inheritance::Left)),
            Advice::DoFork => Effect::Keep(region.with_inheritance(Inheritance::Copied)),
            Advice::WipeOnFork => Effect::Keep(region.with_inheritance(Inheritance::Wiped)),
            Advice::Huge => Effect::Keep(region.with_transparent(Transparent::Permitted)),
            Advice::NoHuge => Effect::Keep(region.with_transparent(Transparent::Never)),
            Advice::Normal | Advice::PopulateRead | Advice::PopulateWrite => Effect::Keep(region),
        }
    }

    #[inline]
    fn of_leaf(&self, leaf: &Leaf, region: Region) -> Becomes {
        match self.effect(region) {
            Effect::Keep(same) if same == region => Becomes::Same,
            Effect::Keep(region) => Becomes::Mapped(protection_of(region.access(), leaf), region.id()),
            Effect::Discard(region) => Becomes::Reserved(region.id()),
        }
    }
}

impl Rewrite for Advise {
    type Stop = Infallible;
    const CHECKS: bool = false;
    const UNMAPS: bool = true;
    const JOINS: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        match self.advice {
            Advice::GuardRemove
            | Advice::DontFork
            | Advice::DoFork
            | Advice::WipeOnFork
            | Advice::Huge
            | Advice::NoHuge => true,
            // What stays mapped stays of its region.
            Advice::Normal
            | Advice::DontNeed
            | Advice::GuardInstall
            | Advice::PopulateRead
            | Advice::PopulateWrite => false,
        }
    }

    #[inline]
    fn check(&self, found: Found, _: Pages) -> Result<bool, Infallible> {
        Ok(match found {
            // So that the part in the range is looked at.
            Found::Vacant | Found::Mapped(_, None) => false,
            Found::Reserved(region) => {
                let region = Region::of(region);
                match self.effect(region) {
                    Effect::Keep(new) | Effect::Discard(new) => new != region,
                }
            }
            Found::Mapped(leaf, Some(region)) => self.of_leaf(&leaf, Region::of(region)) != Becomes::Same,
        })
    }

    fn joins(&self, region: RegionId) -> bool {
        may_be_large(region)
    }

    #[inline(always)]
    fn rewrite(&mut self, found: Found, _: Pages) -> Result<Becomes, Infallible> {
        // The usual advice, by itself: what the region is need not be known.
        if let (Advice::DontNeed, Found::Reserved(region) | Found::Mapped(_, Some(region))) =
            (self.advice, found)
        {
            return Ok(Becomes::Reserved(region));
        }
        Ok(match found {
            Found::Vacant | Found::Mapped(_, None) => {
                self.holes = true;
                Becomes::Same
            }
            Found::Reserved(region) => match self.effect(Region::of(region)) {
                Effect::Keep(region) | Effect::Discard(region) => Becomes::Reserved(region.id()),
            },
            Found::Mapped(leaf, Some(region)) => self.of_leaf(&leaf, Region::of(region)),
        })
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Follows `advice` in the `length` bytes from `start` on, rounded up to pages.
    ///
    /// When the ticket completes, no CPU can use contents that were given up. Costs an entry for each page
    /// in tables that are there, and one for each larger part that has none.
    ///
    /// # Errors
    ///
    /// [`MadviseError`]. After [`MadviseError::NoRegion`] the advice was followed where there are regions,
    /// and no CPU can use contents that were given up.
    pub fn madvise(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        length: u64,
        advice: Advice,
    ) -> Result<Unmapping<'_, P>, MadviseError> {
        if !is_aligned(start) {
            return Err(MadviseError::Misaligned(start));
        }
        if length == 0 {
            return Ok(Unmapping::of_nothing(self.core()));
        }
        let pages = range_at(start, length).filter(|pages| self.may_map(*pages));
        let pages = pages.ok_or(MadviseError::OutsideSpace)?;
        if let Advice::PopulateRead | Advice::PopulateWrite = advice {
            self.populate_as_advised(pin, pages, advice)?;
            return Ok(Unmapping::of_nothing(self.core()));
        }
        let mut changed = Changed::NOTHING;
        let mut advise = Advise { advice, holes: false };
        match self.core().rewrite(pin, pages, &mut advise, &mut changed) {
            Ok(Rewritten { recorded, .. }) if advise.holes => {
                self.core().wait_for_change(pin, pages, changed, recorded);
                Err(MadviseError::NoRegion)
            }
            Ok(Rewritten { recorded, .. }) => Ok(Unmapping::announce_unless(
                Fault::DontNeedWithoutFlush,
                self.core(),
                pin,
                range_of_pages(pages),
                changed,
                recorded,
            )),
            Err(RewriteError::Refused(never)) => match never {},
            Err(RewriteError::Tables(error)) => Err(MadviseError::OutOfFrames(error)),
        }
    }

    fn populate_as_advised(&self, pin: &CpuPin, pages: Pages, advice: Advice) -> Result<(), MadviseError> {
        let access = if advice == Advice::PopulateWrite { FaultAccess::Write } else { FaultAccess::Read };
        self.populate(pin, pages, access).map_err(|(at, error)| match error {
            FaultError::NotMapped => MadviseError::NoRegion,
            FaultError::Denied => MadviseError::Denied(at),
            FaultError::Guarded => MadviseError::Guarded(at),
            FaultError::OutOfFrames(error) | FaultError::NoLargePage(_, error) => {
                MadviseError::OutOfFrames(error)
            }
            // The future is not waited for: who accesses the page joins the request.
            FaultError::Waits(_) => MadviseError::NotInMemory(at),
            FaultError::BeyondEnd | FaultError::TooManySharers => MadviseError::Guarded(at),
        })
    }
}
