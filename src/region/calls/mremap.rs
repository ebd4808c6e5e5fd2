//! Growing, shrinking and moving regions.

use topomem_percpu::CpuPin;
use topomem_shootdown::VirtAddr;

use super::error::MremapError;
use super::mmap::{address, is_aligned, pages_in};
use super::relocate::{OldPlace, Unshifted};
use super::reserve::Unextended;
use crate::Machine;
use crate::address_space::AddressSpace;
use crate::page_table::Pages;
use crate::region::attributes::{Guard, Region};
use crate::region::gap::Alignment;

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
    pub(super) fn region_of_all(&self, pin: &CpuPin, pages: Pages) -> Result<Region, MremapError> {
        let start = address(pages.first);
        let found = self.next_region(pin, start).filter(|range| range.start() == start);
        let found = found.ok_or(MremapError::NoRegion(start))?;
        if found.length() >> 12 < pages.count() {
            return Err(MremapError::NoRegion(found.end()));
        }
        Ok(found.region())
    }

    /// Returns the `count` pages from `to` on, if pages may be moved there.
    pub(super) fn target(&self, to: VirtAddr, count: u64) -> Result<Pages, MremapError> {
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

    pub(super) fn unmap_rest(&self, pin: &CpuPin, pages: Pages) -> Result<(), MremapError> {
        let unmapping = self.munmap(pin, address(pages.first), pages.count() << 12);
        unmapping.map(|unmapping| unmapping.wait(pin)).map_err(|error| match error {
            crate::region::MunmapError::OutOfFrames(error) => MremapError::OutOfFrames(error),
            _ => MremapError::NoRegion(address(pages.first)),
        })
    }
}
