//! The changes of entries by which a region takes pages: vacant, beside a region, or in use.

use topomem_numa::frames::AllocError;

use super::mmap::may_be_large;
use crate::Machine;
use crate::address_space::SpaceCore;
use crate::page_table::{Becomes, Found, Pages, RegionId, Rewrite};
use crate::region::attributes::{Guard, Region};

/// Gives vacant pages to a region.
pub(super) struct Take(pub(super) RegionId);

impl Rewrite for Take {
    /// A page in use.
    type Stop = u64;
    const CHECKS: bool = true;
    const UNMAPS: bool = false;
    const JOINS: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        false
    }

    #[inline]
    fn check(&self, found: Found, pages: Pages) -> Result<bool, u64> {
        if found == Found::Vacant { Ok(true) } else { Err(pages.first) }
    }

    fn joins(&self, region: RegionId) -> bool {
        may_be_large(region)
    }

    #[inline(always)]
    fn rewrite(&mut self, _: Found, _: Pages) -> Result<Becomes, u64> {
        Ok(Becomes::Reserved(self.0))
    }
}

/// The reason why a region did not get more pages; nothing has changed.
#[derive(Debug)]
pub(in crate::region) enum Unextended {
    /// The adjacent page does not belong to the region any more.
    Changed,
    /// A page is in use.
    Occupied,
    OutOfFrames(AllocError),
}

/// Gives vacant pages to the region of the adjacent page. The adjacent page is checked with all
/// pages claimed: if another context has changed the region before, the pages do not get the old
/// region.
pub(super) struct Extend {
    /// The region, without guards.
    pub(super) region: RegionId,
    pub(super) beside: u64,
}

impl Rewrite for Extend {
    type Stop = Unextended;
    const CHECKS: bool = true;
    const UNMAPS: bool = false;
    const JOINS: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        false
    }

    fn check(&self, found: Found, pages: Pages) -> Result<bool, Unextended> {
        let is_free = found == Found::Vacant;
        if !(pages.first..=pages.last).contains(&self.beside) {
            return if is_free { Ok(true) } else { Err(Unextended::Occupied) };
        }
        let Some(id) = found.region() else { return Err(Unextended::Changed) };
        if Region::of(id).with_guard(Guard::None).id() != self.region {
            return Err(Unextended::Changed);
        }
        // The region has all pages of the entry.
        if pages.count() == 1 { Ok(false) } else { Err(Unextended::Occupied) }
    }

    fn joins(&self, region: RegionId) -> bool {
        may_be_large(region)
    }

    fn rewrite(&mut self, _: Found, pages: Pages) -> Result<Becomes, Unextended> {
        Ok(if pages.first == self.beside { Becomes::Same } else { Becomes::Reserved(self.region) })
    }
}

/// Gives pages to a region, whatever their state.
pub(super) struct Replace<P: Machine> {
    pub(super) core: &'static SpaceCore<P>,
    pub(super) region: RegionId,
}

impl<P: Machine> Rewrite for Replace<P> {
    type Stop = core::convert::Infallible;
    const CHECKS: bool = false;
    const UNMAPS: bool = true;
    const JOINS: bool = true;
    const RECORDS: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        false
    }

    #[inline]
    fn check(&self, _: Found, _: Pages) -> Result<bool, Self::Stop> {
        Ok(true)
    }

    // The tables of the former mappings go: a fork would copy them.
    fn joins(&self, _: RegionId) -> bool {
        true
    }

    #[inline(always)]
    fn rewrite(&mut self, found: Found, pages: Pages) -> Result<Becomes, Self::Stop> {
        if let Found::Reserved(old) | Found::Mapped(_, Some(old)) = found
            && let Some(record) = old.record()
        {
            self.core.leave_record(record, pages.count());
        }
        Ok(Becomes::Reserved(self.region))
    }
}
