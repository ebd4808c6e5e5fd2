//! Giving the pages of regions other records.

use core::fmt;
use core::ops::ControlFlow;

use topomem_numa::frames::AllocError;
use topomem_percpu::CpuPin;
use topomem_shootdown::VirtAddr;

use super::held::HeldPages;
use super::table::InternError;
use super::{Record, RegionName};
use crate::Machine;
use crate::address_space::{AddressSpace, SpaceCore, Unmapping, range_of_pages};
use crate::page_table::{Becomes, Changed, Found, Pages, RecordNumber, Rewrite, RewriteError, Rewritten};
use crate::region::Region;
use crate::region::calls::mmap::{is_aligned, range_at};

/// The reason why pages did not get another name or policy, or why their faults are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AssignError {
    /// The address is no multiple of the page size; nothing has changed (EINVAL).
    Misaligned(VirtAddr),
    /// The range leaves the part of the space allowed for mappings; nothing has changed (ENOMEM).
    OutsideSpace,
    /// A page of the range belongs to no region; the rest has changed (ENOMEM).
    NoRegion,
    /// No frame for page tables, records or counts; a first part of the range may have changed
    /// (ENOMEM).
    OutOfFrames(AllocError),
    /// The space has the greatest number of different names, policies and mappings of objects; a
    /// first part of the range may have changed (ENOMEM).
    TooManyRecords,
}

impl fmt::Display for AssignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AssignError::Misaligned(address) => write!(f, "{address} is not aligned to a page"),
            AssignError::OutsideSpace => f.write_str("the range leaves what the space may map"),
            AssignError::NoRegion => f.write_str("a page of the range belongs to no region"),
            AssignError::OutOfFrames(error) => error.fmt(f),
            AssignError::TooManyRecords => f.write_str("the space has no room for another record"),
        }
    }
}

impl core::error::Error for AssignError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            AssignError::OutOfFrames(error) => Some(error),
            _ => None,
        }
    }
}

impl From<InternError> for AssignError {
    fn from(error: InternError) -> AssignError {
        match error {
            InternError::OutOfFrames(error) => AssignError::OutOfFrames(error),
            InternError::Full => AssignError::TooManyRecords,
            InternError::WriteExecute => {
                debug_assert!(false, "the record that is held has the same claim");
                AssignError::NoRegion
            }
        }
    }
}

/// Number of different records replaced by a rewrite.
const AT_ONCE: usize = 8;

/// A record and its replacement. Both are held meanwhile.
struct Pair<P: Machine> {
    old: HeldPages<P>,
    new: HeldPages<P>,
}

/// Gives pages with a record another.
struct Assign<'a, P: Machine> {
    core: &'static SpaceCore<P>,
    pairs: &'a [Option<Pair<P>>; AT_ONCE],
    holes: bool,
}

impl<P: Machine> Assign<'_, P> {
    /// Returns the replacement of the record `old`, or `None` if unknown.
    fn new_of(&self, old: Option<RecordNumber>) -> Option<Option<RecordNumber>> {
        let pair = self.pairs.iter().flatten().find(|pair| pair.old.number() == old);
        pair.map(|pair| pair.new.number())
    }
}

impl<P: Machine> Rewrite for Assign<'_, P> {
    /// A page whose record was unknown at the look at the pages.
    type Stop = u64;
    const CHECKS: bool = false;
    const UNMAPS: bool = false;
    const RECORDS: bool = true;

    #[inline]
    fn gives_regions(&self) -> bool {
        true
    }

    fn check(&self, found: Found, _: Pages) -> Result<bool, u64> {
        let changes = |old| self.new_of(old).is_some_and(|new| new != old);
        Ok(found.region().is_some_and(|id| changes(id.record())))
    }

    fn rewrite(&mut self, found: Found, pages: Pages) -> Result<Becomes, u64> {
        let Some(id) = found.region() else {
            self.holes = true;
            return Ok(Becomes::Same);
        };
        let (old, new) = (id.record(), self.new_of(id.record()).ok_or(pages.first)?);
        if new == old {
            return Ok(Becomes::Same);
        }
        self.core.exchange_records(old, new, pages.count());
        Ok(found.given_to(Region::of(id).with_record(new).id(), |leaf| leaf.protection))
    }
}

