//! Changing the access of pages possibly showing objects.
//!
//! The record of an object's pages claims their permissions ([`Claim`](crate::object::Claim)): the
//! object's frames are writable nowhere while executable anywhere. A change of access changing the
//! claim gives the pages another record. Other pages change as in spaces without records.

use topomem_percpu::CpuPin;

use super::error::MprotectError;
use super::mmap::address;
use super::protect::{Protect, protection_of};
use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore, Unmapping, range_of_pages};
use crate::fault::points::Announced;
use crate::object::{Mapped, SharedWrites};
use crate::page_table::{Access, Becomes, Changed, Found, Pages, RegionId, Rewrite, RewriteError, Rewritten};
use crate::region::attributes::{Kind, Region, Sharing};
use crate::region::record::{HeldPages, InternError, Record};

/// Gives pages of the region `old` to the region `new`, which shows the same part. Both records are
/// held.
struct Reclaim<P: Machine> {
    core: &'static SpaceCore<P>,
    old: RegionId,
    new: RegionId,
}

impl<P: Machine> Rewrite for Reclaim<P> {
    /// A page of another region.
    type Stop = u64;
    const CHECKS: bool = false;
    const UNMAPS: bool = false;
    const RECORDS: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        true
    }

    fn check(&self, found: Found, _: Pages) -> Result<bool, u64> {
        Ok(found.region() == Some(self.old))
    }

    fn rewrite(&mut self, found: Found, pages: Pages) -> Result<Becomes, u64> {
        if found.region() != Some(self.old) {
            return Err(pages.first);
        }
        self.core.exchange_records(self.old.record(), self.new.record(), pages.count());
        let access = Region::of(self.new).access();
        Ok(found.given_to(self.new, |leaf| protection_of(access, leaf)))
    }
}

/// The reason why pages of an object did not get another access.
enum ReclaimError {
    Denied,
    Intern(InternError),
}

