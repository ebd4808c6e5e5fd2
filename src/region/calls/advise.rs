//! Advice of a program about the use of its memory.

use core::convert::Infallible;

use topomem_percpu::CpuPin;
use topomem_shootdown::VirtAddr;

use super::error::MadviseError;
use super::mmap::{is_aligned, may_be_large, range_at};
use super::protect::protection_of;
use crate::Machine;
use crate::address_space::{AddressSpace, Unmapping, range_of_pages};
use crate::fault::points::Announced;
use crate::page_table::{Becomes, Changed, Found, Leaf, Pages, RegionId, Rewrite, RewriteError, Rewritten};
use crate::region::attributes::{Guard, Inheritance, Region, Transparent};
use crate::region::faults::fault::{FaultAccess, FaultError};

/// The advice for the pages of a range (madvise(2) of Linux).
///
/// ```
/// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
/// # booted::run(|service, pin| {
/// use topomem::region::{Advice, FaultAccess, MapRequest, PageFault};
///
/// let space = service.create_space(pin)?;
/// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
/// space.on_page_fault(pin, PageFault::new(start, FaultAccess::Write))?;
/// space.madvise(pin, start, 8192, Advice::DontNeed)?.wait(pin);
/// assert_eq!(space.mapped_pages(), 0); // zero at the next access
/// # Ok(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// No advice with an effect: MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED.
    Normal,
    /// Discard the contents: the next access finds zeros. MADV_DONTNEED, and MADV_FREE, which may
    /// discard at any time.
    DontNeed,
    /// Leave the pages out of a fork. MADV_DONTFORK.
    DontFork,
    /// Copy the pages in a fork. MADV_DOFORK, MADV_KEEPONFORK.
    DoFork,
    /// Give the child of a fork the pages without contents. MADV_WIPEONFORK.
    WipeOnFork,
    /// Discard the contents, and permit no access until the guards are removed. MADV_GUARD_INSTALL.
    GuardInstall,
    /// Remove the guards. MADV_GUARD_REMOVE.
    GuardRemove,
    /// Permit pages of 2 MiB, unless the space has [`HugePages::Never`](crate::region::HugePages::Never).
    /// MADV_HUGEPAGE.
    Huge,
    /// Use no pages of 2 MiB for later mappings. MADV_NOHUGEPAGE.
    NoHuge,
    /// Map the pages for reading. MADV_POPULATE_READ.
    PopulateRead,
    /// Map the pages for writing. MADV_POPULATE_WRITE.
    PopulateWrite,
}

/// The effect of an advice on the pages of a region.
#[derive(Clone, Copy)]
enum Effect {
    /// The pages keep their contents, and belong to this region.
    Keep(Region),
    /// The pages lose their contents, and belong to this region.
    Discard(Region),
}

/// Follows an advice, and notes pages without a region.
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
            // Mapped pages keep their region.
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
            // Unlike the whole entry, its part in the range is looked at.
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
        // The usual advice by itself: the region need not be decoded.
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
    /// When the ticket completes, no CPU can use discarded contents. Cost: an entry for each page
    /// in existing tables, and an entry for each larger part without a table.
    ///
    /// # Errors
    ///
    /// - [`MadviseError::Misaligned`] or [`MadviseError::OutsideSpace`] if the range is invalid.
    ///   Nothing has changed then.
    /// - [`MadviseError::NoRegion`] if a page belongs to no region. The advice was followed in all
    ///   regions, and no CPU can use discarded contents.
    /// - [`MadviseError::Denied`], [`MadviseError::Guarded`] or [`MadviseError::NotInMemory`] names
    ///   the first page not populated.
    /// - [`MadviseError::OutOfFrames`] if no frame is left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{Advice, MapRequest, Populate};
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192).populate(Populate::Now))?;
    /// assert_eq!(space.mapped_pages(), 2);
    /// space.madvise(pin, start, 8192, Advice::DontNeed)?.wait(pin);
    /// assert_eq!(space.mapped_pages(), 0);
    /// # Ok(())
    /// # }).unwrap();
    /// ```
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
            Ok(Rewritten { recorded, .. }) => Ok(Unmapping::announce_change(
                Announced::Discard,
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
            // The future is not awaited: a later access to the page joins the request.
            FaultError::Waits(_) => MadviseError::NotInMemory(at),
            FaultError::BeyondEnd | FaultError::TooManySharers => MadviseError::Guarded(at),
        })
    }
}