impl<P: Machine> AddressSpace<P> {
    /// Sets or removes the name of the regions in the `length` bytes from `start` on, rounded up to
    /// pages. [`for_each_region`](AddressSpace::for_each_region) lists the name. Regions with
    /// different names are different regions.
    ///
    /// Cost: an entry for each page in existing tables, and an entry for each larger part without a
    /// table.
    ///
    /// # Errors
    ///
    /// - [`AssignError::Misaligned`] or [`AssignError::OutsideSpace`] if the range is invalid.
    /// - [`AssignError::NoRegion`] if a page belongs to no region. All regions have changed.
    /// - [`AssignError::OutOfFrames`] or [`AssignError::TooManyRecords`] if no memory or number is
    ///   left.
    ///
    /// ```
    /// # mod booted { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/booted.rs")); }
    /// # booted::run(|service, pin| {
    /// use topomem::region::{MapRequest, RegionName};
    ///
    /// let space = service.create_space(pin)?;
    /// let start = space.mmap(pin, &MapRequest::anonymous(8192))?;
    /// space.set_name(pin, start, 8192, Some(RegionName::new("cache")?))?;
    /// let name = space.next_region(pin, start).and_then(|region| region.name());
    /// assert_eq!(name.map(|name| name.to_string()).as_deref(), Some("cache"));
    /// # Ok(())
    /// # }).unwrap();
    /// ```
    pub fn set_name(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        length: u64,
        name: Option<RegionName>,
    ) -> Result<(), AssignError> {
        self.assign(pin, start, length, |record| Record { name, ..record })
    }

    /// Gives the pages of regions in the `length` bytes from `start` on the records made by
    /// `change` of their present records.
    ///
    /// # Errors
    ///
    /// As for [`AddressSpace::set_name`].
    pub(crate) fn assign(
        &self,
        pin: &CpuPin,
        start: VirtAddr,
        length: u64,
        change: impl Fn(Record<P>) -> Record<P>,
    ) -> Result<(), AssignError> {
        if !is_aligned(start) {
            return Err(AssignError::Misaligned(start));
        }
        if length == 0 {
            return Ok(());
        }
        let mut pages = range_at(start, length).filter(|pages| self.may_map(*pages));
        pages.ok_or(AssignError::OutsideSpace)?;
        let mut holes = false;
        while let Some(rest) = pages {
            let pairs = self.pairs_in(pin, rest, &change)?;
            let mut assign = Assign { core: self.core(), pairs: &pairs, holes };
            let mut changed = Changed::NOTHING;
            let outcome = self.core().rewrite(pin, rest, &mut assign, &mut changed);
            holes = assign.holes;
            match outcome {
                Ok(Rewritten { recorded, end }) => {
                    let unmapping =
                        Unmapping::announce(self.core(), pin, || range_of_pages(rest), changed, recorded);
                    unmapping.detach();
                    pages = end.err().map(|first| Pages { first, ..rest });
                }
                Err(RewriteError::Refused(first)) => pages = Some(Pages { first, ..rest }),
                Err(RewriteError::Tables(error)) => return Err(AssignError::OutOfFrames(error)),
            }
        }
        if holes { Err(AssignError::NoRegion) } else { Ok(()) }
    }

    /// Returns the first different records of `pages`, and the replacement made by `change` for
    /// each.
    fn pairs_in(
        &self,
        pin: &CpuPin,
        pages: Pages,
        change: &impl Fn(Record<P>) -> Record<P>,
    ) -> Result<[Option<Pair<P>>; AT_ONCE], AssignError> {
        let core = self.core();
        let mut found: [Option<(HeldPages<P>, Record<P>)>; AT_ONCE] = [const { None }; AT_ONCE];
        core.table.visit(core.service.tables(pin), pages, |_, part| {
            let Some(region) = part.region() else { return ControlFlow::Continue(()) };
            let number = region.record();
            if found.iter().flatten().any(|(held, _)| held.number() == number) {
                return ControlFlow::Continue(());
            }
            let record = number.map_or(Record::PLAIN, |number| core.records.get(number));
            let place = found.iter_mut().find(|place| place.is_none());
            match place.zip(HeldPages::more(core, Region::of(region), 1)) {
                Some((place, held)) => {
                    *place = Some((held, record));
                    ControlFlow::Continue(())
                }
                None => ControlFlow::Break(()),
            }
        });
        let mut pairs = [const { None }; AT_ONCE];
        for (pair, found) in pairs.iter_mut().zip(found) {
            if let Some((old, record)) = found {
                *pair = Some(Pair { old, new: HeldPages::of(core, pin, &change(record), 1)? });
            }
        }
        Ok(pairs)
    }
}
