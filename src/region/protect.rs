//! Changing what the pages of regions permit.

use topomem_percpu::CpuPin;
use topomem_shootdown::VirtAddr;

use super::attributes::Region;
use super::error::MprotectError;
use super::mmap::{address, is_aligned, range_at};
use crate::Machine;
use crate::address_space::{AddressSpace, Unmapping, range_of_pages};
use crate::fault::Fault;
use crate::page_table::{
    Access, Becomes, Changed, Found, Leaf, Ownership, Pages, Protection, Rewrite, RewriteError, Rewritten,
};

/// What the entry of a page of `region` permits that is mapped by `leaf`.
pub(super) fn protection_of(region: Region, leaf: &Leaf) -> Protection {
    match leaf.ownership {
        Ownership::Owned => region.protection(),
        // A write is answered by a copy.
        _ => region.protection_of_copies(),
    }
}

/// Gives the pages of regions another access.
struct Protect(Access);

impl Rewrite for Protect {
    /// A page that belongs to no region.
    type Stop = u64;
    const CHECKS: bool = false;
    const REGIONS: bool = true;
    const UNMAPS: bool = false;

    #[inline]
    fn check(&self, found: Found, _: u64) -> Result<bool, u64> {
        Ok(match found {
            Found::Vacant | Found::Mapped(_, None) => false,
            Found::Reserved(region) | Found::Mapped(_, Some(region)) => Region::of(region).access() != self.0,
        })
    }

    #[inline(always)]
    fn rewrite(&mut self, found: Found, pages: Pages) -> Result<Becomes, u64> {
        match found {
            Found::Vacant | Found::Mapped(_, None) => Err(pages.first),
            Found::Reserved(region) => Ok(Becomes::Reserved(Region::of(region).with_access(self.0).id())),
            Found::Mapped(leaf, Some(region)) => {
                let region = Region::of(region).with_access(self.0);
                Ok(Becomes::Mapped(protection_of(region, &leaf), region.id()))
            }
        }
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Gives the pages of regions in the `length` bytes from `start` on, rounded up to pages, another
    /// access. Pages keep their contents, under [`Access::NONE`] too.
    ///
    /// When the ticket completes, no CPU can use what was permitted before and is not any more. Costs an
    /// entry for each page in tables that are there, and one for each larger part that has none.
    ///
    /// # Errors
    ///
    /// [`MprotectError`]. After [`MprotectError::NoRegion`] the pages before that page have changed, and no
    /// CPU can use what was permitted there before; after others nothing has changed.
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
        let mut changed = Changed::NOTHING;
        match self.core().rewrite(pin, pages, &mut Protect(access), &mut changed) {
            Ok(Rewritten { recorded, end }) => {
                let unmapping = Unmapping::announce_unless(
                    Fault::MprotectWithoutFlush,
                    self.core(),
                    pin,
                    range_of_pages(pages),
                    changed,
                    recorded,
                );
                if let Err(page) = end {
                    unmapping.wait(pin);
                    return Err(MprotectError::NoRegion(address(page)));
                }
                Ok(unmapping)
            }
            Err(RewriteError::Refused(page)) => Err(MprotectError::NoRegion(address(page))),
            Err(RewriteError::Tables(error)) => Err(MprotectError::OutOfFrames(error)),
        }
    }
}
