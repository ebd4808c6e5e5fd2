//! Moving the pages of a region to another place, with their region and record.

use topomem_percpu::CpuPin;
use topomem_shootdown::VirtAddr;

use super::advise::Advice;
use super::error::{MadviseError, MmapError, MremapError};
use super::mmap::address;
use super::mremap::Relocation;
use super::request::{MapRequest, Placement};
use crate::Machine;
use crate::address_space::{AddressSpace, RemapError, Unmapping, Unmoved, range_of_pages};
use crate::object::Mapped;
use crate::page_table::{Expects, Left, Level, MovedRegions, Pages, RegionId};
use crate::region::attributes::{Guard, Kind, Region, Sharing};
use crate::region::record::{HeldPages, InternError, Record};

/// The state of the old place after a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OldPlace {
    /// The place belongs to no region.
    Vacant,
    /// The place stays part of its region, without contents and guards.
    Emptied,
}

/// The reason why pages were not moved.
pub(super) enum Unshifted {
    /// Another context has changed their region meanwhile.
    Changed,
    Refused(MremapError),
}

impl From<MremapError> for Unshifted {
    fn from(error: MremapError) -> Unshifted {
        Unshifted::Refused(error)
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Moves the pages `old` of `region` to the first pages of `to`, and adds the rest of `to` to
    /// the region.
    pub(super) fn shift_pages(
        &self,
        pin: &CpuPin,
        old: Pages,
        to: Pages,
        region: Region,
        old_place: OldPlace,
    ) -> Result<(), Unshifted> {
        if region.sharing() == Sharing::Shared {
            return self.shift_shared(pin, old, to, region, old_place);
        }
        // Pages of an object get a record with their new place.
        let held = self.record_at(pin, old, to, region)?;
        let renumbered = region.record().zip(held.as_ref().and_then(HeldPages::number));
        let former = region.with_guard(Guard::None);
        let region = held.as_ref().map_or(region, |held| region.with_record(held.number()));
        let added =
            (to.count() > old.count()).then(|| Pages { first: to.first + old.count(), last: to.last });
        if let Some(added) = added {
            let held = HeldPages::more(self.core(), region, added.count()).ok_or(Unshifted::Changed)?;
            self.take_vacant(pin, added, region.with_guard(Guard::None)).map_err(|error| match error {
                MmapError::OutOfFrames(error) => MremapError::OutOfFrames(error),
                _ => MremapError::Occupied,
            })?;
            held.keep();
        }
        let core = self.core();
        let mut leave = |id: RegionId, pages: u64| {
            let old = id.record();
            let new = old.map(|old| renumbered.filter(|(from, _)| *from == old).map_or(old, |(_, to)| to));
            match old_place {
                OldPlace::Emptied => {
                    if let Some(new) = new {
                        core.records.add(new, pages);
                    }
                    Some(Region::of(id).with_guard(Guard::None).id())
                }
                OldPlace::Vacant => {
                    if let (Some(old), Some(new)) = (old, new)
                        && old != new
                    {
                        core.records.add(new, pages);
                        core.leave_record(old, pages);
                    }
                    None
                }
            }
        };
        let left: Option<Left<'_>> =
            if old_place == OldPlace::Emptied || renumbered.is_some() { Some(&mut leave) } else { None };
        // Pages changed by another context would not have the record of their new place, and would
        // differ from the added pages.
        let is_former = |id: RegionId| Region::of(id).with_guard(Guard::None) == former;
        let expects: Option<Expects<'_>> =
            if renumbered.is_some() || added.is_some() { Some(&is_former) } else { None };
        match self.remap_cutting(pin, old, to.first, MovedRegions { left, renumbered, expects }) {
            Ok(moved) => {
                moved.wait(pin);
                if old_place == OldPlace::Vacant {
                    self.note_free(old);
                }
                Ok(())
            }
            Err(error) => {
                if let Some(added) = added {
                    self.unmap_rest(pin, added)?;
                }
                let Unmoved::Refused(error) = error else { return Err(Unshifted::Changed) };
                Err(Unshifted::Refused(match error {
                    RemapError::OutOfFrames(error) => MremapError::OutOfFrames(error),
                    RemapError::AlreadyMapped(_) => MremapError::Occupied,
                    // `remap_cutting` leaves nothing to be split.
                    RemapError::Target(_) | RemapError::OutsideSpace(_) | RemapError::WouldSplit { .. } => {
                        MremapError::NoRoom
                    }
                    RemapError::Overlap { .. } => MremapError::Overlap,
                }))
            }
        }
    }

    /// Maps `count` pages of the contents of the shared region at `start` a second time.
    pub(super) fn map_again(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        count: u64,
        relocation: Relocation,
    ) -> Result<VirtAddr, MremapError> {
        let first = start.as_u64() >> 12;
        // Errors of the new place are found before the look at the mappings.
        let target = match relocation {
            Relocation::Fixed(to) => Some(self.target(to, count)?),
            Relocation::InPlace | Relocation::MayMove => None,
        };
        if target.is_some_and(|target| target.first < first && first <= target.last) {
            return Err(MremapError::Overlap);
        }
        let find = || {
            let found = self.next_region(pin, start).filter(|range| range.start() == start);
            found.map(|range| range.region().with_guard(Guard::None)).ok_or(MremapError::NoRegion(start))
        };
        let region = find()?;
        if region.sharing() == Sharing::Private {
            return Err(MremapError::Empty);
        }
        let placement = match target {
            Some(target) => {
                self.unmap_rest(pin, target)?;
                // The region may have lain there.
                find()?;
                Placement::Fixed(address(target.first))
            }
            None if relocation == Relocation::InPlace => return Err(MremapError::NoRoom),
            None => Placement::Anywhere,
        };
        let record = self.record_to_move(pin, start, region)?;
        let request = MapRequest::anonymous(count << 12).placed(placement);
        self.map_region(pin, &request, region, Some(&record)).map_err(|error| match error {
            MmapError::OutOfFrames(error) => MremapError::OutOfFrames(error),
            _ => MremapError::NoRoom,
        })
    }

    /// Moves pages of an object like [`AddressSpace::shift_pages`]. The pages are mapped at the new
    /// place at their first access: none is missed if the object is shortened meanwhile.
    fn shift_shared(
        &self,
        pin: &CpuPin,
        old: Pages,
        to: Pages,
        region: Region,
        old_place: OldPlace,
    ) -> Result<(), Unshifted> {
        let start = address(old.first);
        let is_guard = self.next_region(pin, start).is_some_and(|range| range.region().is_guard());
        let record = self.record_to_move(pin, start, region)?;
        let request = MapRequest::anonymous(to.count() << 12);
        let request = request.placed(Placement::FixedNoReplace(address(to.first)));
        self.map_region(pin, &request, region, Some(&record)).map_err(|error| match error {
            MmapError::OutOfFrames(error) => Unshifted::Refused(MremapError::OutOfFrames(error)),
            MmapError::Occupied(_) => Unshifted::Refused(MremapError::Occupied),
            // The region does not permit its former access any more.
            MmapError::WriteExecute => Unshifted::Changed,
            _ => Unshifted::Refused(MremapError::NoRoom),
        })?;
        if is_guard {
            let moved = Pages { first: to.first, last: to.last.min(to.first + old.count() - 1) };
            self.set_guards(pin, moved, Advice::GuardInstall)?;
        }
        let now = self.region_of_all(pin, old).map(|now| now.with_guard(Guard::None));
        if now != Ok(region.with_guard(Guard::None)) {
            self.unmap_rest(pin, to)?;
            return Err(Unshifted::Changed);
        }
        match old_place {
            OldPlace::Vacant => self.unmap_rest(pin, old)?,
            OldPlace::Emptied if is_guard => self.set_guards(pin, old, Advice::GuardRemove)?,
            OldPlace::Emptied => {}
        }
        Ok(())
    }

    /// Returns the record of `region`, showing an object at `start`, as a function of the first
    /// page of the region at another place.
    fn record_to_move(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        region: Region,
    ) -> Result<impl Fn(u64) -> Record<P> + use<P>, MremapError> {
        let first = start.as_u64() >> 12;
        let record = self.record_of_page(pin, first).ok_or(MremapError::NoRegion(start))?;
        let mapped = record.object.clone().ok_or(MremapError::NoRegion(start))?;
        Ok(move |at: u64| {
            let back = mapped.page(first).wrapping_sub(at);
            // The record may have changed since the look at the region.
            let moved = Mapped { back, claim: region.claim(), ..mapped.clone() };
            Record { object: Some(moved), ..record.clone() }
        })
    }

    fn set_guards(&self, pin: &CpuPin, pages: Pages, advice: Advice) -> Result<(), MremapError> {
        match self.madvise(pin, address(pages.first), pages.count() << 12, advice) {
            Ok(unmapping) => {
                unmapping.wait(pin);
                Ok(())
            }
            Err(MadviseError::OutOfFrames(error)) => Err(MremapError::OutOfFrames(error)),
            Err(_) => Err(MremapError::NoRegion(address(pages.first))),
        }
    }

    /// Holds the record of the pages `old` of `region` at `to`, if it differs: the pages of an
    /// object.
    fn record_at(
        &self,
        pin: &CpuPin,
        old: Pages,
        to: Pages,
        region: Region,
    ) -> Result<Option<HeldPages<P>>, MremapError> {
        let core = self.core();
        let Some(number) = region.record().filter(|_| region.kind() == Kind::Object) else {
            return Ok(None);
        };
        // The region may have gone meanwhile; its record stays while held.
        let Some(_old) = HeldPages::more(core, region, 1) else {
            return Err(MremapError::NoRegion(address(old.first)));
        };
        let mut record = core.records.get(number);
        if let Some(mapped) = &mut record.object {
            mapped.back = mapped.back.wrapping_add(old.first).wrapping_sub(to.first);
        }
        let held = HeldPages::of(core, pin, &record, 1).map_err(|error| match error {
            InternError::OutOfFrames(error) => MremapError::OutOfFrames(error),
            InternError::Full => MremapError::NoRoom,
            // The region has gone meanwhile, or has another access.
            InternError::WriteExecute => MremapError::NoRegion(address(old.first)),
        })?;
        Ok(Some(held))
    }

    /// Moves the pages `old` to the pages from `to` on, and cuts large pages unfit for the new
    /// place.
    fn remap_cutting(
        &self,
        pin: &CpuPin,
        old: Pages,
        to: u64,
        mut transfer: MovedRegions<'_>,
    ) -> Result<Unmapping<'_, P>, Unmoved> {
        loop {
            match self.remap_leaving(pin, range_of_pages(old), address(to), transfer.again()) {
                Err(Unmoved::Refused(RemapError::WouldSplit { .. })) => {
                    let fits = |level: &Level| old.first.wrapping_sub(to).is_multiple_of(level.pages());
                    let level = Some(Level::HUGE).filter(fits).unwrap_or(Level::PAGE);
                    // A fault may map another large page before the next turn.
                    self.core().cut_leaves(pin, old, level).map_err(RemapError::OutOfFrames)?;
                }
                done => return done,
            }
        }
    }
}