impl<P: Machine> AddressSpace<P> {
    /// Changes the access like [`AddressSpace::mprotect`] for pages possibly of objects. Waits for
    /// the changes of objects' pages.
    #[inline(never)]
    pub(super) fn protect_any(
        &self,
        pin: &CpuPin,
        pages: Pages,
        access: Access,
    ) -> Result<Unmapping<'_, P>, MprotectError> {
        let mut rest = pages;
        loop {
            let (mut protect, mut changed) = (Protect::<true>::new(access), Changed::NOTHING);
            let outcome = self.core().rewrite(pin, rest, &mut protect, &mut changed);
            let (recorded, end) = match outcome {
                Ok(Rewritten { recorded, end }) => (recorded, end),
                Err(RewriteError::Refused(_)) => {
                    debug_assert!(false, "such a change refuses nothing");
                    return Ok(Unmapping::of_nothing(self.core()));
                }
                Err(RewriteError::Tables(error)) => return Err(MprotectError::OutOfFrames(error)),
            };
            let unmapping = Unmapping::announce_change(
                Announced::Protect,
                self.core(),
                pin,
                range_of_pages(rest),
                changed,
                recorded,
            );
            match end {
                Ok(()) => return Ok(unmapping),
                Err(page) if !protect.needs_record => {
                    unmapping.wait(pin);
                    return Err(MprotectError::NoRegion(address(page)));
                }
                Err(first) => {
                    unmapping.wait(pin);
                    let next = self.protect_claimed(pin, Pages { first, ..rest }, access)?;
                    if next > rest.last {
                        return Ok(Unmapping::of_nothing(self.core()));
                    }
                    rest.first = next;
                }
            }
        }
    }

    /// Changes the first pages of `pages`, of a single region showing an object. Returns the page
    /// at the end of the change.
    fn protect_claimed(&self, pin: &CpuPin, pages: Pages, access: Access) -> Result<u64, MprotectError> {
        let start = address(pages.first);
        let range = self.next_region(pin, start).filter(|range| range.start() == start);
        let Some(range) = range.filter(|range| range.region().kind() == Kind::Object) else {
            // The region has changed meanwhile.
            return Ok(pages.first);
        };
        let last = pages.last.min((range.end().as_u64() >> 12) - 1);
        let (part, region) = (Pages { last, ..pages }, range.region());
        let outcome = match self.reclaim(pin, part, region, access) {
            Err(ReclaimError::Intern(InternError::WriteExecute)) => {
                self.reclaim_by_way_of_reading(pin, part, region, access)
            }
            outcome => outcome,
        };
        outcome.map_err(|error| match error {
            ReclaimError::Denied => MprotectError::Denied(start),
            ReclaimError::Intern(InternError::WriteExecute) => MprotectError::WriteExecute(start),
            ReclaimError::Intern(InternError::OutOfFrames(error)) => MprotectError::OutOfFrames(error),
            ReclaimError::Intern(InternError::Full) => MprotectError::TooManyRecords,
        })
    }

    /// Gives `pages` first no claim, and then the new claim, if they include all pages opposing the
    /// new access.
    fn reclaim_by_way_of_reading(
        &self,
        pin: &CpuPin,
        pages: Pages,
        region: Region,
        access: Access,
    ) -> Result<u64, ReclaimError> {
        let conflict = Err(ReclaimError::Intern(InternError::WriteExecute));
        let Some(number) = region.record() else { return conflict };
        let core = self.core();
        let claim = region.with_access(access).claim();
        let is_alone = core.records.with(number, |record| {
            let mapped = record.object.as_ref()?;
            Some(mapped.object.core().is_opposed_only_by(claim, core, number))
        });
        if is_alone != Some(true) || core.records.pages_of(number) != pages.count() {
            return conflict;
        }
        let end = self.reclaim(pin, pages, region, Access::READ)?;
        if end <= pages.last {
            return Ok(pages.first);
        }
        let start = address(pages.first);
        let read_only = self.next_region(pin, start).filter(|range| range.start() == start);
        let Some(read_only) = read_only else { return Ok(pages.first) };
        let outcome = self.reclaim(pin, pages, read_only.region(), access);
        if outcome.is_err() {
            // A new mapping of the object opposes the new access, and not the old access, as far as
            // it still applies.
            let _ = self.reclaim(pin, pages, read_only.region(), region.access());
        }
        outcome
    }

    /// Gives the first pages of `pages` in `region`, which shows an object, the given access, and
    /// waits until no CPU can use the former permissions. Returns the page at the end of the
    /// change.
    fn reclaim(
        &self,
        pin: &CpuPin,
        pages: Pages,
        region: Region,
        access: Access,
    ) -> Result<u64, ReclaimError> {
        let core = self.core();
        // The region may have gone meanwhile; its record stays while held.
        let (Some(number), Some(_old)) = (region.record(), HeldPages::more(core, region, 1)) else {
            return Ok(pages.first);
        };
        let record = core.records.get(number);
        let Some(mapped) = &record.object else { return Ok(pages.first) };
        let new = region.with_access(access);
        if mapped.writes == SharedWrites::Denied && new.sharing() == Sharing::Shared && access.writes() {
            return Err(ReclaimError::Denied);
        }
        let mapped = Mapped { claim: new.claim(), ..mapped.clone() };
        let record = Record { object: Some(mapped), ..record };
        let held = HeldPages::of(core, pin, &record, 1).map_err(ReclaimError::Intern)?;
        let mut reclaim = Reclaim { core, old: region.id(), new: new.with_record(held.number()).id() };
        let mut changed = Changed::NOTHING;
        match core.rewrite_slowly(pin, pages, &mut reclaim, &mut changed) {
            Ok(Rewritten { recorded, end }) => {
                let range = range_of_pages(pages);
                let change = Announced::Protect;
                Unmapping::announce_change(change, core, pin, range, changed, recorded).wait(pin);
                Ok(end.err().unwrap_or(pages.last + 1))
            }
            Err(RewriteError::Refused(page)) => Ok(page),
            Err(RewriteError::Tables(error)) => Err(ReclaimError::Intern(error.into())),
        }
    }
}
