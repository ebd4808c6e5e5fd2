//! Growing, shrinking and moving regions.

use topomem_percpu::CpuPin;
use topomem_shootdown::VirtAddr;

use super::advise::Advice;
use super::error::{MadviseError, MmapError, MremapError};
use super::mmap::{Unextended, address, is_aligned, pages_in};
use super::request::{MapRequest, Placement};
use crate::Machine;
use crate::address_space::{AddressSpace, RemapError, Unmapping, Unmoved, range_of_pages};
use crate::object::Mapped;
use crate::page_table::{Expects, Left, Level, MovedRegions, Pages, RegionId};
use crate::region::attributes::{Guard, Kind, Region, Sharing};
use crate::region::gap::Alignment;
use crate::region::record::{HeldPages, InternError, Record};

/// The place of pages after [`AddressSpace::mremap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relocation {
    /// In place.
    InPlace,
    /// Anywhere, if they cannot stay (MREMAP_MAYMOVE).
    MayMove,
    /// At this address, replacing its mappings (MREMAP_FIXED).
    Fixed(VirtAddr),
}

/// The state of the old place after a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OldPlace {
    /// The place belongs to no region.
    Vacant,
    /// The place stays part of its region, without contents and guards.
    Emptied,
}

/// The reason why pages were not moved.
enum Unshifted {
    /// Another context has changed their region meanwhile.
    Changed,
    Refused(MremapError),
}

impl From<MremapError> for Unshifted {
    fn from(error: MremapError) -> Unshifted {
        Unshifted::Refused(error)
    }
}

/// Returns `count` pages from `first` on.
const fn pages_from(first: u64, count: u64) -> Pages {
    Pages { first, last: first + count - 1 }
}

const fn overlap(one: Pages, other: Pages) -> bool {
    one.first <= other.last && other.first <= one.last
}

impl<P: Machine> AddressSpace<P> {
    /// Changes the length of the `old_length` bytes of a region from `start` on to `new_length`
    /// bytes, both rounded up to pages, and returns their start afterwards. Moved pages keep their
    /// contents, without a copy. Added pages are zero, and not guards. Pages added to a region
    /// showing an object are the next pages of the object. An old length of 0 maps the contents of
    /// a shared region from `start` on a second time.
    ///
    /// Waits until no CPU can use a removed translation, and serves remote CPUs' shootdowns
    /// meanwhile. Cost: an entry for each page moved, added or removed. A move locks everything
    /// between the two places.
    ///
    /// # Errors
    ///
    /// Nothing has changed on an error. The exception is [`Relocation::Fixed`]: the former mappings
    /// at the new place may be gone.
    ///
    /// - [`MremapError::Empty`], [`MremapError::Misaligned`] or [`MremapError::Overlap`] if the
    ///   request is invalid.
    /// - [`MremapError::NoRegion`] if a page belongs to no region, or to another region than the
    ///   first.
    /// - [`MremapError::NoRoom`] or [`MremapError::Occupied`] if no addresses are free.
    /// - [`MremapError::OutOfFrames`] if no frame for page tables is left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{MapRequest, Relocation};
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(4096))?;
    /// let moved = space.mremap(pin, start, 4096, 1 << 20, Relocation::MayMove)?;
    /// assert_eq!(space.next_region(pin, moved).map(|region| region.length()), Some(1 << 20));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn mremap(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        old_length: u64,
        new_length: u64,
        relocation: Relocation,
    ) -> Result<VirtAddr, MremapError> {
        if !is_aligned(start) {
            return Err(MremapError::Misaligned(start));
        }
        let counts = pages_in(old_length).zip(pages_in(new_length)).ok_or(MremapError::NoRoom)?;
        let (old, new) = counts;
        if new == 0 {
            return Err(MremapError::Empty);
        }
        if old == 0 {
            return self.map_again(pin, start, new, relocation);
        }
        let first = start.as_u64() >> 12;
        if first.checked_add(old).is_none_or(|end| end > self.core().bounds.last + 1) {
            return Err(MremapError::NoRegion(start));
        }
        let old = pages_from(first, old);
        if let Relocation::Fixed(to) = relocation {
            return self.move_to(pin, old, new, to, OldPlace::Vacant);
        }
        if new <= old.count() {
            let found = self.next_region(pin, start).filter(|range| range.start() == start);
            found.ok_or(MremapError::NoRegion(start))?;
            if new < old.count() {
                let rest = Pages { first: old.first + new, last: old.last };
                self.unmap_rest(pin, rest)?;
            }
            return Ok(start);
        }
        let added = pages_from(old.last + 1, new - old.count());
        loop {
            let region = self.region_of_all(pin, old)?.with_guard(Guard::None);
            let grown = if self.may_map(added) {
                self.take_more(pin, added, region, old.last)
            } else {
                Err(Unextended::Occupied)
            };
            match grown {
                Ok(()) => return Ok(start),
                Err(Unextended::Changed) => continue,
                Err(Unextended::OutOfFrames(error)) => return Err(MremapError::OutOfFrames(error)),
                Err(Unextended::Occupied) if relocation == Relocation::InPlace => {
                    return Err(MremapError::NoRoom);
                }
                Err(Unextended::Occupied) => {}
            }
            match self.shift_anywhere(pin, old, new, region, OldPlace::Vacant) {
                Err(Unshifted::Changed) => {}
                Err(Unshifted::Refused(error)) => return Err(error),
                Ok(to) => return Ok(to),
            }
        }
    }

    /// Moves the pages `old` of `region` to any place with room for `new` pages, and adds the
    /// further pages to the region.
    fn shift_anywhere(
        &self,
        pin: &CpuPin,
        old: Pages,
        new: u64,
        region: Region,
        old_place: OldPlace,
    ) -> Result<VirtAddr, Unshifted> {
        let placed = self.place(pin, new, Alignment::like(old.first, region), |to| {
            match self.shift_pages(pin, old, to, region, old_place) {
                Err(Unshifted::Refused(MremapError::Occupied)) => Err(None),
                moved => moved.map_err(Some),
            }
        })?;
        let placed = placed.map(|pages| address(pages.first));
        placed.ok_or(Unshifted::Refused(MremapError::NoRoom))
    }

    /// Moves the contents of the `length` bytes of a region from `start` on, rounded up to pages,
    /// to another place, and returns their start afterwards: `to`, replacing its mappings, or
    /// anywhere. The old place stays part of the region, with its pages as if never accessed
    /// (MREMAP_DONTUNMAP of Linux).
    ///
    /// Waits until no CPU can use a removed translation, and serves remote CPUs' shootdowns
    /// meanwhile. Cost: as for [`AddressSpace::mremap`].
    ///
    /// # Errors
    ///
    /// As for [`AddressSpace::mremap`].
    pub fn move_contents(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        length: u64,
        to: Option<VirtAddr>,
    ) -> Result<VirtAddr, MremapError> {
        if !is_aligned(start) {
            return Err(MremapError::Misaligned(start));
        }
        let count = pages_in(length).ok_or(MremapError::NoRoom)?;
        if count == 0 {
            return Err(MremapError::Empty);
        }
        let first = start.as_u64() >> 12;
        if first.checked_add(count).is_none_or(|end| end > self.core().bounds.last + 1) {
            return Err(MremapError::NoRegion(start));
        }
        let old = pages_from(first, count);
        if let Some(to) = to {
            return self.move_to(pin, old, count, to, OldPlace::Emptied);
        }
        loop {
            let region = self.region_of_all(pin, old)?;
            match self.shift_anywhere(pin, old, count, region, OldPlace::Emptied) {
                Err(Unshifted::Changed) => {}
                Err(Unshifted::Refused(error)) => return Err(error),
                Ok(to) => return Ok(to),
            }
        }
    }

    /// Returns the region with all of `pages`.
    fn region_of_all(&self, pin: &CpuPin, pages: Pages) -> Result<Region, MremapError> {
        let start = address(pages.first);
        let found = self.next_region(pin, start).filter(|range| range.start() == start);
        let found = found.ok_or(MremapError::NoRegion(start))?;
        if found.length() >> 12 < pages.count() {
            return Err(MremapError::NoRegion(found.end()));
        }
        Ok(found.region())
    }

    /// Returns the `count` pages from `to` on, if pages may be moved there.
    fn target(&self, to: VirtAddr, count: u64) -> Result<Pages, MremapError> {
        if !is_aligned(to) {
            return Err(MremapError::Misaligned(to));
        }
        let first = to.as_u64() >> 12;
        let target = first.checked_add(count - 1).map(|last| Pages { first, last });
        target.filter(|&pages| self.may_map(pages)).ok_or(MremapError::Overlap)
    }

    /// Moves the pages `old` to `to`, with `new` pages there afterwards.
    fn move_to(
        &self,
        pin: &CpuPin,
        old: Pages,
        new: u64,
        to: VirtAddr,
        old_place: OldPlace,
    ) -> Result<VirtAddr, MremapError> {
        let target = self.target(to, new)?;
        if overlap(old, target) {
            return Err(MremapError::Overlap);
        }
        let moved = Pages { first: old.first, last: old.last.min(old.first + new - 1) };
        loop {
            let region = self.region_of_all(pin, moved)?.with_guard(Guard::None);
            self.unmap_rest(pin, target)?;
            if moved.last < old.last {
                self.unmap_rest(pin, Pages { first: moved.last + 1, last: old.last })?;
            }
            match self.shift_pages(pin, moved, target, region, old_place) {
                // Another context has mapped something there meanwhile, or changed the region.
                Err(Unshifted::Refused(MremapError::Occupied) | Unshifted::Changed) => {}
                Err(Unshifted::Refused(error)) => return Err(error),
                Ok(()) => return Ok(to),
            }
        }
    }

    /// Moves the pages `old` of `region` to the first pages of `to`, and adds the rest of `to` to
    /// the region.
    fn shift_pages(
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
    fn map_again(
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

    fn unmap_rest(&self, pin: &CpuPin, pages: Pages) -> Result<(), MremapError> {
        let unmapping = self.munmap(pin, address(pages.first), pages.count() << 12);
        unmapping.map(|unmapping| unmapping.wait(pin)).map_err(|error| match error {
            crate::region::MunmapError::OutOfFrames(error) => MremapError::OutOfFrames(error),
            _ => MremapError::NoRegion(address(pages.first)),
        })
    }
}
